//! Structured MIME field bodies: `value; name=value; …` (RFC 2045 §5.1) with continuations and charsets (RFC 2231).
//!
//! Job: parse leniently and keep every contradicting value. Place: under header and walk. Invariants: values are octets,
//! not text, since a boundary is compared as such. A crash leaves nothing.

use super::{charset, header::decode_words};

/// A parsed field body.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Structured {
    /// The value before the first `;`, lower case, without comments and white space.
    pub value: String,
    /// Names in lower case with RFC 2231 suffixes still on, values unquoted, in order.
    params: Vec<(String, Vec<u8>)>,
    /// Text in places where none may stand: parsers disagree about what it means.
    pub malformed: bool,
}

/// Parameters of one field; more are ignored, and malformed.
const MAX_PARAMS: usize = 256;

impl Structured {
    /// Parses an unfolded or folded field body.
    pub fn parse(body: &[u8]) -> Self {
        let mut parsed = Self::default();
        let mut cursor = Cursor(body);
        let (value, _) = cursor.token(b";");
        parsed.value = String::from_utf8_lossy(&value).to_ascii_lowercase().split_whitespace().collect();
        while cursor.skip(b';') {
            if parsed.params.len() == MAX_PARAMS {
                parsed.malformed = true;
                break;
            }
            let (name, _) = cursor.token(b"=;");
            let name = String::from_utf8_lossy(&name).trim().to_ascii_lowercase();
            if !cursor.skip(b'=') {
                parsed.malformed |= !name.is_empty();
                continue;
            }
            for value in cursor.value(&mut parsed.malformed) {
                parsed.params.push((name.clone(), value));
            }
        }
        parsed
    }

    /// All values that a parser could see for `name`, without doubles: plain, RFC 2231 extended and continued.
    pub fn values(&self, name: &str) -> Vec<Vec<u8>> {
        let mut values: Vec<Vec<u8>> = Vec::new();
        let extended = self.extended(name).map(|(_, octets)| octets);
        let plain = self.params.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone());
        for value in extended.into_iter().chain(plain) {
            if !values.contains(&value) {
                values.push(value);
            }
        }
        values
    }

    /// The decoded text of `name`; the RFC 2231 form wins over the plain one, as in RFC 6266 §4.3.
    pub fn text(&self, name: &str) -> Option<String> {
        if let Some((label, octets)) = self.extended(name) {
            return Some(charset::decode(&octets, &label).text.into_owned());
        }
        let (_, value) = self.params.iter().find(|(n, _)| n == name)?;
        Some(decode_words(value))
    }

    /// All parameters as a reader would want to see them.
    pub fn rendered(&self) -> String {
        let mut out = self.value.clone();
        let mut seen: Vec<&str> = Vec::new();
        for (name, _) in &self.params {
            let base = name.split('*').next().unwrap_or_default();
            if !seen.contains(&base) {
                seen.push(base);
                for text in self.text(base).into_iter() {
                    out.push_str(&format!("; {base}={text}"));
                }
            }
        }
        out
    }

    /// `name*=`, or `name*0=`, `name*1*=`, … joined: charset and octets.
    fn extended(&self, name: &str) -> Option<(String, Vec<u8>)> {
        let mut pieces: Vec<(u32, bool, &[u8])> = Vec::new();
        for (suffix, value) in
            self.params.iter().filter_map(|(n, v)| Some((n.strip_prefix(name)?.strip_prefix('*')?, v)))
        {
            let (index, coded) = match suffix.strip_suffix('*') {
                Some(index) => (index.parse().ok()?, true),
                None if suffix.is_empty() => (0, true),
                None => (suffix.parse().ok()?, false),
            };
            pieces.push((index, coded, value));
        }
        // Senders may give them in any order (RFC 2231 §3).
        pieces.sort_by_key(|(index, _, _)| *index);
        let (_, first_coded, first) = pieces.first()?;
        let mut label = String::new();
        let mut skip = 0;
        if *first_coded {
            let mut quotes = memchr::memchr_iter(b'\'', first);
            if let (Some(one), Some(two)) = (quotes.next(), quotes.next()) {
                label = String::from_utf8_lossy(first.get(..one).unwrap_or_default()).into_owned();
                skip = two + 1;
            }
        }
        let mut octets = Vec::new();
        for (at, (_, coded, value)) in pieces.iter().enumerate() {
            let value = if at == 0 { value.get(skip..).unwrap_or_default() } else { value };
            if *coded { percent(value, &mut octets) } else { octets.extend_from_slice(value) }
        }
        Some((label, octets))
    }
}

