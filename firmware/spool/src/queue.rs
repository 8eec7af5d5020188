//! The queue in memory.
//!
//! Job: hold the state of the messages that are in use, and say what is due. Place: between lanes, which report durable
//! facts, claims, which take work, and the index, which has all that is not in memory. Invariants: only durable facts
//! change a group's state; a claimed group is nobody else's until it is settled or given back; what is not in memory
//! is in the index, exactly so. A crash leaves nothing behind: the segments say all of it again.

mod line;
mod message;

pub(crate) use line::{Key, Line};
pub(crate) use message::{ContentPlace, GroupEntry, Message, Snapshot, Status, key_of, micros};

use crate::{Acceptance, Damage, Event, EventKind, HeldBy, fact::Fact, segment::Place, view};
use jiff::Timestamp;
use mail::{Destination, MessageId};
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// Finished messages whose life can still be shown; lost with the process.
const RECENT: usize = 1024;

/// A time far enough ahead that only a clock which was set back explains it; such a group is due at once. The longest
/// wait that settings allow is a day and a fifth, 28.8 hours.
const CLOCK_JUMPED: jiff::SignedDuration = jiff::SignedDuration::from_hours(36);

/// The end of what a lane has made durable and this queue has applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub segment: u32,
    pub offset: u32,
}

/// A message without groups, to be shredded by its lane.
#[derive(Debug)]
pub(crate) struct Finished {
    pub place: Place,
    pub spill: Option<String>,
    /// Segments that stay until the shredding is durable.
    pub segments: Vec<u32>,
}

/// A finished message for [`crate::Spool::life`].
pub(crate) struct Past {
    pub acceptance: Option<Arc<Acceptance>>,
    pub size: u64,
    pub events: Vec<Event>,
}

/// The queue behind its lock.
pub(crate) struct Queue {
    state: Mutex<State>,
    /// Woken whenever something may have become due.
    pub changed: Notify,
}

/// All that the lock guards.
pub(crate) struct State {
    pub messages: HashMap<MessageId, Message>,
    pub lines: BTreeMap<Destination, Line>,
    pub dirty: HashSet<MessageId>,
    pub positions: [Position; 2],
    pub finished: [Vec<Finished>; 2],
    /// Live messages with a record in the segment; without any, the segment can go.
    pins: HashMap<u32, u64>,
    past: VecDeque<(MessageId, Past)>,
    window: usize,
    /// The destination that was served last; the next claim looks behind it first.
    served: Option<Destination>,
    pub live: u64,
    pub failed: u64,
    pub accepted: u64,
    pub ended: u64,
}

/// What a claim was given.
pub(crate) struct Taken {
    pub id: MessageId,
    pub number: u32,
}

impl Queue {
    pub fn new(window: usize) -> Self {
        Self {
            state: Mutex::new(State {
                messages: HashMap::new(),
                lines: BTreeMap::new(),
                dirty: HashSet::new(),
                positions: [Position::default(); 2],
                finished: [Vec::new(), Vec::new()],
                pins: HashMap::new(),
                past: VecDeque::new(),
                window,
                served: None,
                live: 0,
                failed: 0,
                accepted: 0,
                ended: 0,
            }),
            changed: Notify::new(),
        }
    }

    /// A panic under the lock can't leave it half changed in a way that costs a message: the segments are the truth,
    /// so the lock is taken over.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes a new, durable message.
    pub fn insert(&mut self, id: MessageId, mut message: Message) {
        message.dirty = true;
        self.dirty.insert(id);
        self.pin(message.place.segment);
        self.live += 1;
        let displaced = self.attach(id, &message);
        self.messages.insert(id, message);
        self.evict(displaced);
    }

    /// Takes a message that the index had; it is counted already. It stays, whether its groups have a place in a window
    /// or not, until the caller evicts it; others that lose theirs go.
    pub fn adopt(&mut self, id: MessageId, message: Message) {
        if self.messages.contains_key(&id) {
            return;
        }
        let mut displaced = Vec::new();
        for entry in message.groups.iter().filter(|entry| entry.status() == Status::Waiting) {
            let line = self.line(&entry.group.destination);
            displaced.extend(line.offer((entry.group.due, id, entry.group.number)));
        }
        self.messages.insert(id, message);
        self.evict(displaced.into_iter().filter(|displaced| *displaced != id));
    }

