#!/usr/bin/env bash
# post-image.sh IMAGES BOARD: Buildroot's hook when root and kernel lie in the images folder.
#
# Job: have the image tool make hash tree, signed kernel images, disk and update bundle of them; microcode of both
# makers goes into the signed kernel image as the cpio that the kernel looks for. Place: BR2_ROOTFS_POST_IMAGE_SCRIPT.
# Takes POSTERN_IMAGE_TOOL, POSTERN_IMAGE_KEYS and POSTERN_IMAGE_VERSION from image.sh. Invariant: the finished folder
# `postern` appears whole or not at all. A crash leaves `beside` and a temporary folder of the tool.
set -euo pipefail

images=$1
board=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
. "$here/release.env"
tool=${POSTERN_IMAGE_TOOL:?build with make image, which builds the image tool}

options=()
microcode=$images/beside/microcode
rm -rf "$microcode" "$microcode.cpio"
mkdir -p "$microcode/kernel/x86/microcode"
gather() {
    local folder=$1 file=$microcode/kernel/x86/microcode/$2 part
    [ -d "$folder" ] || return 0
    while IFS= read -r part; do
        cat "$part" >>"$file"
    done < <(find "$folder" -type f ! -name '*.asc' ! -name 'README*' | LC_ALL=C sort)
}
gather "$images/intel-ucode" GenuineIntel.bin
gather "$images/beside/amd-ucode" AuthenticAMD.bin
if [ "$board" = rack-x86 ] && [ "$(find "$microcode" -type f | wc -l)" != 2 ]; then
    echo "post-image: a rack's image needs microcode of Intel and AMD, and has: $(find "$microcode" -type f -printf '%f ')" >&2
    echo "  keep BR2_PACKAGE_INTEL_MICROCODE and LINUX_FIRMWARE_AMD_UCODE in the defconfig" >&2
    exit 1
fi
if [ -n "$(find "$microcode" -type f)" ]; then
    find "$microcode" -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH:-315532800}" {} +
    (cd "$microcode" && find . -mindepth 1 | LC_ALL=C sort |
        cpio --quiet --create --format=newc --owner=0:0 --reproducible) >"$microcode.cpio"
    options+=(--microcode "$microcode.cpio")
fi

# Buildroot's OpenSSL and RAUC don't reach tokens; the system's do, and the image is the same (board/image/tests/keys.rs).
if compgen -G "${POSTERN_IMAGE_KEYS:?}/*.uri" >/dev/null; then
    PATH=/usr/sbin:/usr/bin:$PATH
fi

"$tool" assemble --rootfs "$images/rootfs.squashfs" --kernel "$images/bzImage" \
    --stub "$images/beside/linuxx64.efi.stub" "${options[@]}" --keys "${POSTERN_IMAGE_KEYS:?}" \
    --version "${POSTERN_IMAGE_VERSION:?}" --generation "$GENERATION" --generation-floor "$GENERATION_FLOOR" \
    --floor "$FLOOR" --board "$board" --out "$images/postern"
