//! The Secure Boot signature of a UKI (Microsoft, "Windows Authenticode Portable Executable Signature Format" 1.0).
//!
//! Job: hash the image, write the PKCS#7 structure, have `openssl` sign it, attach it. Place: behind `uki`. Why not
//! `sbsign`: it writes the time of signing into the signature, so that two builds differ; a signature without one is as good
//! to every firmware. Invariants: same image, same key, same bytes; tests hold the outcome against `sbverify`.

use crate::{
    ImageError,
    keys::{Certificate, Keys},
    pe::{Flaw, Pe, put},
    sha256,
};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OCTETS: u8 = 0x04;
const OBJECT: u8 = 0x06;
/// Context-specific, constructed, number 0.
const TAG0: u8 = 0xa0;

const VERSION_1: [u8; 3] = [0x02, 1, 1];
const NULL: [u8; 2] = [0x05, 0];
/// 1.2.840.113549.1.7.2
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
/// 1.2.840.113549.1.9.3
const CONTENT_TYPE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 3];
/// 1.2.840.113549.1.9.4
const MESSAGE_DIGEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 4];
/// 1.2.840.113549.1.1.1
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
/// 2.16.840.1.101.3.4.2.1
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
/// SPC_INDIRECT_DATA_OBJID, 1.3.6.1.4.1.311.2.1.4
const INDIRECT_DATA: &[u8] = &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 2, 1, 4];
/// SPC_PE_IMAGE_DATA_OBJID, 1.3.6.1.4.1.311.2.1.15
const PE_IMAGE_DATA: &[u8] = &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 2, 1, 15];

/// Signs `image` with the key `db`.
///
/// # Errors
/// The key cannot sign, or the image is signed already.
pub fn sign(keys: &Keys, image: &Pe) -> Result<Vec<u8>, ImageError> {
    let unusable = |detail| ImageError::Pe { path: "the kernel image".into(), detail };
    let by = keys.certificate("db")?;
    let digest = digest(image).map_err(unusable)?;
    let content = indirect_data(&digest);
    let attributes = attributes(&content);
    let signature = keys.sign_as("db", &by, &der(SET, &[&attributes]))?;
    attach(image, &signed_data(&content, &attributes, &by, &signature)).map_err(unusable)
}

/// The Authenticode hash of an unsigned image: all of it but the checksum and the certificate table's entry.
fn digest(image: &Pe) -> Result<[u8; 32], Flaw> {
    if image.certificates()? != (0, 0) {
        return Err("it is signed already");
    }
    let bytes = image.bytes();
    let (checksum, entry) = image.signature_fields();
    let part = |from: usize, to: usize| bytes.get(from..to).ok_or("it is too short to be signed");
    Ok(sha256(&[part(0, checksum)?, part(checksum + 4, entry)?, part(entry + 8, bytes.len())?, padding(bytes.len())]))
}

/// A certificate table begins at a multiple of eight; the padding is signed too.
fn padding(length: usize) -> &'static [u8] {
    &[0; 8][..length.next_multiple_of(8) - length]
}

fn attach(image: &Pe, signature: &[u8]) -> Result<Vec<u8>, Flaw> {
    let (_, entry) = image.signature_fields();
    let mut bytes = [image.bytes(), padding(image.bytes().len())].concat();
    // WIN_CERTIFICATE: length, revision 2.0, type PKCS_SIGNED_DATA.
    let length = (8 + signature.len()).next_multiple_of(8);
    let start = u32::try_from(bytes.len()).map_err(|_| "it is too large")?;
    let length = u32::try_from(length).map_err(|_| "its signature is too large")?;
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&[0x00, 0x02, 0x02, 0x00]);
    bytes.extend_from_slice(signature);
    bytes.resize(start as usize + length as usize, 0);
    put(&mut bytes, entry, &start.to_le_bytes())?;
    put(&mut bytes, entry + 4, &length.to_le_bytes())?;
    Ok(bytes)
}

/// The body of SpcIndirectDataContent, without its outer tag: this is what messageDigest covers.
fn indirect_data(digest: &[u8; 32]) -> Vec<u8> {
    // SpcPeImageData: no flags; an SpcLink to a file name that everyone sets to "<<<Obsolete>>>".
    let obsolete: Vec<u8> = "<<<Obsolete>>>".encode_utf16().flat_map(u16::to_be_bytes).collect();
    let link = der(TAG0, &[&der(0xa2, &[&der(0x80, &[&obsolete])])]);
    let image = der(SEQUENCE, &[&[0x03, 1, 0], &link]);
    let data = der(SEQUENCE, &[&der(OBJECT, &[PE_IMAGE_DATA]), &image]);
    let message = der(SEQUENCE, &[&algorithm(SHA256), &der(OCTETS, &[digest])]);
    [data, message].concat()
}

/// contentType and messageDigest, in the order that DER asks of a set.
fn attributes(content: &[u8]) -> Vec<u8> {
    let attribute = |kind, value: &[u8]| der(SEQUENCE, &[&der(OBJECT, &[kind]), &der(SET, &[value])]);
    let kind = attribute(CONTENT_TYPE, &der(OBJECT, &[INDIRECT_DATA]));
    let digest = attribute(MESSAGE_DIGEST, &der(OCTETS, &[&sha256(&[content])]));
    [kind, digest].concat()
}

fn signed_data(content: &[u8], attributes: &[u8], by: &Certificate, signature: &[u8]) -> Vec<u8> {
    let content = der(TAG0, &[&der(SEQUENCE, &[content])]);
    let info = der(SEQUENCE, &[&der(OBJECT, &[INDIRECT_DATA]), &content]);
    let signer = der(SEQUENCE, &[&by.issuer, &der(0x02, &[&by.serial])]);
    let (hash, key) = (algorithm(SHA256), algorithm(RSA));
    let (attributes, signature) = (der(TAG0, &[attributes]), der(OCTETS, &[signature]));
    let signer = der(SEQUENCE, &[&VERSION_1, &signer, &hash, &attributes, &key, &signature]);
    let certificates = der(TAG0, &[&by.der]);
    let body = der(SEQUENCE, &[&VERSION_1, &der(SET, &[&hash]), &info, &certificates, &der(SET, &[&signer])]);
    der(SEQUENCE, &[&der(OBJECT, &[SIGNED_DATA]), &der(TAG0, &[&body])])
}

fn algorithm(object: &[u8]) -> Vec<u8> {
    der(SEQUENCE, &[&der(OBJECT, &[object]), &NULL])
}

/// Tag, length, and `parts` one behind the other (X.690 §8.1).
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let octets = body.len().to_be_bytes();
    let significant = &octets[octets.iter().take_while(|&&octet| octet == 0).count()..];
    let mut out = vec![tag];
    match significant {
        [] => out.push(0),
        [short] if *short < 0x80 => out.push(*short),
        long => {
            out.push(0x80 | long.len() as u8);
            out.extend_from_slice(long);
        }
    }
    out.extend_from_slice(&body);
    out
}
