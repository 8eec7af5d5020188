//! The way of a message, in two functions.
//!
//! Job: join the stages. [`accept`] is the way in (stage → judge → commit), [`deliver`] the way out (claim → relay |
//! cloud → settle). Place: the only file that knows more than one stage. Invariants: a receipt is the only way to a 250;
//! a delivery is settled with what the far end said, or claimed again; confidential groups go to the cloud client and
//! nowhere else. A crash leaves what `firmware/README.md` says at each arrow.

use crate::{
    health::probe::{self, Probes},
    judging::Judging,
    live::Live,
};
use delivery::Settled;
use jiff::Timestamp;
use mail::{Action, Destination, EnhancedCode, Envelope, MessageId, Outcome, RecipientOutcome, Reply, Verdict};
use spool::{Acceptance, Claim, Planned, Receipt, Settlement, Spool, Staging};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Bodies beyond this have a file of their own (`spool::Staging`).
const IN_MEMORY: u64 = 64 << 10;

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages accepted with a 250.
    pub accepted: AtomicU64,
    /// Messages refused by a rule.
    pub refused: AtomicU64,
    /// Messages whose last recipient was settled as delivered.
    pub delivered: AtomicU64,
}

/// What every message passes through.
pub struct Pipeline {
    /// Where accepted messages lie.
    pub spool: Spool,
    /// What depends on the settings, swapped when a revision is taken into force.
    pub live: Live,
    /// The judge's queue and workers.
    pub judging: Judging,
    /// Counters.
    pub counters: Counters,
    /// Messages of a health check, which are no mail.
    pub probes: Probes,
}

/// Stage → judge → commit. The receipt comes after the bytes are on stable storage.
///
/// # Errors
/// The reply instead of the 250.
pub async fn accept(pipeline: &Pipeline, staging: Staging, envelope: Envelope) -> Result<(Receipt, MessageId), Reply> {
    let id = envelope.id;
    let probe = pipeline.probes.of(&envelope);
    let parts = probe.as_ref().map_or_else(|| pipeline.live.parts(), |(run, _)| run.parts.clone());
    // A large body has a file, which is synced here: other sessions of this thread go on elsewhere meanwhile.
    let spilled = staging.len() > IN_MEMORY;
    let finish = || staging.finish();
    let staged = if spilled { tokio::task::block_in_place(finish) } else { finish() };
    let staged = Arc::new(staged.map_err(|error| refused(id, "stage", &error, error.reply()))?);
    let verdict = pipeline.judging.judge(&parts, &envelope, &staged).await;
    if probe.is_none() {
        log_verdict(id, &verdict);
    }
    if verdict.strongest() == Action::Reject {
        pipeline.counters.refused.fetch_add(1, Ordering::Relaxed);
        let text = verdict.reject_text.unwrap_or_else(|| "Message refused by policy".to_owned());
        return Err(Reply::new(550, EnhancedCode(5, 7, 1), text));
    }
    let acceptance = Acceptance {
        prefix: prefix(&envelope, &verdict, &parts.settings.host.name),
        deliveries: match &probe {
            Some((run, kind)) => run.plan(*kind, &envelope, &verdict),
            None => parts.routes.plan(&envelope, &verdict).into_iter().map(planned).collect(),
        },
        settings_revision: parts.revision,
        envelope,
        verdict,
    };
    let (sender, recipients) = (masked(&acceptance.envelope), acceptance.envelope.recipients.len());
    let size = staged.len();
    let staged = Arc::into_inner(staged).ok_or_else(|| Reply::new(451, EnhancedCode(4, 3, 0), "Local error"))?;
    let receipt = pipeline
        .spool
        .commit(staged, acceptance)
        .await
        .map_err(|error| refused(id, "commit", &error, error.reply()))?;
    if probe.is_none() {
        pipeline.counters.accepted.fetch_add(1, Ordering::Relaxed);
        log::info!(event = "accepted", id:%, size, sender:%, recipients; "accepted");
    }
    Ok((receipt, id))
}

