//! Transfer encodings, piece by piece.
//!
//! Job: decode base64 and quoted-printable (RFC 2045 §6) as bytes stream by, so that an attachment of any length needs
//! one piece of memory. Place: between content and download. Invariants: the result does not depend on where the pieces
//! were cut. A crash leaves nothing.

use crate::structure::Coding;
use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{GeneralPurpose, GeneralPurposeConfig, general_purpose::PAD},
};

/// Trailing bits and padding as they come: mail is older than the strict rules.
const LENIENT: GeneralPurposeConfig =
    PAD.with_decode_allow_trailing_bits(true).with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent);
const ENGINE: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
/// A quoted-printable line is at most 76 characters (§6.7); one that never ends is decoded where it stands.
const LONGEST_LINE: usize = 64 * 1024;

/// A decoder that keeps what it can't decode yet.
pub struct Decoder {
    coding: Coding,
    held: Vec<u8>,
    ended: bool,
}

impl Decoder {
    /// A decoder at the start of a part.
    pub fn new(coding: Coding) -> Self {
        Self { coding, held: Vec::new(), ended: false }
    }

    /// Decodes the next piece.
    pub fn push(&mut self, piece: Vec<u8>) -> Vec<u8> {
        match self.coding {
            Coding::Identity => piece,
            Coding::Base64 => {
                self.take_base64(&piece);
                let whole = self.held.len() - self.held.len() % 4;
                let rest = self.held.split_off(whole);
                base64(&std::mem::replace(&mut self.held, rest))
            }
            Coding::QuotedPrintable => {
                self.held.extend_from_slice(&piece);
                let whole = match self.held.iter().rposition(|b| *b == b'\n') {
                    Some(at) => at + 1,
                    None if self.held.len() > LONGEST_LINE => before_escape(&self.held),
                    None => return Vec::new(),
                };
                let rest = self.held.split_off(whole);
                quoted_printable(&std::mem::replace(&mut self.held, rest))
            }
        }
    }

    /// Decodes what is left.
    pub fn finish(self) -> Vec<u8> {
        match self.coding {
            Coding::Identity => Vec::new(),
            Coding::Base64 => base64(&self.held),
            Coding::QuotedPrintable => quoted_printable(&self.held),
        }
    }

    /// Characters outside the alphabet are passed over (§6.8); padding ends the content.
    fn take_base64(&mut self, piece: &[u8]) {
        for byte in piece {
            if self.ended {
                return;
            }
            match byte {
                b'=' => self.ended = true,
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => self.held.push(*byte),
                _ => {}
            }
        }
    }
}

/// Only letters of the alphabet come here; a single one at the end carries no whole byte and is dropped.
fn base64(letters: &[u8]) -> Vec<u8> {
    let usable = if letters.len() % 4 == 1 { letters.len() - 1 } else { letters.len() };
    letters.get(..usable).and_then(|letters| ENGINE.decode(letters).ok()).unwrap_or_default()
}

/// Where a line can be cut without cutting `=XX`.
fn before_escape(line: &[u8]) -> usize {
    let tail = line.len().saturating_sub(2);
    line.iter().skip(tail).position(|b| *b == b'=').map_or(line.len(), |at| tail + at)
}

fn quoted_printable(lines: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(lines.len());
    for line in lines.split_inclusive(|b| *b == b'\n') {
        let (text, end): (&[u8], &[u8]) = match line {
            [text @ .., b'\r', b'\n'] => (text, b"\r\n"),
            [text @ .., b'\n'] => (text, b"\n"),
            text => (text, b""),
        };
        // §6.7 rule 3: blanks at the end of a line were added on the way.
        let text = if end.is_empty() { text } else { text.trim_ascii_end() };
        let (text, end) = match text {
            [text @ .., b'='] if !end.is_empty() => (text, &b""[..]),
            text => (text, end),
        };
        let mut rest = text;
        while let Some((byte, after)) = rest.split_first() {
            let escaped = (*byte == b'=').then(|| after.split_first_chunk::<2>()).flatten();
            match escaped.and_then(|([a, b], after)| Some((digit(*a)? << 4 | digit(*b)?, after))) {
                Some((value, after)) => {
                    out.push(value);
                    rest = after;
                }
                // A broken escape is shown as it is.
                None => {
                    out.push(*byte);
                    rest = after;
                }
            }
        }
        out.extend_from_slice(end);
    }
    out
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(coding: Coding, text: &[u8], piece: usize) -> Vec<u8> {
        let mut decoder = Decoder::new(coding);
        let mut out = Vec::new();
        for piece in text.chunks(piece) {
            out.extend(decoder.push(piece.to_vec()));
        }
        out.extend(decoder.finish());
        out
    }

    #[test]
    fn the_cut_of_the_pieces_does_not_matter() {
        let base64 = b"SGVs\r\nbG8s IHdv*cmxkIQ==\r\n";
        let quoted = b"Gr=C3=BC=C3=9Fe   \r\nsoft=\r\n break=3D=\r\n\r\nbroken =G1 =\r\nend=20";
        for piece in 1..30 {
            assert_eq!(decoded(Coding::Base64, base64, piece), b"Hello, world!", "{piece}");
            assert_eq!(
                String::from_utf8(decoded(Coding::QuotedPrintable, quoted, piece)).unwrap(),
                "Grüße\r\nsoft break=\r\nbroken =G1 end ",
                "{piece}"
            );
            assert_eq!(decoded(Coding::Identity, b"=3D", piece), b"=3D");
        }
    }

    #[test]
    fn broken_base64_ends_without_harm() {
        assert_eq!(decoded(Coding::Base64, b"SGVsbG8", 3), b"Hello");
        assert_eq!(decoded(Coding::Base64, b"SGVsb", 2), b"Hel");
        assert_eq!(decoded(Coding::Base64, b"SGVs====bG8=", 5), b"Hel");
    }

    #[test]
    fn a_line_without_end_is_not_held_for_ever() {
        let line = b"=3Dx".repeat(50_000);
        let mut decoder = Decoder::new(Coding::QuotedPrintable);
        let mut out = Vec::new();
        for piece in line.chunks(1000) {
            out.extend(decoder.push(piece.to_vec()));
            assert!(decoder.held.len() <= LONGEST_LINE + 1000);
        }
        out.extend(decoder.finish());
        assert_eq!(out, b"=x".repeat(50_000));
    }
}
