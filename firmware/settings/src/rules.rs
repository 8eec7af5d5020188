//! `[policy]`: patterns and rules.
//!
//! Job: read rules so that none is silently without effect: unknown detectors, conditions that can't hold and actions
//! that are missing are errors. Place: called once by `parse`. Invariants: every pattern compiles within
//! [`PATTERN_SIZE_LIMIT`]; every detector that a rule names exists. A crash leaves nothing behind.

use crate::{
    CONDITIONS, Conditions, DETECTORS, Detect, HeaderCondition, PATTERN_NEST_LIMIT, PATTERN_SIZE_LIMIT, Pattern,
    Policy, Rule, TagAction, Undecidable, check,
    problem::{Halves, Place, Problems, halves, nearest},
    read::{Item, Section},
    sections::MIB,
};
use mail::Action;
use std::collections::BTreeMap;

/// Each pattern is one more thing to look for in every message.
const MOST_PATTERNS: usize = 200;
/// Rules are tried once a recipient.
const MOST_RULES: usize = 1000;
/// Names stand in log lines, reports and the audit chain.
const LONGEST_NAME: usize = 60;
/// What a person can still read and check.
const LONGEST_REGEX: usize = 1000;
/// The 550 is one line of at most 512 octets (RFC 5321 §4.5.3.1.5), and carries the message's ID too.
const LONGEST_REJECT_TEXT: usize = 300;
/// Name and value must fit in one line of 998 octets (RFC 5322 §2.1.1).
const LONGEST_TAG_VALUE: usize = 800;
/// Words and globs to look for.
const LONGEST_WORD: usize = 200;

pub(crate) fn policy(root: &mut Section<'_>, max_message_bytes: Option<u64>, problems: &mut Problems<'_>) -> Policy {
    let mut section = root.section("policy", problems);
    let undecidable = section.item("undecidable").and_then(|item| {
        let words = [("secure", Undecidable::Secure), ("hold", Undecidable::Hold), ("reject", Undecidable::Reject)];
        item.choice(&words, problems)
    });
    let patterns = section.item("pattern").map(|item| patterns(&item, problems)).unwrap_or_default();
    let rules = section.item("rule").map(|item| {
        // A pattern with errors of its own still counts as known, so that its rules are not reported too.
        let names: Vec<&str> = patterns.iter().map(|(name, _)| name.as_str()).collect();
        rules(&item, &names, max_message_bytes, problems)
    });
    section.finish(problems);
    Policy {
        patterns: patterns.into_iter().filter_map(|(_, pattern)| pattern).collect(),
        rules: rules.unwrap_or_default(),
        undecidable: undecidable.unwrap_or_default(),
    }
}

