//! Whole messages through [`super::read_message`].

mod archives;
mod budgets;
mod concealed;
mod evasion;
mod malformed;
mod office;
mod robust;
mod structure;

use super::{Budget, Condition, Header, Part, ViewKind, read_message};

/// A card number that no test message holds by chance.
pub(super) const CARD: &str = "4111 1111 1111 1111";

/// What came out of a message.
pub(super) struct Outcome {
    pub header: Header,
    pub parts: Vec<Part<'static>>,
}

pub(super) fn read(message: impl AsRef<[u8]>) -> Outcome {
    read_within(message, &mut Budget::unhurried())
}

pub(super) fn read_within(message: impl AsRef<[u8]>, budget: &mut Budget) -> Outcome {
    let mut parts = Vec::new();
    let header = read_message(message.as_ref(), budget, &mut |part| parts.push(part.into_owned()));
    Outcome { header, parts }
}

impl Outcome {
    /// Whether `needle` stands in any text or view.
    pub fn shows(&self, needle: &str) -> bool {
        self.places(needle).next().is_some()
    }

    /// The sections whose text or views hold `needle`.
    pub fn places<'a>(&'a self, needle: &'a str) -> impl Iterator<Item = &'a str> {
        let holds = move |part: &&Part<'_>| {
            part.text.contains(needle) || part.views.iter().any(|view| view.text.contains(needle))
        };
        self.parts.iter().filter(holds).map(|part| part.section.as_str())
    }

    pub fn has(&self, condition: &Condition) -> bool {
        self.parts.iter().any(|part| part.conditions.contains(condition))
    }

    pub fn conditions(&self) -> Vec<String> {
        let all = self.parts.iter().flat_map(|p| p.conditions.iter().map(move |c| format!("{}: {c}", p.section)));
        all.collect()
    }

    pub fn part(&self, section: &str) -> &Part<'static> {
        let sections: Vec<&str> = self.parts.iter().map(|part| part.section.as_str()).collect();
        match self.parts.iter().find(|part| part.section == section) {
            Some(part) => part,
            None => panic!("no part {section} in {sections:?}"),
        }
    }

    pub fn view(&self, section: &str, kind: ViewKind) -> &str {
        self.part(section).views.iter().find(|view| view.kind == kind).map_or("", |view| view.text.as_str())
    }
}

/// A message of one part.
pub(super) fn single(fields: &str, body: &str) -> String {
    format!("From: a@example.org\r\nSubject: test\r\nMIME-Version: 1.0\r\n{fields}\r\n{body}")
}

/// A multipart message of whole entities.
pub(super) fn mixed(parts: &[&str]) -> String {
    let mut body = String::new();
    for part in parts {
        body.push_str("--XYZ\r\n");
        body.push_str(part);
        body.push_str("\r\n");
    }
    single("Content-Type: multipart/mixed; boundary=XYZ\r\n", &format!("{body}--XYZ--\r\n"))
}

/// A message with one attachment.
pub(super) fn attached(name: &str, content: &[u8]) -> String {
    let mut coded = String::new();
    for line in encode(content).as_bytes().chunks(76) {
        coded.push_str(&String::from_utf8_lossy(line));
        coded.push_str("\r\n");
    }
    let fields = format!(
        "Content-Type: application/octet-stream\r\nContent-Disposition: attachment; filename=\"{name}\"\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n"
    );
    mixed(&["Content-Type: text/plain\r\n\r\nSee the attachment.", &format!("{fields}{coded}")])
}

/// Base64 by a witness other than the decoder under test.
pub(super) fn encode(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().chain([&0, &0]).take(3).fold(0usize, |word, b| word << 8 | usize::from(*b));
        for digit in 0..4 {
            let shown = digit <= chunk.len();
            out.push(if shown { char::from(ALPHABET[word >> (18 - 6 * digit) & 63]) } else { '=' });
        }
    }
    out
}
