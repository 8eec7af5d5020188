//! How fast sealing is.
//!
//! Job: give benches the one figure that they can't take from outside. Place: `make bench`. Invariants: it seals exactly
//! as staging does, chunk by chunk, and touches no disk. A crash leaves nothing behind.

use crate::{
    StageError, Suite,
    seal::{Binding, CHUNK, ChunkNumber, MessageKey, STREAM_PREFIX, TAG},
};
use mail::MessageId;
use std::time::{Duration, Instant};

/// The time that sealing `chunks` chunks of 64 KiB takes on this core, key derivation included.
///
/// # Errors
/// Sealing failed.
pub fn sealing_time(suite: Suite, chunks: u32) -> Result<Duration, StageError> {
    let binding = Binding { suite, message: MessageId::from_bytes([1; 16]), epoch: 1 };
    let mut chunk = Vec::with_capacity(CHUNK + TAG);
    chunk.resize(CHUNK, 7);
    let started = Instant::now();
    let stream = MessageKey::generate(binding)?.stream([0; STREAM_PREFIX])?;
    for index in 0..chunks {
        stream.seal(ChunkNumber { index, last: index + 1 == chunks }, &mut chunk)?;
        chunk.truncate(CHUNK);
    }
    Ok(started.elapsed())
}
