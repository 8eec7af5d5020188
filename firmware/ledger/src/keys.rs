//! The keys that the ledger needs.

use std::fmt;
use zeroize::Zeroizing;

macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name(Box<Zeroizing<[u8; 32]>>);

        impl $name {
            /// Copies the bytes; the caller keeps and zeroizes its own.
            #[must_use]
            pub fn from_bytes(bytes: &[u8; 32]) -> Self {
                Self(Box::new(Zeroizing::new(*bytes)))
            }

            pub(crate) fn expose(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    };
}

key! {
    /// The SQLCipher key of `ledger.db`.
    DatabaseKey
}
key! {
    /// The key of the chain's MACs; whoever has the database key alone can read, but not forge.
    ChainKey
}

/// Both keys; `build()` fills them from the vault (`purpose::Ledger`, `purpose::Audit`).
#[derive(Debug)]
pub struct LedgerKeys {
    /// Opens the database.
    pub db: DatabaseKey,
    /// Seals the chain.
    pub mac: ChainKey,
}
