//! The spool as the rest of Postern holds it.
//!
//! Job: open, stage, commit, close. Place: `accept` stages and commits, `deliver` claims and settles. Invariants: a
//! commit answers with a [`Receipt`] only after the message is on stable storage; nothing is taken that would use up the
//! room that settling needs. A crash leaves what [`crate::recover`] takes up again.

use crate::{
    Acceptance, CommitError, Config, IndexError, Keys, OpenError, Receipt, Recovery, StageError, Staged, Staging,
    disk::Disk,
    index::{Requests, Worker},
    lane::{Job, MessageJob, Writer, largest_message},
    queue::ContentPlace,
    recover::{Recovered, recover},
    shared::Shared,
    snapshot,
};
use mail::MessageId;
use std::{
    io,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread::JoinHandle,
};
use tokio::sync::oneshot;

/// The durable encrypted queue. Clones are handles of the same one; with the last of them the threads end.
#[derive(Clone)]
pub struct Spool {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    /// Those that submit to nobody first, the index last.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // A process that ends while the index thread is inside SQLCipher would pull the cryptographic library away from
        // under it. In asynchronous code `close` waits without blocking, and leaves nothing to wait for here.
        self.stop();
        let mut threads = self.take_threads();
        let index = threads.pop();
        join(threads, &self.shared, index);
    }
}

/// A thread of the spool that panics takes the process with it. Without a lane no session gets an answer and no outcome
/// is recorded, without the index nothing beyond the windows is delivered, and all of it in silence; the threads that
/// are left can't mend it, because what the dead one held is lost. The segments make the other way safe: whatever was
/// answered is on the disk, so a process that ends here and is started anew goes on from there, as after a power cut.
/// `abort` and not `exit`: no destructor and no exit handler runs beside threads that are at work, in SQLCipher not least.
fn ending_with_the_process(name: String, work: Box<dyn FnOnce() + Send>) -> impl FnOnce() + Send {
    move || {
        // Nothing that the panic may have left half done is looked at afterwards.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
            // The panic's text may quote mail, so it stays out of the log.
            log::error!("the thread {name} ended by a defect; the process ends and is to be started again");
            log::logger().flush();
            std::process::abort();
        }
    }
}

fn join(threads: Vec<JoinHandle<()>>, shared: &Shared, index: Option<JoinHandle<()>>) {
    for thread in threads {
        // No thread ends by a panic without ending the process.
        let _ = thread.join();
    }
    shared.index.stop();
    if let Some(index) = index {
        let _ = index.join();
    }
}

impl Handle {
    fn stop(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.spares.close();
        self.shared.lanes.iter().for_each(crate::lane::LaneQueue::close);
    }

