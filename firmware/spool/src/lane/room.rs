//! Which segment the next record goes into.
//!
//! Job: the active segment of a lane, what still fits into it, and the closed ones that wait for their messages to
//! finish. Place: inside a lane's thread. Invariants: messages never use the quarter of the log that is kept for facts;
//! a segment goes only when no live message has a record in it and all its shredding is durable. A crash leaves closed
//! segments; the next start takes them over.

use crate::{
    queue::Finished,
    segment::{Place, Segment},
};
use std::{io, sync::Arc};

/// The part of a log that only facts may use.
const FACTS_PART: u32 = 4;

/// The segment that a lane appends to.
pub(crate) struct Active {
    pub segment: Arc<Segment>,
    /// Whether messages may go into it.
    pub messages: bool,
    /// End of the log.
    pub tail: u32,
    pub next_slot: u32,
    /// Overwritten keys that are not yet synced.
    pub shredded: Vec<Finished>,
}

impl Active {
    pub fn new(segment: Arc<Segment>, messages: bool) -> Self {
        Self { tail: segment.log, segment, messages, next_slot: 0, shredded: Vec::new() }
    }

    /// Whether a message of `room` bytes fits behind `batch` bytes and `slots` slots that are not yet written.
    pub fn fits_message(&self, batch: u64, slots: u32, room: u64) -> bool {
        let limit = self.segment.length - self.segment.log_room() / FACTS_PART;
        self.messages
            && u64::from(self.tail) + batch + room <= u64::from(limit)
            && self.next_slot + slots < self.segment.slots
    }

    /// Whether a fact does.
    pub fn fits_fact(&self, batch: u64, room: u64) -> bool {
        u64::from(self.tail) + batch + room <= u64::from(self.segment.length)
    }
}

/// The largest message record that a segment with this much log takes.
pub(crate) fn largest_message(log_room: u32) -> u64 {
    u64::from(log_room - log_room / FACTS_PART)
}

/// A segment that nothing is appended to any more.
pub(crate) struct Closed {
    pub segment: Arc<Segment>,
    pub shredded: Vec<Finished>,
    /// A sync failed: nothing that was written since the last good one is known to be on the disk, and no later sync
    /// changes that.
    pub failed: bool,
    /// Segments that stay until this failed one is gone for certain.
    pub holds: Vec<u32>,
}

impl Closed {
    pub fn new(segment: Arc<Segment>) -> Self {
        Self { segment, shredded: Vec::new(), failed: false, holds: Vec::new() }
    }
}

/// Overwrites a key in the segment that has it.
pub(crate) fn shred(
    active: Option<&mut Active>,
    closed: &mut [Closed],
    finished: Finished,
) -> Result<(), (Finished, io::Error)> {
    let Place { segment: number, slot, .. } = finished.place;
    let (segment, list) = match active.filter(|active| active.segment.number == number) {
        Some(active) => (&active.segment, &mut active.shredded),
        None => match closed.iter_mut().find(|closed| closed.segment.number == number) {
            Some(closed) => (&closed.segment, &mut closed.shredded),
            None => return Err((finished, io::ErrorKind::NotFound.into())),
        },
    };
    match segment.shred(slot) {
        Ok(()) => {
            list.push(finished);
            Ok(())
        }
        Err(error) => Err((finished, error)),
    }
}
