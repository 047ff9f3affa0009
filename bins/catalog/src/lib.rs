//! Every family's tools, by name and one line each, without what they link.
//!
//! The front door reads this table and starts nothing; each family takes its names from it, so the two cannot
//! differ.
#![deny(missing_docs)]

/// A family: one program with several tools.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Its program, such as `kld-kvm`.
    pub program: &'static str,
    /// What it is about, in a few words.
    pub about: &'static str,
    /// Its tools.
    pub tools: &'static [Entry],
}

/// One tool.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The name it is called by.
    pub name: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
}

const fn entry(name: &'static str, about: &'static str) -> Entry {
    Entry { name, about }
}

/// The kvm-* family.
pub const KVM: Family = Family {
    program: "kld-kvm",
    about: "KVM machines that clone in milliseconds",
    tools: &[
        entry("kvm-create", "Create a machine, empty or from an image"),
        entry("kvm-clone", "Clone a machine, once or many times, sharing what is not written"),
        entry("kvm-snap", "Take, list, roll back and delete snapshots of a whole machine"),
        entry("kvm-list", "List machines with their state, space and lineage"),
        entry("kvm-show", "Show one machine in full"),
        entry("kvm-start", "Start machines"),
        entry("kvm-stop", "Shut machines down, by force if told"),
        entry("kvm-console", "Connect to a machine's serial console"),
        entry("kvm-ip", "Print a machine's addresses"),
        entry("kvm-template", "Freeze a machine as a template, or thaw it"),
        entry("kvm-delete", "Delete machines and free the space they took"),
        entry("kvm-hook", "Have libvirt verify ZFS volumes at every start, by virsh too"),
    ],
};

/// The tools that ask the kernel.
pub const TRACE: Family = Family {
    program: "kld-trace",
    about: "Ask the kernel what happens, while it happens",
    tools: &[
        entry("execsnoop", "Show which programs are started, with their arguments"),
        entry("exitsnoop", "Show which processes end, after how long, and how"),
        entry("opensnoop", "Show which files are opened, by whom, and how that ended"),
        entry("statsnoop", "Show which files are asked about, by whom, and how that ended"),
        entry("killsnoop", "Show which signals are sent, by whom and to whom"),
        entry("mountsnoop", "Show which file systems are mounted and unmounted, and how that ended"),
        entry("threadsnoop", "Show which threads are made, and by whom"),
        entry("capable", "Show which capabilities the kernel looks for, and whether they are there"),
        entry("filetop", "Show which files are read and written most, and by whom"),
        entry("fileslower", "Show reads and writes of files that took long"),
        entry("vfsstat", "Show how much the kernel does for files"),
        entry("cachestat", "Show how often pages of files are in memory when they are wanted"),
        entry("gethostlatency", "Show how long programs look up hosts' names"),
        entry("bashreadline", "Show which lines people give to bash"),
        entry("kvmexit", "Show why guests of KVM stop, and how long it is until they go on"),
        entry("zfsslower", "Show what is done with files on ZFS and takes long"),
        entry("zfsdist", "Show how long reads, writes, opens and syncs of files on ZFS take"),
        entry("biolatency", "Show how long block devices take, as a distribution"),
        entry("biopattern", "Show how much of block devices' work is sequential, and how much random"),
        entry("biosnoop", "Show each request to a block device, with who made it and how long it took"),
        entry("biotop", "Show whose requests keep block devices busy"),
        entry("bitesize", "Show how large requests to block devices are, by who makes them"),
        entry("cpudist", "Show how long tasks run before they leave the processor, as a distribution"),
        entry("hardirqs", "Show how much time devices' interrupts take, by handler"),
        entry("klockstat", "Show which of the kernel's locks are waited for, where and how long"),
        entry("offcputime", "Show where tasks leave the processor, and for how long, by their stacks"),
        entry("profile", "Show what runs on the processors, by its stacks, from samples"),
        entry("runqlat", "Show how long tasks wait for a processor, as a distribution"),
        entry("runqlen", "Show how many tasks wait for the processors, as a distribution"),
        entry("runqslower", "Show tasks that waited long for a processor, and for whom"),
        entry("slabratetop", "Show out of which caches the kernel takes how many objects"),
        entry("softirqs", "Show how much time the kernel's deferred work takes, by kind"),
        entry("syscount", "Show which system calls are made how often, or by whom"),
        entry("wakeuptime", "Show who wakes tasks that sleep, after how long, and where"),
        entry("tcpconnect", "Show which TCP connections are begun, by whom and where to"),
        entry("tcpaccept", "Show which TCP connections are taken, by whom and where from"),
        entry("tcpconnlat", "Show how long outgoing TCP connections wait for their answer"),
        entry("tcplife", "Show TCP connections that have ended, with their bytes and how long they lived"),
        entry("tcprtt", "Show how long packets of TCP connections go there and back, as a distribution"),
        entry("tcpstates", "Show every change of a TCP connection's state"),
        entry("tcptop", "Show which processes send and receive most over TCP, by connection"),
        entry("tcpretrans", "Show which segments of TCP are sent again"),
        entry("tcpdrop", "Show which packets of TCP the kernel drops, and why"),
        entry("bindsnoop", "Show which sockets are bound to which addresses, by whom"),
        entry("solisten", "Show which sockets begin to listen, where, and for whom"),
        entry("oomkill", "Show which processes are killed for want of memory, and who asked for it"),
        entry("drsnoop", "Show which tasks must free memory before they get some, and for how long"),
        entry("why-slow", "Say why this host is slow, the worst first, with what shows it"),
        entry("wg-leaks", "Find flows and listeners outside the WireGuard tunnels, with their processes"),
    ],
};

/// What the tool of this name does, in one line; a name that is not in the catalog does not compile where this is
/// used in a constant.
pub const fn about(name: &str) -> &'static str {
    let mut family = 0;
    while family < FAMILIES.len() {
        let tools = FAMILIES[family].tools;
        let mut tool = 0;
        while tool < tools.len() {
            if same(tools[tool].name, name) {
                return tools[tool].about;
            }
            tool += 1;
        }
        family += 1;
    }
    panic!("no such tool in the catalog")
}

/// `a == b`, which is not const for str yet.
const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

/// Every family.
pub const FAMILIES: &[Family] = &[KVM, TRACE];

/// The tool of this name, with its family.
pub fn find(name: &str) -> Option<(&'static Family, &'static Entry)> {
    FAMILIES
        .iter()
        .flat_map(|family| family.tools.iter().map(move |tool| (family, tool)))
        .find(|(_, tool)| tool.name == name)
}
