#!/usr/bin/env bash
# image.sh: `make image`, the appliance built by Buildroot from this checkout.
#
# Job: tree, crates, image tool, configuration, build, in the order of need; at the end the image lies in
# target/image/BOARD. Place: called by the Makefile. From the environment:
#   BOARD          qemu-x86 (default) or rack-x86
#   BUILDROOT_DIR  an unpacked tree of the pinned version; without it the pinned archive is fetched (tree.sh)
#   KEYS           folder of keys; default keys/development, made when missing
#   RELEASE=1      refuses development keys, missing keys and a checkout with changes; no development agent
#   OUT            Buildroot's folder of work; default in the cache: for a release a fresh one, else one a board and recipe
#   DL_DIR         Buildroot's downloads; default in the cache
# Invariants: nothing is built before every line of the defconfig holds; crates are those of Cargo.lock, by hash; the
# build itself needs no network for them. A crash leaves work that the next run continues; a folder of crates appears
# whole or not at all.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
checkout=$PWD
cache=${XDG_CACHE_HOME:-$HOME/.cache}/postern/buildroot
board=${BOARD:-qemu-x86}
release=${RELEASE:-0}
keys=${KEYS:-keys/development}

fail() {
    echo "image: $1" >&2
    echo "  $2" >&2
    exit 1
}

case $board in
    qemu-x86 | rack-x86) defconfig=${board//-/_}_defconfig ;;
    *) fail "there is no board $board" "BOARD=qemu-x86 or BOARD=rack-x86" ;;
esac
for tool in cargo rsync cpio bc unzip patch file perl wget; do
    command -v "$tool" >/dev/null || fail "$tool is missing" "run tests/setup/install.sh"
done

# What a release must be is asked before anything is built.
if [ "$release" = 1 ]; then
    kind=release
    [ -z "$(git status --porcelain)" ] ||
        fail "the checkout has changes that no commit names" "commit or remove them: a release is built from a commit"
    [ -n "${KEYS-}" ] || fail "a release needs keys" "KEYS= the folder that keys/README.md describes"
    keys/check.sh "$keys" --release || fail "$keys is not what a release is signed with" "mend what is said above"
else
    kind=development
    [ -n "${KEYS-}" ] || keys/make.sh "$keys"
fi
keys=$(cd "$keys" 2>/dev/null && pwd) || fail "there is no folder of keys $keys" "make keys, or name one as KEYS="
# Anything but a release carries the agent, which runs commands as root: release keys never sign that.
[ "$release" = 1 ] || [ -e "$keys/DEVELOPMENT" ] ||
    fail "$keys holds release keys, and this is no release" "add RELEASE=1, or leave KEYS= away for development keys"
# A key on a token is used through the system's own OpenSSL, as everywhere else (board/common/post-image.sh).
if compgen -G "$keys/*.uri" >/dev/null; then
    /usr/bin/openssl engine pkcs11 >/dev/null 2>&1 ||
        fail "a key is on a token, and OpenSSL has no engine for it" "install the package libengine-pkcs11-openssl"
fi
mkdir -p "$cache"
# What an earlier configuration left behind must not be in an image: a release starts from nothing, and a development build
# goes on only with what the same recipe began.
if [ -n "${OUT-}" ]; then
    out=$OUT
    if [ "$release" = 1 ] && [ -n "$(ls -A "$out" 2>/dev/null)" ]; then
        fail "$out is not empty, and a release is built from nothing" "empty it, or leave OUT= away"
    fi
elif [ "$release" = 1 ]; then
    out=$cache/$board-release
    rm -rf "$out"
else
    recipe=$(find buildroot/version "buildroot/configs/$defconfig" buildroot/{patches,package,external.*,Config.in} \
        board/kernel/patches -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c 1-12)
    out=$cache/$board-development-$recipe
    for other in "$cache/$board-development"*; do
        [ ! -e "$other" ] || [ "$other" = "$out" ] || rm -rf "$other"
    done
fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
downloads=${DL_DIR:-$cache/downloads}

tree=$(buildroot/tree.sh)

# The crates, in a step of their own: Buildroot builds a local site offline, and downloads nothing for it.
crates=$cache/crates-$(sha256sum Cargo.lock | cut -c 1-16)
if [ ! -d "$crates" ]; then
    echo "image: vendoring the crates of Cargo.lock"
    rm -rf "$crates.part"
    cargo vendor --quiet --locked --versioned-dirs "$crates.part" >/dev/null ||
        fail "the crates of Cargo.lock can't be had" "check the network; Cargo.lock must fit the manifests"
    mv "$crates.part" "$crates"
fi

cargo build --quiet --locked --release -p image
POSTERN_IMAGE_TOOL=$(realpath "${CARGO_TARGET_DIR:-target}")/release/postern-image
POSTERN_IMAGE_VERSION=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
POSTERN_IMAGE_KEYS=$keys
POSTERN_IMAGE_CRATES=$crates
POSTERN_IMAGE_RELEASE=$release
# One date for packages and image: Buildroot would ask git, and get that of whatever checkout the cache may lie in.
# shellcheck source=/dev/null
SOURCE_DATE_EPOCH=$(. buildroot/version && echo "$EPOCH")
if [ "$kind" = development ]; then
    POSTERN_IMAGE_BUSYBOX=$(command -v busybox) || true
    if [ -z "$POSTERN_IMAGE_BUSYBOX" ] || ldd "$POSTERN_IMAGE_BUSYBOX" >/dev/null 2>&1; then
        fail "a static busybox is missing, with which the boot tests look into a development image" \
            "install the package busybox-static"
    fi
    export POSTERN_IMAGE_BUSYBOX
fi
export POSTERN_IMAGE_TOOL POSTERN_IMAGE_VERSION POSTERN_IMAGE_KEYS POSTERN_IMAGE_CRATES POSTERN_IMAGE_RELEASE
export SOURCE_DATE_EPOCH BR2_DL_DIR=$downloads

build=(make --no-print-directory -C "$tree" O="$out" BR2_EXTERNAL="$checkout/buildroot")
"${build[@]}" "$defconfig" >/dev/null
if [ "$kind" = development ]; then
    echo BR2_PACKAGE_POSTERN_DEVELOPMENT_AGENT=y >>"$out/.config"
    "${build[@]}" olddefconfig >/dev/null
fi
buildroot/check-config.sh "buildroot/configs/$defconfig" "$out/.config"

# The checkout is the package's source, and make does not see that it changed.
rm -rf "$out"/build/postern-*
"${build[@]}"

result=target/image/$board
rm -rf "$result.new"
mkdir -p "$result.new"
cp --reflink=auto --sparse=always "$out"/images/postern/* "$result.new/"
rm -rf "$result"
mv "$result.new" "$result"
echo "image: $result ($kind, $POSTERN_IMAGE_VERSION)"
(cd "$result" && du -h --apparent-size -- *)
