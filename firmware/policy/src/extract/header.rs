//! The header: fields split, unfolded and decoded (RFC 5322 §2.2, RFC 2047).
//!
//! Job: find where the header ends, in every way parsers do, and give its facts. Place: first step of the walk, of the
//! message and of every part. Invariants: raw fields borrow the message; at most `MAX_HEADER` octets and `MAX_FIELDS`
//! fields are looked at. A crash leaves nothing.

use super::{
    Condition, Part, View, ViewKind,
    budget::{MAX_FIELDS, MAX_HEADER, MAX_READINGS},
    charset, control,
    params::Structured,
    transfer,
};
use std::borrow::Cow;

/// A decoded header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The name as written.
    pub name: String,
    /// The body, unfolded, encoded words and RFC 2231 parameters decoded.
    pub value: String,
}

/// The facts of a message's own header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// All Subject fields, decoded; one a line where there are several.
    pub subject: String,
    /// The Sensitivity field (RFC 4021 §2.1.55), trimmed.
    pub sensitivity: Option<String>,
    /// All fields in order.
    pub fields: Vec<Field>,
    /// What people wrote into the header: decoded fields, one a line, without those that machines write.
    pub text: String,
    /// `Malformed`, `OverBudget` or nothing.
    pub conditions: Vec<Condition>,
}

impl Header {
    /// The header as part `0`, for detectors.
    #[must_use]
    pub fn part(&self) -> Part<'_> {
        Part {
            section: "0".to_owned(),
            declared: "message/rfc822-headers".to_owned(),
            name: None,
            sniffed: "text",
            text: Cow::Borrowed(&self.text),
            views: control::without(&self.text)
                .map(|text| View { kind: ViewKind::Reading, text })
                .into_iter()
                .collect(),
            conditions: self.conditions.clone(),
        }
    }

    /// Decodes all fields of a split header.
    pub(super) fn decode(raw: &RawHeader<'_>) -> Self {
        let mut header = Self { conditions: raw.conditions(), ..Self::default() };
        for field in &raw.fields {
            let name = String::from_utf8_lossy(field.name).into_owned();
            let value = field_text(&name, field.body);
            if name.eq_ignore_ascii_case("subject") {
                if !header.subject.is_empty() {
                    header.subject.push('\n');
                }
                header.subject.push_str(&value);
            } else if name.eq_ignore_ascii_case("sensitivity") && header.sensitivity.is_none() {
                header.sensitivity = Some(value.clone());
            }
            if !is_machine_made(&name) {
                for piece in [name.as_str(), ": ", value.as_str(), "\n"] {
                    header.text.push_str(piece);
                }
            }
            header.fields.push(Field { name, value });
        }
        header
    }
}

/// The decoded body of a field.
pub(super) fn field_text(name: &str, body: &[u8]) -> String {
    let structured = name.get(..8).is_some_and(|p| p.eq_ignore_ascii_case("content-"));
    if structured && memchr::memchr(b'*', body).is_some() {
        return Structured::parse(body).rendered();
    }
    decode_words(body)
}

/// Fields full of numbers that nobody wrote: traces, identifiers, signatures, structure. A planted number in one of them
/// is shown by no client as content, and random digits in them would be found.
fn is_machine_made(name: &str) -> bool {
    const NAMES: [&str; 18] = [
        "received",
        "return-path",
        "message-id",
        "in-reply-to",
        "references",
        "date",
        "dkim-signature",
        "mime-version",
        "content-type",
        "content-transfer-encoding",
        "authentication-results",
        "received-spf",
        "thread-index",
        "x-received",
        "x-gm-message-state",
        "x-google-smtp-source",
        "x-google-dkim-signature",
        "domainkey-signature",
    ];
    const PREFIXES: [&str; 4] = ["arc-", "x-ms-", "x-microsoft-", "x-forefront-"];
    NAMES.iter().any(|n| name.eq_ignore_ascii_case(n))
        || PREFIXES.iter().any(|p| name.get(..p.len()).is_some_and(|start| start.eq_ignore_ascii_case(p)))
}

/// A field as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawField<'m> {
    /// Without white space around it.
    pub name: &'m [u8],
    /// Folded, without the last line end.
    pub body: &'m [u8],
}

/// A place where a parser may see the header end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// Fields before it.
    pub fields: usize,
    /// Where the body starts.
    pub body: usize,
}

/// A header split, not decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RawHeader<'m> {
    pub fields: Vec<RawField<'m>>,
    /// Never empty; the first is the reading of RFC 5322.
    pub ends: Vec<End>,
    pub malformed: bool,
    pub over_budget: bool,
}

impl RawHeader<'_> {
    fn conditions(&self) -> Vec<Condition> {
        let malformed = self.malformed.then_some(Condition::Malformed);
        malformed.into_iter().chain(self.over_budget.then_some(Condition::OverBudget)).collect()
    }
}

