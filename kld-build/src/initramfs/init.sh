#!/bin/sh
# The guest's first process. With kld.root on the command line it mounts the disk of the serial number "root", an erofs
# image, under a layer in memory, and goes on from there as /run/kld/init; without, the initramfs is all there is.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb

# The kernel's own farewell would hide the last line.
give_up() {
    echo 0 >/proc/sys/kernel/printk
    echo "kld: $1"
    poweroff -f
}

begin() {
    /bin/busybox --install -s /bin
    mount -t proc proc /proc
    mount -t sysfs sys /sys
    mount -t devtmpfs dev /dev
    while read -r module; do insmod "/modules/$module"; done </modules/order
    grep -qw kld.root /proc/cmdline || serve /agent

    tries=0
    until disk=$(grep -lx root /sys/block/*/serial); do
        tries=$((tries + 1))
        [ $tries -lt 500 ] || give_up "no disk bears the serial number root"
        sleep 0.02
    done
    disk=${disk%/serial}
    mkdir /layer/image /layer/memory /layer/whole
    mount -t erofs -o ro "/dev/${disk##*/}" /layer/image || give_up "cannot mount the root image"
    mount -t tmpfs -o size=75% memory /layer/memory
    mkdir /layer/memory/upper /layer/memory/work
    mount -t overlay -o lowerdir=/layer/image,upperdir=/layer/memory/upper,workdir=/layer/memory/work whole /layer/whole
    whole=/layer/whole
    mount -t tmpfs -o mode=755 run $whole/run
    mkdir -p $whole/run/kld $whole/run/lock
    cp /agent $whole/run/kld/agent
    cp /init $whole/run/kld/init
    for folder in dev proc sys; do mount --move /$folder $whole/$folder; done
    exec switch_root $whole /run/kld/init serve /run/kld/agent
}

# Runs the agent, and reaps what daemons leave behind.
serve() {
    mkdir -p /dev/pts /dev/shm /tmp
    mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
    mount -t tmpfs shm /dev/shm
    mount -t tmpfs tmp /tmp
    ln -sfn /proc/self/fd /dev/fd
    echo 0 >/proc/sys/kernel/printk
    ip link set lo up
    echo "kld: ready"
    "$1" </dev/null &
    while :; do
        wait
        sleep 1
    done
}

case ${1-} in
serve) serve "$2" ;;
*) begin ;;
esac
