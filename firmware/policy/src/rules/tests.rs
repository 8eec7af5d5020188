use super::*;
use crate::{
    detect::Hit,
    extract::Condition,
    job::{HeaderReport, PartReport},
};
use mail::ReversePath;
use settings::{AddressPattern, Conditions, Detect, HeaderCondition, Rule, TagAction};

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn facts(recipients: &[&str]) -> Facts {
    Facts {
        sender: ReversePath::Mailbox(address("ann@corp.example")),
        recipients: recipients.iter().map(|r| address(r)).collect(),
        size: 1000,
    }
}

fn rule(name: &str, action: Option<Action>, when: Conditions) -> Rule {
    Rule { name: name.into(), when, action, text: None, tag: None }
}

fn hit(detector: u16, distinct: u64, score: f32) -> Hit {
    Hit { detector, offset: 0, length: 4, score, sample: format!("*{distinct}"), distinct }
}

fn part(section: &str, conditions: &[Condition], hits: &[Hit]) -> PartReport {
    PartReport {
        section: section.into(),
        sniffed: "text".into(),
        conditions: conditions.to_vec(),
        hits: hits.to_vec(),
        ..PartReport::default()
    }
}

fn reading(parts: Vec<PartReport>) -> Reading {
    Reading { parts, ..Reading::default() }
}

fn names() -> Vec<String> {
    settings::DETECTORS.iter().map(|&d| d.to_owned()).collect()
}

fn decide_with(undecidable: Undecidable, rules: Vec<Rule>, facts: &Facts, reading: &Reading) -> Verdict {
    let policy = settings::Policy { patterns: vec![], rules, undecidable };
    let set = RuleSet::compile(&policy, &names(), vec!["corp.example".parse().unwrap()]).unwrap();
    set.decide(facts, reading, &names())
}

fn decide(rules: Vec<Rule>, facts: &Facts, reading: &Reading) -> Verdict {
    decide_with(Undecidable::Secure, rules, facts, reading)
}

fn actions(verdict: &Verdict) -> Vec<Action> {
    verdict.recipients.iter().map(|r| r.action).collect()
}

fn detects(detector: &str, at_least: usize, score: f32) -> Conditions {
    Conditions { detect: vec![Detect { detector: detector.into(), at_least, score }], ..Conditions::default() }
}

const ALL: [Action; 4] = [Action::Relay, Action::Secure, Action::Hold, Action::Reject];

#[test]
fn of_every_pair_of_actions_the_stronger_wins_in_either_order() {
    use Action::{Hold, Reject, Relay, Secure};
    // Rows and columns in the order of `ALL`.
    let table = [
        [Relay, Secure, Hold, Reject],
        [Secure, Secure, Hold, Reject],
        [Hold, Hold, Hold, Reject],
        [Reject, Reject, Reject, Reject],
    ];
    for (first, row) in ALL.into_iter().zip(table) {
        for (second, expected) in ALL.into_iter().zip(row) {
            let rules = vec![
                rule("first", Some(first), Conditions::default()),
                rule("second", Some(second), Conditions::default()),
            ];
            let verdict = decide(rules, &facts(&["x@out.example"]), &Reading::default());
            assert_eq!(actions(&verdict), [expected], "{first:?} and {second:?}");
            let named = if first >= second { "first" } else { "second" };
            assert_eq!(verdict.recipients[0].rule.as_deref(), Some(named), "{first:?} and {second:?}");
            assert_eq!(verdict.matches.len(), 2, "all matching rules are in the trace");
        }
    }
}

#[test]
fn without_rules_mail_is_ordinary() {
    let verdict = decide(vec![], &facts(&["x@out.example"]), &Reading::default());
    assert_eq!(actions(&verdict), [Action::Relay]);
    assert_eq!(verdict.recipients[0].rule, None);
}

#[test]
fn a_verdict_from_the_content_binds_every_external_recipient_and_no_internal_one() {
    let found = reading(vec![part("1", &[], &[hit(0, 1, 0.85)])]);
    let rules = vec![rule("ssn", Some(Action::Secure), detects("us_ssn", 1, 0.5))];
    let to = facts(&["a@out.example", "b@corp.example", "c@sub.corp.example", "d@else.example"]);
    let verdict = decide(rules, &to, &found);
    assert_eq!(actions(&verdict), [Action::Secure, Action::Relay, Action::Relay, Action::Secure]);
    assert_eq!(verdict.matches[0].recipients, [0, 3]);
    assert!(verdict.matches[0].because.contains("us_ssn 1 of at least 1"), "{}", verdict.matches[0].because);
}

