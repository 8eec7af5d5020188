#!/usr/bin/env bash
# post-fakeroot.sh TARGET [BOARD]: Buildroot's hook when owners and modes have been set.
#
# Job: nobody can sign in, and no program on the root lends its owner's rights. Packages' permission tables make mount, umount and D-Bus's launch
# helper setuid; nobody but root calls the first two, and services are started by systemd. Place:
# BR2_ROOTFS_POST_FAKEROOT_SCRIPT, the last step before the root is packed. Invariant: no setuid or setgid file is
# left. A crash ends the build.
set -euo pipefail

# Packages' tables add users in this same step: none may have a password.
if grep -vE '^[^:]+:[!*]+:' "$1/etc/shadow" >&2; then
    echo "post-fakeroot.sh: these accounts could sign in; lock them in the package that adds them" >&2
    exit 1
fi
find "$1" -xdev -type f -perm /6000 -exec chmod ug-s {} +
