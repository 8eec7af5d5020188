//! Claims: taking a delivery group, and saying what became of it.
//!
//! Job: hand a due group to a delivery, give it back when it is dropped, and record its outcomes. Place: between the
//! queue and `deliver`. Invariants: a claim is in memory only; two claims never have the same group; an outcome counts
//! once its fact is durable; a refusal for good keeps the message, held. A crash forgets claims: their groups are due
//! again.

use crate::{
    Acceptance, EventKind, Group, Held, HeldBy, SettleError, Settlement, Spool,
    content::{ChunkReader, ClaimedContent, Source},
    disk::Folder,
    fact::{Fact, event},
    queue::{Snapshot, micros},
    record::{HEADER, Kind},
    seal::MessageKey,
    segment::Place,
    shared::Shared,
    view::{Damage, damage_hold},
};
use jiff::Timestamp;
use mail::{Destination, MessageId, Outcome, Reply};
use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// A delivery group that is being delivered. Dropping it gives the group back.
pub struct Claim {
    shared: Arc<Shared>,
    place: Place,
    key: Arc<MessageKey>,
    snapshot: Arc<Snapshot>,
    group: Group,
    damaged: Arc<AtomicBool>,
    settled: bool,
}

impl Claim {
    /// The message.
    #[must_use]
    pub fn message(&self) -> MessageId {
        self.key.binding.message
    }

    /// The group's number within the message; it always stands for the same recipients.
    #[must_use]
    pub fn delivery(&self) -> u32 {
        self.group.number
    }

    /// Where it goes.
    #[must_use]
    pub fn destination(&self) -> &Destination {
        &self.group.destination
    }

    /// Indices into `Envelope::recipients`.
    #[must_use]
    pub fn recipients(&self) -> &[u16] {
        &self.group.recipients
    }

    /// Attempts before this one.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.group.attempts
    }

    /// What was accepted.
    #[must_use]
    pub fn acceptance(&self) -> &Arc<Acceptance> {
        &self.snapshot.acceptance
    }

    /// When the message was received.
    #[must_use]
    pub fn first_accepted(&self) -> Timestamp {
        self.snapshot.acceptance.envelope.received
    }

    /// The octets to send: prefix, then content.
    ///
    /// # Errors
    /// The spill file can't be opened. Damage shows as `InvalidData` or `UnexpectedEof` while reading; the message is
    /// then held when the claim is settled or dropped.
    pub fn open(&self) -> io::Result<Box<dyn mail::Content>> {
        let content = &self.snapshot.content;
        let source = match &content.spill {
            Some(name) => match self.shared.disk.open(Folder::Spill, name) {
                Ok(file) => Source::File(file, 0),
                Err(error) => {
                    if error.kind() == io::ErrorKind::NotFound {
                        self.damaged.store(true, Ordering::Release);
                    }
                    return Err(error);
                }
            },
            None => {
                let segment = self.shared.segment(self.place.segment).ok_or(io::ErrorKind::NotFound)?;
                let offset = u64::from(self.place.offset) + HEADER as u64 + u64::from(self.snapshot.behind);
                Source::File(Arc::clone(&segment.file), offset)
            }
        };
        let chunks = ChunkReader::new(source, Arc::new(self.key.stream(content.stream)?), content.length);
        Ok(Box::new(ClaimedContent::new(Arc::clone(&self.snapshot.acceptance), chunks, Arc::clone(&self.damaged))))
    }

    /// The fact for these outcomes; `None` where they do not fit the claim.
    fn fact(&self, settlement: &Settlement, next_group: u32) -> Option<Fact> {
        let mut outcomes: BTreeMap<u16, &Outcome> = BTreeMap::new();
        for outcome in &settlement.outcomes {
            if !self.group.recipients.contains(&outcome.recipient)
                || outcomes.insert(outcome.recipient, &outcome.outcome).is_some()
            {
                return None;
            }
        }
        let mut sorted = [const { (Vec::new(), None::<Reply>) }; 3];
        for recipient in &self.group.recipients {
            let (class, reply) = match outcomes.get(recipient)? {
                Outcome::Delivered(reply) => (0, reply),
                Outcome::Deferred(reply) => (1, reply),
                Outcome::Failed(reply) => (2, reply),
            };
            let (recipients, first) = sorted.get_mut(class)?;
            recipients.push(*recipient);
            first.get_or_insert_with(|| reply.clone());
        }
        let damage = self.damaged.load(Ordering::Acquire).then(|| damage_hold(Damage::Content));
        let due = micros(settlement.retry_at.unwrap_or_else(Timestamp::now));
        let mut fact = Fact { gone: Vec::new(), groups: Vec::new(), events: Vec::new() };
        let mut new = next_group;
        let number = self.group.number;
        for (class, (recipients, reply)) in sorted.into_iter().enumerate() {
            let Some(reply) = reply else { continue };
            let all = recipients.len() == self.group.recipients.len();
            let last = Some(reply.to_string());
            let mut held = None;
            let what = match class {
                0 => EventKind::Delivered { recipients: recipients.clone(), reply },
                1 => {
                    held = damage.clone();
                    EventKind::Deferred { recipients: recipients.clone(), reply, until: due }
                }
                _ => {
                    let why = format!("failed: {reply}");
                    held = damage.clone().or(Some(Held { by: HeldBy::Failure, why }));
                    EventKind::Failed { recipients: recipients.clone(), reply }
                }
            };
            fact.events.push(event(Some(number), what));
            // A group number keeps its recipients: what is left of a group that was split gets a number of its own.
            if class == 0 {
                if all {
                    fact.gone.push(number);
                }
                continue;
            }
            let number = if all { number } else { new };
            if !all {
                new = new.checked_add(1)?;
            }
            if let Some(held) = held.clone() {
                fact.events.push(event(Some(number), EventKind::Held(held)));
            }
            let attempts = self.group.attempts.saturating_add(1);
            let destination = self.group.destination.clone();
            fact.groups.push(Group { number, destination, recipients, attempts, due, held, last });
        }
        if fact.groups.iter().all(|group| group.number != number) && !fact.gone.contains(&number) {
            fact.gone.push(number);
        }
        Some(fact)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let id = self.message();
        let mut state = self.shared.queue.lock();
        if self.damaged.load(Ordering::Acquire) {
            let held = damage_hold(Damage::Content);
            let events = vec![event(Some(self.group.number), EventKind::Held(held.clone()))];
            let group = Group { held: Some(held), ..self.group.clone() };
            let fact = Fact { gone: Vec::new(), groups: vec![group], events };
            // Nobody waits for it. Where it can't be submitted the group stays claimed until the restart.
            let _ = self.shared.submit_fact(&mut state, id, Kind::Hold, fact);
        } else {
            state.give_back(id, self.group.number);
        }
        drop(state);
        self.shared.changed();
    }
}

