//! Which destination each recipient has.
//!
//! Job: turn a verdict into delivery groups, one for each destination. Place: between the judge and the spool's
//! commit; the groups are stored with the message and never computed again. Invariants: every recipient is in exactly
//! one group; a recipient without a verdict, or with one that nobody can act on, is held, never relayed; what could not
//! be judged never leaves by SMTP to the outside. A crash leaves nothing behind.

use mail::{Action, Destination, Domain, Envelope, Verdict};
use settings::{InternalRoute, Settings};

/// Recipients of one transaction: what every server must take (RFC 5321 §4.5.3.1.8).
pub(crate) const RECIPIENTS: usize = 100;

/// Recipients of one message that travel together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Where they go; for held ones, where they will go once released.
    pub destination: Destination,
    /// Indices into `Envelope::recipients`, ascending, never empty.
    pub recipients: Vec<u16>,
    /// Why they wait for an operator; `None` where delivery may begin.
    pub held: Option<String>,
}

/// The routes of one settings revision.
#[derive(Clone, Debug)]
pub struct Routes {
    internal: Vec<InternalRoute>,
}

impl Routes {
    /// The routes that `settings` describe.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let mut internal = settings.internal.clone();
        // The longest name first: the first match is then the nearest.
        internal.sort_by_key(|route| std::cmp::Reverse(route.domain.as_str().len()));
        Self { internal }
    }

    /// Delivery groups in the order in which their first recipient was given.
    #[must_use]
    pub fn plan(&self, envelope: &Envelope, verdict: &Verdict) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for (index, recipient) in (0u16..).zip(&envelope.recipients) {
            let (destination, held) = self.destination(index, recipient.domain(), verdict);
            match groups.iter_mut().find(|g| g.destination == destination && g.held == held && !is_full(g)) {
                Some(group) => group.recipients.push(index),
                None => groups.push(Group { destination, recipients: vec![index], held }),
            }
        }
        groups
    }

    fn destination(&self, index: u16, domain: &Domain, verdict: &Verdict) -> (Destination, Option<String>) {
        let ordinary = self.ordinary(domain);
        let Some(own) = verdict.recipients.get(usize::from(index)) else {
            return (Destination::Cloud, Some("no verdict for this recipient".to_owned()));
        };
        let rule = own.rule.as_ref().map_or_else(|| "policy".to_owned(), |rule| format!("rule \"{rule}\""));
        match own.action {
            Action::Relay => (ordinary, None),
            Action::Secure => (Destination::Cloud, None),
            Action::Hold => {
                // What could not be read is told at once: nobody can guess it from the rule's name.
                let unread = verdict
                    .matches
                    .iter()
                    .find(|m| own.rule.as_ref() == Some(&m.rule) && verdict.undecidable.as_ref() == Some(&m.because));
                let why = unread.map_or_else(|| rule.clone(), |m| format!("{rule}: {}", m.because));
                (self.after_release(index, ordinary, verdict), Some(why))
            }
            // A rejected message gets 550 and is never planned. Should one come this far, it waits.
            Action::Reject => (Destination::Cloud, Some(format!("rejected by {rule}"))),
        }
    }

    fn ordinary(&self, domain: &Domain) -> Destination {
        match self.internal.iter().find(|route| domain.is_within(&route.domain)) {
            Some(route) => Destination::Internal(route.domain.as_str().to_owned()),
            None => Destination::Smarthost,
        }
    }

    /// A release does not judge again, so what the other rules asked for must be settled here: hold is the strongest
    /// action and hides a `secure` that matched too, and what could not be read counts as confidential.
    fn after_release(&self, index: u16, ordinary: Destination, verdict: &Verdict) -> Destination {
        let secured = verdict.matches.iter().any(|m| m.action == Some(Action::Secure) && m.recipients.contains(&index));
        let unread = verdict.undecidable.is_some() && ordinary == Destination::Smarthost;
        if secured || unread { Destination::Cloud } else { ordinary }
    }
}

