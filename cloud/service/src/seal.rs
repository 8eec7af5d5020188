//! Sealing of records and of long content.
//!
//! Job: turn plaintext into AES-256-GCM and back; nothing else in the service touches a cipher. Place: under
//! everything that is stored. Invariants: a record's nonce is random and its associated data names what the record is
//! and whose; a segment's key is derived for it alone (HKDF over a fresh salt), so that its counter may start at zero
//! (STREAM: prefix ‖ counter ‖ last flag, so no chunk can be moved, dropped or appended). A crash leaves nothing: what
//! is not finished has no last chunk and does not open.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey},
    hkdf, hmac, rand,
};
use zeroize::Zeroizing;

/// Plain bytes of one chunk; the last may be shorter.
pub const CHUNK: usize = 64 * 1024;
/// A chunk as it is stored.
pub const SEALED_CHUNK: usize = CHUNK + MAX_TAG_LEN;
/// Bytes in front of a segment's first chunk: format and salt.
pub const SEGMENT_HEADER: usize = 4 + SALT;
const SALT: usize = 32;
/// Format 1, suite 1 (AES-256-GCM, HKDF-SHA256).
const SEGMENT_FORMAT: [u8; 4] = *b"PC\x01\x01";
/// Format 1, suite 1.
const RECORD_FORMAT: u8 = 0x11;
const PREFIX: usize = 7;

/// Sealing or opening failed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The tag does not fit: other key, other place or changed bytes.
    #[error("authentication failed")]
    Forged,
    /// Shorter or of another format than anything that was sealed here.
    #[error("unknown format")]
    Format,
    /// A segment of more than 2³² chunks.
    #[error("too long")]
    TooLong,
    /// The operating system gave no randomness, or the cipher refused its key.
    #[error("no cipher or randomness")]
    Cipher,
}

/// 32 secret bytes, zeroized on drop.
pub type Secret = Box<Zeroizing<[u8; 32]>>;

/// A fresh random secret.
pub fn random_secret() -> Result<Secret, SealError> {
    Ok(Box::new(Zeroizing::new(random()?)))
}

/// Takes a secret from opened bytes.
pub fn secret_from(bytes: Vec<u8>) -> Result<Secret, SealError> {
    let bytes = Zeroizing::new(bytes);
    let array = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| SealError::Format)?;
    Ok(Box::new(Zeroizing::new(array)))
}

/// `N` random bytes.
pub fn random<const N: usize>() -> Result<[u8; N], SealError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| SealError::Cipher)?;
    Ok(bytes)
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand(secret: &[u8; 32], salt: &[u8], label: &[u8], out: &mut [u8]) -> Result<(), SealError> {
    let length = Length(out.len());
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(secret)
        .expand(&[label], length)
        .and_then(|okm| okm.fill(out))
        .map_err(|_| SealError::Cipher)
}

/// A secret for one purpose (RFC 5869), named by its label.
pub fn derive(secret: &[u8; 32], label: &str) -> Result<Secret, SealError> {
    let mut out: Secret = Box::new(Zeroizing::new([0; 32]));
    expand(secret, &[], label.as_bytes(), out.as_mut_slice())?;
    Ok(out)
}

/// A keyed hash for lookups: who has the database alone can't test a guess.
pub struct Index(hmac::Key);

impl Index {
    /// The index of one purpose.
    pub fn derive(secret: &[u8; 32], label: &str) -> Result<Self, SealError> {
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, derive(secret, label)?.as_slice())))
    }

    /// HMAC-SHA256.
    pub fn of(&self, bytes: &[u8]) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(hmac::sign(&self.0, bytes).as_ref());
        out
    }
}

fn cipher(secret: &[u8; 32]) -> Result<LessSafeKey, SealError> {
    UnboundKey::new(&AES_256_GCM, secret).map(LessSafeKey::new).map_err(|_| SealError::Cipher)
}

/// Seals short records: format ‖ nonce ‖ ciphertext ‖ tag.
pub struct Sealer(LessSafeKey);

impl Sealer {
    /// The sealer of one purpose.
    pub fn derive(secret: &[u8; 32], label: &str) -> Result<Self, SealError> {
        cipher(&*derive(secret, label)?).map(Self)
    }

