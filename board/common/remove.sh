#!/usr/bin/env bash
# remove.sh ROOT: takes out of a root file system what must not be on an appliance.
#
# Job: shells, logins, gettys, units and generators that open a way in past the daemon; scripts that are left without
# their interpreter. Place: post-build.sh in Buildroot, where packages bring more than was asked for (systemd selects
# agetty and sulogin). Invariants: a unit of the overlay is never removed, whatever its name; what is named below is
# not there afterwards, or this ends with exit 1. Running it twice changes nothing. A crash leaves a root that is built
# again.
set -euo pipefail

if [ $# -ne 1 ] || [ ! -d "$1/usr" ]; then
    echo "usage: remove.sh ROOT" >&2
    exit 2
fi
root=$1
overlay=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/overlay

# Whoever gets a process to start one of these has won: shells, logins, terminals, other kernels, other roots.
programs=(
    sh bash dash ash mksh zsh ksh busybox
    agetty getty login sulogin su sudo nologin newgrp chsh chfn passwd
    kexec systemd-nspawn systemd-run run0 systemd-stdio-bridge
    openvt deallocvt setsid script scriptreplay
    modprobe insmod rmmod depmod kmod lsmod modinfo
)
# Units by name, systemd's and others'. Rescue and emergency would wait for a shell on the console for ever: a box that
# can't start must fall back to its other slot.
units=(
    'getty@.service' 'serial-getty@.service' 'console-getty.service' 'container-getty@.service' getty.target
    getty-pre.target debug-shell.service 'autovt@.service' kexec.target systemd-kexec.service
    emergency.service rescue.service rescue.target systemd-pcrlock-make-policy.service
)
# Generators make units from the kernel's command line, credentials of the machine's firmware or files of old: none of
# them is part of the image that was signed.
generators=(
    systemd-debug-generator systemd-getty-generator systemd-run-generator systemd-ssh-generator systemd-sysv-generator
    systemd-rc-local-generator systemd-hibernate-resume-generator systemd-system-update-generator
    systemd-import-generator systemd-gpt-auto-generator
)

for name in "${programs[@]}"; do
    for folder in bin sbin usr/bin usr/sbin usr/local/bin usr/local/sbin; do
        rm -f "$root/$folder/$name"
    done
done
rm -f "$root/usr/lib/systemd/systemd-sulogin-shell" "$root/usr/lib/systemd/systemd-reply-password" "$root/etc/shells"

for name in "${units[@]}"; do
    for folder in usr/lib/systemd/system etc/systemd/system; do
        # Wanted by others: the links in *.wants and *.requires go with it.
        [ -e "$overlay/$folder/$name" ] || [ -L "$overlay/$folder/$name" ] || rm -rf "${root:?}/$folder/$name"
    done
    if [ ! -e "$root/usr/lib/systemd/system/$name" ] && [ ! -e "$root/etc/systemd/system/$name" ]; then
        find "$root/usr/lib/systemd/system" "$root/etc/systemd/system" -path '*.wants/*' -name "${name/@./@*.}" \
            -type l -delete 2>/dev/null || true
    fi
done
for name in "${generators[@]}"; do
    [ -e "$overlay/usr/lib/systemd/system-generators/$name" ] || rm -f "$root/usr/lib/systemd/system-generators/$name"
done

# The first line of a file, and the program that it names.
interpreter() {
    local first
    IFS= read -r -n 128 first <"$1" 2>/dev/null || true
    [[ $first =~ ^\#![[:space:]]*([^[:space:]]+) ]] && printf '%s\n' "${BASH_REMATCH[1]}"
}

# A script whose interpreter is not on the image can only fail.
while IFS= read -r -d '' file; do
    program=$(interpreter "$file" | tr -d '\0') || continue
    [ -n "$program" ] || continue
    if [ ! -e "$root$program" ] || [ "${program##*/}" = env ]; then
        rm -f "$file"
    fi
done < <(find "$root/usr/bin" "$root/usr/sbin" "$root/usr/lib" "$root/usr/libexec" -xdev -type f -perm /111 -print0 \
    2>/dev/null)

left=$(for name in "${programs[@]}"; do
    find "$root/usr/bin" "$root/usr/sbin" "$root/usr/lib/systemd" \( -type f -o -type l \) -name "$name"
done)
if [ -n "$left" ]; then
    echo "remove.sh: these are still on the root: ${left//$'\n'/ }; remove them in the package that installs them" >&2
    exit 1
fi
