//! Sealing of bodies, snapshots, facts and message keys.
//!
//! Job: encrypt in 64 KiB chunks by the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár: Online
//! Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance, 2015), and wrap message keys under epoch keys.
//! Place: between every byte of a message and the disk. Invariants: a message key is random and used for one attempt
//! to hand in one message; content, snapshot and facts have keys of their own, derived from it; a chunk can be neither
//! moved, cut off, repeated nor taken for a chunk of another message. A crash leaves only sealed bytes behind.

use aws_lc_rs::{
    aead::{self, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Prk},
    rand,
};
use mail::MessageId;
use vault::{Key, purpose::SpoolEpoch};
use zeroize::Zeroizing;

/// Plain bytes of a chunk; the last one may be shorter.
pub(crate) const CHUNK: usize = 64 * 1024;
/// Bytes that sealing adds to a chunk.
pub(crate) const TAG: usize = 16;
/// Random bytes at the start of each chunk's nonce.
pub(crate) const STREAM_PREFIX: usize = 7;
/// Bytes of a wrapped message key: key and tag.
pub(crate) const WRAPPED: usize = 32 + TAG;

/// Stands first in all associated data; changes with the format.
const FORMAT: &[u8; 16] = b"postern spool v1";

/// The cipher of a message; both have 32-byte keys, 12-byte nonces and 16-byte tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    /// AES-256-GCM (NIST SP 800-38D).
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439).
    ChaCha20Poly1305,
}

impl Suite {
    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Self::Aes256Gcm => 1,
            Self::ChaCha20Poly1305 => 2,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Aes256Gcm),
            2 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    fn algorithm(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes256Gcm => &aead::AES_256_GCM,
            Self::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }
}

/// Sealing failed, or the bytes are not those that were sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unsealable;

impl From<aws_lc_rs::error::Unspecified> for Unsealable {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self
    }
}

impl From<Unsealable> for std::io::Error {
    fn from(_: Unsealable) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, "the stored bytes are not those that were sealed")
    }
}

/// What a sealed piece is for; stands in the associated data and in the derivation of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Key = 1,
    Content = 2,
    Snapshot = 3,
    Fact = 4,
}

impl Role {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Key => b"postern/1/message-key",
            Self::Content => b"postern/1/content",
            Self::Snapshot => b"postern/1/snapshot",
            Self::Fact => b"postern/1/fact",
        }
    }
}

/// What is bound to every sealed piece besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    pub suite: Suite,
    pub message: MessageId,
    pub epoch: u32,
}

impl Binding {
    /// Format, suite, message, epoch, role, and `extra` (for facts their kind and number, else 0).
    fn associated(&self, role: Role, extra: u64) -> [u8; 46] {
        let mut data = [0; 46];
        data[..16].copy_from_slice(FORMAT);
        data[16] = self.suite.to_byte();
        data[17..33].copy_from_slice(&self.message.to_bytes());
        data[33..37].copy_from_slice(&self.epoch.to_le_bytes());
        data[37] = role as u8;
        data[38..].copy_from_slice(&extra.to_le_bytes());
        data
    }
}

/// Random bytes from the system's generator.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Unsealable> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes)?;
    Ok(bytes)
}

/// The key of one attempt to hand in one message.
pub(crate) struct MessageKey {
    bytes: Zeroizing<[u8; 32]>,
    pub binding: Binding,
}

impl MessageKey {
    pub fn generate(binding: Binding) -> Result<Self, Unsealable> {
        let mut bytes = Zeroizing::new([0; 32]);
        rand::fill(bytes.as_mut())?;
        Ok(Self { bytes, binding })
    }

