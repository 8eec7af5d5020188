//! Reading sealed content back.
//!
//! Job: open the chunks of a body one by one, from memory, from a record or from a spill file. Place: policy reads a
//! staged message with it, a delivery a claimed one. Invariants: only bytes that their tag vouches for are handed on;
//! at most one chunk is plain in memory. A crash leaves nothing: this only reads.

use crate::{
    disk::DiskFile,
    seal::{CHUNK, ChunkNumber, Stream, TAG, chunks},
};
use std::{
    io::{self, Read, Seek, SeekFrom},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Where sealed bytes lie.
#[derive(Clone)]
pub(crate) enum Source {
    Memory(Arc<Vec<u8>>),
    /// From this offset on.
    File(Arc<dyn DiskFile>, u64),
}

impl Source {
    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Self::File(file, base) => file.read_at(base + offset, bytes),
            Self::Memory(sealed) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                let piece = sealed.get(from..).and_then(|rest| rest.get(..bytes.len()));
                bytes.copy_from_slice(piece.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }
}

/// Opens chunks.
pub(crate) struct ChunkReader {
    source: Source,
    stream: Arc<Stream>,
    /// Plain bytes in all.
    length: u64,
    /// The chunk that was opened last.
    plain: Vec<u8>,
    index: Option<u64>,
}

impl ChunkReader {
    pub fn new(source: Source, stream: Arc<Stream>, length: u64) -> Self {
        Self { source, stream, length, plain: Vec::new(), index: None }
    }

    /// The plain bytes of chunk `index`.
    fn chunk(&mut self, index: u64) -> io::Result<&[u8]> {
        if self.index != Some(index) {
            self.index = None;
            let last = chunks(self.length) - 1;
            let start = index * CHUNK as u64;
            let plain = usize::try_from(self.length.saturating_sub(start)).unwrap_or(usize::MAX).min(CHUNK);
            self.plain.resize(plain + TAG, 0);
            self.source.read(index * (CHUNK + TAG) as u64, &mut self.plain)?;
            let counter = u32::try_from(index).map_err(|_| io::ErrorKind::InvalidData)?;
            self.stream.open(ChunkNumber { index: counter, last: index == last }, &mut self.plain)?;
            self.index = Some(index);
        }
        Ok(&self.plain)
    }

    /// The bytes from `at` to the end of their chunk; empty at the end of the content.
    fn from(&mut self, at: u64) -> io::Result<&[u8]> {
        // The one chunk of an empty content is opened too, so that a body cut off to nothing is noticed.
        if at >= self.length && self.length > 0 {
            return Ok(&[]);
        }
        let within = usize::try_from(at % CHUNK as u64).unwrap_or(usize::MAX);
        Ok(self.chunk(at / CHUNK as u64)?.get(within..).unwrap_or_default())
    }
}

/// Reads a staged message; seeks at will.
pub struct StagedReader {
    chunks: ChunkReader,
    at: u64,
}

impl StagedReader {
    pub(crate) fn new(chunks: ChunkReader) -> Self {
        Self { chunks, at: 0 }
    }
}

impl Read for StagedReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let piece = self.chunks.from(self.at)?;
        let count = piece.len().min(into.len());
        if let (Some(to), Some(from)) = (into.get_mut(..count), piece.get(..count)) {
            to.copy_from_slice(from);
        }
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for StagedReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.chunks.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// A claimed message's octets: the prefix, then the content.
pub(crate) struct ClaimedContent {
    prefix: Arc<crate::Acceptance>,
    chunks: ChunkReader,
    at: u64,
    /// Told when stored bytes turn out to be damaged.
    damaged: Arc<AtomicBool>,
}

impl ClaimedContent {
    pub fn new(prefix: Arc<crate::Acceptance>, chunks: ChunkReader, damaged: Arc<AtomicBool>) -> Self {
        Self { prefix, chunks, at: 0, damaged }
    }

    fn prefix_len(&self) -> u64 {
        self.prefix.prefix.len() as u64
    }
}

impl mail::Content for ClaimedContent {
    fn len(&self) -> u64 {
        self.prefix_len() + self.chunks.length
    }

    fn next_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let before = self.prefix_len();
        let piece = if self.at < before {
            let from = usize::try_from(self.at).unwrap_or(usize::MAX);
            let rest = self.prefix.prefix.get(from..).unwrap_or_default();
            rest.get(..rest.len().min(CHUNK)).unwrap_or_default().to_vec()
        } else {
            match self.chunks.from(self.at - before) {
                Ok(piece) => piece.to_vec(),
                Err(error) => {
                    if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) {
                        self.damaged.store(true, Ordering::Release);
                    }
                    return Err(error);
                }
            }
        };
        self.at += piece.len() as u64;
        Ok((!piece.is_empty()).then_some(piece))
    }

    fn rewind(&mut self) -> io::Result<()> {
        self.at = 0;
        Ok(())
    }
}
