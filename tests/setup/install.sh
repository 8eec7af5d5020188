#!/usr/bin/env bash
# Installs what building and testing need and is missing, and says what. Silent when nothing is.
set -euo pipefail

# command or file that proves a package is there, and the package
needed=(
    gcc:gcc g++:g++ make:make cmake:cmake pkg-config:pkg-config curl:curl git:git
    /usr/include/openssl/ssl.h:libssl-dev
    /usr/include/tss2/tss2_esys.h:libtss2-dev
    swtpm:swtpm swtpm_setup:swtpm-tools tpm2_startup:tpm2-tools
    /usr/sbin/postfix:postfix swaks:swaks openssl:openssl
    /usr/share/perl5/IO/Socket/SSL.pm:libio-socket-ssl-perl
    /usr/bin/chromium:chromium
    dkimsign:python3-dkim
    python3:python3 sqlite3:sqlite3 shellcheck:shellcheck
    mksquashfs:squashfs-tools /usr/sbin/veritysetup:cryptsetup-bin /usr/sbin/mkfs.vfat:dosfstools mcopy:mtools
    genimage:genimage /usr/sbin/sfdisk:fdisk rauc:rauc
    sbverify:sbsigntool cert-to-efi-sig-list:efitools /usr/lib/systemd/boot/efi/linuxx64.efi.stub:systemd-boot-efi
    /usr/lib/systemd/systemd-measure:systemd /usr/lib/python3.11/ensurepip/__init__.py:python3-venv
    softhsm2-util:softhsm2 /usr/lib/x86_64-linux-gnu/engines-3/pkcs11.so:libengine-pkcs11-openssl
    qemu-system-x86_64:qemu-system-x86 qemu-img:qemu-utils /usr/share/OVMF/OVMF_CODE_4M.secboot.fd:ovmf
    mmdebstrap:mmdebstrap /usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring
    flex:flex bison:bison bc:bc /usr/include/libelf.h:libelf-dev cpio:cpio rsync:rsync xz:xz-utils zstd:zstd
    patch:patch wget:wget unzip:unzip file:file /bin/busybox:busybox-static tmux:tmux
)

missing=()
for entry in "${needed[@]}"; do
    proof=${entry%%:*} package=${entry##*:}
    case $proof in
        /*) [ -e "$proof" ] || missing+=("$package") ;;
        *) command -v "$proof" >/dev/null || missing+=("$package") ;;
    esac
done

if [ ${#missing[@]} -gt 0 ]; then
    echo "setup: installing Debian packages: ${missing[*]}"
    sudo=()
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    # The tests bring their own configurations of Postfix: Debian's is to have none, and so nothing of it to run.
    "${sudo[@]}" debconf-set-selections <<<"postfix postfix/main_mailer_type select No configuration"
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq update
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
fi

if ! command -v cargo >/dev/null; then
    echo "setup: Rust is missing; install rustup (https://rustup.rs), then run this again" >&2
    exit 1
fi
if ! cargo nextest --version >/dev/null 2>&1; then
    echo "setup: installing cargo-nextest (some minutes, once)"
    cargo install -q --locked cargo-nextest@0.9.143
fi
if ! cargo deny --version >/dev/null 2>&1; then
    echo "setup: installing cargo-deny (some minutes, once)"
    cargo install -q --locked cargo-deny@0.20.2
fi