/// Claim → relay | cloud → settle.
pub async fn deliver(pipeline: &Pipeline, claim: Claim) {
    if claim.destination().is_probe() {
        return probe::deliver(pipeline, claim).await;
    }
    let (id, group) = (claim.message(), claim.delivery());
    let parts = pipeline.live.parts();
    let acceptance = claim.acceptance().clone();
    let outcomes = match claim.open() {
        // The retry spaces the next attempt; what is damaged for good the spool holds when this is settled.
        Err(error) => {
            log::error!(event = "unreadable", id:%, group, error:%; "a stored message can't be opened; see `postern queue show`");
            let text = format!("the stored message can't be read: {error}; check the data disk");
            let why = Outcome::Deferred(Reply::new(451, EnhancedCode(4, 3, 0), text));
            claim.recipients().iter().map(|&recipient| RecipientOutcome { recipient, outcome: why.clone() }).collect()
        }
        Ok(content) => match claim.destination() {
            Destination::Cloud => parts.cloud.deliver(&acceptance.envelope, group, claim.recipients(), content).await,
            other => parts.relay.deliver(other, &acceptance.envelope, claim.recipients(), content).await,
        },
    };
    let destination = claim.destination().clone();
    for outcome in &outcomes {
        log_outcome(id, group, &destination, &outcome.outcome);
    }
    let now = Timestamp::now();
    let not_before = match &destination {
        Destination::Cloud => parts.cloud.not_before(),
        other => parts.relay.not_before(other),
    };
    let Settled { outcomes, retry_at } =
        parts.retry.settle(claim.attempts() + 1, claim.first_accepted(), now, outcomes, not_before);
    let delivered = outcomes.iter().all(|o| matches!(o.outcome, Outcome::Delivered(_)));
    let settlement = Settlement { outcomes, retry_at };
    match pipeline.spool.settle(claim, settlement).await {
        Ok(()) if delivered => drop(pipeline.counters.delivered.fetch_add(1, Ordering::Relaxed)),
        Ok(()) => {}
        Err(error) => log::error!(event = "unsettled", id:%, group, error:%; "an outcome is not yet recorded"),
    }
}

fn planned(group: delivery::Group) -> Planned {
    Planned { destination: group.destination, recipients: group.recipients, held: group.held }
}

/// What stands above the message on its way out: trace field, then tags in the order of their rules.
fn prefix(envelope: &Envelope, verdict: &Verdict, host: &mail::Domain) -> Vec<u8> {
    let mut prefix = session::received_header(envelope, host);
    for tag in &verdict.tags {
        prefix.extend_from_slice(format!("{}: {}\r\n", tag.name, tag.value).as_bytes());
    }
    prefix
}

fn refused(id: MessageId, stage: &str, error: &dyn std::fmt::Display, reply: Reply) -> Reply {
    log::warn!(event = "refused", id:%, stage, error:%, reply = reply.code; "a message was not taken");
    reply
}

fn masked(envelope: &Envelope) -> String {
    envelope.sender.address().map_or_else(|| "<>".to_owned(), mail::Address::masked)
}

fn log_verdict(id: MessageId, verdict: &Verdict) {
    let rules = verdict.matches.iter().map(|m| m.rule.as_str()).collect::<Vec<_>>().join(",");
    let action = format!("{:?}", verdict.strongest()).to_lowercase();
    log::info!(event = "judged", id:%, action:%, rules:%; "judged");
}

fn log_outcome(id: MessageId, group: u32, destination: &Destination, outcome: &Outcome) {
    match outcome {
        Outcome::Delivered(reply) => {
            let event = if *destination == Destination::Cloud { "secured" } else { "relayed" };
            log::info!(event, id:%, group, destination:%, reply = reply.code; "delivered");
        }
        // What a peer says may name the recipient.
        Outcome::Deferred(reply) => {
            let reply = delivery::mask_addresses(&reply.to_string());
            log::warn!(event = "deferred", id:%, group, destination:%, reply:%; "not delivered yet");
        }
        Outcome::Failed(reply) => {
            let reply = delivery::mask_addresses(&reply.to_string());
            log::error!(event = "failed", id:%, group, destination:%, reply:%; "refused for good; held, see `postern queue show`");
        }
    }
}
