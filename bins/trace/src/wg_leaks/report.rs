//! What is told of leaks: a row or an object for each, and a summary.

use std::fmt::Write;
use std::time::Duration;

use kld_core::Result;
use kld_core::ui::{Ui, printable};
use serde_json::{Value, json};

use super::judge::{Ground, Subject};

/// A leak.
#[derive(Debug, Clone)]
pub struct Leak {
    /// The flow or the listener.
    pub subject: Subject,
    /// The interface's name, where there is one.
    pub interface: Option<String>,
    /// The process and its name, where they are known.
    pub process: Option<(u32, String)>,
    /// The id of the socket's control group; 0 where it is not known.
    pub cgroup: u64,
    /// The container or machine.
    pub owner: Option<String>,
}

impl Leak {
    fn kind(&self) -> &'static str {
        if self.subject.remote.is_some() { "flow" } else { "listener" }
    }

    fn line(&self) -> String {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        // A listener that is bound to no interface is reached through any.
        let any = if self.subject.remote.is_some() { "-" } else { "*" };
        let (pid, comm) = self.process.clone().unzip();
        columns([
            self.kind(),
            self.subject.protocol.name(),
            &self.subject.local.to_string(),
            &or_none(self.subject.remote.map(|remote| remote.to_string())),
            &printable(self.interface.as_deref().unwrap_or(any)),
            &or_none(pid.map(|pid| pid.to_string())),
            &printable(&or_none(comm)),
            &printable(&or_none(self.owner.clone())),
        ])
    }

    fn json(&self) -> Value {
        let (pid, comm) = self.process.clone().unzip();
        json!({
            "kind": self.kind(),
            "protocol": self.subject.protocol.name(),
            "local_address": self.subject.local.ip().to_string(),
            "local_port": self.subject.local.port(),
            "remote_address": self.subject.remote.map(|remote| remote.ip().to_string()),
            "remote_port": self.subject.remote.map(|remote| remote.port()),
            "interface": self.interface,
            "pid": pid,
            "comm": comm,
            "cgroup": self.cgroup,
            "owner": self.owner,
        })
    }
}

/// The cells of a line, as wide as most of them need.
fn columns(cells: [&str; 8]) -> String {
    let widths = [8, 5, 23, 23, 10, 7, 15, 0];
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        let _ = write!(line, "{cell:<width$} ");
    }
    line.trim_end().to_string()
}

/// What has been told.
#[derive(Debug, Default)]
pub struct Report {
    listeners: u64,
    flows: u64,
    /// How often each allowance has fitted.
    pub allowed: Vec<u64>,
}

impl Report {
    /// Nothing yet, given so many allowances.
    pub fn new(allowances: usize) -> Report {
        Report { allowed: vec![0; allowances], ..Report::default() }
    }

    /// Whether a leak was told.
    pub fn has_leaks(&self) -> bool {
        self.listeners + self.flows > 0
    }

    /// Tells of a leak.
    pub fn tell(&mut self, ui: Ui, leak: &Leak) -> Result<()> {
        if ui.json {
            ui.line(leak.json())?;
        } else {
            if !self.has_leaks() {
                ui.line(columns(["KIND", "PROTO", "LOCAL", "REMOTE", "INTERFACE", "PID", "COMM", "OWNER"]))?;
            }
            ui.line(leak.line())?;
        }
        match leak.subject.remote {
            Some(_) => self.flows += 1,
            None => self.listeners += 1,
        }
        Ok(())
    }

    /// Tells what was found, and what was passed over.
    pub fn end(&self, ui: Ui, ground: &Ground, watched: Option<Duration>) -> Result<()> {
        if ui.json {
            let port = |index: u32| ground.ports.iter().find(|(own, _)| *own == index).map(|(_, port)| *port);
            let tunnels = ground.tunnels().map(|one| json!({"interface": one.name, "port": port(one.index)}));
            let allowed = ground.allowed.iter().zip(&self.allowed);
            let allowed = allowed.map(|(rule, times)| json!({"rule": rule.text, "times": times}));
            return ui.line(json!({"summary": {
                "listeners": self.listeners,
                "flows": self.flows,
                "tunnels": tunnels.collect::<Vec<Value>>(),
                "allowed": allowed.collect::<Vec<Value>>(),
                "watched_s": watched.map(|time| time.as_secs_f64()),
            }}));
        }
        let looked = watched
            .map_or_else(|| "not watched".into(), |time| format!("watched for {:.1} s", time.as_secs_f64()));
        ui.note(match self.has_leaks() {
            true => format!(
                "{} and {} outside the tunnel; {looked}",
                count(self.listeners, "listener"),
                count(self.flows, "flow")
            ),
            false => format!("nothing is outside the tunnel; {looked}"),
        });
        ui.note(format!("passed over: {}", self.passed_over(ground).join(", ")));
        Ok(())
    }

    /// What is no leak, in words.
    fn passed_over(&self, ground: &Ground) -> Vec<String> {
        let mut all = vec!["the loopback".to_string()];
        for tunnel in ground.tunnels() {
            let name = printable(&tunnel.name);
            let own = ground.ports.iter().find(|(index, _)| *index == tunnel.index);
            all.push(own.map_or(name.clone(), |(_, port)| format!("{name} and its own UDP port {port}")));
        }
        for (rule, times) in ground.allowed.iter().zip(&self.allowed) {
            all.push(format!("--allow {} ({times})", printable(&rule.text)));
        }
        all
    }
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use kld_ebpf::network::Interface;
    use kld_ebpf::probe::Protocol;

    use super::super::allow::Allowance;
    use super::*;

    fn leak(remote: Option<&str>) -> Leak {
        let remote = remote.map(|remote| remote.parse().unwrap());
        let local = "[2001:db8::1]:80".parse().unwrap();
        let subject = Subject { protocol: Protocol::Tcp, local, remote, interface: 0, held: true };
        Leak { subject, interface: None, process: Some((7, "a\x1bb".into())), cgroup: 3, owner: None }
    }

    #[test]
    fn a_line_has_a_cell_for_each_column_and_moves_no_cursor() {
        let line = leak(None).line();
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells, ["listener", "tcp", "[2001:db8::1]:80", "-", "*", "7", "a\u{fffd}b", "-"]);
        let line = Leak { process: None, ..leak(Some("[2001:db8::2]:9")) }.line();
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells, ["flow", "tcp", "[2001:db8::1]:80", "[2001:db8::2]:9", "-", "-", "-", "-"]);
    }

    #[test]
    fn what_was_passed_over_is_named() {
        let wg0 = Interface {
            index: 3,
            name: "wg0".into(),
            kind: "wireguard".into(),
            loopback: false,
            addresses: vec![],
        };
        let ground = Ground {
            interfaces: vec![wg0],
            ports: vec![(3, 51820)],
            allowed: vec![Allowance::parse("tcp,port=22").unwrap()],
            ..Ground::default()
        };
        let report = Report { allowed: vec![4], ..Report::default() };
        let said = report.passed_over(&ground).join(", ");
        assert_eq!(said, "the loopback, wg0 and its own UDP port 51820, --allow tcp,port=22 (4)");
    }
}
