//! International bank account numbers (ISO 13616).
//!
//! Job: read an IBAN from its country code on. Place: called where a run of digits has two letters before it. Invariants:
//! length and kind of each character are the country's (SWIFT IBAN registry), modulus 97 is one; at most 34 characters
//! and their separators are looked at. A crash leaves nothing.

use super::checksum;

/// Country and its BBAN: counts and kinds, `n` digits, `a` upper-case letters, `c` either.
const COUNTRIES: [(&[u8; 2], &str); 88] = [
    (b"AD", "8n12c"),
    (b"AE", "19n"),
    (b"AL", "8n16c"),
    (b"AT", "16n"),
    (b"AZ", "4a20c"),
    (b"BA", "16n"),
    (b"BE", "12n"),
    (b"BG", "4a6n8c"),
    (b"BH", "4a14c"),
    (b"BI", "23n"),
    (b"BR", "23n1a1c"),
    (b"BY", "4c4n16c"),
    (b"CH", "5n12c"),
    (b"CR", "18n"),
    (b"CY", "8n16c"),
    (b"CZ", "20n"),
    (b"DE", "18n"),
    (b"DJ", "23n"),
    (b"DK", "14n"),
    (b"DO", "4c20n"),
    (b"EE", "16n"),
    (b"EG", "25n"),
    (b"ES", "20n"),
    (b"FI", "14n"),
    (b"FK", "2a12n"),
    (b"FO", "14n"),
    (b"FR", "10n11c2n"),
    (b"GB", "4a14n"),
    (b"GE", "2a16n"),
    (b"GI", "4a15c"),
    (b"GL", "14n"),
    (b"GR", "7n16c"),
    (b"GT", "24c"),
    (b"HN", "4a20n"),
    (b"HR", "17n"),
    (b"HU", "24n"),
    (b"IE", "4a14n"),
    (b"IL", "19n"),
    (b"IQ", "4a15n"),
    (b"IS", "22n"),
    (b"IT", "1a10n12c"),
    (b"JO", "4a4n18c"),
    (b"KW", "4a22c"),
    (b"KZ", "3n13c"),
    (b"LB", "4n20c"),
    (b"LC", "4a24c"),
    (b"LI", "5n12c"),
    (b"LT", "16n"),
    (b"LU", "3n13c"),
    (b"LV", "4a13c"),
    (b"LY", "21n"),
    (b"MC", "10n11c2n"),
    (b"MD", "20c"),
    (b"ME", "18n"),
    (b"MK", "3n10c2n"),
    (b"MN", "16n"),
    (b"MR", "23n"),
    (b"MT", "4a5n18c"),
    (b"MU", "4a19n3a"),
    (b"NI", "4a20n"),
    (b"NL", "4a10n"),
    (b"NO", "11n"),
    (b"OM", "3n16c"),
    (b"PK", "4a16c"),
    (b"PL", "24n"),
    (b"PS", "4a21c"),
    (b"PT", "21n"),
    (b"QA", "4a21c"),
    (b"RO", "4a16c"),
    (b"RS", "18n"),
    (b"RU", "14n15c"),
    (b"SA", "2n18c"),
    (b"SC", "4a20n3a"),
    (b"SD", "14n"),
    (b"SE", "20n"),
    (b"SI", "15n"),
    (b"SK", "20n"),
    (b"SM", "1a10n12c"),
    (b"SO", "19n"),
    (b"ST", "21n"),
    (b"SV", "4a20n"),
    (b"TL", "19n"),
    (b"TN", "20n"),
    (b"TR", "6n16c"),
    (b"UA", "6n19c"),
    (b"VA", "18n"),
    (b"VG", "4a16n"),
    (b"XK", "16n"),
];

/// Separators between two characters: ` `, `-`, a line end with a quote mark, a border of cells.
const MAX_GAP: usize = 4;

/// An IBAN in a text.
#[derive(Debug, PartialEq)]
pub(super) struct Iban {
    pub(super) start: usize,
    pub(super) end: usize,
    /// Upper case, without separators.
    pub(super) characters: Vec<u8>,
    /// The score of its writing.
    pub(super) score: f32,
}

