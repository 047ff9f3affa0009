# All that is there, raw and by few programs: each costs time in a lab.
set -eu
echo "== definitions"
names=$(virsh -q list --all --name)
virsh -q "$(for name in $names; do echo "dumpxml --inactive $name;"; done)"
echo "== datasets"
zfs list -H -r -t all -o name,type,org.kld:machine,origin,mounted tank
echo "== contents"
devices=$(zfs list -H -r -t volume -o name tank | sed 's|^|/dev/zvol/|')
# Where the host is busy, udev's links come late, and go for a moment whenever it looks at a device again.
for _ in $(seq 100); do
    ! sums=$(md5sum $devices 2>/dev/null) || break
    sleep 0.3
done
echo "$sums"
echo "== files"
find /var/lib/kld -type f ! -path '*/locks/*' ! -name lock ! -name kvm-probe.json -printf '%p %m %s\n'
echo "== texts"
grep -r --exclude='*.iso' --exclude-dir=locks --exclude=kvm-probe.json -v '"created":' /var/lib/kld/zfs || true
