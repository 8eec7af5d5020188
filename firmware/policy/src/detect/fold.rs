//! Folding of what is not ASCII.
//!
//! Job: write digits of all scripts, wide letters, odd spaces, dashes and dots as their ASCII likes, and drop what no
//! reader sees, so that detectors look at ASCII alone (features P10). Place: before the one pass over a text. Invariants:
//! ASCII runs are copied as they are; every byte of the folded text maps back to the byte of the original it came from;
//! pure ASCII is borrowed and costs one sweep. A crash leaves nothing.

use std::borrow::Cow;

/// First code points of the runs of ten decimal digits (Unicode 16 general category Nd), sorted but for the last.
const ZEROS: [u32; 70] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0, 0xf20,
    0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0,
    0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0,
    0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x11f50, 0x16a60,
    0x16ac0, 0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e4f0, 0x1e950, 0x1fbf0,
    0x10d40, 0x116d0, 0x116da,
];

/// What becomes of one character beyond ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fold {
    /// Written as this ASCII byte.
    Ascii(u8),
    /// Not seen by a reader.
    Drop,
    /// Kept as it is.
    Keep,
}

fn fold(c: char) -> Fold {
    let u = c as u32;
    match u {
        // Soft hyphen, joiners, marks of direction, invisible operators, variation selectors, tags, key caps.
        // And control characters, but for the line end.
        0x80..=0x84 | 0x86..=0x9f => Fold::Drop,
        0xad | 0x34f | 0x61c | 0x115f | 0x1160 | 0x17b4 | 0x17b5 | 0x180b..=0x180f | 0x200b..=0x200f => Fold::Drop,
        0x202a..=0x202e | 0x2060..=0x206f | 0x3164 | 0xfe00..=0xfe0f | 0xfeff | 0xffa0 => Fold::Drop,
        0x300..=0x36f | 0x1ab0..=0x1aff | 0x1dc0..=0x1dff | 0x20d0..=0x20ff | 0xfe20..=0xfe2f => Fold::Drop,
        0xe0000..=0xe0fff => Fold::Drop,
        0x85 | 0x2028 | 0x2029 => Fold::Ascii(b'\n'),
        0xa0 | 0x1680 | 0x2000..=0x200a | 0x202f | 0x205f | 0x3000 | 0x2800 => Fold::Ascii(b' '),
        0x58a | 0x5be | 0x1806 | 0x2010..=0x2015 | 0x2043 | 0x2212 | 0x2500 | 0x2501 | 0x2796 => Fold::Ascii(b'-'),
        0x2e3a | 0x2e3b | 0x301c | 0x3030 | 0x30fc | 0xfe31 | 0xfe32 | 0xfe58 | 0xfe63 | 0xff70 => Fold::Ascii(b'-'),
        0xb7 | 0x2022 | 0x2024 | 0x2027 | 0x2219 | 0x22c5 | 0x3002 | 0x30fb | 0xfe52 | 0xff61 | 0xff65 => {
            Fold::Ascii(b'.')
        }
        0x2044 | 0x2215 | 0x29f8 => Fold::Ascii(b'/'),
        0x2502 | 0x2503 | 0x00a6 => Fold::Ascii(b'|'),
        // Circled digits; the zeros stand apart.
        0x2460..=0x2468 => Fold::Ascii(b'1' + (u - 0x2460) as u8),
        0x2776..=0x277e => Fold::Ascii(b'1' + (u - 0x2776) as u8),
        0x2780..=0x2788 => Fold::Ascii(b'1' + (u - 0x2780) as u8),
        0x278a..=0x2792 => Fold::Ascii(b'1' + (u - 0x278a) as u8),
        0x24ea | 0x24ff | 0x1f10b | 0x1f10c => Fold::Ascii(b'0'),
        // Full-width ASCII.
        0xff01..=0xff5e => Fold::Ascii((u - 0xfee0) as u8),
        // Mathematical letters: thirteen alphabets of 52 in the order A–Z, a–z.
        0x1d400..=0x1d6a3 => {
            let letter = ((u - 0x1d400) % 52) as u8;
            Fold::Ascii(if letter < 26 { b'A' + letter } else { b'a' + letter - 26 })
        }
        0x24b6..=0x24cf => Fold::Ascii(b'A' + (u - 0x24b6) as u8),
        0x24d0..=0x24e9 => Fold::Ascii(b'a' + (u - 0x24d0) as u8),
        0x660.. => match ZEROS.iter().find(|&&zero| (zero..zero + 10).contains(&u)) {
            Some(zero) => Fold::Ascii(b'0' + (u - zero) as u8),
            None => Fold::Keep,
        },
        _ => Fold::Keep,
    }
}

