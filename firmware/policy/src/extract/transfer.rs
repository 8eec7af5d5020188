//! Content-Transfer-Encoding undone (RFC 2045 §6) and uuencode.
//!
//! Job: decode the way lenient clients do, and tell where strict ones would differ. Place: between a part's body and its
//! charset. Invariants: output is never longer than input; junk is skipped and reported, never an error. A crash leaves
//! nothing.

use std::borrow::Cow;

/// Decoded base64.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Base64 {
    pub bytes: Vec<u8>,
    /// Octets that are neither alphabet, padding nor white space, or padding in the middle, or a lone last digit.
    pub junk: bool,
    /// The same with padding ignored as junk, where that shifts the digits behind it.
    pub unpadded: Option<Vec<u8>>,
}

/// Octets for which room is made at once; little, since junk may end the run at any of them.
const STRIDE: usize = 256;
const SKIP: u8 = 0x40;
const PAD: u8 = 0x41;
const JUNK: u8 = 0x42;

const DIGITS: [u8; 256] = {
    let mut table = [JUNK; 256];
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut value = 0;
    while value < 64 {
        table[alphabet[value] as usize] = value as u8;
        value += 1;
    }
    table[b'=' as usize] = PAD;
    table[b'\r' as usize] = SKIP;
    table[b'\n' as usize] = SKIP;
    table[b' ' as usize] = SKIP;
    table[b'\t' as usize] = SKIP;
    table
};

/// Decodes base64. Padding ends a quantum and decoding goes on behind it, as concatenated encodings need.
pub(super) fn base64(input: &[u8]) -> Base64 {
    let (bytes, junk, shifted) = digits(input, false);
    let unpadded = shifted.then(|| digits(input, true).0);
    Base64 { bytes, junk, unpadded }
}

fn digits(input: &[u8], ignore_padding: bool) -> (Vec<u8>, bool, bool) {
    let mut out = Vec::with_capacity(input.len() / 4 * 3 + 3);
    let (mut held, mut count, mut junk, mut padded, mut shifted) = (0u32, 0u32, false, false, false);
    let mut rest = input;
    while let Some((&byte, tail)) = rest.split_first() {
        if count == 0 {
            // Whole quanta without white space: nearly everything.
            let line = rest.get(..STRIDE).unwrap_or(rest);
            let line = line.get(..memchr::memchr(b'\n', line).unwrap_or(line.len())).unwrap_or(line);
            let quanta = line.as_chunks::<4>().0;
            let start = out.len();
            out.resize(start + quanta.len() * 3, 0);
            let places = out.get_mut(start..).unwrap_or_default().as_chunks_mut::<3>().0;
            let mut taken = 0;
            for (quantum, place) in quanta.iter().zip(places) {
                let [a, b, c, d] = quantum.map(|b| DIGITS[b as usize]);
                if (a | b | c | d) & SKIP != 0 {
                    break;
                }
                let word = u32::from(a) << 18 | u32::from(b) << 12 | u32::from(c) << 6 | u32::from(d);
                let [_, x, y, z] = word.to_be_bytes();
                *place = [x, y, z];
                taken += 4;
            }
            out.truncate(start + taken / 4 * 3);
            if taken > 0 {
                junk |= padded;
                shifted |= padded;
                padded = false;
                rest = rest.get(taken..).unwrap_or_default();
                continue;
            }
        }
        rest = tail;
        match DIGITS[byte as usize] {
            SKIP => {}
            JUNK => junk = true,
            PAD if ignore_padding => {}
            PAD => {
                padded = true;
                // One padding octet after three digits, two after two; behind a whole quantum it is stray.
                shifted |= count == 1;
                flush(&mut out, held, count);
                (held, count) = (0, 0);
            }
            value => {
                // Digits after padding: strict decoders stopped there, ignorant ones do not resynchronise.
                if padded {
                    junk = true;
                    shifted = true;
                    padded = false;
                }
                held = held << 6 | u32::from(value);
                count += 1;
                if count == 4 {
                    let [_, x, y, z] = held.to_be_bytes();
                    out.extend_from_slice(&[x, y, z]);
                    (held, count) = (0, 0);
                }
            }
        }
    }
    junk |= count == 1;
    flush(&mut out, held, count);
    (out, junk, shifted && !ignore_padding)
}

