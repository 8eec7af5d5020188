//! What reading one message may cost.
//!
//! Job: name every bound with its reason, and count against it. Place: handed through the whole extraction. Invariants:
//! counters only fall; once one is empty it stays empty, so that a loop over hostile input ends. A crash leaves nothing.

use std::time::Instant;

/// Containers (multipart, message, archive) inside each other; real mail stays below ten.
pub(super) const MAX_DEPTH: u32 = 32;
/// Parts of one message, archive entries included; a large source archive has some thousands.
pub(super) const MAX_PARTS: usize = 10_000;
/// Bytes that decoding and unpacking may make from one message: a 100 MiB message of office documents stays below.
const MAX_EXTRACTED: u64 = 512 << 20;
/// Bytes of one unpacked entry, which has to lie in memory whole.
pub(super) const MAX_ENTRY: u64 = 96 << 20;
/// Unpacked bytes per packed byte of one archive. Office XML packs 10 to 50 times, sparse sheets 100 times; DEFLATE ends
/// at 1,032.
pub(super) const MAX_RATIO: u64 = 200;
/// Below this size unpacked, the ratio says nothing: small files of zeros are ordinary.
pub(super) const RATIO_FREE: u64 = 4 << 20;
/// Bytes of one header: ten times what the largest real ones have.
pub(super) const MAX_HEADER: usize = 1 << 20;
/// Fields of one header.
pub(super) const MAX_FIELDS: usize = 10_000;
/// Readings of one contradictory entity; the parsers in the field agree in fewer ways.
pub(super) const MAX_READINGS: usize = 4;

/// What is left for one message.
#[derive(Clone, Debug)]
pub struct Budget {
    parts: usize,
    extracted: u64,
    deadline: Option<Instant>,
    expired: bool,
}

impl Budget {
    /// The whole budget of a message that must be read before `deadline`.
    #[must_use]
    pub fn until(deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..Self::unhurried() }
    }

    /// The whole budget without a deadline: for the command line.
    #[must_use]
    pub fn unhurried() -> Self {
        Self { parts: MAX_PARTS, extracted: MAX_EXTRACTED, deadline: None, expired: false }
    }

    /// Whether the deadline has passed. Asks the clock: for use between pieces of work of some 100 µs, not per byte.
    pub fn is_expired(&mut self) -> bool {
        if !self.expired {
            self.expired = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        }
        self.expired
    }

    /// Takes one part; false when there are none left or the time is over.
    pub(super) fn take_part(&mut self) -> bool {
        if self.parts == 0 || self.is_expired() {
            return false;
        }
        self.parts -= 1;
        true
    }

    /// Takes decoded bytes; false when they are more than is left.
    pub(super) fn take_bytes(&mut self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        if bytes > self.extracted {
            self.extracted = 0;
            return false;
        }
        self.extracted -= bytes;
        true
    }

    /// Bytes that may still be made.
    pub(super) fn bytes_left(&self) -> u64 {
        self.extracted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_budget_stays_empty() {
        let mut budget = Budget::unhurried();
        assert!(!budget.take_bytes(usize::MAX));
        assert!(!budget.take_bytes(1));
        assert!((0..MAX_PARTS).all(|_| budget.take_part()));
        assert!(!budget.take_part());
    }

    #[test]
    fn a_passed_deadline_takes_no_parts() {
        assert!(!Budget::until(Instant::now()).take_part());
    }
}
