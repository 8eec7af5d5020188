//! The end-of-data reader.
//!
//! Job: find the one end of a message (RFC 5321 §4.1.1.4), undo dot-stuffing (§4.5.2), and name bare CR and LF. Place:
//! between DATA's 354 and the spool. Invariants: only CR LF . CR LF ends, the CR LF of the DATA line counting as the
//! first pair; what is handed on is a slice of the input, never a copy; the result does not depend on how the octets
//! were split into packets. A crash leaves nothing behind.
//!
//! RFC 5321 §2.3.8 forbids CR and LF apart from each other. Servers that took LF . LF or CR LF . CR CR LF for the end
//! let a second message be smuggled past the first one's checks (CVE-2023-51764, -51765, -51766), so a message with
//! such octets is read to its true end and then refused.

use bytes::Bytes;
use memchr::memchr2;

/// Octets that RFC 5321 §2.3.8 forbids in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A CR that no LF follows.
    BareCr,
    /// An LF that no CR precedes.
    BareLf,
}

/// Where the next octet stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Behind CR LF.
    LineStart,
    /// Behind CR LF and the dot that is not content.
    Dot,
    /// Behind CR LF . CR; this CR is held back until the next octet says what it is.
    DotCr,
    /// Within a line.
    Line,
    /// Behind a CR within a line; it has been handed on.
    Cr,
}

/// Reads one message; a new one for each DATA.
#[derive(Debug)]
pub struct EndOfData {
    place: Place,
    flaw: Option<Flaw>,
}

impl Default for EndOfData {
    fn default() -> Self {
        Self { place: Place::LineStart, flaw: None }
    }
}

impl EndOfData {
    /// The first flaw met so far.
    #[must_use]
    pub fn flaw(&self) -> Option<Flaw> {
        self.flaw
    }

    /// Reads on. Content goes to `content` in pieces, dots unstuffed, line ends kept. Returns how many octets of
    /// `input` belong to the message when it ended here, the final CR LF included; `None` when more is needed.
    pub fn read(&mut self, input: &Bytes, mut content: impl FnMut(Bytes)) -> Option<usize> {
        let octets: &[u8] = input;
        // `octets[piece..at]` is content that has been read and not yet handed on.
        let mut piece = 0;
        let mut at = 0;
        let mut end = None;
        while let Some(&next) = octets.get(at) {
            match (self.place, next) {
                (Place::LineStart, b'.') => {
                    hand_on(input, piece, at, &mut content);
                    at += 1;
                    piece = at;
                    self.place = Place::Dot;
                }
                (Place::Dot, b'\r') => {
                    at += 1;
                    piece = at;
                    self.place = Place::DotCr;
                }
                (Place::DotCr, b'\n') => {
                    at += 1;
                    piece = at;
                    end = Some(at);
                    break;
                }
                (Place::DotCr, _) => {
                    // The CR that was held back is content after all.
                    content(Bytes::from_static(b"\r"));
                    self.note(Flaw::BareCr);
                    self.place = Place::Line;
                }
                (Place::Cr, b'\n') => {
                    at += 1;
                    self.place = Place::LineStart;
                }
                (Place::Cr, _) => {
                    self.note(Flaw::BareCr);
                    self.place = Place::Line;
                }
                (Place::LineStart | Place::Dot | Place::Line, _) => {
                    self.place = Place::Line;
                    match memchr2(b'\r', b'\n', octets.get(at..).unwrap_or_default()) {
                        None => at = octets.len(),
                        Some(offset) => {
                            at += offset;
                            if octets.get(at) == Some(&b'\r') {
                                self.place = Place::Cr;
                            } else {
                                self.note(Flaw::BareLf);
                            }
                            at += 1;
                        }
                    }
                }
            }
        }
        hand_on(input, piece, at, &mut content);
        end
    }

    fn note(&mut self, flaw: Flaw) {
        self.flaw.get_or_insert(flaw);
    }
}

fn hand_on(input: &Bytes, from: usize, to: usize, content: &mut impl FnMut(Bytes)) {
    if from < to {
        content(input.slice(from..to));
    }
}
