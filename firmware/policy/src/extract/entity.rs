//! What the header of a part says about its body.
//!
//! Job: read the Content- fields, and keep what contradicts itself. Place: in the walk, at each entity. Invariants: at
//! least one type and one encoding come out. A crash leaves nothing.

use super::{
    Condition, Encoding,
    budget::MAX_READINGS,
    header::{self, RawField},
    params::Structured,
};

/// What an entity's header says about its body, its type apart.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaf {
    pub name: Option<String>,
    pub description: Option<String>,
    pub encodings: Vec<Encoding>,
    pub conditions: Vec<Condition>,
}

impl Leaf {
    /// Adds a condition once.
    pub fn note(&mut self, condition: Condition) {
        if !self.conditions.contains(&condition) {
            self.conditions.push(condition);
        }
    }

    /// Takes what the fields say; returns every contradicting Content-Type, at least one.
    pub fn describe(&mut self, fields: &[RawField<'_>], in_digest: bool) -> Vec<Structured> {
        let mut types: Vec<Structured> = Vec::new();
        let mut names: Vec<String> = Vec::new();
        let mut descriptions: Vec<String> = Vec::new();
        for field in fields {
            if !field.name.get(..8).is_some_and(|start| start.eq_ignore_ascii_case(b"content-")) {
                continue;
            }
            match field.name.to_ascii_lowercase().as_slice() {
                b"content-type" => {
                    let parsed = Structured::parse(field.body);
                    if parsed.malformed {
                        self.note(Condition::Malformed);
                    }
                    if !types.contains(&parsed) {
                        types.push(parsed);
                    }
                }
                b"content-transfer-encoding" => self.encoding(field.body),
                b"content-disposition" => {
                    names.extend(Structured::parse(field.body).text("filename"));
                }
                b"content-description" => descriptions.push(header::decode_words(field.body)),
                _ => {}
            }
        }
        names.extend(types.iter().filter_map(|t| t.text("name")));
        names.dedup();
        let mut names = names.into_iter();
        self.name = names.next();
        // A name that another client shows is content too.
        descriptions.extend(names);
        self.description = (!descriptions.is_empty()).then(|| descriptions.join("\n"));
        if types.len() > 1 || self.encodings.len() > 1 {
            self.note(Condition::Malformed);
        }
        if self.encodings.is_empty() {
            self.encodings.push(Encoding::Identity);
        }
        self.encodings.truncate(MAX_READINGS);
        if types.is_empty() {
            types.push(Structured::parse(if in_digest { b"message/rfc822" } else { b"text/plain" }));
        }
        types
    }

    /// Notes the encoding that a Content-Transfer-Encoding body names.
    fn encoding(&mut self, body: &[u8]) {
        let parsed = Structured::parse(body);
        let known = match parsed.value.as_str() {
            "" | "7bit" | "8bit" | "binary" | "7-bit" | "8-bit" => Some(Encoding::Identity),
            "base64" => Some(Encoding::Base64),
            "quoted-printable" => Some(Encoding::QuotedPrintable),
            "x-uuencode" | "uuencode" | "x-uue" | "uue" => Some(Encoding::Uuencode),
            _ => None,
        };
        let found = match known {
            Some(encoding) => vec![encoding],
            // Unknown to us, so perhaps half known to somebody.
            None => {
                self.note(Condition::Malformed);
                vec![Encoding::Identity, Encoding::QuotedPrintable, Encoding::Base64]
            }
        };
        for encoding in found {
            if !self.encodings.contains(&encoding) {
                self.encodings.push(encoding);
            }
        }
    }
}
