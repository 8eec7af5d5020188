//! Whole messages through the judge.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail loudly")]

use base64::Engine;
use mail::{Action, ReversePath};
use policy::{Facts, InProcess, Job, JobKind, JobReport, Policy, WorkerError, Workers};
use settings::{Conditions, Detect, InternalRoute, Pattern, Rule, Undecidable};
use std::{
    io::{Cursor, Write},
    sync::Mutex,
    time::{Duration, Instant},
};

fn policy(rules: Vec<Rule>, patterns: Vec<Pattern>) -> Policy {
    let internal = InternalRoute {
        domain: "corp.example".parse().unwrap(),
        server: settings::HostPort { host: "localhost".into(), port: 25 },
        tls: settings::RelayTls::None,
    };
    let policy = settings::Policy { patterns, rules, undecidable: Undecidable::Secure };
    Policy::compile(&policy, &[internal]).unwrap()
}

fn secure_if(detector: &str) -> Rule {
    Rule {
        name: detector.into(),
        when: Conditions {
            detect: vec![Detect { detector: detector.into(), at_least: 1, score: 0.5 }],
            ..Conditions::default()
        },
        action: Some(Action::Secure),
        text: None,
        tag: None,
    }
}

fn facts(size: usize) -> Facts {
    Facts {
        sender: ReversePath::Mailbox("ann@corp.example".parse().unwrap()),
        recipients: vec!["bob@out.example".parse().unwrap(), "cay@corp.example".parse().unwrap()],
        size: size as u64,
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn judge(policy: &Policy, message: &[u8], workers: &dyn Workers) -> mail::Verdict {
    policy.judge(&facts(message.len()), &mut Cursor::new(message), workers, soon())
}

/// Runs jobs here and notes what they were.
#[derive(Default)]
struct Noting(Mutex<Vec<JobKind>>);

impl Workers for Noting {
    fn run(&self, job: Job<'_>) -> Result<JobReport, WorkerError> {
        self.0.lock().unwrap().push(job.header.kind.clone());
        // What a pipe does to it.
        let header = serde_json::from_slice(&serde_json::to_vec(&job.header).unwrap()).unwrap();
        let report = InProcess.run(Job { header, ..job })?;
        Ok(serde_json::from_slice(&serde_json::to_vec(&report).unwrap()).unwrap())
    }
}

/// No worker ever comes back.
struct Failing(WorkerError);

impl Workers for Failing {
    fn run(&self, _: Job<'_>) -> Result<JobReport, WorkerError> {
        Err(self.0.clone())
    }
}

const PLAIN: &str = "From: ann@corp.example\r\nTo: bob@out.example\r\nSubject: hello\r\n\r\nMy SSN is 536-22-1874.\r\n";

/// A message with a text and a zip that holds a text.
fn with_attachment(text: &str, attachment: &str) -> String {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("list.csv", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(attachment.as_bytes()).unwrap();
    let zip = base64::engine::general_purpose::STANDARD.encode(zip.finish().unwrap().into_inner());
    format!(
        "From: a@corp.example\r\nSubject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
         --b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{text}\r\n--b\r\nContent-Type: application/zip; name=list.zip\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n{zip}\r\n--b--\r\n"
    )
}

#[test]
fn a_number_in_the_text_secures_the_mail_without_any_worker() {
    let policy = policy(vec![secure_if("us_ssn")], vec![]);
    let workers = Noting::default();
    let verdict = judge(&policy, PLAIN.as_bytes(), &workers);
    assert_eq!(verdict.recipients[0].action, Action::Secure);
    assert_eq!(verdict.recipients[1].action, Action::Relay);
    assert!(workers.0.lock().unwrap().is_empty());
    let finding = verdict.findings.iter().find(|f| f.detector == "us_ssn").unwrap();
    assert_eq!((finding.part.as_str(), finding.offset, finding.length), ("1", 10, 11));
    assert_eq!(finding.sample, "***-**-1874");
}

#[test]
fn a_number_in_the_subject_is_found_in_part_0() {
    let policy = policy(vec![secure_if("us_ssn")], vec![]);
    let message = PLAIN.replace("hello", "SSN 536-22-1875");
    let verdict = judge(&policy, message.as_bytes(), &InProcess);
    assert!(verdict.findings.iter().any(|f| f.part == "0" && f.sample.ends_with("1875")), "{:?}", verdict.findings);
}

#[test]
fn attachments_go_to_workers_and_text_does_not() {
    let policy = policy(vec![secure_if("us_ssn")], vec![]);
    let workers = Noting::default();
    let message = with_attachment("Hi", "name,ssn\r\nAnn,536-22-1874");
    let verdict = judge(&policy, message.as_bytes(), &workers);
    assert_eq!(verdict.strongest(), Action::Secure);
    assert!(
        verdict.findings.iter().any(|f| f.detector == "us_ssn" && f.part == "2!list.csv"),
        "{:?}",
        verdict.findings
    );
    let jobs = workers.0.lock().unwrap();
    assert!(matches!(&jobs[..], [JobKind::Part(about)] if about.section == "2"), "{jobs:?}");
}

#[test]
fn a_message_over_one_mib_goes_to_a_worker_whole_and_is_judged_the_same() {
    let policy = policy(vec![secure_if("us_ssn")], vec![]);
    let workers = Noting::default();
    let message = format!("{PLAIN}{}", "Nothing to see here, move on.\r\n".repeat(40_000));
    let verdict = judge(&policy, message.as_bytes(), &workers);
    assert_eq!(*workers.0.lock().unwrap(), [JobKind::Message]);
    assert_eq!(verdict.recipients[0].action, Action::Secure);
    assert_eq!(verdict.undecidable, None);
}

#[test]
fn a_lost_worker_makes_the_mail_undecidable() {
    let policy = policy(vec![], vec![]);
    let message = with_attachment("Hi", "a,b");
    for (error, expected) in [
        (WorkerError::TooSlow, Action::Secure),
        (WorkerError::Unavailable("no fork".into()), Action::Secure),
        (WorkerError::KilledThreeTimes, Action::Hold),
    ] {
        let verdict = judge(&policy, message.as_bytes(), &Failing(error));
        assert_eq!(verdict.recipients[0].action, expected);
        assert_eq!(verdict.recipients[0].rule.as_deref(), Some("built-in:undecidable"));
    }
}

#[test]
fn a_passed_deadline_makes_the_mail_undecidable() {
    let policy = policy(vec![], vec![]);
    let verdict = policy.judge(&facts(PLAIN.len()), &mut Cursor::new(PLAIN.as_bytes()), &InProcess, Instant::now());
    assert_eq!(verdict.recipients[0].action, Action::Secure);
    assert!(verdict.undecidable.is_some());
}

#[test]
fn content_that_can_not_be_read_makes_the_mail_undecidable() {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("flipped bit"))
        }
    }
    impl std::io::Seek for Broken {
        fn seek(&mut self, _: std::io::SeekFrom) -> std::io::Result<u64> {
            Ok(100)
        }
    }
    let verdict = policy(vec![], vec![]).judge(&facts(100), &mut Broken, &InProcess, soon());
    assert_eq!(verdict.recipients[0].action, Action::Secure);
    assert!(verdict.undecidable.unwrap().contains("flipped bit"));
}

