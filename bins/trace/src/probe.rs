//! The hidden `__probe`: what `kld doctor` asks this family.

use kld_core::{Config, Error, Probe};
use kld_ebpf::{Btf, privilege};

/// Whether the kernel can be asked on this host, by this user.
pub fn probes(_: &Config) -> Vec<Probe> {
    let looked = privilege::check().and_then(|()| Btf::of_kernel()).and_then(|btf| {
        btf.tracepoint("sys_exit").ok_or_else(|| {
            Error::message("the kernel has no tracepoints")
                .with_hint("boot a kernel that is built with CONFIG_FTRACE_SYSCALLS")
        })
    });
    vec![match looked {
        Ok(_) => Probe::serves("tracing", "the kernel describes its types, and programs may be loaded"),
        Err(error) => {
            let remedy = error.hint().unwrap_or("boot another kernel").to_string();
            Probe::absent("tracing", error.to_string(), remedy)
        }
    }]
}
