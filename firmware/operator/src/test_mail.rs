//! The test message that shows whether mail gets through.
//!
//! Job: have the appliance take a message of its own, and watch what becomes of it. Place: the last step of setting up;
//! beside the message's way, which it only looks at. Invariants: a test that is refused for good is removed, so that it
//! leaves no alarm; one that waits stays in the queue like any other. A crash leaves a test message in the queue.

use crate::{
    Appliance, Fault, Refusal,
    view::{TestOutcome, TestReport},
};
use mail::{Address, MessageId};
use spool::{EventKind, HeldBy, Life};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long is watched: connecting and handing over takes a healthy next hop a second or two, greylisting minutes.
const PATIENCE: Duration = Duration::from_secs(25);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

pub(crate) async fn send<A: Appliance>(appliance: &A, recipient: Address) -> Result<TestReport, Refusal> {
    let id = appliance.accept_test(recipient).await?;
    let spool = appliance.opened()?.spool;
    let deadline = Instant::now() + PATIENCE;
    let report = loop {
        let life = spool.life(id).await.map_err(|error| Refusal::of(Fault::Failed, &error))?;
        let report = life.map_or_else(|| waiting(id), |life| judge(id, &life));
        if report.outcome != TestOutcome::Waiting || !report.detail.is_empty() || Instant::now() >= deadline {
            break report;
        }
        sleep(LOOK).await;
    };
    if report.outcome == TestOutcome::Refused
        && let Err(error) = spool.delete(id).await
    {
        log::warn!(id:%, error:%; "a refused test message stays in the queue");
    }
    Ok(report)
}

fn waiting(id: MessageId) -> TestReport {
    TestReport { id, outcome: TestOutcome::Waiting, detail: String::new() }
}

fn judge(id: MessageId, life: &Life) -> TestReport {
    let mut report = waiting(id);
    for event in &life.events {
        (report.outcome, report.detail) = match &event.what {
            EventKind::Delivered { reply, .. } => (TestOutcome::Delivered, reply.to_string()),
            EventKind::Deferred { reply, .. } => (TestOutcome::Waiting, reply.to_string()),
            EventKind::Failed { reply, .. } => (TestOutcome::Refused, reply.to_string()),
            EventKind::Held(held) if held.by != HeldBy::Failure => (TestOutcome::Held, held.why.clone()),
            _ => continue,
        };
    }
    if let Some(held) = life.groups.iter().find_map(|group| group.held.as_ref())
        && report.detail.is_empty()
    {
        (report.outcome, report.detail) = (TestOutcome::Held, held.why.clone());
    }
    report
}
