# The next run, and what it says. Then the pool is read through.
set -eu
find /var/lib/kld/journal -name '*.json' 2>/dev/null | wc -l
kvm-template bystander --undo 2>&1 >/dev/null | tr '\n' ' '
echo
kvm-list --names | tr '\n' ' '
echo
zpool scrub -w tank
zpool status tank
