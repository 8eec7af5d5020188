//! Records of what operators do.
//!
//! Job: record what acts before it acts, and what was tried while there was no ledger. Place: beside the operators' acts.
//! Invariants: an act that is recorded at all is recorded before it happens; acts that a box with a broken disk must know
//! (power, reset, sign-in) wait for the ledger for seconds only, and the answer says what it does not have. A crash between
//! record and act leaves a record of something that was asked for and not done.

use crate::{Appliance, Closed, Fault, Operator, Refusal, Response, Secret, operate::blocking};
use jiff::Timestamp;
use ledger::Ledger;
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

/// Attempts to unlock that are kept in memory until the ledger opens. Beyond it they are counted only: whoever can
/// reach the socket is root, and could fill memory with them.
const MOST_PENDING: usize = 64;

/// What an act waits for its record that happens without it too: a disk may hang instead of failing.
const RECORDING: Duration = Duration::from_secs(5);

/// What was tried while the ledger was locked; it was logged too.
#[derive(Default)]
pub(crate) struct Pending {
    records: VecDeque<(Timestamp, String, String)>,
    dropped: u64,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.dropped == 0
    }
}

impl<A: Appliance> Operator<A> {
    /// Records, acts (a future does nothing before it is awaited), and records where the act was refused.
    pub(crate) async fn act(
        &self,
        actor: &str,
        action: &str,
        subject: &str,
        detail: Value,
        work: impl Future<Output = Result<Response, Refusal>> + Send,
    ) -> Result<Response, Refusal> {
        let ledger = self.appliance.ledger()?;
        self.record_pending().await?;
        record(&ledger, actor, action, subject, detail).await?;
        let result = work.await;
        if let Err(refusal) = &result {
            let detail = json!({ "what": refusal.what });
            record(&ledger, actor, &format!("{action}.refused"), subject, detail).await?;
        }
        result
    }

    /// Records what happens also where it can't be recorded; why it was not. A locked box has no ledger, and the log alone.
    pub(crate) async fn try_to_record(
        &self,
        actor: &str,
        action: &str,
        subject: &str,
        detail: Value,
    ) -> Option<Refusal> {
        let ledger = self.appliance.ledger().ok()?;
        let recorded = async {
            self.record_pending().await?;
            record(&ledger, actor, action, subject, detail).await
        };
        let refusal = match tokio::time::timeout(RECORDING, recorded).await {
            Ok(Ok(())) => return None,
            Ok(Err(refusal)) => refusal,
            Err(_) => Refusal::new(Fault::Failed, "the data disk does not answer", "check the data disk"),
        };
        log::error!(event = "unrecorded", action, what = refusal.what.as_str(); "{actor}: this is not in the ledger");
        Some(refusal)
    }

    /// An act that a locked box must know too: an update may be what mends it. Then the log is the only record.
    pub(crate) async fn act_if_recorded(
        &self,
        actor: &str,
        action: &str,
        detail: Value,
        work: impl Future<Output = Result<Response, Refusal>> + Send,
    ) -> Result<Response, Refusal> {
        log::warn!("{actor} asks for {action}");
        match self.appliance.ledger() {
            Err(Closed::Starting) => Err(Closed::Starting.into()),
            Err(Closed::Locked(_) | Closed::NotSetUp) => work.await,
            Ok(_) => self.act(actor, action, "", detail, work).await,
        }
    }

    /// The one act that a locked appliance knows. Its ledger is locked too, so the record follows when it opens; the
    /// log has it at once.
    pub(crate) async fn unlock(&self, actor: &str, words: Secret) -> Result<Response, Refusal> {
        log::warn!("{actor} tries to unlock the appliance");
        let result = self.appliance.unlock(words).await;
        let outcome = match &result {
            Ok(unlocked) if unlocked.resealed => "unlocked and sealed anew".to_owned(),
            Ok(_) => "unlocked for this start only".to_owned(),
            Err(refusal) => format!("refused: {}", refusal.what),
        };
        log::warn!("{actor}: {outcome}");
        self.keep(actor, outcome);
        // Unlocked is unlocked: a ledger that can't take the record is told, and does not lock the appliance again. The
        // next act tries once more.
        if let Err(refusal) = self.record_pending().await {
            log::error!("attempts to unlock are not recorded yet: {}", refusal.what);
        }
        result.map(Response::Unlocked)
    }

    fn keep(&self, actor: &str, outcome: String) {
        let mut pending = self.pending();
        if pending.records.len() < MOST_PENDING {
            pending.records.push_back((Timestamp::now(), actor.to_owned(), outcome));
        } else {
            pending.dropped += 1;
        }
    }

    /// Records what was tried while the ledger was locked, once it is open. What can't be recorded is kept.
    pub(crate) async fn record_pending(&self) -> Result<(), Refusal> {
        if self.pending().is_empty() {
            return Ok(());
        }
        let Ok(ledger) = self.appliance.ledger() else { return Ok(()) };
        loop {
            let Some((at, actor, outcome)) = self.pending().records.pop_front() else { break };
            let detail = json!({ "at": at, "outcome": outcome });
            if let Err(refusal) = record(&ledger, &actor, "keys.unlock", "", detail).await {
                self.pending().records.push_front((at, actor, outcome));
                return Err(refusal);
            }
        }
        let dropped = std::mem::take(&mut self.pending().dropped);
        if dropped > 0 {
            let detail = json!({ "outcome": "more attempts than were kept", "count": dropped });
            record(&ledger, "postern", "keys.unlock", "", detail).await?;
        }
        Ok(())
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        // Each change of it is one call, so a panic elsewhere leaves it whole.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) async fn record(
    ledger: &Ledger,
    actor: &str,
    action: &str,
    subject: &str,
    detail: Value,
) -> Result<(), Refusal> {
    let (ledger, actor, action, subject) = (ledger.clone(), actor.to_owned(), action.to_owned(), subject.to_owned());
    blocking(move || ledger.append(&actor, &action, &subject, &detail)).await.map(|_| ())
}
