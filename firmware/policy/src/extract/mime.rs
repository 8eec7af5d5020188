//! The walk over a message's structure (RFC 2045, RFC 2046).
//!
//! Job: find every part, and every other part that a parser in the field could find (threat 8), without decoding what is
//! in them. Place: first step of `judge`. Invariants: bodies are borrowed slices; recursion ends at `MAX_DEPTH`, octets
//! looked at are a fixed multiple of the message. A crash leaves nothing.

use super::{
    About, Budget, Condition, Encoding, PartRef, Structure,
    budget::{MAX_DEPTH, MAX_READINGS},
    entity::Leaf,
    header::{self, Header, RawField, RawHeader},
    params::Structured,
    sniff, transfer,
};
use std::borrow::Cow;

/// How many times its own size may be searched for boundaries in one message: once a level of nesting and reading.
const SEARCH_FACTOR: u64 = 16;
/// Octets of search that any message may cost.
const SEARCH_FREE: u64 = 16 << 20;
/// Searched octets that one decoded octet counts for: decoded containers are copied, so at most four times a message's
/// size of them is made.
const DECODED_COST: u64 = 4;
/// Contradictions that are followed in one message; with more it is malformed anyway.
const MAX_ALTERNATIVES: usize = 16;
/// Encoded octets of a body that are decoded to see what it is.
const PEEK: usize = 3 * sniff::PREFIX + 1024;

/// Walks a message of the outside world.
pub(super) fn walk<'m>(message: &'m [u8], budget: &mut Budget) -> Structure<'m> {
    let raw = header::split(message);
    let header = Header::decode(&raw);
    let mut walker = Walker::new(message, budget);
    let place = Place { section: String::new(), depth: 0, digest: false, is_message: true };
    walker.entity(message, &raw, &place, true);
    walker.settle_suspects();
    Structure { header, parts: walker.parts }
}

/// Walks a message that was found inside `section`; its own header comes first, as a part.
pub(super) fn walk_attached<'m>(message: &'m [u8], section: &str, depth: u32, budget: &mut Budget) -> Vec<PartRef<'m>> {
    let mut walker = Walker::new(message, budget);
    let place = Place { section: section.to_owned(), depth, digest: false, is_message: true };
    walker.message(message, &place, &Leaf::default());
    walker.settle_suspects();
    walker.parts
}

/// Where an entity stands.
#[derive(Clone, Debug)]
struct Place {
    section: String,
    depth: u32,
    /// Whether untyped parts are messages (RFC 2046 §5.1.5).
    digest: bool,
    /// Whether it is the whole of a message, and not one part of it.
    is_message: bool,
}

impl Place {
    fn child(&self, number: usize, digest: bool) -> Self {
        Self { section: self.number(number), depth: self.depth + 1, digest, is_message: false }
    }

    /// The section number `number` below this one; a dot stands between numbers only.
    fn number(&self, number: usize) -> String {
        match self.section.as_str() {
            "" => number.to_string(),
            outer if outer.ends_with('!') => format!("{outer}{number}"),
            outer => format!("{outer}.{number}"),
        }
    }

    /// The section of a multipart's own text.
    fn own(&self) -> String {
        if self.section.is_empty() { "TEXT".to_owned() } else { self.section.clone() }
    }
}

/// A multipart in which a line begins like a delimiter but goes on: right when that is the boundary of another
/// multipart, a trick when it is not.
struct Suspect<'m> {
    line: &'m [u8],
    boundary: Vec<u8>,
    body: &'m [u8],
    place: Place,
    subtype: String,
}

struct Walker<'m, 'b> {
    parts: Vec<PartRef<'m>>,
    budget: &'b mut Budget,
    known: Vec<Vec<u8>>,
    suspects: Vec<Suspect<'m>>,
    alternatives: usize,
    search: u64,
    stopped: bool,
}

