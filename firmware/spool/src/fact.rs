//! What the spool records about a message.
//!
//! Job: the words for acceptance, delivery groups, facts and events. Place: between the callers, the segments and the
//! index, which all speak of a message in these terms. Invariants: a group number always stands for the same
//! recipients and is never given twice within a message, so the cloud can tell a repetition from something new; a fact
//! carries the whole new state of the groups that it touches. A crash leaves nothing behind: these are values.

use jiff::Timestamp;
use mail::{Destination, Envelope, RecipientOutcome, Reply, Verdict};
use serde::{Deserialize, Serialize};

/// All that is accepted with a message besides its octets; stored as the sealed snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Acceptance {
    /// The envelope; its ID is the ID that the message was staged under.
    pub envelope: Envelope,
    /// What policy decided; a release from hold does not judge again.
    pub verdict: Verdict,
    /// Received field and tags, canonical line ends; stands above the content.
    #[serde(skip)]
    pub prefix: Vec<u8>,
    /// The delivery groups; together they name every recipient exactly once.
    pub deliveries: Vec<Planned>,
    /// Revision of the settings that the verdict was made with.
    pub settings_revision: u64,
}

/// One delivery group: recipients that go to one destination together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Where they go.
    pub destination: Destination,
    /// Indices into `Envelope::recipients`; not empty.
    pub recipients: Vec<u16>,
    /// Why the group waits for an operator, if it does.
    pub held: Option<String>,
}

/// Who or what holds a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HeldBy {
    /// A policy rule.
    Policy,
    /// An operator.
    Operator,
    /// The far end refused for good.
    Failure,
    /// Stored bytes are damaged.
    Damage,
}

/// Why a delivery does not go on by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The kind.
    pub by: HeldBy,
    /// For people; no content.
    pub why: String,
}

/// A delivery group as it stands; a group that is done exists no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Unique within the message.
    pub number: u32,
    /// Where it goes.
    pub destination: Destination,
    /// Indices into `Envelope::recipients`.
    pub recipients: Vec<u16>,
    /// Attempts so far.
    pub attempts: u32,
    /// Not before this time.
    pub due: Timestamp,
    /// Set while it waits for an operator.
    pub held: Option<Held>,
    /// The last reply, for people.
    pub last: Option<String>,
}

/// One step in a message's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// The group concerned; `None`: the whole message.
    pub group: Option<u32>,
    /// What.
    pub what: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// Durable; the receipt was given.
    Accepted,
    /// The far end has these recipients.
    Delivered {
        /// Indices into `Envelope::recipients`.
        recipients: Vec<u16>,
        /// The far end's reply, of the first of them.
        reply: Reply,
    },
    /// To be tried again.
    Deferred {
        /// Indices into `Envelope::recipients`.
        recipients: Vec<u16>,
        /// The reply, of the first of them.
        reply: Reply,
        /// When it is due again.
        until: Timestamp,
    },
    /// Refused for good: kept and held.
    Failed {
        /// Indices into `Envelope::recipients`.
        recipients: Vec<u16>,
        /// The reply, of the first of them.
        reply: Reply,
    },
    /// Waits for an operator.
    Held(Held),
    /// Goes on after a hold.
    Released,
    /// Made due at once.
    Retried,
    /// Sent another way.
    Rerouted {
        /// The destination before.
        from: Destination,
        /// The destination now.
        to: Destination,
    },
    /// Removed by an operator.
    Deleted,
    /// The commit could not be confirmed, so the message was never accepted.
    Withdrawn,
}

/// What became of a claim.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// One outcome for each recipient of the claim.
    pub outcomes: Vec<RecipientOutcome>,
    /// When the deferred ones are due again; `None`: at once.
    pub retry_at: Option<Timestamp>,
}

/// The body of every record but a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fact {
    /// Groups that exist no more.
    pub gone: Vec<u32>,
    /// New state of the groups that changed or came to be.
    pub groups: Vec<Group>,
    /// What happened, for the message's life.
    pub events: Vec<Event>,
}

/// Something that happens now.
pub(crate) fn event(group: Option<u32>, what: EventKind) -> Event {
    Event { at: crate::queue::micros(Timestamp::now()), group, what }
}