    /// Changes a message, keeping figures and windows right. One that nobody needs any more afterwards is dropped from
    /// memory, as are those that lose their place to it.
    pub fn change<R>(&mut self, id: MessageId, change: impl FnOnce(&mut Message) -> R) -> Option<R> {
        let mut message = self.messages.remove(&id)?;
        self.detach(id, &message);
        let result = change(&mut message);
        let displaced = self.attach(id, &message);
        self.messages.insert(id, message);
        self.evict(displaced);
        Some(result)
    }

    /// Applies a durable fact. A fact that is known already (its number says so) changes nothing.
    pub fn apply(&mut self, id: MessageId, number: u64, fact: &Fact, segment: u32) {
        let Some(message) = self.messages.get(&id) else { return };
        if number <= message.facts {
            return;
        }
        let fresh = !message.segments.contains(&segment);
        self.change(id, |message| {
            message.apply(number, fact);
            if fresh {
                message.segments.push(segment);
            }
            message.dirty = true;
        });
        if fresh {
            self.pin(segment);
        }
        self.dirty.insert(id);
        self.finish_if_done(id);
    }

    /// A submitted fact has become durable, or will not be waited for any more.
    pub fn settled(&mut self, id: MessageId) {
        if let Some(message) = self.messages.get_mut(&id) {
            message.pending = message.pending.saturating_sub(1);
        }
        self.finish_if_done(id);
    }

    fn finish_if_done(&mut self, id: MessageId) {
        let Some(message) = self.messages.get_mut(&id) else { return };
        if !message.groups.is_empty() || message.pending > 0 || message.finished {
            return;
        }
        message.finished = true;
        let lane = usize::from(message.lane & 1);
        let finished =
            Finished { place: message.place, spill: message.spill.take(), segments: message.segments.clone() };
        let past = Past {
            acceptance: message.snapshot.as_ref().map(|snapshot| Arc::clone(&snapshot.acceptance)),
            size: message.size,
            events: std::mem::take(&mut message.events),
        };
        let withdrawn = past.events.iter().any(|event| event.what == EventKind::Withdrawn);
        let known = message.stored || message.flushing;
        if let Some(list) = self.finished.get_mut(lane) {
            list.push(finished);
        }
        if !withdrawn {
            self.ended += 1;
        }
        self.live = self.live.saturating_sub(1);
        if self.past.len() == RECENT {
            self.past.pop_front();
        }
        self.past.push_back((id, past));
        if known {
            if let Some(message) = self.messages.get_mut(&id) {
                message.dirty = true;
            }
            self.dirty.insert(id);
        } else {
            self.messages.remove(&id);
            self.dirty.remove(&id);
        }
    }

    /// The groups that someone is at work on.
    pub fn delivering(&self) -> HashSet<(MessageId, u32)> {
        let entries =
            self.messages.iter().flat_map(|(id, message)| message.groups.iter().map(move |entry| (id, entry)));
        entries.filter(|(_, entry)| entry.busy).map(|(id, entry)| (*id, entry.group.number)).collect()
    }

    /// The life of a message that finished a short while ago.
    pub fn past(&self, id: MessageId) -> Option<&Past> {
        self.past.iter().rev().find(|(past, _)| *past == id).map(|(_, past)| past)
    }

    /// Holds all of a message because of damage. No fact is logged: the damage itself is on the disk, and is found
    /// again whenever the message is read.
    pub fn hold_damaged(&mut self, id: MessageId, damage: Damage) {
        self.change(id, |message| {
            for entry in &mut message.groups {
                entry.busy = false;
                entry.group.held = Some(view::damage_hold(damage));
            }
            message.dirty = true;
        });
        if self.messages.contains_key(&id) {
            self.dirty.insert(id);
        }
    }

