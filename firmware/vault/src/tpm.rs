//! The one thread that talks to the TPM.
//!
//! Job: run jobs against the TPM one after another, each with a deadline. Place: below `vault` and `identity`, which hold
//! the only handles; above tss-esapi. Invariants: one job at a time; whoever asks waits no longer than the deadline; a
//! job whose deadline is over starts no further command; a connection lives as long as its job, so that nothing stays
//! loaded in the TPM between jobs. A crash in a job leaves its objects loaded where no resource manager cleans up
//! (never key material outside the TPM): the first job of the next start flushes them.

#[cfg(test)]
mod bus_tests;
mod identity;
mod link;
mod lockout;
mod policy;
mod seal;

pub(crate) use identity::{IdentityBlob, create_identity, sign};
pub(crate) use link::{Link, Tpm};
pub(crate) use lockout::{Lockout, clear, own_lockout};
pub(crate) use policy::PolicyFiles;
pub(crate) use seal::{SealedRoot, Sealing, seal, unseal};

use crate::fault::Fault;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    thread,
    time::{Duration, Instant},
};

/// Jobs that may wait. A TPM signs about ten times a second and only new cloud connections ask it to; a longer queue
/// than this would be over its deadline anyway.
const WAITING: usize = 64;

type Job = Box<dyn FnOnce(&Link) + Send>;

/// A handle to the owner thread, which ends with the last handle.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    jobs: SyncSender<Job>,
    deadline: Duration,
}

impl Owner {
    /// Starts the thread. The TPM itself is not touched before the first job.
    pub(crate) fn start(tcti: &str, deadline: Duration) -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel(WAITING);
        let link = Link::to(tcti);
        thread::Builder::new().name("tpm".to_owned()).spawn(move || serve(&queue, &link))?;
        Ok(Self { jobs, deadline })
    }

    /// Runs `job` on the owner thread and waits for its result, at most the deadline. Blocking: not for a worker thread
    /// of an asynchronous runtime.
    pub(crate) fn run<T, F>(&self, job: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tpm) -> Result<T, Fault> + Send + 'static,
    {
        let slow = || Fault::Slow { deadline: self.deadline };
        let until = Instant::now() + self.deadline;
        let (answer, result) = sync_channel(1);
        let deadline = self.deadline;
        let job: Job = Box::new(move |link| {
            let outcome = link.connect(until, deadline).and_then(|mut tpm| job(&mut tpm));
            // Nobody waits any more where the deadline is over.
            let _unheard = answer.send(outcome);
        });
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => slow(),
            TrySendError::Disconnected(_) => ended(),
        })?;
        match result.recv_timeout(self.deadline) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => Err(slow()),
            Err(RecvTimeoutError::Disconnected) => Err(ended()),
        }
    }
}

fn serve(queue: &Receiver<Job>, link: &Link) {
    for job in queue {
        // A panic below must not take the only way to the TPM with it; the asker sees a closed channel.
        if catch_unwind(AssertUnwindSafe(|| job(link))).is_err() {
            log::error!("a TPM job panicked");
        }
    }
}

fn ended() -> Fault {
    Fault::Refused { command: "the job", detail: "it was broken off".to_owned() }
}
