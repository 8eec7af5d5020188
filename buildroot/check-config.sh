#!/usr/bin/env bash
# check-config.sh DEFCONFIG CONFIG: every line of the defconfig holds in the configuration made from it.
#
# Job: Buildroot's kconfig drops a line without a word when something that it depends on is missing, and takes another
# value when two lines disagree. Each loss is printed as FILE:LINE and ends with exit 1. Place: image.sh before a build,
# image-check.sh. Invariants: a line that is neither an option nor a comment is an error, as is a line that stands
# twice. Nothing is written.
set -euo pipefail

if [ $# -ne 2 ] || [ ! -r "$1" ] || [ ! -r "$2" ]; then
    echo "usage: check-config.sh DEFCONFIG CONFIG (both must exist)" >&2
    exit 2
fi

awk -v defconfig="$1" '
    # The configuration first: what holds.
    FNR == NR {
        if (match($0, /^BR2_[A-Za-z0-9_]+=/)) value[substr($0, 1, RLENGTH - 1)] = substr($0, RLENGTH + 1)
        next
    }
    /^[[:space:]]*$/ { next }
    /^# BR2_[A-Za-z0-9_]+ is not set$/ { hold($2, "n"); next }
    /^#/ && !/^#[[:space:]]*BR2_/ { next }
    /^BR2_[A-Za-z0-9_]+=("([^"\\]|\\.)*"|[^"[:space:]]+)$/ {
        at = index($0, "=")
        hold(substr($0, 1, at - 1), substr($0, at + 1))
        next
    }
    { complain($0, "neither an option nor a comment") }

    function hold(option, wanted,    found) {
        lines++
        if (option in seen) complain(option, "stands in line " seen[option] " already")
        seen[option] = FNR
        found = (option in value) ? value[option] : "n"
        if (found != wanted) complain(option "=" wanted, "lost; the configuration has " found)
    }
    function complain(what, why) {
        printf "%s:%d: %s: %s\n", defconfig, FNR, what, why > "/dev/stderr"
        failures++
    }
    END {
        if (!lines) { print defconfig ": holds no option at all" > "/dev/stderr"; exit 1 }
        if (failures) {
            printf "%s: %d of %d lines do not hold; add what each depends on, or take the line out\n",
                defconfig, failures, lines > "/dev/stderr"
            exit 1
        }
        printf "%s: %d lines hold\n", defconfig, lines
    }
' "$2" "$1"