    /// Takes the next due group of a destination that is wanted. Gives the destinations whose next rows are in the
    /// index only, too.
    pub fn take(
        &mut self,
        now: Timestamp,
        mut wanted: impl FnMut(&Destination) -> bool,
    ) -> (Option<Taken>, Vec<Destination>) {
        let mut refill = Vec::new();
        let mut order: Vec<Destination> = self.lines.keys().cloned().collect();
        if let Some(served) = &self.served {
            let behind = order.iter().position(|destination| destination > served).unwrap_or(0);
            order.rotate_left(behind);
        }
        for destination in order {
            if !wanted(&destination) {
                continue;
            }
            let Some(line) = self.lines.get_mut(&destination) else { continue };
            if line.wants_refill(now) {
                refill.push(destination.clone());
            }
            let Some(key) = line.next(now) else { continue };
            let (_, id, number) = key;
            line.window.remove(&key);
            let taken = self.change(id, |message| match message.group_mut(number) {
                Some(entry) if entry.status() == Status::Waiting => {
                    entry.busy = true;
                    true
                }
                _ => false,
            });
            if taken == Some(true) {
                self.served = Some(destination);
                return (Some(Taken { id, number }), refill);
            }
        }
        (None, refill)
    }

    /// When the next group of a wanted destination is due, not later than `now` if one is; `None`: none waits.
    pub fn next_due(&self, now: Timestamp, mut wanted: impl FnMut(&Destination) -> bool) -> Option<Timestamp> {
        let lines = self.lines.iter().filter(|(destination, _)| wanted(destination));
        lines.filter_map(|(_, line)| line.next_due(now)).min()
    }

    /// Gives a group back, as it was before the claim.
    pub fn give_back(&mut self, id: MessageId, number: u32) {
        self.change(id, |message| {
            if let Some(entry) = message.group_mut(number) {
                entry.busy = false;
            }
        });
    }

    /// Drops what the index has and nobody needs in memory.
    pub fn evict(&mut self, ids: impl IntoIterator<Item = MessageId>) {
        for id in ids {
            let Some(message) = self.messages.get(&id) else { continue };
            let in_window = |entry: &GroupEntry| {
                let key = (entry.group.due, id, entry.group.number);
                self.lines.get(&entry.group.destination).is_some_and(|line| line.window.contains(&key))
            };
            let needed = message.dirty
                || message.flushing
                || message.pending > 0
                || message.kept > 0
                || message.groups.iter().any(|entry| entry.busy || in_window(entry));
            if !needed {
                self.messages.remove(&id);
            }
        }
    }

    /// Adds to the figures of groups that only the index has.
    pub fn count_indexed(&mut self, destination: Destination, held: Option<HeldBy>, count: u64) {
        let window = self.window;
        let line = self.lines.entry(destination).or_insert_with(|| Line::new(window));
        match held {
            Some(by) => {
                line.held += count;
                if by == HeldBy::Failure {
                    self.failed += count;
                }
            }
            None => {
                line.waiting += count;
                line.beyond_all();
            }
        }
    }

    pub fn pin(&mut self, segment: u32) {
        *self.pins.entry(segment).or_default() += 1;
    }

    pub fn unpin(&mut self, segment: u32) {
        if let Some(count) = self.pins.get_mut(&segment) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.pins.remove(&segment);
            }
        }
    }

    pub fn is_pinned(&self, segment: u32) -> bool {
        self.pins.contains_key(&segment)
    }

    fn line(&mut self, destination: &Destination) -> &mut Line {
        let window = self.window;
        self.lines.entry(destination.clone()).or_insert_with(|| Line::new(window))
    }

    fn detach(&mut self, id: MessageId, message: &Message) {
        for entry in &message.groups {
            let Some(line) = self.lines.get_mut(&entry.group.destination) else { continue };
            let figure = line.figure(entry.status());
            *figure = figure.saturating_sub(1);
            line.window.remove(&(entry.group.due, id, entry.group.number));
            if entry.is_failed() {
                self.failed = self.failed.saturating_sub(1);
            }
        }
    }

    /// Gives the messages that lost a place in a window by this; it may be the message itself.
    fn attach(&mut self, id: MessageId, message: &Message) -> Vec<MessageId> {
        let mut displaced = Vec::new();
        for entry in &message.groups {
            let status = entry.status();
            let line = self.line(&entry.group.destination);
            *line.figure(status) += 1;
            if status == Status::Waiting {
                displaced.extend(line.offer((entry.group.due, id, entry.group.number)));
            }
            if entry.is_failed() {
                self.failed += 1;
            }
        }
        displaced
    }
}

/// Whether a group with this due time may be claimed.
pub(crate) fn is_due(due: Timestamp, now: Timestamp) -> bool {
    due <= now || due.duration_since(now) > CLOCK_JUMPED
}

#[cfg(test)]
mod tests;
