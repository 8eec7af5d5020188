#!/usr/bin/env bash
# Shows that board/kernel/check.sh finds what it is there to find.
#
# Job: each flaw that a fragment, a configuration or a tree can have, planted in made-up files, and the very line that
# must be named for it; then the real board lists. Seconds, no kernel source, no network. Place: `make image-check`.
# A crash leaves a folder in the temporary folder.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
failures=0

# expect NAME EXIT-STATUS WORDS-OF-THE-OUTPUT ARGUMENTS-OF-check.sh…
expect() {
    local name=$1 status=$2 words=$3 got=0 output
    shift 3
    output=$("$here/check.sh" "$@" 2>&1) || got=$?
    if [[ $got == "$status" && $output == *"$words"* ]]; then
        echo "ok    $name"
    else
        printf 'FAIL  %s: exit %s, expected %s and the words "%s"; the output was:\n%s\n' \
            "$name" "$got" "$status" "$words" "$output"
        failures=$((failures + 1))
    fi
}

cat >config <<'END'
#
# Automatically generated file; DO NOT EDIT.
#
CONFIG_DM_INIT=y
CONFIG_PANIC_TIMEOUT=10
CONFIG_LSM="landlock,lockdown"
# CONFIG_KEXEC is not set
CONFIG_DEVMEM=y
CONFIG_NR_CPUS=512
END

cat >good <<'END'
# A comment, also one that speaks of CONFIG_KEXEC.
CONFIG_DM_INIT=y

CONFIG_PANIC_TIMEOUT=10
CONFIG_LSM="landlock,lockdown"
# CONFIG_KEXEC is not set
# CONFIG_NEVER_HEARD_OF is not set
CONFIG_NOWHERE=n
END
expect "what was built as asked passes" 0 "6 options hold" config good

printf '# reason\nCONFIG_DM_VERITY=y\n' >lost
expect "an option that is not in the built kernel" 1 "lost:2: CONFIG_DM_VERITY=y: lost; the built kernel has n" config lost
expect "a loss in the second fragment" 1 "lost:2: CONFIG_DM_VERITY" config good lost
printf '# CONFIG_DEVMEM is not set\n' >kept
expect "an option that stayed although switched off" 1 "kept:1: CONFIG_DEVMEM=n: lost; the built kernel has y" config kept
printf 'CONFIG_DEVMEM=n\n' >kept-n
expect "the same, written as =n" 1 "kept-n:1: CONFIG_DEVMEM=n" config kept-n
printf '\n\nCONFIG_PANIC_TIMEOUT=0\n' >number
expect "another number" 1 "number:3: CONFIG_PANIC_TIMEOUT=0: lost; the built kernel has 10" config number
printf 'CONFIG_LSM="landlock"\n' >text
expect "another text" 1 'text:1: CONFIG_LSM="landlock": lost' config text
printf 'CONFIG_DM_INIT=m\n' >module
expect "a module in place of a built-in" 1 "module:1: CONFIG_DM_INIT=m: lost; the built kernel has y" config module
printf 'CONFIG_NR_CPUS=51\n' >prefix
expect "a value that only begins alike" 1 "prefix:1: CONFIG_NR_CPUS=51" config prefix
printf 'CONFIG_DM_INIT=y\nCONFIG_DM_INIT=n\n' >twice
expect "two lines that contradict each other" 1 "twice:2: CONFIG_DM_INIT=n" config twice

printf 'CONFIG_DM_INIT = y\n' >spaces
expect "spaces around the sign" 1 "spaces:1: CONFIG_DM_INIT = y: neither an option nor a comment" config spaces
printf '# CONFIG_KEXEC is not st\n' >misspelt
expect "a switch-off that is misspelt and would pass for a comment" 1 "misspelt:1:" config misspelt
printf '#CONFIG_KEXEC is not set\n' >joined
expect "a switch-off without its space" 1 "joined:1:" config joined
printf 'DM_INIT=y\n' >bare
expect "a symbol without its prefix" 1 "bare:1:" config bare
printf '# only words\n' >empty
expect "fragments without any option" 1 "no option at all" config empty
: >nothing
expect "an empty configuration" 1 "nothing was found" nothing good
expect "a configuration that is not there" 2 "can't be read" absent good
expect "a fragment that is not there" 2 "can't be read" config absent
expect "no fragment" 2 "usage" config

mkdir -p tree/drivers/md tree/arch/x86 tree/arch/arm tree/Documentation
printf 'config KEXEC\n\tbool "x"\nconfig PANIC_TIMEOUT\n' >tree/Kconfig
printf 'menuconfig MD\n\nconfig DM_INIT\n    config DM_UEVENT\n' >tree/drivers/md/Kconfig
printf 'config LSM\nconfig NOWHERE\nconfig NEVER_HEARD_OF\n' >tree/arch/x86/Kconfig.debug
printf 'config AEABI\n' >tree/arch/arm/Kconfig
printf 'config EXAMPLE\n' >tree/Documentation/Kconfig
expect "symbols that the tree has" 0 "6 options hold" --symbols tree good
printf 'CONFIG_MD=y\n' >menu
expect "a symbol that is also a menu" 0 "1 options hold" --symbols tree menu
printf '# r\n# CONFIG_KEXEK is not set\n' >unknown
expect "a switch-off of a symbol that does not exist" 1 "unknown:2: CONFIG_KEXEK: no such symbol" --symbols tree unknown
printf 'CONFIG_AEABI=y\n' >other
expect "a symbol of another architecture" 1 "other:1: CONFIG_AEABI: no such symbol" --symbols tree other
printf 'CONFIG_EXAMPLE=y\n' >example
expect "a symbol of the documentation" 1 "example:1: CONFIG_EXAMPLE" --symbols tree example
expect "a folder that is no kernel tree" 2 "no kernel tree" --symbols "$work" good

# The real lists: each names fragments that exist, and no fragment is forgotten.
used=$(sed '/^#/d; /^$/d' "$here"/boards/* | sort -u)
there=$(cd "$here/fragments" && printf '%s\n' *.config | sed 's/\.config$//' | sort)
if [[ $used == "$there" ]]; then
    echo "ok    every fragment belongs to a board, and every board's fragments exist"
else
    printf 'FAIL  boards/ and fragments/ differ:\n%s\n' "$(diff <(echo "$used") <(echo "$there"))"
    failures=$((failures + 1))
fi

if [[ $failures -gt 0 ]]; then
    echo "tests/check.sh: $failures failed; correct board/kernel/check.sh or the file that is named" >&2
    exit 1
fi
