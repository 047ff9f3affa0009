# Makes a lab that was just restored differ from its siblings: identify.sh NAME NUMBER.
set -eu
hostname "$1"
echo "$1" >/etc/hostname
id=$(tr -d - </proc/sys/kernel/random/uuid)
echo "$id" >/etc/machine-id
# Four bytes, as OpenZFS reads them.
printf "$(printf '\\x%s\\x%s\\x%s\\x%s' "$(echo "$id" | cut -c1-2)" "$(echo "$id" | cut -c3-4)" "$(echo "$id" | cut -c5-6)" "$(echo "$id" | cut -c7-8)")" >/etc/hostid
ip address add "10.77.0.$2/24" dev eth0
ip link set eth0 up
