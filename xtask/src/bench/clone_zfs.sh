# Runs inside a lab: kvm-clone on a pool beside its peers, in turns. Arguments: how often each clones, and how often
# each boots what it has cloned. Prints "sample CASE SIDE NUMBER" for each measurement, the tools' "timing:" lines, and
# "note ..." for people; what the programs say goes to the standard error.
set -eu
rounds=$1 boots=$2
pool=tank root=tank/kld volume=tank/kld/template/vda
# A busy lab starts a guest in minutes.
export KLD_STORE=zfs KLD_ZFS_ROOT=$root KLD_LIBVIRT_TIMEOUT=300

# Prints a sample in thousandths of what is given.
sample() {
    printf 'sample %s %s %d.%03d\n' "$1" "$2" $(($3 / 1000)) $(($3 % 1000))
}

# timed CASE SIDE COMMAND...: runs it and prints its time in milliseconds.
timed() {
    local case=$1 side=$2 began ended
    shift 2
    began=$EPOCHREALTIME
    "$@" >&2 || return 1
    ended=$EPOCHREALTIME
    sample "$case" "$side" $((${ended/./} - ${began/./}))
}

# A device that was just closed is busy for a while: udev looks at it.
patiently() {
    for _ in $(seq 100); do "$@" 2>/tmp/why && return; sleep 0.1; done
    cat /tmp/why >&2
    return 1
}

# Nobody pays for what another has left to do.
rest() {
    udevadm settle --timeout=60
    zpool wait -t free $pool
    zpool sync $pool
}

# The pool's allocated bytes once all that was freed is free.
allocated() {
    rest
    zpool sync $pool
    zpool list -Hp -o allocated $pool
}

# What people write.
clone_in_shell() {
    zfs snapshot $volume@peer && zfs clone $volume@peer $pool/peer &&
        virsh -q dumpxml template |
        sed -e 's|<name>template|<name>peer|' -e '/<uuid>/d' -e '/<mac /d' -e "s|/dev/zvol/$volume|/dev/zvol/$pool/peer|" |
            virsh -q define /proc/self/fd/0
}

forget_peer() {
    virsh -q undefine peer >&2
    rest
    patiently zfs destroy $pool/peer
    patiently zfs destroy $volume@peer
}

node_of() {
    until test -b "/dev/zvol/$1"; do sleep 0.01; done
}

# The guest's own first words, on its serial console.
userland() {
    local until=$((SECONDS + 300))
    until [[ $(tr -d '\0' </tmp/serial) == *'userland is here'* ]]; do
        ((SECONDS < until)) || return 1
        sleep 0.1
    done
}

start_incus() {
    PATH=$PATH:/usr/libexec/incus setsid incusd --group root >>/tmp/incusd 2>&1 &
    incus admin waitready --timeout 300 >&2
}

# An empty virtual machine of Incus. When it starts, it gives QEMU ten seconds to say what it can do: not enough where
# QEMU is translated, busy and not in memory yet.
prepare_incus() {
    qemu-system-x86_64 -machine none -S -display none -monitor none -daemonize -pidfile /tmp/warm && kill "$(cat /tmp/warm)"
    zfs create $pool/incus
    for _ in 1 2 3; do
        start_incus
        incus storage show pool >/dev/null 2>&1 || incus storage create pool zfs source=$pool/incus >&2
        incus init --empty --vm base -s pool -d root,size=10GiB >&2 && return
        incus admin shutdown >&2 || true
        sleep 2
    done
    return 1
}

