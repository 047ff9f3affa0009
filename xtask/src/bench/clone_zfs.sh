# Runs inside a lab: kvm-clone on a pool beside its peers, in turns. clone_zfs.sh ROUNDS BOOTS
# Prints "sample CASE SIDE NUMBER" for each measurement, "timing: PHASE N ms" as the tools do, and "note ..." for people.
set -eu
rounds=$1 boots=$2
pool=tank root=tank/kld
export KLD_STORE=zfs KLD_ZFS_ROOT=$root
kernel=$(echo /boot/vmlinuz-*)

# Runs a command and prints its time; what it says goes to the standard error.
timed() {
    local case=$1 side=$2 began ended
    shift 2
    began=$EPOCHREALTIME
    "$@" >&2
    ended=$EPOCHREALTIME
    awk -v us=$((${ended/./} - ${began/./})) -v of="$case $side" 'BEGIN { printf "sample %s %.2f\n", of, us / 1000 }'
}

# A device that was just closed is busy for a while: udev looks at it.
patiently() {
    for attempt in $(seq 100); do "$@" 2>/tmp/why && return; sleep 0.1; done
    cat /tmp/why >&2
    return 1
}

# What the pool has allocated, when all that was freed is free.
allocated() {
    zpool wait -t free $pool
    zpool sync $pool
    zpool sync $pool
    zpool list -Hp -o allocated $pool
}

quiet() { udevadm settle --timeout=30; }
