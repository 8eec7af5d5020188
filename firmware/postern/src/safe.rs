//! The vault, which may come later.
//!
//! Job: stand where the vault will be while the data partition, and with it the key store, is closed. Place: in the
//! daemon. Invariants: it is put in once; until then there are no keys and nothing touches a key store. A crash leaves
//! nothing.

use std::sync::OnceLock;
use vault::{State, Status, Vault};

/// A place for one vault.
#[derive(Default)]
pub struct Safe(OnceLock<Vault>);

impl Safe {
    /// The vault, once it is there.
    #[must_use]
    pub fn vault(&self) -> Option<Vault> {
        self.0.get().cloned()
    }

    /// Puts it in; the first one stays.
    pub fn put(&self, vault: Vault) {
        // Whoever puts one in holds the daemon's transition, so there is no second.
        let _ = self.0.set(vault);
    }

    /// As [`Vault::status`]; without a vault: locked.
    #[must_use]
    pub fn status(&self) -> Status {
        match self.0.get() {
            Some(vault) => vault.status(),
            None => Status {
                state: State::Locked,
                fault: None,
                generation: None,
                recovery: None,
                identity: None,
                epochs: None,
                memory_locked: true,
            },
        }
    }
}