    fn take_threads(&self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Spool {
    /// Opens the spool on this disk: takes up what is there and starts the threads.
    ///
    /// # Errors
    /// The disk can't be read, or the index can't be made.
    pub fn open(config: Config, keys: Keys, disk: Arc<dyn Disk>) -> Result<(Self, Recovery), OpenError> {
        let (requests, asked) = Requests::new();
        let Recovered { shared, index, closed, recovery } = recover(config.bounded(), keys, disk, requests)?;
        let start = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(ending_with_the_process(name.to_owned(), work))
                .map_err(|source| OpenError::Disk { what: format!("starting the thread {name}"), source })
        };
        let mut threads = Vec::new();
        for (lane, closed) in (0..).zip(closed) {
            let finished = std::mem::take(&mut shared.queue.lock().finished[usize::from(lane)]);
            let mut writer = Writer::new(Arc::clone(&shared), lane, closed, finished);
            if let Err(error) = writer.prepare() {
                shared.figures.disk_errors.fetch_add(1, Ordering::Relaxed);
                log::error!("no segment could be made: {error}; no mail is taken until the disk has room");
            }
            threads.push(start(&format!("spool-lane-{lane}"), Box::new(move || writer.run()))?);
        }
        let spares = Arc::clone(&shared);
        threads.push(start("spool-spares", Box::new(move || spares.spares.run()))?);
        let worker = Worker::new(Arc::clone(&shared), index, asked);
        let worker = start("spool-index", Box::new(move || worker.run()))?;
        // The index thread ends when it is told to, after all others, so that it writes their last states.
        threads.push(worker);
        Ok((Self { handle: Arc::new(Handle { shared, threads: Mutex::new(threads) }) }, recovery))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// Whether a message could be staged now; asked at MAIL.
    ///
    /// # Errors
    /// What [`Spool::stage`] would answer.
    pub fn available(&self) -> Result<(), StageError> {
        let shared = self.shared();
        if shared.closing.load(Ordering::Acquire) {
            return Err(StageError::Closed);
        }
        if !shared.budget.has_room() {
            return Err(StageError::Memory);
        }
        if shared.queue.lock().dirty.len() > shared.config.index_backlog {
            return Err(StageError::Behind);
        }
        shared.room.check(0)
    }

    /// Begins a message.
    ///
    /// # Errors
    /// Memory or disk are used up, or there is no key.
    pub fn stage(&self, id: MessageId) -> Result<Staging, StageError> {
        self.available()?;
        let shared = self.shared();
        Staging::begin(id, &shared.epochs, shared.config.suite, &shared.budget, shared.room.clone())
    }

    /// Makes a staged message durable with all that was decided about it. Many commits share one sync.
    ///
    /// # Errors
    /// The message is not accepted; see [`CommitError`].
    pub async fn commit(&self, staged: Staged, acceptance: Acceptance) -> Result<Receipt, CommitError> {
        self.submit_message(staged, acceptance)?.await.unwrap_or_else(|_| Err(closed())).map_err(|error| {
            if error.kind() == io::ErrorKind::StorageFull {
                CommitError::Refused(StageError::Full)
            } else {
                CommitError::Disk(error)
            }
        })
    }

    fn submit_message(
        &self,
        staged: Staged,
        acceptance: Acceptance,
    ) -> Result<oneshot::Receiver<io::Result<Receipt>>, CommitError> {
        check(&staged, &acceptance)?;
        let shared = self.shared();
        if shared.queue.lock().messages.contains_key(&staged.message()) {
            return Err(CommitError::Mismatch("a message with this ID is queued already"));
        }
        let content = ContentPlace {
            stream: staged.stream_prefix(),
            length: staged.len(),
            spill: staged.spill_name().map(str::to_owned),
        };
        let (payload, snapshot) = snapshot::build(staged.key(), Arc::new(acceptance), content, staged.inline())
            .map_err(|_| StageError::Seal)?;
        let log_room = u32::try_from(shared.config.segment_bytes).unwrap_or(u32::MAX);
        let most = largest_message(log_room - log_room / LOG_OVERHEAD);
        if u32::try_from(payload.len()).map_or(u64::MAX, crate::record::room) > most {
            return Err(CommitError::Mismatch("the record is larger than a segment takes"));
        }
        let (done, receipt) = oneshot::channel();
        let job =
            MessageJob { payload, slot: staged.slot().clone(), key: Arc::clone(staged.key()), snapshot, staged, done };
        let lane = shared.quieter_lane();
        shared.lanes[lane].submit(Job::Message(Box::new(job))).map_err(|_| StageError::Closed)?;
        Ok(receipt)
    }

    /// Takes nothing more, makes durable what was submitted, brings the index up to date and ends the threads.
    pub async fn close(&self) {
        self.handle.stop();
        let mut threads = self.handle.take_threads();
        let index = threads.pop();
        let shared = Arc::clone(self.shared());
        let _ = tokio::task::spawn_blocking(move || join(threads, &shared, index)).await;
    }
}

/// Header page and key slots take less than this part of a segment.
const LOG_OVERHEAD: u32 = 8;

fn closed() -> io::Error {
    io::Error::other(IndexError::Closed)
}

/// Every recipient goes somewhere, and to one place only: here a mistake would lose or double mail.
fn check(staged: &Staged, acceptance: &Acceptance) -> Result<(), CommitError> {
    if acceptance.envelope.id != staged.message() {
        return Err(CommitError::Mismatch("another message's ID"));
    }
    let mut named = vec![false; acceptance.envelope.recipients.len()];
    for planned in &acceptance.deliveries {
        if planned.recipients.is_empty() {
            return Err(CommitError::Mismatch("a delivery without recipients"));
        }
        for recipient in &planned.recipients {
            match named.get_mut(usize::from(*recipient)) {
                Some(named) if !*named => *named = true,
                _ => return Err(CommitError::Mismatch("a recipient that is unknown or named twice")),
            }
        }
    }
    if named.is_empty() || named.contains(&false) {
        return Err(CommitError::Mismatch("a recipient without a delivery"));
    }
    Ok(())
}
