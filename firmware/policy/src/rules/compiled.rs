//! One rule, ready to be held against messages.
//!
//! Job: compile conditions once (lower case, globs, detector numbers) and evaluate them. Place: inside the rule set.
//! Invariants: what comes back as a reason names settings and counts, never content. A crash leaves nothing.

use super::evidence::Evidence;
use crate::{Facts, glob::Glob};
use mail::{Action, Address, ReversePath, Tag};
use settings::{AddressPattern, Rule};

/// A rule names a detector that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule} names the detector {detector}, which does not exist; name a built-in one or add a pattern")]
pub struct UnknownDetector {
    /// The rule.
    pub rule: String,
    /// The name.
    pub detector: String,
}

#[derive(Debug)]
pub(super) struct CompiledRule {
    pub(super) name: String,
    pub(super) action: Option<Action>,
    pub(super) text: Option<String>,
    pub(super) tag: Option<Tag>,
    sender: Vec<AddressPattern>,
    recipient: Vec<AddressPattern>,
    external: Option<bool>,
    /// Name as set, text to contain in lower case.
    header: Vec<(String, Option<String>)>,
    subject_tag: Vec<String>,
    sensitivity: Vec<String>,
    larger_than: Option<u64>,
    /// With the globs as set, for the trace.
    names: Vec<(String, Glob)>,
    types: Vec<(String, Glob)>,
    detect: Vec<Threshold>,
    finding: Vec<(String, Glob)>,
}

#[derive(Debug)]
struct Threshold {
    detector: u16,
    at_least: usize,
    score: f32,
}

impl CompiledRule {
    pub(super) fn new(rule: &Rule, detectors: &[String], errors: &mut Vec<UnknownDetector>) -> Self {
        let when = &rule.when;
        let lower = |texts: &[String]| texts.iter().map(|t| t.to_lowercase()).collect::<Vec<_>>();
        let globs = |texts: &[String]| texts.iter().map(|t| (t.clone(), Glob::new(t))).collect::<Vec<_>>();
        let mut detect = Vec::new();
        for wanted in &when.detect {
            match (0u16..).zip(detectors).find(|(_, name)| **name == wanted.detector) {
                Some((detector, _)) => {
                    detect.push(Threshold { detector, at_least: wanted.at_least.max(1), score: wanted.score });
                }
                None => errors.push(UnknownDetector { rule: rule.name.clone(), detector: wanted.detector.clone() }),
            }
        }
        Self {
            name: rule.name.clone(),
            action: rule.action,
            text: rule.text.clone(),
            tag: rule.tag.as_ref().map(|t| Tag { name: t.header.clone(), value: t.value.clone() }),
            sender: when.sender.clone(),
            recipient: when.recipient.clone(),
            external: when.external,
            header: when
                .header
                .iter()
                .map(|h| (h.name.clone(), h.contains.as_ref().map(|c| c.to_lowercase())))
                .collect(),
            subject_tag: lower(&when.subject_tag),
            sensitivity: lower(&when.sensitivity),
            larger_than: when.larger_than_bytes,
            names: globs(&when.attachment_name),
            types: globs(&when.attachment_type),
            detect,
            finding: globs(&when.finding),
        }
    }

    /// Indices of the recipients that the rule is about.
    pub(super) fn bound(&self, recipients: &[Address], external: &[bool]) -> Vec<u16> {
        (0u16..)
            .zip(recipients.iter().zip(external))
            .filter(|(_, (recipient, external))| {
                let named = self.recipient.is_empty() || self.recipient.iter().any(|p| p.matches(recipient));
                let side = match self.external {
                    Some(wanted) => **external == wanted,
                    // Whom a rule names it binds, wherever he is; content binds everyone outside.
                    None => **external || !self.recipient.is_empty(),
                };
                named && side
            })
            .map(|(index, _)| index)
            .collect()
    }

    /// Which conditions on the message hold, if all do.
    pub(super) fn because(&self, facts: &Facts, evidence: &Evidence<'_>, detectors: &[String]) -> Option<String> {
        let mut reasons: Vec<String> = Vec::new();
        if !self.sender.is_empty() {
            let ReversePath::Mailbox(sender) = &facts.sender else { return None };
            self.sender.iter().find(|pattern| pattern.matches(sender))?;
            reasons.push("sender".to_owned());
        }
        for (name, contains) in &self.header {
            if !evidence.has_header(name, contains.as_deref()) {
                return None;
            }
            reasons.push(match contains {
                Some(text) => format!("header {name} contains {text:?}"),
                None => format!("header {name}"),
            });
        }
        if !self.subject_tag.is_empty() {
            let tag = self.subject_tag.iter().find(|tag| evidence.subject().contains(tag.as_str()))?;
            reasons.push(format!("subject contains {tag:?}"));
        }
        if !self.sensitivity.is_empty() {
            let value = self.sensitivity.iter().find(|value| Some(value.as_str()) == evidence.sensitivity())?;
            reasons.push(format!("sensitivity {value}"));
        }
        if let Some(limit) = self.larger_than {
            if facts.size <= limit {
                return None;
            }
            reasons.push(format!("larger than {limit} bytes"));
        }
        if !self.names.is_empty() {
            let (glob, _) = self.names.iter().find(|(_, glob)| evidence.has_attachment_name(glob))?;
            reasons.push(format!("attachment name {glob}"));
        }
        if !self.types.is_empty() {
            let (glob, _) = self.types.iter().find(|(_, glob)| evidence.has_attachment_type(glob))?;
            reasons.push(format!("attachment type {glob}"));
        }
        if !self.detect.is_empty() {
            let found = self.detect.iter().find_map(|threshold| {
                let count = evidence.distinct(threshold.detector, threshold.score);
                (count >= threshold.at_least).then_some((threshold, count))
            });
            let (threshold, count) = found?;
            let name = detectors.get(usize::from(threshold.detector)).map_or("", String::as_str);
            let sample = evidence.sample(threshold.detector).map(|s| format!(" ({s})")).unwrap_or_default();
            reasons.push(format!("{name} {count} of at least {}{sample}", threshold.at_least));
        }
        if !self.finding.is_empty() {
            let found = self.finding.iter().find_map(|(_, glob)| evidence.condition(glob))?;
            reasons.push(found);
        }
        if !self.recipient.is_empty() {
            reasons.push("recipient".to_owned());
        }
        match self.external {
            Some(true) => reasons.push("external recipient".to_owned()),
            Some(false) => reasons.push("internal recipient".to_owned()),
            None => {}
        }
        if reasons.is_empty() {
            reasons.push("every message".to_owned());
        }
        Some(reasons.join("; "))
    }
}
