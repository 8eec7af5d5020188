//! SMTP replies (RFC 5321 §4.2) with enhanced status codes (RFC 2034, RFC 3463).

use serde::{Deserialize, Serialize};
use std::fmt;

/// `class.subject.detail` of RFC 3463 §2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnhancedCode(pub u8, pub u16, pub u16);

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A reply that we give, or that a peer gave us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// 200–599.
    pub code: u16,
    /// Absent in greetings, in 3xx and where the peer sent none.
    pub enhanced: Option<EnhancedCode>,
    /// One entry a line, without line ends; never empty.
    pub lines: Vec<String>,
}

impl Reply {
    /// A one-line reply with an enhanced code.
    #[must_use]
    pub fn new(code: u16, enhanced: EnhancedCode, text: impl Into<String>) -> Self {
        Self { code, enhanced: Some(enhanced), lines: vec![text.into()] }
    }

    /// A one-line reply without an enhanced code.
    #[must_use]
    pub fn plain(code: u16, text: impl Into<String>) -> Self {
        Self { code, enhanced: None, lines: vec![text.into()] }
    }

    /// 2xx.
    #[must_use]
    pub fn is_positive(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// 4xx: try again later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        (400..500).contains(&self.code)
    }

    /// 5xx: the same will fail again.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        (500..600).contains(&self.code)
    }

    /// The bytes on the wire. Line ends and controls inside the text become spaces, so no text that came from outside
    /// can inject a reply line.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let last = self.lines.len().saturating_sub(1);
        for (i, line) in self.lines.iter().enumerate() {
            out.extend_from_slice(self.code.to_string().as_bytes());
            out.push(if i == last { b' ' } else { b'-' });
            if let Some(enhanced) = self.enhanced {
                out.extend_from_slice(enhanced.to_string().as_bytes());
                out.push(b' ');
            }
            out.extend(line.bytes().map(|b| if b.is_ascii_control() { b' ' } else { b }));
            out.extend_from_slice(b"\r\n");
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        write!(f, " {}", self.lines.join(" / "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_long_reply_carries_the_codes() {
        let reply = Reply { code: 550, enhanced: Some(EnhancedCode(5, 7, 1)), lines: vec!["one".into(), "two".into()] };
        let mut out = Vec::new();
        reply.write_to(&mut out);
        assert_eq!(out, b"550-5.7.1 one\r\n550 5.7.1 two\r\n");
    }

    #[test]
    fn a_line_end_in_the_text_cannot_inject_a_reply() {
        let mut out = Vec::new();
        Reply::plain(250, "ok\r\n250 forged").write_to(&mut out);
        assert_eq!(out, b"250 ok  250 forged\r\n");
    }
}
