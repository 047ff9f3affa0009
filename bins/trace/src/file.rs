//! What the kernel's words for files are in people's.

/// What a file is, by the kind in its mode (inode(7)).
pub fn kind(mode: u32) -> &'static str {
    match mode & 0o170_000 {
        0o100_000 => "file",
        0o040_000 => "folder",
        0o120_000 => "link",
        0o140_000 => "socket",
        0o010_000 => "fifo",
        0o020_000 => "character",
        0o060_000 => "block",
        _ => "other",
    }
}

/// The same in a letter, as bcc's tools write it.
pub fn letter(mode: u32) -> char {
    match kind(mode) {
        "file" => 'R',
        "socket" => 'S',
        _ => 'O',
    }
}

/// A file system's number as `major:minor`, as in /proc/self/mountinfo.
pub fn device(number: u32) -> String {
    format!("{}:{}", number >> 20, number & 0xf_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_by_their_kinds() {
        let all = [0o100_644, 0o140_777, 0o010_600, 0].map(|mode| (kind(mode), letter(mode)));
        assert_eq!(all, [("file", 'R'), ("socket", 'S'), ("fifo", 'O'), ("other", 'O')]);
        assert_eq!(device(254 << 20 | 3), "254:3");
    }
}
