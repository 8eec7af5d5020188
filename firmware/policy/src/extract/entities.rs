//! Character references of HTML (HTML standard §13.5), numeric ones and those names that stand in mail.
//!
//! Job: decode what begins with `&`. Place: under the HTML reader. Invariants: what is no reference stays as it is; no
//! named reference stands for a digit, so an unknown name can't hide one. A crash leaves nothing.

/// Names, sorted, and what they stand for. Latin letters, and everything that can stand between digits.
const NAMED: &[(&str, &str)] = &[
    ("AElig", "Æ"),
    ("Aacute", "Á"),
    ("Acirc", "Â"),
    ("Agrave", "À"),
    ("Aring", "Å"),
    ("Atilde", "Ã"),
    ("Auml", "Ä"),
    ("Ccedil", "Ç"),
    ("ETH", "Ð"),
    ("Eacute", "É"),
    ("Ecirc", "Ê"),
    ("Egrave", "È"),
    ("Euml", "Ë"),
    ("Iacute", "Í"),
    ("Icirc", "Î"),
    ("Igrave", "Ì"),
    ("Iuml", "Ï"),
    ("NegativeMediumSpace", "\u{200b}"),
    ("NegativeThinSpace", "\u{200b}"),
    ("NegativeVeryThinSpace", "\u{200b}"),
    ("NewLine", "\n"),
    ("NoBreak", "\u{2060}"),
    ("NonBreakingSpace", " "),
    ("Ntilde", "Ñ"),
    ("OElig", "Œ"),
    ("Oacute", "Ó"),
    ("Ocirc", "Ô"),
    ("Ograve", "Ò"),
    ("Oslash", "Ø"),
    ("Otilde", "Õ"),
    ("Ouml", "Ö"),
    ("Scaron", "Š"),
    ("THORN", "Þ"),
    ("Tab", "\t"),
    ("ThinSpace", "\u{2009}"),
    ("Uacute", "Ú"),
    ("Ucirc", "Û"),
    ("Ugrave", "Ù"),
    ("Uuml", "Ü"),
    ("Yacute", "Ý"),
    ("ZeroWidthSpace", "\u{200b}"),
    ("aacute", "á"),
    ("acirc", "â"),
    ("aelig", "æ"),
    ("agrave", "à"),
    ("amp", "&"),
    ("apos", "'"),
    ("aring", "å"),
    ("ast", "*"),
    ("atilde", "ã"),
    ("auml", "ä"),
    ("bsol", "\\"),
    ("bull", "•"),
    ("ccedil", "ç"),
    ("cent", "¢"),
    ("colon", ":"),
    ("comma", ","),
    ("commat", "@"),
    ("copy", "©"),
    ("dash", "‐"),
    ("deg", "°"),
    ("dollar", "$"),
    ("eacute", "é"),
    ("ecirc", "ê"),
    ("egrave", "è"),
    ("emsp", "\u{2003}"),
    ("emsp13", "\u{2004}"),
    ("emsp14", "\u{2005}"),
    ("ensp", "\u{2002}"),
    ("equals", "="),
    ("eth", "ð"),
    ("euml", "ë"),
    ("euro", "€"),
    ("excl", "!"),
    ("gt", ">"),
    ("hairsp", "\u{200a}"),
    ("hellip", "…"),
    ("horbar", "―"),
    ("hyphen", "‐"),
    ("iacute", "í"),
    ("icirc", "î"),
    ("iexcl", "¡"),
    ("igrave", "ì"),
    ("iquest", "¿"),
    ("iuml", "ï"),
    ("laquo", "«"),
    ("lbrace", "{"),
    ("lbrack", "["),
    ("lcub", "{"),
    ("ldquo", "“"),
    ("lowbar", "_"),
    ("lpar", "("),
    ("lrm", "\u{200e}"),
    ("lsqb", "["),
    ("lsquo", "‘"),
    ("lt", "<"),
    ("mdash", "—"),
    ("middot", "·"),
    ("minus", "−"),
    ("nbsp", "\u{a0}"),
    ("ndash", "–"),
    ("ntilde", "ñ"),
    ("num", "#"),
    ("numsp", "\u{2007}"),
    ("oacute", "ó"),
    ("ocirc", "ô"),
    ("oelig", "œ"),
    ("ograve", "ò"),
    ("oslash", "ø"),
    ("otilde", "õ"),
    ("ouml", "ö"),
    ("para", "¶"),
    ("percnt", "%"),
    ("period", "."),
    ("plus", "+"),
    ("pound", "£"),
    ("puncsp", "\u{2008}"),
    ("quest", "?"),
    ("quot", "\""),
    ("raquo", "»"),
    ("rbrace", "}"),
    ("rbrack", "]"),
    ("rcub", "}"),
    ("rdquo", "”"),
    ("reg", "®"),
    ("rlm", "\u{200f}"),
    ("rpar", ")"),
    ("rsqb", "]"),
    ("rsquo", "’"),
    ("scaron", "š"),
    ("sect", "§"),
    ("semi", ";"),
    ("shy", "\u{ad}"),
    ("sol", "/"),
    ("sup1", "¹"),
    ("sup2", "²"),
    ("sup3", "³"),
    ("szlig", "ß"),
    ("thinsp", "\u{2009}"),
    ("thorn", "þ"),
    ("tilde", "˜"),
    ("times", "×"),
    ("trade", "™"),
    ("uacute", "ú"),
    ("ucirc", "û"),
    ("ugrave", "ù"),
    ("uuml", "ü"),
    ("verbar", "|"),
    ("vert", "|"),
    ("yacute", "ý"),
    ("yen", "¥"),
    ("yuml", "ÿ"),
    ("zwj", "\u{200d}"),
    ("zwnj", "\u{200c}"),
];