fn at_most(entries: &[Item<'_>], most: usize, place: &Place, problems: &mut Problems<'_>) {
    if entries.len() > most {
        problems.add(place, format!("there are {} of them", entries.len()), format!("write at most {most}"));
    }
}

fn patterns(item: &Item<'_>, problems: &mut Problems<'_>) -> Vec<(String, Option<Pattern>)> {
    let entries = item.entries(problems);
    at_most(&entries, MOST_PATTERNS, &item.place, problems);
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let mut patterns = Vec::new();
    for entry in entries.into_iter().take(MOST_PATTERNS) {
        let mut section = entry.section(problems);
        let name = section.required("name", problems, "name = \"case_number\"").and_then(|item| {
            let name = item.text(problems, pattern_name)?;
            if let Some(first) = seen.insert(name.clone(), item.place.path.clone()) {
                problems.add(
                    &item.place,
                    format!("{name} is the name in {first} too"),
                    "give each pattern its own name",
                );
            }
            Some(name)
        });
        let regex = section
            .required("regex", problems, "regex = '\\bCASE-\\d{6}\\b'")
            .and_then(|item| item.text(problems, pattern_regex));
        let context = section.item("context").map(|item| {
            let words = item.texts(problems, |word| check::some_text(word, LONGEST_WORD));
            words.into_iter().map(|(_, word)| word).collect()
        });
        let score = section.item("score").and_then(|item| score(&item, problems));
        section.finish(problems);
        if let Some(name) = name {
            let pattern = regex.map(|regex| Pattern {
                name: name.clone(),
                regex,
                context: context.unwrap_or_default(),
                score: score.unwrap_or(0.5),
            });
            patterns.push((name, pattern));
        }
    }
    patterns
}

fn pattern_name(text: &str) -> Result<String, Halves> {
    let well_formed = text.len() <= LONGEST_NAME
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if !well_formed {
        return Err(halves(
            format!("{} can't be a pattern's name", check::quoted(text)),
            "write lower-case letters, digits and _, a letter first, for example \"case_number\"",
        ));
    }
    if DETECTORS.contains(&text) || CONDITIONS.contains(&text) {
        return Err(halves(format!("{text} is built in"), "choose another name"));
    }
    Ok(text.to_owned())
}

/// Compiles the regex with the limits that the judge has too.
fn pattern_regex(text: &str) -> Result<String, Halves> {
    if text.len() > LONGEST_REGEX {
        return Err(halves(
            format!("the regex is longer than {LONGEST_REGEX} bytes"),
            "split it into several patterns; a rule may name them all",
        ));
    }
    let built = regex::RegexBuilder::new(text).size_limit(PATTERN_SIZE_LIMIT).nest_limit(PATTERN_NEST_LIMIT).build();
    match built {
        Ok(regex) if regex.is_match("") => Err(halves(
            "the regex matches the empty text, and so everywhere",
            "write it so that at least one character must be there",
        )),
        Ok(_) => Ok(text.to_owned()),
        Err(regex::Error::CompiledTooBig(_)) => Err(halves(
            format!("the regex takes more than {} KiB when compiled", PATTERN_SIZE_LIMIT / 1024),
            "lower its repeat counts, or write \\d and [a-z] where \\w and \\p{…} are not needed",
        )),
        Err(error) => {
            // The last line of the library's report names the error, those above draw it.
            let report = error.to_string();
            let reason = report.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            let remedy = if ["look-around", "backreferences"].iter().any(|word| reason.contains(word)) {
                "write it without; patterns run in linear time, which these can't"
            } else {
                "correct it; the syntax is that of https://docs.rs/regex, in single quotes so that \\ stands as it is"
            };
            Err(halves(format!("the regex does not compile: {reason}"), remedy))
        }
    }
}

fn score(item: &Item<'_>, problems: &mut Problems<'_>) -> Option<f32> {
    #[expect(clippy::cast_possible_truncation, reason = "0 to 1; the last digits of a score mean nothing")]
    item.number(0.0..=1.0, problems).map(|score| score as f32)
}

fn rules(item: &Item<'_>, patterns: &[&str], max_message_bytes: Option<u64>, problems: &mut Problems<'_>) -> Vec<Rule> {
    let entries = item.entries(problems);
    at_most(&entries, MOST_RULES, &item.place, problems);
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let mut rules = Vec::new();
    for entry in entries.into_iter().take(MOST_RULES) {
        let mut section = entry.section(problems);
        let place = section.place().clone();
        let name = section.required("name", problems, "name = \"Card numbers\"").and_then(|item| {
            let name = item.text(problems, |text| check::some_text(text, LONGEST_NAME))?;
            if let Some(first) = seen.insert(name.clone(), item.place.path.clone()) {
                problems.add(
                    &item.place,
                    format!("another rule has this name, in {first}"),
                    "give each rule its own name",
                );
            }
            Some(name)
        });
        let when = section
            .required("when", problems, "when = { … }; when = {} means every message")
            .map(|item| conditions(item, patterns, max_message_bytes, problems));
        let action_item = section.item("action");
        let action = action_item.as_ref().and_then(|item| {
            let words = [
                ("relay", Action::Relay),
                ("secure", Action::Secure),
                ("hold", Action::Hold),
                ("reject", Action::Reject),
            ];
            item.choice(&words, problems)
        });
        let text = section.item("text").and_then(|item| {
            if action_item.is_none() || action.is_some_and(|action| action != Action::Reject) {
                problems.add(
                    &item.place,
                    "text is for action = \"reject\" only",
                    "remove text, or let the rule reject",
                );
            }
            item.text(problems, |text| check::line(text, LONGEST_REJECT_TEXT))
        });
        let tag_item = section.item("tag");
        let has_tag = tag_item.is_some();
        let tag = tag_item.and_then(|item| tag(item, problems));
        if action_item.is_none() && !has_tag {
            problems.add(
                &place,
                "the rule does nothing",
                "write action = \"secure\", \"hold\", \"reject\" or \"relay\", or tag = { header = \"X-…\", value = \"…\" }",
            );
        }
        section.finish(problems);
        if let (Some(name), Some(when)) = (name, when) {
            rules.push(Rule { name, when, action, text, tag });
        }
    }
    rules
}

fn tag(item: Item<'_>, problems: &mut Problems<'_>) -> Option<TagAction> {
    let example = "tag = { header = \"X-Classification\", value = \"confidential\" }";
    let mut section = item.section(problems);
    let header = section.required("header", problems, example).and_then(|item| item.text(problems, check::tag_name));
    let value = section
        .required("value", problems, example)
        .and_then(|item| item.text(problems, |text| check::line(text, LONGEST_TAG_VALUE)));
    section.finish(problems);
    Some(TagAction { header: header?, value: value? })
}

fn conditions(
    item: Item<'_>,
    patterns: &[&str],
    max_message_bytes: Option<u64>,
    problems: &mut Problems<'_>,
) -> Conditions {
    let mut section = item.section(problems);
    fn list<T>(
        section: &mut Section<'_>,
        key: &'static str,
        problems: &mut Problems<'_>,
        check: impl FnMut(&str) -> Result<T, Halves>,
    ) -> Vec<T> {
        let values = section.item(key).map(|item| item.texts(problems, check)).unwrap_or_default();
        values.into_iter().map(|(_, value)| value).collect()
    }
    let word = |text: &str| check::some_text(text, LONGEST_WORD);
    let when = Conditions {
        sender: list(&mut section, "sender", problems, check::address_pattern),
        recipient: list(&mut section, "recipient", problems, check::address_pattern),
        external: section.item("external").and_then(|item| item.boolean(problems)),
        header: headers(&mut section, problems),
        subject_tag: list(&mut section, "subject_tag", problems, word),
        sensitivity: list(&mut section, "sensitivity", problems, sensitivity),
        larger_than_bytes: larger_than(&mut section, max_message_bytes, problems),
        attachment_name: list(&mut section, "attachment_name", problems, word),
        attachment_type: list(&mut section, "attachment_type", problems, attachment_type),
        detect: detects(&mut section, patterns, problems),
        finding: list(&mut section, "finding", problems, |text| finding(text, patterns)),
    };
    section.finish(problems);
    when
}

fn headers(section: &mut Section<'_>, problems: &mut Problems<'_>) -> Vec<HeaderCondition> {
    let entries = section.item("header").map(|item| item.entries(problems)).unwrap_or_default();
    let mut headers = Vec::new();
    for entry in entries {
        let mut section = entry.section(problems);
        let name = section
            .required("name", problems, "header = { name = \"X-Project\", contains = \"apollo\" }")
            .and_then(|item| item.text(problems, check::field_name));
        let contains =
            section.item("contains").and_then(|item| item.text(problems, |text| check::some_text(text, LONGEST_WORD)));
        section.finish(problems);
        headers.extend(name.map(|name| HeaderCondition { name, contains }));
    }
    headers
}

/// The values of RFC 4021 §2.1.54; what programs make of other values nobody has fixed.
fn sensitivity(text: &str) -> Result<String, Halves> {
    const KNOWN: [&str; 3] = ["Personal", "Private", "Company-Confidential"];
    match KNOWN.iter().find(|known| known.eq_ignore_ascii_case(text)) {
        Some(known) => Ok((*known).to_owned()),
        None => Err(halves(
            format!("{} is no value of the Sensitivity field", check::quoted(text)),
            format!("write one of: {}", KNOWN.join(", ")),
        )),
    }
}

fn larger_than(section: &mut Section<'_>, limit: Option<u64>, problems: &mut Problems<'_>) -> Option<u64> {
    let item = section.item("larger_than_mib")?;
    let mib = item.number(0.0..=1024.0, problems)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 2^30")]
    #[expect(clippy::cast_precision_loss, reason = "2^20")]
    let bytes = (mib * MIB as f64).round() as u64;
    if let Some(limit) = limit.filter(|limit| bytes >= *limit) {
        problems.add(
            &item.place,
            format!("no message is larger than intake.max_message_mib, {} MiB", limit / MIB),
            "write less, or raise intake.max_message_mib",
        );
    }
    Some(bytes)
}

fn attachment_type(text: &str) -> Result<String, Halves> {
    let well_formed = !text.is_empty()
        && text.len() <= 100
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"*/.+-_".contains(&b));
    if well_formed {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(halves(
            format!("{} is not a type", check::quoted(text)),
            "write a short name such as \"pdf\", or a MIME type such as \"image/*\"",
        ))
    }
}

