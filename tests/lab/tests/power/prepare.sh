# What the tools are tried on: a machine with two disks, a seed, two snapshots and a clone; and a bystander.
set -eu
qemu-img create -q -f qcow2 /root/debian.qcow2 8M
qemu-io -f qcow2 -c 'write -P 0x6b 0 1M' /root/debian.qcow2 >/dev/null
write() {
    udevadm settle
    for disk in vda vdb; do
        head -c 65536 /dev/zero | tr '\0' "$1" | dd of=/dev/zvol/tank/kld/src/$disk bs=64k seek=16 oflag=direct conv=nocreat status=none
    done
}
kvm-create bystander --from /root/debian.qcow2 --memory 64M --cloud-init
kvm-create src --from /root/debian.qcow2 --disk 8M --disk 4M --memory 64M --user admin
write a
kvm-snap src create one
write b
kvm-snap src create two
write c
kvm-clone src spare
write d
sync
zpool sync
