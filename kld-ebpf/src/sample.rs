//! Programs that run on each processor's clock, so many times a second (perf_event_open(2)).

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use aya_obj::generated::{perf_event_attr, perf_sw_ids::PERF_COUNT_SW_CPU_CLOCK, perf_type_id};

use crate::perf;

/// Hangs a program on the clock of every processor that works; it comes off when the descriptors are closed.
pub(crate) fn attach(program: BorrowedFd<'_>, frequency: u32) -> io::Result<Vec<OwnedFd>> {
    let cpus = aya::util::online_cpus().map_err(|(_, cause)| cause)?;
    let mut clocks = Vec::with_capacity(cpus.len());
    for cpu in cpus {
        match open(cpu, frequency) {
            Ok(clock) => clocks.push(clock),
            // It has been taken away meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            Err(error) => return Err(error),
        }
    }
    clocks.iter().try_for_each(|clock| perf::run(clock, program))?;
    Ok(clocks)
}

/// A processor's clock, which stands still.
fn open(cpu: u32, frequency: u32) -> io::Result<OwnedFd> {
    // SAFETY: zeros are a description of an event.
    let mut event: perf_event_attr = unsafe { std::mem::zeroed() };
    event.size = size_of::<perf_event_attr>() as u32;
    event.type_ = perf_type_id::PERF_TYPE_SOFTWARE as u32;
    event.config = PERF_COUNT_SW_CPU_CLOCK as u64;
    event.__bindgen_anon_1.sample_freq = frequency.into();
    event.set_freq(1);
    event.set_disabled(1);
    // SAFETY: the description is alive and as long as it says.
    unsafe { perf::open(&event, cpu as i32) }
}
