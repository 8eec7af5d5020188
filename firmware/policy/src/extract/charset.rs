//! Octets to text, whatever charset they claim to be in.
//!
//! Job: give the text that the declared charset means, and further readings where the claim is unknown, not ASCII based
//! or plainly wrong. Place: under every leaf of a message. Invariants: valid UTF-8 and ASCII are borrowed, not copied;
//! nothing fails, undecodable octets become U+FFFD. A crash leaves nothing.

use encoding_rs::{Encoding, REPLACEMENT, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};
use std::borrow::Cow;

/// A text and other ways to read the same octets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decoded<'a> {
    pub text: Cow<'a, str>,
    pub others: Vec<String>,
}

impl<'a> From<Cow<'a, str>> for Decoded<'a> {
    fn from(text: Cow<'a, str>) -> Self {
        Self { text, others: Vec::new() }
    }
}

/// Decodes `bytes` by `label` (any case, empty when there was none).
pub(super) fn decode<'a>(bytes: &'a [u8], label: &str) -> Decoded<'a> {
    // The mark of UTF-32 begins like that of UTF-16.
    for (mark, little_endian) in [(b"\xff\xfe\0\0", true), (b"\0\0\xfe\xff", false)] {
        if let Some(rest) = bytes.strip_prefix(mark) {
            let others = vec![UTF_16LE.decode_without_bom_handling(bytes).0.into_owned()];
            return Decoded { text: utf32(rest, little_endian).into(), others };
        }
    }
    if let Some((encoding, bom)) = Encoding::for_bom(bytes) {
        // Clients differ in whether the mark or the label wins.
        let text = encoding.decode_without_bom_handling(bytes.get(bom..).unwrap_or_default()).0;
        let others = if encoding == UTF_8 { Vec::new() } else { labelled(bytes, label).into_iter().collect() };
        return Decoded { text, others };
    }
    let label = label.trim().to_ascii_lowercase();
    match label.as_str() {
        "" | "us-ascii" | "ascii" | "utf-8" | "utf8" | "unknown-8bit" | "x-unknown" => guess(bytes),
        "utf-7" | "unicode-1-1-utf-7" | "x-unicode-2-0-utf-7" | "csutf7" => {
            Decoded { text: utf7(bytes), others: vec![western(bytes)] }
        }
        "utf-16" | "utf-16le" | "utf-16be" | "ucs-2" | "iso-10646-ucs-2" | "csunicode" | "unicode" => {
            wide(bytes, label.ends_with("be"))
        }
        "utf-32" | "utf-32le" | "utf-32be" | "ucs-4" | "iso-10646-ucs-4" => {
            let mut others = vec![utf32(bytes, !label.ends_with("le"))];
            others.extend(readable(bytes));
            Decoded { text: utf32(bytes, label.ends_with("le")).into(), others }
        }
        "ibm037" | "cp037" | "ebcdic-cp-us" | "ibm500" | "cp500" | "ibm1047" | "cp1047" | "ibm1140" => {
            Decoded { text: ebcdic(bytes).into(), others: readable(bytes).into_iter().collect() }
        }
        _ => match Encoding::for_label(label.as_bytes()) {
            Some(encoding) if encoding != REPLACEMENT => {
                let text = encoding.decode_without_bom_handling(bytes).0;
                // A stateful or multi-byte charset may swallow what a client that doesn't know it would show.
                let lossy = !encoding.is_single_byte() && text.contains('\u{fffd}');
                let mut others = unmarked(bytes);
                others.extend(lossy.then(|| western(bytes)));
                Decoded { text, others }
            }
            // Escape-based charsets that browsers refuse (ISO-2022-CN, HZ) carry ASCII as it is.
            _ => {
                let mut decoded = guess(bytes);
                if !bytes.is_ascii() {
                    decoded.others.push(ebcdic(bytes));
                }
                decoded
            }
        },
    }
}

fn labelled(bytes: &[u8], label: &str) -> Option<String> {
    let encoding = Encoding::for_label(label.trim().as_bytes()).filter(|e| e.is_ascii_compatible())?;
    Some(encoding.decode_without_bom_handling(bytes).0.into_owned())
}

