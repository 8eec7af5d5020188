#!/usr/bin/env bash
# image-check.sh: `make image-check`, all that can be said about the image in minutes, without building it.
#
# Job: scripts, defconfigs, kernel fragments and units on their own; with BUILDROOT_DIR also all that needs a tree:
# configuration, package style, hashes of every source, licences, bill of materials. Place: CI runs it without a tree, a
# developer with one. Invariants: each check is run or named as skipped, with the reason, at the end too; one failed check
# does not keep the others from running; nothing in the checkout changes but target/image. A crash leaves temporary
# folders.
#   BUILDROOT_DIR  an unpacked tree of the pinned version
#   LEGAL=1        also Buildroot's legal-info, which downloads every source
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
checkout=$PWD
cache=${XDG_CACHE_HOME:-$HOME/.cache}/postern
boards=(qemu-x86 rack-x86)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=()
skipped=()

# check NAME COMMAND…: runs it, remembers that it failed
check() {
    local name=$1
    shift
    echo "== $name"
    "$@" || failed+=("$name")
}

# skip NAME REASON
skip() {
    echo "== $1: skipped, $2"
    skipped+=("$1: $2")
}

# Scripts of all that makes an image, new ones too.
scripts() {
    local files
    mapfile -t files < <(git ls-files --cached --others --exclude-standard -- \
        'board/*.sh' 'buildroot/*.sh' 'keys/*.sh' 'tests/*.sh')
    shellcheck --external-sources "${files[@]}" && echo "${#files[@]} scripts"
}

# Every line of a defconfig is an option, what it names exists, and both boards differ in the first part alone.
defconfigs() {
    local board file path fragments wrong=0 marker='# What follows is the same for every board'
    for board in "${boards[@]}"; do
        file=buildroot/configs/${board//-/_}_defconfig
        grep -nvE '^(BR2_[A-Za-z0-9_]+=("[^"]*"|[a-z0-9]+)|# BR2_[A-Za-z0-9_]+ is not set|#( [^B].*| B[^R].*)?|)$' "$file" |
            sed "s,^,$file:," >&2 && wrong=1
        # shellcheck disable=SC2016 # the variable is make's
        while read -r path; do
            [ -e "buildroot$path" ] || { echo "$file: buildroot$path does not exist" >&2 && wrong=1; }
        done < <(grep -o '$(BR2_EXTERNAL_POSTERN_PATH)[^" ]*' "$file" | sed 's/^[^)]*)//')
        fragments=$(sed "/^#/d; /^$/d; s,.*,\$(BR2_EXTERNAL_POSTERN_PATH)/../board/kernel/fragments/&.config," \
            "board/kernel/boards/$board" | paste -sd ' ')
        grep -qxF "BR2_LINUX_KERNEL_CONFIG_FRAGMENT_FILES=\"$fragments\"" "$file" || {
            echo "$file: its kernel fragments are not those of board/kernel/boards/$board; they should be: $fragments" >&2
            wrong=1
        }
        sed -n "/^$marker/,\$p" "$file" >"$work/$board.common"
    done
    cmp "$work/${boards[0]}.common" "$work/${boards[1]}.common" || {
        echo "the defconfigs differ after the line '$marker'; what a board has alone stands before it" >&2
        wrong=1
    }
    [ "$wrong" -eq 0 ] && echo "${#boards[@]} defconfigs"
}

# The kernel of a custom version has no hash in Buildroot; ours stands twice, as Buildroot asks by package.
kernel_hash() {
    local version
    version=$(sed -n 's/^BR2_LINUX_KERNEL_CUSTOM_VERSION_VALUE="\(.*\)"$/\1/p' buildroot/configs/qemu_x86_defconfig)
    cmp buildroot/patches/linux/linux.hash buildroot/patches/linux-headers/linux-headers.hash &&
        grep -q "^sha256  [0-9a-f]\{64\}  linux-$version\.tar\.xz$" buildroot/patches/linux/linux.hash &&
        echo "linux $version has its hash"
}

# The patches of Buildroot itself: version and hashes of rust-bin, nothing else.
patches() {
    local file wrong
    for file in buildroot/patches/buildroot/*.patch; do
        wrong=$(grep -E '^[-+]' "$file" |
            grep -vE '^(---|---|\+\+\+) ([ab]/package/rust-bin/rust-bin\.(mk|hash))?$|^---$' |
            grep -vE '^[-+](RUST_BIN_VERSION = [0-9.]+|# From https://[^ ]+|sha256  [0-9a-f]{64}  [^ ]+)$')
        [ -z "$wrong" ] || { echo "$file changes more than version and hashes: $wrong" >&2 && return 1; }
        echo "${file##*/}: version and hashes alone"
    done
}

