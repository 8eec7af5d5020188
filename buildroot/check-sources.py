#!/usr/bin/env python3
"""check-sources.py TREE: every source that the build downloads has a known hash and a known licence.

Job: read Buildroot's `show-info` on standard input, look each download up in the package's hash files, name what has
none. Place: image-check.sh. BR2_DOWNLOAD_FORCE_CHECK_HASHES is not enough: a package without any hash file gets a
warning only, and the kernel of a custom version has none in this release. Invariants: nothing is written; a hash of
SHA-1 or MD5 counts for nothing. Exit 1 when anything is missing.
"""

import json
import pathlib
import sys

STRONG = {"sha256", "sha384", "sha512"}


def known_hashes(tree, package):
    """Names of files for which the package's hash files have a strong hash."""
    names = set()
    for entry in package.get("hashes", []):
        path = pathlib.Path(tree, entry)
        if not path.exists():
            continue
        for line in path.read_text().splitlines():
            words = line.split()
            if len(words) == 3 and words[0] in STRONG:
                names.add(words[2])
    return names


def main():
    if len(sys.argv) != 2:
        print("usage: make show-info | check-sources.py TREE", file=sys.stderr)
        return 2
    tree = sys.argv[1]
    failures = []
    downloads = set()
    for name, package in sorted(json.load(sys.stdin).items()):
        if package["type"] not in ("target", "host") or package.get("virtual"):
            continue
        hashes = known_hashes(tree, package)
        for download in package.get("downloads", []):
            # A local site is this checkout: git, and Cargo.lock for its crates, say what it must be.
            if any(uri.startswith("local+") for uri in download["uris"]):
                continue
            downloads.add(download["source"])
            if download["source"] not in hashes:
                failures.append(f"{name}: {download['source']} has no SHA-2 hash in {package.get('hashes') or 'any file'}")
        if package["type"] == "target" and package.get("downloads") and package.get("licenses", "unknown") == "unknown":
            failures.append(f"{name}: its licence is unknown")
    for failure in failures:
        print(failure, file=sys.stderr)
    if failures or not downloads:
        print(f"check-sources: {len(failures)} failures; add hashes below buildroot/patches/PACKAGE", file=sys.stderr)
        return 1
    print(f"check-sources: {len(downloads)} downloads, each with a hash")
    return 0


if __name__ == "__main__":
    sys.exit(main())
