#!/usr/bin/env bash
# strip.sh ROOT: leaves of Buildroot's packages what the appliance needs.
#
# Job: programs, parts of systemd and generators by the names in keep.env; libraries and their plug-ins as they are, since
# Buildroot built only wanted ones; units whose program went go too. Place: post-fakeroot.sh, on the copy of the root that is
# packed, before the overlay is laid over it. Invariants: what is not named does not stay; nothing outside ROOT is
# touched. A crash ends the build; the copy is made anew.
set -euo pipefail

if [ $# -ne 1 ] || [ ! -d "$1/usr/lib/systemd/system" ]; then
    echo "strip.sh: usage: strip.sh ROOT, a root file system with systemd" >&2
    exit 2
fi
root=$1
# shellcheck source=/dev/null
. "$(dirname "${BASH_SOURCE[0]}")/keep.env"

# keep FOLDER PATTERN…: everything else in FOLDER goes
keep() {
    local folder=$1 entry pattern
    shift
    for entry in "$folder"/* "$folder"/.[!.]*; do
        [ -e "$entry" ] || [ -L "$entry" ] || continue
        for pattern in "$@"; do
            # shellcheck disable=SC2053 # the right side is a pattern
            [[ ${entry##*/} != $pattern ]] || continue 2
        done
        rm -rf "$entry"
    done
}

read -r -d '' -a programs <<<"${PROGRAMS:?}" || true
read -r -d '' -a parts <<<"${PARTS:?}" || true
read -r -d '' -a generators <<<"${GENERATORS:?}" || true

# The certificates' one file; the folder of links is for programs that look there, of which there is none.
cp -L "$root/etc/ssl/certs/ca-certificates.crt" "$root/ca-certificates.crt"

keep "$root" bin sbin lib lib64 usr etc ca-certificates.crt
keep "$root/usr" bin sbin lib lib64 share
# With one folder for all programs, sbin is a link to it; keep never follows it out of the root.
for folder in usr/bin usr/sbin; do
    [ -L "$root/$folder" ] || keep "$root/$folder" "${programs[@]}"
done
keep "$root/usr/lib/systemd" "${parts[@]}" 'libsystemd-*.so'
find "$root/usr/lib/systemd" -maxdepth 1 -name 'libsystemd-*.so' | grep -q . || {
    echo "strip.sh: systemd's own libraries are not in usr/lib/systemd; look where this version puts them" >&2
    exit 1
}
keep "$root/usr/lib/systemd/system-generators" "${generators[@]}"
keep "$root/usr/share" dbus-1
keep "$root/etc" mke2fs.conf
# Folders in usr/lib besides: rules of udev, plug-ins of LUKS, settings; no character sets, no engines of OpenSSL.
for entry in "$root"/usr/lib/*/; do
    entry=${entry%/}
    [ ! -L "$entry" ] || continue
    case ${entry##*/} in
        systemd | udev | tmpfiles.d | sysctl.d | cryptsetup) ;;
        *) rm -rf "$entry" ;;
    esac
done
rm -f "$root"/usr/lib/cryptsetup/*-{fido2,pkcs11,ssh}.so
# Programs that udev would run for hardware that no rack server has.
find "$root/usr/lib/udev" -type f -perm /111 -delete
rm -rf "$root/usr/lib/udev/hwdb.d"

mkdir -p "$root/etc/ssl/certs"
mv "$root/ca-certificates.crt" "$root/etc/ssl/certs/ca-certificates.crt"

units=$root/usr/lib/systemd/system
# First, since the bus's socket would go below without its service.
ln -sf dbus-broker.service "$units/dbus.service"
for unit in "$units"/*.service; do
    program=$(sed -nE 's/^Exec(Start|Reload)=[-@:+!|]*([^ ]+).*/\2/p' "$unit" | head -n 1)
    case $program in
        '') ;;
        /*) [ -e "$root$program" ] || rm "$unit" ;;
        # By name alone, as bootctl in systemd-boot-random-seed.service.
        *) [ -e "$root/usr/bin/$program" ] || [ -e "$root/usr/sbin/$program" ] || rm "$unit" ;;
    esac
done
for unit in "$units"/*.socket "$units"/*.timer "$units"/*.path; do
    [ -e "$unit" ] || continue
    if ! grep -qE '^(Service|Unit)=' "$unit" && [ ! -e "${unit%.*}.service" ] && [ ! -e "${unit%.*}@.service" ]; then
        rm "$unit"
    fi
done
find "$units" -xtype l -delete
find "$units" -name '*.wants' -type d -empty -delete
# Buildroot's configuration of the bus names a user of Buildroot's; ours is numbered in the overlay.
sed -i 's,<user>dbus</user>,<user>messagebus</user>,' "$root/usr/share/dbus-1/system.conf"

# No program lends its owner's rights: packages' permission tables make mount and umount setuid.
find "$root" -xdev -type f -perm /6000 -exec chmod ug-s {} +

for name in "${programs[@]}"; do
    [ -e "$root/usr/bin/$name" ] || [ -L "$root/usr/bin/$name" ] || [ -e "$root/usr/sbin/$name" ] || {
        echo "strip.sh: $name is not on the root; a package that brings it is missing in the defconfig (keep.env)" >&2
        exit 1
    }
done
