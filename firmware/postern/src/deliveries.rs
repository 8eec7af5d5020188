//! The loop that hands due deliveries to [`crate::pipeline::deliver`].
//!
//! Job: claim what is due, as much at once as each destination may have. Place: between `spool.claim` and the pipeline's
//! way out. Invariants: no destination can use up another's places; at the end running deliveries finish or their claims
//! are dropped, which the next start makes good. A crash leaves nothing: claims live in memory.

use crate::pipeline::{Pipeline, deliver};
use jiff::Timestamp;
use mail::Destination;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    task::{JoinHandle, JoinSet},
};

/// Deliveries to the cloud at once: streams of a few connections, bounded by the memory that their chunks take.
const CLOUD_AT_ONCE: usize = 16;
/// How long a shutdown waits for running deliveries: longer than a next hop takes to answer the final dot, usually.
pub const DRAIN: Duration = Duration::from_secs(20);

/// Deliveries under way, by destination.
#[derive(Default)]
struct Running {
    count: Mutex<HashMap<Destination, usize>>,
    ended: Notify,
}

impl Running {
    fn has_room(&self, destination: &Destination, relay_at_once: usize) -> bool {
        let most = if *destination == Destination::Cloud { CLOUD_AT_ONCE } else { relay_at_once };
        self.lock().get(destination).copied().unwrap_or(0) < most
    }

    fn begin(self: &Arc<Self>, destination: Destination) -> Place {
        *self.lock().entry(destination.clone()).or_insert(0) += 1;
        Place { running: self.clone(), destination }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Destination, usize>> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One place at a destination; free again when dropped.
struct Place {
    running: Arc<Running>,
    destination: Destination,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(count) = self.running.lock().get_mut(&self.destination) {
            *count = count.saturating_sub(1);
        }
        self.running.ended.notify_one();
    }
}

/// Starts delivering; ends when `stop` turns true and running deliveries have finished, at most [`DRAIN`] later.
///
/// A daemon that takes mail and delivers none would be worse than one that is restarted: what is accepted is durable, so
/// a defect here ends the process.
pub fn start(pipeline: Arc<Pipeline>, stop: watch::Receiver<bool>) -> JoinHandle<()> {
    tokio::spawn(async move {
        if tokio::spawn(run(pipeline, stop)).await.is_err_and(|error| error.is_panic()) {
            log::error!("delivering ended by a defect; the daemon must be restarted");
            std::process::abort();
        }
    })
}

async fn run(pipeline: Arc<Pipeline>, mut stop: watch::Receiver<bool>) {
    let running = Arc::new(Running::default());
    let mut tasks = JoinSet::new();
    loop {
        let most = pipeline.live.parts().settings.relay.max_connections;
        while !*stop.borrow() {
            let wanted = |destination: &Destination| running.has_room(destination, most);
            let Some(claim) = pipeline.spool.claim_from(Timestamp::now(), wanted) else { break };
            let place = running.begin(claim.destination().clone());
            let pipeline = pipeline.clone();
            tasks.spawn(async move {
                deliver(&pipeline, claim).await;
                drop(place);
            });
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            () = pipeline.spool.due_from(|destination| running.has_room(destination, most)) => {}
            () = running.ended.notified() => {}
            Some(ended) = tasks.join_next() => report(ended),
        }
        while let Some(ended) = tasks.try_join_next() {
            report(ended);
        }
    }
    let drained = tokio::time::timeout(DRAIN, async {
        while let Some(ended) = tasks.join_next().await {
            report(ended);
        }
    });
    if drained.await.is_err() {
        log::warn!(deliveries = tasks.len(); "deliveries still under way are given up and begun again at the next start");
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        // The error itself may quote the message.
        log::error!(panicked = error.is_panic(); "a delivery ended badly; it is tried again, please report this");
    }
}