#[test]
fn the_organisations_own_pattern_counts_here_and_in_workers() {
    let pattern = Pattern { name: "staff_id".into(), regex: r"\bEMP-\d{4}\b".into(), context: vec![], score: 0.6 };
    let policy = policy(vec![secure_if("staff_id")], vec![pattern]);
    for message in
        [with_attachment("EMP-1234", "x"), with_attachment("x", "EMP-1234"), with_attachment("EMP-１234", "x")]
    {
        let verdict = judge(&policy, message.as_bytes(), &Noting::default());
        assert_eq!(verdict.recipients[0].action, Action::Secure, "{message}");
    }
}

#[test]
fn the_same_number_in_text_and_html_is_one() {
    let mut rule = secure_if("us_ssn");
    rule.when.detect[0].at_least = 2;
    let policy = policy(vec![rule], vec![]);
    let message = |other: &str| {
        format!(
            "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\n\
             Content-Type: text/plain\r\n\r\nSSN 536-22-1874\r\n--b\r\nContent-Type: text/html\r\n\r\n\
             <p>SSN <b>{other}</b></p>\r\n--b--\r\n"
        )
    };
    assert_eq!(judge(&policy, message("536 22 1874").as_bytes(), &InProcess).strongest(), Action::Relay);
    assert_eq!(judge(&policy, message("536-22-1875").as_bytes(), &InProcess).strongest(), Action::Secure);
}

