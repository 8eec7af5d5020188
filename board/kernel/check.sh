#!/usr/bin/env bash
# Holds kernel fragments against what was built from them.
#
#   check.sh CONFIG FRAGMENT…            every line of each fragment stands in the built .config as it was asked for
#   check.sh --symbols TREE FRAGMENT…    every symbol that the fragments name exists in this kernel tree (seconds)
#
# Job: kconfig drops an option without a word when a dependency is missing or its name has changed; the image would
# then lack dm-init, or lockdown, and nobody would know. Each loss is printed as FILE:LINE and ends with exit 1.
# Place: build.sh after `make olddefconfig`; `make image-check` for the names; Buildroot's post-build hook.
# Invariants: a line that is neither an option nor a comment is an error, as a misspelt option would pass for a
# comment. Nothing is written.
set -euo pipefail

if [[ $# -lt 2 ]] || [[ $1 == --symbols && $# -lt 3 ]]; then
    echo "usage: check.sh CONFIG FRAGMENT… | check.sh --symbols TREE FRAGMENT…" >&2
    exit 2
fi

mode=config
if [[ $1 == --symbols ]]; then
    mode=symbols
    shift
fi
against=$1
shift
for fragment in "$@"; do
    if [[ ! -r $fragment ]]; then
        echo "check.sh: $fragment can't be read; name existing fragments" >&2
        exit 2
    fi
done

# What is known, as SYMBOL=VALUE lines; in symbols mode the value is empty. Kconfig files of other architectures define
# names that no x86 kernel has.
known() {
    if [[ $mode == config ]]; then
        sed -n 's/^CONFIG_\([A-Za-z0-9_]*=.*\)$/\1/p' "$against"
        return
    fi
    local arch prune=()
    for arch in "$against"/arch/*/; do
        [[ $arch == */x86/ ]] || prune+=(-o -path "${arch%/}")
    done
    find "$against" \( -path "$against/Documentation" "${prune[@]}" \) -prune -o -name 'Kconfig*' -type f -print0 \
        | xargs -0 sed -n 's/^[[:space:]]*\(menu\)\{0,1\}config[[:space:]]\{1,\}\([A-Za-z0-9_]\{1,\}\)[[:space:]]*$/\2=/p'
}

if [[ $mode == config && ! -r $against ]]; then
    echo "check.sh: $against can't be read; name the .config of a built kernel" >&2
    exit 2
elif [[ $mode == symbols && ! -r $against/Kconfig ]]; then
    echo "check.sh: $against is no kernel tree; name an unpacked source of the kernel" >&2
    exit 2
fi

known | awk -v mode="$mode" -v against="$against" '
    # Standard input first: what is known.
    FILENAME == "-" {
        at = index($0, "=")
        value[substr($0, 1, at - 1)] = substr($0, at + 1)
        known_symbols++
        next
    }
    /^[[:space:]]*$/ { next }
    /^# CONFIG_[A-Za-z0-9_]+ is not set$/ { hold(substr($2, 8), "n"); next }
    /^#/ && !/^#[[:space:]]*CONFIG_/ { next }
    /^CONFIG_[A-Za-z0-9_]+=("([^"\\]|\\.)*"|[^"[:space:]]+)$/ {
        at = index($0, "=")
        hold(substr($0, 8, at - 8), substr($0, at + 1))
        next
    }
    { complain($0, "neither an option nor a comment") }

    function hold(symbol, wanted,    built) {
        checked++
        if (mode == "symbols") {
            if (!(symbol in value)) complain("CONFIG_" symbol, "no such symbol in " against)
            return
        }
        built = (symbol in value) ? value[symbol] : "n"
        if (built != wanted) complain("CONFIG_" symbol "=" wanted, "lost; the built kernel has " built)
    }
    function complain(what, why) {
        printf "%s:%d: %s: %s\n", FILENAME, FNR, what, why > "/dev/stderr"
        failures++
    }
    END {
        if (!known_symbols) {
            print "check.sh: nothing was found in " against "; it is no kernel configuration or tree" > "/dev/stderr"
            exit 1
        }
        if (!checked) {
            print "check.sh: the fragments hold no option at all" > "/dev/stderr"
            exit 1
        }
        if (failures) {
            printf "check.sh: %d of %d lines do not hold; add what each option depends on, or take the line out\n",
                failures, checked > "/dev/stderr"
            exit 1
        }
        printf "check.sh: %d options hold against %s\n", checked, against
    }
' - "$@"
