#!/usr/bin/env bash
# Puts our keys into a variable store of OVMF and turns Secure Boot on: keys/enrol-ovmf.sh KEYS VARS_IN VARS_OUT
#
# Job: the firmware of a box whose owner has enrolled the keys, for the tests in QEMU. Place: called by the boot harness; on a
# real box keys/README.md says how. Invariants: VARS_IN is only read; VARS_OUT appears whole. virt-firmware (PyPI) is kept in
# the cache folder.
set -euo pipefail

if [ $# -ne 3 ]; then
    echo "usage: keys/enrol-ovmf.sh KEYS VARS_IN VARS_OUT" >&2
    exit 2
fi
keys=$1 input=$2 output=$3
owner=504f5354-4552-4e00-9000-000000000001
version=26.10
venv=${XDG_CACHE_HOME:-$HOME/.cache}/postern/virt-firmware-$version

for file in "$keys/PK.crt" "$keys/KEK.crt" "$keys/db.crt" "$input"; do
    if [ ! -r "$file" ]; then
        echo "enrol-ovmf: $file cannot be read; make keys with keys/make.sh, and install the package ovmf" >&2
        exit 1
    fi
done

mkdir -p "$(dirname "$venv")"
exec 9>"$venv.lock"
flock 9
if [ ! -x "$venv/bin/virt-fw-vars" ]; then
    echo "enrol-ovmf: installing virt-firmware $version (once)" >&2
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet "virt-firmware==$version" || {
        rm -rf "$venv"
        echo "enrol-ovmf: virt-firmware $version cannot be installed; check that PyPI can be reached" >&2
        exit 1
    }
fi

"$venv/bin/virt-fw-vars" --loglevel warning --input "$input" --output "$output.new" \
    --set-pk "$owner" "$keys/PK.crt" --add-kek "$owner" "$keys/KEK.crt" --add-db "$owner" "$keys/db.crt" --secure-boot
mv "$output.new" "$output"