prepare() {
    zpool create -O mountpoint=none $pool /dev/disk/by-id/virtio-data1
    zfs create $root
    truncate -s 10G /tmp/image
    dd if=/dev/urandom of=/tmp/image bs=1M count=16 conv=notrunc status=none
    kvm-create template --from /tmp/image --from-format raw --memory 160M --network none >&2
    mkdir -p /tmp/guest/bin
    cp /usr/bin/busybox /tmp/guest/bin
    ln -s busybox /tmp/guest/bin/sh
    printf '%s\n' '#!/bin/sh' 'echo userland is here' 'exec /bin/busybox sleep 1000' >/tmp/guest/init
    chmod +x /tmp/guest/init
    (cd /tmp/guest && find . | cpio --quiet -o -H newc >/tmp/initramfs)
    cat >/tmp/template.xml <<XML
<domain type='kvm'><name>template</name><uuid>$(virsh -q domuuid template)</uuid><memory unit='MiB'>160</memory>
<vcpu>1</vcpu><os><type machine='q35'>hvm</type><kernel>$(echo /boot/vmlinuz-*)</kernel><initrd>/tmp/initramfs</initrd>
<cmdline>console=ttyS0 quiet panic=-1</cmdline></os><cpu mode='host-passthrough'/><features><acpi/></features>
<devices><disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/zvol/$volume'/>
<target dev='vda' bus='virtio'/></disk><serial type='file'><source path='/tmp/serial'/></serial>
<memballoon model='none'/></devices></domain>
XML
    virsh -q define /tmp/template.xml >&2
    # It has been cloned before.
    kvm-clone template first >&2
    virsh -q dumpxml first >&2
}

measure_clones() {
    timed one kld kvm-clone template web --timings 2>/tmp/said
    grep '^timing: ' /tmp/said
    timed node kld node_of $root/web/vda
    kvm-delete web >&2
    rest
    timed one bare kvm-clone template web --no-seed
    kvm-delete web >&2
    rest

    timed one shell clone_in_shell
    forget_peer

    zfs snapshot $volume@peer
    zfs clone $volume@peer $pool/peer
    node_of $pool/peer
    rest
    timed one virt-clone virt-clone -q --original template --name peer --preserve-data --file /dev/zvol/$pool/peer
    forget_peer

    if [ -n "$incus" ]; then
        rest
        timed one incus incus copy base copy
        incus delete copy >&2
    fi
    rest

    timed ten kld kvm-clone template --count 10 --prefix web-
    kvm-delete web-{1..10} >&2
    rest
}

# What ten clones take, what is left when they are gone, and what plain commands leave that do the same.
measure_space() {
    local before with after
    before=$(allocated)
    kvm-clone template --count 10 --prefix web- >&2
    with=$(allocated)
    sample space kld $(((with - before) * 1000 / 10240))
    kvm-delete web-{1..10} >&2
    after=$(allocated)
    sample left kld $(((after - before) * 1000 / 1024))

    before=$after
    zfs snapshot $volume@peer
    for n in {1..10}; do
        zfs create -o mountpoint=/tmp/peer-$n $pool/peer-$n
        virsh -q dumpxml first >/tmp/peer-$n/domain.xml
        zfs clone -o volmode=dev $volume@peer $pool/peer-$n/vda
    done
    rest
    for n in {1..10}; do patiently zfs destroy -r $pool/peer-$n; done
    patiently zfs destroy $volume@peer
    after=$(allocated)
    sample left zfs $(((after - before) * 1000 / 1024))
}

clone_and_boot() { kvm-clone template web --start "$@" && userland; }

clone_in_shell_and_boot() { clone_in_shell && virsh -q start peer && userland; }

measure_boots() {
    : >/tmp/serial
    timed boot kld clone_and_boot
    kvm-delete web --force >&2
    rest
    : >/tmp/serial
    timed boot bare clone_and_boot --no-seed
    kvm-delete web --force >&2
    rest
    : >/tmp/serial
    timed boot shell clone_in_shell_and_boot
    virsh -q destroy peer >&2
    forget_peer
}

prepare
incus=yes
prepare_incus || { incus=; echo "note Incus does not serve: $(tail -n 1 /tmp/incusd)"; }
rest
for _ in $(seq "$rounds"); do measure_clones; done
for _ in 1 2 3; do measure_space; done
for _ in $(seq "$boots"); do measure_boots || { echo "note a guest did not boot"; break; }; done
