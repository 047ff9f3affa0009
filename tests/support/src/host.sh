# A libvirt host of its own. Called as `host.sh outside STATE KEEP ROOT CAPABILITIES FOLDER...`, and by itself a
# second time, inside its own mount, PID and network namespaces, as their first process.
#
# The whole lives as long as its standard input, a pipe from the process that wanted the host, is open: however
# that process ends, the kernel closes the pipe, the first process ends, and with it everything in its namespaces.
# (It is bash, since bash reaps the children that daemons leave to process 1.)
set -eu

outside() {
    state=$1 keep=$2
    unshare --mount --pid --net --fork bash "$state/host.sh" inside "$@" || true
    [ "$keep" = keep ] || rm -rf --one-file-system "$state"
}

inside() {
    state=$1 root=$3 capabilities=$4
    shift 4
    # The outer /proc still shows this process under the number that nsenter needs.
    read -r pid _ </proc/self/stat
    echo "$pid" >"$state/pid"

    # A root in memory around the private root's /usr, so that nothing is written there.
    new=$state/root
    mkdir -p "$new"
    mount -t tmpfs -o mode=755,size=256m kld "$new"
    cd "$new"
    mkdir -p usr boot etc proc sys dev run tmp root home var/tmp var/lib/libvirt var/log/libvirt var/cache/libvirt
    for name in bin sbin lib lib64; do ln -s "usr/$name" "$name"; done
    ln -s ../run var/run
    for folder in usr boot; do
        mount --bind "$root/$folder" "$folder"
        mount -o remount,bind,ro "$folder"
    done
    cp -a "$root/etc/." etc/
    rm -rf etc/libvirt/qemu
    cp "$state"/etc/*.conf etc/libvirt/
    rm -rf etc/libvirt/hooks
    ln -s "$state/hooks" etc/libvirt/hooks
    if [ -d "$capabilities" ]; then cp -a "$capabilities/." var/cache/libvirt/; fi
    mount -t proc proc proc
    mount -t sysfs sysfs sys
    mount --rbind /dev dev
    # A QEMU that is not root would find what libvirtd, as root, found out of KVM wrong, and libvirtd would ask it again
    # and again.
    if [ -e dev/kvm ] && ! grep -q '^user = "root"' "$state/etc/qemu.conf"; then
        mknod -m 666 run/kvm c 10 232
        mount --bind run/kvm dev/kvm
    fi
    for folder in "$@"; do
        mkdir -p "$new$folder"
        mount --bind "$folder" "$new$folder"
        mount -o remount,bind,ro "$new$folder"
    done
    mkdir -p "$new$state"
    mount --bind "$state" "$new$state"
    exec chroot . /bin/bash "$state/host.sh" serve "$state"
}

# One word a line on standard input starts libvirtd again after somebody ended it.
serve() {
    state=$1
    ip link set lo up
    mkdir -p /run/libvirt
    while :; do
        libvirtd -f "$state/etc/libvirtd.conf" -p /run/libvirt/libvirtd.pid >>"$state/libvirtd.log" 2>&1 </dev/null &
        read -r _ || exit 0
    done
}

"$@"
