#!/usr/bin/env bash
# sbom.sh: `make sbom`, the bill of materials of an image, as CycloneDX.
#
# Job: what Buildroot knows of its packages (name, version, licence, known flaws that a patch answers) and the crates of
# the appliance's binary, in target/image/sbom-BOARD.cdx.json. Place: called by the Makefile and image-check.sh; BOARD and
# BUILDROOT_DIR as in image.sh. Nothing is built and no source is downloaded. A crash leaves no file.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
board=${BOARD:-qemu-x86}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/postern/buildroot
result=target/image/sbom-$board.cdx.json
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)

case $board in
    qemu-x86 | rack-x86) ;;
    *) echo "sbom: there is no board $board; BOARD=qemu-x86 or BOARD=rack-x86" >&2 && exit 1 ;;
esac
tree=$(buildroot/tree.sh)
python=$(buildroot/python.sh)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

make --no-print-directory -s -C "$tree" O="$work/out" BR2_EXTERNAL="$PWD/buildroot" "${board//-/_}_defconfig" >/dev/null
make --no-print-directory -s -C "$tree" O="$work/out" show-info >"$work/show-info"

# Buildroot would fetch the names of licences from the web; the pinned package has the same list.
names=$("$python/python3" -c 'import cyclonedx.schema, pathlib
print(pathlib.Path(cyclonedx.schema.__file__).parent / "_res" / "spdx.SNAPSHOT.schema.json")')
mkdir -p "$work/dl/cyclonedx" "$cache" target/image
cp "$names" "$work/dl/cyclonedx/spdx-1.6.schema.json"
BR2_DL_DIR=$work/dl "$python/python3" "$tree/utils/generate-cyclonedx" --project-name postern-image \
    --project-version "$version" --in-file "$work/show-info" --out-file "$work/bom"
cargo tree --locked -p postern -e normal --target x86_64-unknown-linux-gnu --prefix none --format '{p}|{l}' \
    >"$work/crates"
"$python/python3" buildroot/add-crates.py Cargo.lock "$version" <"$work/bom" 3<"$work/crates" >"$work/complete"
mv "$work/complete" "$result"
echo "sbom: $result"
