//! Good settings: the example, the defaults, the canonical text and the differences.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

use settings::{Change, RelayTls, Settings, Undecidable, diff, parse};
use std::{collections::BTreeSet, time::Duration};

const EXAMPLE: &str = include_str!("../example.toml");
const SMALLEST: &str = r#"
    host.name = "postern.example.org"
    intake.networks = ["192.0.2.10"]
    relay.smarthost = "mx.example.net:25"
"#;

#[track_caller]
fn good(text: &str) -> Settings {
    parse(text).unwrap_or_else(|problems| {
        panic!("{}", problems.iter().map(|problem| format!("{problem}\n")).collect::<String>())
    })
}

#[test]
fn the_example_is_good_and_gives_what_it_says() {
    let settings = good(EXAMPLE);
    assert_eq!(settings.relay.tls, RelayTls::Verified);
    assert_eq!(settings.intake.networks.len(), 3);
    assert_eq!(settings.policy.rules.len(), 5);
    assert_eq!(settings.policy.rules[1].when.detect[1].at_least, 3);
    assert_eq!(settings.cloud.unwrap().url, "https://cloud.example.net");
}

/// Every key that `parse` asks for, by taking each unknown key's list of known ones: a key that the example forgets
/// is found without a list of keys in this test.
#[test]
fn the_example_documents_every_key() {
    for (table, probe) in [
        ("", "zzzzzzzzzzzz = 1\n"),
        ("[host]", "[host]\nzzzzzzzzzzzz = 1\n"),
        ("[network]", "[network]\nzzzzzzzzzzzz = 1\n"),
        ("[[operators]]", "[[operators]]\nzzzzzzzzzzzz = 1\n"),
        ("[intake]", "[intake]\nzzzzzzzzzzzz = 1\n"),
        ("tls = {", "[intake.tls]\nzzzzzzzzzzzz = 1\n"),
        ("[relay]", "[relay]\nzzzzzzzzzzzz = 1\n"),
        ("[[internal]]", "[[internal]]\nzzzzzzzzzzzz = 1\n"),
        ("[cloud]", "[cloud]\nzzzzzzzzzzzz = 1\n"),
        ("[retry]", "[retry]\nzzzzzzzzzzzz = 1\n"),
        ("[spool]", "[spool]\nzzzzzzzzzzzz = 1\n"),
        ("[policy]", "[policy]\nzzzzzzzzzzzz = 1\n"),
        ("[[policy.pattern]]", "[[policy.pattern]]\nzzzzzzzzzzzz = 1\n"),
        ("[[policy.rule]]", "[[policy.rule]]\nzzzzzzzzzzzz = 1\n"),
        ("when = {", "[[policy.rule]]\nwhen = { zzzzzzzzzzzz = 1 }\n"),
        ("header = {", "[[policy.rule]]\nwhen = { header = { zzzzzzzzzzzz = 1 } }\n"),
        ("detect = [", "[[policy.rule]]\nwhen = { detect = { zzzzzzzzzzzz = 1 } }\n"),
        ("tag = {", "[[policy.rule]]\ntag = { zzzzzzzzzzzz = 1 }\n"),
    ] {
        let problems = parse(probe).unwrap_err();
        let unknown = problems.iter().find(|p| p.what.contains("zzzzzzzzzzzz")).unwrap();
        let known = unknown.remedy.rsplit(": ").next().unwrap();
        assert!(EXAMPLE.contains(table), "{table}");
        for key in known.split(", ") {
            let written = [format!("\n{key} = "), format!("{{ {key} = "), format!(", {key} = "), format!("[{key}]\n")];
            let in_lists = [format!("[[{key}]]"), format!("[[policy.{key}]]")];
            assert!(
                written.iter().chain(&in_lists).any(|form| EXAMPLE.contains(form)),
                "{table} has {key}, and the example does not show it"
            );
        }
    }
}

#[test]
fn the_smallest_settings_have_the_documented_defaults() {
    let settings = good(SMALLEST);
    assert_eq!(settings.intake.listen, ["0.0.0.0:25".parse().unwrap()]);
    assert_eq!(settings.intake.max_message_bytes, 100 << 20);
    assert_eq!((settings.intake.max_recipients, settings.intake.max_sessions), (1000, 500));
    assert_eq!((settings.relay.tls, settings.relay.max_connections), (RelayTls::Opportunistic, 20));
    assert_eq!((settings.internal.len(), settings.cloud.clone(), settings.intake.tls.clone()), (0, None, None));
    assert_eq!(settings.retry.first, Duration::from_secs(60));
    assert_eq!((settings.retry.longest, settings.retry.give_up.as_secs() / 3600), (Duration::from_secs(3600), 120));
    assert_eq!((settings.spool.memory_bytes, settings.spool.reserve_bytes), (64 << 20, 64 << 20));
    assert_eq!(settings.policy.undecidable, Undecidable::Secure);
}

