//! Masking.
//!
//! Job: turn a match into something that an operator may see (features P16). Place: the only way from content to a
//! finding. Invariants: at most the last four letters or digits are shown, and none of a match that has fewer than
//! eight; nothing but printable characters comes out. A crash leaves nothing.

/// Characters of the longest sample.
const MAX_SAMPLE: usize = 40;
/// Letters and digits shown at the end.
const SHOWN: usize = 4;
/// Shorter matches show nothing: four of seven would be most of them.
const SHORTEST: usize = 8;

/// The masked form of `text`: `***-**-6789`. Line ends and tabs become spaces, what nobody sees is left out.
#[must_use]
pub fn mask(text: &str) -> String {
    let total = text.chars().filter(|c| c.is_alphanumeric()).count();
    mask_but(text, if total < SHORTEST { 0 } else { SHOWN })
}

/// [`mask`] without the last four: for passwords and keys.
#[must_use]
pub fn mask_all(text: &str) -> String {
    mask_but(text, 0)
}

fn mask_but(text: &str, shown: usize) -> String {
    let total = text.chars().filter(|c| c.is_alphanumeric()).count();
    let hidden = total.saturating_sub(shown);
    let mut seen = 0;
    let mut out: Vec<char> = Vec::new();
    for c in text.chars() {
        if c.is_alphanumeric() {
            seen += 1;
            out.push(if seen > hidden { c } else { '*' });
        } else if c.is_whitespace() {
            if out.last() != Some(&' ') {
                out.push(' ');
            }
        } else if shown == 0 {
            // Marks are part of a secret.
            out.push('*');
        } else if c.is_ascii_graphic() || matches!(c, '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{b7}') {
            out.push(c);
        }
    }
    let cut = out.len().saturating_sub(MAX_SAMPLE);
    out.into_iter().skip(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_four_are_shown() {
        for (text, expected) in [
            ("123-45-6789", "***-**-6789"),
            ("4111 1111\t1111\r\n1111", "**** **** **** 1111"),
            ("１２３-４５-６７８９", "***-**-６７８９"),
            ("12\u{200b}3-45-6789", "***-**-6789"),
            ("1234567", "*******"),
            ("a@b.example", "*@*.***mple"),
        ] {
            assert_eq!(mask(text), expected);
        }
        assert_eq!(mask_all("hunter2!longer"), "**************");
    }

    proptest::proptest! {
        #[test]
        fn no_more_than_four_come_through(text in ".{0,60}") {
            let masked = mask(&text);
            proptest::prop_assert!(masked.chars().filter(|c| c.is_alphanumeric()).count() <= 4);
            proptest::prop_assert!(masked.chars().all(|c| !c.is_control()));
            proptest::prop_assert!(!mask_all(&text).chars().any(char::is_alphanumeric));
        }
    }
}
