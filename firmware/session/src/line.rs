//! Command lines out of octets.
//!
//! Job: cut the incoming octets into lines that end with CR LF (RFC 5321 §2.3.8), and bound them. Place: first thing
//! that touches a client's commands. Invariants: at most [`MAX_LINE`] octets of an unfinished line are kept; a line
//! holds no CR, LF or NUL and is UTF-8. A crash leaves nothing behind.

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr3};

/// Octets of a command line with its CR LF. RFC 5321 §4.5.3.1.4 asks for 512, extensions raise it (SIZE by 26, BODY by
/// 17, SMTPUTF8 paths); like Postfix we take 2,048.
pub(crate) const MAX_LINE: usize = 2048;
/// Octets of one overlong line that are skipped before the connection is given up.
const MAX_SKIPPED: usize = 64 * 1024;

/// Why a line is no command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineFlaw {
    /// Longer than [`MAX_LINE`].
    TooLong,
    /// Ends with LF alone, or has CR or NUL inside.
    Controls,
    /// Not UTF-8 (RFC 6531 §3.3).
    NotUtf8,
}

/// What [`Lines::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A line without its CR LF.
    Line(String),
    /// A whole line that can't be a command.
    Flawed(LineFlaw),
    /// No line end yet.
    Incomplete,
    /// Far too many octets without a line end.
    Hopeless,
}

/// Octets that have come and are not yet used.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    rest: Bytes,
    partial: BytesMut,
    skipped: usize,
}

impl Lines {
    /// Adds octets behind those that are still unused.
    pub(crate) fn push(&mut self, octets: Bytes) {
        if self.rest.is_empty() {
            self.rest = octets;
        } else {
            let mut joined = BytesMut::with_capacity(self.rest.len() + octets.len());
            joined.extend_from_slice(&self.rest);
            joined.extend_from_slice(&octets);
            self.rest = joined.freeze();
        }
    }

    /// All unused octets, for the end-of-data reader. There is no partial line when it is called: DATA's line ended.
    pub(crate) fn rest(&mut self) -> &mut Bytes {
        &mut self.rest
    }

    /// Whether anything came behind the last line.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty() && self.partial.is_empty() && self.skipped == 0
    }

    /// The next line.
    pub(crate) fn next(&mut self) -> Next {
        let Some(lf) = memchr(b'\n', &self.rest) else {
            let octets = std::mem::take(&mut self.rest);
            if self.skipped > 0 || self.partial.len() + octets.len() > MAX_LINE {
                self.skipped += self.partial.len() + octets.len();
                self.partial.clear();
            } else {
                self.partial.extend_from_slice(&octets);
            }
            return if self.skipped > MAX_SKIPPED { Next::Hopeless } else { Next::Incomplete };
        };
        let end = self.rest.split_to(lf + 1);
        if self.skipped + self.partial.len() + end.len() > MAX_LINE {
            self.skipped = 0;
            self.partial.clear();
            return Next::Flawed(LineFlaw::TooLong);
        }
        if self.partial.is_empty() {
            return checked(&end);
        }
        self.partial.extend_from_slice(&end);
        checked(&self.partial.split())
    }
}

fn checked(line: &[u8]) -> Next {
    match line.strip_suffix(b"\r\n") {
        Some(text) if memchr3(b'\r', b'\n', 0, text).is_none() => match std::str::from_utf8(text) {
            Ok(text) => Next::Line(text.to_owned()),
            Err(_) => Next::Flawed(LineFlaw::NotUtf8),
        },
        _ => Next::Flawed(LineFlaw::Controls),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(octets: &[u8], split: usize) -> Vec<Next> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for piece in octets.chunks(split) {
            lines.push(Bytes::copy_from_slice(piece));
            loop {
                match lines.next() {
                    Next::Incomplete => break,
                    next => found.push(next),
                }
            }
        }
        found
    }

    #[test]
    fn only_cr_lf_ends_a_line_over_any_split() {
        for split in 1..20 {
            assert_eq!(
                read(b"NOOP\r\nA\nB\rC\r\nD\0\r\n\xff\r\n\r\r\n\r\n", split),
                [
                    Next::Line("NOOP".into()),
                    Next::Flawed(LineFlaw::Controls),
                    Next::Flawed(LineFlaw::Controls),
                    Next::Flawed(LineFlaw::Controls),
                    Next::Flawed(LineFlaw::NotUtf8),
                    Next::Flawed(LineFlaw::Controls),
                    Next::Line(String::new()),
                ],
                "{split}"
            );
        }
    }

    #[test]
    fn an_overlong_line_is_one_flaw_and_the_next_line_is_whole() {
        for split in [1, 100, MAX_LINE - 1, MAX_LINE, 10 * MAX_LINE] {
            let mut octets = vec![b'x'; MAX_LINE - 1];
            octets.extend_from_slice(b"\r\nNOOP\r\n");
            assert_eq!(read(&octets, split), [Next::Flawed(LineFlaw::TooLong), Next::Line("NOOP".into())], "{split}");
            octets.remove(0);
            assert_eq!(read(&octets, split).len(), 2, "{split}");
            assert!(matches!(read(&octets, split).first(), Some(Next::Line(_))), "{split}");
        }
    }

    #[test]
    fn a_line_without_end_is_given_up_and_never_kept() {
        let mut lines = Lines::default();
        let hopeless = (0..40).find(|_| {
            lines.push(Bytes::from_static(&[b'x'; MAX_LINE]));
            lines.next() == Next::Hopeless
        });
        assert_eq!(hopeless, Some(32));
        assert!(lines.partial.len() <= MAX_LINE);
    }
}
