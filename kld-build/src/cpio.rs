//! Archives in the kernel's own format for an initramfs: cpio, "newc".

use std::fmt::Write;

/// An archive in the making. Folders come before what is in them.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    count: u32,
}

impl Archive {
    pub(crate) fn folder(&mut self, path: &str) {
        self.entry(path, 0o040_755, &[]);
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.entry(path, 0o120_777, target.as_bytes());
    }

    pub(crate) fn file(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.entry(path, 0o100_000 | mode, contents);
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.count += 1;
        let (owner, links, time, device, check) = (0, 1, 0, 0, 0);
        let fields = [
            self.count,
            mode,
            owner,
            owner,
            links,
            time,
            contents.len() as u32,
            device,
            device,
            device,
            device,
            path.len() as u32 + 1,
            check,
        ];
        let mut header = "070701".to_string();
        for field in fields {
            let _ = write!(header, "{field:08X}");
        }
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_the_kernel_s_form() {
        let mut archive = Archive::default();
        archive.folder("bin");
        archive.file("bin/x", 0o755, b"hello");
        archive.link("init", "bin/x");
        let text =
            String::from_utf8(archive.finish()).unwrap().replace('\0', ".").replace("070701", "\n070701");
        insta::assert_snapshot!(text.trim(), @"
        07070100000001000041ED0000000000000000000000010000000000000000000000000000000000000000000000000000000400000000bin...
        07070100000002000081ED0000000000000000000000010000000000000005000000000000000000000000000000000000000600000000bin/x.hello...
        070701000000030000A1FF0000000000000000000000010000000000000005000000000000000000000000000000000000000500000000init..bin/x...
        07070100000004000000000000000000000000000000010000000000000000000000000000000000000000000000000000000B00000000TRAILER!!!....
        ");
    }
}
