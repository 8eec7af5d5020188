//! Precision and recall over generated text: numbers that pass, written in many ways with and without words near them,
//! beside several times as many numbers that mean nothing. Prints the table; fails below the figures that hold.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail loudly")]

use policy::detect::Detectors;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn digits(&mut self, n: usize) -> String {
        (0..n).map(|_| char::from(b'0' + self.below(10) as u8)).collect()
    }

    fn one_of<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }
}

fn luhn(digits: &str) -> bool {
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(i, b)| {
            let d = u32::from(b - b'0') * if i % 2 == 1 { 2 } else { 1 };
            d / 10 + d % 10
        })
        .sum();
    sum.is_multiple_of(10)
}

fn weighted(digits: &str, weights: &[u32]) -> u32 {
    digits.bytes().zip(weights).map(|(b, w)| u32::from(b - b'0') * w).sum()
}

/// A number of the detector, its groups, made by drawing until the check digit fits.
fn valid(detector: &str, r: &mut Random) -> Vec<String> {
    let split = |text: String, groups: &[usize]| {
        let mut at = 0;
        groups
            .iter()
            .map(|g| {
                at += g;
                text[at - g..at].to_owned()
            })
            .collect()
    };
    loop {
        match detector {
            "us_ssn" => {
                let (area, group, serial) = (r.below(898) + 1, r.below(99) + 1, r.below(9999) + 1);
                if area != 666 {
                    return vec![format!("{area:03}"), format!("{group:02}"), format!("{serial:04}")];
                }
            }
            "credit_card" => {
                let prefix = r.one_of(&["4", "51", "55", "6011", "2221"]);
                let number = format!("{prefix}{}", r.digits(16 - prefix.len()));
                if luhn(&number) {
                    return split(number, &[4, 4, 4, 4]);
                }
            }
            "us_aba" => {
                let number = format!("{}{}", r.one_of(&["01", "02", "11", "12", "26", "32", "06"]), r.digits(7));
                if weighted(&number, &[3, 7, 1, 3, 7, 1, 3, 7, 1]).is_multiple_of(10) {
                    return vec![number];
                }
            }
            "uk_nhs" => {
                let number = format!("{}{}", r.one_of(&["4", "6", "7", "9"]), r.digits(9));
                if weighted(&number, &[10, 9, 8, 7, 6, 5, 4, 3, 2, 1]).is_multiple_of(11) {
                    return split(number, &[3, 3, 4]);
                }
            }
            "us_npi" => {
                let number = format!("1{}", r.digits(9));
                if luhn(&format!("80840{number}")) {
                    return vec![number];
                }
            }
            _ => {
                let bban = r.digits(18);
                let rest = format!("{bban}131400").bytes().fold(0u32, |rest, b| (rest * 10 + u32::from(b - b'0')) % 97);
                let number = format!("DE{:02}{bban}", 98 - rest);
                return split(number, &[4, 4, 4, 4, 4, 2]);
            }
        }
    }
}

/// A number that means nothing, as mail is full of.
fn noise(r: &mut Random) -> String {
    let d = |r: &mut Random, n| r.digits(n);
    match r.below(16) {
        0 => format!("order no. {}", d(r, 9)),
        1 => format!("order number {}-{}-{}", d(r, 3), d(r, 7), d(r, 7)),
        2 => format!("phone ({}) {}-{}", d(r, 3), d(r, 3), d(r, 4)),
        3 => format!("tel. {}-{}-{}", d(r, 3), d(r, 3), d(r, 4)),
        4 => format!("+44 20 {} {}", d(r, 4), d(r, 4)),
        5 => format!("tracking 1Z{}AA{}", d(r, 3), d(r, 10)),
        6 => format!("tracking number 94{}", d(r, 20)),
        7 => format!("{:016x}{:016x}", r.below(u64::MAX), r.below(u64::MAX)),
        8 => format!(
            "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
            r.below(1 << 32),
            r.below(1 << 16),
            r.below(1 << 12),
            r.below(1 << 12),
            r.below(1 << 48)
        ),
        9 => format!("invoice INV-20{}-{}", d(r, 2), d(r, 8)),
        10 => format!("https://www.example.org/a/{}?id={}", d(r, 6), d(r, 9)),
        11 => format!(
            "{}/{:02}/20{:02} {}:{:02}",
            r.below(12) + 1,
            r.below(28) + 1,
            r.below(30),
            r.below(24),
            r.below(60)
        ),
        12 => format!("${},{}.{}", d(r, 3), d(r, 3), d(r, 2)),
        13 => format!("ticket #{}", d(r, 10)),
        14 => format!("ISBN 978-{}-{}-{}-{}", d(r, 1), d(r, 4), d(r, 4), d(r, 1)),
        _ => format!("ref. {}", d(r, 10)),
    }
}

#[test]
fn precision_and_recall_stay_where_they_are() {
    const EACH: usize = 500;
    const NOISE: usize = 20_000;
    let detectors = Detectors::new(&[]).expect("built in");
    let mut r = Random(0x2545_f491_4f6c_dd1d);
    let mut false_hits = vec![0usize; detectors.names().len()];
    for _ in 0..NOISE {
        let text = format!("Hello Ann, {} is what we talked about, thanks", noise(&mut r));
        for hit in detectors.scan(&text).iter().filter(|hit| hit.score >= 0.5) {
            false_hits[usize::from(hit.detector)] += 1;
        }
    }
    println!("detector      recall  with label  false of {NOISE}");
    // Detector, labels, least recall as people write it without a word near, the same with a label.
    let table: [(&str, &[&str], f64, f64); 6] = [
        ("us_ssn", &["SSN", "my social security number is", "Social Security No."], 0.98, 0.99),
        ("credit_card", &["credit card", "Visa", "card number:"], 0.98, 0.99),
        ("iban", &["IBAN", "account number"], 0.98, 0.99),
        ("us_aba", &["routing number", "ABA", "RTN:"], 0.0, 0.99),
        ("uk_nhs", &["NHS number", "NHS no."], 0.0, 0.99),
        ("us_npi", &["NPI", "NPI:", "national provider identifier"], 0.0, 0.99),
    ];
    for (name, labels, bare_least, labelled_least) in table {
        let index = detectors.names().iter().position(|n| n == name).unwrap();
        let mut found = [0usize; 2];
        for n in 0..EACH * 2 {
            let groups = valid(name, &mut r);
            let number = groups.join(r.one_of(&["-", " ", "\u{a0}", "\u{2013}"]));
            let label = if n % 2 == 1 { r.one_of(labels) } else { "it is" };
            let text = format!("Hello Ann,\r\n{label} {number}, thanks");
            let start = text.find(&number).unwrap() as u64;
            let hits = detectors.scan(&text);
            let hit = hits.iter().any(|h| usize::from(h.detector) == index && h.offset == start && h.score >= 0.5);
            found[n % 2] += usize::from(hit);
        }
        let [bare, labelled] = found.map(|n| n as f64 / EACH as f64);
        println!("{name:<12} {bare:6.3}  {labelled:10.3}  {:8}", false_hits[index]);
        assert!(bare >= bare_least, "{name}: {bare} found without a word near");
        assert!(labelled >= labelled_least, "{name}: {labelled} found with a label");
        assert!(false_hits[index] <= NOISE / 1000, "{name}: {} false", false_hits[index]);
    }
    assert_eq!(false_hits.iter().skip(6).sum::<usize>(), 0, "medical and credentials in noise");
}
