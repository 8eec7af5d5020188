#!/usr/bin/env bash
# post-fakeroot.sh ROOT BOARD: Buildroot's hook when owners and modes have been set, just before the root is packed.
#
# Job: packages down to what is needed (strip.sh), overlay over them, development agent where it belongs, the rest as in
# the surrogate (finish.sh). It works on the copy that is packed, so that Buildroot's own target stays whole and the
# next build has it. Place: BR2_ROOTFS_POST_FAKEROOT_SCRIPT. Takes POSTERN_IMAGE_VERSION, POSTERN_IMAGE_KEYS,
# POSTERN_IMAGE_RELEASE and, for a development image, POSTERN_IMAGE_BUSYBOX from image.sh. Invariants: users are the
# overlay's, by number, whatever packages' tables say; a release has no development agent; a folder of keys is read for
# its public parts only. A crash ends the build; the copy is made anew.
set -euo pipefail

root=$1
board=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=${POSTERN_IMAGE_VERSION:?build with make image, which says the version}
keys=${POSTERN_IMAGE_KEYS:?build with make image, which names the folder of keys}
# shellcheck source=/dev/null
. "$here/release.env"

fail() {
    echo "post-fakeroot.sh: $1; $2" >&2
    exit 1
}

saved=$(mktemp -d)
trap 'rm -rf "$saved"' EXIT
for program in postern postern-development-agent; do
    [ ! -e "$root/usr/bin/$program" ] || cp -p "$root/usr/bin/$program" "$saved/"
done
[ -e "$saved/postern" ] || fail "usr/bin/postern is not on the root" "BR2_PACKAGE_POSTERN must be set"

"$here/strip.sh" "$root"
cp -a --no-preserve=ownership "$here/overlay/." "$root/"
install -m 0755 "$saved/postern" "$root/usr/bin/postern"

options=()
if [ -e "$keys/DEVELOPMENT" ]; then
    options+=(--development)
    [ "${POSTERN_IMAGE_RELEASE-}" != 1 ] || fail "$keys holds development keys" "a release is signed with release keys"
fi
if [ -e "$saved/postern-development-agent" ]; then
    [ "${POSTERN_IMAGE_RELEASE-}" != 1 ] ||
        fail "the development agent was built into a release" "build in a fresh folder: make image RELEASE=1 OUT=…"
    install -m 0755 "$saved/postern-development-agent" "$root/usr/bin/"
    install -m 0644 "$here/../../tests/boot/agent/postern-development-agent.service" "$root/usr/lib/systemd/system/"
    # The tests look into the machine with it; nothing else on the root finds it.
    install -D -m 0755 "${POSTERN_IMAGE_BUSYBOX:?build with make image}" "$root/usr/lib/postern-development/busybox"
fi

"$here/finish.sh" "$root" --version "$version" --generation "$GENERATION" --floor "$FLOOR" --board "$board" \
    --keys "$keys" "${options[@]}"
chown -hR 0:0 "$root"