/// One group is one SMTP transaction, so that what the next hop answered is recorded before the next one begins.
fn is_full(group: &Group) -> bool {
    group.destination != Destination::Cloud && group.recipients.len() >= RECIPIENTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{envelope, settings};
    use mail::{RecipientVerdict, RuleMatch};

    fn verdict(actions: &[Action]) -> Verdict {
        Verdict {
            recipients: actions.iter().map(|&action| RecipientVerdict { action, rule: Some("r".into()) }).collect(),
            ..Verdict::default()
        }
    }

    fn routes() -> Routes {
        let mut settings = settings("127.0.0.1", 25);
        for (domain, port) in [("corp.example", 26), ("eu.corp.example", 27)] {
            settings.internal.push(InternalRoute {
                domain: domain.parse().unwrap(),
                server: settings::HostPort { host: "127.0.0.1".into(), port },
                tls: settings::RelayTls::None,
            });
        }
        Routes::new(&settings)
    }

    fn group(destination: Destination, recipients: &[u16], held: Option<&str>) -> Group {
        Group { destination, recipients: recipients.to_vec(), held: held.map(str::to_owned) }
    }

    #[test]
    fn mixed_recipients_are_grouped_by_destination_in_the_order_given() {
        let envelope =
            envelope(&["a@out.example", "b@corp.example", "c@out.example", "d@x.eu.corp.example", "e@other.example"]);
        let verdict = verdict(&[Action::Relay, Action::Relay, Action::Secure, Action::Relay, Action::Relay]);
        assert_eq!(
            routes().plan(&envelope, &verdict),
            [
                group(Destination::Smarthost, &[0, 4], None),
                group(Destination::Internal("corp.example".into()), &[1], None),
                group(Destination::Cloud, &[2], None),
                group(Destination::Internal("eu.corp.example".into()), &[3], None),
            ]
        );
    }

    #[test]
    fn an_internal_recipient_is_secured_where_policy_asks() {
        let plan = routes().plan(&envelope(&["b@corp.example"]), &verdict(&[Action::Secure]));
        assert_eq!(plan, [group(Destination::Cloud, &[0], None)]);
    }

    #[test]
    fn a_lookalike_of_an_internal_domain_is_external() {
        let plan = routes().plan(&envelope(&["b@badcorp.example"]), &verdict(&[Action::Relay]));
        assert_eq!(plan, [group(Destination::Smarthost, &[0], None)]);
    }

    #[test]
    fn a_release_does_not_undo_a_secure_that_hold_hid() {
        let mut verdict = verdict(&[Action::Hold, Action::Hold]);
        verdict.matches.push(RuleMatch {
            rule: "s".into(),
            action: Some(Action::Secure),
            because: String::new(),
            recipients: vec![1],
        });
        assert_eq!(
            routes().plan(&envelope(&["a@out.example", "b@out.example"]), &verdict),
            [
                group(Destination::Smarthost, &[0], Some("rule \"r\"")),
                group(Destination::Cloud, &[1], Some("rule \"r\"")),
            ]
        );
    }

    #[test]
    fn held_undecidable_content_never_leaves_by_smtp_to_the_outside() {
        let mut verdict = verdict(&[Action::Hold, Action::Hold]);
        verdict.undecidable = Some("encrypted".into());
        verdict.matches.push(RuleMatch {
            rule: "r".into(),
            action: Some(Action::Hold),
            because: "encrypted".into(),
            recipients: vec![0, 1],
        });
        let plan = routes().plan(&envelope(&["a@out.example", "b@corp.example"]), &verdict);
        assert_eq!(plan[0].destination, Destination::Cloud);
        assert_eq!(plan[1].destination, Destination::Internal("corp.example".into()));
        assert_eq!(plan[0].held.as_deref(), Some("rule \"r\": encrypted"));
    }

    #[test]
    fn a_recipient_without_a_verdict_or_with_a_reject_is_held() {
        let plan = routes().plan(&envelope(&["a@out.example", "b@out.example"]), &verdict(&[Action::Reject]));
        assert!(plan.iter().all(|g| g.held.is_some() && g.destination == Destination::Cloud), "{plan:?}");
        assert_eq!(plan.iter().map(|g| g.recipients.len()).sum::<usize>(), 2);
    }

    #[test]
    fn more_recipients_than_a_transaction_takes_are_several_groups_and_one_for_the_cloud() {
        let many: Vec<String> = (0..250).map(|n| format!("r{n}@partner.example")).collect();
        let names: Vec<&str> = many.iter().map(String::as_str).collect();
        let envelope = envelope(&names);
        let verdict =
            |action| Verdict { recipients: vec![RecipientVerdict { action, rule: None }; 250], ..Verdict::default() };
        let routes = Routes::new(&settings("127.0.0.1", 25));
        let sizes = |action| -> Vec<usize> {
            routes.plan(&envelope, &verdict(action)).iter().map(|g| g.recipients.len()).collect()
        };
        assert_eq!(sizes(Action::Relay), [100, 100, 50]);
        assert_eq!(sizes(Action::Secure), [250]);
    }
}
