//! Keys with a type per purpose.
//!
//! Job: hold 32 secret bytes so that one purpose's key can't be used for another. Place: made by the key tree, handed by
//! `build()` to whoever seals. Invariants: no Copy, no Debug of the bytes, zeroized on drop. A crash leaves nothing:
//! the bytes live in locked memory only, which no dump holds.

use crate::memory::LockedBytes;
use std::{fmt, marker::PhantomData};
use zeroize::Zeroizing;

/// What a key is for; the label stands in the HKDF info (RFC 5869 §3.2).
pub trait Purpose: Send + Sync + 'static {
    /// Unique among all purposes, never changed once released.
    const LABEL: &'static str;
}

/// The purposes.
pub mod purpose {
    macro_rules! purposes {
        ($($(#[$doc:meta])* $name:ident = $label:literal),* $(,)?) => {
            $($(#[$doc])* pub enum $name {} impl super::Purpose for $name { const LABEL: &'static str = $label; })*
        };
    }
    purposes! {
        /// Wraps the message keys of one epoch (random, not derived).
        SpoolEpoch = "postern/1/spool-epoch",
        /// Wraps the table of epoch keys.
        EpochTable = "postern/1/epoch-table",
        /// SQLCipher key of `queue.db`.
        QueueIndex = "postern/1/queue-index",
        /// SQLCipher key of `ledger.db`.
        Ledger = "postern/1/ledger",
        /// MAC of the audit chain.
        Audit = "postern/1/audit",
        /// Secrets inside the settings, and the plain area's seal.
        Settings = "postern/1/settings",
        /// Keyed hashes that stand for people.
        Pseudonym = "postern/1/pseudonym",
    }
}

/// 32 secret bytes for the purpose `P`.
pub struct Key<P: Purpose> {
    bytes: LockedBytes,
    purpose: PhantomData<fn() -> P>,
}

impl<P: Purpose> Key<P> {
    /// Moves the bytes to locked memory; what was handed in is zeroized.
    #[must_use]
    pub fn from_bytes(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self { bytes: LockedBytes::of(&bytes), purpose: PhantomData }
    }

    /// A second copy, for a thread of its own.
    pub(crate) fn duplicate(&self) -> Self {
        Self { bytes: LockedBytes::of(self.expose()), purpose: PhantomData }
    }

    /// The bytes, for handing to the cipher; never store or print them.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        self.bytes.bytes()
    }
}

impl<P: Purpose> fmt::Debug for Key<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", P::LABEL)
    }
}
