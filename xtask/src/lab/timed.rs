//! Output on its way to the terminal, with the seconds that each test took.

use std::io::Write;
use std::time::Instant;

/// Hands on what test programs say, and puts behind each test's result the time since the one before. The tests must
/// run one after the other.
pub struct Timed<W> {
    out: W,
    line: Vec<u8>,
    start: Instant,
}

impl<W: Write> Timed<W> {
    pub fn new(out: W) -> Self {
        Timed { out, line: Vec::new(), start: Instant::now() }
    }
}

/// Whether a line of a test program ends a test.
fn is_result(line: &[u8]) -> bool {
    let line = String::from_utf8_lossy(line);
    matches!(line.trim_end().rsplit("... ").next(), Some("ok" | "FAILED"))
}

impl<W: Write> Write for Timed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for &byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
                self.out.write_all(&[byte])?;
                continue;
            }
            if is_result(&self.line) {
                write!(self.out, " ({:.1} s)", self.start.elapsed().as_secs_f64())?;
                self.start = Instant::now();
            }
            self.line.clear();
            self.out.write_all(b"\n")?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_gets_its_time_and_other_lines_pass_unchanged() {
        let mut out = Vec::new();
        let mut timed = Timed::new(&mut out);
        for piece in ["\nrunning 2 tests\ntest a ... ", "ok\ntest b ... said by b\nFAI", "LED\nok then\n"] {
            timed.write_all(piece.as_bytes()).unwrap();
        }
        let said = String::from_utf8(out).unwrap();
        assert_eq!(
            said,
            "\nrunning 2 tests\ntest a ... ok (0.0 s)\ntest b ... said by b\nFAILED (0.0 s)\nok then\n"
        );
    }
}