impl<'m, 'b> Walker<'m, 'b> {
    fn new(message: &[u8], budget: &'b mut Budget) -> Self {
        Self {
            parts: Vec::new(),
            budget,
            known: Vec::new(),
            suspects: Vec::new(),
            alternatives: MAX_ALTERNATIVES,
            search: SEARCH_FREE + SEARCH_FACTOR * message.len() as u64,
            stopped: false,
        }
    }

    /// Whether one more contradiction may be followed.
    fn alternative(&mut self) -> bool {
        let granted = self.alternatives > 0;
        self.alternatives = self.alternatives.saturating_sub(1);
        granted
    }

    /// An entity in all the ways in which its header can end. `outermost`: the message itself, whose header is reported
    /// elsewhere.
    fn entity(&mut self, entity: &'m [u8], raw: &RawHeader<'m>, place: &Place, outermost: bool) {
        for (at, end) in raw.ends.iter().enumerate() {
            if at > 0 && !self.alternative() {
                break;
            }
            let fields = raw.fields.get(..end.fields).unwrap_or_default();
            let body = entity.get(end.body..).unwrap_or_default();
            let mut leaf = Leaf::default();
            if !outermost && raw.malformed {
                leaf.note(Condition::Malformed);
            }
            if raw.over_budget {
                leaf.note(Condition::OverBudget);
            }
            self.described(fields, body, place, leaf);
        }
    }

