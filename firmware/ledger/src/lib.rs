//! Append-only records that are nobody else's copy.
//!
//! Job: keep the audit chain and the settings revisions, and say whether anybody changed them. Place: beside the
//! message's way; whatever acts records here what it did. Invariants: a record that was returned is on stable storage;
//! each record's MAC covers the one before it and the head counts them, so an edit, deletion, insertion, exchange or
//! cut is found; records are never changed or deleted by us. A crash leaves a chain that ends with the last record that
//! was returned, or one more.
//!
//! What the chain can't show by itself: a whole `ledger.db` exchanged for an older one while the daemon is stopped.
//! [`Ledger::head`] is what an outside anchor (the TPM's counter, an exported copy) holds against it.

mod chain;
mod database;
mod error;
mod keys;
mod revision;
mod seal;
mod verify;

pub use chain::{Head, Ledger, Record};
pub use error::LedgerError;
pub use keys::{ChainKey, DatabaseKey, LedgerKeys};
pub use revision::{Revision, RevisionInfo};
pub use verify::{Report, Tampering};