#[test]
fn internal_recipients_are_bound_where_a_rule_names_them() {
    let to = facts(&["a@out.example", "b@corp.example"]);
    let internal = Conditions { external: Some(false), ..Conditions::default() };
    let named = Conditions {
        recipient: vec![AddressPattern::Within("corp.example".parse().unwrap())],
        ..Conditions::default()
    };
    for when in [internal, named] {
        let verdict = decide(vec![rule("r", Some(Action::Hold), when)], &to, &Reading::default());
        assert_eq!(actions(&verdict), [Action::Relay, Action::Hold]);
    }
    let both = Conditions { recipient: vec![AddressPattern::Any], external: Some(true), ..Conditions::default() };
    let verdict = decide(vec![rule("r", Some(Action::Hold), both)], &to, &Reading::default());
    assert_eq!(actions(&verdict), [Action::Hold, Action::Relay]);
}

#[test]
fn only_rules_about_recipients_split_a_message() {
    let to = facts(&["a@partner.example", "b@out.example"]);
    let partner = Conditions {
        recipient: vec![AddressPattern::Within("partner.example".parse().unwrap())],
        ..Conditions::default()
    };
    let verdict = decide(vec![rule("partner", Some(Action::Secure), partner)], &to, &Reading::default());
    assert_eq!(actions(&verdict), [Action::Secure, Action::Relay]);
    let content = Conditions { subject_tag: vec!["[Secure]".into()], ..Conditions::default() };
    let tagged = Reading {
        header: HeaderReport { subject: "Hello [SECURE] you".into(), ..HeaderReport::default() },
        ..Reading::default()
    };
    let verdict = decide(vec![rule("tag", Some(Action::Secure), content)], &to, &tagged);
    assert_eq!(actions(&verdict), [Action::Secure, Action::Secure]);
}

#[test]
fn a_rule_that_relays_is_no_exception_from_one_that_secures() {
    let to = facts(&["a@partner.example"]);
    let partner = Conditions { recipient: vec![AddressPattern::Any], ..Conditions::default() };
    let found = reading(vec![part("1", &[], &[hit(0, 1, 0.85)])]);
    let rules = vec![
        rule("partner in clear", Some(Action::Relay), partner),
        rule("ssn", Some(Action::Secure), detects("us_ssn", 1, 0.5)),
    ];
    assert_eq!(actions(&decide(rules, &to, &found)), [Action::Secure]);
}

#[test]
fn thresholds_count_different_values_with_enough_score() {
    let cases = [
        (vec![hit(0, 1, 0.6), hit(0, 1, 0.9)], 2, 0.5, false),
        (vec![hit(0, 1, 0.6), hit(0, 2, 0.6)], 2, 0.5, true),
        (vec![hit(0, 1, 0.6), hit(0, 2, 0.4)], 2, 0.5, false),
        (vec![hit(0, 1, 0.6), hit(0, 2, 0.4)], 2, 0.3, true),
        (vec![hit(0, 1, 0.3), hit(0, 1, 0.7)], 1, 0.7, true),
        (vec![hit(1, 1, 0.9)], 1, 0.5, false),
        (vec![], 1, 0.0, false),
    ];
    for (hits, at_least, score, matches) in cases {
        let rules = vec![rule("r", Some(Action::Secure), detects("us_ssn", at_least, score))];
        // Over two parts, as text and HTML are.
        let (a, b) = hits.split_at(hits.len() / 2);
        let verdict =
            decide(rules, &facts(&["x@out.example"]), &reading(vec![part("1.1", &[], a), part("1.2", &[], b)]));
        assert_eq!(verdict.strongest() == Action::Secure, matches, "{hits:?} at least {at_least} from {score}");
    }
}