    /// One reading of the header; every contradicting Content-Type is followed.
    fn described(&mut self, fields: &[RawField<'m>], body: &'m [u8], place: &Place, mut leaf: Leaf) {
        let types = leaf.describe(fields, place.digest);
        for (at, content_type) in types.iter().enumerate() {
            if at > 0 && !self.alternative() {
                break;
            }
            self.typed(content_type, body, place, leaf.clone());
        }
    }

    fn typed(&mut self, content_type: &Structured, body: &'m [u8], place: &Place, mut leaf: Leaf) {
        let value = content_type.value.as_str();
        let container = value.starts_with("multipart/") || is_message(value);
        if container && place.depth >= MAX_DEPTH {
            leaf.note(Condition::OverBudget);
            return self.leaf(content_type, body, place, leaf);
        }
        if let Some(subtype) = value.strip_prefix("multipart/") {
            self.multipart(content_type, subtype, body, place, leaf);
        } else if is_message(value) {
            for encoding in leaf.encodings.clone() {
                match encoding {
                    Encoding::Identity => self.message(body, place, &leaf),
                    _ => self.decoded(encoding, body, place, &leaf),
                }
            }
        } else {
            if value == "message/partial" {
                // Put together with its sisters it says what none of them says.
                leaf.note(Condition::Malformed);
                leaf.note(Condition::Unread("partial".to_owned()));
            }
            self.leaf(content_type, body, place, leaf);
        }
    }

    /// A multipart in all its readings.
    fn multipart(&mut self, content_type: &Structured, subtype: &str, body: &'m [u8], place: &Place, mut leaf: Leaf) {
        let mut boundaries = content_type.values("boundary");
        for at in 0..boundaries.len() {
            // White space at its end is not part of a boundary (RFC 2046 §5.1.1), but some compare it.
            let trimmed = boundaries.get(at).map(|b| b.trim_ascii_end().to_vec()).unwrap_or_default();
            if !boundaries.contains(&trimmed) {
                boundaries.push(trimmed);
            }
        }
        boundaries.retain(|b| !b.is_empty());
        if boundaries.len() != 1 {
            leaf.note(Condition::Malformed);
        }
        if boundaries.is_empty() {
            boundaries.extend(guess_boundary(body));
        }
        if subtype == "encrypted" {
            leaf.note(Condition::Encrypted);
        }
        // RFC 2045 §6.4 forbids encodings here; some decode first, others ignore the field.
        for encoding in leaf.encodings.clone() {
            if encoding != Encoding::Identity {
                leaf.note(Condition::Malformed);
                self.decoded_multipart(encoding, &boundaries, subtype, body, place);
            }
        }
        if !leaf.conditions.is_empty() || boundaries.is_empty() || leaf.name.is_some() {
            // Carries the conditions; and the whole as plain text, for those who see no multipart in it.
            let ambiguous = leaf.conditions.contains(&Condition::Malformed);
            let text = if ambiguous { body } else { &[] };
            let about = About { declared: content_type.value.clone(), ..self.about(place.own(), place.depth, &leaf) };
            self.push(about, Cow::Borrowed(text));
        }
        for (at, boundary) in boundaries.iter().enumerate() {
            if at > 0 && !self.alternative() {
                break;
            }
            self.split(boundary, subtype, body, place, false);
        }
    }

    /// Cuts a multipart at `boundary`. `loose`: also at lines that only begin like a delimiter.
    fn split(&mut self, boundary: &[u8], subtype: &str, body: &'m [u8], place: &Place, loose: bool) {
        self.search = self.search.saturating_sub(body.len() as u64);
        if self.search == 0 || self.stopped {
            return self.stop(place);
        }
        if !self.known.iter().any(|known| known == boundary) {
            self.known.push(boundary.to_vec());
        }
        let marker = [b"--", boundary].concat();
        let finder = memchr::memmem::Finder::new(&marker);
        let (mut number, mut from, mut start, mut closed) = (0, 0, None::<usize>, None::<usize>);
        let mut malformed = false;
        while let Some(at) = finder.find(body.get(from..).unwrap_or_default()).map(|at| from + at) {
            from = at + marker.len();
            if at > 0 && body.get(at - 1) != Some(&b'\n') {
                continue;
            }
            let rest = body.get(from..).unwrap_or_default();
            let length = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
            let line = rest.get(..length).unwrap_or_default().trim_ascii_end();
            let delimiter = match line {
                b"" => Delimiter::Next,
                b"--" => Delimiter::Close,
                [b'-', b'-', ..] if loose => Delimiter::Close,
                _ if loose => Delimiter::Next,
                _ => {
                    let line = body.get(at + 2..from + line.len()).unwrap_or_default();
                    self.suspect(line, boundary, body, place, subtype);
                    continue;
                }
            };
            match (start, closed) {
                (Some(start), _) => {
                    number += 1;
                    let part = without_line_end(body.get(start..at).unwrap_or_default());
                    self.child(part, &place.child(number, subtype == "digest"));
                }
                (None, None) => self.between(body.get(..at).unwrap_or_default(), place),
                // Behind the closing delimiter some go on reading.
                (None, Some(closed)) => {
                    malformed = true;
                    self.between(body.get(closed..at).unwrap_or_default(), place);
                }
            }
            if self.stopped {
                return;
            }
            from += length;
            match delimiter {
                Delimiter::Next => (start, closed) = (Some(from), None),
                Delimiter::Close => (start, closed) = (None, Some(from)),
            }
        }
        match (start, closed) {
            (Some(start), _) => {
                malformed = true;
                self.child(body.get(start..).unwrap_or_default(), &place.child(number + 1, subtype == "digest"));
            }
            (None, Some(closed)) => self.between(body.get(closed..).unwrap_or_default(), place),
            (None, None) => {
                malformed = true;
                self.between(body, place);
            }
        }
        if malformed {
            self.condition(place.own(), place.depth, Condition::Malformed);
        }
    }

    fn suspect(&mut self, line: &'m [u8], boundary: &[u8], body: &'m [u8], place: &Place, subtype: &str) {
        if self.suspects.len() < MAX_ALTERNATIVES && !self.suspects.iter().any(|s| s.line == line) {
            let (boundary, place, subtype) = (boundary.to_vec(), place.clone(), subtype.to_owned());
            self.suspects.push(Suspect { line, boundary, body, place, subtype });
        }
    }

    /// Lines like delimiters that turned out to be nobody's: read once more as those who compare the beginning only.
    fn settle_suspects(&mut self) {
        let suspects = std::mem::take(&mut self.suspects);
        let mut read: Vec<(Vec<u8>, usize)> = Vec::new();
        for suspect in suspects {
            let line = suspect.line.strip_suffix(b"--").unwrap_or(suspect.line);
            if self.known.iter().any(|known| known == line || known == suspect.line) {
                continue;
            }
            let Suspect { boundary, body, place, subtype, .. } = suspect;
            self.condition(place.own(), place.depth, Condition::Malformed);
            let key = (boundary, body.as_ptr().addr());
            if !read.contains(&key) && self.alternative() {
                self.split(&key.0, &subtype, body, &place, true);
                read.push(key);
            }
        }
    }

    fn child(&mut self, entity: &'m [u8], place: &Place) {
        let raw = header::split(entity);
        self.entity(entity, &raw, place, false);
    }

    /// Preamble, epilogue, or what else stands between parts: no client shows it, unless it reads the boundary otherwise.
    fn between(&mut self, text: &'m [u8], place: &Place) {
        if !text.trim_ascii().is_empty() {
            let about =
                About { declared: "text/plain".to_owned(), ..self.about(place.own(), place.depth, &Leaf::default()) };
            self.push(about, Cow::Borrowed(text));
        }
    }

    /// An attached message: its header, then its body.
    fn message(&mut self, message: &'m [u8], place: &Place, leaf: &Leaf) {
        let raw = header::split(message);
        let end = raw.ends.first().map_or(0, |end| end.body);
        let mut about = self.about(place.number(0), place.depth, leaf);
        about.declared = "message/rfc822".to_owned();
        about.is_header = true;
        self.push(about, Cow::Borrowed(message.get(..end).unwrap_or_default()));
        let inside = Place { depth: place.depth + 1, digest: false, is_message: true, ..place.clone() };
        self.entity(message, &raw, &inside, false);
    }

    /// An attached message that had to be decoded: its parts own their bodies.
    fn decoded(&mut self, encoding: Encoding, body: &[u8], place: &Place, leaf: &Leaf) {
        let bytes = decode(encoding, body);
        if !self.budget.take_bytes(bytes.len()) {
            return self.stop(place);
        }
        self.inside(&bytes, |inner| inner.message(&bytes, place, leaf));
    }

    fn decoded_multipart(
        &mut self,
        encoding: Encoding,
        boundaries: &[Vec<u8>],
        subtype: &str,
        body: &[u8],
        place: &Place,
    ) {
        let bytes = decode(encoding, body);
        if !self.budget.take_bytes(bytes.len()) {
            return self.stop(place);
        }
        let inside = Place { depth: place.depth + 1, ..place.clone() };
        self.inside(&bytes, |inner| {
            for boundary in boundaries.iter().take(MAX_READINGS) {
                inner.split(boundary, subtype, &bytes, &inside, false);
            }
        });
    }

    /// Walks octets that had to be decoded, on what is left for this message; their parts own their bodies.
    fn inside<'i>(&mut self, bytes: &'i [u8], walk: impl FnOnce(&mut Walker<'i, '_>)) {
        self.search = self.search.saturating_sub(DECODED_COST * bytes.len() as u64);
        let mut inner = Walker::new(bytes, self.budget);
        (inner.search, inner.alternatives, inner.stopped) = (self.search, self.alternatives, self.stopped);
        walk(&mut inner);
        inner.settle_suspects();
        (self.search, self.alternatives, self.stopped) = (inner.search, inner.alternatives, inner.stopped);
        let owned = |part: PartRef<'_>| PartRef { about: part.about, body: Cow::Owned(part.body.into_owned()) };
        let parts: Vec<PartRef<'static>> = inner.parts.into_iter().map(owned).collect();
        self.parts.extend(parts);
    }

