#!/usr/bin/env bash
# Holds the appliance's units against the surrogate's systemd, without booting.
#
# Job: `systemd-analyze verify` of every unit of the overlay and of what the boot pulls in, and the exposure of the daemon
# (at most 1.5) and of its neighbours. Place: `make image-check`, where the surrogate's packages are in the
# cache. Invariants: runs on a copy; nothing is started. A crash leaves a temporary folder.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
overlay=$(cd "$here/../../board/common/overlay" && pwd)

# Exposure that each unit may have, in tenths, as --threshold= takes it.
exposure=(postern.service:15 postern-console@tty1.service:15 postern-health.service:15 postern-trial.service:15
    postern-power-button@event0.service:15)

fail() {
    echo "units.sh: $*" >&2
    exit 1
}

[ $# = 1 ] || { echo "units.sh: usage: units.sh OUT (what surrogate.sh made)" >&2; exit 2; }
[ -x "$1/systemd-analyze" ] || fail "$1 holds no systemd-analyze; make it with tests/boot/surrogate.sh"
[ "$(id -u)" = 0 ] || fail "checking needs chroot(2); run it as root"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -a --reflink=auto "$1/root/." "$work/"
cp "$1/systemd-analyze" "$work/usr/bin/"
mknod -m 0666 "$work/dev/null" c 1 3
within() { env -i PATH=/usr/sbin:/usr/bin SYSTEMD_LOG_LEVEL=warning SYSTEMD_PROC_CMDLINE=ro chroot "$work" "$@"; }
# The unit that opens the data partition is made of etc/crypttab at each start.
mkdir -p "$work/run/systemd/system"
within /usr/lib/systemd/system-generators/systemd-cryptsetup-generator /run/systemd/system{,,}

mapfile -t units < <(find "$overlay/usr/lib/systemd/system" -maxdepth 1 -type f -printf '%f\n' |
    sed 's|postern-console@\.|postern-console@tty1.|; s|postern-power-button@\.|postern-power-button@event0.|' | LC_ALL=C sort)
said=$(within /usr/bin/systemd-analyze verify --man=no --recursive-errors=yes "${units[@]}" default.target 2>&1) ||
    fail "systemd-analyze verify: $said"
[ -z "$said" ] || fail "systemd-analyze verify: $said"
echo "units: ${#units[@]} units and the boot's target are valid"

for entry in "${exposure[@]}"; do
    unit=${entry%%:*} most=${entry##*:}
    within /usr/bin/systemd-analyze security --offline=true --threshold="$most" --no-pager "$unit" >"$work/table" 2>&1 ||
        fail "$unit is more exposed than ${most}: $(cat "$work/table")"
    echo "units: $(grep -E 'Overall exposure' "$work/table" | sed 's/^[^A-Z]*//')"
done
