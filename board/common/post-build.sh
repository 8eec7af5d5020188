#!/usr/bin/env bash
# post-build.sh TARGET BOARD: Buildroot's hook when all packages and the overlay are in the root.
#
# Job: hold the kernel against its fragments, carry what belongs beside the root (systemd's stub, microcode) to the
# images, take out what packages brought unasked (remove.sh), make the rest Postern's (finish.sh, as in the surrogate).
# Place: BR2_ROOTFS_POST_BUILD_SCRIPT. Takes POSTERN_IMAGE_VERSION, POSTERN_IMAGE_KEYS and, for a release,
# POSTERN_IMAGE_RELEASE=1 from image.sh. Invariants: a release has no development agent; every line of the fragments
# holds in the kernel that was built. Running it again on the same target changes nothing. A crash ends the build.
set -euo pipefail

target=$1
board=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
images=${BINARIES_DIR:?this is a hook of Buildroot, which sets it}
version=${POSTERN_IMAGE_VERSION:?build with make image, which says the version}
keys=${POSTERN_IMAGE_KEYS:?build with make image, which names the folder of keys}
# shellcheck source=/dev/null
. "$here/release.env"

fail() {
    echo "post-build.sh: $1; $2" >&2
    exit 1
}

mapfile -t fragments < <(sed "/^#/d; /^$/d; s,.*,$here/../kernel/fragments/&.config," "$here/../kernel/boards/$board")
for config in "${BUILD_DIR:?}"/linux-[0-9]*/.config; do
    "$here/../kernel/check.sh" "$config" "$here/../kernel/base.config" "${fragments[@]}"
done

agent=$target/usr/bin/postern-development-agent
if [ "${POSTERN_IMAGE_RELEASE-}" = 1 ] && [ -e "$agent" ]; then
    fail "the development agent is on the root of a release" "build in a fresh folder: make image RELEASE=1 OUT=…"
fi

# Beside the root, not on it: moved at the first run, there already at the next.
install -d "$images/beside"
stub=$target/usr/lib/systemd/boot/efi/linuxx64.efi.stub
[ ! -e "$stub" ] || install -m 0644 "$stub" "$images/beside/linuxx64.efi.stub"
[ -e "$images/beside/linuxx64.efi.stub" ] ||
    fail "systemd brought no stub for the kernel image" "BR2_PACKAGE_SYSTEMD_BOOT must be set"
rm -rf "$target/usr/lib/systemd/boot" "$target/boot/EFI" "$target/boot/loader"
if [ -d "$target/usr/lib/firmware/amd-ucode" ]; then
    rm -rf "$images/beside/amd-ucode"
    mv "$target/usr/lib/firmware/amd-ucode" "$images/beside/amd-ucode"
fi

"$here/remove.sh" "$target"
development=()
[ ! -e "$keys/DEVELOPMENT" ] || development=(--development)
"$here/finish.sh" "$target" --version "$version" --generation "$GENERATION" --floor "$FLOOR" --board "$board" \
    --keys "$keys" "${development[@]}"
