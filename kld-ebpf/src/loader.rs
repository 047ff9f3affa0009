//! From an object to programs that run: the numbers of the running kernel are written in, maps are made, programs
//! loaded and hung where they belong.
//!
//! The object is read and relocated by aya-obj, and maps are aya's. aya's own loader is not used: it parses the
//! kernel's whole description of its types whether or not it is needed, which takes 25 ms and 15 MB.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use aya::maps::{Map, MapData};
use aya_obj::{EbpfSectionKind, Object};
use kld_core::timing::phase;
use kld_core::{Error, Result};
use kld_ebpf_events::Plain;
use kld_ebpf_events::filter::BY_PID;

use crate::btf::Btf;
use crate::filter::Resolved;
use crate::probe::{Hook, Known, Point, Value};
use crate::refusal::{self, denied, last_words};
use crate::{attach, privilege, sys};

/// What a probe is made of, without its type.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) name: &'static str,
    pub(crate) object: &'static [u8],
    pub(crate) hooks: &'static [Hook],
    pub(crate) known: &'static [&'static [Known]],
    /// How many bytes of events the ring holds.
    pub(crate) room: u32,
    /// How many entries maps have, by name.
    pub(crate) sizes: Vec<(&'static str, u32)>,
    /// Numbers that only this run knows.
    pub(crate) numbers: Vec<(&'static str, u32)>,
    /// How often hooks that sample do so, in Hz.
    pub(crate) frequency: u32,
    /// The kernel's modules that the probe is about.
    pub(crate) modules: &'static [&'static str],
    /// The files whose functions are meant.
    pub(crate) files: Vec<PathBuf>,
}

/// What every program has: its children are followed where processes are wanted by number.
const FOLLOW: Hook = Hook::new("follow", "sched_process_fork");
/// What every program knows, for its filter: a task's process and control group.
const OF_FILTER: &[Known] = &[
    Known::field("TASK_GROUP", &["task_struct.tgid"]),
    Known::field("TASK_CGROUPS", &["task_struct.cgroups"]),
    Known::field("CSS_SET_DFL_CGRP", &["css_set.dfl_cgrp"]),
    Known::field("CGROUP_LEVEL", &["cgroup.level"]),
    Known::optional("CGROUP_ANCESTOR_IDS", &["cgroup.ancestor_ids"]),
];

/// A program's name in the object, and the program in the kernel.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) fd: OwnedFd,
}

/// Programs that run. Nothing is pinned: all of it ends with this value, or with the process.
pub(crate) struct Loaded {
    pub(crate) programs: Vec<Program>,
    pub(crate) maps: HashMap<String, MapData>,
    /// The wanted processes: kept, since a program that is not loaded yet holds no map.
    pids: Option<aya::maps::HashMap<MapData, u32, u8>>,
    links: Vec<OwnedFd>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("programs", &self.programs).finish_non_exhaustive()
    }
}

