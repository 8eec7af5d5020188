#!/usr/bin/env bash
# The surrogate's root file system: Debian 13's packages in place of Buildroot's, everything else as on the appliance.
#
# Job: packages → what of them the appliance needs → overlay, binary, keys' public parts. Place: before the image tool,
# which makes squashfs, hash tree and kernel images of it. Invariants: no maintainer script runs, no package tool, no shell
# and no interpreter is left; the same inputs give the same tree (times are the image tool's to set). The stripped
# packages are kept in one archive, named by the hash of this file and of keep.env, so that a second run needs no
# network. A crash leaves a temporary folder in $TMPDIR and no result.
set -euo pipefail
# What is made here has the same rights whoever makes it.
umask 022

here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
suite=trixie

# package and who needs it
packages=(
    base-files              # the merged /usr
    systemd systemd-sysv    # PID 1, and /sbin/init that the kernel starts
    systemd-cryptsetup      # the data partition
    systemd-repart          # its making
    systemd-resolved systemd-timesyncd
    udev
    dbus-broker             # between RAUC and its callers
    rauc rauc-service efibootmgr
    libtss2-esys-3.0.2-0t64 libtss2-tctildr0t64 libtss2-tcti-device0t64 libtss2-rc0t64 # daemon and systemd: the TPM
    cryptsetup-bin dmsetup  # recovery slots, by the helper
    e2fsprogs mount util-linux # mke2fs for systemd-repart, fsck, mount for systemd, blkdiscard
    fdisk                   # sfdisk: factory reset takes the data partition away
    nftables
    ca-certificates         # the daemon's and RAUC's HTTPS
    systemd-boot-efi        # the stub of the signed kernel image; goes beside the root, not into it
    busybox-static          # development images only: the boot tests look into the machine with it
)

# What stays of them by name: the same list as for Buildroot's.
# shellcheck source=/dev/null
. "$project/board/common/keep.env"
read -r -d '' -a programs <<<"${PROGRAMS:?}" || true
read -r -d '' -a parts <<<"${PARTS:?}" || true
read -r -d '' -a generators <<<"${GENERATORS:?}" || true

# Libraries that are opened at run time or that the appliance's binary brings in.
opened=(
    libtss2-esys.so.0 libtss2-mu.so.0 libtss2-rc.so.0 libtss2-tctildr.so.0 libtss2-tcti-device.so.0 # TPM
    libcryptsetup.so.12     # systemd: LUKS
    libzstd.so.1            # journald: compression
    libidn2.so.0            # resolved
    libnss_dns.so.2 libnss_files.so.2 libresolv.so.2
    libgcc_s.so.1 libm.so.6 libcrypto.so.3 libssl.so.3 # the appliance's binary
)

usage() {
    cat >&2 <<'TEXT'
surrogate.sh: usage: surrogate.sh OUT --postern FILE --keys DIR --version VERSION --generation N --floor VERSION
                  --board NAME [--development] [--agent FILE]
  OUT        folder that is made: root/ (the root file system), linuxx64.efi.stub, systemd-analyze, packages.txt
  --postern  the appliance's binary
  --agent    the development agent, and with it its unit; development images only
  the rest   see board/common/finish.sh
TEXT
    exit 2
}

fail() {
    echo "surrogate.sh: $*" >&2
    exit 1
}

# keep FOLDER NAME…: removes everything else in FOLDER
keep() {
    local folder=$1 entry name
    shift
    for entry in "$folder"/*; do
        for name in "$@"; do
            [ "${entry##*/}" != "$name" ] || continue 2
        done
        rm -rf "$entry"
    done
}