fn flush(out: &mut Vec<u8>, held: u32, count: u32) {
    match count {
        2 => out.push((held >> 4) as u8),
        3 => out.extend_from_slice(&[(held >> 10) as u8, (held >> 2) as u8]),
        _ => {}
    }
}

/// Decodes quoted-printable (RFC 2045 §6.7). An `=` that starts no escape stays as it is. Borrowed when there is none.
pub(super) fn quoted_printable(input: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = memchr::memchr(b'=', input) else { return Cow::Borrowed(input) };
    let mut out = Vec::with_capacity(input.len());
    let (before, mut rest) = input.split_at(first);
    out.extend_from_slice(before);
    while let Some(escape) = rest.get(1..) {
        rest = match hex_pair(escape) {
            Some(octet) => {
                out.push(octet);
                escape.get(2..).unwrap_or_default()
            }
            None => match soft_break(escape) {
                Some(tail) => tail,
                None => {
                    out.push(b'=');
                    escape
                }
            },
        };
        let next = memchr::memchr(b'=', rest).unwrap_or(rest.len());
        let (before, tail) = rest.split_at(next);
        out.extend_from_slice(before);
        rest = tail;
    }
    Cow::Owned(out)
}

fn hex_pair(text: &[u8]) -> Option<u8> {
    let digit = |at: usize| text.get(at).and_then(|b| char::from(*b).to_digit(16));
    Some((digit(0)? << 4 | digit(1)?) as u8)
}

/// What follows a soft line break; transports may have added white space before the line end.
fn soft_break(escape: &[u8]) -> Option<&[u8]> {
    let space = escape.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
    let rest = escape.get(space..)?;
    match rest {
        [] | [b'\r'] => Some(&[]),
        [b'\r', b'\n', tail @ ..] | [b'\n', tail @ ..] => Some(tail),
        _ => None,
    }
}

/// One uuencoded file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Uuencoded<'a> {
    pub name: String,
    pub bytes: Vec<u8>,
    /// Whether `end` was missing or a line did not hold what it announced.
    pub malformed: bool,
    /// What stands behind it.
    pub rest: &'a [u8],
}

/// The next uuencoded file in `text` (POSIX `uuencode`), if a line `begin MODE NAME` and a data line stand in it.
pub(super) fn uuencoded(text: &[u8]) -> Option<Uuencoded<'_>> {
    let mut search = text;
    loop {
        let at = memchr::memmem::find(search, b"begin ")?;
        let starts_line = at == 0 || search.get(at - 1) == Some(&b'\n');
        let tail = search.get(at + 6..)?;
        if let Some(found) = starts_line.then(|| uu_file(tail)).flatten() {
            return Some(found);
        }
        search = tail;
    }
}

/// Whether `text` seems to hold a uuencoded file.
pub(super) fn has_uuencoded(text: &[u8]) -> bool {
    memchr::memmem::find_iter(text, b"begin ").any(|at| {
        let starts_line = at == 0 || text.get(at - 1) == Some(&b'\n');
        starts_line && text.get(at + 6..at + 9).is_some_and(|mode| mode.iter().all(|b| (b'0'..=b'7').contains(b)))
    })
}