#[test]
fn every_condition_must_hold_and_each_is_checked() {
    let message = Reading {
        header: HeaderReport {
            subject: "Quarter [secure]".into(),
            sensitivity: Some("company-confidential".into()),
            fields: vec![("X-Class".into(), "Top Secret".into())],
        },
        parts: vec![
            part("1", &[Condition::Unread("dwg".into())], &[hit(0, 1, 0.9)]),
            PartReport {
                section: "2".into(),
                name: Some("docs/Salaries 2024.XLSX".into()),
                sniffed: "xlsx".into(),
                ..PartReport::default()
            },
        ],
        failures: vec![],
    };
    let all = Conditions {
        sender: vec![AddressPattern::Within("corp.example".parse().unwrap())],
        recipient: vec![AddressPattern::Exact(address("X@out.example"))],
        external: Some(true),
        header: vec![HeaderCondition { name: "x-class".into(), contains: Some("SECRET".into()) }],
        subject_tag: vec!["[SECURE]".into()],
        sensitivity: vec!["Personal".into(), "Company-Confidential".into()],
        larger_than_bytes: Some(999),
        attachment_name: vec!["salaries*.xls?".into()],
        attachment_type: vec!["pdf".into(), "application/vnd.openxml*".into()],
        detect: vec![Detect { detector: "us_ssn".into(), at_least: 1, score: 0.5 }],
        finding: vec!["unread:*".into()],
    };
    let to = facts(&["x@out.example"]);
    let matches = |when: &Conditions| {
        !decide(vec![rule("r", Some(Action::Hold), when.clone())], &to, &message).matches.is_empty()
    };
    assert!(matches(&all));
    type Break = fn(&mut Conditions);
    let broken: [(&str, Break); 11] = [
        ("sender", |c| c.sender = vec![AddressPattern::Exact("bob@corp.example".parse().unwrap())]),
        ("recipient", |c| c.recipient = vec![AddressPattern::Exact("y@out.example".parse().unwrap())]),
        ("external", |c| c.external = Some(false)),
        ("header", |c| c.header.push(HeaderCondition { name: "X-Other".into(), contains: None })),
        ("subject_tag", |c| c.subject_tag = vec!["[private]".into()]),
        ("sensitivity", |c| c.sensitivity = vec!["Private".into()]),
        ("larger_than", |c| c.larger_than_bytes = Some(1000)),
        ("attachment_name", |c| c.attachment_name = vec!["*.pdf".into()]),
        ("attachment_type", |c| c.attachment_type = vec!["image/*".into()]),
        ("detect", |c| c.detect[0].at_least = 2),
        ("finding", |c| c.finding = vec!["encrypted".into()]),
    ];
    for (name, break_it) in broken {
        let mut when = all.clone();
        break_it(&mut when);
        assert!(!matches(&when), "{name} is not looked at");
    }
}

#[test]
fn the_senders_of_notices_match_no_sender_pattern() {
    let to = Facts { sender: ReversePath::Null, ..facts(&["x@out.example"]) };
    let when = Conditions { sender: vec![AddressPattern::Any], ..Conditions::default() };
    assert!(decide(vec![rule("r", Some(Action::Hold), when)], &to, &Reading::default()).matches.is_empty());
}

#[test]
fn tags_add_up_once_each_and_only_of_rules_that_match() {
    let tagging = |name: &str, value: &str, when: Conditions| Rule {
        tag: Some(TagAction { header: "X-Class".into(), value: value.into() }),
        ..rule(name, None, when)
    };
    let never = Conditions { larger_than_bytes: Some(u64::MAX), ..Conditions::default() };
    let rules = vec![
        tagging("a", "one", Conditions::default()),
        tagging("b", "two", Conditions::default()),
        tagging("c", "one", Conditions::default()),
        tagging("d", "three", never),
    ];
    let verdict = decide(rules, &facts(&["x@out.example"]), &Reading::default());
    let values: Vec<&str> = verdict.tags.iter().map(|t| t.value.as_str()).collect();
    assert_eq!(values, ["one", "two"]);
    assert_eq!(actions(&verdict), [Action::Relay]);
    assert_eq!(verdict.recipients[0].rule, None, "a tag asks for no action");
}

