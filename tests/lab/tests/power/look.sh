# All that is there, raw and by few programs: each costs time in a lab.
set -eu
echo "== definitions"
names=$(virsh -q list --all --name)
virsh -q "$(for name in $names; do echo "dumpxml --inactive $name;"; done)"
echo "== datasets"
zfs list -H -r -t all -o name,type,org.kld:machine,origin,mounted tank
echo "== contents"
# By the kernel's nodes: udev may have missed a device that came as the pool was imported.
for device in /dev/zd*; do
    echo "$(/usr/lib/udev/zvol_id "$device") $(md5sum <"$device")"
done
echo "== files"
find /var/lib/kld -type f ! -path '*/locks/*' ! -name lock ! -name kvm-probe.json -printf '%p %m %s\n'
echo "== texts"
grep -r --exclude='*.iso' --exclude-dir=locks --exclude=kvm-probe.json -v '"created":' /var/lib/kld/zfs || true
