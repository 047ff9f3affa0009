#!/bin/sh
# The demo guest's whole userland. Its shell runs busybox's applets without links or a search path, through
# /proc/self/exe.
/bin/busybox mount -t proc proc /proc
mount -t devtmpfs dev /dev
mount -t sysfs sys /sys
while read -r module; do insmod "/modules/$module.ko"; done </modules/order

# NoCloud: an ISO or FAT volume on whatever bus, an ISO labelled cidata. (busybox's findfs sees no volume as small as
# these may be.) Optical drives take a while to be there.
label() { dd if="$1" bs=8 skip=4101 count=1 2>/dev/null | tr A-Z a-z; }
medium() {
    for device in /dev/sr? /dev/vd? /dev/sd?; do
        [ -b "$device" ] || continue
        case $(label "$device") in
        cidata*) mount -r -t iso9660 "$device" /seed || continue ;;
        *) mount -r -t vfat "$device" /seed || continue ;;
        esac
        [ ! -f /seed/meta-data ] || return 0
        umount /seed
    done
    return 1
}
tries=0
until medium 2>/dev/null || [ $tries -ge 60 ]; do
    tries=$((tries + 1))
    usleep 50000
done
field() { sed -n "s/^[\"{ ]*$1\"*: *[\"']*\([A-Za-z0-9._-]*\).*/\1/p" /seed/meta-data | head -n 1; }
name=localhost instance=none
if [ -f /seed/meta-data ]; then
    name=$(field local-hostname) instance=$(field instance-id)
fi
hostname "${name:=localhost}"

echo "kld-guest: I am $name (instance ${instance:-none})"
mark=$(mark 2>/dev/null)
[ -z "$mark" ] || echo "kld-guest: vda bears '$mark'"

acpid -c /etc/acpi -p /tmp/acpid.pid -l /tmp/acpid.log
agent >/dev/null 2>&1 &
ip link set lo up
if [ -d /sys/class/net/eth0 ]; then
    ip link set eth0 up
    udhcpc -b -i eth0 -x "hostname:$name" -s /bin/dhcp >/dev/null 2>&1 &
fi

export HOME=/ PS1="root@$name:\\w# "
while :; do
    printf '\n%s login: ' "$name"
    # Whoever logs in is root and needs no password: there is nothing here to protect.
    read -r user && [ -n "$user" ] && setsid cttyhack sh
done
