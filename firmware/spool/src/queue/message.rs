//! One message in memory.
//!
//! Job: what lanes, claims and the index need to know of a live message. Place: inside the queue. Invariants: groups
//! change by durable facts only; `facts` is the number of the last one applied, `next_fact` that of the last one
//! submitted. A crash leaves nothing behind.

use crate::{
    Acceptance, Event, EventKind, Group, Held, HeldBy,
    fact::Fact,
    seal::{MessageKey, STREAM_PREFIX},
    segment::Place,
};
use jiff::Timestamp;
use mail::MessageId;
use std::sync::Arc;

/// Where the content is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct ContentPlace {
    pub stream: [u8; STREAM_PREFIX],
    /// Plain bytes.
    pub length: u64,
    /// Its file; `None`: behind the snapshot in the record.
    pub spill: Option<String>,
}

/// The opened snapshot.
pub(crate) struct Snapshot {
    pub acceptance: Arc<Acceptance>,
    pub content: ContentPlace,
    /// Offset of the sealed content in the record's payload.
    pub behind: u32,
}

/// A group and whether someone is at work on it.
pub(crate) struct GroupEntry {
    pub group: Group,
    pub busy: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Waiting,
    Delivering,
    Held,
}

impl GroupEntry {
    pub fn status(&self) -> Status {
        match (&self.group.held, self.busy) {
            (_, true) => Status::Delivering,
            (Some(_), false) => Status::Held,
            (None, false) => Status::Waiting,
        }
    }

    pub fn is_failed(&self) -> bool {
        self.group.held.as_ref().is_some_and(|held| held.by == HeldBy::Failure)
    }
}

pub(crate) struct Message {
    pub place: Place,
    pub lane: u8,
    pub key: Option<Arc<MessageKey>>,
    pub snapshot: Option<Arc<Snapshot>>,
    pub groups: Vec<GroupEntry>,
    pub next_group: u32,
    pub facts: u64,
    pub next_fact: u64,
    /// Facts submitted and not yet applied.
    pub pending: u32,
    /// Prefix and content.
    pub size: u64,
    pub spill: Option<String>,
    pub events: Vec<Event>,
    /// Segments with a record of this message.
    pub segments: Vec<u32>,
    /// The index has a row.
    pub stored: bool,
    /// The index has not got the present state.
    pub dirty: bool,
    /// The index is writing a state of it.
    pub flushing: bool,
    /// Operators' requests that need it in memory.
    pub kept: u32,
    /// No group is left; kept until the index has removed the row.
    pub finished: bool,
}

impl Message {
    /// A message as it is at acceptance.
    pub fn accepted(place: Place, lane: u8, key: Arc<MessageKey>, snapshot: Arc<Snapshot>) -> Self {
        let acceptance = &snapshot.acceptance;
        let at = micros(acceptance.envelope.received);
        let mut events = vec![Event { at, group: None, what: EventKind::Accepted }];
        let mut groups = Vec::with_capacity(acceptance.deliveries.len());
        for (number, planned) in (0..).zip(&acceptance.deliveries) {
            let held = planned.held.clone().map(|why| Held { by: HeldBy::Policy, why });
            if let Some(held) = held.clone() {
                events.push(Event { at, group: Some(number), what: EventKind::Held(held) });
            }
            let group = Group {
                number,
                destination: planned.destination.clone(),
                recipients: planned.recipients.clone(),
                attempts: 0,
                due: at,
                held,
                last: None,
            };
            groups.push(GroupEntry { group, busy: false });
        }
        Self {
            place,
            lane,
            key: Some(key),
            next_group: u32::try_from(groups.len()).unwrap_or(u32::MAX),
            groups,
            facts: 0,
            next_fact: 0,
            pending: 0,
            size: acceptance.prefix.len() as u64 + snapshot.content.length,
            spill: snapshot.content.spill.clone(),
            events,
            segments: vec![place.segment],
            snapshot: Some(snapshot),
            stored: false,
            dirty: true,
            flushing: false,
            kept: 0,
            finished: false,
        }
    }

    pub fn group_mut(&mut self, number: u32) -> Option<&mut GroupEntry> {
        self.groups.iter_mut().find(|entry| entry.group.number == number)
    }

    pub fn group(&self, number: u32) -> Option<&GroupEntry> {
        self.groups.iter().find(|entry| entry.group.number == number)
    }

    /// The groups that a fact names get the state that it says; nobody is at work on them any more.
    pub fn apply(&mut self, number: u64, fact: &Fact) {
        self.facts = number;
        self.next_fact = self.next_fact.max(number);
        self.groups.retain(|entry| !fact.gone.contains(&entry.group.number));
        for group in &fact.groups {
            self.next_group = self.next_group.max(group.number.saturating_add(1));
            let new = GroupEntry { group: group.clone(), busy: false };
            match self.group_mut(group.number) {
                Some(entry) => *entry = new,
                None => self.groups.push(new),
            }
        }
        self.events.extend(fact.events.iter().cloned());
        // A message that is deferred for days does not grow without bound: the first and the latest steps tell enough.
        if self.events.len() > MOST_EVENTS {
            self.events.drain(MOST_EVENTS / 2..=self.events.len() - MOST_EVENTS / 2);
        }
    }
}

/// Steps of a life that are kept.
const MOST_EVENTS: usize = 64;

/// The time in whole microseconds, as the index stores it.
pub(crate) fn micros(at: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at)
}

/// For ordering in windows.
pub(crate) fn key_of(id: MessageId, group: &Group) -> super::Key {
    (group.due, id, group.number)
}
