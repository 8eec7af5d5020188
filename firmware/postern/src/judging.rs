//! The judge's queue.
//!
//! Job: give each message a place to be judged in, with a deadline, and say when there are too many. Place: between
//! stage and commit. Invariants: a message is judged within [`LIMIT`] or counts as undecidable; what waits is bounded, so
//! that a flood is answered 451 at MAIL and not with memory. A crash leaves nothing: unjudged is unaccepted.

use crate::live::Parts;
use mail::Envelope;
use policy::{Facts, Workers};
use spool::Staged;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

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
    workers: Arc<dyn Workers>,
}

impl Judging {
    /// A queue with `places` judged at once.
    #[must_use]
    pub fn new(places: usize, workers: Arc<dyn Workers>) -> Self {
        Self { places: Arc::new(Semaphore::new(places.max(1))), waiting: AtomicUsize::new(0), workers }
    }

    /// Whether another message may come.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) < QUEUE
    }

    /// The verdict on a staged message. What goes wrong here makes it undecidable.
    pub async fn judge(&self, parts: &Arc<Parts>, envelope: &Envelope, staged: &Arc<Staged>) -> mail::Verdict {
        let deadline = Instant::now() + LIMIT;
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let place = self.places.clone().acquire_owned().await;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let (parts, envelope, staged, workers) =
            (parts.clone(), envelope.clone(), staged.clone(), self.workers.clone());
        let inline = staged.len() <= INLINE;
        let judge = move || {
            let facts = Facts::of(&envelope, staged.len());
            let verdict = parts.policy.judge(&facts, &mut staged.open(), &*workers, deadline);
            drop(place);
            verdict
        };
        if inline {
            // A worker may be waited for; other sessions of this thread go on elsewhere meanwhile.
            return tokio::task::block_in_place(judge);
        }
        tokio::task::spawn_blocking(judge).await.unwrap_or_else(|error| {
            log::error!(error:%; "judging ended badly; the message is undecidable");
            // No recipient has a verdict, so every one of them is held (delivery::Routes).
            mail::Verdict { undecidable: Some("judging ended badly".to_owned()), ..mail::Verdict::default() }
        })
    }
}
