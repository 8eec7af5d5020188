//! Control octets inside texts.
//!
//! Job: read a text without the octets that no client shows, so that none of them parts a number. Place: when a part is
//! handed out. Invariants: a text without such octets costs one vectorised sweep and is not copied. A crash leaves
//! nothing.

/// Whether a client shows nothing for it. Tab, line ends, vertical tab and form feed are white space, and stay.
fn is_unseen(b: u8) -> bool {
    (b < 0x09) | (b.wrapping_sub(0x0e) < 0x12) | (b == 0x7f)
}

/// `text` without control octets; `None` where there are none.
pub(super) fn without(text: &str) -> Option<String> {
    // Without branches within a chunk: sixteen octets at a time.
    let holds = |chunk: &[u8]| chunk.iter().fold(false, |found, b| found | is_unseen(*b));
    let odd = text.as_bytes().chunks(1024).any(holds);
    odd.then(|| text.chars().filter(|c| !u8::try_from(*c).is_ok_and(is_unseen)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_and_letters_stay() {
        assert_eq!(without("a\tb\r\nc\x0bd\x0ce äß€"), None);
        assert_eq!(without(&format!("{}a\0ä\x1bb\x7f\x1f\x0e\x08c\n", "x".repeat(5000))).unwrap().len(), 5006);
        for b in 0..0x80u8 {
            let kept = without(&char::from(b).to_string()).is_none();
            assert_eq!(kept, !char::from(b).is_control() || (9..=13).contains(&b), "{b:#x}");
        }
    }
}