    /// Seals `plain`; `context` says what the record is and whose, and must be the same when it is opened.
    pub fn seal(&self, context: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let nonce = random::<NONCE_LEN>()?;
        let mut out = Vec::with_capacity(1 + NONCE_LEN + plain.len() + MAX_TAG_LEN);
        out.push(RECORD_FORMAT);
        out.extend_from_slice(&nonce);
        let mut body = plain.to_vec();
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context.as_bytes()), &mut body)
            .map_err(|_| SealError::Cipher)?;
        out.append(&mut body);
        Ok(out)
    }

    /// Opens what [`Sealer::seal`] made with the same context.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (format, rest) = sealed.split_first().ok_or(SealError::Format)?;
        let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>().ok_or(SealError::Format)?;
        if *format != RECORD_FORMAT {
            return Err(SealError::Format);
        }
        let mut body = body.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length =
            self.0.open_in_place(nonce, Aad::from(context.as_bytes()), &mut body).map_err(|_| SealError::Forged)?.len();
        body.truncate(length);
        Ok(body)
    }
}

struct SegmentKey {
    cipher: LessSafeKey,
    prefix: [u8; PREFIX],
    context: String,
}

impl SegmentKey {
    fn new(message: &[u8; 32], salt: &[u8], context: &str) -> Result<Self, SealError> {
        let mut out = Zeroizing::new([0; 32 + PREFIX]);
        expand(message, salt, b"postern-cloud/1/segment", out.as_mut_slice())?;
        let (key, prefix) = out.split_first_chunk::<32>().ok_or(SealError::Cipher)?;
        let prefix = <[u8; PREFIX]>::try_from(prefix).map_err(|_| SealError::Cipher)?;
        Ok(Self { cipher: cipher(key)?, prefix, context: context.to_owned() })
    }

    fn nonce(&self, counter: u64, last: bool) -> Result<Nonce, SealError> {
        let counter = u32::try_from(counter).map_err(|_| SealError::TooLong)?;
        let mut nonce = [0; NONCE_LEN];
        nonce[..PREFIX].copy_from_slice(&self.prefix);
        nonce[PREFIX..NONCE_LEN - 1].copy_from_slice(&counter.to_be_bytes());
        nonce[NONCE_LEN - 1] = u8::from(last);
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

/// Seals one segment as its bytes arrive. Must be finished, or the segment never opens.
pub struct SegmentSealer {
    key: SegmentKey,
    held: Vec<u8>,
    counter: u64,
}

impl SegmentSealer {
    /// A segment under the key of its message; the bytes in front of the first chunk go to `out`.
    pub fn new(message: &[u8; 32], context: &str, out: &mut Vec<u8>) -> Result<Self, SealError> {
        let salt = random::<SALT>()?;
        out.extend_from_slice(&SEGMENT_FORMAT);
        out.extend_from_slice(&salt);
        let key = SegmentKey::new(message, &salt, context)?;
        Ok(Self { key, held: Vec::with_capacity(CHUNK), counter: 0 })
    }

    /// Takes plain bytes and appends the chunks that are full. A full chunk is held back until more comes, because only
    /// the last carries the flag.
    pub fn push(&mut self, mut plain: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        while !plain.is_empty() {
            if self.held.len() == CHUNK {
                self.seal(false, out)?;
            }
            let (now, later) = plain.split_at(plain.len().min(CHUNK - self.held.len()));
            self.held.extend_from_slice(now);
            plain = later;
        }
        Ok(())
    }

    /// Appends the last chunk.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), SealError> {
        self.seal(true, out)
    }

    fn seal(&mut self, last: bool, out: &mut Vec<u8>) -> Result<(), SealError> {
        let nonce = self.key.nonce(self.counter, last)?;
        let aad = Aad::from(self.key.context.as_bytes());
        self.key.cipher.seal_in_place_append_tag(nonce, aad, &mut self.held).map_err(|_| SealError::Cipher)?;
        out.extend_from_slice(&self.held);
        self.held.clear();
        self.counter += 1;
        Ok(())
    }
}

/// Opens chunks of a segment in any order.
pub struct SegmentOpener(SegmentKey);

impl SegmentOpener {
    /// From the segment's first [`SEGMENT_HEADER`] bytes.
    pub fn new(message: &[u8; 32], context: &str, header: &[u8]) -> Result<Self, SealError> {
        let salt = header.strip_prefix(&SEGMENT_FORMAT).filter(|s| s.len() == SALT).ok_or(SealError::Format)?;
        SegmentKey::new(message, salt, context).map(Self)
    }