impl Spool {
    /// Takes the next due group, if there is one; destinations take turns.
    #[must_use]
    pub fn claim(&self, now: Timestamp) -> Option<Claim> {
        self.claim_from(now, |_| true)
    }

    /// As [`Spool::claim`], but only from destinations that are wanted.
    #[must_use]
    pub fn claim_from(&self, now: Timestamp, mut wanted: impl FnMut(&Destination) -> bool) -> Option<Claim> {
        let shared = self.shared();
        loop {
            let (taken, refill) = shared.queue.lock().take(now, &mut wanted);
            for destination in refill {
                shared.index.refill(destination);
            }
            let taken = taken?;
            let Some((place, key, snapshot, group)) = ({
                let state = shared.queue.lock();
                state.messages.get(&taken.id).and_then(|message| {
                    let group = message.group(taken.number)?.group.clone();
                    Some((message.place, message.key.clone(), message.snapshot.clone(), group))
                })
            }) else {
                continue;
            };
            let opened = key.map_or_else(|| shared.open_key(taken.id, place), Ok).and_then(|key| {
                let snapshot = snapshot.map_or_else(|| shared.open_snapshot(place, &key), Ok)?;
                Ok((key, snapshot))
            });
            match opened {
                Ok((key, snapshot)) => {
                    shared.queue.lock().change(taken.id, |message| {
                        message.key = Some(Arc::clone(&key));
                        message.snapshot = Some(Arc::clone(&snapshot));
                    });
                    return Some(Claim {
                        shared: Arc::clone(shared),
                        place,
                        key,
                        snapshot,
                        group,
                        damaged: Arc::new(AtomicBool::new(false)),
                        settled: false,
                    });
                }
                Err(damage) => {
                    log::error!("message {} is held: {}", taken.id, damage_hold(damage).why);
                    shared.figures.set_aside.fetch_add(1, Ordering::Relaxed);
                    shared.queue.lock().hold_damaged(taken.id, damage);
                }
            }
        }
    }

    /// Waits until a claim may succeed. It may also return without one.
    pub async fn due(&self) {
        self.due_from(|_| true).await;
    }

    /// As [`Spool::due`], but only for destinations that are wanted.
    pub async fn due_from(&self, mut wanted: impl FnMut(&Destination) -> bool + Send) {
        let shared = self.shared();
        loop {
            let changed = shared.queue.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let now = Timestamp::now();
            let next = shared.queue.lock().next_due(now, &mut wanted);
            match next {
                Some(due) if crate::queue::is_due(due, now) => return,
                Some(due) => {
                    let wait = std::time::Duration::try_from(due.duration_since(now)).unwrap_or_default();
                    // Looking again every now and then bounds what a changed clock can cost.
                    let _ = tokio::time::timeout(wait.min(LOOK_AGAIN), changed).await;
                }
                None => {
                    let _ = tokio::time::timeout(LOOK_AGAIN, changed).await;
                }
            }
        }
    }

    /// Records what became of a claim: delivered recipients are done, deferred ones due again, those that failed kept
    /// and held. Done when the fact is durable; the last recipient's shreds the message.
    ///
    /// # Errors
    /// The fact is not durable yet; the group stays claimed, and the spool goes on trying.
    pub async fn settle(&self, mut claim: Claim, settlement: Settlement) -> Result<(), SettleError> {
        let id = claim.message();
        let recorded = {
            let mut state = self.shared().queue.lock();
            let next_group = state.messages.get(&id).map(|message| message.next_group).ok_or(SettleError::Mismatch)?;
            let fact = claim.fact(&settlement, next_group).ok_or(SettleError::Mismatch)?;
            let highest = fact.groups.iter().map(|group| group.number).max();
            let recorded =
                self.shared().submit_fact(&mut state, id, Kind::Settle, fact).map_err(|_| SettleError::Closed)?;
            if let (Some(message), Some(highest)) = (state.messages.get_mut(&id), highest) {
                message.next_group = message.next_group.max(highest.saturating_add(1));
            }
            claim.settled = true;
            recorded
        };
        match recorded.await {
            Ok(result) => result.map_err(SettleError::Disk),
            Err(_) => Err(SettleError::Closed),
        }
    }
}

/// Longest sleep while waiting for something to be due.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(15);