/// Splits the header off `entity`.
pub(super) fn split(entity: &[u8]) -> RawHeader<'_> {
    let mut header = RawHeader { fields: Vec::new(), ends: Vec::new(), malformed: false, over_budget: false };
    let mut alternatives = Vec::new();
    let mut start = 0;
    // The field being collected: where its name, its body start; where it ends.
    let mut open: Option<(usize, usize, usize)> = None;
    let end = loop {
        let Some(rest) = entity.get(start..).filter(|rest| !rest.is_empty()) else { break start };
        if start > MAX_HEADER || header.fields.len() + usize::from(open.is_some()) >= MAX_FIELDS {
            header.over_budget = true;
            break start;
        }
        let length = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        let line = rest.get(..length).unwrap_or(rest);
        let content = trim_line_end(line);
        let next = start + length;
        if content.is_empty() {
            take(entity, &mut open, &mut header.fields);
            start = next;
            break start;
        }
        if matches!(content.first(), Some(b' ' | b'\t')) {
            // A continuation line of white space only ends the header for many parsers (RFC 5322 §4.2 allows it).
            if content.trim_ascii().is_empty() || open.is_none() {
                header.malformed = true;
                let fields = header.fields.len() + usize::from(open.is_some());
                alternatives.push(End { fields, body: if content.trim_ascii().is_empty() { next } else { start } });
            }
            if let Some((_, _, end)) = &mut open {
                *end = start + content.len();
            }
        } else if let Some(colon) = memchr::memchr(b':', content).filter(|colon| *colon > 0) {
            take(entity, &mut open, &mut header.fields);
            let name = content.get(..colon).unwrap_or_default().trim_ascii_end();
            // "From " of an mbox comes with a time, and so with a colon behind spaces.
            if name.iter().all(|b| b.is_ascii_graphic()) {
                open = Some((start, start + colon, start + content.len()));
            } else if !(start == 0 && content.starts_with(b"From ")) {
                header.malformed = true;
                alternatives.push(End { fields: header.fields.len(), body: start });
            }
        } else {
            take(entity, &mut open, &mut header.fields);
            header.malformed = true;
            alternatives.push(End { fields: header.fields.len(), body: start });
        }
        // Some parsers take a bare CR for a line end (RFC 5322 §2.2 forbids it).
        header.malformed |= memchr::memchr(b'\r', content).is_some() || memchr::memchr(0, content).is_some();
        start = next;
    };
    take(entity, &mut open, &mut header.fields);
    header.ends.push(End { fields: header.fields.len(), body: end });
    alternatives.truncate(MAX_READINGS - 1);
    header.ends.extend(alternatives);
    header
}

fn take<'m>(entity: &'m [u8], open: &mut Option<(usize, usize, usize)>, fields: &mut Vec<RawField<'m>>) {
    if let Some((start, colon, end)) = open.take() {
        let name = entity.get(start..colon).unwrap_or_default().trim_ascii();
        let body = entity.get(colon + 1..end).unwrap_or_default();
        fields.push(RawField { name, body });
    }
}

fn trim_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// An unfolded, decoded text of a field body: RFC 2047 words wherever they stand, words of one charset joined before
/// decoding, raw octets by UTF-8 or Windows-1252.
pub(super) fn decode_words(body: &[u8]) -> String {
    let mut out = String::with_capacity(body.len());
    let mut rest = body;
    // Octets of the words before, waiting for more of the same charset: a character may be split over two words.
    let mut waiting: Option<(String, Vec<u8>)> = None;
    // Without an end in sight there is no further word, and no search for it.
    let mut ends = memchr::memmem::rfind(body, b"?=").unwrap_or(0);
    while let Some(at) = memchr::memmem::find(rest, b"=?").filter(|at| *at < ends) {
        let (before, tail) = rest.split_at(at);
        let Some(word) = Word::parse(tail) else {
            settle(&mut waiting, &mut out);
            push_raw(rest.get(..at + 2).unwrap_or_default(), &mut out);
            rest = rest.get(at + 2..).unwrap_or_default();
            ends = ends.saturating_sub(at + 2);
            continue;
        };
        // White space between two words is not shown (RFC 2047 §6.2).
        if waiting.is_none() || !before.trim_ascii().is_empty() {
            settle(&mut waiting, &mut out);
            push_raw(before, &mut out);
        }
        match &mut waiting {
            Some((charset, octets)) if *charset == word.charset => octets.extend_from_slice(&word.octets),
            _ => {
                settle(&mut waiting, &mut out);
                waiting = Some((word.charset, word.octets));
            }
        }
        ends = ends.saturating_sub(rest.len() - word.rest.len());
        rest = word.rest;
    }
    settle(&mut waiting, &mut out);
    push_raw(rest, &mut out);
    let trimmed = out.trim();
    if trimmed.len() == out.len() { out } else { trimmed.to_owned() }
}

fn settle(waiting: &mut Option<(String, Vec<u8>)>, out: &mut String) {
    if let Some((label, octets)) = waiting.take() {
        out.push_str(&charset::decode(&octets, &label).text);
    }
}

