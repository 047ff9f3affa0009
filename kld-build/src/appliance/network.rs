//! A private network between appliances: a switch in this process, and a Unix socket for each member, so that no frame
//! leaves what may read this folder.

use std::collections::HashMap;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kld_core::Result;
use kld_core::error::Trying;

/// The largest frame: a jumbo frame, and room for tags.
const LARGEST: usize = 65536;

/// A network; its members lose their link when it is dropped.
#[derive(Debug)]
pub struct Network {
    folder: tempfile::TempDir,
    members: AtomicUsize,
    over: Arc<AtomicBool>,
}

/// Where one appliance is plugged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plug {
    /// The socket that its QEMU makes.
    pub(super) local: PathBuf,
    /// The switch's socket.
    pub(super) switch: PathBuf,
}

impl Network {
    /// A new network without members.
    pub fn new() -> Result<Network> {
        let what = || "cannot make a private network".to_string();
        let folder = tempfile::Builder::new().prefix("kld-").tempdir().trying(what)?;
        let socket = UnixDatagram::bind(folder.path().join("switch")).trying(what)?;
        let over = Arc::new(AtomicBool::new(false));
        let (stop, place) = (over.clone(), folder.path().to_path_buf());
        let thread = std::thread::Builder::new().name("switch".to_string());
        thread.spawn(move || switch(&socket, &place, &stop)).trying(what)?;
        Ok(Network { folder, members: AtomicUsize::new(0), over })
    }

    /// A new place on the network.
    pub fn plug(&self) -> Plug {
        let number = self.members.fetch_add(1, Ordering::SeqCst);
        let folder = self.folder.path();
        Plug { local: folder.join(format!("member-{number}")), switch: folder.join("switch") }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Any datagram wakes the switch.
        let wake = UnixDatagram::unbound();
        let _ = wake.and_then(|socket| socket.send_to(&[], self.folder.path().join("switch")));
    }
}

fn switch(socket: &UnixDatagram, folder: &Path, over: &AtomicBool) {
    // A member that does not read must not hold up the others.
    let Ok(out) = socket.try_clone() else { return };
    let mut table = Table::default();
    let mut frame = vec![0; LARGEST];
    while let Ok((length, sender)) = socket.recv_from(&mut frame) {
        if over.load(Ordering::SeqCst) {
            return;
        }
        let Some(sender) = sender.as_pathname().map(Path::to_path_buf) else { continue };
        if sender.parent() != Some(folder) {
            continue;
        }
        for member in table.route(&frame[..length], &sender) {
            let _ = out.set_nonblocking(true);
            let _ = out.send_to(&frame[..length], &member);
            let _ = out.set_nonblocking(false);
        }
    }
}

/// Who is there, and which address is where.
#[derive(Debug, Default)]
struct Table {
    members: Vec<PathBuf>,
    addresses: HashMap<[u8; 6], PathBuf>,
}

impl Table {
    /// Learns the sender's address, and says whom a frame is for: the one who has its address, else all others.
    fn route(&mut self, frame: &[u8], sender: &Path) -> Vec<PathBuf> {
        if !self.members.iter().any(|member| member == sender) {
            self.members.push(sender.to_path_buf());
        }
        let address = |at: usize| frame.get(at..at + 6).and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
        let (Some(to), Some(from)) = (address(0), address(6)) else { return Vec::new() };
        self.addresses.insert(from, sender.to_path_buf());
        let group = to[0] & 1 == 1;
        match self.addresses.get(&to).filter(|_| !group) {
            Some(member) if member == sender => Vec::new(),
            Some(member) => vec![member.clone()],
            None => self.members.iter().filter(|member| *member != sender).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(to: u8, from: u8) -> Vec<u8> {
        [[to & !1; 6], [from & !1; 6]].concat()
    }

    #[test]
    fn a_frame_goes_to_all_until_its_address_is_known() {
        let (a, b, c) = (Path::new("a"), Path::new("b"), Path::new("c"));
        let mut table = Table::default();
        for member in [a, b, c] {
            table.route(&frame(0xfe, member.as_os_str().as_encoded_bytes()[0] * 2), member);
        }
        let to = |letter: u8| letter * 2;
        assert_eq!(table.route(&frame(0xfe, to(b'a')), a), [b, c]);
        assert_eq!(table.route(&frame(to(b'b'), to(b'a')), a), [b]);
        assert_eq!(table.route(&[[0xff; 6], [2; 6]].concat(), c), [a, b]);
        assert_eq!(table.route(&[1, 2, 3], a), [""; 0].map(PathBuf::from));
    }
}
