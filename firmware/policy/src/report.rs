//! What the command line shows of a policy.
//!
//! Job: `postern policy scan` and `postern policy explain` without a daemon. Place: beside the way of a message; nothing
//! here decides anything. Invariants: the same readers, detectors and rules as in the daemon; samples are masked. A crash
//! leaves nothing.

use crate::{
    Facts, Policy,
    detect::Detectors,
    extract,
    job::{InProcess, PartReport, examine},
    rules::findings,
};
use mail::{Finding, Verdict};
use serde::Serialize;
use std::{
    borrow::Cow,
    io::Cursor,
    time::{Duration, Instant},
};

/// Time that the command line gives a message.
const PATIENCE: Duration = Duration::from_secs(600);

/// The document that `policy scan --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScanReport {
    /// Every finding that passes format and checksum, whatever its score, in the order of the parts and their text.
    pub findings: Vec<Finding>,
}

/// What `policy explain` prints: the verdict, and who was asked about.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// One entry for each recipient of the verdict, same order.
    pub recipients: Vec<String>,
    /// The verdict with the rules that led to it.
    pub verdict: Verdict,
}

/// All findings in `input`: an RFC 5322 message, or with `plain` a text (UTF-8) that counts as part `1`.
#[must_use]
pub fn scan(detectors: &Detectors, input: &[u8], plain: bool) -> ScanReport {
    let deadline = Instant::now() + PATIENCE;
    let mut parts: Vec<PartReport> = Vec::new();
    if plain {
        let part = extract::Part {
            section: "1".to_owned(),
            declared: "text/plain".to_owned(),
            name: None,
            sniffed: "text",
            text: String::from_utf8_lossy(input),
            views: Vec::new(),
            conditions: Vec::new(),
        };
        parts.push(examine(&part, detectors, deadline));
    } else {
        let mut budget = extract::Budget::until(deadline);
        extract::read_message(input, &mut budget, &mut |part| parts.push(examine(&part, detectors, deadline)));
    }
    for part in &mut parts {
        part.hits.sort_by_key(|hit| (hit.offset, hit.length));
    }
    ScanReport { findings: findings(&parts, detectors.names()) }
}

/// The verdict on `message` and what led to it.
#[must_use]
pub fn explain(policy: &Policy, facts: &Facts, message: &[u8]) -> Explanation {
    let verdict = policy.judge(facts, &mut Cursor::new(message), &InProcess, Instant::now() + PATIENCE);
    Explanation { recipients: facts.recipients.iter().map(ToString::to_string).collect(), verdict }
}

impl std::fmt::Display for ScanReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for finding in &self.findings {
            let Finding { detector, part, offset, length, score, sample } = finding;
            writeln!(f, "{detector:<14} {score:.2}  part {} at {offset}+{length}  {sample}", printable(part))?;
        }
        if self.findings.is_empty() { writeln!(f, "nothing found") } else { Ok(()) }
    }
}

impl std::fmt::Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let action = |action| format!("{action:?}").to_lowercase();
        for (address, recipient) in self.recipients.iter().zip(&self.verdict.recipients) {
            let rule = recipient.rule.as_deref().unwrap_or("no rule matched");
            writeln!(f, "{:<7} {address}  ({rule})", action(recipient.action))?;
        }
        for tag in &self.verdict.tags {
            writeln!(f, "tag     {}: {}", tag.name, tag.value)?;
        }
        if let Some(text) = &self.verdict.reject_text {
            writeln!(f, "text    {text}")?;
        }
        for matched in &self.verdict.matches {
            let does = matched.action.map_or_else(|| "tag".to_owned(), action);
            writeln!(f, "rule    {} → {does}: {}", matched.rule, printable(&matched.because))?;
        }
        ScanReport { findings: self.verdict.findings.clone() }.fmt(f)
    }
}

/// Names from inside archives stand in sections; a terminal must not take orders from them.
fn printable(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_control) {
        Cow::Owned(text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect())
    } else {
        Cow::Borrowed(text)
    }
}
