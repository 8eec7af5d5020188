//! Why the ledger could not do what was asked.

use std::path::PathBuf;

/// Every failure of the ledger, in two halves.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file can't be made or opened.
    #[error("{path} can't be opened: {source}; check the data folder's mount, owner and free space", path = .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's or SQLite's report.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The pages don't decrypt.
    #[error("{path} does not open with this machine's key: it belongs to another key store or is damaged; restore data folder and key store together from one backup", path = .path.display())]
    WrongKey {
        /// The file.
        path: PathBuf,
    },
    /// A later version wrote it.
    #[error("{path} has schema {found}, this version knows {known}; start the version that wrote it, or a later one", path = .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A read or write failed; nothing was recorded.
    #[error("the ledger can't be read or written: {0}; check free space and the disk's health")]
    Disk(#[source] rusqlite::Error),
    /// The place of the next record is taken by something that we did not write.
    #[error(
        "a foreign record {seq} stands where the next one belongs; run `postern audit verify` and restore ledger.db from a backup"
    )]
    Occupied {
        /// The number that the next record would have.
        seq: u64,
    },
    /// A field is over its bound.
    #[error("the {field} of a ledger record has {bytes} bytes, more than {most}; shorten it")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// Its size.
        bytes: usize,
        /// The bound.
        most: usize,
    },
    /// A settings revision is not as it was recorded.
    #[error(
        "settings revision {n} was changed in ledger.db; run `postern audit verify` and apply a settings file that you trust"
    )]
    RevisionChanged {
        /// Its number.
        n: u64,
    },
}

impl From<rusqlite::Error> for LedgerError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Disk(error)
    }
}
