#!/usr/bin/env python3
"""add-crates.py CARGO_LOCK VERSION: completes Buildroot's bill of materials by the crates of the appliance's binary.

Job: Buildroot knows the binary as one package. Read its CycloneDX document on standard input and `cargo tree`'s lines
(`name vVERSION …|LICENCE`) from file descriptor 3, add a component a crate, with the hash that Cargo.lock pins, and let
the package depend on them. Place: sbom.sh. Invariant: a crate that came from a registry has its hash, or this ends with
exit 1. Nothing is written but standard output.
"""

import json
import os
import sys
import tomllib


def main():
    if len(sys.argv) != 3:
        print("usage: add-crates.py Cargo.lock VERSION <bom 3<cargo-tree", file=sys.stderr)
        return 2
    with open(sys.argv[1], "rb") as lock:
        pinned = {(p["name"], p["version"]): p.get("checksum") for p in tomllib.load(lock)["package"]}
    bom = json.load(sys.stdin)
    own = next((c for c in bom["components"] if c["name"] == "postern"), None)
    if own is None:
        print("add-crates: the bill has no component postern; was it made with our defconfig?", file=sys.stderr)
        return 1
    own["version"] = sys.argv[2]
    crates = {}
    with os.fdopen(3) as tree:
        for line in tree:
            package, _, licence = line.strip().removesuffix(" (*)").partition("|")
            words = package.split()
            if len(words) < 2:
                continue
            name, version = words[0], words[1].removeprefix("v")
            if any(word.startswith("(/") for word in words[2:]):
                continue
            checksum = pinned.get((name, version))
            if checksum is None:
                print(f"add-crates: {name} {version} has no hash in Cargo.lock; vendor nothing from elsewhere", file=sys.stderr)
                return 1
            crates[f"pkg:cargo/{name}@{version}"] = {
                "bom-ref": f"pkg:cargo/{name}@{version}",
                "type": "library",
                "name": name,
                "version": version,
                "purl": f"pkg:cargo/{name}@{version}",
                "hashes": [{"alg": "SHA-256", "content": checksum}],
                "licenses": [{"expression": licence.replace("/", " OR ")}] if licence else [],
            }
    if not crates:
        print("add-crates: cargo tree named no crate", file=sys.stderr)
        return 1
    bom["components"] += [crates[ref] for ref in sorted(crates)]
    for dependency in bom["dependencies"]:
        if dependency["ref"] == own["bom-ref"]:
            dependency["dependsOn"] = sorted({*dependency.get("dependsOn", []), *crates})
    bom["dependencies"] += [{"ref": ref} for ref in sorted(crates)]
    json.dump(bom, sys.stdout, indent=2)
    print()
    print(f"add-crates: {len(bom['components'])} components, {len(crates)} of them crates", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
