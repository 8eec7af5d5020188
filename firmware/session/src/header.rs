//! What must be seen of the header while a message streams past.
//!
//! Job: count Received fields (loops, RFC 5321 §6.3) and bound the header section. Place: beside the end-of-data reader.
//! Invariants: nothing is kept but the first octets of the present line; once the empty line was seen, no octet is
//! looked at again. A crash leaves nothing behind.

use memchr::memchr;

/// RFC 5321 §6.3 asks for at least 100; Postfix stops at 50, and no way that mail takes today is nearly as long.
pub(crate) const MAX_HOPS: usize = 50;
/// Octets of a header section. Real ones stay under 100 KiB; larger ones are made to wear down parsers.
pub(crate) const MAX_HEADER: usize = 1024 * 1024;

const RECEIVED: &[u8] = b"received:";

/// Why a header section is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFlaw {
    /// More than [`MAX_HOPS`] Received fields.
    Loop,
    /// Longer than [`MAX_HEADER`].
    TooLong,
}

/// Watches one message.
#[derive(Debug, Default)]
pub(crate) struct HeaderWatch {
    ended: bool,
    octets: usize,
    hops: usize,
    /// First octets of the present line, lower case.
    start: [u8; RECEIVED.len()],
    /// Octets of the present line so far; beyond `start` only that there are more counts.
    line: usize,
}

impl HeaderWatch {
    /// Looks at the next piece of content.
    pub(crate) fn watch(&mut self, mut piece: &[u8]) -> Result<(), HeaderFlaw> {
        while !self.ended && !piece.is_empty() {
            let (line, rest, complete) = match memchr(b'\n', piece) {
                Some(lf) => {
                    let (line, rest) = piece.split_at(lf + 1);
                    (line, rest, true)
                }
                None => (piece, &[][..], false),
            };
            for (kept, octet) in self.start.iter_mut().skip(self.line).zip(line) {
                *kept = octet.to_ascii_lowercase();
            }
            self.line += line.len();
            self.octets += line.len();
            piece = rest;
            if complete {
                self.ended = self.start.starts_with(b"\r\n") && self.line == 2;
                if self.line > RECEIVED.len() && self.start == RECEIVED {
                    self.hops += 1;
                }
                self.line = 0;
            }
            if self.hops > MAX_HOPS {
                return Err(HeaderFlaw::Loop);
            }
            if self.octets > MAX_HEADER {
                return Err(HeaderFlaw::TooLong);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(message: &[u8], split: usize) -> Result<(), HeaderFlaw> {
        let mut watch = HeaderWatch::default();
        message.chunks(split).try_for_each(|piece| watch.watch(piece))
    }

    #[test]
    fn hops_are_counted_in_the_header_only_and_over_any_split() {
        for split in [1, 2, 7, 4096] {
            let mut message = b"rEceived: by a\r\n\tid 1\r\n".repeat(MAX_HOPS);
            message.extend_from_slice(b"\r\nReceived: in the body\r\n");
            assert_eq!(whole(&message, split), Ok(()), "{split}");
            let looped = [b"Received:\r\n".as_slice(), &message].concat();
            assert_eq!(whole(&looped, split), Err(HeaderFlaw::Loop), "{split}");
        }
    }

    #[test]
    fn fields_with_a_similar_name_are_no_hops() {
        let message = b"Received-SPF: pass\r\nX-Received: by b\r\n Received: folded\r\n".repeat(MAX_HOPS);
        assert_eq!(whole(&message, 5), Ok(()));
    }

    #[test]
    fn a_header_that_never_ends_is_cut() {
        let mut watch = HeaderWatch::default();
        let line = [b'x'; 64 * 1024];
        let fed = (0..17).find(|_| watch.watch(&line).is_err());
        assert_eq!(fed, Some(16));
        let mut watch = HeaderWatch::default();
        assert_eq!(watch.watch(b"A: b\r\n\r\n"), Ok(()));
        assert!((0..17).all(|_| watch.watch(&line).is_ok()), "the body has no such bound");
    }
}
