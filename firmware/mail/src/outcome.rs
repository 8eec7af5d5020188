//! Where a message goes, and what became of it there.

use crate::Reply;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The far end of a delivery; each has a queue of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Destination {
    /// The smarthost for ordinary mail to the outside.
    Smarthost,
    /// The internal mail server of this domain (`settings::InternalRoute`).
    Internal(String),
    /// The cloud service: confidential mail, over HTTPS only.
    Cloud,
}

/// The domain of health probes; `invalid` is no domain of anybody, and never one of DNS (RFC 6761 §6.4).
pub const PROBE_DOMAIN: &str = "probe.postern.invalid";

impl Destination {
    /// Where a health check's own messages go: to nobody. A form that every version reads, and for which none has a
    /// route, so that a message left behind by a check that was cut never leaves.
    #[must_use]
    pub fn probe() -> Self {
        Self::Internal(PROBE_DOMAIN.to_owned())
    }

    /// Whether this is [`Destination::probe`].
    #[must_use]
    pub fn is_probe(&self) -> bool {
        matches!(self, Self::Internal(domain) if domain == PROBE_DOMAIN)
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Smarthost => f.write_str("smarthost"),
            Self::Internal(domain) => write!(f, "internal:{domain}"),
            Self::Cloud => f.write_str("cloud"),
        }
    }
}

/// What one attempt did for one recipient. `Reply` is the peer's, or one that we made where the peer gave none
/// (connection refused: 451 4.4.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The far end took durable responsibility.
    Delivered(Reply),
    /// Try again later.
    Deferred(Reply),
    /// Trying again is useless.
    Failed(Reply),
}

/// An [`Outcome`] for the recipient with this index in the envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientOutcome {
    /// Index into `Envelope::recipients`.
    pub recipient: u16,
    /// What happened.
    pub outcome: Outcome,
}
