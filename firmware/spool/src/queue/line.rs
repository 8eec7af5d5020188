//! The queue of one destination.
//!
//! Job: keep the next due groups in memory and know whether the index has more. Place: inside the queue. Invariants:
//! every waiting group of the destination is in the window or not before `beyond`; the window has a bound, so a queue
//! of millions costs no more memory than one of thousands. A crash leaves nothing behind.

use super::{Status, is_due};
use jiff::Timestamp;
use mail::MessageId;
use std::collections::BTreeSet;

/// Due time, message, group number: the order of delivery.
pub(crate) type Key = (Timestamp, MessageId, u32);

pub(crate) struct Line {
    pub window: BTreeSet<Key>,
    /// Not later than any waiting group outside the window; `None`: there is none outside.
    pub beyond: Option<Key>,
    /// Whether the index has been asked for more.
    pub refilling: bool,
    pub waiting: u64,
    pub delivering: u64,
    pub held: u64,
    bound: usize,
}

impl Line {
    pub fn new(bound: usize) -> Self {
        Self { window: BTreeSet::new(), beyond: None, refilling: false, waiting: 0, delivering: 0, held: 0, bound }
    }

    /// Puts a waiting group into the window, or notes that it is outside. Gives the message of the group that has no
    /// place any more, which nobody may need in memory then.
    pub fn offer(&mut self, key: Key) -> Option<MessageId> {
        self.window.insert(key);
        if self.window.len() <= self.bound {
            return None;
        }
        let last = self.window.pop_last()?;
        self.outside(last);
        Some(last.1)
    }

    /// The group to be claimed now. After a clock was set back, those that were put off before it stand last.
    pub fn next(&self, now: Timestamp) -> Option<Key> {
        [self.window.first(), self.window.last()].into_iter().flatten().find(|key| is_due(key.0, now)).copied()
    }

    /// Notes that a group from `key` on is outside the window.
    pub fn outside(&mut self, key: Key) {
        self.beyond = Some(self.beyond.map_or(key, |beyond| beyond.min(key)));
    }

    /// Notes that any group may be outside.
    pub fn beyond_all(&mut self) {
        self.outside((Timestamp::MIN, MessageId::from_bytes([0; 16]), 0));
    }

    /// Whether a due group outside comes before the window's first; or, after a clock was set back, behind all of a
    /// window that has none, and room.
    pub fn wants_refill(&mut self, now: Timestamp) -> bool {
        let wants =
            !self.refilling && self.beyond.is_some_and(|beyond| is_due(beyond.0, now) && self.reaches(beyond, now));
        self.refilling |= wants;
        wants
    }

    fn reaches(&self, beyond: Key, now: Timestamp) -> bool {
        let before = self.window.first().is_none_or(|first| beyond < *first);
        before || self.window.len() < self.bound && self.next(now).is_none() && is_due(beyond.0, now)
    }

    /// When the next group is due, not later than `now` if one is.
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        // While the index is being asked, its answer wakes whoever waits.
        let outside = self.beyond.filter(|beyond| !self.refilling && self.reaches(*beyond, now));
        let found = [self.window.first().copied(), self.window.last().copied(), outside];
        found.into_iter().flatten().map(|key| if is_due(key.0, now) { key.0.min(now) } else { key.0 }).min()
    }

    pub fn bound(&self) -> usize {
        self.bound
    }

    pub fn figure(&mut self, status: Status) -> &mut u64 {
        match status {
            Status::Waiting => &mut self.waiting,
            Status::Delivering => &mut self.delivering,
            Status::Held => &mut self.held,
        }
    }
}
