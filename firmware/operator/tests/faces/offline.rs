//! Commands that need no daemon, and the command line's own manners.

use crate::bench::{Arguments, SETTINGS, run};
use clap::Parser;
use serde_json::json;
use std::{fs, path::PathBuf};
use tempfile::TempDir;

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn add(&self, name: &str, text: &str) -> String {
        let path: PathBuf = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

const RULE: &str = "[[policy.rule]]\nname = 'Numbers'\nwhen = { external = true, detect = { detector = 'us_ssn' } }\naction = 'secure'\n";
const MESSAGE: &str = "From: a@example.org\r\nTo: b@example.net\r\nSubject: x\r\n\r\nHis SSN is 536-22-1123.\r\n";

#[test]
fn check_reports_every_error_with_the_file_and_exits_with_1() {
    let files = Files::new();
    let bad = files.add("bad.toml", "[host]\nname = 'x'\n");
    let ran = run(&["check", &bad], "");
    assert_eq!(ran.status, 1);
    assert_eq!(ran.out.matches("bad.toml: line ").count(), 3, "{}", ran.out);
    assert!(ran.out.ends_with("3 errors\n"), "{}", ran.out);
    let json = run(&["check", "--json", &bad], "");
    assert_eq!((json.status, json.json()["problems"].as_array().unwrap().len()), (1, 3));
    assert_eq!(json.json()["problems"][0]["path"], "");
}

#[test]
fn check_reads_standard_input_and_is_content_with_good_settings() {
    assert_eq!(run(&["check", "-"], SETTINGS).good(), "-: good\n");
    assert_eq!(run(&["check", "-", "--json"], SETTINGS).json(), json!({ "good": true, "problems": [] }));
}

#[test]
fn a_file_that_is_not_there_or_no_text_is_refused() {
    let files = Files::new();
    let told = run(&["check", "/nowhere/settings.toml"], "").refused();
    assert!(told.starts_with("postern: /nowhere/settings.toml can't be read"), "{told}");
    let path = files.add("binary.toml", "");
    fs::write(&path, b"a = \"\xff\"").unwrap();
    assert!(run(&["check", &path], "").refused().contains("not UTF-8 (byte 5)"));
    fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
    assert!(run(&["check", &path], "").refused().contains("larger than"));
}

#[test]
fn scan_prints_findings_as_the_contract_says_and_exits_with_0_either_way() {
    let files = Files::new();
    let message = files.add("message.eml", MESSAGE);
    let json = run(&["policy", "scan", "--json", &message], "").json();
    let finding = &json["findings"][0];
    assert_eq!((&finding["detector"], &finding["part"]), (&json!("us_ssn"), &json!("1")), "{json}");
    assert_eq!(
        (&finding["offset"], &finding["length"], &finding["sample"]),
        (&json!(11), &json!(11), &json!("***-**-1123"))
    );
    assert!(run(&["policy", "scan", &message], "").good().contains("***-**-1123"));
    let nothing = run(&["policy", "scan", "--text", "-", "--json"], "order 12 for you");
    assert_eq!((nothing.status, nothing.json()), (0, json!({ "findings": [] })));
    let settings = files.add(
        "settings.toml",
        &format!("{SETTINGS}[[policy.pattern]]\nname = 'case_number'\nregex = 'CASE-\\d{{6}}'\nscore = 0.6\n"),
    );
    let own = run(&["policy", "scan", "--text", "--settings", &settings, "-", "--json"], "see CASE-123456").json();
    assert_eq!(own["findings"][0]["detector"], "case_number", "{own}");
}

#[test]
fn explain_gives_the_verdict_for_each_recipient_and_the_rule() {
    let files = Files::new();
    let internal = "[[internal]]\ndomain = 'example.org'\nserver = 'mail.example.org:25'\n";
    let settings = files.add("settings.toml", &format!("{SETTINGS}{internal}{RULE}"));
    let arguments = ["policy", "explain", "--settings", &settings, "--from", "a@example.org", "--to"];
    let asked = [&arguments[..], &["b@example.net", "c@example.org", "-"]].concat();
    let text = run(&asked, MESSAGE).good();
    let other_order =
        ["--to", "b@example.net", "--settings", &settings, "--from", "a@example.org", "--to", "c@example.org"];
    let other_order = [&["policy", "explain", "-"], &other_order[..]].concat();
    assert_eq!(run(&other_order, MESSAGE).good(), text);
    assert!(text.contains("secure  b@example.net  (Numbers)"), "{text}");
    assert!(text.contains("relay   c@example.org"), "{text}");
    let json = run(&[&asked[..], &["--json"]].concat(), MESSAGE).json();
    assert_eq!(json["recipients"], json!(["b@example.net", "c@example.org"]));
    assert_eq!(json["verdict"]["recipients"][0], json!({ "action": "secure", "rule": "Numbers" }));

    let notice = ["policy", "explain", "--settings", &settings, "--from", "<>", "--to", "b@example.net", "-"];
    assert!(run(&notice, MESSAGE).good().contains("secure  b@example.net"));
    let bad = files.add("bad.toml", "host = 1");
    let told = run(&["policy", "explain", "--settings", &bad, "--from", "<>", "--to", "b@example.net", "-"], MESSAGE);
    assert!(told.refused().contains("bad.toml has errors"));
}

#[test]
fn explain_without_a_message_or_with_a_bad_address_is_a_question_of_usage() {
    let start = ["policy", "explain", "--settings", "/nowhere", "--from", "<>", "--to"];
    for (rest, told) in
        [(&["b@example.net"][..], "the message is missing"), (&["b", "-"], "--to b: the address has no @")]
    {
        let ran = run(&[&start[..], rest].concat(), MESSAGE);
        assert_eq!(ran.status, 2, "{ran:?}");
        assert!(ran.err.contains(told), "{ran:?}");
    }
}

#[test]
fn wrong_arguments_are_a_question_of_usage() {
    for wrong in [
        &["queue", "show", "not-an-id"][..],
        &["queue", "list", "--limit", "0"],
        &["queue", "list", "--to", "example.org"],
        &["queue", "list", "--state", "lost"],
        &["keys", "unlock", "the words"],
        &["policy", "explain", "--from", "a@b", "--to", "c@d", "-"],
        &["frobnicate"],
    ] {
        let Err(error) = Arguments::try_parse_from([&["postern"], wrong].concat()) else {
            panic!("{wrong:?} was taken");
        };
        assert_eq!(error.exit_code(), 2, "{wrong:?}");
    }
}

#[test]
fn a_daemon_that_is_not_there_is_named_with_what_to_do() {
    let files = Files::new();
    let socket = files.add("no.sock", "");
    let told = run(&["status", "--socket", &socket], "").refused();
    assert!(told.contains("no daemon answers on") && told.contains("POSTERN_SOCKET"), "{told}");
    let ran = run(&["status", "--json", "--socket", &socket], "");
    assert_eq!((ran.status, &ran.json()["error"]["fault"]), (1, &json!("unreachable")));
}
