//! Replies of a server, read strictly (RFC 5321 §4.2).
//!
//! smtp-proto's response parser takes lines with bare LF and continuation lines with another code; a server that echoes
//! an address could then be made to seem to answer more commands than it did. Here only CR LF ends a line, and all
//! lines of a reply carry the same code.

use mail::{EnhancedCode, Reply};
use memchr::memchr;

/// Octets of one line without its line end. RFC 5321 §4.5.3.1.5 says 512; servers with long names exceed it.
const MAX_LINE: usize = 1024;
/// Lines of one reply; the longest EHLO answers have about thirty.
const MAX_LINES: usize = 100;

/// What came is not an SMTP reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Nonsense {
    #[error("a line longer than {MAX_LINE} octets")]
    LongLine,
    #[error("a reply of more than {MAX_LINES} lines")]
    ManyLines,
    #[error("a bare CR or LF in a reply")]
    BareLineEnd,
    #[error("a line that does not start with a reply code")]
    NoCode,
    #[error("a reply whose lines carry different codes")]
    MixedCodes,
    #[error("a reply code that does not belong here")]
    Unexpected,
}

/// Collects octets and gives whole replies.
#[derive(Debug, Default)]
pub(super) struct Replies {
    buffer: Vec<u8>,
    /// Octets of `buffer` that are used up.
    used: usize,
    /// Octets behind `used` that are known to hold no line end.
    searched: usize,
    code: Option<u16>,
    lines: Vec<String>,
}

impl Replies {
    pub(super) fn push(&mut self, octets: &[u8]) {
        self.buffer.drain(..self.used);
        self.used = 0;
        self.buffer.extend_from_slice(octets);
    }

    /// Whether octets wait that belong to no whole reply yet.
    pub(super) fn has_rest(&self) -> bool {
        self.used < self.buffer.len() || self.code.is_some()
    }

    /// The next whole reply, if it has arrived.
    pub(super) fn next(&mut self) -> Result<Option<Reply>, Nonsense> {
        loop {
            let rest = self.buffer.get(self.used..).unwrap_or_default();
            let Some(lf) = memchr(b'\n', rest.get(self.searched..).unwrap_or_default()).map(|at| at + self.searched)
            else {
                self.searched = rest.len();
                return if rest.len() > MAX_LINE + 1 { Err(Nonsense::LongLine) } else { Ok(None) };
            };
            let line = rest.get(..lf).and_then(|line| line.strip_suffix(b"\r")).ok_or(Nonsense::BareLineEnd)?;
            let (code, last, text) = parse_line(line)?;
            if self.code.is_some_and(|first| first != code) {
                return Err(Nonsense::MixedCodes);
            }
            if self.lines.len() == MAX_LINES {
                return Err(Nonsense::ManyLines);
            }
            self.lines.push(text);
            self.code = Some(code);
            self.used += lf + 1;
            self.searched = 0;
            if last {
                self.code = None;
                return Ok(Some(with_enhanced(code, std::mem::take(&mut self.lines))));
            }
        }
    }
}

