#!/usr/bin/env bash
# tree.sh: the Buildroot tree that everything here works in.
#
# Job: take BUILDROOT_DIR (or fetch the pinned archive), hold it against buildroot/version, copy it to the cache, apply
# patches/buildroot to the copy, print the copy's path. `tree.sh digest DIR` prints the digest of an unpacked tree.
# Place: first step of image.sh, image-check.sh and sbom.sh. Invariants: nothing of a tree runs before its digest is the
# pinned one; the folder given is only read; a copy has its final name only when it is whole. A crash leaves a folder
# named *.part in the cache, which the next run removes.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
. "$here/version"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/postern/buildroot

fail() {
    echo "buildroot: $1" >&2
    echo "  $2" >&2
    exit 1
}

# Every file by content, whether it may be executed, and every link by target; without what a build or a release adds
# (the manual in docs/, of which only make rules count, and the folders of a build in the tree).
digest() {
    (
        cd "$1"
        export LC_ALL=C
        listed() {
            find . \( -path ./output -o -path ./dl -o -path ./.git -o -path ./.config -o -path ./.config.old \
                -o -name __pycache__ \) -prune -o \
                \( -path './docs/*' -not -name '*.mk' \) -o "$@"
        }
        {
            listed -type f -print0 | sort -z | xargs -0 sha256sum
            listed -type f -perm -u+x -print | sort
            listed -type l -printf '%p -> %l\n' | sort
        } | sha256sum | cut -d ' ' -f 1
    )
}

fetch() {
    local into=$cache/$ARCHIVE
    mkdir -p "$cache"
    if ! echo "$ARCHIVE_SHA256  $into" | sha256sum --check --status 2>/dev/null; then
        echo "buildroot: fetching $ARCHIVE_URL" >&2
        curl --fail --silent --show-error --location --retry 3 --output "$into.part" "$ARCHIVE_URL" ||
            fail "$ARCHIVE_URL can't be fetched" \
                "give an unpacked tree of $VERSION as BUILDROOT_DIR=, or put the archive at $into"
        echo "$ARCHIVE_SHA256  $into.part" | sha256sum --check --status ||
            fail "$ARCHIVE is not the pinned one: $(sha256sum "$into.part" | cut -d ' ' -f 1)" \
                "the pinned hash is $ARCHIVE_SHA256 (buildroot/version); do not use what was fetched"
        mv "$into.part" "$into"
    fi
    rm -rf "$cache/unpacked.part"
    mkdir "$cache/unpacked.part"
    tar -xf "$into" -C "$cache/unpacked.part" --strip-components=1 --no-same-owner
    rm -rf "$cache/unpacked"
    mv "$cache/unpacked.part" "$cache/unpacked"
    echo "$cache/unpacked"
}

if [ "${1-}" = digest ]; then
    [ -f "${2-}/Makefile" ] || fail "'${2-}' is no Buildroot tree" "name an unpacked tree: tree.sh digest DIR"
    digest "$2"
    exit
fi

# What the copy depends on names it: another patch, another copy.
patches=("$here"/patches/buildroot/*.patch)
key=$(cat "$here/version" "${patches[@]}" | sha256sum | cut -c 1-12)
copy=$cache/$VERSION-$key

pinned() {
    local found
    found=$(digest "$1")
    [ "$found" = "$TREE_SHA256" ] || fail "$1 is not Buildroot $VERSION as it was released: digest $found" \
        "buildroot/version pins $TREE_SHA256; unpack the release again, without changes"
}

if [ -n "${BUILDROOT_DIR-}" ]; then
    [ -f "$BUILDROOT_DIR/Makefile" ] ||
        fail "BUILDROOT_DIR=$BUILDROOT_DIR is no Buildroot tree" "name the folder of an unpacked $VERSION"
    pinned "$BUILDROOT_DIR"
fi
if [ ! -d "$copy" ]; then
    source=${BUILDROOT_DIR:-$(fetch)}
    rm -rf "$copy.part"
    mkdir -p "$copy.part"
    tar -C "$source" --exclude=./output --exclude=./dl --exclude=./.git -cf - . | tar -C "$copy.part" -xf -
    pinned "$copy.part"
    for patch in "${patches[@]}"; do
        patch --directory="$copy.part" --strip=1 --fuzz=0 --forward --silent --no-backup-if-mismatch <"$patch" ||
            fail "${patch##*/} does not apply to $VERSION" "raise the patch together with buildroot/version (README.md)"
    done
    rm -rf "$copy"
    mv "$copy.part" "$copy"
fi
echo "$copy"
