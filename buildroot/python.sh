#!/usr/bin/env bash
# python.sh: the Python that Buildroot's own checks run in; prints its folder of programs.
#
# Job: a virtual environment in the cache with exactly requirements.txt, by hash. Place: image-check.sh and sbom.sh.
# Invariant: the environment appears whole or not at all. A crash leaves a folder *.part, which the next run removes.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
environment=${XDG_CACHE_HOME:-$HOME/.cache}/postern/buildroot/python-$(sha256sum "$here/requirements.txt" | cut -c 1-12)
if [ ! -d "$environment" ]; then
    rm -rf "$environment.part"
    mkdir -p "${environment%/*}"
    if ! python3 -m venv "$environment.part" ||
        ! "$environment.part/bin/python3" -m pip install --quiet --no-deps --require-hashes --only-binary=:all: \
            --requirement "$here/requirements.txt"; then
        echo "python.sh: the packages in buildroot/requirements.txt can't be installed" >&2
        echo "  check the network, and that python3-venv is installed" >&2
        exit 1
    fi
    mv "$environment.part" "$environment"
fi
# The environment is used in place: its python3 is a link, and finds its packages by its own path.
echo "$environment/bin"
