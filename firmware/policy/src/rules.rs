//! Rules: who is bound to what.
//!
//! Job: hold the settings' rules against what was read of a message, and combine them. Place: the last step of judging.
//! Invariants: all matching rules count, the strongest action wins for each recipient, and order decides only which text
//! is shown; nothing undecidable leaves as ordinary mail. A crash leaves nothing.
//!
//! What a rule means:
//! - All conditions that are given must hold; of the entries of one list one is enough (all entries of `header` must).
//!   Texts are compared without case.
//! - *Whom it binds.* With `recipient`, those recipients that match, inside or outside. With `external`, all outside
//!   (true) or all inside (false) the internal domains. With both, those that meet both. With neither, all external
//!   recipients: what is said of the content holds for everyone outside, so a message is never split by its content.
//!   Internal recipients are bound only by rules that name them. A rule that binds nobody has not matched.
//! - *Actions* for each recipient: reject > hold > secure > relay; a rule that relays is never an exception from another
//!   that does not. Because DATA has one reply, one rejected recipient rejects the transaction ([`mail::Verdict::strongest`]).
//! - *Tags* of all matching rules are added once each, in the order of the settings, to the whole message: a field can't
//!   be added for one recipient alone without splitting the message.
//! - *Undecidable*: a part that is encrypted, malformed or over budget, and any failure to read it, matches the built-in
//!   rule `built-in:undecidable` with the action of `policy.undecidable` for all external recipients. Content that killed
//!   three workers is held, or rejected if so set, for everybody. `unread:<type>` is left to the settings' rules.
//! - *Detectors*: `at_least` counts different values over all parts, not places; the same number in text and HTML is one.

mod compiled;
mod evidence;
#[cfg(test)]
mod tests;

pub use compiled::UnknownDetector;
pub(crate) use evidence::findings;

use crate::{Facts, job::WorkerError, judge::Reading};
use compiled::CompiledRule;
use evidence::Evidence;
use mail::{Action, Address, Domain, RecipientVerdict, RuleMatch, Tag, Verdict};
use settings::Undecidable;

/// The name of the built-in rule in traces.
pub(crate) const UNDECIDABLE: &str = "built-in:undecidable";

/// All rules of one settings revision.
#[derive(Debug)]
pub(crate) struct RuleSet {
    rules: Vec<CompiledRule>,
    internal: Vec<Domain>,
    undecidable: Undecidable,
}

impl RuleSet {
    pub(crate) fn compile(
        policy: &settings::Policy,
        detectors: &[String],
        internal: Vec<Domain>,
    ) -> Result<Self, Vec<UnknownDetector>> {
        let mut errors = Vec::new();
        let rules = policy.rules.iter().map(|rule| CompiledRule::new(rule, detectors, &mut errors)).collect();
        if errors.is_empty() { Ok(Self { rules, internal, undecidable: policy.undecidable }) } else { Err(errors) }
    }

    /// The verdict on what was read.
    pub(crate) fn decide(&self, facts: &Facts, reading: &Reading, detectors: &[String]) -> Verdict {
        let evidence = Evidence::new(reading);
        let external: Vec<bool> = facts.recipients.iter().map(|r| !self.is_internal(r)).collect();
        let mut verdict = Verdict {
            recipients: vec![RecipientVerdict { action: Action::Relay, rule: None }; facts.recipients.len()],
            findings: evidence.findings(detectors),
            undecidable: evidence.undecidable(),
            ..Verdict::default()
        };
        for rule in &self.rules {
            let bound = rule.bound(&facts.recipients, &external);
            if bound.is_empty() {
                continue;
            }
            let Some(because) = rule.because(facts, &evidence, detectors) else { continue };
            if let Some(tag) = &rule.tag
                && !verdict.tags.contains(tag)
            {
                verdict.tags.push(Tag::clone(tag));
            }
            if rule.action == Some(Action::Reject) && verdict.reject_text.is_none() {
                verdict.reject_text.clone_from(&rule.text);
            }
            bind(&mut verdict, &rule.name, rule.action, because, bound);
        }
        self.fail_closed(&mut verdict, &external, &evidence);
        verdict
    }

    fn is_internal(&self, recipient: &Address) -> bool {
        self.internal.iter().any(|domain| recipient.domain().is_within(domain))
    }

    fn fail_closed(&self, verdict: &mut Verdict, external: &[bool], evidence: &Evidence<'_>) {
        let Some(because) = verdict.undecidable.clone() else { return };
        let action = match self.undecidable {
            Undecidable::Secure => Action::Secure,
            Undecidable::Hold => Action::Hold,
            Undecidable::Reject => Action::Reject,
        };
        let deadly = evidence.failures().iter().any(|(_, error)| *error == WorkerError::KilledThreeTimes);
        let action = if deadly { action.max(Action::Hold) } else { action };
        let bound: Vec<u16> =
            (0u16..).zip(external).filter(|(_, external)| **external || deadly).map(|(i, _)| i).collect();
        if bound.is_empty() {
            return;
        }
        if action == Action::Reject && verdict.reject_text.is_none() {
            verdict.reject_text = Some("the content could not be checked".to_owned());
        }
        bind(verdict, UNDECIDABLE, Some(action), because, bound);
    }
}

/// Enters a matching rule into the verdict.
fn bind(verdict: &mut Verdict, rule: &str, action: Option<Action>, because: String, recipients: Vec<u16>) {
    if let Some(action) = action {
        for &index in &recipients {
            if let Some(recipient) = verdict.recipients.get_mut(usize::from(index))
                && (action > recipient.action || action == recipient.action && recipient.rule.is_none())
            {
                *recipient = RecipientVerdict { action, rule: Some(rule.to_owned()) };
            }
        }
    }
    verdict.matches.push(RuleMatch { rule: rule.to_owned(), action, because, recipients });
}
