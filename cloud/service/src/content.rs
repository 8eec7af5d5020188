//! Reading stored messages.
//!
//! Job: any range of a stored frame, opened, as one piece or as a stream of bounded memory. Place: between the object
//! store and whoever shows or hashes content. Invariants: no byte is handed out that was not authenticated; a stream
//! holds a few chunks, never the whole. A crash leaves nothing: only memory is written.

use crate::{
    Error,
    keys::TenantKeys,
    objects::Objects,
    seal::{CHUNK, SEALED_CHUNK, SEGMENT_HEADER, SealError, Secret, SegmentOpener, chunks},
};
use futures_util::Stream;
use std::ops::Range;

/// Chunks read at once: 512 KiB.
const BATCH: u64 = 8;

/// Where a message lies, and what opens it.
#[derive(Clone)]
pub struct Place {
    /// Folder in the object store.
    pub folder: String,
    /// Message key.
    pub secret: Secret,
    name: String,
}

impl Place {
    /// The place of the message with this reference.
    pub fn new(keys: &TenantKeys, reference: &str, secret: Secret) -> Self {
        Self { folder: keys.place(reference), secret, name: keys.context("segment", reference) }
    }

    /// Associated data of a segment.
    pub fn context(&self, segment: usize) -> String {
        format!("{}/{segment}", self.name)
    }
}

/// A stored frame from some offset on; for readers the message, without the metadata in front.
#[derive(Clone)]
pub struct Content {
    objects: Objects,
    place: Place,
    segments: Vec<u64>,
    offset: u64,
}

/// The part of one segment that a range covers, whole chunks.
struct Batch {
    segment: usize,
    length: u64,
    first: u64,
    count: u64,
    /// Bytes of the opened batch in front of the wanted ones.
    skip: usize,
}

impl Content {
    /// Content of a frame with these segments (plain bytes each), from `offset` on.
    pub fn new(objects: Objects, place: Place, segments: Vec<u64>, offset: u64) -> Self {
        Self { objects, place, segments, offset }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.segments.iter().sum::<u64>().saturating_sub(self.offset)
    }

    /// A range as one piece; what lies beyond the end is left out.
    ///
    /// # Errors
    /// The store fails, or the bytes are not those that were sealed.
    pub async fn read(&self, range: Range<u64>) -> Result<Vec<u8>, Error> {
        let mut at = range.start;
        let mut out = Vec::with_capacity(usize::try_from(range.end.saturating_sub(range.start)).unwrap_or_default());
        while let Some(piece) = self.next(at, range.end).await? {
            at += piece.len() as u64;
            out.extend_from_slice(&piece);
        }
        Ok(out)
    }

    /// A range as a stream of pieces of at most 512 KiB.
    pub fn stream(&self, range: Range<u64>) -> impl Stream<Item = Result<Vec<u8>, Error>> + Send + 'static {
        let content = self.clone();
        futures_util::stream::try_unfold((content, range.start), move |(content, at)| async move {
            let piece = content.next(at, range.end).await?;
            Ok(piece.map(|piece| {
                let next = at + piece.len() as u64;
                (piece, (content, next))
            }))
        })
    }

    /// The bytes from `at` to the end of its batch, at most to `end`.
    async fn next(&self, at: u64, end: u64) -> Result<Option<Vec<u8>>, Error> {
        let end = end.min(self.len());
        if at >= end {
            return Ok(None);
        }
        let Some(batch) = self.batch(at + self.offset, end + self.offset) else { return Ok(None) };
        let mut plain = self.open(&batch).await?;
        plain.drain(..batch.skip.min(plain.len()));
        plain.truncate(usize::try_from(end - at).unwrap_or(usize::MAX));
        // An authentic batch is never empty here; were it so, this would not end.
        if plain.is_empty() { Err(SealError::Format.into()) } else { Ok(Some(plain)) }
    }

    fn batch(&self, start: u64, end: u64) -> Option<Batch> {
        let mut before = 0;
        for (segment, length) in self.segments.iter().copied().enumerate() {
            if start < before + length {
                let inside = start - before;
                let first = inside / CHUNK as u64;
                let last = (end.min(before + length) - before - 1) / CHUNK as u64;
                let skip = (inside % CHUNK as u64) as usize;
                return Some(Batch { segment, length, first, count: (last - first + 1).min(BATCH), skip });
            }
            before += length;
        }
        None
    }

    async fn open(&self, batch: &Batch) -> Result<Vec<u8>, Error> {
        let folder = &self.place.folder;
        let header = self.objects.read(folder, batch.segment, 0..SEGMENT_HEADER as u64).await?;
        let opener = SegmentOpener::new(&self.place.secret, &self.place.context(batch.segment), &header)?;
        let total = chunks(batch.length);
        let start = SEGMENT_HEADER as u64 + batch.first * SEALED_CHUNK as u64;
        let stored = self.objects.read(folder, batch.segment, start..start + batch.count * SEALED_CHUNK as u64).await?;
        let mut plain = Vec::with_capacity(stored.len());
        for (chunk, number) in stored.chunks(SEALED_CHUNK).zip(batch.first..) {
            plain.extend(opener.open(number, number + 1 == total, chunk)?);
        }
        Ok(plain)
    }
}
