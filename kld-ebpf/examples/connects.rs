//! Tells who connects where, on an async runtime, until it is interrupted.
#![allow(clippy::print_stdout, reason = "an example prints")]

use kld_ebpf::probe::TcpConnect;
use kld_ebpf::{Filter, Tracer};

#[tokio::main(flavor = "current_thread")]
async fn main() -> kld_core::Result<()> {
    let mut connects = Tracer::<TcpConnect>::start(&Filter::all())?.into_stream();
    while let Some(connect) = connects.next().await {
        println!("{} {} -> {}", connect.task.pid, connect.task.name(), connect.remote);
    }
    Ok(())
}