kernel_configuration() {
    local board
    for board in "${boards[@]}"; do
        board/kernel/build.sh --board "$board" --out "$work/kernel-$board" --config-only || return 1
    done
}

units() {
    local postern=$1
    tests/boot/surrogate.sh "$work/surrogate" --postern "$postern" --keys keys/development --version 0.0.0 --generation 1 \
        --floor 0.0.0 --board qemu-x86 --development >/dev/null && tests/boot/units.sh "$work/surrogate"
}

# configuration BOARD: the defconfig loads in the tree, and no line of it is lost
configuration() {
    local board=$1 defconfig=${1//-/_}_defconfig
    make --no-print-directory -s -C "$tree" O="$work/$board" BR2_EXTERNAL="$checkout/buildroot" "$defconfig" \
        >"$work/log" 2>&1 || { cat "$work/log" >&2 && return 1; }
    grep -i 'warning' "$work/log" >&2 && return 1
    buildroot/check-config.sh "buildroot/configs/$defconfig" "$work/$board/.config"
}

check_package() {
    local files
    mapfile -t files < <(git ls-files --cached --others --exclude-standard -- buildroot |
        grep -vE '\.(sh|md)$' | sed "s,^,$checkout/,")
    # In the tree, whose .flake8 says how long a line may be.
    (cd "$tree" && "$python/python3" utils/check-package --br2-external "${files[@]}")
}

# sources BOARD: show-info runs, and every source that it names has hash and licence
sources() {
    make --no-print-directory -s -C "$tree" O="$work/$1" show-info >"$work/$1.info" &&
        "$python/python3" buildroot/check-sources.py "$tree" <"$work/$1.info"
}

merged() {
    (cd "$tree" && support/scripts/check-merged -t overlay -u -b "$checkout/board/common/overlay") && echo "overlay fits"
}

legal_info() {
    make --no-print-directory -s -C "$tree" O="$work/$1" BR2_DL_DIR="${DL_DIR:-$cache/buildroot/downloads}" legal-info &&
        cp "$work/$1/legal-info/manifest.csv" "target/image/licences-$1.csv"
}

check 'scripts (shellcheck)' scripts
check 'defconfigs on their own' defconfigs
check 'hash of the kernel' kernel_hash
check 'patches of Buildroot' patches
check 'the check of kernel fragments is checked' board/kernel/tests/check.sh
# shellcheck source=/dev/null
. board/kernel/source.env
if [ -e "$cache/${KERNEL_PACKAGE}_$KERNEL_VERSION.deb" ]; then
    check 'kernel fragments against their source' kernel_configuration
else
    skip 'kernel fragments against their source' "the kernel's source is not in the cache; board/kernel/build.sh fetches it"
fi
postern=
for profile in debug release; do
    [ ! -x "${CARGO_TARGET_DIR:-target}/$profile/postern" ] || postern=${CARGO_TARGET_DIR:-target}/$profile/postern
done
if ! compgen -G "$cache/surrogate-*.tar" >/dev/null; then
    skip 'units' "the surrogate's packages are not in the cache; make boot-image fetches them"
elif [ -z "$postern" ] || [ ! -e keys/development/policy.pub ]; then
    skip 'units' "binary or development keys are missing; cargo build -p postern, make keys"
elif [ "$(id -u)" != 0 ]; then
    skip 'units' "chroot needs root"
else
    check 'units (systemd-analyze verify and security)' units "$postern"
fi

if [ -z "${BUILDROOT_DIR-}" ]; then
    for name in 'Buildroot tree and patches' 'both configurations' 'check-package' 'overlay and merged /usr' \
        'hashes and licences of sources (show-info)' 'bill of materials' legal-info; do
        skip "$name" 'BUILDROOT_DIR is not set'
    done
elif ! tree=$(buildroot/tree.sh) || ! python=$(buildroot/python.sh); then
    failed+=('Buildroot tree and patches')
else
    echo "== Buildroot tree: $(sed -n 's/^VERSION=//p' buildroot/version), patched, in $tree"
    check 'check-package' check_package
    check 'overlay and merged /usr' merged
    for board in "${boards[@]}"; do
        check "configuration $board" configuration "$board"
        check "hashes and licences of sources, $board" sources "$board"
        BOARD=$board check "bill of materials, $board" buildroot/sbom.sh
        if [ "${LEGAL-}" = 1 ]; then
            check "legal-info, $board" legal_info "$board"
        else
            skip "legal-info, $board" 'it downloads every source; LEGAL=1 runs it'
        fi
    done
fi

echo
[ ${#skipped[@]} -eq 0 ] || printf 'skipped: %s\n' "${skipped[@]}"
if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
echo 'image-check: all that was run holds'
