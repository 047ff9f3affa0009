use std::fs;

use kld_cli_tests::{home, only_on};
use kld_test_support::host::Store;

use crate::table::{host, refused};

#[test]
fn an_image_that_is_none_or_that_names_other_files_is_refused() {
    let (host, image) = host();
    let home = home(&host);
    let path = |name: &str| home.join(name).display().to_string();
    let make = |args: &[&str]| host.qemu_img([&["create", "-q"], args].concat()).ok();
    fs::write(path("text.qcow2"), "This is not an image.\n").unwrap();
    fs::write(path("empty.qcow2"), "").unwrap();
    fs::write(path("disk.raw.bin"), vec![0; 1 << 20]).unwrap();
    fs::write(path("empty.raw"), "").unwrap();
    fs::write(path("short.qcow2"), &fs::read(&image).unwrap()[..50]).unwrap();
    fs::write(path("cut.qcow2"), &fs::read(&image).unwrap()[..70_000]).unwrap();
    let mut newer = fs::read(&image).unwrap();
    newer[7] = 9;
    fs::write(path("newer.qcow2"), newer).unwrap();
    make(&["-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", "-u", &path("thief.qcow2"), "1M"]);
    make(&["-f", "qcow2", "-b", &image, "-F", "qcow2", &path("overlay.qcow2")]);
    make(&["-f", "qcow2", "-b", "nbd://127.0.0.1/", "-F", "raw", "-u", &path("remote.qcow2"), "1M"]);
    make(&["-f", "vmdk", &path("disk.vmdk"), "1M"]);
    make(&["-f", "vdi", &path("disk.img"), "1M"]);
    make(&[
        "-f",
        "qcow2",
        "--object",
        "secret,id=s,data=abc",
        "-o",
        "encrypt.format=luks,encrypt.key-secret=s",
        &path("secret.qcow2"),
        "1M",
    ]);
    make(&["-f", "qcow2", "-o", &format!("data_file={}", path("data.raw")), &path("external.qcow2"), "1M"]);
    fs::create_dir(path("folder")).unwrap();
    std::os::unix::fs::symlink("nowhere", path("dangling.qcow2")).unwrap();
    let lines: Vec<String> = [
        "nothing-there.qcow2",
        "text.qcow2",
        "empty.qcow2",
        "disk.raw.bin",
        "short.qcow2",
        "cut.qcow2",
        "newer.qcow2",
        "thief.qcow2",
        "overlay.qcow2",
        "remote.qcow2",
        "disk.vmdk",
        "disk.img",
        "secret.qcow2",
        "external.qcow2",
        "folder",
        "dangling.qcow2",
        "empty.raw --from-format raw",
        "disk.vmdk --from-format qcow2",
    ]
    .iter()
    .map(|words| format!("kvm-create new --from {}", path(words)))
    .chain([
        format!("kvm-create new --from {image} --disk 1G"),
        "kvm-create new --from /dev/null".to_string(),
    ])
    .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    insta::assert_snapshot!(refused(&host, &lines), @"
    $ kvm-create new --from ~/nothing-there.qcow2
    exit 1
    error: cannot open ~/nothing-there.qcow2: No such file or directory

    $ kvm-create new --from ~/text.qcow2
    exit 1
    error: '~/text.qcow2' is not a qcow2 image
    hint: add --from-format raw if it is a raw disk

    $ kvm-create new --from ~/empty.qcow2
    exit 1
    error: '~/empty.qcow2' is not a qcow2 image
    hint: add --from-format raw if it is a raw disk

    $ kvm-create new --from ~/disk.raw.bin
    exit 1
    error: '~/disk.raw.bin' is not a qcow2 image
    hint: add --from-format raw if it is a raw disk

    $ kvm-create new --from ~/short.qcow2
    exit 1
    error: '~/short.qcow2' is not a qcow2 image that kld can use: it ends in the middle of the header

    $ kvm-create new --from ~/cut.qcow2
    exit 1
    error: '~/cut.qcow2' is not a qcow2 image that kld can use: its l1_table_offset is 196608, but the L1 table must end before the file does

    $ kvm-create new --from ~/newer.qcow2
    exit 1
    error: '~/newer.qcow2' is not a qcow2 image that kld can use: its qcow version is 9, and only 2 and 3 are known

    $ kvm-create new --from ~/thief.qcow2
    exit 4
    error: the image ~/thief.qcow2 stands on another file, '/etc/shadow'
    hint: make one file of it: qemu-img convert -O qcow2 ~/thief.qcow2 NEW.qcow2

    $ kvm-create new --from ~/overlay.qcow2
    exit 4
    error: the image ~/overlay.qcow2 stands on another file, '~/debian.qcow2'
    hint: make one file of it: qemu-img convert -O qcow2 ~/overlay.qcow2 NEW.qcow2

    $ kvm-create new --from ~/remote.qcow2
    exit 4
    error: the image ~/remote.qcow2 stands on another file, 'nbd://127.0.0.1/'
    hint: make one file of it: qemu-img convert -O qcow2 ~/remote.qcow2 NEW.qcow2

    $ kvm-create new --from ~/disk.vmdk
    exit 1
    error: '~/disk.vmdk' is a VMDK file, not a qcow2 image
    hint: convert it first: qemu-img convert -O qcow2 '~/disk.vmdk' NEW.qcow2

    $ kvm-create new --from ~/disk.img
    exit 1
    error: '~/disk.img' is a VDI file, not a qcow2 image
    hint: convert it first: qemu-img convert -O qcow2 '~/disk.img' NEW.qcow2

    $ kvm-create new --from ~/secret.qcow2
    exit 1
    error: '~/secret.qcow2' is an encrypted image, which kld does not support
    hint: decrypt it: qemu-img convert with --object secret, from '~/secret.qcow2'

    $ kvm-create new --from ~/external.qcow2
    exit 1
    error: '~/external.qcow2' is not a qcow2 image that kld can use: its data is in an external data file
    hint: make one file of it: qemu-img convert -O qcow2 '~/external.qcow2' NEW.qcow2

    $ kvm-create new --from ~/folder
    exit 1
    error: '~/folder' is a folder, not a regular file

    $ kvm-create new --from ~/dangling.qcow2
    exit 1
    error: '~/dangling.qcow2' is a symbolic link, not a regular file
    hint: name the file that the link points to

    $ kvm-create new --from ~/empty.raw --from-format raw
    exit 1
    error: the image ~/empty.raw is empty

    $ kvm-create new --from ~/disk.vmdk --from-format qcow2
    exit 1
    error: '~/disk.vmdk' is a VMDK file, not a qcow2 image
    hint: convert it first: qemu-img convert -O qcow2 '~/disk.vmdk' NEW.qcow2

    $ kvm-create new --from ~/debian.qcow2 --disk 1G
    exit 2
    error: the disk vda of new would have 1 GiB, and the image ~/debian.qcow2 has 10 GiB
    hint: a disk cannot be smaller than its image; leave out the size to take the image's

    $ kvm-create new --from /dev/null
    exit 1
    error: '/dev/null' is a character device, not a regular file
    ");
}

#[test]
fn sizes_networks_and_files_that_cannot_be_are_refused() {
    let (host, _) = host();
    insta::assert_snapshot!(refused(&host, &[
        "kvm-create new --disk 0",
        "kvm-create new --disk -5G",
        "kvm-create new --disk 5Q",
        "kvm-create new --disk 99999999999T",
        "kvm-create new --memory 0",
        "kvm-create new --memory much",
        "kvm-create new --cpus 0",
        "kvm-create new --network no-such-net",
        "kvm-create new --network a;b",
        "kvm-create new --bridge a/b",
        "kvm-create new --bridge br0 --network default",
        "kvm-create new --iso /nonexistent.iso",
        "kvm-create new --os <os>",
        "kvm-create new --ssh-key /nonexistent.pub",
        "kvm-create new --ssh-key /dev/null/x",
        "kvm-create new --user-data /nonexistent.yaml",
        "kvm-create new --user bad:user",
        "kvm-create new --package -rf",
        "kvm-create new --hostname a_b/c",
        "kvm-create new --store nfs",
        "kvm-create",
    ]), @"
    $ kvm-create new --disk 0
    exit 2
    error: the disk vda of new has the size 0
    hint: say how large it is, such as 10G

    $ kvm-create new --disk -5G
    exit 2
    error: unexpected argument '-5' found

      tip: to pass '-5' as a value, use '-- -5'

    Usage: kvm-create [OPTIONS] <NAME>

    For more information, try '--help'.

    $ kvm-create new --disk 5Q
    exit 2
    error: '5Q' is not a size
    hint: write a number and a unit, such as 512M, 10G or 1.5T

    $ kvm-create new --disk 99999999999T
    exit 2
    error: the size '99999999999T' is too large
    hint: the largest size is below 16E

    $ kvm-create new --memory 0
    exit 2
    error: 0 B of memory is too little
    hint: write a size such as 512M or 4G

    $ kvm-create new --memory much
    exit 2
    error: 'much' is not a size
    hint: write a number and a unit, such as 512M, 10G or 1.5T

    $ kvm-create new --cpus 0
    exit 2
    error: invalid value '0' for '--cpus <N>': 0 is not in 1..=4096

    For more information, try '--help'.

    $ kvm-create new --network no-such-net
    exit 1
    error: there is no virtual network 'no-such-net'
    hint: choose one with --network or --bridge; --network none makes a machine without

    $ kvm-create new --network 'a;b'
    exit 2
    error: 'a;b' is not the name of a network
    hint: use letters, digits, '.', '_' and '-'

    $ kvm-create new --bridge a/b
    exit 2
    error: 'a/b' is not the name of a bridge
    hint: use letters, digits, '.', '_' and '-'

    $ kvm-create new --bridge br0 --network default
    exit 2
    error: the argument '--bridge <NAME>' cannot be used with '--network <NAME>'

    Usage: kvm-create --bridge <NAME> <NAME>

    For more information, try '--help'.

    $ kvm-create new --iso /nonexistent.iso
    exit 1
    error: there is no installation medium /nonexistent.iso

    $ kvm-create new --os <os>
    exit 2
    error: '<os>' is not the name of an operating system
    hint: use letters, digits, '.', '_' and '-'

    $ kvm-create new --ssh-key /nonexistent.pub
    exit 2
    error: there is no file /nonexistent.pub

    $ kvm-create new --ssh-key /dev/null/x
    exit 2
    error: there is no file /dev/null/x

    $ kvm-create new --user-data /nonexistent.yaml
    exit 2
    error: there is no file /nonexistent.yaml

    $ kvm-create new --user bad:user
    exit 2
    error: 'bad:user' is not a user name
    hint: use lower-case letters, digits, '_' and '-', starting with a letter or '_', at most 32

    $ kvm-create new --package -rf
    exit 2
    error: unexpected argument '-r' found

      tip: to pass '-r' as a value, use '-- -r'

    Usage: kvm-create [OPTIONS] <NAME>

    For more information, try '--help'.

    $ kvm-create new --hostname a_b/c
    exit 2
    error: the machine name 'a_b/c' contains '/'
    hint: use letters, digits, '.', '_' and '-', starting with a letter or a digit, at most 63 bytes

    $ kvm-create new --store nfs
    exit 2
    error: there is no store 'nfs'
    hint: known here: zfs, dir

    $ kvm-create
    exit 2
    error: the following required arguments were not provided:
      <NAME>

    Usage: kvm-create <NAME>

    For more information, try '--help'.
    ");
}

/// A machine's disk that somebody damaged or took away.
#[test]
fn a_source_whose_disk_is_gone_or_damaged_is_told() {
    if only_on(Store::Dir, "its files can be damaged one by one") {
        return;
    }
    let (host, _) = host();
    let listed = host.virsh(["domblklist", "src"]).ok();
    let disk = listed.split_whitespace().find(|word| word.ends_with(".qcow2")).unwrap().to_string();
    let lines = ["kvm-clone src web", "kvm-clone src web --full", "kvm-snap src create one", "kvm-start src"];
    fs::rename(&disk, format!("{disk}.away")).unwrap();
    insta::assert_snapshot!(refused(&host, &lines), @"
    $ kvm-clone src web
    exit 1
    error: cannot open [host]/store/volumes/src.vda.[id].qcow2: No such file or directory

    $ kvm-clone src web --full
    exit 1
    error: cannot open [host]/store/volumes/src.vda.[id].qcow2: No such file or directory

    $ kvm-snap src create one
    exit 1
    error: cannot open [host]/store/volumes/src.vda.[id].qcow2: No such file or directory

    $ kvm-start src
    exit 1
    error: cannot start src: Cannot access storage file '[host]/store/volumes/src.vda.[id].qcow2' (as uid:0, gid:0): No such file or directory
    ");
    fs::write(&disk, "rubbish").unwrap();
    insta::assert_snapshot!(refused(&host, &lines), @r#"
    $ kvm-clone src web
    exit 1
    error: '[host]/store/volumes/src.vda.[id].qcow2' is not qcow2

    $ kvm-clone src web --full
    exit 1
    error: '[host]/store/volumes/src.vda.[id].qcow2' is not qcow2

    $ kvm-snap src create one
    exit 1
    error: '[host]/store/volumes/src.vda.[id].qcow2' is not qcow2

    $ kvm-start src
    exit 1
    error: cannot start src: its emulator ended: qemu-system-x86_64: -blockdev {"node-name":"libvirt-2-format","read-only":false,"discard":"unmap","detect-zeroes":"unmap","driver":"qcow2","file":"libvirt-2-storage","backing":null}: Image is not in qcow2 format
    "#);
    // It can still be looked at and deleted.
    host.run("kvm-list", [""; 0]).ok();
    host.run("kvm-delete", ["src"]).ok();
}
