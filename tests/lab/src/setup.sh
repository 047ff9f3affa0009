# Makes the booted guest a lab, once: its state is saved afterwards, and every lab starts from there.
set -eu

hostname lab
echo lab >/etc/hostname
echo "127.0.0.1 localhost lab" >/etc/hosts
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
mkdir -p /run/udev /run/lock /run/sshd /run/systemd

/usr/lib/systemd/systemd-udevd --daemon
udevadm trigger --action=add
udevadm settle --timeout=200

modprobe -a zfs wireguard tun loop nbd nf_tables nft_masq bridge br_netfilter vhost_net vhost_vsock
# Which of the two serves depends on the processor that the guest sees.
modprobe kvm_amd nested=1 2>/dev/null || modprobe kvm_intel nested=1
udevadm settle --timeout=200

cat >/etc/libvirt/qemu.conf <<'CONF'
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
stdio_handler = "logd"
CONF
rm -f /etc/libvirt/qemu/networks/autostart/default.xml
# Started by whoever wants it: incusd --group kvm &
ln -s /usr/libexec/incus/incusd /usr/local/bin/incusd
virtlogd --daemon
libvirtd --daemon
# libvirt looks at QEMU once, which takes its time.
virsh --quiet capabilities >/dev/null
virsh --quiet domcapabilities --virttype kvm >/dev/null
zpool list >/dev/null
zfs list >/dev/null 2>&1 || true
test -c /dev/kvm
