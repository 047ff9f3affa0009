//! What this process's network namespace has: its interfaces, its sockets, its WireGuard devices. Asked of the kernel
//! by netlink, which answers for the namespace that asks, whatever is mounted on /sys.

pub mod interfaces;
pub mod sockets;
pub mod wireguard;

mod netlink;

pub use interfaces::Interface;
pub use sockets::Socket;
