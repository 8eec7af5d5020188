#!/usr/bin/env bash
# Makes a root file system, to which packages, overlay and binary have been copied, Postern's.
#
# Job: what differs from image to image (version, floor, keys' public parts), what an overlay can't hold (empty folders,
# enabled units), and the last look: no shell, no getty, no place that would need a writable /etc.
# Place: the end of Buildroot's post-build script and of tests/boot/surrogate.sh, so that both come out the same.
# Invariants: nothing depends on the time, the machine or an earlier run. A crash leaves a root file system that is not
# finished: no image.json.
set -euo pipefail

usage() {
    cat >&2 <<'TEXT'
finish.sh: usage: finish.sh ROOT --version VERSION --generation N --floor VERSION --board NAME --keys DIR [--development]
  ROOT          the root file system's folder
  --version     this image's version
  --generation  its security generation, which keys are sealed for
  --floor       the oldest version that may be installed over it
  --keys        folder with policy.pub and rauc-ca.crt
  --development the keys are development keys; said on every screen
TEXT
    exit 2
}

fail() {
    echo "finish.sh: $*" >&2
    exit 1
}

[ $# -ge 1 ] || usage
root=$1
shift
version='' generation='' floor='' board='' keys='' development=false
while [ $# -gt 0 ]; do
    case $1 in
        --development) development=true; shift; continue ;;
        --version | --generation | --floor | --board | --keys) [ $# -ge 2 ] || usage ;;
        *) usage ;;
    esac
    declare "${1#--}=$2"
    shift 2
done
[ -d "$root/usr/lib/systemd/system" ] || fail "$root holds no systemd; copy packages and overlay there first"
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || fail "version \"$version\" is none; give three numbers, such as 0.1.0"
[[ $floor =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || fail "floor \"$floor\" is none; give three numbers, such as 0.0.0"
[[ $generation =~ ^[0-9]+$ ]] || fail "generation \"$generation\" is none; give a whole number"
[[ $board =~ ^[a-z0-9-]+$ ]] || fail "board \"$board\" is none; give a name such as rack-x86"
for part in policy.pub rauc-ca.crt; do
    [ -s "$keys/$part" ] || fail "$keys/$part is missing; make the keys first (keys/make.sh)"
done
if [ -e "$keys/DEVELOPMENT" ] && [ $development = false ]; then
    fail "$keys holds development keys; give --development, or release keys"
fi

# Folders that something is mounted on, and nothing else.
for folder in data dev proc run sys tmp var; do
    rm -rf "${root:?}/$folder"
    mkdir -p "$root/$folder"
done

# Public parts of the keys, and what this image is.
share=$root/usr/share/postern
mkdir -p "$share"
install -m 0644 "$keys/policy.pub" "$share/policy-public.pem"
install -m 0644 "$keys/rauc-ca.crt" "$share/rauc-ca.pem"
sed -i "s/@FLOOR@/$floor/; s/@BOARD@/$board/" "$root/usr/lib/rauc/system.conf"
rm -f "$root/etc/os-release"
cat >"$root/usr/lib/os-release" <<TEXT
ID=postern
NAME=Postern
PRETTY_NAME="Postern $version"
VERSION_ID=$version
IMAGE_ID=postern-$board
IMAGE_VERSION=$version
VARIANT_ID=$board
TEXT
ln -s ../usr/lib/os-release "$root/etc/os-release"

# Enabled is what the preset file names, whatever the packages had enabled.
find "$root/etc/systemd/system" -mindepth 1 -name '*.wants' -type d -exec rm -rf {} +
said=$(systemctl --root="$root" preset-all --preset-mode=full 2>&1) ||
    fail "units can't be enabled; mend what systemctl preset-all says: $said"
[ -L "$root/etc/systemd/system/multi-user.target.wants/postern.service" ] ||
    fail "postern.service is not enabled; look at usr/lib/systemd/system-preset"
ln -sfn multi-user.target "$root/usr/lib/systemd/system/default.target"

# Networks and links of others: there is no address that the settings don't ask for.
find "$root/usr/lib/systemd/network" "$root/etc/systemd/network" -name '*.network' -delete 2>/dev/null || true

# Users stand in the overlay by number, for ever the same, since files on the data partition carry the numbers over every
# update. Nobody has a password.
chmod 0600 "$root/etc/shadow" "$root/etc/gshadow"
rm -f "$root"/etc/{passwd,group,shadow,gshadow}- "$root/etc/.pwd.lock"
if grep -vE '^[^:]+:[!*]+:' "$root/etc/shadow" >&2; then
    fail "these accounts in etc/shadow could sign in; lock them, nobody signs in to this system"
fi

# The last look.
found=$(find "$root/usr/bin" "$root/usr/sbin" "$root/bin" "$root/sbin" -xtype f \
    \( -name sh -o -name bash -o -name dash -o -name ash -o -name busybox -o -name '*getty' -o -name sulogin \
    -o -name login -o -name sshd -o -name 'perl*' -o -name 'python*' \) 2>/dev/null || true)
[ -z "$found" ] || fail "these have no place on the image: $found; take out the packages that bring them"

# The agent runs any command as root: it belongs to images that say DEVELOPMENT on every screen, and to no other.
if [ "$development" = false ]; then
    found=$(find "$root" -name 'postern-development*')
    [ -z "$found" ] || fail "the development agent is on an image with release keys: $found; build a release with RELEASE=1"
fi

# RAUC's own file lets everyone on the bus install and mark slots; the overlay's lets root alone.
grep -q 'deny send_destination="de.pengutronix.rauc"' "$root/usr/share/dbus-1/system.d/de.pengutronix.rauc.conf" ||
    fail "everyone on the bus may command RAUC; copy the overlay after the packages"

printf '{"version":"%s","generation":%s,"floor":"%s","development":%s,"board":"%s"}\n' \
    "$version" "$generation" "$floor" "$development" "$board" >"$share/image.json"