#[test]
fn the_canonical_text_gives_the_same_settings_and_the_same_text() {
    for text in [EXAMPLE, SMALLEST] {
        let settings = good(text);
        let canonical = settings.to_toml();
        assert_eq!(good(&canonical), settings, "{canonical}");
        assert_eq!(good(&canonical).to_toml(), canonical);
    }
}

#[test]
fn texts_that_need_quoting_survive_the_canonical_text() {
    let odd = SMALLEST.to_owned()
        + r##"
            [[policy.pattern]]
            name = "odd"
            regex = '"\x22\\\.#'
            context = ["quote \" and \\ ", "über", "#"]

            [[policy.rule]]
            name = 'a "b" \c = [x] # d'
            when = { subject_tag = ['"', '\', "'''"], larger_than_mib = 0.3 }
            action = "hold"
        "##;
    let settings = good(&odd);
    assert_eq!(good(&settings.to_toml()), settings, "{}", settings.to_toml());
}

#[test]
fn equal_settings_in_other_words_differ_in_nothing() {
    let other = format!("{SMALLEST}\nretry.first_seconds = 60\nintake.listen = '0.0.0.0:25'");
    assert_eq!(diff(&good(SMALLEST), &good(&other)), []);
}

#[test]
fn a_difference_is_named_by_path_and_both_values() {
    let changed = SMALLEST.replace("mx.example.net", "mx2.example.net") + "cloud.url = 'https://c.example'";
    let changes = diff(&good(SMALLEST), &good(&changed));
    let change = |path: &str, from: Option<&str>, to: Option<&str>| Change {
        path: path.into(),
        from: from.map(Into::into),
        to: to.map(Into::into),
    };
    assert_eq!(
        changes,
        [
            change("cloud.max_connections", None, Some("4")),
            change("cloud.url", None, Some("\"https://c.example\"")),
            change("relay.smarthost", Some("\"mx.example.net:25\""), Some("\"mx2.example.net:25\"")),
        ]
    );
    assert_eq!(changes[2].to_string(), "relay.smarthost: \"mx.example.net:25\" → \"mx2.example.net:25\"");
}

#[test]
fn an_inserted_rule_is_one_change_and_a_changed_order_is_seen() {
    let rule = |name: &str| format!("[[policy.rule]]\nname = '{name}'\nwhen = {{}}\naction = 'hold'\n");
    let of = |names: &[&str]| good(&format!("{SMALLEST}{}", names.iter().map(|n| rule(n)).collect::<String>()));
    let paths = |a: &[&str], b: &[&str]| -> BTreeSet<String> {
        diff(&of(a), &of(b)).into_iter().map(|change| change.path).collect()
    };
    let inserted = paths(&["A", "B"], &["A", "New", "B"]);
    assert!(inserted.iter().all(|path| path.starts_with("policy.rule[\"New\"]")), "{inserted:?}");
    assert_eq!(paths(&["A", "B"], &["B", "A"]), BTreeSet::from(["policy.rule".to_owned()]));
    let changes = diff(&of(&["A", "B"]), &of(&["B", "A"]));
    assert_eq!(changes[0].to.as_deref(), Some("\"B\", \"A\""));
}

#[test]
fn a_text_over_the_limit_is_refused_unread() {
    let problems = parse(&format!("{SMALLEST}#{}", "x".repeat(settings::LONGEST_TEXT))).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].what.contains("bytes"), "{problems:?}");
}

#[test]
fn a_changed_password_is_told_and_its_hash_is_not() {
    let of = |salt: &str| {
        let hash = format!("$argon2id$v=19$m=19456,t=2,p=1${}${}", salt.repeat(16), "A".repeat(43));
        good(&format!("{SMALLEST}\n[[operators]]\nname = 'anna'\nrole = 'administrator'\npassword = '{hash}'\n"))
    };
    let changes = diff(&of("a"), &of("b"));
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(changes[0].to_string(), "operators[\"anna\"].password: (hidden) → (hidden)");
}
