//! The judge's queue.
//!
//! Job: give each message a place to be judged in, with a deadline, and say when there are too many. Place: between
//! stage and commit. Invariants: a message is judged within [`LIMIT`] or counts as undecidable; what waits is bounded, so
//! that a flood is answered 451 at MAIL and not with memory. A crash leaves nothing: unjudged is unaccepted.

use crate::live::Parts;
use mail::{Envelope, Verdict};
use policy::{Facts, Job, JobReport, WorkerError, Workers};
use spool::Staged;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// From the final dot to the verdict (architecture: 60 s, well below the client's ten minutes of RFC 5321 §4.5.3.2.6).
pub const LIMIT: Duration = Duration::from_secs(60);
/// Messages that may wait for a place; more are answered 451 at MAIL.
const QUEUE: usize = 200;
/// Messages up to here are judged where they are: it takes less time than handing them to another thread.
const INLINE: u64 = 64 << 10;

/// The judge's queue and its workers.
pub struct Judging {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    workers: Arc<Considerate>,
}

/// Workers that are waited for without keeping other sessions of the same thread waiting.
struct Considerate(Arc<dyn Workers>);

impl Workers for Considerate {
    fn run(&self, job: Job<'_>) -> Result<JobReport, WorkerError> {
        tokio::task::block_in_place(|| self.0.run(job))
    }
}

impl Judging {
    /// A queue with `places` judged at once.
    #[must_use]
    pub fn new(places: usize, workers: Arc<dyn Workers>) -> Self {
        let places = Arc::new(Semaphore::new(places.max(1)));
        Self { places, waiting: AtomicUsize::new(0), workers: Arc::new(Considerate(workers)) }
    }

    /// Whether another message may come.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) < QUEUE
    }

    /// The verdict on a staged message. What goes wrong here makes it undecidable.
    pub async fn judge(&self, parts: &Arc<Parts>, envelope: &Envelope, staged: &Arc<Staged>) -> Verdict {
        let deadline = Instant::now() + LIMIT;
        let place = self.place().await;
        let facts = Facts::of(envelope, staged.len());
        if staged.len() <= INLINE {
            return parts.policy.judge(&facts, &mut staged.open(), &*self.workers, deadline);
        }
        let (parts, staged, workers) = (parts.clone(), staged.clone(), self.workers.clone());
        let judged = tokio::task::spawn_blocking(move || {
            let verdict = parts.policy.judge(&facts, &mut staged.open(), &*workers, deadline);
            drop(place);
            verdict
        });
        judged.await.unwrap_or_else(|error| {
            // The error itself may quote the message.
            log::error!(panicked = error.is_panic(); "judging ended badly; the message is undecidable");
            // No recipient has a verdict, so every one of them is held (delivery::Routes).
            Verdict { undecidable: Some("judging ended badly".to_owned()), ..Verdict::default() }
        })
    }

    /// A place among those that are judged at once.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        let waits = Waits::new(&self.waiting);
        let place = self.places.clone().acquire_owned().await;
        drop(waits);
        // The semaphore is never closed.
        place.ok()
    }
}

/// Counts one that waits, also when its session is cut meanwhile.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
