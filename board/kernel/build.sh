#!/usr/bin/env bash
# Builds the kernel of the surrogate image: our fragments and patches on Debian 13's kernel source.
#
#   build.sh --board qemu-x86|rack-x86 --out DIR [--config-only]
#
# Job: DIR/bzImage and DIR/kernel.config (--config-only: the configuration alone, checked, in a minute). Buildroot
# builds its kernel itself, from the same base and fragments (README.md).
# Place: tests/boot/surrogate.sh calls it; the result is kept in the cache, under the hash of all that went into it, so
# that a second call copies two files and needs no network.
# Invariants: every line of every fragment holds in what is kept (check.sh). The same inputs give the same bytes. The
# host's package sources are not touched: apt runs on folders of its own, and Debian's archive keys sign what it gets.
# A crash leaves a folder `.build-*` in the cache, which is never taken for a result and is removed by the next build.
set -euo pipefail
umask 022
export LC_ALL=C

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/postern

fail() {
    echo "build.sh: $1; $2" >&2
    exit 1
}

usage() {
    echo "usage: build.sh --board qemu-x86|rack-x86 --out DIR [--config-only]" >&2
    exit 2
}

board='' out='' products=(bzImage kernel.config)
while [[ $# -gt 0 ]]; do
    case $1 in
        --board) board=${2:-}; shift ;;
        --out) out=${2:-}; shift ;;
        --config-only) products=(kernel.config) ;;
        *) usage ;;
    esac
    shift || usage
done
[[ -n $out && $board =~ ^[a-z0-9-]+$ && -r $here/boards/$board ]] || usage

# shellcheck source-path=SCRIPTDIR source=source.env
. "$here/source.env"
mapfile -t fragments < <(sed "/^#/d; /^$/d; s,.*,$here/fragments/&.config," "$here/boards/$board")
[[ ${#fragments[@]} -gt 0 ]] || fail "$here/boards/$board names no fragment" "list one a line"
for fragment in "${fragments[@]}"; do
    [[ -r $fragment ]] || fail "$fragment does not exist" "correct boards/$board"
done
for tool in gcc make flex bison bc patch xz zstd apt-get dpkg-deb; do
    command -v "$tool" >/dev/null || fail "$tool is missing" "run tests/setup/install.sh"
done
[[ -e /usr/include/libelf.h ]] || fail "libelf.h is missing" "run tests/setup/install.sh"

# Whatever changes the result changes the name: the fragments in their order, patches, this script, the pinned source,
# the compiler and linker.
inputs() {
    cat "${fragments[@]}" "$here"/patches/*.patch "$here/base.config" "$here/source.env" "$here/build.sh" "$here/check.sh"
    gcc -dumpfullversion
    ld --version | head -1
    printf '%s\n' "${products[@]}"
}
result=$cache/kernel-$(inputs | sha256sum | cut -d' ' -f1)

# Copies the kept result to DIR, each file under a temporary name first.
deliver() {
    local product
    mkdir -p "$out"
    for product in "${products[@]}"; do
        cp -f "$result/$product" "$out/.$product.new"
        mv -f "$out/.$product.new" "$out/$product"
    done
    echo "build.sh: $board: ${products[*]} in $out, from $result"
}

if [[ -d $result ]]; then
    deliver
    exit 0
fi

# One build at a time: a second caller waits, then finds the first one's result. Configurations, which take a minute,
# do not wait for kernels.
mkdir -p "$cache"
kind=${products[0]}
exec 9>"$cache/kernel-$kind.lock"
flock 9
if [[ -d $result ]]; then
    deliver
    exit 0
fi
rm -rf "$cache/.build-$kind-"*
work=$(mktemp -d "$cache/.build-$kind-XXXXXXXX")
trap 'rm -rf "$work"' EXIT

# The package, by an apt that knows only Debian 13's archives and keys. What it downloads must have the pinned hash.
fetch() {
    local target=$1 key=/usr/share/keyrings/debian-archive-keyring.gpg apt=$work/apt options
    [[ -r $key ]] || fail "$key is missing" "install the package debian-archive-keyring"
    mkdir -p "$apt"/{lists/partial,archives/partial,download}
    printf 'deb [signed-by=%s] http://deb.debian.org/%s main\n' "$key" 'debian trixie' \
        "$key" 'debian-security trixie-security' >"$apt/sources.list"
    options=(-o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o Dir::State::lists="$apt/lists" -o Dir::Cache="$apt" -o APT::Architecture=amd64
        -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=3 -q)
    apt-get "${options[@]}" update >"$apt/log" 2>&1 \
        || fail "Debian's package lists could not be read ($(tail -1 "$apt/log"))" "check the network and try again"
    (cd "$apt/download" && apt-get "${options[@]}" download "$KERNEL_PACKAGE=$KERNEL_VERSION" >"$apt/log" 2>&1) \
        || fail "$KERNEL_PACKAGE $KERNEL_VERSION can't be had from Debian ($(tail -1 "$apt/log"))" \
            "if the archive has moved on, raise version and hash in board/kernel/source.env"
    echo "$KERNEL_SHA256  $(echo "$apt"/download/*.deb)" | sha256sum --check --quiet \
        || fail "the downloaded $KERNEL_PACKAGE is not the pinned one" "compare board/kernel/source.env with apt-cache show"
    mv "$apt"/download/*.deb "$target.new"
    mv "$target.new" "$target"
}

package=$cache/${KERNEL_PACKAGE}_$KERNEL_VERSION.deb
exec 8>"$cache/kernel-source.lock"
flock 8
[[ -e $package ]] || fetch "$package"
exec 8>&-

echo "build.sh: $board: unpacking $KERNEL_PACKAGE $KERNEL_VERSION"
dpkg-deb --fsys-tarfile "$package" | tar -x -O "./usr/src/$KERNEL_PACKAGE.tar.xz" | tar -x -J -C "$work"
tree=$work/$KERNEL_PACKAGE

for patch in "$here"/patches/*.patch; do
    patch -s -d "$tree" -p1 -F0 --no-backup-if-mismatch <"$patch" \
        || fail "$(basename "$patch") does not fit $KERNEL_PACKAGE $KERNEL_VERSION" "make it anew for this version"
done

"$here/check.sh" --symbols "$tree" "$here/base.config" "${fragments[@]}"
cat "$here/base.config" "${fragments[@]}" >"$tree/.config"
# A kernel says who built it, when and where, unless told.
build=(make -s -C "$tree" KBUILD_BUILD_TIMESTAMP="$(TZ=UTC date -d "$KERNEL_TIMESTAMP")" KBUILD_BUILD_USER=postern
    KBUILD_BUILD_HOST=postern KBUILD_BUILD_VERSION=1)
"${build[@]}" olddefconfig >"$work/log" 2>&1 || fail "olddefconfig failed ($(tail -3 "$work/log"))" "correct the fragments"
"$here/check.sh" "$tree/.config" "$here/base.config" "${fragments[@]}"

mkdir "$work/result"
cp "$tree/.config" "$work/result/kernel.config"
if [[ $kind == bzImage ]]; then
    echo "build.sh: $board: building with $(nproc) processors, about ten minutes on two"
    "${build[@]}" -j"$(nproc)" bzImage >"$work/log" 2>&1 || {
        grep -m 20 -E 'error|Error' "$work/log" >&2 || tail -20 "$work/log" >&2
        fail "the kernel could not be built" "see the compiler's words above"
    }
    cp "$tree/arch/x86/boot/bzImage" "$work/result/bzImage"
fi
# What is kept is complete and on the disk before it has its name.
sync -f "$work/result"
mv -T "$work/result" "$result"
deliver
