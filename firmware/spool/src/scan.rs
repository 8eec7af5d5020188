//! Reading a segment's log back.
//!
//! Job: find every record of a segment, and everything that should be one and is not. Place: recovery and
//! `verify_index`. Invariants: damage never hides what stands behind it, because the scan goes on at the next valid
//! header; a record is handed on only with a good check sum. A crash leaves nothing: this only reads.

use crate::{
    disk::{DiskFile, read_around},
    record::{HEADER, Header, message_in},
    segment::Segment,
};
use mail::MessageId;
use std::io;

/// Bytes read from the disk at once.
const WINDOW: usize = 1 << 20;

/// What the scan met.
#[derive(Debug)]
pub(crate) enum Found {
    /// A good record.
    Record { offset: u32, header: Header, payload: Vec<u8> },
    /// Bytes that are no record, between records or where a record was begun.
    Damage(Damaged),
}

/// A damaged part of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damaged {
    pub offset: u32,
    pub length: u32,
    /// The message that it names; certain if `header`, otherwise what stands in the place of the ID.
    pub message: MessageId,
    /// The header where it is good and only the payload is damaged.
    pub header: Option<Header>,
}

/// Walks through the log of a segment.
pub(crate) struct Scan<'a> {
    segment: &'a Segment,
    reader: Window<'a>,
    at: u32,
    /// End of the last good record.
    end: u32,
    /// Highest offset that a record says was durable.
    durable: u32,
    waiting: Option<Found>,
}

impl<'a> Scan<'a> {
    /// Starts at `from`, which is the start of the log or the end of a record.
    pub fn new(segment: &'a Segment, from: u32) -> Self {
        let from = from.clamp(segment.log, segment.length).next_multiple_of(HEADER as u32);
        let reader =
            Window { file: segment.file.as_ref(), length: segment.length, start: 0, bytes: Vec::new(), lost: false };
        Self { segment, reader, at: from, end: from, durable: from, waiting: None }
    }

    /// End of the last good record so far.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Damage before this offset was certainly acknowledged; final once the scan is through.
    pub fn durable(&self) -> u32 {
        self.durable
    }

    /// Whether the disk did not give back all of what was read so far.
    pub fn lost(&self) -> bool {
        self.reader.lost
    }

    /// The next record or damage; `None` at the end of the log.
    pub fn next(&mut self) -> io::Result<Option<Found>> {
        if let Some(found) = self.waiting.take() {
            return Ok(Some(found));
        }
        let mut gap = None;
        while let Some(head) = self.reader.header(self.at)? {
            let at = self.at;
            let decoded = Header::decode(&self.segment.id, &head)
                .filter(|(header, _)| u64::from(at) + header.room() <= u64::from(self.segment.length));
            let Some((header, sum)) = decoded else {
                gap.get_or_insert_with(|| (at, message_in(&head)));
                self.at = self.reader.behind_zeros(at + HEADER as u32);
                continue;
            };
            let payload = self.reader.payload(at + HEADER as u32, header.length)?;
            // `room` was held against the length of the segment above, so this is within 32 bits.
            let room = header.room() as u32;
            self.at = at + room;
            let found = if crc32fast::hash(&payload) == sum {
                self.end = self.at;
                self.durable = self.durable.max(header.durable);
                if header.kind == crate::record::Kind::Close {
                    self.durable = self.end;
                    // Nothing was written behind it: the rest, which is most of the segment, need not be read.
                    self.at = self.segment.length;
                }
                Found::Record { offset: at, header, payload }
            } else {
                let message = header.message;
                Found::Damage(Damaged { offset: at, length: room, message, header: Some(header) })
            };
            return Ok(Some(match gap {
                None => found,
                Some((offset, message)) => {
                    self.waiting = Some(found);
                    Found::Damage(Damaged { offset, length: at - offset, message, header: None })
                }
            }));
        }
        // Behind the last record lie zeros or what a recycled file held before. Only the very first bytes, if they
        // look like the header of a record that was begun here, are worth a word; the caller knows which IDs are ours.
        Ok(gap.take().filter(|_| self.end < self.segment.length).map(|(offset, message)| {
            Found::Damage(Damaged { offset, length: self.segment.length - offset, message, header: None })
        }))
    }
}

/// A buffered reader of a file. What the disk has lost reads as bytes that are no record.
struct Window<'a> {
    file: &'a dyn DiskFile,
    length: u32,
    start: u32,
    bytes: Vec<u8>,
    lost: bool,
}

impl Window<'_> {
    fn header(&mut self, at: u32) -> io::Result<Option<[u8; HEADER]>> {
        if u64::from(at) + HEADER as u64 > u64::from(self.length) {
            return Ok(None);
        }
        let inside = |this: &Self| {
            let from = at.checked_sub(this.start)? as usize;
            this.bytes.get(from..)?.first_chunk::<HEADER>().copied()
        };
        if let Some(header) = inside(self) {
            return Ok(Some(header));
        }
        self.bytes.resize(WINDOW.min((self.length - at) as usize), 0);
        self.start = at;
        self.lost |= !read_around(self.file, u64::from(at), &mut self.bytes)?;
        Ok(inside(self))
    }

    /// The next place for a header that is not all zeros, as far as the window goes: a segment is mostly empty.
    fn behind_zeros(&self, at: u32) -> u32 {
        let read = at.checked_sub(self.start).and_then(|from| self.bytes.get(from as usize..)).unwrap_or_default();
        let (places, _) = read.as_chunks::<HEADER>();
        let empty = places.iter().take_while(|place| **place == [0; HEADER]).count();
        // Within the window, which is within 32 bits.
        at + (empty * HEADER) as u32
    }

    fn payload(&mut self, at: u32, length: u32) -> io::Result<Vec<u8>> {
        let from = at.checked_sub(self.start).map(|from| from as usize);
        if let Some(bytes) = from.and_then(|from| self.bytes.get(from..from + length as usize)) {
            return Ok(bytes.to_vec());
        }
        let mut payload = vec![0; length as usize];
        self.lost |= !read_around(self.file, u64::from(at), &mut payload)?;
        Ok(payload)
    }
}
