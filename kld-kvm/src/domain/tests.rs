//! What the definition promises, over a corpus of definitions that people have.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use insta::assert_snapshot;
use kld_core::store::VolumeFormat;
use kld_core::{ByteSize, Exit, MachineName};
use proptest::prelude::*;
use uuid::Uuid;

use super::xml::{Document, Element, MAX_DEPTH, MAX_SIZE};
use super::*;

const CORPUS: [(&str, &str); 8] = [
    ("q35", include_str!("corpus/q35.xml")),
    ("running", include_str!("corpus/running.xml")),
    ("i440fx", include_str!("corpus/i440fx.xml")),
    ("secure-boot", include_str!("corpus/secure-boot.xml")),
    ("hostdev", include_str!("corpus/hostdev.xml")),
    ("many-disks", include_str!("corpus/many-disks.xml")),
    ("qemu-args", include_str!("corpus/qemu-args.xml")),
    ("by-hand", include_str!("corpus/by-hand.xml")),
];

fn corpus(name: &str) -> Definition {
    Definition::parse(CORPUS.iter().find(|(known, _)| *known == name).unwrap().1).unwrap()
}

fn machine(name: &str) -> MachineName {
    MachineName::parse(name).unwrap()
}

fn fresh_uuid() -> Uuid {
    Uuid::from_u128(0xc1c1_c1c1_0000_4000_8000_0000_0000_0001)
}

