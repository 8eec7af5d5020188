//! What policy decided about a message.

use serde::{Deserialize, Serialize};

/// What must happen for a recipient, weakest first: of several the strongest counts (`max`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Ordinary mail: by SMTP to the next hop.
    #[default]
    Relay,
    /// Confidential mail: by HTTPS to the cloud service.
    Secure,
    /// Waits for an operator.
    Hold,
    /// 550 5.7.1 for the whole transaction.
    Reject,
}

/// A header field that a `tag` action adds above the message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// Field name (RFC 5322 §2.2).
    pub name: String,
    /// Field body, one line, no controls.
    pub value: String,
}

/// Something found in the message. Nothing here reveals content: `sample` is masked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// `us_ssn`, `credit_card`, …, a user pattern's name, or a condition such as `encrypted`, `malformed`, `over_budget`, `unread:<type>`.
    pub detector: String,
    /// IMAP section of the part (`1.2`), then `!path` inside archives; `0` for the header.
    pub part: String,
    /// Byte offset in the part's extracted text.
    pub offset: u64,
    /// Bytes in the part's extracted text; 0 for conditions.
    pub length: u64,
    /// 0–1; rules count from 0.5 unless set.
    pub score: f32,
    /// Masked, at most the last four characters shown.
    pub sample: String,
}

/// A rule that matched, for the trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleMatch {
    /// The rule's name in the settings, or `built-in:undecidable`.
    pub rule: String,
    /// What it asks for; `None` where the rule only tags.
    pub action: Option<Action>,
    /// Which conditions held, masked, for an operator to read.
    pub because: String,
    /// Indices into `Envelope::recipients` that it binds.
    pub recipients: Vec<u16>,
}

/// The decision for one recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientVerdict {
    /// The strongest of all matching rules.
    pub action: Action,
    /// The first rule in settings order that asked for it; `None` where no rule matched (relay).
    pub rule: Option<String>,
}

/// The whole decision; stored with the message, so that a release from hold does not judge again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// One entry for each of `Envelope::recipients`, same order.
    pub recipients: Vec<RecipientVerdict>,
    /// Header fields to add, in settings order.
    pub tags: Vec<Tag>,
    /// The text of the 550, from the first rejecting rule.
    pub reject_text: Option<String>,
    /// All rules that matched, in settings order.
    pub matches: Vec<RuleMatch>,
    /// The findings behind them, strongest first, at most 100 are kept.
    pub findings: Vec<Finding>,
    /// Why the content could not be decided (encrypted, malformed, over budget, too slow); fail closed.
    pub undecidable: Option<String>,
}

impl Verdict {
    /// The strongest action of any recipient: decides the one reply to DATA.
    #[must_use]
    pub fn strongest(&self) -> Action {
        self.recipients.iter().map(|r| r.action).max().unwrap_or_default()
    }
}
