# A libvirt host of its own in the lab, on the lab's own root and with a ZFS pool in a file. Called as
# `host.sh outside STATE KEEP POOL`; it lives as long as its standard input is open, as those on the private root do.
set -eu

outside() {
    state=$1 keep=$2 pool=$3
    # What tools mount below from now on, the host's libvirtd sees as well.
    mount --bind "$state" "$state"
    mount --make-shared "$state"
    mkdir "$state/pool"
    truncate --size=2G "$state/pool/disk"
    zpool create -o cachefile=none -O mountpoint=none -O compression=off "$pool" "$state/pool/disk"
    unshare --mount --propagation=slave --pid --net --fork bash "$state/host.sh" inside "$state" || true
    # udev may be looking at a device, and a test that was killed may have left the pool exported.
    for _ in $(seq 600); do
        [ -e "/proc/spl/kstat/zfs/$pool" ] || break
        zpool destroy -f "$pool" 2>/dev/null || sleep 0.1
    done
    umount -R "$state"
    [ "$keep" = keep ] || rm -rf --one-file-system "$state"
}

inside() {
    state=$1
    # The outer /proc still shows this process under the number that nsenter needs.
    read -r pid _ </proc/self/stat
    echo "$pid" >"$state/pid"
    mount -t proc proc /proc
    for folder in /etc/libvirt /var/cache/libvirt; do
        mkdir -p "$state/copy$folder"
        cp -a "$folder/." "$state/copy$folder/"
        mount --bind "$state/copy$folder" "$folder"
    done
    rm -rf /etc/libvirt/qemu
    cp "$state"/etc/*.conf /etc/libvirt/
    for folder in /run/libvirt /var/lib/libvirt /var/log/libvirt; do mount -t tmpfs -o mode=755 kld "$folder"; done
    serve "$state"
}

# One word a line on standard input starts libvirtd again after somebody ended it.
serve() {
    state=$1
    ip link set lo up
    while :; do
        libvirtd -f "$state/etc/libvirtd.conf" -p /run/libvirt/libvirtd.pid >>"$state/libvirtd.log" 2>&1 </dev/null &
        read -r _ || exit 0
    done
}

"$@"
