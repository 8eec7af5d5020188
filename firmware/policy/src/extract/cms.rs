//! S/MIME bodies (RFC 5652, RFC 8551).
//!
//! Job: tell encrypted from signed, and read what is signed, which any client shows. Place: in workers. Invariants: BER
//! as lenient as clients take it, recursion bounded. A crash leaves nothing.

use super::{
    About, Budget, Condition, Part, mime,
    read::{self, Item},
};
use std::borrow::Cow;

/// `id-signedData` and its sisters share this beginning: 1.2.840.113549.1.7.
const PKCS7: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07";
/// Constructed elements inside each other; a signed message needs eight.
const MAX_DEPTH: u32 = 24;

/// Reads a CMS object.
pub(super) fn signed_or_encrypted(mut item: Item, bytes: &[u8], budget: &mut Budget, sink: &mut dyn FnMut(Part<'_>)) {
    let Some((oid, content)) = content_info(bytes) else {
        return item.emit_unread("pkcs7", Condition::Malformed, sink);
    };
    match oid.strip_prefix(PKCS7) {
        Some([2]) => {}
        // Enveloped, encrypted, authenticated and enveloped (RFC 5083). What else there is or may come hides its content
        // too, and counts as the worst of them.
        _ => return item.emit_unread("pkcs7", Condition::Encrypted, sink),
    }
    let signed = signed_content(content);
    if signed.is_none() {
        item.note(Condition::Malformed);
    }
    let entity = signed.flatten().unwrap_or_default();
    let parts = mime::walk_attached(&entity, &format!("{}!", item.section), item.depth + 1, budget);
    // A detached signature holds no content.
    let parts = if entity.is_empty() { Vec::new() } else { parts };
    item.emit("pkcs7", Cow::Borrowed(""), Vec::new(), sink);
    for part in parts {
        let about = About { attachment: true, ..part.about };
        read::read(&about, &part.body, budget, sink);
    }
}

/// ContentInfo: its type, and what stands in `[0]`.
fn content_info(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, inner, _) = element(bytes, 0).filter(|(tag, ..)| *tag == 0x30)?;
    let (_, oid, rest) = element(inner, 0).filter(|(tag, ..)| *tag == 0x06)?;
    let (_, content, _) = element(rest, 0).filter(|(tag, ..)| *tag == 0xa0)?;
    Some((oid, content))
}

/// From SignedData: `None` if it is broken, `Some(None)` if the signature is detached.
fn signed_content(content: &[u8]) -> Option<Option<Vec<u8>>> {
    let (_, signed, _) = element(content, 0).filter(|(tag, ..)| *tag == 0x30)?;
    let (_, _, rest) = element(signed, 0).filter(|(tag, ..)| *tag == 0x02)?;
    let (_, _, rest) = element(rest, 0).filter(|(tag, ..)| *tag == 0x31)?;
    let (_, encapsulated, _) = element(rest, 0).filter(|(tag, ..)| *tag == 0x30)?;
    let (_, _, rest) = element(encapsulated, 0).filter(|(tag, ..)| *tag == 0x06)?;
    let Some((_, explicit, _)) = element(rest, 0).filter(|(tag, ..)| *tag == 0xa0) else { return Some(None) };
    let mut octets = Vec::new();
    octet_string(explicit, 0, &mut octets)?;
    Some(Some(octets))
}

/// Octet strings, plain or in pieces.
fn octet_string(bytes: &[u8], depth: u32, out: &mut Vec<u8>) -> Option<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let (tag, content, tail) = element(rest, depth)?;
        match tag {
            0x04 => out.extend_from_slice(content),
            0x24 if depth < MAX_DEPTH => octet_string(content, depth + 1, out)?,
            0x00 => break,
            _ => return None,
        }
        rest = tail;
    }
    Some(())
}

/// The first element: tag, content, what follows. Indefinite lengths end at their end-of-contents (X.690 §8.1.3.6). A
/// length beyond the end is cut there, as lenient clients do.
fn element(bytes: &[u8], depth: u32) -> Option<(u8, &[u8], &[u8])> {
    let [tag, length, rest @ ..] = bytes else { return None };
    if *length == 0x80 {
        if depth >= MAX_DEPTH {
            return None;
        }
        let mut tail = rest;
        loop {
            if tail.is_empty() || tail.starts_with(&[0, 0]) {
                let content = rest.get(..rest.len() - tail.len())?;
                return Some((*tag, content, tail.get(2..).unwrap_or_default()));
            }
            let (_, _, next) = element(tail, depth + 1)?;
            tail = next;
        }
    }
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        _ => {
            let (octets, rest) = rest.split_at_checked(usize::from(length & 0x7f)).filter(|(o, _)| o.len() <= 8)?;
            let length = octets.iter().fold(0usize, |length, octet| length << 8 | usize::from(*octet));
            (length, rest)
        }
    };
    let (content, tail) = rest.split_at(length.min(rest.len()));
    Some((*tag, content, tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap();
        [&[tag, 0x82][..], &length.to_be_bytes(), content].concat()
    }

    fn indefinite(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, 0x80][..], content, &[0, 0]].concat()
    }

    fn signed(content: &[u8]) -> Vec<u8> {
        let data = wrap(6, &[PKCS7, &[1]].concat());
        let encapsulated = wrap(0x30, &[data, wrap(0xa0, content)].concat());
        let body = wrap(0x30, &[wrap(2, &[1]), wrap(0x31, &[]), encapsulated, wrap(0x31, &[])].concat());
        wrap(0x30, &[wrap(6, &[PKCS7, &[2]].concat()), wrap(0xa0, &body)].concat())
    }

    fn read_all(bytes: &[u8]) -> Vec<Part<'static>> {
        let mut parts = Vec::new();
        let item = Item { section: "2".to_owned(), in_worker: true, ..Item::default() };
        signed_or_encrypted(item, bytes, &mut Budget::unhurried(), &mut |part| parts.push(part.into_owned()));
        parts
    }

    #[test]
    fn signed_content_is_read_whole_and_in_pieces() {
        let entity = b"Content-Type: text/plain\r\n\r\n4111 1111";
        let (one, two) = entity.split_at(10);
        let pieces = indefinite(0x24, &[wrap(4, one), wrap(4, two)].concat());
        for content in [wrap(4, entity), pieces] {
            let parts = read_all(&signed(&content));
            assert!(parts.iter().any(|p| p.section == "2!1" && p.text == "4111 1111"), "{parts:?}");
            assert!(parts.iter().all(|p| p.conditions.is_empty()));
        }
    }

    #[test]
    fn enveloped_content_is_encrypted() {
        let enveloped = wrap(0x30, &[wrap(6, &[PKCS7, &[3]].concat()), wrap(0xa0, &[])].concat());
        assert_eq!(read_all(&enveloped)[0].conditions, [Condition::Encrypted]);
    }

    #[test]
    fn endless_nesting_is_malformed() {
        let deep = [0x30, 0x80].repeat(100_000);
        assert_eq!(read_all(&deep)[0].conditions, [Condition::Malformed]);
    }
}
