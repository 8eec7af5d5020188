#!/usr/bin/env bash
# post-build.sh TARGET BOARD: Buildroot's hook when all packages and the overlay are in the target folder.
#
# Job: hold the kernel that was built against its fragments; carry what belongs beside the root (systemd's stub, AMD's
# microcode) to the images. The root itself is made Postern's later, on a copy (post-fakeroot.sh). Place:
# BR2_ROOTFS_POST_BUILD_SCRIPT. Invariants: every line of base and fragments holds in the kernel's .config, or the build
# ends with file and line; the target folder is only read. Running it again changes nothing. A crash ends the build.
set -euo pipefail

target=$1
board=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
images=${BINARIES_DIR:?this is a hook of Buildroot, which sets it}/beside

mapfile -t fragments < <(sed "/^#/d; /^$/d; s,.*,$here/../kernel/fragments/&.config," "$here/../kernel/boards/$board")
for config in "${BUILD_DIR:?this is a hook of Buildroot, which sets it}"/linux-[0-9]*/.config; do
    "$here/../kernel/check.sh" "$config" "$here/../kernel/base.config" "${fragments[@]}"
done

rm -rf "$images"
install -d "$images"
install -m 0644 "$target/usr/lib/systemd/boot/efi/linuxx64.efi.stub" "$images/linuxx64.efi.stub" || {
    echo "post-build.sh: systemd brought no stub for the kernel image; BR2_PACKAGE_SYSTEMD_BOOT must be set" >&2
    exit 1
}
if [ -d "$target/usr/lib/firmware/amd-ucode" ]; then
    cp -R "$target/usr/lib/firmware/amd-ucode" "$images/amd-ucode"
fi
