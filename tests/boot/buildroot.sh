#!/usr/bin/env bash
# The image that `make image` built for QEMU, made ready for the boot tests: tests/boot/buildroot.sh [IMAGES]
#
# Job: what the surrogate has besides the image itself: firmware variables with the keys enrolled, and the next version,
# for updates. Place: between buildroot/image.sh and the tests, which take the result as
# POSTERN_IMAGE=$PWD/target/boot/buildroot/image. IMAGES is Buildroot's folder of images; KEYS as for `make image`.
# Invariants: the image under test is the one that was built, byte for byte; the next one differs from it in its version
# alone. A crash leaves a temporary folder beside the results, which the next run replaces.
set -euo pipefail

cd "$(dirname "$0")/../.."
out=target/boot/buildroot
keys=${KEYS:-keys/development}
images=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/postern/buildroot/qemu-x86-development/images}
# shellcheck source=/dev/null
. board/common/release.env

fail() {
    echo "buildroot.sh: $1; $2" >&2
    exit 1
}

for file in postern/disk.img rootfs.squashfs bzImage beside/linuxx64.efi.stub; do
    [ -e "$images/$file" ] || fail "$images/$file is missing" "build it first (make image), or name Buildroot's folder of images"
done
# Files keep their owners on their way from squashfs to squashfs.
[ "$(id -u)" = 0 ] || fail "this takes a root file system apart, and its owners with it" "run it as root"

rm -rf "$out.new"
mkdir -p "$out.new"
cp --reflink=auto --sparse=always -R "$images/postern" "$out.new/image"
keys/enrol-ovmf.sh "$keys" /usr/share/OVMF/OVMF_VARS_4M.fd "$out.new/image/ovmf-vars.fd"

root=$out.new/root
unsquashfs -quiet -no-progress -dest "$root" "$images/rootfs.squashfs" >/dev/null
version=$(sed -n 's/^VERSION_ID=//p' "$root/usr/lib/os-release")
next=${version%.*}.$((${version##*.} + 1))
for file in usr/lib/os-release usr/share/postern/image.json; do
    grep -qF "$version" "$root/$file" || fail "$file does not say $version" "look at board/common/finish.sh"
    sed -i "s/${version//./\\.}/$next/" "$root/$file"
done
cargo build -q -p image
"${CARGO_TARGET_DIR:-target}/debug/postern-image" assemble --rootfs "$root" --kernel "$images/bzImage" \
    --stub "$images/beside/linuxx64.efi.stub" --keys "$keys" --version "$next" --generation "$GENERATION" \
    --generation-floor "$GENERATION_FLOOR" --floor "$FLOOR" --board qemu-x86 --out "$out.new/next"
cp "$out.new/image/ovmf-vars.fd" "$out.new/next/ovmf-vars.fd"
# What the tests make altered images of.
mkdir "$out.new/kernel"
cp "$images/bzImage" "$out.new/kernel/bzImage"
cp "$images/beside/linuxx64.efi.stub" "$out.new/"

rm -rf "$root" "$out"
mv "$out.new" "$out"
echo "buildroot.sh: $out/image ($version) and $out/next ($next)"
