//! The TPM, the key tree, the device identity and the recovery key; the only user of tss-esapi.
//!
//! Job: keep one root secret sealed in the TPM and give a key per purpose from it. Place: below everything that seals;
//! `build()` opens it first. Invariants: keys come from the TPM's policy or the recovery key, never from anywhere else;
//! while the vault is locked no key exists in this process. A crash leaves the key store of before or of after.
//!
//! ```text
//! TPM: storage key ─seals─▶ root secret ◀─wraps─ recovery key (24 words)
//!                             │
//!                             ├─ HKDF ─▶ index · ledger · audit · settings · pseudonym
//!                             ├─ HKDF ─▶ identity authorisation ─ lets use ─▶ identity key (in the TPM)
//!                             └─ HKDF(root ‖ S) ─wraps─▶ table: epoch keys · lockout authorisation
//! ```

mod epochs;
mod fault;
mod identity;
mod key;
mod memory;
mod recovery;
mod status;
mod store;
mod table;
mod tpm;
mod tree;
mod vault;

pub use epochs::Epochs;
pub use fault::Fault;
pub use identity::{EnrolError, Enrolment, Identity, IdentityState};
pub use key::{Key, Purpose, purpose};
pub use memory::forbid_core_dumps;
pub use recovery::{RecoveryKey, WordsError, data_passphrase};
pub use status::{FaultStatus, IdentityStatus, RecoveryStatus, State, Status};
pub use vault::{FatalError, Keys, Lasting, Opened, UnlockError, Vault, VaultConfig};