    fn leaf(&mut self, content_type: &Structured, body: &'m [u8], place: &Place, leaf: Leaf) {
        // The one part of a message that is no multipart is section 1 of it (RFC 3501 §6.4.5).
        let section = if place.is_message { place.number(1) } else { place.section.clone() };
        let mut about = self.about(section, place.depth, &leaf);
        about.declared = content_type.value.clone();
        about.charsets = content_type
            .values("charset")
            .iter()
            .take(MAX_READINGS)
            .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
            .collect();
        if about.charsets.len() > 1 && !about.conditions.contains(&Condition::Malformed) {
            about.conditions.push(Condition::Malformed);
        }
        let peek = body.get(..PEEK).unwrap_or(body);
        about.attachment = about.encodings.iter().any(|encoding| match encoding {
            Encoding::Identity => !is_in_process(sniff::sniff(body)),
            encoding => !is_in_process(sniff::sniff(&decode(*encoding, peek))),
        }) || transfer::has_uuencoded(body);
        self.push(about, Cow::Borrowed(body));
    }

    fn about(&self, section: String, depth: u32, leaf: &Leaf) -> About {
        About {
            section,
            name: leaf.name.clone(),
            description: leaf.description.clone(),
            encodings: leaf.encodings.clone(),
            conditions: leaf.conditions.clone(),
            depth,
            ..About::default()
        }
    }

