#!/usr/bin/env bash
# Makes development keys of every purpose: keys/make.sh [DIR], by default keys/development (ignored by git).
#
# Job: what the image tool, the update bundles, the lab and the tests sign with until there are release keys. keys/README.md
# says what each is for. Invariants: what is there is kept, so running it again changes nothing; private keys are readable to
# their owner only; DIR gets the marker DEVELOPMENT before its first key, and every certificate says POSTERN DEVELOPMENT.
# A crash leaves files named *.new, which the next run overwrites.
set -euo pipefail

folder=${1:-$(dirname "$0")/development}
# Owner of the entries in the firmware's key stores; the same for development and release.
owner=504f5354-4552-4e00-9000-000000000001
days=3650

fail() {
    echo "keys/make.sh: $1; $2" >&2
    exit 1
}

for tool in openssl:openssl cert-to-efi-sig-list:efitools sign-efi-sig-list:efitools flock:util-linux; do
    command -v "${tool%%:*}" >/dev/null || fail "${tool%%:*} is missing" "install the package ${tool##*:}"
done

umask 077
mkdir -p "$folder"
exec 9>"$folder/.lock"
flock 9
if [ ! -e "$folder/DEVELOPMENT" ]; then
    for file in "$folder"/*.key "$folder"/*.uri "$folder"/*.crt; do
        [ ! -e "$file" ] || fail "$folder has keys and no marker DEVELOPMENT" "name another folder: release keys stay as they are"
    done
    echo "Keys for development. Whatever they sign is worth nothing outside of it." >"$folder/DEVELOPMENT"
fi
cd "$folder"

# key NAME: RSA-2048, which every firmware and every TPM takes.
key() {
    [ ! -e "$1.key" ] || return 0
    openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$1.key.new" 2>/dev/null ||
        openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$1.key.new" 2>/dev/null
    mv "$1.key.new" "$1.key"
    echo "keys: made $1.key"
}

# certificate NAME EXTENSION...: signed by itself.
certificate() {
    local name=$1 extensions=()
    shift
    key "$name"
    [ ! -e "$name.crt" ] || return 0
    for extension in "$@"; do extensions+=(-addext "$extension"); done
    openssl req -x509 -new -sha256 -days "$days" -key "$name.key" -subj "/CN=POSTERN DEVELOPMENT $name" \
        "${extensions[@]}" -out "$name.crt.new"
    mv "$name.crt.new" "$name.crt"
}

certificate PK
certificate KEK
certificate db 'basicConstraints=critical,CA:FALSE' 'keyUsage=critical,digitalSignature' 'extendedKeyUsage=codeSigning'

# The certificate of the policy key is used by nobody: it says what kind of key this is.
certificate policy 'basicConstraints=critical,CA:FALSE' 'keyUsage=critical,digitalSignature'
if [ ! -e policy.pub ]; then
    openssl pkey -in policy.key -pubout -out policy.pub.new
    mv policy.pub.new policy.pub
fi

certificate rauc-ca 'basicConstraints=critical,CA:TRUE,pathlen:0' 'keyUsage=critical,keyCertSign,cRLSign'
key rauc
if [ ! -e rauc.crt ]; then
    openssl req -new -sha256 -key rauc.key -subj "/CN=POSTERN DEVELOPMENT rauc" |
        openssl x509 -req -sha256 -days "$days" -CA rauc-ca.crt -CAkey rauc-ca.key -set_serial "0x$(openssl rand -hex 15)" -out rauc.crt.new -extfile <(
            printf '%s\n' basicConstraints=critical,CA:FALSE keyUsage=critical,digitalSignature \
                extendedKeyUsage=critical,codeSigning subjectKeyIdentifier=hash authorityKeyIdentifier=keyid
        ) 2>/dev/null
    mv rauc.crt.new rauc.crt
fi

certificate cloud-ca 'basicConstraints=critical,CA:TRUE,pathlen:0' 'keyUsage=critical,keyCertSign,cRLSign'

# For firmware: certificates in DER for set-up menus, signature lists, and lists signed by the key above them.
# enrol NAME SIGNER
enrol() {
    if [ ! -e "$1.der" ]; then
        openssl x509 -in "$1.crt" -outform DER -out "$1.der.new"
        mv "$1.der.new" "$1.der"
    fi
    if [ ! -e "$1.esl" ]; then
        cert-to-efi-sig-list -g "$owner" "$1.crt" "$1.esl.new"
        mv "$1.esl.new" "$1.esl"
    fi
    if [ ! -e "$1.auth" ]; then
        sign-efi-sig-list -g "$owner" -k "$2.key" -c "$2.crt" "$1" "$1.esl" "$1.auth.new" >/dev/null
        mv "$1.auth.new" "$1.auth"
    fi
}
enrol PK PK
enrol KEK PK
enrol db KEK
