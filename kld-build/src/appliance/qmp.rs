//! QEMU's machine protocol: JSON lines on a socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use kld_core::{Error, Result};
use serde_json::{Value, json};

/// A conversation with QEMU.
#[derive(Debug)]
pub(super) struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Qmp {
    pub(super) fn greet(stream: UnixStream) -> Result<Qmp> {
        let broken = |cause: std::io::Error| Error::failed("cannot talk to QEMU", cause);
        stream.set_read_timeout(Some(Duration::from_secs(60))).map_err(broken)?;
        let writer = stream.try_clone().map_err(broken)?;
        let mut qmp = Qmp { reader: BufReader::new(stream), writer };
        qmp.line()?;
        qmp.ask("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and gives what it returns; events that come in between are passed over.
    pub(super) fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.writer.write_all(line.as_bytes()).map_err(|_| gone())?;
        loop {
            let mut answer = self.line()?;
            if let Some(error) = answer.get("error") {
                let cause = error["desc"].as_str().unwrap_or("no reason given").to_string();
                return Err(Error::failed(format!("QEMU refuses {command}"), cause));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    /// Waits until a migration in either direction is done.
    pub(super) fn migrated(&mut self, what: &str, patience: Duration) -> Result<()> {
        let deadline = std::time::Instant::now() + patience;
        while std::time::Instant::now() < deadline {
            let state = self.ask("query-migrate", json!({}))?;
            match state["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => {
                    return Err(Error::failed(what, state["error-desc"].as_str().unwrap_or("QEMU failed")));
                }
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        Err(Error::failed(what, format!("it was not done within {} s", patience.as_secs())))
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(count) if count > 0 => serde_json::from_str(&line)
                .map_err(|_| Error::failed("cannot talk to QEMU", "it does not speak QMP")),
            _ => Err(gone()),
        }
    }
}

fn gone() -> Error {
    Error::failed("lost the guest", "QEMU ended")
}
