//! Check digits.
//!
//! Job: say whether a number's digits agree with its check digit. Place: the cheapest test of a candidate after its
//! shape. Invariants: digits come as 0–9; nothing here allocates. A crash leaves nothing.

/// The Luhn algorithm (ISO/IEC 7812-1 annex B) over all digits, the check digit last.
pub(super) fn luhn(digits: &[u8]) -> bool {
    luhn_sum(digits).is_multiple_of(10)
}

fn luhn_sum(digits: &[u8]) -> u32 {
    digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, &d)| {
            let d = u32::from(d);
            if i % 2 == 0 {
                d
            } else if d > 4 {
                d * 2 - 9
            } else {
                d * 2
            }
        })
        .sum()
}

/// National Provider Identifier: Luhn over 80840 and the ten digits (45 CFR 162.406; the prefix adds 24).
pub(super) fn npi(digits: &[u8]) -> bool {
    (luhn_sum(digits) + 24).is_multiple_of(10)
}

/// ABA routing number: weights 3, 7, 1 over nine digits give a multiple of ten.
pub(super) fn aba(digits: &[u8]) -> bool {
    let sum: u32 = digits.iter().zip([3, 7, 1].into_iter().cycle()).map(|(&d, w)| u32::from(d) * w).sum();
    sum.is_multiple_of(10)
}

/// NHS number: weights 10 to 2 over nine digits, modulus 11; a check digit of ten does not exist.
pub(super) fn nhs(digits: &[u8]) -> bool {
    let Some((&check, body)) = digits.split_last() else { return false };
    let sum: u32 = body.iter().zip((2..=10).rev()).map(|(&d, w)| u32::from(d) * w).sum();
    match 11 - sum % 11 {
        11 => check == 0,
        10 => false,
        expected => u32::from(check) == expected,
    }
}

/// IBAN (ISO 13616): the first four characters moved to the end, letters as 10–35, modulus 97 is one. Takes upper-case
/// letters and digits.
pub(super) fn iban(characters: &[u8]) -> bool {
    let Some((head, body)) = characters.split_at_checked(4) else { return false };
    let mut rest: u32 = 0;
    for &c in body.iter().chain(head) {
        rest = match c {
            b'0'..=b'9' => rest * 10 + u32::from(c - b'0'),
            b'A'..=b'Z' => rest * 100 + u32::from(c - b'A') + 10,
            _ => return false,
        } % 97;
    }
    rest == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits(text: &str) -> Vec<u8> {
        text.bytes().filter(u8::is_ascii_digit).map(|b| b - b'0').collect()
    }

    #[test]
    fn published_examples_agree() {
        for card in ["4111111111111111", "378282246310005", "6011000990139424", "30569309025904", "5555555555554444"] {
            assert!(luhn(&digits(card)), "{card}");
        }
        for number in ["021000021", "011401533", "122105155"] {
            assert!(aba(&digits(number)), "{number}");
        }
        for number in ["9434765919", "4505577104", "9876543210"] {
            assert!(nhs(&digits(number)), "{number}");
        }
        for number in ["1234567893", "1245319599"] {
            assert!(npi(&digits(number)), "{number}");
        }
        for number in ["GB82WEST12345698765432", "DE89370400440532013000", "MT84MALT011000012345MTLCAST001S"] {
            assert!(iban(number.as_bytes()), "{number}");
        }
    }

    #[test]
    fn one_changed_digit_never_agrees() {
        type Check = fn(&[u8]) -> bool;
        let cases: [(&str, Check); 4] =
            [("4111111111111111", luhn), ("021000021", aba), ("9434765919", nhs), ("1234567893", npi)];
        for (number, check) in cases {
            let good = digits(number);
            for at in 0..good.len() {
                for d in (0..10).filter(|&d| d != good[at]) {
                    let mut bad = good.clone();
                    bad[at] = d;
                    assert!(!check(&bad), "{number} with {d} at {at}");
                }
            }
        }
    }
}
