# Packs a root tree: pack.sh TREE IMAGE MODULES KERNEL. It runs in a mount namespace of its own; the tree itself is
# only read.
set -eu
tree=$1 image=$2 modules=$3 kernel=$4

# Names without spaces, commas and colons, which overlay and tar would take for their own.
mount -t tmpfs layer /mnt
mkdir /mnt/tree /mnt/out /mnt/upper /mnt/work /mnt/whole
mount --bind "$tree" /mnt/tree
mount --bind "$(dirname "$image")" /mnt/out
mount -t overlay -o lowerdir=/mnt/tree,upperdir=/mnt/upper,workdir=/mnt/work layer /mnt/whole
cd /mnt/whole
# The tree's programs run on this host with the tree's libraries.
loader="$(echo /mnt/tree/usr/lib*/ld-linux-*.so.*) --library-path $(echo /mnt/tree/usr/lib/*-linux-gnu)"
if [ -n "$modules" ]; then
    tar -I "$loader /mnt/tree/usr/bin/zstd" -xf - -C usr <"$modules"
    chroot . depmod "$kernel"
fi
rm -rf boot/initrd* boot/System.map* var/cache/apt/* var/lib/apt/lists/* var/log/*.log
: >etc/fstab
# mmdebstrap takes this from the host.
: >etc/resolv.conf
$loader /mnt/tree/usr/bin/mkfs.erofs --quiet -zlz4 "/mnt/out/$(basename "$image")" /mnt/whole
