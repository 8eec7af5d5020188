//! Lanes: who writes the segments.
//!
//! Job: gather records of many sessions, write them at once, sync once, and only then say so. Place: between commit and
//! settle, which submit, and the disk. There are two lanes, each with a thread and a segment of its own, so that one
//! gathers while the other syncs; a message's facts stay in its lane, so their order is the order in the log.
//! Invariants: a [`Receipt`] is made here and nowhere else, after `fdatasync` returned without an error; a failed sync
//! is never asked again: the segment is closed, its batch gets no receipt, and its facts are written anew elsewhere;
//! messages leave a quarter of every segment to facts. A crash leaves whole batches, and a part of the last.

mod room;
mod writer;

pub(crate) use room::{Closed, largest_message};
pub(crate) use writer::Writer;

use crate::{fact::Fact, queue::Snapshot, record::Kind, seal::MessageKey, slot::KeySlot, stage::Staged};
use mail::MessageId;
use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::oneshot;

/// The proof that a message is on stable storage: what the 250 after the final dot needs.
///
/// It can't be made outside the spool:
/// ```compile_fail,E0451
/// let forged = spool::Receipt { message: mail::MessageId::generate() };
/// ```
#[derive(Debug)]
pub struct Receipt {
    message: MessageId,
}

impl Receipt {
    /// The message.
    #[must_use]
    pub fn message(&self) -> MessageId {
        self.message
    }
}

/// A message to be made durable.
pub(crate) struct MessageJob {
    pub payload: Vec<u8>,
    pub slot: KeySlot,
    pub key: Arc<MessageKey>,
    pub snapshot: Arc<Snapshot>,
    /// Keeps its share of the budget until the record is written, and its spill file only once it may be.
    pub staged: Staged,
    pub done: oneshot::Sender<io::Result<Receipt>>,
}

/// A fact to be made durable.
pub(crate) struct FactJob {
    pub message: MessageId,
    pub kind: Kind,
    pub number: u64,
    pub key: Arc<MessageKey>,
    pub fact: Fact,
    /// `None` once its submitter was told that it is late.
    pub done: Option<oneshot::Sender<io::Result<()>>>,
    /// A spill file that goes when this is durable.
    pub spill: Option<String>,
    /// The failed segment that holds what this fact withdraws; it keeps this fact's segment alive.
    pub withdraws: Option<u32>,
}

pub(crate) enum Job {
    Message(Box<MessageJob>),
    Fact(FactJob),
    /// Answered when all that was submitted before is done with.
    Barrier(oneshot::Sender<()>),
}

/// The lane takes nothing more.
#[derive(Debug)]
pub(crate) struct LaneClosed;

/// What was submitted to a lane and is not yet taken.
pub(crate) struct LaneQueue {
    pending: Mutex<Pending>,
    wake: Condvar,
    /// Jobs submitted and not answered; sessions choose the lane with fewer.
    load: AtomicUsize,
}

#[derive(Default)]
struct Pending {
    jobs: VecDeque<Job>,
    closing: bool,
    closed: bool,
}

impl LaneQueue {
    pub fn new() -> Self {
        Self { pending: Mutex::new(Pending::default()), wake: Condvar::new(), load: AtomicUsize::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Hands a job over; drops it, and with it the way to whoever waits, where the lane is closed.
    pub fn submit(&self, job: Job) -> Result<(), LaneClosed> {
        let mut pending = self.lock();
        if pending.closed {
            return Err(LaneClosed);
        }
        pending.jobs.push_back(job);
        self.load.fetch_add(1, Ordering::Relaxed);
        drop(pending);
        self.wake.notify_one();
        Ok(())
    }

    /// Lets the lane finish what it has and stop.
    pub fn close(&self) {
        self.lock().closing = true;
        self.wake.notify_one();
    }

    /// All that waits; waits for something to come, but not longer than `timeout`. The flag says that nothing will come
    /// any more.
    fn take(&self, timeout: Duration) -> (VecDeque<Job>, bool) {
        let mut pending = self.lock();
        if pending.jobs.is_empty() && !pending.closing {
            pending = self.wake.wait_timeout(pending, timeout).unwrap_or_else(PoisonError::into_inner).0;
        }
        let jobs = std::mem::take(&mut pending.jobs);
        pending.closed = pending.closing && jobs.is_empty();
        (jobs, pending.closed)
    }

    fn answered(&self, jobs: usize) {
        self.load.fetch_sub(jobs, Ordering::Relaxed);
    }
}
