//! Bounded memory and time, whatever comes (threats 9, 10).

use super::*;
use std::time::{Duration, Instant};

/// Long enough for a slow machine in a debug build, far too short for anything quadratic.
const PATIENCE: Duration = Duration::from_secs(20);

fn quickly(what: &str, message: impl AsRef<[u8]>) -> Outcome {
    let start = Instant::now();
    let outcome = read(message);
    assert!(start.elapsed() < PATIENCE, "{what} took {:?}", start.elapsed());
    outcome
}

#[test]
fn ten_thousand_levels_of_multiparts_are_over_budget() {
    let mut message = String::from("Subject: x\r\n");
    for level in 0..10_000 {
        message.push_str(&format!("Content-Type: multipart/mixed; boundary=b{level}\r\n\r\n--b{level}\r\n"));
    }
    message.push_str(&format!("\r\n{CARD}\r\n"));
    let outcome = quickly("levels", &message);
    assert!(outcome.has(&Condition::OverBudget) && outcome.shows(CARD));
}

#[test]
fn ten_thousand_levels_of_messages_are_over_budget() {
    let outcome = quickly("messages", "Content-Type: message/rfc822\r\n\r\n".repeat(10_000) + CARD);
    assert!(outcome.has(&Condition::OverBudget) && outcome.parts.len() < 100);
}

#[test]
fn a_million_parts_are_over_budget() {
    let outcome = quickly(
        "parts",
        single("Content-Type: multipart/mixed; boundary=B\r\n", &"--B\r\n\r\nx\r\n".repeat(1_000_000)),
    );
    assert!(outcome.has(&Condition::OverBudget) && outcome.parts.len() <= 10_002);
}

#[test]
fn multiparts_that_share_one_boundary_end() {
    let nested = "Content-Type: multipart/mixed; boundary=B\r\n\r\n--B\r\n".repeat(5_000);
    quickly("cycle", format!("{nested}\r\n{CARD}\r\n--B--"));
}

#[test]
fn contradictions_do_not_multiply() {
    let fields: String =
        (0..500).map(|n| format!("Content-Type: multipart/mixed; boundary=B; boundary=C{n}\r\n")).collect();
    let level = format!("{fields}Content-Transfer-Encoding: quoted-printable\r\n\r\n--B\r\n");
    let outcome = quickly("contradictions", level.repeat(30));
    assert!(outcome.has(&Condition::Malformed));
}

#[test]
fn long_headers_and_lines_are_cheap() {
    quickly("one line", vec![b'a'; 20 << 20]);
    quickly("folds", format!("Subject: x{}\r\n\r\n", "\r\n y".repeat(300_000)));
    quickly("fields", "A: b\r\n".repeat(1_000_000));
    quickly("openings of encoded words", format!("Subject: {}", "=?a?Q?".repeat(150_000)));
    quickly("encoded words", format!("Subject: {}", "=?utf-8?Q?4?= ".repeat(70_000)));
    quickly("parameters", single(&format!("Content-Type: a/b{}\r\n", "; a*0*=b".repeat(100_000)), "x"));
    quickly("comments", single(&format!("Content-Type: {}\r\n", "(".repeat(900_000)), "x"));
}

#[test]
fn unfinished_markup_is_linear() {
    for opening in [
        "<!--",
        "<style>",
        "<script></",
        "<!-- --!>",
        "<a b='",
        "<a b=\"c",
        "</",
        "<",
        "&#",
        "<td><table>",
        "<b hidden>",
    ] {
        let body = opening.repeat((2 << 20) / opening.len());
        quickly(opening, single("Content-Type: text/html\r\n", &body));
    }
}

#[test]
fn markup_in_attributes_is_not_followed_for_ever() {
    let mut inner = CARD.to_owned();
    for _ in 0..12 {
        inner = format!("<i srcdoc=\"{}\">", inner.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;"));
    }
    quickly("srcdoc", single("Content-Type: text/html\r\n", &inner));
}

#[test]
fn other_repetitions_are_linear() {
    for body in
        ["begin 644 a\r\n", "begin 644 a\r\n`\r\n", "+A", "BEGIN:VCARD\r\n ", "a\tb1\t1c\r\n", "1\t", "=\r\n", "=3"]
    {
        quickly(body, single("Content-Type: text/plain; charset=utf-7\r\n", &body.repeat((2 << 20) / body.len())));
    }
}

#[test]
fn junk_between_all_digits_is_linear() {
    quickly("base64", single("Content-Transfer-Encoding: base64\r\n", &"NDEx!".repeat(4 << 20)));
}

#[test]
fn a_passed_deadline_ends_reading_with_a_condition() {
    let mut budget = Budget::until(Instant::now());
    let outcome = read_within(single("", CARD), &mut budget);
    assert!(outcome.has(&Condition::OverBudget));
}