/// A text as the detectors see it, and the way back.
#[derive(Debug)]
pub(super) struct Folded<'t> {
    /// The folded text.
    pub(super) text: Cow<'t, str>,
    original: &'t str,
    /// Folded offset and original offset, wherever the distance of the two changes; sorted.
    steps: Vec<(usize, usize)>,
}

impl<'t> Folded<'t> {
    /// Folds `text`.
    pub(super) fn new(text: &'t str) -> Self {
        let borrowed = Self { text: Cow::Borrowed(text), original: text, steps: Vec::new() };
        if text.is_ascii() || text.chars().all(|c| c.is_ascii() || fold(c) == Fold::Keep) {
            return borrowed;
        }
        let mut out = String::with_capacity(text.len());
        let mut steps: Vec<(usize, usize)> = Vec::new();
        let (mut at, mut distance) = (0, 0);
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            let ascii = rest.bytes().position(|b| !b.is_ascii()).unwrap_or(rest.len());
            out.push_str(&rest[..ascii]);
            at += ascii;
            let Some(c) = rest[ascii..].chars().next() else { break };
            match fold(c) {
                Fold::Ascii(b) => out.push(b as char),
                Fold::Drop => {}
                Fold::Keep => out.push(c),
            }
            at += c.len_utf8();
            if at - out.len() != distance {
                distance = at - out.len();
                steps.push((out.len(), at));
            }
        }
        Self { text: Cow::Owned(out), original: text, steps }
    }

    /// Whether folding changed anything.
    pub(super) fn changed(&self) -> bool {
        matches!(self.text, Cow::Owned(_))
    }

    /// The range of the original text behind a range of the folded one, both on character borders. What was dropped
    /// inside belongs to it, what was dropped before and behind does not.
    pub(super) fn original(&self, start: usize, end: usize) -> (usize, usize) {
        if self.steps.is_empty() {
            return (start, end);
        }
        let begin = self.map(start);
        let inside = self.text.get(start..end).unwrap_or_default();
        let Some((last, _)) = inside.char_indices().next_back() else { return (begin, begin) };
        let last = self.map(start + last);
        let width = self.original.get(last..).and_then(|t| t.chars().next()).map_or(0, char::len_utf8);
        (begin, last + width)
    }

    fn map(&self, folded: usize) -> usize {
        let step = self.steps.partition_point(|&(f, _)| f <= folded);
        let (f, o) = step.checked_sub(1).and_then(|i| self.steps.get(i)).copied().unwrap_or((0, 0));
        (o + folded - f).min(self.original.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_is_borrowed() {
        assert!(!Folded::new("plain 123").changed());
        assert!(!Folded::new("Grüße").changed(), "letters stay");
    }

    #[test]
    fn digits_of_other_scripts_and_odd_separators_become_ascii() {
        for (text, expected) in [
            ("１２３-４５-６７８９", "123-45-6789"),
            ("\u{661}\u{662}\u{663}", "123"),
            ("\u{967}\u{968}", "12"),
            ("\u{1d7d8}\u{1d7ff}", "09"),
            ("1\u{a0}2\u{2009}3\u{2013}4\u{2011}5", "1 2 3-4-5"),
            ("1\u{200b}2\u{ad}3\u{2060}4", "1234"),
            ("1\u{80}2\u{9f}3\u{85}4", "123\n4"),
            ("1\u{fe0f}\u{20e3}2\u{fe0f}\u{20e3}", "12"),
            ("ＤＥ８９", "DE89"),
            ("\u{1d40f}\u{1d41a}", "Pa"),
        ] {
            assert_eq!(Folded::new(text).text, expected);
        }
    }

    #[test]
    fn zeros_are_sorted_into_whole_runs_of_ten() {
        for zero in ZEROS {
            for digit in 0..10 {
                let c = char::from_u32(zero + digit).unwrap();
                assert_eq!(fold(c), Fold::Ascii(b'0' + digit as u8), "{zero:x}");
                assert!(c.is_numeric(), "{zero:x} is no number");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn every_folded_range_maps_to_characters_of_the_original(text in "[ -~１-９\u{200b}é\u{2013}\u{1d7d8}]{0,40}") {
            let folded = Folded::new(&text);
            let borders: Vec<usize> =
                folded.text.char_indices().map(|(i, _)| i).chain([folded.text.len()]).collect();
            for (n, &start) in borders.iter().enumerate() {
                for &end in borders.iter().skip(n) {
                    let (a, b) = folded.original(start, end);
                    let slice = text.get(a..b).expect("on character borders");
                    let again = Folded::new(slice);
                    proptest::prop_assert_eq!(&*again.text, &folded.text[start..end]);
                }
            }
        }
    }
}