impl Loaded {
    /// Loads and attaches.
    pub(crate) fn load(parts: &Parts, btf: &Btf, wanted: &Resolved) -> Result<Loaded> {
        privilege::check()?;
        if parts.hooks.iter().any(|hook| matches!(hook.point, Point::Cgroup(_))) {
            privilege::check_network()?;
        }
        let what = || format!("cannot load {}", parts.name);
        let joined = (!parts.modules.is_empty()).then(|| btf.with_modules(parts.modules));
        let btf = joined.as_ref().unwrap_or(btf);
        let hooks = hooks(parts, btf, wanted)?;
        let mut object =
            phase("object", || Object::parse(parts.object)).map_err(|cause| Error::failed(what(), cause))?;
        write_in(&mut object, parts, btf, wanted)?;
        let maps =
            phase("maps", || make_maps(&mut object, parts)).map_err(|cause| denied(what(), &cause, None))?;
        relocate(&mut object, &maps).map_err(|cause| Error::failed(what(), cause))?;
        let mut loaded = Loaded {
            programs: Vec::new(),
            maps: maps.into_iter().map(|(name, (data, _))| (name, data)).collect(),
            pids: None,
            links: Vec::new(),
        };
        loaded.want(&wanted.pids).map_err(|cause| denied(what(), &cause, None))?;
        for hook in &hooks {
            let fd = phase("verify", || load(&object, hook))?;
            loaded.programs.push(Program { name: hook.function, fd });
        }
        for (hook, program) in hooks.iter().zip(&loaded.programs) {
            let links = phase("attach", || attach::hang(hook.point, program.fd.as_fd(), parts));
            match links {
                Ok(links) => loaded.links.extend(links),
                Err(cause) if cause.kind() == io::ErrorKind::NotFound && hook.optional => {}
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                    return Err(refusal::missing(parts, hook, btf));
                }
                // What was named is no file that has functions.
                Err(cause) if cause.kind() == io::ErrorKind::InvalidData => {
                    return Err(Error::usage(cause.to_string()));
                }
                Err(cause) => {
                    let what = format!("cannot hang {} on {}", parts.name, hook.point);
                    return Err(denied(what, &cause, None));
                }
            }
        }
        Ok(loaded)
    }

    /// Takes a map out, to be read as what it is.
    pub(crate) fn take(&mut self, name: &str) -> Result<MapData> {
        self.maps.remove(name).ok_or_else(|| Error::failed("cannot read events", format!("no map {name}")))
    }

    /// From now on no program runs; what they have counted can still be read.
    pub(crate) fn detach(&mut self) {
        self.links.clear();
    }

    /// Puts the wanted processes where the programs look.
    fn want(&mut self, pids: &[u32]) -> io::Result<()> {
        let Some(map) = self.maps.remove("PIDS") else { return Ok(()) };
        let mut map =
            aya::maps::HashMap::<_, u32, u8>::try_from(Map::HashMap(map)).map_err(io::Error::other)?;
        for pid in pids {
            map.insert(pid, 1, 0).map_err(io::Error::other)?;
        }
        self.pids = Some(map);
        Ok(())
    }
}

/// The hooks that this kernel has; fails where it lacks one that is needed.
fn hooks(parts: &Parts, btf: &Btf, wanted: &Resolved) -> Result<Vec<Hook>> {
    let asked = |hook: &&Hook| {
        let replaced = hook.replaced_by.is_some_and(|better| attach::has(better, btf));
        let lonely = hook.beside.is_some_and(|other| !attach::has(other, btf));
        !replaced && !lonely && (hook.when == 0 || wanted.filter.switches & hook.when != 0)
    };
    let hooks: Vec<Hook> = parts.hooks.iter().filter(asked).copied().collect();
    let fits = |hook: &&Hook| {
        let Point::Tracepoint(name) = hook.point else { return attach::has(hook.point, btf) };
        btf.tracepoint(name).is_some_and(|count| hook.arguments.is_none_or(|wanted| wanted == count))
    };
    let mut found: Vec<Hook> = hooks.iter().filter(fits).copied().collect();
    // Of hooks on one tracepoint, for different kernels, one is enough.
    let served = |hook: &&Hook| found.iter().any(|one| one.point == hook.point);
    if let Some(missing) = hooks.iter().find(|hook| !hook.optional && !served(hook)) {
        return Err(refusal::missing(parts, missing, btf));
    }
    if wanted.filter.by & BY_PID != 0 {
        found.push(FOLLOW);
    }
    Ok(found)
}

/// Writes what the program must know into its read-only variables.
fn write_in(object: &mut Object, parts: &Parts, btf: &Btf, wanted: &Resolved) -> Result<()> {
    let mut numbers = Vec::new();
    for known in parts.known.iter().copied().flatten().chain(OF_FILTER) {
        numbers.push((known.variable, number(parts.name, known, btf)?.to_ne_bytes()));
    }
    numbers.extend(parts.numbers.iter().map(|(variable, number)| (*variable, number.to_ne_bytes())));
    let mut globals: HashMap<&str, (&[u8], bool)> =
        numbers.iter().map(|(variable, bytes)| (*variable, (bytes.as_slice(), false))).collect();
    globals.insert("FILTER", (wanted.filter.bytes(), false));
    object
        .patch_map_data(globals)
        .map_err(|cause| Error::failed(format!("cannot load {}", parts.name), cause))
}

/// What stands for something that is not there, on the programs' side too.
const ABSENT: u32 = u32::MAX;

