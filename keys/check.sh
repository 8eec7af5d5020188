#!/usr/bin/env bash
# Says whether a folder of keys is complete and fits together: keys/check.sh DIR [--release]
#
# Job: every fault at once, each with what to do; with --release also that no key is a development key. Place: the first step
# of a release build, which fails with it; keys/README.md lists the keys. Invariants: nothing is changed, no token is asked for
# a PIN: a key on a token is judged by its certificate. A development key is known by its certificate's subject, so that a copy
# is refused without the marker too.
set -euo pipefail

if [ $# -lt 1 ] || [ $# -gt 2 ] || [ "${2:---release}" != --release ]; then
    echo "usage: keys/check.sh DIR [--release]" >&2
    exit 2
fi
folder=$1 release=${2:-}
faults=0

fault() {
    echo "keys: $1; $2" >&2
    faults=$((faults + 1))
}

[ -d "$folder" ] || { fault "$folder is no folder" "make keys as keys/README.md says"; exit 1; }
cd "$folder"

[ -z "$release" ] || [ ! -e DEVELOPMENT ] ||
    fault "$folder is marked DEVELOPMENT" "give the folder of release keys: a release is never signed with made-up keys"

# The public key of NAME's private key, if that is a file.
public_of_key() { openssl pkey -in "$1.key" -pubout 2>/dev/null; }
public_of_certificate() { openssl x509 -in "$1.crt" -noout -pubkey 2>/dev/null; }

# key NAME: private part there, readable to nobody else, and that of the certificate.
key() {
    local name=$1 subject
    if [ -e "$name.key" ]; then
        [ "$(($(stat -c '0%a' "$name.key") & 077))" -eq 0 ] || fault "$name.key is open to others" "chmod 600 $folder/$name.key"
    elif [ ! -e "$name.uri" ]; then
        fault "the private key $name is missing" "put $name.key, or $name.uri with a PKCS#11 URI, into $folder"
    elif ! grep -q '^pkcs11:' "$name.uri"; then
        fault "$name.uri holds no PKCS#11 URI" "write pkcs11:… into it"
    fi
    if [ ! -e "$name.crt" ]; then
        fault "the certificate $name.crt is missing" "make it as keys/README.md says"
        return
    fi
    if ! subject=$(openssl x509 -in "$name.crt" -noout -subject -nameopt RFC2253 2>/dev/null); then
        fault "$name.crt is no certificate" "make it as keys/README.md says"
        return
    fi
    if [ -n "$release" ] && [[ $subject == *"POSTERN DEVELOPMENT"* ]]; then
        fault "$name is a development key ($subject)" "make a release key as keys/README.md says"
    fi
    [ ! -e "$name.key" ] || [ "$(public_of_key "$name")" = "$(public_of_certificate "$name")" ] ||
        fault "$name.key is not the key of $name.crt" "put the pair together again"
}

# rsa NAME BITS: what firmware and TPM take.
rsa() {
    [ ! -e "$1.crt" ] || openssl x509 -in "$1.crt" -noout -text | grep -q "Public-Key: ($2 bit)" ||
        fault "$1 is not RSA-$2" "make it so: nothing else is taken by every firmware and every TPM"
}

for name in PK KEK db policy rauc-ca rauc cloud-ca; do key "$name"; done
for name in PK KEK db policy; do rsa "$name" 2048; done

if [ ! -e policy.pub ]; then
    fault "policy.pub is missing" "openssl x509 -in policy.crt -noout -pubkey >policy.pub"
elif [ -e policy.crt ] && [ "$(cat policy.pub)" != "$(public_of_certificate policy)" ]; then
    fault "policy.pub is not the key of policy.crt" "openssl x509 -in policy.crt -noout -pubkey >policy.pub"
fi
if [ -e rauc.crt ] && [ -e rauc-ca.crt ]; then
    openssl verify -CAfile rauc-ca.crt rauc.crt >/dev/null 2>&1 ||
        fault "rauc.crt is not signed by rauc-ca.crt" "sign it anew: boxes trust rauc-ca.crt"
    openssl x509 -in rauc.crt -noout -ext extendedKeyUsage 2>/dev/null | grep -q 'Code Signing' ||
        fault "rauc.crt is not for signing code" "make it with extendedKeyUsage=codeSigning: boxes check the purpose"
fi

# Firmware does not look at dates, and a new certificate there would change PCR 7; RAUC and TLS do.
for name in rauc-ca rauc cloud-ca; do
    [ ! -e "$name.crt" ] || openssl x509 -in "$name.crt" -noout -checkend 0 >/dev/null 2>&1 ||
        fault "$name.crt has expired" "make a new certificate for the same key"
done

# One key, one purpose.
twice=$(for certificate in *.crt; do [ ! -e "$certificate" ] || openssl x509 -in "$certificate" -noout -pubkey 2>/dev/null | sha256sum; done | sort | uniq -d)
[ -z "$twice" ] || fault "one key stands in for two purposes" "make a key for each"

[ "$faults" -eq 0 ] || exit 1
echo "keys: $folder is complete${release:+ and has no development key}"