fn detects(section: &mut Section<'_>, patterns: &[&str], problems: &mut Problems<'_>) -> Vec<Detect> {
    let entries = section.item("detect").map(|item| item.entries(problems)).unwrap_or_default();
    let mut detects = Vec::new();
    for entry in entries {
        let mut section = entry.section(problems);
        let detector = section
            .required("detector", problems, "detect = [{ detector = \"us_ssn\", at_least = 1 }]")
            .and_then(|item| item.text(problems, |text| detector(text, patterns)));
        // Findings of a message are kept up to a bound; a threshold above it could never be reached.
        let at_least = section.integer("at_least", 1..=10_000, 1, "", problems);
        let score = section.item("score").and_then(|item| score(&item, problems));
        section.finish(problems);
        if let (Some(detector), Ok(at_least)) = (detector, usize::try_from(at_least)) {
            detects.push(Detect { detector, at_least, score: score.unwrap_or(0.5) });
        }
    }
    detects
}

fn detector(text: &str, patterns: &[&str]) -> Result<String, Halves> {
    let known = || DETECTORS.iter().copied().chain(patterns.iter().copied());
    if known().any(|name| name == text) {
        return Ok(text.to_owned());
    }
    let what = format!("there is no detector {}", check::quoted(text));
    if CONDITIONS.contains(&text) {
        return Err(halves(what, format!("write finding = [\"{text}\"]; that is a condition, not a detector")));
    }
    Err(match nearest(text, known()) {
        Some(near) => halves(what, format!("write \"{near}\", if that is meant")),
        None => halves(
            what,
            format!("write one of: {}; or define it as a [[policy.pattern]]", known().collect::<Vec<_>>().join(", ")),
        ),
    })
}

fn finding(text: &str, patterns: &[&str]) -> Result<String, Halves> {
    if CONDITIONS.contains(&text) {
        return Ok(text.to_owned());
    }
    let what = format!("there is no condition {}", check::quoted(text));
    if let Some(kind) = text.strip_prefix("unread:") {
        return attachment_type(kind)
            .map(|kind| format!("unread:{kind}"))
            .map_err(|_| halves(what, "write \"unread:*\", or a type such as \"unread:dwg\""));
    }
    if DETECTORS.contains(&text) || patterns.contains(&text) {
        return Err(halves(what, format!("write detect = [{{ detector = \"{text}\" }}]; that is a detector")));
    }
    let known = CONDITIONS.iter().copied().chain(["unread:*"]);
    Err(match nearest(text, known.clone()) {
        Some(near) => halves(what, format!("write \"{near}\", if that is meant")),
        None => halves(what, format!("write one of: {}", known.collect::<Vec<_>>().join(", "))),
    })
}
