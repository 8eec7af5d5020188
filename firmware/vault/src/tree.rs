//! From one root secret to a key per purpose, and what these keys wrap.
//!
//! Job: derive (HKDF-SHA256, RFC 5869) and wrap (AES-256-GCM). Place: between the sealed root and everybody who gets a
//! [`Key`]. Invariants: a label names one purpose for ever; each wrapping has a random 96-bit nonce under a key that
//! wraps a handful of times in its life; the label of what is wrapped is authenticated with it. A crash leaves nothing.

use crate::key::{Key, Purpose, purpose::EpochTable};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
    rand::{SecureRandom, SystemRandom},
};
use zeroize::Zeroizing;

/// The salt of every extraction; the number is the version of the tree.
const SALT: &[u8] = b"postern/1";

/// Purposes that nobody outside the vault has.
pub(crate) mod secret {
    macro_rules! purposes {
        ($($(#[$doc:meta])* $name:ident = $label:literal),* $(,)?) => {
            $($(#[$doc])* pub(crate) enum $name {}
              impl crate::key::Purpose for $name { const LABEL: &'static str = $label; })*
        };
    }
    purposes! {
        /// The root secret itself.
        Root = "postern/1/root",
        /// What the words of the recovery key stand for.
        Recovery = "postern/1/recovery",
        /// Wraps the root secret; derived from the recovery key.
        RecoveryWrap = "postern/1/recovery-wrap",
        /// Wraps a recovery key that nobody has seen yet.
        RecoveryUnseen = "postern/1/recovery-unseen",
        /// Opens the data partition; derived from the recovery key.
        DataPassphrase = "postern/1/data-passphrase",
        /// Authorises the use of the identity key inside the TPM.
        IdentityAuth = "postern/1/identity-auth",
        /// Authorises what the TPM reserves to whoever may end a dictionary lockout.
        LockoutAuth = "postern/1/lockout-auth",
    }
}
pub(crate) use secret::Root;

/// The operating system's random source failed, or a cipher refused its input: neither happens on a sound machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cryptographic library failed; restart the machine, and replace it if this comes back")]
pub struct CryptoError;

/// The key for `P`, from the key `from`.
pub(crate) fn derive<P: Purpose, F: Purpose>(from: &Key<F>) -> Result<Key<P>, CryptoError> {
    expand::<P>(from.expose())
}

/// The key that wraps the table: from the root secret and S, the secret that the TPM keeps for one epoch. This version
/// of the format has no S yet (its field says so), which is the same as an empty one.
pub(crate) fn table_key(root: &Key<Root>, s: &[u8]) -> Result<Key<EpochTable>, CryptoError> {
    let mut input = Zeroizing::new(root.expose().to_vec());
    input.extend_from_slice(s);
    expand(&input)
}

/// A root secret from both random sources, so that either one may be weak.
pub(crate) fn mix_root(of_tpm: &[u8]) -> Result<Key<Root>, CryptoError> {
    let mut input = Zeroizing::new([0; 64]);
    let (ours, theirs) = input.split_at_mut(32);
    SystemRandom::new().fill(ours).map_err(|_| CryptoError)?;
    let of_tpm: &[u8; 32] = of_tpm.try_into().map_err(|_| CryptoError)?;
    theirs.copy_from_slice(of_tpm);
    expand(&*input)
}

/// A key that is random, not derived.
pub(crate) fn random<P: Purpose>() -> Result<Key<P>, CryptoError> {
    let mut bytes = Zeroizing::new([0; 32]);
    SystemRandom::new().fill(&mut *bytes).map_err(|_| CryptoError)?;
    Ok(Key::from_bytes(bytes))
}

fn expand<P: Purpose>(input: &[u8]) -> Result<Key<P>, CryptoError> {
    let mut bytes = Zeroizing::new([0; 32]);
    let extracted = Salt::new(HKDF_SHA256, SALT).extract(input);
    let info = [P::LABEL.as_bytes()];
    extracted.expand(&info, HKDF_SHA256).and_then(|okm| okm.fill(&mut *bytes)).map_err(|_| CryptoError)?;
    Ok(Key::from_bytes(bytes))
}

/// `plain` under `key`: nonce ‖ ciphertext ‖ tag. `label` says what it is, and must be the same at unwrapping.
pub(crate) fn wrap<P: Purpose>(key: &Key<P>, label: &str, plain: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let mut nonce = [0; NONCE_LEN];
    SystemRandom::new().fill(&mut nonce).map_err(|_| CryptoError)?;
    let mut sealed = plain.to_vec();
    let nonce_value = Nonce::assume_unique_for_key(nonce);
    cipher(key)?.seal_in_place_append_tag(nonce_value, Aad::from(label), &mut sealed).map_err(|_| CryptoError)?;
    Ok([&nonce[..], &sealed].concat())
}

/// What [`wrap`] wrapped, or nothing where key, label or octets are others.
pub(crate) fn unwrap<P: Purpose>(key: &Key<P>, label: &str, wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, sealed) = wrapped.split_first_chunk::<NONCE_LEN>()?;
    let mut open = Zeroizing::new(sealed.to_vec());
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let length = cipher(key).ok()?.open_in_place(nonce, Aad::from(label), &mut open).ok()?.len();
    open.truncate(length);
    Some(open)
}

/// [`unwrap`] for what must be one key.
pub(crate) fn unwrap_key<W: Purpose, P: Purpose>(key: &Key<W>, label: &str, wrapped: &[u8]) -> Option<Key<P>> {
    let open = unwrap(key, label, wrapped)?;
    let bytes: &[u8; 32] = open.as_slice().try_into().ok()?;
    Some(Key::from_bytes(Zeroizing::new(*bytes)))
}

fn cipher<P: Purpose>(key: &Key<P>) -> Result<LessSafeKey, CryptoError> {
    UnboundKey::new(&AES_256_GCM, key.expose()).map(LessSafeKey::new).map_err(|_| CryptoError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::purpose::{Audit, Ledger};

    fn root(byte: u8) -> Key<Root> {
        Key::from_bytes(Zeroizing::new([byte; 32]))
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Computed with an independent implementation (Python's `hmac`): extract with salt `postern/1`, expand once.
    #[test]
    fn derivation_is_rfc_5869_with_the_label_as_info() {
        let key = derive::<Ledger, _>(&root(7)).unwrap();
        assert_eq!(hex(key.expose()), "a26a1f0bac59747b77b065aa56c816f1830715ce091cb75db50d0c9a69af16ed");
    }

    #[test]
    fn purposes_roots_and_s_separate() {
        let ledger = derive::<Ledger, _>(&root(7)).unwrap();
        assert_ne!(ledger.expose(), derive::<Audit, _>(&root(7)).unwrap().expose());
        assert_ne!(ledger.expose(), derive::<Ledger, _>(&root(8)).unwrap().expose());
        assert_ne!(table_key(&root(7), &[]).unwrap().expose(), table_key(&root(7), &[0; 32]).unwrap().expose());
    }

    #[test]
    fn a_weak_tpm_does_not_make_the_root_predictable() {
        assert_ne!(mix_root(&[0; 32]).unwrap().expose(), mix_root(&[0; 32]).unwrap().expose());
    }

    #[test]
    fn any_flipped_bit_other_label_or_other_key_unwraps_to_nothing() {
        let key = root(1);
        let wrapped = wrap(&key, "table", b"secret").unwrap();
        assert_eq!(unwrap(&key, "table", &wrapped).unwrap().as_slice(), b"secret");
        assert!(unwrap(&key, "other", &wrapped).is_none());
        assert!(unwrap(&root(2), "table", &wrapped).is_none());
        for bit in 0..wrapped.len() * 8 {
            let mut flipped = wrapped.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(unwrap(&key, "table", &flipped).is_none(), "bit {bit}");
        }
        for length in 0..wrapped.len() {
            assert!(unwrap(&key, "table", &wrapped[..length]).is_none(), "cut to {length}");
        }
    }
}