    /// Wraps the key under an epoch's; gives nonce and wrapped key.
    pub fn wrap(&self, epoch: &Key<SpoolEpoch>) -> Result<([u8; NONCE_LEN], [u8; WRAPPED]), Unsealable> {
        let nonce = random::<NONCE_LEN>()?;
        let mut wrapped = [0; WRAPPED];
        wrapped[..32].copy_from_slice(self.bytes.as_ref());
        let aad = Aad::from(self.binding.associated(Role::Key, 0));
        let tag = cipher(self.binding.suite, epoch.expose())?.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            aad,
            &mut wrapped[..32],
        );
        let Ok(tag) = tag else {
            wrapped.fill(0);
            return Err(Unsealable);
        };
        wrapped[32..].copy_from_slice(tag.as_ref());
        Ok((nonce, wrapped))
    }

    /// The inverse of [`MessageKey::wrap`].
    pub fn unwrap(
        binding: Binding,
        epoch: &Key<SpoolEpoch>,
        nonce: [u8; NONCE_LEN],
        wrapped: &[u8; WRAPPED],
    ) -> Result<Self, Unsealable> {
        let mut opened = Zeroizing::new(*wrapped);
        let aad = Aad::from(binding.associated(Role::Key, 0));
        let nonce = Nonce::assume_unique_for_key(nonce);
        let plain = cipher(binding.suite, epoch.expose())?.open_in_place(nonce, aad, opened.as_mut())?;
        let mut bytes = Zeroizing::new([0; 32]);
        bytes.copy_from_slice(plain);
        Ok(Self { bytes, binding })
    }

    /// The cipher for one role. The message key is uniformly random, so it serves as HKDF's pseudorandom key as it is
    /// (RFC 5869 §3.3).
    fn derive(&self, role: Role) -> Result<LessSafeKey, Unsealable> {
        let prk = Prk::new_less_safe(HKDF_SHA256, self.bytes.as_ref());
        let info = [role.label()];
        let okm = prk.expand(&info, self.binding.suite.algorithm())?;
        Ok(LessSafeKey::new(UnboundKey::from(okm)))
    }

    /// Seals a snapshot or a fact: nonce, ciphertext, tag. `extra` is authenticated with it.
    pub fn seal_piece(&self, role: Role, extra: u64, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Unsealable> {
        let nonce = random::<NONCE_LEN>()?;
        out.extend_from_slice(&nonce);
        let start = out.len();
        out.extend_from_slice(plain);
        let aad = Aad::from(self.binding.associated(role, extra));
        let key = self.derive(role)?;
        let tag = key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, &mut out[start..])?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// The inverse of [`MessageKey::seal_piece`].
    pub fn open_piece(&self, role: Role, extra: u64, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unsealable> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(Unsealable)?;
        let mut plain = Zeroizing::new(sealed.to_vec());
        let aad = Aad::from(self.binding.associated(role, extra));
        let length =
            self.derive(role)?.open_in_place(Nonce::assume_unique_for_key(*nonce), aad, plain.as_mut_slice())?.len();
        plain.truncate(length);
        Ok(plain)
    }

    /// The cipher for the content, with this prefix in every nonce.
    pub fn stream(&self, prefix: [u8; STREAM_PREFIX]) -> Result<Stream, Unsealable> {
        Ok(Stream { key: self.derive(Role::Content)?, associated: self.binding.associated(Role::Content, 0), prefix })
    }
}

fn cipher(suite: Suite, key: &[u8; 32]) -> Result<LessSafeKey, Unsealable> {
    Ok(LessSafeKey::new(UnboundKey::new(suite.algorithm(), key)?))
}

/// Where a chunk stands in its stream. A value per chunk, so that nobody counts nonces by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkNumber {
    pub index: u32,
    pub last: bool,
}

/// STREAM: nonce = 7-byte prefix ‖ 32-bit counter, big endian ‖ last flag.
pub(crate) struct Stream {
    key: LessSafeKey,
    associated: [u8; 46],
    prefix: [u8; STREAM_PREFIX],
}

impl Stream {
    fn nonce(&self, number: ChunkNumber) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..STREAM_PREFIX].copy_from_slice(&self.prefix);
        nonce[STREAM_PREFIX..NONCE_LEN - 1].copy_from_slice(&number.index.to_be_bytes());
        nonce[NONCE_LEN - 1] = u8::from(number.last);
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals a chunk where it lies and appends its tag.
    pub fn seal(&self, number: ChunkNumber, chunk: &mut Vec<u8>) -> Result<(), Unsealable> {
        let aad = Aad::from(self.associated);
        let tag = self.key.seal_in_place_separate_tag(self.nonce(number), aad, chunk.as_mut_slice())?;
        chunk.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Opens a chunk where it lies and cuts its tag off; on failure nothing of the plain text is left in it.
    pub fn open(&self, number: ChunkNumber, chunk: &mut Vec<u8>) -> Result<(), Unsealable> {
        let aad = Aad::from(self.associated);
        match self.key.open_in_place(self.nonce(number), aad, chunk.as_mut_slice()) {
            Ok(plain) => {
                let length = plain.len();
                chunk.truncate(length);
                Ok(())
            }
            Err(_) => {
                chunk.clear();
                Err(Unsealable)
            }
        }
    }
}

/// Number of chunks of a content with this many plain bytes. An empty content has one empty chunk, so that its end is
/// authenticated too.
pub(crate) fn chunks(plain: u64) -> u64 {
    plain.div_ceil(CHUNK as u64).max(1)
}

#[cfg(test)]
mod tests;
