//! The records of a segment's log.
//!
//! Job: encode and decode the 64-byte header that stands before every record. Place: between lanes, which append, and
//! the scan, which reads back. Invariants: a header is valid only in the segment that it was written to, because the
//! segment's random ID goes into its check sum: what a recycled file held before is never taken for a record. The
//! header names the message and nothing else about it; all else is sealed. A crash leaves a record whole, in part or
//! not at all: header and payload have check sums, so content alone tells which.

use crate::Suite;
use mail::MessageId;

/// Bytes of a header; records begin at multiples of it.
pub(crate) const HEADER: usize = 64;

const MAGIC: [u8; 4] = *b"PREC";

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Sealed snapshot, and sealed content where it is small.
    Message = 1,
    /// Outcomes of an attempt.
    Settle = 2,
    Hold = 3,
    Release = 4,
    Reroute = 5,
    Retry = 6,
    Delete = 7,
    /// The commit failed, so the message was never accepted.
    Withdraw = 8,
    /// The segment was closed in order; everything before is durable. Names no message.
    Close = 9,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Message,
            Self::Settle,
            Self::Hold,
            Self::Release,
            Self::Reroute,
            Self::Retry,
            Self::Delete,
            Self::Withdraw,
            Self::Close,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// A header without its check sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub kind: Kind,
    pub suite: Suite,
    /// Bytes behind the header.
    pub length: u32,
    /// Key slot of the message; facts repeat nothing and have 0.
    pub slot: u32,
    pub message: MessageId,
    /// Counts the facts of a message from 1, so that a lost one is noticed; 0 for the message itself.
    pub number: u64,
    /// All of this segment before this offset was durable when the record was written. Damage before the highest such
    /// offset was acknowledged; damage behind it may be what a power cut left of the last write.
    pub durable: u32,
    pub epoch: u32,
}

impl Header {
    /// The bytes, for the segment with this ID and a payload with this check sum.
    pub fn encode(&self, segment: &[u8; 16], payload_sum: u32) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = self.kind as u8;
        bytes[5] = self.suite.to_byte();
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.slot.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.message.to_bytes());
        bytes[32..40].copy_from_slice(&self.number.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.durable.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[48..52].copy_from_slice(&payload_sum.to_le_bytes());
        let sum = header_sum(segment, &bytes);
        bytes[60..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Header and check sum of the payload; `None` where these are not the bytes of a header of this segment.
    pub fn decode(segment: &[u8; 16], bytes: &[u8; HEADER]) -> Option<(Self, u32)> {
        if bytes[..4] != MAGIC || header_sum(segment, bytes) != word(bytes, 60) {
            return None;
        }
        let header = Self {
            kind: Kind::from_byte(bytes[4])?,
            suite: Suite::from_byte(bytes[5])?,
            length: word(bytes, 8),
            slot: word(bytes, 12),
            message: message_in(bytes),
            number: u64::from(word(bytes, 32)) | u64::from(word(bytes, 36)) << 32,
            durable: word(bytes, 40),
            epoch: word(bytes, 44),
        };
        Some((header, word(bytes, 48)))
    }

    /// Bytes that the record takes in the log, header and padding included.
    pub fn room(&self) -> u64 {
        room(self.length)
    }

    /// Authenticated with a fact: its kind and its number.
    pub fn bound(kind: Kind, number: u64) -> u64 {
        number << 8 | kind as u64
    }
}

/// The message that a header names, also where its check sum is wrong.
pub(crate) fn message_in(bytes: &[u8; HEADER]) -> MessageId {
    let mut id = [0; 16];
    id.copy_from_slice(&bytes[16..32]);
    MessageId::from_bytes(id)
}

/// Bytes that a record with a payload of `length` takes in the log.
pub(crate) fn room(length: u32) -> u64 {
    (HEADER as u64 + u64::from(length)).next_multiple_of(HEADER as u64)
}

fn word(bytes: &[u8; HEADER], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn header_sum(segment: &[u8; 16], bytes: &[u8; HEADER]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(segment);
    sum.update(&bytes[..60]);
    sum.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            kind: Kind::Settle,
            suite: Suite::ChaCha20Poly1305,
            length: 77,
            slot: 5,
            message: MessageId::from_bytes([3; 16]),
            number: 1 << 40 | 2,
            durable: 4096,
            epoch: 9,
        }
    }

    #[test]
    fn a_header_round_trips_in_its_own_segment_only() {
        let bytes = header().encode(&[1; 16], 0xdead_beef);
        assert_eq!(Header::decode(&[1; 16], &bytes), Some((header(), 0xdead_beef)));
        assert_eq!(Header::decode(&[2; 16], &bytes), None, "a recycled file's old records are not records");
    }

    #[test]
    fn any_flipped_bit_makes_a_header_invalid() {
        let bytes = header().encode(&[1; 16], 1);
        for at in 0..HEADER * 8 {
            let mut copy = bytes;
            copy[at / 8] ^= 1 << (at % 8);
            assert_eq!(Header::decode(&[1; 16], &copy), None, "bit {at}");
        }
    }
}
