//! `wg-leaks`: what leaves the host outside its WireGuard tunnels, and what listens outside them.

mod allow;
mod judge;
mod report;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command};
use kld_core::error::Trying;
use kld_core::tool::{Context, Tool};
use kld_core::{Error, Result};
use kld_ebpf::holders::Holders;
use kld_ebpf::names::Cgroups;
use kld_ebpf::network::{Socket, interfaces, sockets, wireguard};
use kld_ebpf::probe::{Flow, Gate, Protocol};
use kld_ebpf::{Filter, Tracer};

use crate::impossible::OF_LEAKS;
use crate::{args, stats, stop};
use allow::Allowance;
use judge::{Ground, Subject, Verdict};
use report::{Leak, Report};

pub const TOOL: Tool = Tool { name: "wg-leaks", about: kld_catalog::about("wg-leaks"), command, run };

/// So long it watches unless told otherwise.
const WATCH: &str = "5";
/// So often it looks for new interfaces and listeners.
const LOOK: Duration = Duration::from_millis(500);
/// So many flows and listeners are known as told; beyond, some are told again.
const MOST_TOLD: usize = 1 << 17;

fn command() -> Command {
    OF_LEAKS
        .of(Command::new("wg-leaks"))
        .args([
            Arg::new("duration")
                .long("duration")
                .short('d')
                .value_name("TIME")
                .value_parser(args::duration)
                .default_value(WATCH)
                .help("Watch for so many seconds (10, 0.5) or as written (10s, 5m, 1h); 0: only look"),
            Arg::new("follow")
                .long("follow")
                .short('f')
                .action(ArgAction::SetTrue)
                .conflicts_with("duration")
                .help("Watch until Ctrl-C"),
            Arg::new("listeners-only")
                .long("listeners-only")
                .short('l')
                .action(ArgAction::SetTrue)
                .help("Look at listeners only; no program is loaded"),
            Arg::new("tunnel")
                .long("tunnel")
                .value_name("INTERFACE")
                .action(ArgAction::Append)
                .help("Count this interface as a tunnel too, such as that of a WireGuard in user space; may be repeated"),
            Arg::new("allow")
                .long("allow")
                .value_name("WHAT")
                .action(ArgAction::Append)
                .value_parser(Allowance::parse)
                .help("Allow what fits all of these, with commas between: tcp or udp, interface=NAME, \
                       from=NETWORK and port=N for this end, to=NETWORK and to-port=N for the other; may be repeated"),
            Arg::new("stats")
                .long("stats")
                .action(ArgAction::SetTrue)
                .help("At the end, tell events seen and lost, and what the tool has cost"),
        ])
        .after_help(
            "Passed over without being told to: the loopback, the WireGuard interfaces, and the UDP ports on which the \
             kernel takes the tunnels' own packets. Nothing else: neither DHCP nor DNS nor SSH.\n\n\
             Exit code: 0 nothing is outside, 1 something is.\n\n\
             Examples:\n  wg-leaks\n  wg-leaks --listeners-only\n  wg-leaks --follow --allow tcp,port=22 --allow udp,port=68\n  \
             wg-leaks -d 1h --allow interface=eth1,to=192.0.2.0/24 --json",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    OF_LEAKS.refuse(matches)?;
    stop::on_signals();
    let listeners_only = matches.get_flag("listeners-only");
    let duration = match matches.get_flag("follow") {
        true => None,
        false => matches.get_one::<Duration>("duration").copied(),
    };
    let asked_to_wait = matches.get_flag("follow")
        || matches.value_source("duration") == Some(clap::parser::ValueSource::CommandLine);
    let time = if listeners_only && !asked_to_wait { Some(Duration::ZERO) } else { duration };
    let mut audit = Audit::begin(context, matches)?;
    let began = Instant::now();
    // What is begun while the sockets are looked at is told by the programs.
    let loads = !listeners_only && time != Some(Duration::ZERO);
    let mut watch = loads.then(|| Watch::begin(&audit.ground, matches.get_flag("stats"))).transpose()?;
    audit.look_at_sockets(!listeners_only)?;
    let mut looked = Instant::now();
    let is_over = || stop::is_asked() || time.is_some_and(|time| began.elapsed() >= time);
    while !is_over() {
        if let Some(watch) = &mut watch {
            audit.read(watch)?;
        }
        if looked.elapsed() >= LOOK {
            audit.look_at_sockets(false)?;
            if let Some(watch) = &mut watch {
                watch.pass_over(&audit.ground)?;
            }
            looked = Instant::now();
        }
        std::thread::sleep(kld_ebpf::tracer::POLL);
    }
    if time != Some(Duration::ZERO) {
        audit.look_at_sockets(false)?;
    }
    let mut lost = 0;
    if let Some(watch) = &mut watch {
        watch.tracer.detach();
        audit.read(watch)?;
        stats::report(context, watch.tracer.running(), watch.tracer.counts()?, matches.get_flag("stats"))?;
        lost = watch.tracer.counts()?.lost;
    }
    let watched = (time != Some(Duration::ZERO)).then(|| began.elapsed());
    audit.report.end(context.ui, &audit.ground, watched)?;
    match (audit.report.has_leaks(), lost) {
        (true, _) => Err(Error::Found),
        (false, 0) => Ok(()),
        (false, _) => Err(Error::failed(
            "cannot say that nothing leaks",
            format!("{lost} flows came faster than they were read"),
        )),
    }
}

/// The programs that tell of flows.
struct Watch {
    tracer: Tracer<Flow>,
    gate: Gate,
}

impl Watch {
    fn begin(ground: &Ground, measure: bool) -> Result<Watch> {
        let mut tracer = Tracer::<Flow>::start(&Filter::all())?;
        if measure {
            tracer.measure()?;
        }
        let gate = Gate::of(&mut tracer)?;
        let mut watch = Watch { tracer, gate };
        watch.pass_over(ground)?;
        watch.gate.open()?;
        Ok(watch)
    }

    /// What goes through the tunnels need not be told.
    fn pass_over(&mut self, ground: &Ground) -> Result<()> {
        self.gate.pass_over(&ground.tunnels().map(|tunnel| tunnel.index).collect::<Vec<u32>>())
    }
}

/// What tells one subject from another.
type Key = (Protocol, SocketAddr, Option<SocketAddr>);

/// What is known, and what has been told.
struct Audit<'a> {
    context: &'a Context,
    ground: Ground,
    holders: Holders,
    cgroups: Cgroups,
    judged: HashSet<Key>,
    report: Report,
}