# keep_libraries ROOT: of the libraries, those that a program left there needs, directly, through another, or by opening
# it at run time
keep_libraries() {
    local folder=$1/usr/lib/x86_64-linux-gnu file programs_left
    local -A needed=()
    local -a next=("${opened[@]}")
    mapfile -t programs_left < <(find "$1/usr" -type f ! -path "$folder/lib*" \( -perm /111 -o -name '*.so' \))
    mapfile -t -O ${#next[@]} next < <(needed_by "${programs_left[@]}")
    while [ ${#next[@]} -gt 0 ]; do
        local -a files=()
        for file in "${next[@]}"; do
            [ -z "${needed[$file]:-}" ] || continue
            needed[$file]=1
            if [ -e "$folder/$file" ]; then
                # The link and what it points to.
                needed[$(basename "$(readlink -f "$folder/$file")")]=1
                files+=("$folder/$file")
            fi
        done
        next=()
        [ ${#files[@]} -eq 0 ] || mapfile -t next < <(needed_by "${files[@]}")
    done
    keep "$folder" systemd cryptsetup "${!needed[@]}"
}

# needed_by FILE…: the libraries that these programs and libraries name
needed_by() {
    readelf -d "$@" 2>/dev/null | sed -n 's/.*(NEEDED).*\[\(.*\)\]$/\1/p' | LC_ALL=C sort -u
}

# strip ROOT: of the packages' files, what the appliance needs
strip_packages() {
    local root=$1 unit program
    keep "$root/usr/bin" "${programs[@]}"
    keep "$root/usr/sbin" "${programs[@]}"
    keep "$root/usr/lib/systemd" "${parts[@]}"
    keep "$root/usr/lib/systemd/system-generators" "${generators[@]}"
    keep "$root/usr/lib" x86_64-linux-gnu systemd udev tmpfiles.d sysctl.d
    rm -rf "$root/usr/lib/udev/hwdb.d"
    rm -f "$root"/usr/lib/x86_64-linux-gnu/cryptsetup/*-{fido2,pkcs11,ssh}.so
    keep_libraries "$root"
    keep "$root/usr" bin sbin lib lib64 share
    cat "$root"/usr/share/ca-certificates/mozilla/*.crt >"$root/ca-certificates.crt"
    keep "$root/usr/share" dbus-1
    keep "$root/etc" mke2fs.conf
    mkdir -p "$root/etc/ssl/certs"
    mv "$root/ca-certificates.crt" "$root/etc/ssl/certs/"
    keep "$root" bin sbin lib lib64 usr etc
    find "$root/usr/lib/udev" -type f -perm /111 -delete
    find "$root" -type f -perm /6000 -exec chmod ug-s {} +

    # Debian enables the bus by a link that the package's script makes; without it the bus's socket would go below.
    ln -sf dbus-broker.service "$root/usr/lib/systemd/system/dbus.service"
    # Units whose program went, and links to them.
    for unit in "$root"/usr/lib/systemd/system/*.service; do
        program=$(sed -nE 's/^Exec(Start|Reload)=[-@:+!]*(\/[^ ]+).*/\2/p' "$unit" | head -1)
        if [ -n "$program" ] && [ ! -e "$root$program" ]; then rm "$unit"; fi
    done
    for unit in "$root"/usr/lib/systemd/system/*.{socket,timer,path}; do
        program=${unit%.*}
        if ! grep -qE '^(Service|Unit)=' "$unit" && [ ! -e "$program.service" ] && [ ! -e "$program@.service" ]; then
            rm "$unit"
        fi
    done
    find "$root/usr/lib/systemd/system" -xtype l -delete
    find "$root/usr/lib/systemd/system" -name '*.wants' -type d -empty -delete
}

# make_base ARCHIVE: downloads, unpacks and strips the packages
make_base() {
    local archive=$1 work list
    command -v mmdebstrap >/dev/null || fail "mmdebstrap is missing; run tests/setup/install.sh"
    work=$(mktemp -d)
    # shellcheck disable=SC2064 # the folder's name as it is now
    trap "rm -rf '$work'" EXIT
    list=$(IFS=,; echo "${packages[*]}")
    echo "surrogate.sh: fetching Debian $suite's packages (once)" >&2
    # The packages are unpacked, not configured: no script of theirs runs.
    mmdebstrap --quiet --variant=extract --architectures=amd64 --include="$list" \
        --aptopt='APT::Install-Recommends "false"' --extract-hook="ls \"\$1\"/var/cache/apt/archives > '$work/archives'" \
        "$suite" "$work/packages.tar" - <<TEXT ||
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian-security $suite-security main
TEXT
        fail "the packages can't be fetched; look at mmdebstrap's words above, and at the network"
    mkdir -p "$work/base/root"
    tar -C "$work/base/root" --exclude='./dev/*' -xf "$work/packages.tar"
    sed -n 's/\.deb$//; s/_/ /; s/_[^_]*$//p' "$work/archives" | sed 's/%3a/:/' | LC_ALL=C sort >"$work/base/packages.txt"
    cp "$work/base/root/usr/lib/systemd/boot/efi/linuxx64.efi.stub" "$work/base/root/usr/bin/systemd-analyze" \
        "$work/base/root/usr/bin/busybox" "$work/base/"
    strip_packages "$work/base/root"
    mkdir -p "${archive%/*}"
    tar -C "$work/base" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$archive.new" .
    # Those of earlier versions of this file are of no use any more.
    rm -f "${archive%/*}"/surrogate-*.tar
    mv "$archive.new" "$archive"
    rm -rf "$work"
    trap - EXIT
}

out='' postern='' keys='' agent='' finish=()
while [ $# -gt 0 ]; do
    case $1 in
        --development) finish+=("$1"); shift; continue ;;
        --*) [ $# -ge 2 ] || usage ;;&
        --postern) postern=$2 ;;
        --agent) agent=$2 ;;
        --keys) keys=$2; finish+=("$1" "$2") ;;
        --version | --generation | --floor | --board) finish+=("$1" "$2") ;;
        --*) usage ;;
        *) [ -z "$out" ] || usage; out=$1; shift; continue ;;
    esac
    shift 2
done
if [ -z "$out" ] || [ -z "$postern" ] || [ -z "$keys" ]; then usage; fi
[ -x "$postern" ] || fail "$postern is not there; build it first (cargo build --release -p postern)"
if [ -n "$agent" ] && [ ! -x "$agent" ]; then fail "$agent is not there; build it first (cargo build --release -p boot-agent)"; fi

archive=${XDG_CACHE_HOME:-$HOME/.cache}/postern/surrogate-$(cat "$here/surrogate.sh" "$project/board/common/keep.env" | sha256sum | cut -c 1-16).tar
mkdir -p "${archive%/*}"
# Two builds at once fetch the packages once.
exec 9>"${archive%/*}/surrogate.lock"
flock 9
[ -e "$archive" ] || make_base "$archive"

rm -rf "$out.new"
mkdir -p "$out.new"
tar -C "$out.new" -xf "$archive"
root=$out.new/root
cp -a --no-preserve=ownership "$project/board/common/overlay/." "$root/"
install -m 0755 "$postern" "$root/usr/bin/postern"
if [ -n "$agent" ]; then
    install -D -m 0755 "$out.new/busybox" "$root/usr/lib/postern-development/busybox"
    install -m 0755 "$agent" "$root/usr/bin/postern-development-agent"
    install -m 0644 "$here/agent/postern-development-agent.service" "$root/usr/lib/systemd/system/"
fi
rm -f "$out.new/busybox"
for library in $(needed_by "$root/usr/bin/postern"); do
    [ -e "$root/usr/lib/x86_64-linux-gnu/$library" ] ||
        fail "$postern needs $library, which Debian $suite's packages above don't bring; add the package that does"
done
"$project/board/common/finish.sh" "$root" "${finish[@]}"
rm -rf "$out"
mv "$out.new" "$out"
