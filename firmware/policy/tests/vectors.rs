//! The vectors of `tests/vectors/detectors`, see its README.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail loudly")]

use policy::detect::{Detectors, Hit, mask, mask_all};
use std::{fs, path::PathBuf};

/// Scores that rules count.
const COUNTS: f32 = 0.5;

struct Case {
    place: String,
    sign: char,
    text: String,
    marked: Vec<(usize, usize)>,
}

fn cases(file: &str) -> Vec<Case> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/detectors").join(file);
    let content = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let cases: Vec<Case> = content
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.starts_with('#') && !line.is_empty())
        .map(|(n, line)| {
            let sign = line.chars().next().filter(|c| "+~-".contains(*c)).expect("a sign");
            let (text, marked) = unescape(line[1..].trim_start_matches(' '));
            assert_eq!(marked.is_empty(), sign == '-', "{file}:{}: marks and sign disagree", n + 1);
            Case { place: format!("{file}:{}: {line}", n + 1), sign, text, marked }
        })
        .collect();
    assert!(cases.len() >= 10, "{file} has too few cases");
    cases
}

fn unescape(line: &str) -> (String, Vec<(usize, usize)>) {
    let (mut text, mut marked, mut start) = (String::new(), Vec::new(), 0);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '«' => start = text.len(),
            '»' => marked.push((start, text.len())),
            '\\' => match chars.next() {
                Some('n') => text.push('\n'),
                Some('r') => text.push('\r'),
                Some('t') => text.push('\t'),
                Some('u') => {
                    let code: String = chars.by_ref().skip(1).take_while(|&c| c != '}').collect();
                    text.push(
                        char::from_u32(u32::from_str_radix(&code, 16).expect("hexadecimal")).expect("a character"),
                    );
                }
                other => panic!("unknown escape {other:?} in {line}"),
            },
            c => text.push(c),
        }
    }
    (text, marked)
}

fn spans(hits: &[Hit], keep: impl Fn(&Hit) -> bool) -> Vec<(usize, usize)> {
    let mut spans: Vec<(usize, usize)> = hits
        .iter()
        .filter(|hit| keep(hit))
        .map(|hit| (hit.offset as usize, (hit.offset + hit.length) as usize))
        .collect();
    spans.sort_unstable();
    spans
}

/// What is wrong with the case, if anything.
fn fault(case: &Case, hits: &[Hit]) -> Option<String> {
    for hit in hits {
        let slice = &case.text[hit.offset as usize..(hit.offset + hit.length) as usize];
        assert!(hit.sample == mask(slice) || hit.sample == mask_all(slice), "{}", case.place);
    }
    let counted = spans(hits, |hit| hit.score >= COUNTS);
    let low = spans(hits, |hit| hit.score < COUNTS);
    let right = match case.sign {
        '+' => counted == case.marked,
        '~' => counted.is_empty() && case.marked.iter().all(|span| low.contains(span)),
        _ => counted.is_empty(),
    };
    (!right).then(|| format!("{}\n    wanted {:?}, found {hits:?}", case.place, case.marked))
}

fn check(detector: &str) {
    let detectors = Detectors::new(&[]).expect("built in");
    let index = detectors.names().iter().position(|name| name == detector).expect("known") as u16;
    let faults: Vec<String> = cases(&format!("{detector}.txt"))
        .iter()
        .filter_map(|case| {
            let hits: Vec<Hit> = detectors.scan(&case.text).into_iter().filter(|h| h.detector == index).collect();
            fault(case, &hits)
        })
        .collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

macro_rules! vectors {
    ($($detector:ident),*) => { $(#[test] fn $detector() { check(stringify!($detector)); })* };
}

vectors!(us_ssn, credit_card, iban, us_aba, uk_nhs, us_npi, medical, credentials);

#[test]
fn lookalikes_count_for_no_detector() {
    let detectors = Detectors::new(&[]).expect("built in");
    let faults: Vec<String> =
        cases("lookalikes.txt").iter().filter_map(|case| fault(case, &detectors.scan(&case.text))).collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn every_built_in_detector_has_vectors() {
    for name in settings::DETECTORS {
        assert!(cases(&format!("{name}.txt")).iter().any(|case| case.sign == '+'), "{name}");
    }
}