    fn push(&mut self, about: About, body: Cow<'m, [u8]>) {
        if self.stopped {
            return;
        }
        if self.budget.take_part() {
            self.parts.push(PartRef { about, body });
        } else {
            self.stopped = true;
            self.parts.push(over_budget(about.section, about.depth));
        }
    }

    /// A condition of a multipart as a whole.
    fn condition(&mut self, section: String, depth: u32, condition: Condition) {
        let leaf = Leaf { conditions: vec![condition], ..Leaf::default() };
        let about = About { declared: "multipart/mixed".to_owned(), ..self.about(section, depth, &leaf) };
        self.push(about, Cow::Borrowed(&[]));
    }

    fn stop(&mut self, place: &Place) {
        if !self.stopped {
            self.stopped = true;
            self.parts.push(over_budget(place.own(), place.depth));
        }
    }
}

enum Delimiter {
    Next,
    Close,
}

fn over_budget(section: String, depth: u32) -> PartRef<'static> {
    let about = About { section, depth, conditions: vec![Condition::OverBudget], ..About::default() };
    PartRef { about, body: Cow::Borrowed(&[]) }
}

fn is_message(value: &str) -> bool {
    matches!(value, "message/rfc822" | "message/global" | "message/news")
}

/// Kinds whose readers are small and safe enough to run in the daemon.
pub(super) fn is_in_process(kind: &str) -> bool {
    matches!(kind, "text" | "html" | "xml" | "calendar" | "vcard" | "empty")
}

/// Undoes a transfer encoding in its first reading.
pub(super) fn decode(encoding: Encoding, body: &[u8]) -> Cow<'_, [u8]> {
    match encoding {
        Encoding::Identity => Cow::Borrowed(body),
        Encoding::Base64 => Cow::Owned(transfer::base64(body).bytes),
        Encoding::QuotedPrintable => transfer::quoted_printable(body),
        Encoding::Uuencode => transfer::uuencoded(body).map_or(Cow::Borrowed(body), |found| Cow::Owned(found.bytes)),
    }
}

/// For a multipart without a boundary: the first line that looks like a delimiter.
fn guess_boundary(body: &[u8]) -> Option<Vec<u8>> {
    let head = body.get(..sniff::PREFIX).unwrap_or(body);
    let line = head.split(|b| *b == b'\n').find(|line| line.starts_with(b"--") && line.trim_ascii_end().len() > 2)?;
    Some(line.trim_ascii_end().get(2..)?.to_vec())
}

fn without_line_end(part: &[u8]) -> &[u8] {
    let part = part.strip_suffix(b"\n").unwrap_or(part);
    part.strip_suffix(b"\r").unwrap_or(part)
}