fn parse_line(line: &[u8]) -> Result<(u16, bool, String), Nonsense> {
    if line.len() > MAX_LINE {
        return Err(Nonsense::LongLine);
    }
    let (code, text) = match line {
        [a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', text @ ..] => {
            (u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'), text)
        }
        _ => return Err(Nonsense::NoCode),
    };
    if memchr(b'\r', text).is_some() {
        return Err(Nonsense::BareLineEnd);
    }
    let (last, text) = match text {
        // RFC 5321 §4.2: a code alone, without a space, must be taken.
        [] => (true, text),
        [b' ', text @ ..] => (true, text),
        [b'-', text @ ..] => (false, text),
        _ => return Err(Nonsense::NoCode),
    };
    let text = String::from_utf8_lossy(text);
    let clean = if text.contains(char::is_control) { text.replace(char::is_control, " ") } else { text.into_owned() };
    Ok((code, last, clean))
}

/// Takes the enhanced code (RFC 2034 §4) out of the text of every line that carries the first line's.
fn with_enhanced(code: u16, mut lines: Vec<String>) -> Reply {
    let found = lines.first().and_then(|line| enhanced(code, line)).map(|(enhanced, _)| enhanced);
    if found.is_some() {
        for line in &mut lines {
            if let Some((enhanced, length)) = enhanced(code, line)
                && Some(enhanced) == found
            {
                line.drain(..length);
            }
        }
    }
    Reply { code, enhanced: found, lines }
}

/// The enhanced code at the start of `text`, and its length with the space behind it. Its class must agree with the
/// code's (RFC 2034 §4), else it is text like any other.
fn enhanced(code: u16, text: &str) -> Option<(EnhancedCode, usize)> {
    let token = text.split(' ').next()?;
    let mut numbers = token.splitn(3, '.').map(|part| {
        let valid = (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        if valid { part.parse::<u16>().ok() } else { None }
    });
    let (class, subject, detail) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let class =
        u8::try_from(class).ok().filter(|&class| matches!(class, 2 | 4 | 5) && u16::from(class) == code / 100)?;
    Some((EnhancedCode(class, subject, detail), (token.len() + 1).min(text.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(octets: &[u8]) -> Result<Vec<Reply>, Nonsense> {
        let mut replies = Replies::default();
        let mut found = Vec::new();
        for octet in octets {
            replies.push(&[*octet]);
            while let Some(reply) = replies.next()? {
                found.push(reply);
            }
        }
        let mut at_once = Replies::default();
        at_once.push(octets);
        for reply in &found {
            assert_eq!(at_once.next().unwrap().as_ref(), Some(reply));
        }
        assert_eq!(at_once.has_rest(), replies.has_rest());
        Ok(found)
    }

    #[test]
    fn codes_text_and_enhanced_codes_are_told_apart() {
        let replies = read(b"250 2.1.0 ok\r\n354 go\r\n250\r\n550-5.7.1 no\r\n550 5.7.1 really\r\n").unwrap();
        assert_eq!(replies[0], Reply::new(250, EnhancedCode(2, 1, 0), "ok"));
        assert_eq!(replies[1], Reply::plain(354, "go"));
        assert_eq!(replies[2], Reply::plain(250, ""));
        assert_eq!(
            replies[3],
            Reply { code: 550, enhanced: Some(EnhancedCode(5, 7, 1)), lines: vec!["no".into(), "really".into()] }
        );
    }

    #[test]
    fn an_enhanced_code_of_another_class_or_shape_is_text() {
        for text in ["2.1.0 ok", "5.1 x", "5.1.1.1 x", "5.1234.1 x", "5..1 x", "192.0.2.1 is listed", "5.a.1"] {
            let replies = read(format!("550 {text}\r\n").as_bytes()).unwrap();
            assert_eq!(replies[0], Reply::plain(550, text));
        }
    }

    #[test]
    fn what_is_not_a_reply_is_refused() {
        for (octets, flaw) in [
            (&b"HTTP/1.1 400 Bad Request\r\n"[..], Nonsense::NoCode),
            (b"\r\n", Nonsense::NoCode),
            (b"25\r\n", Nonsense::NoCode),
            (b"2500 ok\r\n", Nonsense::NoCode),
            (b"150 wait\r\n", Nonsense::NoCode),
            (b"650 what\r\n", Nonsense::NoCode),
            (b"250 ok\n", Nonsense::BareLineEnd),
            (b"250 o\rk\r\n", Nonsense::BareLineEnd),
            (b"250-a\r\n550 b\r\n", Nonsense::MixedCodes),
        ] {
            assert_eq!(read(octets), Err(flaw), "{}", octets.escape_ascii());
        }
    }

    #[test]
    fn endless_lines_and_endless_replies_are_bounded() {
        assert_eq!(read(&[b'2'; 1_000_000]), Err(Nonsense::LongLine));
        assert_eq!(read(&b"250-x\r\n".repeat(1000)), Err(Nonsense::ManyLines));
        assert_eq!(read(format!("250 {}\r\n", "x".repeat(1021)).as_bytes()), Err(Nonsense::LongLine));
        assert_eq!(read(format!("250 {}\r\n", "x".repeat(1000)).as_bytes()).unwrap().len(), 1);
    }

    #[test]
    fn controls_and_broken_utf8_in_the_text_become_harmless() {
        let replies = read(b"550 a\0b\x1b[31m\xff\r\n").unwrap();
        assert_eq!(replies[0].lines, ["a b [31m\u{fffd}"]);
    }
}
