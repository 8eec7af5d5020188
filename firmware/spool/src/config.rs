//! What the spool is given when it is opened.
//!
//! Job: name every size and bound with its unit and reason. Place: filled by `build()` from the settings. Invariants:
//! values outside their limits are brought inside them by [`Config::bounded`], which [`crate::Spool::open`] applies.
//! A crash leaves nothing behind.

use crate::Suite;
use std::{path::PathBuf, sync::Arc, time::Duration};

/// The keys that the spool needs; `build()` takes them from the vault.
pub struct Keys {
    /// Wrap the message keys.
    pub epochs: Arc<vault::Epochs>,
    /// Opens `queue.db`.
    pub index: vault::Key<vault::purpose::QueueIndex>,
}

/// Sizes and places.
#[derive(Clone, Debug)]
pub struct Config {
    /// Path of `queue.db`, always on a real file system.
    pub index: PathBuf,
    /// Sealed bodies waiting in memory, all sessions together, in bytes.
    pub memory_bytes: u64,
    /// Room on the disk that messages never touch, in bytes.
    pub reserve_bytes: u64,
    /// Size of one segment file, in bytes.
    pub segment_bytes: u64,
    /// Due rows of one destination that are kept in memory.
    pub window: usize,
    /// Longest time until a fact is in the index.
    pub index_every: Duration,
    /// Facts that may wait for the index before new messages are refused.
    pub index_backlog: usize,
    /// Cipher of new messages; every message names its own.
    pub suite: Suite,
}

impl Config {
    /// The defaults, with `queue.db` at `index`.
    #[must_use]
    pub fn new(index: PathBuf) -> Self {
        Self {
            index,
            memory_bytes: 64 << 20,
            reserve_bytes: 64 << 20,
            segment_bytes: 64 << 20,
            window: 4096,
            index_every: Duration::from_millis(500),
            index_backlog: 100_000,
            suite: Suite::Aes256Gcm,
        }
    }

    /// A segment holds the largest record and leaves room for the facts about its messages; offsets are 32 bits.
    pub(crate) fn bounded(mut self) -> Self {
        self.segment_bytes = self.segment_bytes.clamp(SMALLEST_SEGMENT, LARGEST_SEGMENT) & !4095;
        self.window = self.window.max(16);
        self.index_backlog = self.index_backlog.max(1024);
        self
    }
}

/// The largest body that waits in memory fits, with its snapshot, below the room that is kept for facts.
pub(crate) const SMALLEST_SEGMENT: u64 = 128 << 10;
/// Keeps every offset within 32 bits.
const LARGEST_SEGMENT: u64 = 1 << 30;