impl<'a> Audit<'a> {
    fn begin(context: &'a Context, matches: &ArgMatches) -> Result<Audit<'a>> {
        let allowed: Vec<Allowance> = matches.get_many("allow").into_iter().flatten().cloned().collect();
        let named: Vec<String> = matches.get_many("tunnel").into_iter().flatten().cloned().collect();
        let report = Report::new(allowed.len());
        let mut audit = Audit {
            context,
            ground: Ground { allowed, named, ..Ground::default() },
            holders: Holders::look(),
            cgroups: Cgroups::look(),
            judged: HashSet::new(),
            report,
        };
        audit.look_at_interfaces()?;
        let is_there = |name: &&String| audit.ground.interfaces.iter().any(|one| one.name == **name);
        if let Some(absent) = audit.ground.named.iter().find(|name| !is_there(name)) {
            return Err(Error::usage(format!("there is no interface '{}'", absent.escape_debug())));
        }
        if audit.ground.tunnels().next().is_none() {
            context.ui.note("there is no WireGuard interface here: everything is outside a tunnel");
        }
        Ok(audit)
    }

    fn look_at_interfaces(&mut self) -> Result<()> {
        self.ground.interfaces = interfaces::all()?;
        let wireguards = self.ground.interfaces.iter().filter(|one| one.kind == wireguard::KIND);
        let port = |one: &interfaces::Interface| {
            let port = wireguard::listen_port(one.index);
            let port = port.trying(|| format!("cannot ask WireGuard for the port of {}", one.name));
            port.map(|port| port.map(|port| (one.index, port))).transpose()
        };
        self.ground.ports = wireguards.filter_map(port).collect::<Result<_>>()?;
        Ok(())
    }

    /// Judges listeners and, with `flows`, connections that there are already. These are judged by the interface that
    /// the kernel would send through now, or else by the one that has their address.
    fn look_at_sockets(&mut self, flows: bool) -> Result<()> {
        let all = sockets::all()?.into_iter().filter(|socket| flows || socket.remote.is_none());
        // Afterwards, since what a socket is bound to was there before it.
        self.look_at_interfaces()?;
        let subject = |socket: Socket| match socket.remote {
            Some(remote) => (self.existing(&socket, remote), socket),
            None => (Subject::listener(&socket, false), socket),
        };
        let new: Vec<_> = all.map(subject).filter(|(subject, _)| self.is_to_be_judged(subject)).collect();
        self.holders.refresh(new.iter().map(|(_, socket)| socket.inode));
        for (subject, socket) in new {
            let holder = self.holders.of(socket.inode);
            self.judge(subject, socket.cgroup, holder.map(|process| (process.pid, process.comm)))?;
        }
        Ok(())
    }

    fn existing(&self, socket: &Socket, remote: SocketAddr) -> Subject {
        let of_address = |address: IpAddr| self.ground.of_address(address).map(|one| one.index);
        let way = || interfaces::way(socket.local.ip(), remote.ip());
        let (protocol, local) = (socket.protocol, socket.local);
        let bound = Some(socket.interface).filter(|index| *index != 0);
        let interface = bound.or_else(way).or_else(|| of_address(local.ip())).unwrap_or(0);
        Subject { protocol, local, remote: Some(remote), interface, held: false }
    }

    /// Judges what the programs have told by now.
    fn read(&mut self, watch: &mut Watch) -> Result<()> {
        let flows: Vec<Flow> = std::iter::from_fn(|| watch.tracer.poll()).collect();
        if flows.iter().any(|flow| self.ground.interface(flow.interface).is_none()) {
            self.look_at_interfaces()?;
            watch.pass_over(&self.ground)?;
        }
        let subject = |flow: &Flow| {
            let Flow { protocol, local, remote, interface, .. } = *flow;
            Subject { protocol, local, remote: Some(remote), interface, held: false }
        };
        let new = flows.into_iter().map(|flow| (subject(&flow), flow));
        let new: Vec<_> = new.filter(|(subject, _)| self.is_to_be_judged(subject)).collect();
        let unknown = new.iter().filter(|(_, flow)| flow.owner.is_none());
        self.holders.refresh(unknown.map(|(_, flow)| flow.inode));
        for (subject, flow) in new {
            let process = match flow.owner {
                Some(task) => Some((task.pid, task.name().to_string())),
                None => self.holders.of(flow.inode).map(|process| (process.pid, process.comm)),
            };
            self.judge(subject, flow.cgroup, process)?;
        }
        Ok(())
    }

    /// Whether it has not been judged yet, and is not inside. What is inside now may be outside later.
    fn is_to_be_judged(&self, subject: &Subject) -> bool {
        !self.judged.contains(&key(subject)) && self.ground.judge(subject) != Verdict::Inside
    }

    /// Judges a flow or a listener, and tells of it where it is a leak.
    fn judge(&mut self, mut subject: Subject, cgroup: u64, process: Option<(u32, String)>) -> Result<()> {
        subject.held = process.is_some();
        let verdict = self.ground.judge(&subject);
        if self.judged.len() >= MOST_TOLD {
            self.judged.clear();
        }
        let is_new = self.judged.insert(key(&subject));
        match verdict {
            Verdict::Allowed(rule) if is_new => self.report.allowed[rule] += 1,
            Verdict::Leak if is_new => {
                let interface = self.ground.name(&subject);
                let owner = self.cgroups.owner(cgroup);
                let leak = Leak { subject, interface, process, cgroup, owner };
                self.report.tell(self.context.ui, &leak)?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn key(subject: &Subject) -> Key {
    (subject.protocol, subject.local, subject.remote)
}