/// Unfolds: line ends vanish, the white space behind them stays.
fn push_raw(octets: &[u8], out: &mut String) {
    for line in octets.split(|b| matches!(b, b'\r' | b'\n')) {
        out.push_str(&charset::decode(line, "").text);
    }
}

struct Word<'a> {
    charset: String,
    octets: Vec<u8>,
    rest: &'a [u8],
}

impl<'a> Word<'a> {
    /// `=?charset*language?B|Q?text?=` at the start of `text`. The text may hold spaces, as some senders write it.
    fn parse(text: &'a [u8]) -> Option<Self> {
        let inner = text.strip_prefix(b"=?")?;
        let (label, inner) = inner.split_at_checked(memchr::memchr(b'?', inner)?)?;
        let (encoding, coded) = match inner {
            [b'?', encoding, b'?', coded @ ..] => (encoding, coded),
            _ => return None,
        };
        let end = memchr::memmem::find(coded, b"?=")?;
        let (coded, rest) = (coded.get(..end)?, coded.get(end + 2..)?);
        let octets = match encoding {
            b'B' | b'b' => transfer::base64(coded).bytes,
            b'Q' | b'q' => {
                let spaced: Vec<u8> = coded.iter().map(|b| if *b == b'_' { b' ' } else { *b }).collect();
                transfer::quoted_printable(&spaced).into_owned()
            }
            _ => return None,
        };
        let label = label.split(|b| *b == b'*').next().unwrap_or_default();
        Some(Self { charset: String::from_utf8_lossy(label).to_ascii_lowercase(), octets, rest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        decode_words(text.as_bytes())
    }

    #[test]
    fn encoded_words_are_joined_and_folds_removed() {
        for (text, decoded) in [
            (" plain\r\n text", "plain text"),
            ("=?utf-8?Q?4111?= =?utf-8?Q?1111?=", "41111111"),
            ("=?utf-8?Q?4111?=\r\n =?utf-8?B?MTExMQ==?=", "41111111"),
            ("=?us-ascii*en?q?a_b?= c", "a b c"),
            ("=?utf-8?Q?=C3?= =?utf-8?Q?=A4?=", "ä"),
            ("a=?utf-8?Q?=34?=b", "a4b"),
            ("=?broken =?utf-8?Q?x?=", "=?broken x"),
            ("=?utf-8?Q?with space?=", "with space"),
            ("=?utf-8?X?x?=", "=?utf-8?X?x?="),
            ("=?utf-16be?B?ADQAMQAxADE=?=", "4111"),
        ] {
            assert_eq!(words(text), decoded, "{text}");
        }
    }

    #[test]
    fn facts_are_taken_from_decoded_fields() {
        let raw = split(
            b"Received: from 4111111111111111\r\nSubject: =?utf-8?B?W3NlY3VyZV0=?= hello\r\n\
            sensitivity:  Company-Confidential \r\nX-Note: a\r\n b\r\n\r\nbody",
        );
        let header = Header::decode(&raw);
        assert_eq!(header.subject, "[secure] hello");
        assert_eq!(header.sensitivity.as_deref(), Some("Company-Confidential"));
        assert_eq!(header.text, "Subject: [secure] hello\nsensitivity: Company-Confidential\nX-Note: a b\n");
        assert_eq!(header.fields.len(), 4);
        assert!(header.conditions.is_empty());
    }

    #[test]
    fn the_header_ends_at_the_empty_line_with_either_line_end() {
        for (entity, fields, body) in
            [("A: b\r\n\r\nx", 1, 8), ("A: b\n\nx", 1, 6), ("\r\nx", 0, 2), ("A: b", 1, 4), ("", 0, 0)]
        {
            let header = split(entity.as_bytes());
            assert_eq!(header.ends, [End { fields, body }], "{entity:?}");
            assert!(!header.malformed);
        }
    }

    #[test]
    fn lines_that_are_no_field_give_both_readings() {
        for entity in ["A: b\r\nno field\r\nC: d\r\n\r\nx", "A: b\r\n \r\nC: d\r\n\r\nx"] {
            let header = split(entity.as_bytes());
            assert!(header.malformed);
            assert_eq!(header.ends.len(), 2);
            assert_eq!((header.ends[0].fields, header.ends[1].fields), (2, 1));
        }
    }

    #[test]
    fn a_header_without_end_is_over_budget() {
        let endless = b"A: b\r\n".repeat(MAX_FIELDS + 10);
        let header = split(&endless);
        assert!(header.over_budget);
        assert_eq!(header.fields.len(), MAX_FIELDS);
        assert!(split(&vec![b'a'; 3 << 20]).ends[0].body > 0);
    }

    #[test]
    fn an_mbox_separator_is_not_malformed() {
        assert!(!split(b"From a@b Mon Jan  1 00:00:00 2024\nA: b\n\nx").malformed);
    }
}
