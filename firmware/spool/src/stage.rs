//! A message that is being received.
//!
//! Job: seal octets as they arrive, in memory while they are few, into a spill file once they are more than a chunk.
//! Place: between the session's DATA and policy; commit takes it from here. Invariants: nothing plain goes to the disk;
//! all waiting bodies together stay within one budget; a spill file and its name are durable before the message can be
//! committed. A crash leaves spill files whose key existed in memory only; the next start removes them.

use crate::{
    StageError, Suite,
    content::{ChunkReader, Source, StagedReader},
    disk::{Disk, DiskFile, Folder},
    seal::{self, Binding, CHUNK, ChunkNumber, MessageKey, STREAM_PREFIX, Stream, TAG, Unsealable},
    slot::KeySlot,
};
use mail::MessageId;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use vault::Epochs;

/// Buffers start at this size and double; most mail fits without a copy.
const FIRST_BUFFER: usize = 8 * 1024;

/// The bound on bodies in memory, for all sessions together.
pub(crate) struct Budget {
    used: AtomicU64,
    bound: u64,
}

impl Budget {
    pub fn new(bound: u64) -> Arc<Self> {
        Arc::new(Self { used: AtomicU64::new(0), bound })
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub fn bound(&self) -> u64 {
        self.bound
    }

    /// Whether a message could start.
    pub fn has_room(&self) -> bool {
        self.used() + FIRST_BUFFER as u64 <= self.bound
    }
}

/// Bytes taken from the budget, given back on drop.
struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Share {
    fn grow_to(&mut self, bytes: u64) -> Result<(), StageError> {
        let more = bytes.saturating_sub(self.bytes);
        let grown = self.budget.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            used.checked_add(more).filter(|sum| *sum <= self.budget.bound)
        });
        grown.map_err(|_| StageError::Memory)?;
        self.bytes += more;
        Ok(())
    }

    fn shrink_to(&mut self, bytes: u64) {
        let less = self.bytes.saturating_sub(bytes);
        self.budget.used.fetch_sub(less, Ordering::AcqRel);
        self.bytes -= less;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

/// The disk, and how much of it messages may fill.
#[derive(Clone)]
pub(crate) struct Room {
    pub disk: Arc<dyn Disk>,
    pub reserve: u64,
}

impl Room {
    /// Refuses before `bytes` more would touch the reserve.
    pub fn check(&self, bytes: u64) -> Result<(), StageError> {
        if self.disk.free()? < self.reserve.saturating_add(bytes) { Err(StageError::Full) } else { Ok(()) }
    }
}

/// A spill file. Removed on drop unless a commit was tried with it; then recovery and the lanes decide.
struct Spill {
    room: Room,
    name: String,
    file: Arc<dyn DiskFile>,
    kept: AtomicBool,
}

impl Drop for Spill {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::Acquire)
            && let Err(error) = self.room.disk.unlink(Folder::Spill, &self.name)
        {
            log::warn!("a spill file was not removed: {error}; the next start removes it");
        }
    }
}

/// A message while its octets arrive.
pub struct Staging {
    key: Arc<MessageKey>,
    slot: KeySlot,
    stream: Arc<Stream>,
    prefix: [u8; STREAM_PREFIX],
    buffer: Vec<u8>,
    share: Share,
    room: Room,
    spill: Option<Spill>,
    /// Chunks written to the spill file.
    written: u32,
    length: u64,
}

impl Staging {
    pub(crate) fn begin(
        id: MessageId,
        epochs: &Epochs,
        suite: Suite,
        budget: &Arc<Budget>,
        room: Room,
    ) -> Result<Self, StageError> {
        let mut share = Share { budget: Arc::clone(budget), bytes: 0 };
        share.grow_to(FIRST_BUFFER as u64)?;
        let (epoch, epoch_key) = epochs.current();
        let key = MessageKey::generate(Binding { suite, message: id, epoch })?;
        let slot = KeySlot::wrap(&key, &epoch_key)?;
        let prefix = seal::random()?;
        Ok(Self {
            stream: Arc::new(key.stream(prefix)?),
            key: Arc::new(key),
            slot,
            prefix,
            buffer: Vec::with_capacity(FIRST_BUFFER),
            share,
            room,
            spill: None,
            written: 0,
            length: 0,
        })
    }

