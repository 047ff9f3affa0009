//! What the lab has that the machine which runs it has not. From nothing its parts take about fifteen minutes.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use kld_build::appliance::{Appliance, Network};
use kld_build::{Agent, Cache};
use kld_core::ui::Ui;
use kld_lab::Parts;

fn parts() -> &'static Parts {
    static PARTS: OnceLock<Parts> = OnceLock::new();
    PARTS.get_or_init(|| Parts::ensure(&Cache::of_user(), &Ui::default()).unwrap())
}

/// A lab, alone on its network.
struct Lab {
    lab: Appliance,
    _network: Network,
}

impl Lab {
    fn start() -> Lab {
        let network = Network::new().unwrap();
        Lab { lab: parts().start("lab", 1, &[network.plug()]).unwrap(), _network: network }
    }

    fn bash(&self, script: &str) -> String {
        bash(&self.lab.agent(), script)
    }
}

/// What a script that must succeed says.
#[track_caller]
fn bash(agent: &Agent, script: &str) -> String {
    let ran = agent.run(&["bash", "-euc", script]).unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert_eq!(ran.code, 0, "{script}\n{stdout}{stderr}");
    stdout.into_owned()
}

#[test]
#[ignore = "minutes from nothing: cargo xtask lab test"]
fn the_lab_is_restored_and_runs_a_command_within_five_seconds() {
    parts();
    let mut times: Vec<Duration> = (0..3)
        .map(|_| {
            // The parts are looked over as at a first use.
            let start = Instant::now();
            let parts = Parts::ensure(&Cache::of_user(), &Ui::default()).unwrap();
            let network = Network::new().unwrap();
            let lab = parts.start("lab", 1, &[network.plug()]).unwrap();
            assert_eq!(lab.agent().ask(&["hostname"]).unwrap(), "lab\n");
            start.elapsed()
        })
        .collect();
    times.sort();
    assert!(times[1] < Duration::from_secs(5), "{times:?}");
}

#[test]
#[ignore = "minutes from nothing: cargo xtask lab test"]
fn pools_volumes_snapshots_and_clones_are_real() {
    let lab = Lab::start();
    let said = lab.bash(
        // udev may be late with the link of the partition that zpool has just made, and zpool does not wait for it.
        "disk=/dev/disk/by-id/virtio-data1
         zpool create tank $disk || { udevadm settle; zpool create -f tank $disk; }
         zfs create -s -V 1G tank/a
         udevadm settle
         echo hello | dd of=/dev/zvol/tank/a conv=fsync status=none
         zfs snapshot tank/a@s
         zfs clone tank/a@s tank/b
         udevadm settle
         echo other | dd of=/dev/zvol/tank/a conv=fsync status=none
         head -c 5 /dev/zvol/tank/b; echo
         zfs send tank/a@s | zfs receive tank/c
         zpool status -x; zpool export tank; zpool import -d /dev/disk/by-id tank; zfs list -H -o name -r tank",
    );
    assert_eq!(said, "hello\nall pools are healthy\ntank\ntank/a\ntank/b\ntank/c\n");
    assert!(lab.bash("zfs version -j").contains("\"userland\""));
}

#[test]
#[ignore = "minutes from nothing: cargo xtask lab test"]
fn a_machine_boots_under_nested_kvm() {
    let lab = Lab::start();
    lab.bash(
        "mkdir -p /tmp/i/bin && cd /tmp/i && cp /usr/bin/busybox bin/ && ln -s busybox bin/sh
         printf '%s\\n' '#!/bin/sh' 'echo kld: I am up' '/bin/busybox poweroff -f' >init && chmod +x init
         find . | cpio --quiet -o -H newc >/tmp/initramfs",
    );
    let machine = "<domain type='kvm'><name>m</name><memory unit='MiB'>160</memory><vcpu>1</vcpu>\
        <os><type machine='q35'>hvm</type><kernel>KERNEL</kernel><initrd>/tmp/initramfs</initrd>\
        <cmdline>console=ttyS0 quiet panic=-1</cmdline></os><cpu mode='host-passthrough'/><features><acpi/></features>\
        <on_reboot>destroy</on_reboot><devices><serial type='file'><source path='/tmp/serial'/></serial>\
        <memballoon model='none'/></devices></domain>";
    let script = format!(
        "echo \"{machine}\" | sed \"s,KERNEL,$(echo /boot/vmlinuz-*),\" >/tmp/m.xml; virsh -q define /tmp/m.xml; virsh -q start m
         for i in $(seq 600); do grep -q 'I am up' /tmp/serial && exit 0; sleep 0.2; done; cat /tmp/serial; exit 1"
    );
    lab.bash(&script);
}

#[test]
#[ignore = "minutes from nothing: cargo xtask lab test"]
fn two_labs_reach_each_other_through_wireguard() {
    let network = Network::new().unwrap();
    let start = |name, number| parts().start(name, number, &[network.plug()]).unwrap();
    let labs = (start("a", 1), start("b", 2));
    let (a, b) = (labs.0.agent(), labs.1.agent());
    let key =
        |agent: &Agent| bash(agent, "umask 77; wg genkey >/run/key; wg pubkey </run/key").trim().to_string();
    let (key_a, key_b) = (key(&a), key(&b));
    assert_ne!(key_a, key_b, "two labs draw the same random numbers");
    let join = |agent: &Agent, number: u8, key: &str, other: u8| {
        bash(
            agent,
            &format!(
                "ip link add wg0 type wireguard; ip address add 10.9.0.{number}/24 dev wg0
                 wg set wg0 listen-port 51820 private-key /run/key peer {key} allowed-ips 10.9.0.{other}/32 endpoint 10.77.0.{other}:51820
                 ip link set wg0 up"
            ),
        )
    };
    join(&a, 1, &key_b, 2);
    join(&b, 2, &key_a, 1);
    bash(&a, "ping -q -c 1 -W 20 10.9.0.2");
    assert_ne!(bash(&a, "cat /etc/hostid | od -An -tx4"), bash(&b, "cat /etc/hostid | od -An -tx4"));
}

#[test]
#[ignore = "minutes from nothing: cargo xtask lab test"]
fn kld_s_built_tools_are_on_the_path() {
    let built = kld_test_support::tool::built_here();
    assert!(built.join("kld").is_file(), "cargo build --workspace --bins comes first");
    let lab = Lab::start();
    kld_lab::tools::bring(&lab.lab.agent(), &built).unwrap();
    assert!(lab.bash("kld --version").starts_with("kld "));
    assert!(lab.bash("kvm-list --help").contains("machines"));
}

#[test]
#[ignore = "minutes from nothing: cargo xtask lab test"]
fn the_programs_that_tests_and_benches_use_are_there() {
    Lab::start().bash(
        "type zfs zpool syncoid sanoid incusd incus virsh virt-clone wg fio nft ip qemu-img bpftool udevadm",
    );
}