#[test]
fn nothing_unmasked_is_in_the_verdict() {
    let policy = policy(vec![secure_if("us_ssn"), secure_if("credit_card"), secure_if("credentials")], vec![]);
    let message = with_attachment("password: Hunter22!x card 4111 1111 1111 1111", "ssn\r\n536-22-1874");
    let verdict = judge(&policy, message.as_bytes(), &InProcess);
    let shown = serde_json::to_string(&verdict).unwrap();
    assert!(verdict.findings.len() >= 3);
    for secret in ["Hunter22", "4111 1111", "536-22"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn scan_prints_the_contract() {
    let detectors = policy::detect::Detectors::new(&[]).unwrap();
    let report = policy::scan(&detectors, b"My SSN is 078-05-1123.", true);
    assert_eq!(
        serde_json::to_string(&report).unwrap(),
        r#"{"findings":[{"detector":"us_ssn","part":"1","offset":10,"length":11,"score":0.85,"sample":"***-**-1123"}]}"#
    );
    assert_eq!(serde_json::to_string(&policy::scan(&detectors, b"", true)).unwrap(), r#"{"findings":[]}"#);
    let report = policy::scan(&detectors, PLAIN.as_bytes(), false);
    assert_eq!((report.findings[0].part.as_str(), report.findings[0].offset), ("1", 10));
}

#[test]
fn explain_names_the_rule_for_each_recipient() {
    let policy = policy(vec![secure_if("us_ssn")], vec![]);
    let explanation = policy::explain(&policy, &facts(PLAIN.len()), PLAIN.as_bytes());
    assert_eq!(explanation.recipients, ["bob@out.example", "cay@corp.example"]);
    assert_eq!(explanation.verdict.matches[0].rule, "us_ssn");
    let shown = explanation.to_string();
    assert!(shown.contains("secure  bob@out.example  (us_ssn)"), "{shown}");
    assert!(!shown.contains("536-22"), "{shown}");
}

fn html(body: &str) -> String {
    format!(
        "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<html><body>{body}</body></html>\r\n"
    )
}

#[test]
fn numbers_split_over_tags_and_cells_are_found() {
    let policy = policy(vec![secure_if("iban"), secure_if("us_ssn"), secure_if("credit_card")], vec![]);
    let iban: String = ["DE89", "3704", "0044", "0532", "0130", "00"].map(|c| format!("<td>{c}</td>")).concat();
    for body in [
        &format!("<table><tr>{iban}</tr></table>"),
        "<p>SSN 5<b>36</b>-<i>22</i>-18<span>74</span></p>",
        "<p>SSN &#53;36&#45;22&ndash;1874</p>",
        "<table><tr><th>SSN</th></tr><tr><td>536</td><td>22</td><td>1874</td></tr></table>",
        "<p>card 4111&nbsp;1111&nbsp;1111&nbsp;<span style=\"color:red\">1111</span></p>",
        "<p>4111&#8203;1111&#8203;1111&#8203;1111</p>",
    ] {
        assert_eq!(judge(&policy, html(body).as_bytes(), &InProcess).recipients[0].action, Action::Secure, "{body}");
    }
}

#[test]
fn tables_of_ordinary_numbers_are_ordinary_mail() {
    let rules = settings::DETECTORS.iter().map(|name| secure_if(name)).collect();
    let policy = policy(rules, vec![]);
    let mut state = 7u64;
    let mut rows = String::new();
    for _ in 0..2_000 {
        let mut cells = String::new();
        for width in [4, 3, 2, 4, 4, 4, 1, 9] {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let number = (state >> 33) % 10u64.pow(width);
            cells.push_str(&format!("<td>{number}</td>"));
        }
        rows.push_str(&format!("<tr>{cells}</tr>\r\n"));
    }
    let table = format!("<table><tr><th>Item</th><th>Quantity</th><th>Year</th></tr>{rows}</table>");
    let verdict = judge(&policy, html(&table).as_bytes(), &InProcess);
    assert_eq!(verdict.recipients[0].action, Action::Relay, "{:?}", verdict.matches);
}

/// What becomes of a message to the outer recipient that carries `body` as it stands.
fn action_on(fields: &str, body: &[u8]) -> Action {
    let policy = policy(vec![secure_if("us_ssn")], vec![]);
    let mut message = format!("From: ann@corp.example\r\nSubject: x\r\n{fields}\r\n").into_bytes();
    message.extend_from_slice(body);
    judge(&policy, &message, &InProcess).recipients[0].action
}

#[test]
fn neither_magic_words_nor_control_octets_make_a_number_leave_unsecured() {
    for body in [
        &b"GIF89a\r\nSSN 536-22-1874"[..],
        b"%!PS\r\nSSN 536-22-1874",
        b"SSN 536\0-22-18\x0074",
        b"SSN 536\x1f-22-18\x0674 and more",
        b"SSN\x01536-22-1874\x029",
        b"SSN 536\x0b22\x0c1874",
        b"S\x02S\x02N 536 22 1\x7f874",
    ] {
        assert_eq!(action_on("", body), Action::Secure, "{:?}", String::from_utf8_lossy(body));
        let html = "Content-Type: text/html; charset=iso-8859-1\r\n";
        assert_eq!(action_on(html, body), Action::Secure, "{:?} as HTML", String::from_utf8_lossy(body));
    }
}

#[test]
fn odd_octets_of_ordinary_mail_are_no_reason_to_secure_it() {
    for (fields, body) in [
        ("", &b"Page one\r\n\x0cPage two\r\n\tindented\r\n"[..]),
        ("", b"Written in an editor of DOS.\r\n\x1a"),
        ("", b"make: \x1b[31merror 536\x1b[0m in line 22, 1874 more\r\n"),
        ("", b"N\x08NA\x08AM\x08ME\x08E\r\n     ls - list 536 files, 22 folders, 1874 links\r\n"),
        ("", b"\x0bMSH|^~\\&|LAB|536|22|1874\r\x1c\r\n"),
        ("", b"a NUL of a broken program \0 and DEL \x7f and the year 2024\r\n"),
        ("Content-Type: text/plain; charset=iso-2022-jp\r\n", b"\x1b$B$3$s$K$A$O\x1b(B 2024\r\n"),
        ("", b"\x1b$B$3$s$K$A$O\x1b(B 2024\r\n"),
    ] {
        assert_eq!(action_on(fields, body), Action::Relay, "{:?}", String::from_utf8_lossy(body));
    }
}
