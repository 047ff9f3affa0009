# Runs a command in a copy-on-write copy of a Debian tree. Called as
#   clean_room.sh outside ROOM TREE CARGO RUSTUP CI COMMAND...
# and by itself a second time in namespaces of its own, so that no mount and no process outlives it.
set -eu

outside() {
    room=$1
    # Ctrl-C ends the command; this stays to clean up.
    trap : INT TERM
    status=0
    unshare --mount --pid --fork --kill-child bash "$room/clean_room.sh" inside "$@" || status=$?
    rm -rf --one-file-system "$room"
    exit $status
}

inside() {
    room=$1 tree=$2 cargo=$3 rustup=$4 ci=$5
    shift 5
    root=$room/root
    overlay() { mkdir -p "$room/$2/upper" "$room/$2/work" "$3" && mount -t overlay -o "lowerdir=$1,upperdir=$room/$2/upper,workdir=$room/$2/work" kld "$3"; }
    overlay "$tree" tree "$root"
    # Rust, as rustup installed it, and the crates that cargo has fetched: nothing else of this host.
    mkdir -p "$root/root/.cargo/bin" "$root/root/.rustup" "$root/kld"
    mount --bind "$cargo/bin" "$root/root/.cargo/bin"
    mount --bind "$rustup" "$root/root/.rustup"
    mount -o remount,bind,ro "$root/root/.cargo/bin"
    mount -o remount,bind,ro "$root/root/.rustup"
    [ ! -d "$cargo/registry" ] || overlay "$cargo/registry" registry "$root/root/.cargo/registry"
    for file in config.toml config; do [ ! -f "$cargo/$file" ] || cp "$cargo/$file" "$root/root/.cargo/$file"; done
    cp -a "$room/sources/." "$root/kld/"
    cat /etc/resolv.conf >"$root/etc/resolv.conf"
    cat /etc/hosts >"$root/etc/hosts"
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    cd "$root"
    exec chroot . /usr/bin/env -i HOME=/root TERM="${TERM:-dumb}" LC_ALL=C.UTF-8 CI="$ci" RUSTUP_AUTO_INSTALL=0 \
        PATH=/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        /bin/sh -c 'cd /kld && exec "$@"' sh "$@"
}

"$@"
