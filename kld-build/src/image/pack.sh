# Packs a root tree: pack.sh TREE IMAGE MODULES KERNEL. It runs in a mount namespace of its own; the tree itself is
# only read.
set -eu
tree=$1 image=$2 modules=$3 kernel=$4

layer=$(dirname "$image")/layer
mkdir "$layer"
mount -t tmpfs layer "$layer"
mkdir "$layer/upper" "$layer/work" "$layer/whole"
mount -t overlay -o "lowerdir=$tree,upperdir=$layer/upper,workdir=$layer/work" layer "$layer/whole"
cd "$layer/whole"
if [ -n "$modules" ]; then
    tar --zstd -xf "$modules" -C usr
    chroot . depmod "$kernel"
fi
rm -rf boot/initrd* boot/System.map* var/cache/apt/* var/lib/apt/lists/* var/log/*.log
: >etc/fstab
cd /
loader=$(echo "$tree"/usr/lib*/ld-linux-*.so.*)
"$loader" --library-path "$(echo "$tree"/usr/lib/*-linux-gnu)" "$tree/usr/bin/mkfs.erofs" --quiet -zlz4 "$image" "$layer/whole"
umount "$layer/whole" "$layer"
rmdir "$layer"