    /// Opens chunk number `counter`; `last` must say whether it is the segment's last.
    pub fn open(&self, counter: u64, last: bool, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut body = sealed.to_vec();
        let nonce = self.0.nonce(counter, last)?;
        let aad = Aad::from(self.0.context.as_bytes());
        let length = self.0.cipher.open_in_place(nonce, aad, &mut body).map_err(|_| SealError::Forged)?.len();
        body.truncate(length);
        Ok(body)
    }
}

/// Chunks of a segment of `length` plain bytes; an empty segment has one, empty.
pub fn chunks(length: u64) -> u64 {
    length.div_ceil(CHUNK as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_opens_only_in_its_own_place() {
        let sealer = Sealer::derive(&[7; 32], "test").unwrap();
        let sealed = sealer.seal("address/a", b"jane@example.net").unwrap();
        assert_eq!(sealer.open("address/a", &sealed).unwrap(), b"jane@example.net");
        assert!(matches!(sealer.open("address/b", &sealed), Err(SealError::Forged)));
        assert!(matches!(
            Sealer::derive(&[7; 32], "other").unwrap().open("address/a", &sealed),
            Err(SealError::Forged)
        ));
        for at in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert!(sealer.open("address/a", &flipped).is_err(), "byte {at}");
        }
        assert!(sealer.open("address/a", &[]).is_err());
    }

    fn segment(plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut sealer = SegmentSealer::new(&[1; 32], "m/0", &mut out).unwrap();
        for piece in plain.chunks(10_007) {
            sealer.push(piece, &mut out).unwrap();
        }
        sealer.finish(&mut out).unwrap();
        out
    }

    #[test]
    fn segments_around_a_chunk_border_open_to_what_was_sealed() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            let plain: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let sealed = segment(&plain);
            let opener = SegmentOpener::new(&[1; 32], "m/0", &sealed[..SEGMENT_HEADER]).unwrap();
            let count = chunks(length as u64);
            let stored: Vec<_> = sealed[SEGMENT_HEADER..].chunks(SEALED_CHUNK).collect();
            assert_eq!(stored.len() as u64, count, "{length}");
            let mut opened = Vec::new();
            for (i, chunk) in stored.iter().enumerate() {
                opened.extend(opener.open(i as u64, i as u64 + 1 == count, chunk).unwrap());
            }
            assert!(opened == plain, "{length}");
        }
    }

    #[test]
    fn a_cut_swapped_or_transplanted_chunk_does_not_open() {
        let sealed = segment(&vec![5; 3 * CHUNK]);
        let opener = SegmentOpener::new(&[1; 32], "m/0", &sealed[..SEGMENT_HEADER]).unwrap();
        let second = &sealed[SEGMENT_HEADER + SEALED_CHUNK..SEGMENT_HEADER + 2 * SEALED_CHUNK];
        assert!(opener.open(1, false, second).is_ok());
        assert!(opener.open(1, true, second).is_err(), "a segment cut here would pass for whole");
        assert!(opener.open(0, false, second).is_err());
        assert!(opener.open(1, false, &second[..second.len() - 1]).is_err());
        let elsewhere = SegmentOpener::new(&[1; 32], "m/1", &sealed[..SEGMENT_HEADER]).unwrap();
        assert!(elsewhere.open(1, false, second).is_err());
    }

    #[test]
    fn the_same_bytes_are_never_sealed_to_the_same_bytes() {
        assert_ne!(segment(b"same")[SEGMENT_HEADER..], segment(b"same")[SEGMENT_HEADER..]);
    }
}
