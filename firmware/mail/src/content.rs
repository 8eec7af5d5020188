//! How a message's bytes are handed from the spool to a delivery.

use std::io;

/// The octets of a message as they leave Postern: added header fields first, canonical CR LF line ends, no dot-stuffing.
///
/// Pulled in pieces, so that a large message is never whole in memory. `next_chunk` may read a file: call it where a
/// short block is allowed.
pub trait Content: Send {
    /// The whole length in bytes.
    fn len(&self) -> u64;

    /// Whether there is nothing at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next piece, at most 64 KiB and never empty; `None` at the end.
    ///
    /// # Errors
    /// The disk failed, or the stored bytes are not those that were sealed (`InvalidData`).
    fn next_chunk(&mut self) -> io::Result<Option<Vec<u8>>>;

    /// Starts over at the first byte.
    ///
    /// # Errors
    /// As [`Content::next_chunk`].
    fn rewind(&mut self) -> io::Result<()>;
}

/// Content that is already in memory.
#[derive(Clone, Debug)]
pub struct BytesContent {
    bytes: Vec<u8>,
    at: usize,
}

impl BytesContent {
    /// Content of exactly these octets.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, at: 0 }
    }
}

impl Content for BytesContent {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn next_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let piece = self.bytes[self.at..].iter().take(64 * 1024).copied().collect::<Vec<_>>();
        self.at += piece.len();
        Ok((!piece.is_empty()).then_some(piece))
    }

    fn rewind(&mut self) -> io::Result<()> {
        self.at = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_join_to_the_whole_and_start_over() {
        let bytes: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        let mut content = BytesContent::new(bytes.clone());
        for _ in 0..2 {
            let mut joined = Vec::new();
            while let Some(piece) = content.next_chunk().unwrap() {
                joined.extend(piece);
            }
            assert_eq!(joined, bytes);
            content.rewind().unwrap();
        }
    }
}
