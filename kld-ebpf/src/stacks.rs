//! Stacks that programs have kept, by the numbers that they tell.

use aya::maps::{Map, MapData, MapError, StackTraceMap};
use kld_core::{Error, Result};
use kld_ebpf_events::stack::{FULL, SECOND, TAKEN};

use crate::running::Running;

/// A stack of calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stack {
    /// The addresses, from the innermost call to the outermost.
    Calls(Vec<u64>),
    /// There is none, or it was not asked for.
    None,
    /// There was no room for it.
    Lost,
}

/// The maps that programs keep their stacks in, as their sources name them.
const FIRST_MAP: &str = "STACKS";
const SECOND_MAP: &str = "SECOND_STACKS";

/// How large the maps are for so many stacks. The kernel puts a stack into the place that its digest says and nowhere
/// else; the second map is for those whose place is taken.
pub(crate) fn sizes(stacks: u32) -> [(&'static str, u32); 2] {
    [(FIRST_MAP, stacks.max(1)), (SECOND_MAP, (stacks / 4).max(1))]
}

/// The maps of stacks. What is in them stays: a number means the same stack as long as the probe runs.
#[derive(Debug)]
pub(crate) struct Stacks {
    first: StackTraceMap<MapData>,
    second: StackTraceMap<MapData>,
}

impl Stacks {
    /// Those of a probe.
    pub(crate) fn of(running: &mut Running) -> Result<Stacks> {
        let mut map = |name| {
            let map = Map::StackTraceMap(running.take(name)?);
            StackTraceMap::try_from(map).map_err(|cause| Error::failed("cannot read stacks", cause))
        };
        Ok(Stacks { first: map(FIRST_MAP)?, second: map(SECOND_MAP)? })
    }

    /// The stack of a number.
    pub(crate) fn get(&self, id: i32) -> Result<Stack> {
        if id < 0 {
            return Ok(if id == TAKEN || id == FULL { Stack::Lost } else { Stack::None });
        }
        let map = if id & SECOND != 0 { &self.second } else { &self.first };
        match map.get(&((id & !SECOND) as u32), 0) {
            Ok(stack) => Ok(Stack::Calls(stack.frames().iter().map(|frame| frame.ip).collect())),
            Err(MapError::KeyNotFound) => Ok(Stack::Lost),
            Err(cause) => Err(Error::failed("cannot read stacks", cause)),
        }
    }
}
