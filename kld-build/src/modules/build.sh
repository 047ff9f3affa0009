# Compiles OpenZFS's kernel modules: build.sh TREE OUT LOG KERNEL ZFS. TREE is a root tree with a compiler and the
# kernel's headers; OUT gets modules.tar.zst. It runs in a mount namespace of its own.
set -eu
tree=$1 out=$2 log=$3 kernel=$4 zfs=$5
exec >>"$log"

mount --bind "$tree" "$tree"
cd "$tree"
mount -t proc proc proc
mount -t tmpfs -o size=3g tmp tmp
mount --bind /dev dev
# mmdebstrap's lists may be older than the mirror, which keeps the newest versions only.
chroot . apt-get -q update
chroot . sh -c 'cd /tmp && apt-get -q download "zfs-dkms=$1" && dpkg-deb -x zfs-dkms_*.deb x' sh "$zfs"

# The headers of one architecture, and those that all share.
objects=/usr/src/linux-headers-$kernel
common=/usr/src/linux-headers-${kernel%-*}-common
chroot . sh -euc '
    cd /tmp/x/usr/src/zfs-*
    ./configure --disable-dependency-tracking --prefix=/usr --with-config=kernel --with-linux="$1" --with-linux-obj="$2"
    make -s -j"$(nproc)"
    updates=/tmp/out/lib/modules/$3/updates
    mkdir -p "$updates"
    find module -name "*.ko" -exec cp {} "$updates" \;
    strip -g "$updates"/*.ko
    tar -C /tmp/out --sort=name --owner=0 --group=0 --numeric-owner -cf - lib | zstd -q -12 -o /tmp/modules.tar.zst
' sh "$common" "$objects" "$kernel" 2>&1
cp tmp/modules.tar.zst "$out/"
