//! Tells what one process opens, until it is interrupted: `opens PID`.
#![allow(clippy::print_stdout, reason = "an example prints")]

use kld_ebpf::probe::Open;
use kld_ebpf::{Filter, Tracer};

fn main() -> kld_core::Result<()> {
    let pid = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(1);
    for open in Tracer::<Open>::start(&Filter::pid(pid))? {
        println!("{} {:?}", open.path.display(), open.result);
    }
    Ok(())
}