#[test]
fn the_text_shown_is_that_of_the_first_rule_that_rejects() {
    let with = |text: &str| Rule { text: Some(text.into()), ..rule(text, Some(Action::Reject), Conditions::default()) };
    let verdict = decide(vec![with("first"), with("second")], &facts(&["x@out.example"]), &Reading::default());
    assert_eq!(verdict.reject_text.as_deref(), Some("first"));
}

#[test]
fn what_cannot_be_decided_fails_closed_for_every_external_recipient() {
    let to = facts(&["a@out.example", "b@corp.example"]);
    for condition in [Condition::Encrypted, Condition::Malformed, Condition::OverBudget] {
        for (set, action) in [
            (Undecidable::Secure, Action::Secure),
            (Undecidable::Hold, Action::Hold),
            (Undecidable::Reject, Action::Reject),
        ] {
            let found = reading(vec![part("1", &[], &[]), part("2!a.zip", std::slice::from_ref(&condition), &[])]);
            // A rule that relays everything changes nothing.
            let relay = rule("all", Some(Action::Relay), Conditions::default());
            let verdict = decide_with(set, vec![relay], &to, &found);
            assert_eq!(actions(&verdict), [action, Action::Relay], "{condition}");
            assert_eq!(verdict.recipients[0].rule.as_deref(), Some("built-in:undecidable"));
            assert!(verdict.undecidable.as_deref().is_some_and(|why| why.contains(&condition.to_string())));
            assert_eq!(verdict.reject_text.is_some(), action == Action::Reject);
        }
    }
}

#[test]
fn a_format_without_a_reader_is_left_to_the_rules() {
    let found = reading(vec![part("2", &[Condition::Unread("dwg".into())], &[])]);
    let to = facts(&["a@out.example"]);
    let verdict = decide(vec![], &to, &found);
    assert_eq!(actions(&verdict), [Action::Relay]);
    assert_eq!(verdict.undecidable, None);
    let when = Conditions { finding: vec!["unread:d?g".into()], ..Conditions::default() };
    assert_eq!(actions(&decide(vec![rule("r", Some(Action::Hold), when)], &to, &found)), [Action::Hold]);
}

#[test]
fn every_failure_of_a_worker_fails_closed() {
    let to = facts(&["a@out.example", "b@corp.example"]);
    for (error, expected) in [
        (WorkerError::TooSlow, [Action::Secure, Action::Relay]),
        (WorkerError::Unavailable("none".into()), [Action::Secure, Action::Relay]),
        (WorkerError::Unreadable("disk".into()), [Action::Secure, Action::Relay]),
        (WorkerError::Defect, [Action::Secure, Action::Relay]),
        (WorkerError::Patterns("bad".into()), [Action::Secure, Action::Relay]),
        (WorkerError::KilledThreeTimes, [Action::Hold, Action::Hold]),
    ] {
        let failed = Reading { failures: vec![("2".into(), error.clone())], ..Reading::default() };
        let verdict = decide(vec![], &to, &failed);
        assert_eq!(actions(&verdict), expected, "{error}");
        assert!(verdict.undecidable.is_some());
    }
    let failed = Reading { failures: vec![("2".into(), WorkerError::KilledThreeTimes)], ..Reading::default() };
    let verdict = decide_with(Undecidable::Reject, vec![], &to, &failed);
    assert_eq!(verdict.strongest(), Action::Reject, "rejecting is stronger than holding");
}

#[test]
fn a_hundred_findings_are_kept_strongest_first() {
    let hits: Vec<Hit> = (0..500).map(|n| hit(0, n, if n == 400 { 0.9 } else { 0.3 })).collect();
    let verdict = decide(vec![], &facts(&["a@out.example"]), &reading(vec![part("1", &[], &hits)]));
    assert_eq!(verdict.findings.len(), 100);
    assert_eq!(verdict.findings[0].sample, "*400");
}

#[test]
fn a_rule_that_names_no_detector_of_ours_is_refused() {
    let policy = settings::Policy {
        rules: vec![rule("r", Some(Action::Hold), detects("us_snn", 1, 0.5))],
        ..settings::Policy::default()
    };
    let error = RuleSet::compile(&policy, &names(), vec![]).unwrap_err();
    assert!(error[0].to_string().contains("us_snn"), "{error:?}");
}
