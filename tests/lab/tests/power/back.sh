# The host after its power is back: file systems, the pool, libvirt. With "first" all of it is made.
set -eu
disk=/dev/disk/by-id/virtio-data
if [ "${1-}" = first ]; then
    mkfs.ext4 -q ${disk}2
    mkfs.ext4 -q ${disk}3
    # udev may be late with the link of the partition that zpool has just made.
    make() { zpool create "$@" -O compression=off -O mountpoint=none tank ${disk}1; }
    make || { udevadm settle; make -f; }
    zfs create tank/kld
    zfs create -u tank/kld/foreign
fi
mkdir -p /var/lib/kld
# The lab's kernel has seen the disk when it was empty.
[ "${1-}" = first ] || blockdev --rereadpt ${disk}1
# The journal and libvirt's definitions are on file systems of their own: one may have what the other has lost.
mount ${disk}2 /var/lib/kld
mount ${disk}3 /etc/libvirt/qemu
[ "${1-}" = first ] || { udevadm settle; zpool import -f -d /dev/disk/by-id tank; }
libvirtd --daemon