/// For what claims to be ASCII based: UTF-8 if it is, else Windows-1252, which every octet fits.
fn guess(bytes: &[u8]) -> Decoded<'_> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => WINDOWS_1252.decode_without_bom_handling(bytes).0,
    };
    Decoded { text, others: unmarked(bytes) }
}

/// What octets that look like UTF-16 or UTF-32 mean in it, whatever their label.
fn unmarked(bytes: &[u8]) -> Vec<String> {
    let Some(big_endian) = looks_wide(bytes) else { return Vec::new() };
    let encoding = if big_endian { UTF_16BE } else { UTF_16LE };
    let mut readings = vec![encoding.decode_without_bom_handling(bytes).0.into_owned()];
    // Three zeros for each character: UTF-32.
    if memchr::memchr_iter(0, bytes).count() * 8 > bytes.len() * 5 {
        readings.push(utf32(bytes, !big_endian));
    }
    readings
}

fn western(bytes: &[u8]) -> String {
    WINDOWS_1252.decode_without_bom_handling(bytes).0.into_owned()
}

/// The octets as ASCII, when that is what they look like although the label says otherwise.
fn readable(bytes: &[u8]) -> Option<String> {
    let zeros = memchr::memchr_iter(0, bytes).count();
    (zeros * 8 < bytes.len()).then(|| western(bytes))
}

/// UTF-16 of mostly ASCII: every second octet is zero. `Some(true)` is big endian.
pub(super) fn looks_wide(bytes: &[u8]) -> Option<bool> {
    // One vectorised look keeps ordinary text at full speed.
    memchr::memchr(0, bytes)?;
    let sample = bytes.get(..4096).unwrap_or(bytes);
    let zeros = |from: usize| sample.iter().skip(from).step_by(2).filter(|b| **b == 0).count();
    let (even, odd) = (zeros(0), zeros(1));
    let enough = sample.len() / 4;
    (even.max(odd) >= enough.max(1) && even != odd).then_some(even > odd)
}

fn wide(bytes: &[u8], big_endian: bool) -> Decoded<'_> {
    let big_endian = looks_wide(bytes).unwrap_or(big_endian);
    let (first, second) = if big_endian { (UTF_16BE, UTF_16LE) } else { (UTF_16LE, UTF_16BE) };
    let text = first.decode_without_bom_handling(bytes).0;
    let mut others = Vec::new();
    if looks_wide(bytes).is_none() {
        others.push(second.decode_without_bom_handling(bytes).0.into_owned());
        others.extend(readable(bytes));
    }
    Decoded { text, others }
}

fn utf32(bytes: &[u8], little_endian: bool) -> String {
    let read = |b: &[u8; 4]| if little_endian { u32::from_le_bytes(*b) } else { u32::from_be_bytes(*b) };
    bytes.as_chunks::<4>().0.iter().map(|b| char::from_u32(read(b)).unwrap_or('\u{fffd}')).collect()
}

/// UTF-7 (RFC 2152), leniently: what is no valid shift is literal.
fn utf7(bytes: &[u8]) -> Cow<'_, str> {
    let mut out = String::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(plus) = memchr::memchr(b'+', rest) {
        let (before, shifted) = rest.split_at(plus);
        out.push_str(&WINDOWS_1252.decode_without_bom_handling(before).0);
        let shifted = shifted.get(1..).unwrap_or_default();
        let length = shifted.iter().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/')).count();
        let (code, after) = shifted.split_at(length);
        if length == 0 {
            out.push('+');
        } else {
            let octets = super::transfer::base64(code).bytes;
            out.push_str(&UTF_16BE.decode_without_bom_handling(octets.get(..octets.len() & !1).unwrap_or_default()).0);
        }
        rest = after.strip_prefix(b"-").unwrap_or(after);
    }
    out.push_str(&WINDOWS_1252.decode_without_bom_handling(rest).0);
    Cow::Owned(out)
}

/// EBCDIC code page 37 as far as letters, digits and their separators go, which its sister pages share.
fn ebcdic(bytes: &[u8]) -> String {
    bytes.iter().map(|b| ebcdic_char(*b)).collect()
}