fn number(probe: &str, known: &Known, btf: &Btf) -> Result<u32> {
    let first = |names: &[&str]| names.iter().find_map(|name| btf.offset(name));
    match known.value {
        Value::Number(number) => Ok(number.and_then(|number| u32::try_from(number).ok()).unwrap_or(ABSENT)),
        Value::Optional(names) => Ok(first(names).unwrap_or(ABSENT)),
        Value::Bit(names) => Ok(names.iter().find_map(|name| btf.bit(name)).unwrap_or(ABSENT)),
        Value::Tracepoint(name) => Ok(btf.tracepoint(name).map_or(ABSENT, |_| 1)),
        Value::Field(names) => first(names).ok_or_else(|| {
            Error::failed(
                format!("cannot run {probe}"),
                format!("this kernel has no field {}", names.join(", nor ")),
            )
            .with_hint("it is newer or older than the kernels that kld knows: please tell us")
        }),
    }
}

type Made = HashMap<String, (MapData, aya_obj::Map)>;

/// Makes the object's maps.
fn make_maps(object: &mut Object, parts: &Parts) -> io::Result<Made> {
    raise_memlock();
    let mut made = HashMap::new();
    for (name, mut map) in object.maps.drain() {
        if name == "EVENTS" {
            map.set_max_entries(parts.room);
        }
        if let Some((_, entries)) = parts.sizes.iter().find(|(sized, _)| *sized == name) {
            map.set_max_entries(*entries);
        }
        let data = MapData::create(map.clone(), &name, None).map_err(|error| match error {
            aya::maps::MapError::CreateError { io_error, .. } => io_error,
            other => io::Error::other(other),
        })?;
        if !map.data().is_empty() {
            let constant = map.section_kind() == EbpfSectionKind::Rodata;
            sys::fill(data.fd().as_fd(), map.data(), constant)?;
        }
        made.insert(name, (data, map));
    }
    Ok(made)
}

fn relocate(object: &mut Object, maps: &Made) -> Result<(), aya_obj::relocation::EbpfRelocationError> {
    let text = object.functions.keys().map(|(section, _)| *section).collect();
    let by_name = maps.iter().map(|(name, (data, map))| (name.as_str(), data.fd().as_fd().as_raw_fd(), map));
    object.relocate_maps(by_name, &text)?;
    object.relocate_calls(&text)
}

/// Kernels before 5.11 count maps as locked memory. Where it cannot be raised, making the maps tells.
fn raise_memlock() {
    use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
}

/// The verifier's words are asked for only when it refuses: collecting them takes time.
const LOG: usize = 1 << 20;

fn load(object: &Object, hook: &Hook) -> Result<OwnedFd> {
    let (name, kind) = (hook.function, sys::Kind::of(hook.point));
    let what = || format!("cannot load the program {name}");
    let program =
        object.programs.get(name).ok_or_else(|| Error::failed(what(), "it is not in its object"))?;
    let function = object
        .functions
        .get(&program.function_key())
        .ok_or_else(|| Error::failed(what(), "its object is damaged"))?;
    let instructions = &function.instructions;
    let cause = match sys::load(name, kind, &program.license, instructions, None) {
        Ok(fd) => return Ok(fd),
        Err(cause) => cause,
    };
    let mut log = vec![0; LOG];
    let again = sys::load(name, kind, &program.license, instructions, Some(&mut log));
    again.map_err(|_| denied(what(), &cause, last_words(&log)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracepoint_that_the_kernel_lacks_is_named_with_the_first_kernel_that_has_it() {
        // A description of no types at all.
        let header = [24, 0, 0, 0, 1_u32].map(u32::to_ne_bytes).concat();
        let empty = [&0xeb9f_u16.to_ne_bytes()[..], &[1, 0], &header, &[0]].concat();
        let btf = Btf::parse(empty).unwrap();
        const HOOKS: &[Hook] = &[Hook::new("f", "cap_capable").since("6.14")];
        let (sizes, numbers) = (Vec::new(), Vec::new());
        let parts = Parts {
            name: "capable",
            object: &[],
            hooks: HOOKS,
            known: &[],
            room: 0,
            sizes,
            numbers,
            frequency: 0,
            modules: &[],
            files: Vec::new(),
        };
        let error = hooks(&parts, &btf, &crate::Filter::all().resolve().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "cannot run capable: this kernel has no tracepoint cap_capable");
        assert_eq!(error.hint(), Some("kernels have it since 6.14"));
    }
}