    /// Takes octets: canonical line ends, no dot-stuffing. Blocks on the disk once the message is larger than 64 KiB.
    ///
    /// # Errors
    /// The budget or the disk is used up, or the disk failed; the message can't be completed then.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), StageError> {
        while !bytes.is_empty() {
            if self.buffer.len() == CHUNK {
                self.spill_chunk(false)?;
            }
            let (piece, rest) = bytes.split_at(bytes.len().min(CHUNK - self.buffer.len()));
            self.grow_buffer(self.buffer.len() + piece.len())?;
            self.buffer.extend_from_slice(piece);
            self.length += piece.len() as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// Octets so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether no octet came yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Seals the end. A spill file and its name are durable afterwards.
    ///
    /// # Errors
    /// As [`Staging::write`].
    pub fn finish(mut self) -> Result<Staged, StageError> {
        if self.spill.is_none() {
            self.grow_buffer(self.buffer.len() + TAG)?;
            self.stream.seal(ChunkNumber { index: 0, last: true }, &mut self.buffer)?;
            let body = Body::Memory(Arc::new(self.buffer), self.share);
            return Ok(Staged {
                key: self.key,
                slot: self.slot,
                stream: self.stream,
                prefix: self.prefix,
                length: self.length,
                body,
            });
        }
        self.spill_chunk(true)?;
        let Some(spill) = self.spill else { return Err(StageError::Seal) };
        // File first, then its name, and only then a record that refers to it.
        spill.file.sync()?;
        spill.room.disk.sync_folder(Folder::Spill)?;
        let body = Body::Spill(spill);
        Ok(Staged {
            key: self.key,
            slot: self.slot,
            stream: self.stream,
            prefix: self.prefix,
            length: self.length,
            body,
        })
    }

    fn grow_buffer(&mut self, bytes: usize) -> Result<(), StageError> {
        if bytes > self.buffer.capacity() {
            let capacity = bytes.next_power_of_two().min(CHUNK + TAG).max(bytes);
            self.share.grow_to(capacity as u64)?;
            self.buffer.reserve_exact(capacity - self.buffer.len());
        }
        Ok(())
    }

    fn spill_chunk(&mut self, last: bool) -> Result<(), StageError> {
        self.room.check(self.buffer.len() as u64)?;
        let spill = match &mut self.spill {
            Some(spill) => spill,
            none => {
                let name = format!("{}-{:016x}", self.key.binding.message, u64::from_le_bytes(seal::random()?));
                let file = self.room.disk.create(Folder::Spill, &name)?;
                none.insert(Spill { room: self.room.clone(), name, file, kept: AtomicBool::new(false) })
            }
        };
        let index = self.written;
        self.stream.seal(ChunkNumber { index, last }, &mut self.buffer)?;
        spill.file.write_at(u64::from(index) * (CHUNK + TAG) as u64, &self.buffer)?;
        self.written = index.checked_add(1).ok_or(StageError::Seal)?;
        self.buffer.clear();
        Ok(())
    }
}

impl From<Unsealable> for StageError {
    fn from(_: Unsealable) -> Self {
        Self::Seal
    }
}

enum Body {
    /// With its share of the budget.
    Memory(Arc<Vec<u8>>, #[expect(dead_code, reason = "given back on drop")] Share),
    Spill(Spill),
}

/// A message whose octets are all there, sealed, and that nobody has accepted yet. Dropping it forgets it.
pub struct Staged {
    key: Arc<MessageKey>,
    slot: KeySlot,
    stream: Arc<Stream>,
    prefix: [u8; STREAM_PREFIX],
    length: u64,
    body: Body,
}

impl Staged {
    /// The ID that it was staged under.
    #[must_use]
    pub fn message(&self) -> MessageId {
        self.key.binding.message
    }

    /// Octets.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether it has no octets.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// A reader of the octets; any number may be open. It ends with an error if the staged message is dropped and its
    /// spill file with it.
    #[must_use]
    pub fn open(&self) -> StagedReader {
        let source = match &self.body {
            Body::Memory(sealed, _) => Source::Memory(Arc::clone(sealed)),
            Body::Spill(spill) => Source::File(Arc::clone(&spill.file), 0),
        };
        StagedReader::new(ChunkReader::new(source, Arc::clone(&self.stream), self.length))
    }

    pub(crate) fn key(&self) -> &Arc<MessageKey> {
        &self.key
    }

    pub(crate) fn slot(&self) -> &KeySlot {
        &self.slot
    }

    pub(crate) fn stream_prefix(&self) -> [u8; STREAM_PREFIX] {
        self.prefix
    }

    /// The sealed bytes that go into the record; empty for a spilled body.
    pub(crate) fn inline(&self) -> &[u8] {
        match &self.body {
            Body::Memory(sealed, _) => sealed,
            Body::Spill(_) => &[],
        }
    }

    /// The spill file's name.
    pub(crate) fn spill_name(&self) -> Option<&str> {
        match &self.body {
            Body::Memory(..) => None,
            Body::Spill(spill) => Some(&spill.name),
        }
    }

    /// From now on a record may refer to the spill file.
    pub(crate) fn keep_spill(&self) {
        if let Body::Spill(spill) = &self.body {
            spill.kept.store(true, Ordering::Release);
        }
    }
}

impl From<StageError> for io::Error {
    fn from(error: StageError) -> Self {
        match error {
            StageError::Disk(error) => error,
            StageError::Full => io::ErrorKind::StorageFull.into(),
            other => Self::other(other),
        }
    }
}