fn ebcdic_char(byte: u8) -> char {
    let letter = |first: u8, base: u8| char::from(first + (byte - base));
    match byte {
        0xf0..=0xf9 => letter(b'0', 0xf0),
        0xc1..=0xc9 => letter(b'A', 0xc1),
        0xd1..=0xd9 => letter(b'J', 0xd1),
        0xe2..=0xe9 => letter(b'S', 0xe2),
        0x81..=0x89 => letter(b'a', 0x81),
        0x91..=0x99 => letter(b'j', 0x91),
        0xa2..=0xa9 => letter(b's', 0xa2),
        0x40 => ' ',
        0x05 => '\t',
        0x0d => '\r',
        0x15 | 0x25 => '\n',
        0x60 => '-',
        0x61 => '/',
        0x4b => '.',
        0x6b => ',',
        0x7a => ':',
        0x7c => '@',
        0x7b => '#',
        _ => '\u{fffd}',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: &str = "4111 1111 1111 1111";

    fn found(decoded: &Decoded<'_>) -> bool {
        std::iter::once(decoded.text.as_ref())
            .chain(decoded.others.iter().map(String::as_str))
            .any(|t| t.contains(CARD))
    }

    fn utf16(text: &str, big_endian: bool) -> Vec<u8> {
        text.encode_utf16().flat_map(|u| if big_endian { u.to_be_bytes() } else { u.to_le_bytes() }).collect()
    }

    #[test]
    fn ascii_and_utf8_are_not_copied() {
        for label in ["", "us-ascii", "UTF-8", "iso-8859-1", "windows-1252"] {
            assert!(matches!(decode(CARD.as_bytes(), label).text, Cow::Borrowed(_)), "{label}");
        }
        assert!(matches!(decode("größer".as_bytes(), "us-ascii").text, Cow::Borrowed("größer")));
    }

    #[test]
    fn every_wide_charset_is_read_with_and_without_its_mark() {
        for big_endian in [true, false] {
            let bytes = utf16(CARD, big_endian);
            for label in ["utf-16", "utf-16le", "utf-16be", "", "us-ascii", "utf-8", "x-made-up"] {
                assert!(found(&decode(&bytes, label)), "{label} {big_endian}");
            }
            assert!(found(&decode(&utf16(&format!("\u{feff}{CARD}"), big_endian), "iso-8859-1")));
        }
        let le: Vec<u8> = CARD.chars().flat_map(|c| (c as u32).to_le_bytes()).collect();
        let be: Vec<u8> = CARD.chars().flat_map(|c| (c as u32).to_be_bytes()).collect();
        for label in ["utf-32", "utf-32le", "utf-32be", "us-ascii", ""] {
            assert!(found(&decode(&le, label)) && found(&decode(&be, label)), "{label}");
            assert!(found(&decode(&[b"\xff\xfe\0\0", le.as_slice()].concat(), label)), "{label}");
            assert!(found(&decode(&[b"\0\0\xfe\xff", be.as_slice()].concat(), label)), "{label}");
        }
    }

    #[test]
    fn utf7_is_read_shifted_and_plain() {
        assert!(found(&decode(b"4111 +ADEAMQAxADE- 1111 1111", "utf-7")));
        assert!(found(&decode(CARD.as_bytes(), "utf-7")));
        assert_eq!(decode("a+-b".as_bytes(), "utf-7").text, "a+b");
    }

    #[test]
    fn ascii_under_a_false_wide_label_is_found() {
        for label in ["utf-16", "utf-16be", "utf-32", "ibm037", "iso-2022-jp", "hz-gb-2312", "iso-2022-cn", "gb18030"] {
            assert!(found(&decode(CARD.as_bytes(), label)), "{label}");
        }
    }

    #[test]
    fn ebcdic_is_read_by_its_label_and_under_an_unknown_one() {
        let bytes: Vec<u8> = CARD.bytes().map(|b| if b == b' ' { 0x40 } else { 0xf0 + (b - b'0') }).collect();
        assert!(found(&decode(&bytes, "ibm037")) && found(&decode(&bytes, "x-mainframe")));
    }

    #[test]
    fn broken_multibyte_text_is_also_read_as_single_bytes() {
        assert!(found(&decode(b"\x814\xff4111 1111 1111 1111", "shift_jis")));
    }
}