fn percent(value: &[u8], out: &mut Vec<u8>) {
    let mut rest = value;
    while let Some((byte, tail)) = rest.split_first() {
        let digit = |at: usize| tail.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn skip(&mut self, byte: u8) -> bool {
        match self.0.split_first() {
            Some((first, rest)) if *first == byte => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    /// Octets up to one of `ends`, comments removed; whether there were comments.
    fn token(&mut self, ends: &[u8]) -> (Vec<u8>, bool) {
        let (mut out, mut commented) = (Vec::new(), false);
        while let Some((byte, rest)) = self.0.split_first() {
            if ends.contains(byte) {
                break;
            }
            self.0 = rest;
            match byte {
                b'(' => {
                    commented = true;
                    self.comment();
                }
                b'\r' | b'\n' => {}
                _ => out.push(*byte),
            }
        }
        (out, commented)
    }

    /// Behind `(`: up to its `)` (RFC 5322 §3.2.2, nested).
    fn comment(&mut self) {
        let mut depth = 1;
        while let Some((byte, rest)) = self.0.split_first() {
            self.0 = rest;
            match byte {
                b'(' => depth += 1,
                b')' => depth -= 1,
                b'\\' => self.0 = self.0.get(1..).unwrap_or_default(),
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }

    /// The value behind `=`; more than one where parsers in the field differ.
    fn value(&mut self, malformed: &mut bool) -> Vec<Vec<u8>> {
        self.0 = self.0.trim_ascii_start();
        if self.skip(b'"') {
            let (value, closed) = self.quoted();
            let (junk, _) = self.token(b";");
            let junk = !junk.trim_ascii().is_empty();
            *malformed |= junk || !closed;
            return vec![value];
        }
        let before = self.0;
        let (value, commented) = self.token(b";");
        let value = value.trim_ascii().to_vec();
        let mut values = Vec::new();
        // RFC 2045 ends a token at white space; many parsers go on to the semicolon.
        if let Some(space) = value.iter().position(u8::is_ascii_whitespace) {
            values.push(value.get(..space).unwrap_or_default().to_vec());
            *malformed = true;
        }
        values.push(value);
        if commented {
            // Others take the comment as part of the value.
            let raw = before.get(..before.len() - self.0.len()).unwrap_or_default();
            values.push(raw.trim_ascii().to_vec());
        }
        values
    }

    /// Behind the opening quote: the content, and whether the closing quote was there.
    fn quoted(&mut self) -> (Vec<u8>, bool) {
        let mut out = Vec::new();
        while let Some((byte, rest)) = self.0.split_first() {
            self.0 = rest;
            match byte {
                b'"' => return (out, true),
                b'\\' => {
                    if let Some((escaped, rest)) = rest.split_first() {
                        out.push(*escaped);
                        self.0 = rest;
                    }
                }
                b'\r' | b'\n' => {}
                _ => out.push(*byte),
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Structured {
        Structured::parse(body.as_bytes())
    }

    #[test]
    fn type_and_parameters_without_comments_and_folds() {
        let parsed = parse(" Text/HTML (really) ;\r\n charset = \"UTF-8\"; (x) Name=a.html");
        assert_eq!(parsed.value, "text/html");
        assert_eq!(parsed.text("charset").as_deref(), Some("UTF-8"));
        assert_eq!(parsed.text("name").as_deref(), Some("a.html"));
        assert!(!parsed.malformed);
    }

    #[test]
    fn continuations_and_charsets_of_rfc_2231_are_joined_in_any_order() {
        let parsed = parse("attachment; filename*1*=%C3%A4.xl; filename*2=sx; filename*0*=UTF-8'de'Gr%C3%BC");
        assert_eq!(parsed.text("filename").as_deref(), Some("Grüä.xlsx"));
        assert_eq!(parse("x; filename*=iso-8859-1''M%FCller.txt").text("filename").as_deref(), Some("Müller.txt"));
    }

    #[test]
    fn encoded_words_in_file_names_are_decoded_although_rfc_2047_forbids_them() {
        assert_eq!(parse("x; name=\"=?utf-8?B?w6QueGxzeA==?=\"").text("name").as_deref(), Some("ä.xlsx"));
    }

    #[test]
    fn contradicting_boundaries_are_all_kept() {
        assert_eq!(parse("m; boundary=a; boundary=\"b\"").values("boundary"), [b"a".to_vec(), b"b".to_vec()]);
        assert_eq!(parse("m; boundary*=''c; boundary=a").values("boundary"), [b"c".to_vec(), b"a".to_vec()]);
        assert_eq!(parse("m; boundary=a b").values("boundary"), [b"a".to_vec(), b"a b".to_vec()]);
        assert_eq!(parse("m; boundary=a(b)").values("boundary"), [b"a".to_vec(), b"a(b)".to_vec()]);
        assert_eq!(parse("m; boundary=a; boundary=a").values("boundary"), [b"a".to_vec()]);
    }

    #[test]
    fn an_open_quote_is_malformed() {
        let parsed = parse("m; boundary=\"a");
        assert!(parsed.malformed);
        assert_eq!(parsed.values("boundary"), [b"a".to_vec()]);
    }
}