/// Reads the IBAN whose check digits start at `digits` in the folded text.
pub(super) fn at(bytes: &[u8], digits: usize) -> Option<Iban> {
    let before = bytes.get(..digits)?;
    let letters_end = before.iter().rposition(|&b| !is_separator(b))? + 1;
    if digits - letters_end > MAX_GAP {
        return None;
    }
    let start = letters_end.checked_sub(2)?;
    let &[a, b] = bytes.get(start..letters_end)? else { return None };
    if !a.is_ascii_alphabetic() || !b.is_ascii_alphabetic() {
        return None;
    }
    // `de 89 …` in running text is a word; letters apart from the digits have to be capitals.
    if letters_end != digits && (a.is_ascii_lowercase() || b.is_ascii_lowercase()) {
        return None;
    }
    if start.checked_sub(1).and_then(|i| bytes.get(i)).is_some_and(u8::is_ascii_alphanumeric) {
        return None;
    }
    let country = [a.to_ascii_uppercase(), b.to_ascii_uppercase()];
    let found = COUNTRIES.binary_search_by(|(code, _)| (*code).cmp(&country)).ok()?;
    let (_, structure) = COUNTRIES.get(found)?;

    let mut characters = country.to_vec();
    let mut position = digits;
    let mut gaps = Gaps::default();
    take(bytes, &mut position, b'n', 2, &mut characters, &mut gaps)?;
    let mut count = 0;
    for kind in structure.bytes() {
        if kind.is_ascii_digit() {
            count = count * 10 + usize::from(kind - b'0');
        } else {
            take(bytes, &mut position, kind, count, &mut characters, &mut gaps)?;
            count = 0;
        }
    }
    if bytes.get(position).is_some_and(u8::is_ascii_alphanumeric) || !checksum::iban(&characters) {
        return None;
    }
    let lower = bytes.get(start..position)?.iter().any(u8::is_ascii_lowercase);
    let score = match (gaps.odd, lower) {
        (false, false) => 0.9,
        (false, true) => 0.75,
        (true, _) => 0.6,
    };
    Some(Iban { start, end: position, characters, score })
}

/// What was seen between the characters.
#[derive(Default)]
struct Gaps {
    /// Anything but single spaces, dashes and borders of cells or lines.
    odd: bool,
}

fn is_separator(b: u8) -> bool {
    matches!(b, b' ' | b'-' | b'.' | b'\t' | b'|' | b'\r' | b'\n' | b'/' | b'_')
}

/// Takes `count` characters of one kind, with separators between them but not behind the last.
fn take(bytes: &[u8], position: &mut usize, kind: u8, count: usize, out: &mut Vec<u8>, gaps: &mut Gaps) -> Option<()> {
    for _ in 0..count {
        let start = *position;
        while bytes.get(*position).is_some_and(|&b| is_separator(b) || b == b'>' && *position > start) {
            *position += 1;
        }
        let gap = bytes.get(start..*position)?;
        if gap.len() > MAX_GAP {
            return None;
        }
        gaps.odd |= gap.len() > 1 && !gap.iter().any(|b| matches!(b, b'\n' | b'\t' | b'|'))
            || gap.iter().any(|b| matches!(b, b'/' | b'_' | b'.'));
        let c = bytes.get(*position)?.to_ascii_uppercase();
        let fits = match kind {
            b'n' => c.is_ascii_digit(),
            b'a' => c.is_ascii_uppercase(),
            _ => c.is_ascii_alphanumeric(),
        };
        if !fits {
            return None;
        }
        out.push(c);
        *position += 1;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str) -> Option<Iban> {
        let bytes = text.as_bytes();
        bytes.iter().enumerate().filter(|(_, b)| b.is_ascii_digit()).find_map(|(i, _)| at(bytes, i))
    }

    #[test]
    fn countries_are_sorted_and_no_longer_than_34() {
        assert!(COUNTRIES.windows(2).all(|w| w[0].0 < w[1].0));
        for (code, structure) in COUNTRIES {
            let total: usize =
                structure.split(|c: char| c.is_ascii_alphabetic()).filter_map(|n| n.parse::<usize>().ok()).sum();
            assert!((11..=30).contains(&total), "{code:?}");
        }
    }

    #[test]
    fn examples_of_the_registry_are_read_in_every_usual_writing() {
        for iban in [
            "GB82WEST12345698765432",
            "DE89370400440532013000",
            "FR1420041010050500013M02606",
            "NL91ABNA0417164300",
            "CH9300762011623852957",
            "NO9386011117947",
            "MT84MALT011000012345MTLCAST001S",
            "BR1800360305000010009795493C1",
            "IT60X0542811101000000123456",
            "SE4550000000058398257466",
            "PL61109010140000071219812874",
            "KW81CBKU0000000000001234560101",
            "AE070331234567890123456",
            "SC18SSCB11010000000000001497USD",
        ] {
            let groups: Vec<String> =
                iban.as_bytes().chunks(4).map(|c| String::from_utf8_lossy(c).into_owned()).collect();
            for (gap, least) in
                [("", 0.9), (" ", 0.9), ("-", 0.9), ("\t", 0.9), ("\n", 0.9), ("\r\n> ", 0.9), (".", 0.6)]
            {
                let text = format!("IBAN: {}, thank you", groups.join(gap));
                let found = find(&text).unwrap_or_else(|| panic!("{text}"));
                assert_eq!(found.characters, iban.as_bytes());
                assert!(found.score >= least, "{text} {}", found.score);
            }
            assert!(find(&iban.to_lowercase()).is_some(), "{iban}");
        }
    }

    #[test]
    fn near_misses_are_none() {
        for text in [
            "DE88370400440532013000",
            "DE8937040044053201300",
            "DE893704004405320130001",
            "XDE89370400440532013000",
            "ZZ89370400440532013000",
            "GB82123412345698765432",
            "de 89370400440532013000",
        ] {
            assert_eq!(find(text), None, "{text}");
        }
    }
}