fn uu_file(tail: &[u8]) -> Option<Uuencoded<'_>> {
    let (line, mut rest) = line(tail)?;
    let (mode, name) = line.split_at_checked(line.iter().position(|b| *b == b' ')?)?;
    if !(3..=4).contains(&mode.len()) || !mode.iter().all(|b| (b'0'..=b'7').contains(b)) {
        return None;
    }
    let (mut bytes, mut malformed) = (Vec::new(), true);
    while let Some((data, tail)) = self::line(rest) {
        if data == b"end" {
            (malformed, rest) = (false, tail);
            break;
        }
        let Some((length, code)) = data.split_first() else {
            rest = tail;
            continue;
        };
        let length = usize::from(length.wrapping_sub(0x20) & 0x3f);
        let start = bytes.len();
        for group in code.chunks(4) {
            let word = group
                .iter()
                .chain([b' '; 3].iter())
                .take(4)
                .fold(0u32, |word, b| word << 6 | u32::from(b.wrapping_sub(0x20) & 0x3f));
            let [_, x, y, z] = word.to_be_bytes();
            bytes.extend_from_slice(&[x, y, z]);
        }
        if bytes.len() - start < length {
            // Not a data line: the file was broken off.
            bytes.truncate(start);
            break;
        }
        bytes.truncate(start + length);
        rest = tail;
    }
    let name = String::from_utf8_lossy(name.trim_ascii()).into_owned();
    (!bytes.is_empty()).then_some(Uuencoded { name, bytes, malformed, rest })
}

/// The first line without its end, and what follows; `None` at the end of input.
fn line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    if text.is_empty() {
        return None;
    }
    let end = memchr::memchr(b'\n', text).unwrap_or(text.len());
    let (line, rest) = text.split_at(end);
    Some((line.strip_suffix(b"\r").unwrap_or(line), rest.get(1..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_with_line_ends_padding_and_truncation() {
        for (input, output, junk) in [
            ("NDExMQ==", "4111", false),
            ("NDEx\r\nMQ==\r\n", "4111", false),
            ("ND\r\nEx\nMQ", "4111", false),
            ("N D E x\tMQ = =", "4111", false),
            ("NDExMTExM", "411111", true),
            ("NDEx!MQ==", "4111", true),
            ("NDE=MTE=", "4111", true),
            ("", "", false),
            ("=", "", false),
        ] {
            let decoded = base64(input.as_bytes());
            assert_eq!((decoded.bytes.as_slice(), decoded.junk), (output.as_bytes(), junk), "{input}");
        }
    }

    #[test]
    fn padding_in_the_middle_gives_the_reading_of_decoders_that_ignore_it() {
        let decoded = base64(b"ND=ExMTEx");
        assert!(decoded.junk);
        assert_eq!(decoded.unpadded.unwrap(), b"411111");
    }

    #[test]
    fn quoted_printable_joins_soft_breaks_and_keeps_stray_equals_signs() {
        for (input, output) in [
            ("plain", "plain"),
            ("=34=31=31=31", "4111"),
            ("41=\r\n11", "4111"),
            ("41= \t\r\n11", "4111"),
            ("41=\n11", "4111"),
            ("=3d=3D", "=="),
            ("a=b=zz=", "a=b=zz"),
            ("=", ""),
            ("==34", "=4"),
        ] {
            assert_eq!(quoted_printable(input.as_bytes()).as_ref(), output.as_bytes(), "{input}");
        }
    }

    #[test]
    fn uuencoded_files_are_found_among_text() {
        let text = b"Dear all,\r\nbegin with this.\r\nbegin 644 card.txt\r\n'-#$Q,2`T,0``\r\n`\r\nend\r\nbye";
        let found = uuencoded(text).unwrap();
        assert_eq!(
            (found.name.as_str(), found.bytes.as_slice(), found.malformed),
            ("card.txt", &b"4111 41"[..], false)
        );
        assert_eq!(found.rest, b"bye");
        assert_eq!(uuencoded(b"begin 644 lonely\n"), None);
    }

    #[test]
    fn a_uuencoded_file_without_end_is_malformed() {
        let found = uuencoded(b"begin 644 card.txt\n'-#$Q,2`T,0``\n").unwrap();
        assert_eq!((found.bytes.as_slice(), found.malformed), (&b"4111 41"[..], true));
    }
}
