//! What holds for any text.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail loudly")]

use policy::detect::{Detectors, Hit, mask, mask_all};
use proptest::prelude::*;
use std::sync::LazyLock;

static DETECTORS: LazyLock<Detectors> = LazyLock::new(|| Detectors::new(&[]).expect("built in"));

fn check(text: &str) -> Result<Vec<Hit>, TestCaseError> {
    let hits = DETECTORS.scan(text);
    for hit in &hits {
        let slice = text.get(hit.offset as usize..(hit.offset + hit.length) as usize);
        let slice = slice.ok_or_else(|| TestCaseError::fail(format!("{hit:?} is not on characters of {text:?}")))?;
        prop_assert!(!slice.is_empty());
        prop_assert!(hit.sample == mask(slice) || hit.sample == mask_all(slice), "{hit:?} of {slice:?}");
        prop_assert!((0.0..=1.0).contains(&hit.score), "{hit:?}");
    }
    Ok(hits)
}

/// A number that passes, split into its groups.
fn numbers() -> impl Strategy<Value = (&'static str, &'static [&'static str])> {
    prop::sample::select(vec![
        ("us_ssn", &["536", "22", "1874"][..]),
        ("credit_card", &["4111", "1111", "1111", "1111"][..]),
        ("credit_card", &["3782", "822463", "10005"][..]),
        ("iban", &["DE89", "3704", "0044", "0532", "0130", "00"][..]),
        ("iban", &["GB82", "WEST", "1234", "5698", "7654", "32"][..]),
    ])
}

fn separators() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["-", " ", "\u{a0}", "\u{2013}", "\u{2011}", "\u{2009}", "-\n", "-\r\n", "\u{200b} "])
}

/// The same text in other digits.
fn respelled(text: &str, zero: char) -> String {
    text.chars().map(|c| c.to_digit(10).and_then(|d| char::from_u32(zero as u32 + d)).unwrap_or(c)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics_and_every_offset_is_a_character(text in ".{0,200}") {
        check(&text)?;
    }

    #[test]
    fn no_heap_of_digits_marks_and_words_panics(
        pieces in prop::collection::vec(prop_oneof![
            "[0-9]{1,20}", "[-. /_|,\t\n\r>()]{1,4}", "[A-Za-z]{2}[0-9]{2}", "[０-９]{1,9}", "\u{200b}", "\u{301}",
            Just("ssn ".to_owned()), Just("password: ".to_owned()), Just("://a:".to_owned()), Just("-----BEGIN ".to_owned()),
            Just("PRIVATE KEY-----\n".to_owned()), Just("eyJ".to_owned()), Just("AKIA".to_owned()), Just("MRN ".to_owned()),
            Just("diabetes ".to_owned()), Just("ß".to_owned()), Just("€".to_owned()), Just("🔑".to_owned()), ".{1,6}",
        ], 0..40),
    ) {
        check(&pieces.concat())?;
    }

    #[test]
    fn a_number_is_found_however_it_is_parted_and_spelled(
        (detector, groups) in numbers(), separator in separators(), before in "[a-z ]{0,30} ", after in "( [a-z ]{0,30})?",
        zero in prop::sample::select(vec!['0', '０', '\u{660}', '\u{1d7d8}']),
    ) {
        let number = groups.join(separator);
        let text = format!("{before}{}{after}", respelled(&number, zero));
        let hits = check(&text)?;
        let index = DETECTORS.names().iter().position(|n| n == detector).unwrap_or(99) as u16;
        let found = hits.iter().any(|h| {
            h.detector == index && h.score >= 0.5 && h.offset as usize == before.len()
                && (h.offset + h.length) as usize == text.len() - after.len()
        });
        prop_assert!(found, "{text:?}: {hits:?}");
    }

    #[test]
    fn padding_moves_offsets_and_nothing_else(pad in 0usize..70_000, filler in "[zqj ]{5}\n") {
        let pad = filler.repeat(pad / filler.len() + 1);
        let number = "SSN 536-22-1874 and 4111 1111 1111 1111";
        let plain = check(number)?;
        let padded = check(&format!("{pad}{number}"))?;
        prop_assert_eq!(plain.len(), padded.len());
        for (a, b) in plain.iter().zip(&padded) {
            prop_assert_eq!(a.offset + pad.len() as u64, b.offset);
            prop_assert_eq!((a.detector, a.distinct, a.score), (b.detector, b.distinct, b.score));
        }
    }
}

#[test]
fn a_chain_longer_than_any_number_finds_each_number_once() {
    let text = vec!["4111111111111111"; 3_000].join("\n");
    let hits = DETECTORS.scan(&text);
    let mut places: Vec<u64> = hits.iter().filter(|h| h.detector == 1).map(|h| h.offset).collect();
    let all = places.len();
    places.dedup();
    assert_eq!(places.len(), all, "none twice");
    assert!(all >= 1_000);
}

#[test]
fn a_flood_does_not_push_out_what_counts() {
    let mut text = String::new();
    for n in 0..60_000u32 {
        text.push_str(&format!("{}\n", 100_000_000 + n * 7));
    }
    text.push_str("SSN 536-22-1874");
    let hits = DETECTORS.scan(&text);
    assert!(hits.iter().any(|h| h.detector == 0 && h.score > 0.8 && h.sample == "***-**-1874"));
    assert!(hits.len() < 200_000);
}

#[test]
fn hostile_text_takes_no_more_than_a_second_a_megabyte() {
    // Digits in every shape, labels everywhere; ten times as long are debug builds allowed to take.
    for piece in [
        "4111 1111 1111 1111 ",
        "1 2 3 4 5 6 7 8 9 ",
        "536-22-1874\t",
        "DE89 ",
        "password: ",
        "://",
        "ssn 123456789\t",
        "9434765919,",
    ] {
        let text = piece.repeat((1 << 20) / piece.len());
        let started = std::time::Instant::now();
        assert!(DETECTORS.scan(&text).len() < 200_000, "{piece:?}");
        assert!(started.elapsed().as_secs() < 10, "{piece:?} took {:?}", started.elapsed());
    }
}
