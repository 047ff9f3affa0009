# Builds the demo guest: `build.sh SOURCE OUT`, run inside a private host, where /usr and /boot are the private
# root's. OUT gets vmlinuz, initramfs and a disk that boots them under a BIOS: one FAT partition with syslinux.
set -eu
source=$1 out=$2
kernel=$(ls /usr/lib/modules)
modules=/usr/lib/modules/$kernel

# The initramfs: busybox, an init, and the modules it loads, in the order in which they need each other.
tree=$out/tree
mkdir -p "$tree/bin" "$tree/dev" "$tree/proc" "$tree/sys" "$tree/seed" "$tree/tmp" "$tree/modules" "$tree/etc/acpi/PWRF"
cp /usr/bin/busybox "$tree/bin/busybox"
ln -s busybox "$tree/bin/sh"
install -m 755 "$source/init.sh" "$tree/init"
install -m 755 "$source/agent.sh" "$tree/bin/agent"
install -m 755 "$source/mark.sh" "$tree/bin/mark"
install -m 755 "$source/dhcp.sh" "$tree/bin/dhcp"
printf '#!/bin/sh\nsync\npoweroff -f\n' >"$tree/etc/acpi/PWRF/00000080"
chmod 755 "$tree/etc/acpi/PWRF/00000080"
add() {
    local path name deps
    name=${1##*/} name=${name%.ko*}
    [ ! -e "$tree/modules/$name.ko" ] || return 0
    deps=$(grep -E "/${name}\.ko(\.[a-z]+)?:" "$modules/modules.dep" || true)
    # No line: it is built into the kernel.
    [ -n "$deps" ] || return 0
    path=${deps%%:*}
    # The last one named is the one that needs nothing.
    for needed in $(printf '%s\n' ${deps#*:} | tac); do add "$needed"; done
    case $path in
    *.xz) busybox xz -dc "$modules/$path" >"$tree/modules/$name.ko" ;;
    *) cp "$modules/$path" "$tree/modules/$name.ko" ;;
    esac
    echo "$name" >>"$tree/modules/order"
}
for name in virtio_pci virtio_blk isofs sr_mod ahci virtio_scsi sd_mod vfat nls_cp437 nls_iso8859-1 nls_ascii \
    button evdev virtio_net; do
    add "$name"
done
(cd "$tree" && find . -print0 | sort -z | cpio --quiet --null --create --format=newc --owner=0:0 --reproducible) >"$out/initramfs"
cp "/boot/vmlinuz-$kernel" "$out/vmlinuz"
rm -rf "$tree"

# The disk. Bytes 512 to 1 MiB, between the boot record and the partition, are free: the mark is kept there.
disk=$out/disk.raw
truncate -s 64M "$disk"
mformat -i "$disk@@1M" -T 129024 -h 64 -s 32 -v KLDGUEST ::
mcopy -i "$disk@@1M" "$out/vmlinuz" ::/vmlinuz
mcopy -i "$disk@@1M" "$out/initramfs" ::/initramfs
mcopy -i "$disk@@1M" "$source/syslinux.cfg" ::/syslinux.cfg
syslinux --install --offset 1048576 "$disk"
dd if=/usr/lib/SYSLINUX/mbr.bin of="$disk" conv=notrunc status=none
# One active partition of type FAT16 (LBA) from sector 2048, 129024 sectors long; then the record's signature.
printf '\200\376\377\377\016\376\377\377\000\010\000\000\000\370\001\000' | dd of="$disk" bs=1 seek=446 conv=notrunc status=none
printf '\125\252' | dd of="$disk" bs=1 seek=510 conv=notrunc status=none
qemu-img convert -q -O qcow2 "$disk" "$out/guest.qcow2"
rm "$disk"