/// The lines that differ, as diff(1) marks them.
fn diff(before: &str, after: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let mut longest = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            longest[i][j] = if a[i] == b[j] {
                longest[i + 1][j + 1] + 1
            } else {
                longest[i + 1][j].max(longest[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || i < a.len() && longest[i + 1][j] >= longest[i][j + 1] {
            out.push(format!("-{}", a[i]));
            i += 1;
        } else {
            out.push(format!("+{}", b[j]));
            j += 1;
        }
    }
    out.join("\n")
}

/// What changes in a definition of the corpus, and the notes.
fn cloned(name: &str) -> String {
    let mut definition = corpus(name);
    let before = definition.to_xml();
    let mut count = 0;
    let notes = definition.become_clone(&machine("clone-1"), fresh_uuid(), &mut |old| {
        count += 1;
        let [a, b, c, ..] = old.bytes();
        MacAddress::new([a, b, c, 0xff, 0, count])
    });
    let fresh_genid = definition.root().text_at("genid").unwrap_or_default();
    let after = definition.to_xml();
    let after = if fresh_genid.is_empty() { after } else { after.replace(&fresh_genid, "[fresh]") };
    let notes: Vec<String> = notes.iter().map(|note| format!("* {note}")).collect();
    format!("{}\n\n{}", diff(&before, &after), notes.join("\n"))
}

#[test]
fn what_is_not_changed_is_written_byte_for_byte() {
    for (name, text) in CORPUS {
        // Only white space in end tags is not kept: it has no meaning at all.
        let expected = text.replace("</vcpu >", "</vcpu>");
        assert_eq!(Definition::parse(text).unwrap().to_xml(), expected, "{name}");
    }
}

#[test]
fn a_definition_tells_its_name_kind_and_size() {
    let running = corpus("running");
    assert_eq!(running.name(), "web");
    assert_eq!(running.uuid().unwrap().to_string(), "6d3a1f5e-7c0b-4b4e-9d55-0f8d5f1f3a01");
    assert_eq!((running.kind(), running.machine()), ("kvm", "pc-q35-10.0"));
    assert_eq!((running.memory(), running.cpus()), (ByteSize::gib(4), 2));

    let by_hand = corpus("by-hand");
    assert_eq!(by_hand.name(), "by-hand");
    assert_eq!(by_hand.uuid(), None);
    assert_eq!((by_hand.memory(), by_hand.cpus()), (ByteSize::new(1_000_000_000), 2));
    assert_eq!(corpus("i440fx").kind(), "qemu");
    assert_eq!(
        corpus("secure-boot").nvram(),
        Some(PathBuf::from("/var/lib/libvirt/qemu/nvram/win11_VARS.fd"))
    );
    assert_eq!(corpus("q35").nvram(), None);
}

#[test]
fn disks_are_told_with_where_their_bytes_are() {
    let shown: Vec<String> = corpus("many-disks")
        .disks()
        .into_iter()
        .chain(corpus("running").disks())
        .chain(corpus("i440fx").disks())
        .map(|d| {
            format!(
                "{} {:?} on {}: {:?} as {:?}{}{}{}",
                d.target,
                d.device,
                d.bus,
                d.source,
                d.driver.unwrap_or_default(),
                if d.readonly { " readonly" } else { "" },
                if d.shareable { " shareable" } else { "" },
                d.serial.map(|serial| format!(" serial {serial}")).unwrap_or_default(),
            )
        })
        .collect();
    assert_snapshot!(shown.join("\n"), @r#"
    vda Disk on virtio: File("/srv/db/root.qcow2") as "qcow2"
    vdb Disk on virtio: Other("rbd pool/db-data") as "raw"
    sdb Lun on scsi: Block("/dev/disk/by-id/wwn-0x5000") as "raw"
    vdc Disk on virtio: File("/srv/shared/quorum.img") as "raw" shareable
    vdd Disk on virtio: Other("volume default/scratch.img") as "raw"
    sda Cdrom on sata: Other("https debian.iso") as "raw" readonly
    vda Disk on virtio: File("/srv/web/overlay.qcow2") as "qcow2" serial root-disk
    vdb Disk on virtio: Block("/dev/zvol/tank/web-data") as "raw"
    sda Cdrom on sata: File("/srv/web/seed.iso") as "raw" readonly serial kld-seed
    hda Disk on ide: File("/var/lib/libvirt/images/old.img") as "raw"
    fda Floppy on fdc: None as ""
    "#);
}

#[test]
fn interfaces_are_told_with_what_they_are_connected_to() {
    let shown: Vec<String> = ["running", "i440fx", "secure-boot", "hostdev"]
        .iter()
        .flat_map(|name| corpus(name).interfaces())
        .map(|i| format!("{:?} {:?} {:?} {:?}", i.mac.map(|mac| mac.to_string()), i.kind, i.source, i.model))
        .collect();
    assert_snapshot!(shown.join("\n"), @r#"
    Some("52:54:00:a1:b2:c3") Network Some("default") Some("virtio")
    Some("02:11:22:33:44:55") Bridge Some("ovsbr0") Some("virtio")
    Some("00:16:3e:01:02:03") Bridge Some("br0") Some("e1000")
    None User None None
    Some("52:54:00:00:11:22") Direct Some("eno1") Some("e1000e")
    Some("52:54:00:6d:90:02") Hostdev None None
    Some("52:54:00:6d:90:02") Network Some("default") Some("virtio")
    "#);
}

#[test]
fn setting_a_disk_keeps_how_it_is_used_and_drops_what_its_bytes_were() {
    let mut definition = corpus("running");
    let before = definition.to_xml();
    definition.set_disk("vda", Path::new("/srv/clone/vda & co.qcow2"), VolumeFormat::Qcow2).unwrap();
    definition.set_disk("vdb", Path::new("/srv/clone/vdb.qcow2"), VolumeFormat::Qcow2).unwrap();
    assert_snapshot!(diff(&before, &definition.to_xml()), @r"
    -      <source file='/srv/web/overlay.qcow2' index='3'/>
    -      <backingStore type='file' index='4'>
    -        <format type='qcow2'/>
    -        <source file='/srv/web/base.qcow2'/>
    -        <backingStore/>
    -      </backingStore>
    -      <mirror type='file' job='copy'>
    -        <format type='qcow2'/>
    -        <source file='/srv/web/copy.qcow2'/>
    -      </mirror>
    +      <source file='/srv/clone/vda &amp; co.qcow2'/>
    -    <disk type='block' device='disk'>
    -      <driver name='qemu' type='raw' cache='none'/>
    -      <source dev='/dev/zvol/tank/web-data' index='2'/>
    -      <backingStore/>
    +    <disk type='file' device='disk'>
    +      <driver name='qemu' type='qcow2' cache='none'/>
    +      <source file='/srv/clone/vdb.qcow2'/>
    ");
    assert_eq!(definition.disks()[0].source, Source::File("/srv/clone/vda & co.qcow2".into()));
}

#[test]
fn setting_a_network_disk_makes_it_local_and_an_empty_drive_full() {
    let mut definition = corpus("many-disks");
    let before = definition.to_xml();
    definition.set_disk("vdb", Path::new("/dev/zvol/tank/db"), VolumeFormat::Block).unwrap();
    definition.set_disk("sdb", Path::new("/dev/zvol/tank/lun"), VolumeFormat::Block).unwrap();
    assert_snapshot!(diff(&before, &definition.to_xml()), @r"
    -    <disk type='network' device='disk'>
    +    <disk type='block' device='disk'>
    -      <auth username='libvirt'>
    -        <secret type='ceph' uuid='9aa0a0a0-0000-4000-8000-000000000001'/>
    -      </auth>
    -      <source protocol='rbd' name='pool/db-data'>
    -        <host name='mon1.example.org' port='6789'/>
    -      </source>
    +      <source dev='/dev/zvol/tank/db'/>
    -      <source dev='/dev/disk/by-id/wwn-0x5000'/>
    +      <source dev='/dev/zvol/tank/lun'/>
    ");

    let mut definition = corpus("i440fx");
    let before = definition.to_xml();
    definition.set_disk("fda", Path::new("/srv/dos.img"), VolumeFormat::Raw).unwrap();
    assert_snapshot!(diff(&before, &definition.to_xml()), @r"
    +      <driver name='qemu' type='raw'/>
    +      <source file='/srv/dos.img'/>
    ");
}

#[test]
fn setting_a_disk_to_what_it_is_changes_nothing() {
    let mut definition = corpus("q35");
    let path = Path::new("/var/lib/libvirt/images/web.qcow2");
    definition.set_disk("vda", path, VolumeFormat::Qcow2).unwrap();
    assert_eq!(definition.to_xml(), corpus("q35").to_xml());
}

#[test]
fn a_disk_that_is_not_there_and_a_path_that_xml_cannot_say_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let mut definition = corpus("many-disks");
    let before = definition.clone();
    let mut error = |target, path: &[u8], format| {
        definition.set_disk(target, Path::new(std::ffi::OsStr::from_bytes(path)), format)
    };
    let missing = error("vdz", b"/x", VolumeFormat::Raw).unwrap_err();
    assert_snapshot!(missing, @"the machine 'db' has no disk 'vdz'");
    assert_eq!(missing.exit(), Exit::Usage);
    let latin1 = error("vda", b"/x\xff", VolumeFormat::Raw).unwrap_err();
    assert_snapshot!(latin1, @"the path '/x�' cannot stand in a definition: it is not UTF-8");
    let newline = error("vda", b"/x\ny", VolumeFormat::Raw).unwrap_err();
    assert_snapshot!(newline, @r"the path '/x\ny' cannot stand in a definition: it has control characters");
    let lun = error("sdb", b"/x", VolumeFormat::Raw).unwrap_err();
    assert_snapshot!(lun, @"the disk 'sdb' of 'db' passes SCSI commands to its device, which a file does not understand");
    assert_eq!(lun.exit(), Exit::Refused);
    assert_eq!(definition, before);
}

#[test]
fn the_seed_takes_the_first_free_drive_of_the_machines_own_bus() {
    let seeded = |name: &str| {
        let mut definition = corpus(name);
        let before = definition.to_xml();
        assert_eq!(definition.seed(), None);
        definition.set_seed(Path::new("/srv/seed.iso")).unwrap();
        assert_eq!(definition.seed(), Some("/srv/seed.iso".into()));
        diff(&before, &definition.to_xml())
    };
    assert_snapshot!(seeded("q35"), @r"
    +    <disk type='file' device='cdrom'>
    +      <driver name='qemu' type='raw'/>
    +      <source file='/srv/seed.iso'/>
    +      <target dev='sdb' bus='sata'/>
    +      <readonly/>
    +      <serial>kld-seed</serial>
    +    </disk>
    ");
    assert_snapshot!(seeded("i440fx"), @r"
    +    <disk type='file' device='cdrom'>
    +      <driver name='qemu' type='raw'/>
    +      <source file='/srv/seed.iso'/>
    +      <target dev='hdb' bus='ide'/>
    +      <readonly/>
    +      <serial>kld-seed</serial>
    +    </disk>
    ");
    // A name that a disk on another bus has is taken too.
    assert!(seeded("many-disks").contains("<target dev='sdc' bus='sata'/>"));
}

#[test]
fn the_seed_does_not_take_the_place_of_a_drive_that_stands_elsewhere_than_its_name_says() {
    let text = "<domain><name>a</name><os><type machine='q35'>hvm</type></os><devices><disk device='cdrom'>\
        <target dev='sda' bus='sata'/><address type='drive' controller='0' bus='0' unit='1'/></disk></devices></domain>";
    let mut definition = Definition::parse(text).unwrap();
    definition.set_seed(Path::new("/srv/seed.iso")).unwrap();
    // libvirt would put sdb at unit 1.
    assert_eq!(definition.disks()[1].target, "sdc");
}

#[test]
fn a_machine_whose_ide_drives_are_all_taken_gets_its_seed_on_sata() {
    let mut definition = corpus("i440fx");
    for target in ["hdb", "hdc", "hdd"] {
        let disk =
            Element::new("disk").with_child(Element::new("target").with("dev", target).with("bus", "ide"));
        definition.root_mut().ensure("devices", 1).append(disk, 2);
    }
    definition.set_seed(Path::new("/srv/seed.iso")).unwrap();
    let seed = definition.disks().into_iter().find(|disk| disk.serial.is_some()).unwrap();
    assert_eq!((seed.target.as_str(), seed.bus.as_str()), ("sda", "sata"));
}

#[test]
fn a_known_seed_drive_gets_the_new_image() {
    let mut definition = corpus("running");
    assert_eq!(definition.seed(), Some("/srv/web/seed.iso".into()));
    let drives = definition.disks().len();
    definition.set_seed(Path::new("/srv/clone/seed.iso")).unwrap();
    assert_eq!(definition.seed(), Some("/srv/clone/seed.iso".into()));
    assert_eq!(definition.disks().len(), drives);
}

#[test]
fn nvram_is_set_where_it_is_and_where_there_was_none() {
    let mut definition = corpus("secure-boot");
    let before = definition.to_xml();
    definition.set_nvram(Path::new("/srv/clone/VARS.fd")).unwrap();
    assert_snapshot!(diff(&before, &definition.to_xml()), @r"
    -    <nvram template='/usr/share/OVMF/OVMF_VARS_4M.ms.fd' templateFormat='raw' format='raw'>/var/lib/libvirt/qemu/nvram/win11_VARS.fd</nvram>
    +    <nvram template='/usr/share/OVMF/OVMF_VARS_4M.ms.fd' templateFormat='raw' format='raw'>/srv/clone/VARS.fd</nvram>
    ");

    let mut definition = corpus("q35");
    definition.set_nvram(Path::new("/srv/clone/VARS.fd")).unwrap();
    assert_eq!(definition.nvram(), Some("/srv/clone/VARS.fd".into()));
}

#[test]
fn a_template_is_marked_for_kld_and_for_everybody_else() {
    let mut definition = corpus("q35");
    let before = definition.to_xml();
    assert!(!definition.is_template());
    definition.set_template(true);
    assert!(definition.is_template());
    assert_snapshot!(diff(&before, &definition.to_xml()), @r"
    +    <kld:machine xmlns:kld='https://kld.dev/ns/machine/1'>
    +      <kld:template/>
    +    </kld:machine>
    +  <sysinfo type='fwcfg'>
    +    <entry name='opt/org.kld/template' file='/nonexistent/this machine is a template - clone it, or thaw it with kvm-template --undo'/>
    +  </sysinfo>
    ");

    let mut definition = corpus("qemu-args");
    let before = definition.to_xml();
    definition.set_template(true);
    assert_snapshot!(diff(&before, &definition.to_xml()), @r"
    +  <metadata>
    +    <kld:machine xmlns:kld='https://kld.dev/ns/machine/1'>
    +      <kld:template/>
    +    </kld:machine>
    +  </metadata>
    +    <entry name='opt/org.kld/template' file='/nonexistent/this machine is a template - clone it, or thaw it with kvm-template --undo'/>
    ");
}

#[test]
fn a_template_that_is_thawed_is_what_it_was() {
    for (name, _) in CORPUS {
        let before = corpus(name);
        let mut definition = before.clone();
        definition.set_template(true);
        let marked = definition.clone();
        definition.set_template(true);
        assert_eq!(definition, marked, "{name}: marking twice is marking once");
        // As libvirt would hand it back.
        let mut definition = Definition::parse(&definition.to_xml()).unwrap();
        assert!(definition.is_template(), "{name}");
        definition.set_template(false);
        assert!(!definition.is_template(), "{name}");
        assert_eq!(definition.to_xml(), before.to_xml(), "{name}");
    }
}

#[test]
fn the_mark_is_known_by_its_namespace_and_other_marks_of_kld_stay() {
    let with = |metadata: &str| {
        let text = format!(
            "<domain xmlns:m='https://kld.dev/ns/machine/1'><name>a</name><metadata>{metadata}</metadata></domain>"
        );
        Definition::parse(&text).unwrap()
    };
    assert!(with("<m:machine><m:template/></m:machine>").is_template());
    assert!(with("<machine xmlns='https://kld.dev/ns/machine/1'><template/></machine>").is_template());
    assert!(!with("<kld:machine xmlns:kld='urn:other'><kld:template/></kld:machine>").is_template());
    assert!(!with("<machine><template/></machine>").is_template());

    let mut definition = with("<m:machine><m:lineage/></m:machine>");
    definition.set_template(true);
    assert!(definition.to_xml().contains("<m:machine><m:lineage/><m:template/></m:machine>"));
    definition.set_template(false);
    assert!(definition.to_xml().contains("<metadata><m:machine><m:lineage/></m:machine></metadata>"));
}

#[test]
fn a_clone_of_a_stopped_machine_differs_in_its_identity_alone() {
    assert_snapshot!(cloned("q35"), @r"
    -  <name>web</name>
    -  <uuid>6d3a1f5e-7c0b-4b4e-9d55-0f8d5f1f3a01</uuid>
    +  <name>clone-1</name>
    +  <uuid>c1c1c1c1-0000-4000-8000-000000000001</uuid>
    -      <mac address='52:54:00:a1:b2:c3'/>
    +      <mac address='52:54:00:ff:00:01'/>
    ");
}

#[test]
fn a_clone_of_a_running_machine_forgets_the_run() {
    assert_snapshot!(cloned("running"), @r"
    -<domain type='kvm' id='7'>
    -  <name>web</name>
    -  <uuid>6d3a1f5e-7c0b-4b4e-9d55-0f8d5f1f3a01</uuid>
    -  <genid>3b0a1c0e-1111-4222-8333-444455556666</genid>
    +<domain type='kvm'>
    +  <name>clone-1</name>
    +  <uuid>c1c1c1c1-0000-4000-8000-000000000001</uuid>
    +  <genid>[fresh]</genid>
    -      <entry name='serial'>6d3a1f5e-7c0b-4b4e-9d55-0f8d5f1f3a01</entry>
    -      <entry name='uuid'>6d3a1f5e-7c0b-4b4e-9d55-0f8d5f1f3a01</entry>
    +      <entry name='serial'>c1c1c1c1-0000-4000-8000-000000000001</entry>
    +      <entry name='uuid'>c1c1c1c1-0000-4000-8000-000000000001</entry>
    -      <source file='/srv/web/overlay.qcow2' index='3'/>
    +      <source file='/srv/web/overlay.qcow2'/>
    -      <mirror type='file' job='copy'>
    -        <format type='qcow2'/>
    -        <source file='/srv/web/copy.qcow2'/>
    -      </mirror>
    -      <alias name='virtio-disk0'/>
    -      <source dev='/dev/zvol/tank/web-data' index='2'/>
    +      <source dev='/dev/zvol/tank/web-data'/>
    -      <source file='/srv/web/seed.iso' index='1'/>
    +      <source file='/srv/web/seed.iso'/>
    -      <alias name='sata0-0-0'/>
    -    <controller type='pci' index='0' model='pcie-root'>
    -      <alias name='pcie.0'/>
    -    </controller>
    +    <controller type='pci' index='0' model='pcie-root'/>
    -      <mac address='52:54:00:a1:b2:c3'/>
    -      <source network='default' portid='0b6a8a5c-3a87-41b0-9f2a-6e8a2b2c1d11' bridge='virbr0'/>
    -      <target dev='vnet3'/>
    +      <mac address='52:54:00:ff:00:01'/>
    +      <source network='default'/>
    -      <alias name='net0'/>
    -      <mac address='02:11:22:33:44:55'/>
    +      <mac address='02:11:22:ff:00:02'/>
    -      <virtualport type='openvswitch'>
    -        <parameters interfaceid='c2f2c6a0-4ad3-4d0b-8a3c-6b1c9e0a0001'/>
    -      </virtualport>
    -      <target dev='web-lan'/>
    +      <virtualport type='openvswitch'/>
    -      <alias name='net1'/>
    -      <source path='/dev/pts/3'/>
    -      <log file='/var/log/libvirt/web-serial.log' append='off'/>
    +      <log file='/var/log/libvirt/clone-1-serial.log' append='off'/>
    -      <alias name='serial0'/>
    -      <source mode='bind' path='/run/consoles/web.sock'/>
    +      <source mode='bind' path='/run/consoles/clone-1.sock'/>
    -      <alias name='serial1'/>
    -    <console type='pty' tty='/dev/pts/3'>
    -      <source path='/dev/pts/3'/>
    -      <log file='/var/log/libvirt/web-serial.log' append='off'/>
    +    <console type='pty'>
    +      <log file='/var/log/libvirt/clone-1-serial.log' append='off'/>
    -      <alias name='serial0'/>
    -      <source mode='bind' path='/run/libvirt/qemu/channel/7-web/org.qemu.guest_agent.0'/>
    -      <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>
    -      <alias name='channel0'/>
    +      <target type='virtio' name='org.qemu.guest_agent.0'/>
    -    <graphics type='spice' port='5901' tlsPort='5902' autoport='no' listen='127.0.0.1'>
    +    <graphics type='spice' autoport='yes' listen='127.0.0.1'>
    -    <graphics type='vnc' port='5900' autoport='yes' listen='127.0.0.1'>
    +    <graphics type='vnc' autoport='yes' listen='127.0.0.1'>
    -      <cid auto='no' address='42'/>
    -      <alias name='vsock0'/>
    +      <cid auto='yes'/>
    -  <seclabel type='dynamic' model='apparmor' relabel='yes'>
    -    <label>libvirt-6d3a1f5e-7c0b-4b4e-9d55-0f8d5f1f3a01</label>
    -    <imagelabel>libvirt-6d3a1f5e-7c0b-4b4e-9d55-0f8d5f1f3a01</imagelabel>
    -  </seclabel>
    -  <seclabel type='dynamic' model='dac' relabel='yes'>
    -    <label>+64055:+994</label>
    -    <imagelabel>+64055:+994</imagelabel>
    -  </seclabel>
    +  <seclabel type='dynamic' model='apparmor' relabel='yes'/>
    +  <seclabel type='dynamic' model='dac' relabel='yes'/>

    * both machines tell their guests the baseBoard serial number 'BOARD-17'
    * the host's device web-lan stays with 'web': the clone's gets a name of its own
    * the serial device has /var/log/libvirt/clone-1-serial.log instead of /var/log/libvirt/web-serial.log
    * the serial device has /run/consoles/clone-1.sock instead of /run/consoles/web.sock
    * both machines listen on port 4555 as their serial device: 'clone-1' cannot run at the same time as 'web'
    * the spice ports 5901 and 5902 stay with 'web': the clone gets a free one at each start
    * the vsock address 42 stays with 'web'
    ");
}

#[test]
fn a_clone_of_an_old_machine_gets_addresses_for_all_its_interfaces() {
    assert_snapshot!(cloned("i440fx"), @r"
    -  <name>old</name>
    -  <uuid>00112233-4455-6677-8899-aabbccddeeff</uuid>
    +  <name>clone-1</name>
    +  <uuid>c1c1c1c1-0000-4000-8000-000000000001</uuid>
    -      <mac address='00:16:3e:01:02:03'/>
    +      <mac address='00:16:3e:ff:00:01'/>
    +      <mac address='52:54:00:ff:00:02'/>
    -    <graphics type='vnc' port='5907' autoport='no'/>
    +    <graphics type='vnc' autoport='yes'/>

    * both machines have /var/spool/printer.out as their parallel device: give the clone its own
    * the vnc port 5907 stays with 'old': the clone gets a free one at each start
    ");
}

#[test]
fn a_clone_of_a_machine_with_a_tpm_is_told_that_its_own_is_empty() {
    assert_snapshot!(cloned("secure-boot"), @r"
    -  <name>win11</name>
    -  <uuid>7f9d2c44-5d6a-4a0e-9c43-0a51b2d1e7aa</uuid>
    +  <name>clone-1</name>
    +  <uuid>c1c1c1c1-0000-4000-8000-000000000001</uuid>
    -      <mac address='52:54:00:00:11:22'/>
    +      <mac address='52:54:00:ff:00:01'/>

    * the clone's TPM starts empty: keys that the guest sealed in the original's (BitLocker, LUKS) are not in it
    ");
}

#[test]
fn a_clone_that_shares_devices_of_the_host_is_told_so() {
    assert_snapshot!(cloned("hostdev"), @r"
    -  <name>gpu</name>
    -  <uuid>7f9d2c44-5d6a-4a0e-9c43-0a51b2d1e7ab</uuid>
    +  <name>clone-1</name>
    +  <uuid>c1c1c1c1-0000-4000-8000-000000000001</uuid>
    -      <mac address='52:54:00:6d:90:02'/>
    +      <mac address='52:54:00:ff:00:01'/>
    -      <mac address='52:54:00:6d:90:02'/>
    +      <mac address='52:54:00:ff:00:01'/>

    * both machines can write to /srv/models
    * both machines use the network device 0000:03:10.1: 'clone-1' cannot run at the same time as 'gpu'
    * both machines use the PCI device 0000:65:00.0: 'clone-1' cannot run at the same time as 'gpu'
    * both machines use the mediated device c2177883-f1bb-47f0-914d-32a22e3a8804: 'clone-1' cannot run at the same time as 'gpu'
    * both machines use the USB device 046d:c52b: 'clone-1' cannot run at the same time as 'gpu'
    ");
}

#[test]
fn a_clone_of_a_machine_with_free_arguments_keeps_them() {
    assert_snapshot!(cloned("qemu-args"), @r"
    -  <name>ignition</name>
    -  <uuid>7f9d2c44-5d6a-4a0e-9c43-0a51b2d1e7ad</uuid>
    +  <name>clone-1</name>
    +  <uuid>c1c1c1c1-0000-4000-8000-000000000001</uuid>

    * both machines are given /srv/ignition/config.ign as opt/com.coreos/config
    * QEMU arguments that the definition adds are taken over as they are: look for paths, ports and addresses in them
    ");
}

#[test]
fn a_clone_keeps_what_people_wrote_by_hand() {
    assert_snapshot!(cloned("by-hand"), @r"
    -	<name>by<!-- in two pieces -->-hand</name>
    +	<name>clone-1</name>
    +	<uuid>c1c1c1c1-0000-4000-8000-000000000001</uuid>
    ");
}

#[test]
fn a_clone_of_a_template_is_no_template() {
    let mut template = corpus("q35");
    template.set_template(true);
    template.become_clone(&machine("clone-1"), fresh_uuid(), &mut |_| MacAddress::random_qemu());
    assert!(!template.is_template());
    assert_eq!((template.name(), template.uuid()), ("clone-1", Some(fresh_uuid())));
}

#[test]
fn disks_that_no_store_can_clone_are_named() {
    assert_snapshot!(corpus("many-disks").uncloneable().join("\n"), @r"
    the disk 'vdb' is no local file or block device: rbd pool/db-data
    the disk 'sdb' passes SCSI commands to its device
    the disk 'vdc' is shared with other machines
    the disk 'vdd' is no local file or block device: volume default/scratch.img
    ");
    assert_eq!(corpus("running").uncloneable(), Vec::<String>::new());
}

#[test]
fn fresh_addresses_are_like_the_old_and_nobodys() {
    let old = MacAddress::new([0x52, 0x54, 0, 1, 2, 3]);
    let foreign = MacAddress::new([0, 0x16, 0x3e, 1, 2, 3]);
    let mut macs = FreshMacs::new([old, foreign]);
    let mut given = std::collections::BTreeSet::from([old, foreign]);
    for _ in 0..200 {
        let fresh = macs.replace(old);
        assert!(fresh.is_qemu() && given.insert(fresh));
        let fresh = macs.replace(foreign);
        assert_eq!(fresh.bytes()[0] & 3, 2, "{fresh} is unicast and locally administered");
        assert!(given.insert(fresh));
    }
}

#[test]
fn addresses_are_read_as_libvirt_writes_them() {
    let read = |text: &str| text.parse::<MacAddress>().map(|mac| mac.to_string()).ok();
    assert_eq!(read("52:54:00:AB:cd:ef").as_deref(), Some("52:54:00:ab:cd:ef"));
    assert_eq!(read("2:0:0:0:0:1").as_deref(), Some("02:00:00:00:00:01"));
    for bad in
        ["", "52:54:00:ab:cd", "52:54:00:ab:cd:ef:01", "52:54:00:ab:cd:+f", "52:54:00:ab:cd:100", "::::::"]
    {
        assert_eq!(read(bad), None, "{bad}");
    }
}

#[test]
fn the_old_name_is_replaced_where_it_is_a_word() {
    let renamed = |path| super::chardev::renamed(path, "web", "web-5");
    assert_eq!(renamed("/var/log/web-serial.log").as_deref(), Some("/var/log/web-5-serial.log"));
    assert_eq!(renamed("/srv/web/website/web.sock").as_deref(), Some("/srv/web-5/website/web-5.sock"));
    assert_eq!(renamed("/srv/website.log"), None);
    assert_eq!(renamed("/srv/cobweb"), None);
}

fn new_domain() -> NewDomain {
    NewDomain {
        name: machine("web-5"),
        uuid: fresh_uuid(),
        kind: "kvm".to_string(),
        cpus: 2,
        memory: ByteSize::gib(2),
        disks: vec![("vda".to_string(), "/srv/web-5/vda.qcow2".into(), VolumeFormat::Qcow2)],
        cdrom: None,
        seed: Some("/srv/web-5/seed.iso".into()),
        network: NewNetwork::Network("default".to_string()),
        mac: MacAddress::new([0x52, 0x54, 0, 1, 2, 3]),
        firmware: Firmware::Bios,
        kernel: None,
        os: Some("http://debian.org/debian/13".to_string()),
        title: Some("Bob's <web>".to_string()),
        graphics: false,
    }
}

/// Everything that a new machine can have, other than in [`new_domain`].
fn new_domain_with_all() -> NewDomain {
    NewDomain {
        kind: "qemu".to_string(),
        disks: vec![
            ("sda".to_string(), "/dev/zvol/tank/web-5".into(), VolumeFormat::Block),
            ("vda".to_string(), "/srv/web-5/data.raw".into(), VolumeFormat::Raw),
        ],
        cdrom: Some("/srv/iso/debian.iso".into()),
        network: NewNetwork::Bridge("br0".to_string()),
        firmware: Firmware::Uefi { secure_boot: true, nvram: "/srv/web-5/VARS.fd".into() },
        kernel: Some(DirectKernel {
            kernel: "/boot/vmlinuz".into(),
            initrd: Some("/boot/initrd.img".into()),
            cmdline: "console=ttyS0 quiet".to_string(),
        }),
        os: None,
        title: None,
        graphics: true,
        ..new_domain()
    }
}

#[test]
fn a_new_machine_is_a_q35_with_virtio_a_serial_console_and_the_agent() {
    assert_snapshot!(new_domain().definition().unwrap().to_xml(), @r"
    <domain type='kvm'>
      <name>web-5</name>
      <uuid>c1c1c1c1-0000-4000-8000-000000000001</uuid>
      <title>Bob&apos;s &lt;web&gt;</title>
      <metadata>
        <libosinfo:libosinfo xmlns:libosinfo='http://libosinfo.org/xmlns/libvirt/domain/1.0'>
          <libosinfo:os id='http://debian.org/debian/13'/>
        </libosinfo:libosinfo>
      </metadata>
      <memory unit='KiB'>2097152</memory>
      <vcpu placement='static'>2</vcpu>
      <os>
        <type arch='x86_64' machine='q35'>hvm</type>
      </os>
      <features>
        <acpi/>
        <apic/>
      </features>
      <cpu mode='host-passthrough'/>
      <clock offset='utc'>
        <timer name='rtc' tickpolicy='catchup'/>
        <timer name='pit' tickpolicy='delay'/>
        <timer name='hpet' present='no'/>
      </clock>
      <on_poweroff>destroy</on_poweroff>
      <on_reboot>restart</on_reboot>
      <on_crash>destroy</on_crash>
      <devices>
        <disk type='file' device='disk'>
          <driver name='qemu' type='qcow2' discard='unmap' detect_zeroes='unmap'/>
          <source file='/srv/web-5/vda.qcow2'/>
          <target dev='vda' bus='virtio'/>
          <boot order='1'/>
        </disk>
        <disk type='file' device='cdrom'>
          <driver name='qemu' type='raw'/>
          <source file='/srv/web-5/seed.iso'/>
          <target dev='sda' bus='sata'/>
          <readonly/>
          <serial>kld-seed</serial>
        </disk>
        <interface type='network'>
          <mac address='52:54:00:01:02:03'/>
          <source network='default'/>
          <model type='virtio'/>
        </interface>
        <serial type='pty'>
          <target type='isa-serial' port='0'/>
        </serial>
        <console type='pty'>
          <target type='serial' port='0'/>
        </console>
        <channel type='unix'>
          <target type='virtio' name='org.qemu.guest_agent.0'/>
        </channel>
        <memballoon model='virtio'/>
        <rng model='virtio'>
          <backend model='random'>/dev/urandom</backend>
        </rng>
      </devices>
    </domain>
    ");
}

#[test]
fn a_new_machine_with_an_installer_and_secure_boot() {
    let plain = new_domain().definition().unwrap().to_xml();
    let all = new_domain_with_all().definition().unwrap().to_xml();
    assert_snapshot!(diff(&plain, &all), @r"
    -<domain type='kvm'>
    +<domain type='qemu'>
    -  <title>Bob&apos;s &lt;web&gt;</title>
    -  <metadata>
    -    <libosinfo:libosinfo xmlns:libosinfo='http://libosinfo.org/xmlns/libvirt/domain/1.0'>
    -      <libosinfo:os id='http://debian.org/debian/13'/>
    -    </libosinfo:libosinfo>
    -  </metadata>
    -  <os>
    +  <os firmware='efi'>
    +    <firmware>
    +      <feature enabled='yes' name='enrolled-keys'/>
    +      <feature enabled='yes' name='secure-boot'/>
    +    </firmware>
    +    <loader secure='yes'/>
    +    <nvram>/srv/web-5/VARS.fd</nvram>
    +    <kernel>/boot/vmlinuz</kernel>
    +    <initrd>/boot/initrd.img</initrd>
    +    <cmdline>console=ttyS0 quiet</cmdline>
    +    <smm state='on'/>
    -  <cpu mode='host-passthrough'/>
    +  <cpu mode='maximum'/>
    +    <disk type='block' device='disk'>
    +      <driver name='qemu' type='raw' discard='unmap' detect_zeroes='unmap'/>
    +      <source dev='/dev/zvol/tank/web-5'/>
    +      <target dev='sda' bus='sata'/>
    +      <boot order='2'/>
    +    </disk>
    -      <driver name='qemu' type='qcow2' discard='unmap' detect_zeroes='unmap'/>
    -      <source file='/srv/web-5/vda.qcow2'/>
    +      <driver name='qemu' type='raw' discard='unmap' detect_zeroes='unmap'/>
    +      <source file='/srv/web-5/data.raw'/>
    +    </disk>
    +    <disk type='file' device='cdrom'>
    +      <driver name='qemu' type='raw'/>
    +      <source file='/srv/iso/debian.iso'/>
    +      <target dev='sdb' bus='sata'/>
    +      <readonly/>
    -      <target dev='sda' bus='sata'/>
    +      <target dev='sdc' bus='sata'/>
    -    <interface type='network'>
    +    <interface type='bridge'>
    -      <source network='default'/>
    +      <source bridge='br0'/>
    +    <graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'/>
    +    <video>
    +      <model type='virtio'/>
    +    </video>
    ");
}

#[test]
fn a_new_machine_is_read_back_as_it_was_meant() {
    for new in [new_domain(), new_domain_with_all()] {
        let made = new.definition().unwrap();
        let read = Definition::parse(&made.to_xml()).unwrap();
        assert_eq!(read, made);
        assert_eq!(read.name(), new.name.as_str());
        assert_eq!((read.uuid(), read.memory(), read.cpus()), (Some(new.uuid), new.memory, new.cpus));
        assert_eq!(read.seed(), new.seed);
        assert_eq!(read.interfaces()[0].mac, Some(new.mac));
        assert_eq!(read.disks().len(), new.disks.len() + usize::from(new.cdrom.is_some()) + 1);
    }
}

#[test]
fn what_is_no_definition_is_refused_with_its_reason() {
    let reason = |text: &str| match Definition::parse(text) {
        Ok(_) => "accepted".to_string(),
        Err(error) => error.to_string(),
    };
    let texts = [
        "",
        "hello",
        "<network/>",
        "<domain/>",
        "<domain><name></name></domain>",
        "<domain><name>a</name>",
        "<domain><name>a</domain>",
        "<domain a='1' a='2'/>",
        "<domain a='1'b='2'/>",
        "<domain a=1/>",
        "<domain a='<'/>",
        "<domain>&nbsp;</domain>",
        "<domain>&#0;</domain>",
        "<domain>&#x110000;</domain>",
        "<domain>a & b</domain>",
        "<domain>]]></domain>",
        "<domain>\u{1}</domain>",
        "<domain/><domain/>",
        "<domain/>text",
        "<!DOCTYPE domain [<!ENTITY a 'b'>]><domain/>",
        "<?xml version='1.0' encoding='ISO-8859-1'?><domain/>",
        "<domain><?xml version='1.0'?></domain>",
        "<1/>",
    ];
    let shown: Vec<String> = texts.iter().map(|text| format!("{text:?}: {}", reason(text))).collect();
    assert_snapshot!(shown.join("\n"), @r#"
    "": this is not XML that kld reads: it has no element
    "hello": this is not XML that kld reads: text stands outside of the root element (before byte 5)
    "<network/>": this is not a domain definition: its root is <network>
    "<domain/>": this is not a domain definition: it has no <name>
    "<domain><name></name></domain>": this is not a domain definition: it has no <name>
    "<domain><name>a</name>": this is not XML that kld reads: <domain> does not end
    "<domain><name>a</domain>": this is not XML that kld reads: ill-formed document: expected `</name>`, but `</domain>` was found
    "<domain a='1' a='2'/>": this is not XML that kld reads: <domain> has the attribute a twice (before byte 21)
    "<domain a='1'b='2'/>": this is not XML that kld reads: attributes of <domain> are not separated (before byte 20)
    "<domain a=1/>": this is not XML that kld reads: an attribute of <domain> is not written name='value' (before byte 13)
    "<domain a='<'/>": this is not XML that kld reads: an attribute of <domain> is not written name='value' (before byte 15)
    "<domain>&nbsp;</domain>": this is not XML that kld reads: it refers to '&nbsp;' (before byte 14)
    "<domain>&#0;</domain>": this is not XML that kld reads: it refers to '&#0;' (before byte 12)
    "<domain>&#x110000;</domain>": this is not XML that kld reads: it refers to '&#x110000;' (before byte 18)
    "<domain>a & b</domain>": this is not XML that kld reads: ill-formed document: entity or character reference not closed: `;` not found before end of input
    "<domain>]]></domain>": this is not XML that kld reads: text contains ]]> (before byte 11)
    "<domain>\u{1}</domain>": this is not XML that kld reads: it contains the character U+0001
    "<domain/><domain/>": this is not XML that kld reads: <domain> stands after the root element (before byte 18)
    "<domain/>text": this is not XML that kld reads: text stands outside of the root element (before byte 13)
    "<!DOCTYPE domain [<!ENTITY a 'b'>]><domain/>": this is not XML that kld reads: it has a document type, which a definition never has (before byte 35)
    "<?xml version='1.0' encoding='ISO-8859-1'?><domain/>": this is not XML that kld reads: it says that its encoding is ISO-8859-1, not UTF-8 (before byte 43)
    "<domain><?xml version='1.0'?></domain>": this is not XML that kld reads: an XML declaration stands in the middle (before byte 29)
    "<1/>": this is not XML that kld reads: '1' is not a name (before byte 4)
    "#);
}

#[test]
fn references_and_line_ends_mean_what_xml_says() {
    let document = Document::parse("<a b='1\n2\t3\r\n4&#10;&lt;\"'>x\r\ny\rz&#xe9;&apos;</a>").unwrap();
    assert_eq!(document.root().get("b"), Some("1 2 3 4\n<\""));
    assert_eq!(document.root().text(), "x\ny\nz\u{e9}'");
}

#[test]
fn texts_that_are_too_long_or_too_deep_are_refused() {
    let deep = |depth: usize| format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
    assert!(Document::parse(&deep(MAX_DEPTH)).is_ok());
    assert!(Document::parse(&deep(MAX_DEPTH + 1)).is_err());
    assert!(Document::parse(&deep(200_000)).is_err());
    assert!(Document::parse(&format!("<a>{}</a>", " ".repeat(MAX_SIZE))).is_err());
}

/// libvirt's own reader and writer, without a hypervisor: its test driver. `None` where it refuses.
fn through_libvirt(xml: &str) -> Option<String> {
    // All connections of one process see the same domains.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap();
    crate::libvirt::lazy::load().unwrap();
    let libvirt = virt::connect::Connect::open(Some("test:///default")).unwrap();
    let domain = virt::domain::Domain::define_xml(&libvirt, xml).ok()?;
    let read = domain.get_xml_desc(virt::sys::VIR_DOMAIN_XML_INACTIVE).unwrap();
    domain.undefine().unwrap();
    Some(read)
}

#[test]
fn what_kld_makes_is_read_by_libvirt_as_it_was_meant() {
    for new in [new_domain(), new_domain_with_all()] {
        let made = new.definition().unwrap();
        let read = Definition::parse(&through_libvirt(&made.to_xml()).unwrap()).unwrap();
        assert_eq!((read.name(), read.uuid()), (made.name(), made.uuid()));
        assert_eq!((read.memory(), read.cpus(), read.kind()), (new.memory, new.cpus, made.kind()));
        assert_eq!((read.seed(), read.nvram()), (new.seed.clone(), made.nvram()));
        assert_eq!(read.interfaces(), made.interfaces());
        let by_target = |mut disks: Vec<Disk>| {
            disks.sort_by(|a, b| a.target.cmp(&b.target));
            disks
        };
        assert_eq!(by_target(read.disks()), by_target(made.disks()));
    }
}

#[test]
fn marks_and_clones_survive_libvirt() {
    for name in ["running", "hostdev", "many-disks", "qemu-args", "by-hand"] {
        let mut definition = Definition::parse(&through_libvirt(&corpus(name).to_xml()).unwrap()).unwrap();
        let before = definition.to_xml();
        definition.set_template(true);
        let mut template = Definition::parse(&through_libvirt(&definition.to_xml()).unwrap()).unwrap();
        assert!(template.is_template(), "{name}");
        template.set_template(false);
        assert_eq!(through_libvirt(&template.to_xml()).unwrap(), before, "{name}");

        let mut macs = FreshMacs::default();
        let mut clone = corpus(name);
        clone.become_clone(&machine("clone-1"), fresh_uuid(), &mut |old| macs.replace(old));
        clone.set_seed(Path::new("/srv/clone/seed.iso")).unwrap();
        let read = Definition::parse(&through_libvirt(&clone.to_xml()).unwrap()).unwrap();
        assert_eq!((read.name(), read.uuid()), ("clone-1", Some(fresh_uuid())), "{name}");
        assert_eq!(read.seed(), Some("/srv/clone/seed.iso".into()), "{name}");
        assert_eq!(read.interfaces(), clone.interfaces(), "{name}");
    }
}

/// A tree whose adjacent pieces of text are one, as a reader sees them.
fn element() -> impl Strategy<Value = Element> {
    let name = "[a-z_][a-z0-9_.:-]{0,6}";
    let attributes = proptest::collection::btree_map(name, "[ -~\\t\\n\\r\u{e9}\u{1f600}]{0,12}", 0..4);
    let shell = (name, attributes).prop_map(|(name, attributes)| {
        attributes.into_iter().fold(Element::new(name), |element, (name, value)| element.with(&name, value))
    });
    let text = "[ -~\\t\\n\\r\u{e9}\u{1f600}]{1,12}";
    let leaf = (shell.clone(), proptest::option::of(text)).prop_map(|(element, text)| match text {
        Some(text) => element.with_text(text),
        None => element,
    });
    leaf.prop_recursive(5, 40, 5, move |inner| {
        (shell.clone(), proptest::collection::vec(inner, 1..5))
            .prop_map(|(element, children)| children.into_iter().fold(element, Element::with_child))
    })
}

/// Text that looks enough like XML to get far into the parser.
fn nearly_xml() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("<domain type='kvm'>"),
        Just("</domain>"),
        Just("<name>a</name>"),
        Just("<devices>"),
        Just("</devices>"),
        Just("<disk type='file' device='cdrom'>"),
        Just("</disk>"),
        Just("<target dev='sda' bus='sata'/>"),
        Just("<address type='drive' unit='-1' controller='99999999999999999999'/>"),
        Just("<source/>"),
        Just("<interface>"),
        Just("</interface>"),
        Just("<mac address=''/>"),
        Just("<metadata>"),
        Just("</metadata>"),
        Just("<memory unit='TiB'>99999999999999</memory>"),
        Just("<sysinfo type='fwcfg'/>"),
        Just("<!-- -->"),
        Just("<![CDATA[x]]>"),
        Just("&amp;"),
        Just("&#x"),
        Just("<"),
        Just("'"),
        Just(" "),
        Just("é"),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn use_everything(text: &str) {
    let Ok(mut definition) = Definition::parse(text) else { return };
    let _ = (definition.memory(), definition.cpus(), definition.kind().len(), definition.nvram());
    let _ = (definition.disks(), definition.interfaces(), definition.uncloneable());
    definition.set_seed(Path::new("/s")).unwrap();
    definition.set_nvram(Path::new("/n")).unwrap();
    definition.set_template(true);
    definition.become_clone(&machine("c"), fresh_uuid(), &mut |_| MacAddress::random_qemu());
    let written = definition.to_xml();
    let again = Definition::parse(&written).unwrap();
    assert_eq!((again.name(), again.uuid()), ("c", Some(fresh_uuid())));
    assert_eq!((again.seed(), again.nvram()), (Some("/s".into()), Some("/n".into())));
    assert_eq!(again.to_xml(), written);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn parsing_never_panics(text in "\\PC{0,120}") {
        use_everything(&text);
    }

    #[test]
    fn whatever_is_read_can_be_changed_and_read_again(text in nearly_xml()) {
        use_everything(&text);
        use_everything(&format!("<domain><name>a</name>{text}</domain>"));
        use_everything(&format!("<domain><name>a</name><devices>{text}</devices></domain>"));
    }

    #[test]
    fn what_is_written_is_read_as_the_same_tree(root in element()) {
        let mut document = Document::parse("<r/>").unwrap();
        *document.root_mut() = root.clone();
        let written = document.to_string();
        let read = Document::parse(&written).unwrap();
        prop_assert_eq!(read.root(), &root);
        prop_assert_eq!(read.to_string(), written);
    }
}
