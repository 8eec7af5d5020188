#!/usr/bin/env bash
# The surrogate image: what `make boot-image` builds for the boot tests.
#
# Job: binary, keys, kernel, root and assembly in the order of need. Place: the same board files, image tool and keys as
# the Buildroot image; Debian 13's packages stand in place of Buildroot's. Invariants: kernel and packages come from the
# cache when their inputs are the same; the second image differs from the first in its version alone. A crash leaves
# temporary folders beside the results, which the next run replaces.
set -euo pipefail

cd "$(dirname "$0")/../.."
out=target/boot
keys=keys/development
target=${CARGO_TARGET_DIR:-target}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
# Both refuse what is older than the first.
floor=$version
next=${version%.*}.$((${version##*.} + 1))
cache=${XDG_CACHE_HOME:-$HOME/.cache}/postern

cargo build -q --release -p postern -p boot-agent
cargo build -q -p image
mkdir -p "$out"
# Buildroot strips what it installs, too.
for program in postern postern-development-agent; do
    strip -o "$out/$program" "$target/release/$program"
done
keys/make.sh "$keys"
board/kernel/build.sh --board qemu-x86 --out "$out/kernel"

# assemble NAME VERSION [FURTHER ARGUMENTS]: one image in $out/NAME
assemble() {
    local name=$1 version=$2
    shift 2
    rm -rf "$out/$name.new" "$out/root.new"
    tests/boot/surrogate.sh --postern "$out/postern" --agent "$out/postern-development-agent" \
        --keys "$keys" --version "$version" --generation 1 --floor "$floor" --board qemu-x86 --development \
        "$out/root.new"
    "$target/debug/postern-image" assemble --rootfs "$out/root.new/root" --kernel "$out/kernel/bzImage" \
        --stub "$out/root.new/linuxx64.efi.stub" --keys "$keys" --version "$version" --generation 1 --floor "$floor" \
        --board qemu-x86 --out "$out/$name.new" "$@"
    keys/enrol-ovmf.sh "$keys" /usr/share/OVMF/OVMF_VARS_4M.fd "$out/$name.new/ovmf-vars.fd"
    # For the tests that assemble altered images.
    cp "$out/root.new/linuxx64.efi.stub" "$out/"
    rm -rf "${out:?}/$name" "$out/root.new"
    mv "$out/$name.new" "$out/$name"
}

assemble surrogate "$version"
assemble next "$next"
echo "boot-image: $out/surrogate ($version) and $out/next ($next); cache in $cache"
