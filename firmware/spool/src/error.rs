//! What can go wrong, in two halves each: what happened; what to do.
//!
//! Job: say who is at fault in the variant, and map each error to the reply that the client sees in one place.
//! Place: between the spool and everyone who calls it. Invariants: no variant carries content or an address.
//! A crash leaves nothing behind.

use mail::{EnhancedCode, MessageId, Reply};
use std::{io, path::PathBuf};

/// The spool could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the spool in {0} is in use by another process; stop that one first")]
    InUse(PathBuf),
    /// A disk call failed.
    #[error("{what} failed: {source}; check the data disk and its free space, then start again")]
    Disk {
        /// Which call on which file.
        what: String,
        /// The system's error.
        source: io::Error,
    },
    /// The index could neither be opened nor made anew.
    #[error("the queue index could not be opened nor rebuilt: {0}; check the data disk and its free space")]
    Index(#[from] IndexError),
    /// There is no key to seal with.
    #[error("the key store holds no epoch key; unlock it first")]
    NoKey,
}

/// The index answered with an error. Nothing is lost: it is derived from the segments.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// SQLite's own error.
    #[error("the queue index failed: {0}; it is rebuilt at the next start")]
    Sqlite(#[from] rusqlite::Error),
    /// A row does not have the shape that we write.
    #[error("a row of the queue index is not one that Postern wrote ({0}); delete queue.db and start again")]
    Shape(&'static str),
    /// A segment could not be read while the index was held against it.
    #[error("a segment could not be read: {0}; check the data disk")]
    Disk(#[from] io::Error),
    /// The spool is closing.
    #[error("the spool is closing; try again after the start")]
    Closed,
}

/// A message can't be taken at present.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// All memory for waiting bodies is in use.
    #[error("the memory for waiting messages is in use; it frees itself as messages are committed")]
    Memory,
    /// The disk is full up to the reserve.
    #[error("the spool's disk is full up to its reserve; free room or deliver queued mail")]
    Full,
    /// The index is too far behind.
    #[error("the queue index is too far behind; check the data disk")]
    Behind,
    /// A disk call failed.
    #[error("the spool's disk failed: {0}; check the data disk")]
    Disk(#[from] io::Error),
    /// Sealing failed, or there is no key to seal with.
    #[error("the message could not be sealed; check that the key store is unlocked")]
    Seal,
    /// The spool is closing.
    #[error("the spool is closing; try again after the start")]
    Closed,
}

impl StageError {
    /// The reply to the client (RFC 5321 §4.2.2, RFC 3463 §3.4).
    #[must_use]
    pub fn reply(&self) -> Reply {
        match self {
            Self::Memory | Self::Full | Self::Behind => {
                Reply::new(452, EnhancedCode(4, 3, 1), "Insufficient system storage, try again later")
            }
            Self::Disk(_) | Self::Seal => {
                Reply::new(451, EnhancedCode(4, 3, 0), "Local error in processing, try again later")
            }
            Self::Closed => Reply::new(451, EnhancedCode(4, 3, 2), "Shutting down, try again later"),
        }
    }
}

/// There is no receipt: the message was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The disk is full up to the reserve, or a bound is reached.
    #[error("the message was not taken: {0}")]
    Refused(#[from] StageError),
    /// Writing or syncing failed.
    #[error("the message could not be made durable: {0}; check the data disk")]
    Disk(io::Error),
    /// The acceptance does not fit the staged message: another ID, or its deliveries do not name every recipient
    /// exactly once.
    #[error("the acceptance does not fit the staged message ({0}); this is a fault of Postern, please report it")]
    Mismatch(&'static str),
}

impl CommitError {
    /// The reply to the client.
    #[must_use]
    pub fn reply(&self) -> Reply {
        match self {
            Self::Refused(stage) => stage.reply(),
            Self::Disk(_) | Self::Mismatch(_) => {
                Reply::new(451, EnhancedCode(4, 3, 0), "Local error in processing, try again later")
            }
        }
    }
}

/// What became of a delivery could not be recorded. This process does not deliver it again; after a restart it may.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// Writing or syncing failed; the spool tries again as soon as the disk takes it.
    #[error("the outcome of a delivery is not yet recorded: {0}; check the data disk")]
    Disk(io::Error),
    /// An outcome names a recipient that is not in the claim, or a recipient of the claim has none.
    #[error("the outcomes do not fit the claim; this is a fault of Postern, please report it")]
    Mismatch,
    /// The spool is closing.
    #[error("the spool is closing; the delivery is tried again after the start")]
    Closed,
}

/// An operator's request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// No such message.
    #[error("there is no message {0} in the queue; `postern queue list` shows what there is")]
    Unknown(MessageId),
    /// It is being delivered, or changed by someone else, right now.
    #[error("message {0} is being delivered right now; try again in a moment")]
    Busy(MessageId),
    /// There is nothing to do, for example to release where nothing is held.
    #[error("message {0} has no delivery to which this applies; `postern queue show {0}` shows its state")]
    Nothing(MessageId),
    /// Confidential mail never leaves by SMTP to the outside.
    #[error(
        "message {0} is confidential and leaves by HTTPS only; delete it, or change the policy and have it sent again"
    )]
    Confidential(MessageId),
    /// Writing or syncing failed.
    #[error("the change could not be recorded: {0}; check the data disk")]
    Disk(io::Error),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The spool is closing.
    #[error("the spool is closing; try again after the start")]
    Closed,
}
