#!/bin/sh
# As much of QEMU's guest agent as kld asks for, over the channel org.qemu.guest_agent.0. There is no mounted file
# system with anything to write back, so freezing is remembered and answered, no more.
port=
for name in /sys/class/virtio-ports/*/name; do
    [ "$(cat "$name")" = org.qemu.guest_agent.0 ] && port=${name%/name} port=/dev/${port##*/}
done
[ -n "$port" ] || exit 0
frozen=thawed
answer() { printf '{"return": %s}\n' "$1" >&3; }
id() { printf '%s' "$1" | sed 's/.*"id" *: *\([0-9]*\).*/\1/'; }
exec 3<>"$port"
while :; do
    # The end of file only means that nobody is connected on the host's side.
    read -r line <&3 || { usleep 100000; continue; }
    case $line in
    *guest-sync-delimited*) printf '\377' >&3; answer "$(id "$line")" ;;
    *guest-sync*) answer "$(id "$line")" ;;
    *guest-ping*) answer '{}' ;;
    *guest-info*) answer '{"version": "10.0.0", "supported_commands": []}' ;;
    *guest-get-host-name*) answer "{\"host-name\": \"$(hostname)\"}" ;;
    *guest-fsfreeze-status*) answer "\"$frozen\"" ;;
    *guest-fsfreeze-freeze*) frozen=frozen; sync; answer 1 ;;
    *guest-fsfreeze-thaw*) frozen=thawed; answer 1 ;;
    *guest-shutdown*) sync; poweroff -f ;;
    *) printf '{"error": {"class": "CommandNotFound", "desc": "not in the demo guest"}}\n' >&3 ;;
    esac
done