/// Names that are references with their semicolon only (`&it` begins many a word), sorted: what is invisible, and further
/// ways to write what can stand between digits.
const CLOSED: &[(&str, &str)] = &[
    ("ApplyFunction", "\u{2061}"),
    ("CenterDot", "·"),
    ("DotDot", "\u{20dc}"),
    ("DownBreve", "\u{311}"),
    ("HorizontalLine", "\u{2500}"),
    ("InvisibleComma", "\u{2063}"),
    ("InvisibleTimes", "\u{2062}"),
    ("MediumSpace", "\u{205f}"),
    ("NegativeThickSpace", "\u{200b}"),
    ("ThickSpace", "\u{205f}\u{200a}"),
    ("TripleDot", "\u{20db}"),
    ("UnderBar", "_"),
    ("VerticalLine", "|"),
    ("VeryThinSpace", "\u{200a}"),
    ("af", "\u{2061}"),
    ("boxh", "\u{2500}"),
    ("boxv", "\u{2502}"),
    ("bullet", "•"),
    ("centerdot", "·"),
    ("frasl", "\u{2044}"),
    ("ic", "\u{2063}"),
    ("it", "\u{2062}"),
    ("midast", "*"),
    ("sdot", "\u{22c5}"),
    ("tdot", "\u{20db}"),
];

/// The longest name in both tables.
const LONGEST: usize = 21;

/// Appends `text` with its references decoded.
pub(super) fn decode_into(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'&', rest.as_bytes()) {
        let (before, reference) = rest.split_at(at);
        out.push_str(before);
        rest = match reference.strip_prefix("&#") {
            Some(number) => numeric(number, out),
            None => named(reference.strip_prefix('&').unwrap_or_default(), out),
        };
    }
    out.push_str(rest);
}

/// Behind `&#`. Returns what follows the reference.
fn numeric<'t>(text: &'t str, out: &mut String) -> &'t str {
    let (digits, radix) = match text.strip_prefix(['x', 'X']) {
        Some(hex) => (hex, 16),
        None => (text, 10),
    };
    let length = digits.bytes().take_while(|b| char::from(*b).is_digit(radix)).count();
    let (digits, rest) = digits.split_at(length);
    if digits.is_empty() {
        out.push_str("&#");
        return text;
    }
    // Leading zeros may be many; more than eight digits otherwise are out of range.
    let code = u32::from_str_radix(digits.trim_start_matches('0'), radix).unwrap_or(0);
    out.push(character(code));
    rest.strip_prefix(';').unwrap_or(rest)
}

/// HTML standard §13.2.5.80: 128 to 159 mean Windows-1252.
fn character(code: u32) -> char {
    match u8::try_from(code) {
        Ok(byte @ 0x80..=0x9f) => {
            encoding_rs::WINDOWS_1252.decode_without_bom_handling(&[byte]).0.chars().next().unwrap_or('\u{fffd}')
        }
        _ => char::from_u32(code).filter(|c| *c != '\0').unwrap_or('\u{fffd}'),
    }
}

/// Behind `&`. A name may stand without its semicolon, and then the longest one counts.
fn named<'t>(text: &'t str, out: &mut String) -> &'t str {
    let length = text.bytes().take(LONGEST).take_while(u8::is_ascii_alphanumeric).count();
    let closed = text.split_at_checked(length).and_then(|(name, rest)| {
        let at = CLOSED.binary_search_by(|(known, _)| known.cmp(&name)).ok()?;
        Some((CLOSED.get(at)?.1, rest.strip_prefix(';')?))
    });
    if let Some((decoded, rest)) = closed {
        out.push_str(decoded);
        return rest;
    }
    let longest = (2..=length).rev().find_map(|length| {
        let (name, rest) = text.split_at_checked(length)?;
        let at = NAMED.binary_search_by(|(known, _)| known.cmp(&name)).ok()?;
        Some((NAMED.get(at)?.1, rest))
    });
    match longest {
        Some((decoded, rest)) => {
            out.push_str(decoded);
            rest.strip_prefix(';').unwrap_or(rest)
        }
        None => {
            out.push('&');
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> String {
        let mut out = String::new();
        decode_into(text, &mut out);
        out
    }

    #[test]
    fn the_table_is_sorted_and_its_longest_name_known() {
        assert!(NAMED.is_sorted_by(|a, b| a.0 < b.0) && CLOSED.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(NAMED.iter().map(|(name, _)| name.len()).max(), Some(LONGEST));
    }

    #[test]
    fn references_are_decoded_with_and_without_semicolon() {
        for (text, decoded) in [
            ("&#52;&#49;", "41"),
            ("&#52&#49", "41"),
            ("&#x34;&#X31", "41"),
            ("&#000000000052;", "4"),
            ("4&nbsp;1", "4\u{a0}1"),
            ("4&hyphen;1", "4‐1"),
            ("&amp;#52;", "&#52;"),
            ("&#150;", "–"),
            ("&#0;&#x110000;&#99999999999;", "\u{fffd}\u{fffd}\u{fffd}"),
            ("a & b &c; &", "a & b &c; &"),
            ("&#;&#x;", "&#;&#x;"),
            ("&ampere", "&ere"),
        ] {
            assert_eq!(decode(text), decoded, "{text}");
        }
    }
}
