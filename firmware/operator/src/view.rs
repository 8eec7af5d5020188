//! What operators are shown.
//!
//! Job: turn what spool and ledger say into reports that people and programs read, with one stable JSON form. Place:
//! behind [`crate::Operator`], in front of every face. Invariants: findings are masked as policy masked them; addresses
//! are shown in full, for an operator on the box must find a person's mail, and log lines never carry a report. A crash
//! leaves nothing behind.

use crate::{Facts, KeyFacts, Locked};
use jiff::Timestamp;
use ledger::{Record, Report, RevisionInfo};
use mail::{Action, Address, Client, Finding, MessageId, RuleMatch};
use serde::{Deserialize, Serialize};
use settings::Change;
use spool::{Event, EventKind, Group, HeldBy, Life, Row, RowChange, RowState, Stats};

/// How the appliance is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Whether the daemon still starts; then neither locked nor open, and of keys and settings nothing is known yet.
    pub starting: bool,
    /// Why it is locked; `None` when open.
    pub locked: Option<Locked>,
    /// What the daemon says of itself.
    pub facts: Facts,
    /// The revision of the settings in force.
    pub settings_revision: u64,
    /// Keys and TPM.
    pub keys: KeyFacts,
    /// The queue; `None` while locked.
    pub queue: Option<QueueFigures>,
}

/// The queue in figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueFigures {
    /// Messages that are not finished.
    pub messages: u64,
    /// Deliveries that were refused for good and wait for an operator.
    pub failed: u64,
    /// Messages or parts of segments set aside as damaged.
    pub set_aside: u64,
    /// By destination.
    pub destinations: Vec<DestinationFigures>,
    /// When the oldest message that is not finished was accepted.
    #[serde(default)]
    pub oldest: Option<Timestamp>,
    /// Free bytes on the spool's disk.
    pub free_bytes: u64,
    /// Bytes of sealed bodies in memory, and the bound for them.
    pub memory_used: u64,
    /// The bound.
    pub memory_bytes: u64,
    /// Disk calls that failed since the start.
    pub disk_errors: u64,
    /// Why the index can't be written at present.
    pub index_error: Option<String>,
}

/// One destination in figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationFigures {
    /// As `queue list --to` takes it.
    pub destination: String,
    /// Deliveries that wait, due or not.
    pub waiting: u64,
    /// Deliveries under way.
    pub delivering: u64,
    /// Deliveries that wait for an operator.
    pub held: u64,
}

impl From<Stats> for QueueFigures {
    fn from(stats: Stats) -> Self {
        // A health check's messages are no mail.
        let mail = stats.destinations.into_iter().filter(|of| !of.destination.is_probe());
        let destinations = mail.map(|of| DestinationFigures {
            destination: of.destination.to_string(),
            waiting: of.waiting,
            delivering: of.delivering,
            held: of.held,
        });
        Self {
            messages: stats.messages,
            failed: stats.failed,
            set_aside: stats.set_aside,
            destinations: destinations.collect(),
            oldest: None,
            free_bytes: stats.free_bytes,
            memory_used: stats.memory_used,
            memory_bytes: stats.memory_bytes,
            disk_errors: stats.disk_errors,
            index_error: stats.index_error,
        }
    }
}

/// Deliveries in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueReport {
    /// Oldest first.
    pub rows: Vec<QueueRow>,
    /// Whether there are more than were asked for.
    pub more: bool,
}

/// One delivery: the recipients of a message that go to one destination together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRow {
    /// The message.
    pub id: MessageId,
    /// Number of the delivery within the message.
    pub group: u32,
    /// State.
    pub state: RowState,
    /// Where to.
    pub destination: String,
    /// MAIL FROM; empty for notices.
    pub sender: String,
    /// RCPT TO.
    pub recipients: Vec<Address>,
    /// Octets as they leave.
    pub size: u64,
    /// When the message was accepted.
    pub accepted: Timestamp,
    /// Attempts so far.
    pub attempts: u32,
    /// Not before this time.
    pub due: Timestamp,
    /// Why it waits for an operator.
    pub held: Option<Hold>,
    /// The far end's last reply.
    pub last: Option<String>,
}

/// Why a delivery waits for an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// `policy`, `operator`, `failure` or `damage`.
    pub by: String,
    /// For people.
    pub why: String,
}

impl From<&spool::Held> for Hold {
    fn from(held: &spool::Held) -> Self {
        let by = match held.by {
            HeldBy::Policy => "policy",
            HeldBy::Operator => "operator",
            HeldBy::Failure => "failure",
            HeldBy::Damage => "damage",
        };
        Self { by: by.to_owned(), why: held.why.clone() }
    }
}

impl From<Row> for QueueRow {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            group: row.group.number,
            state: row.state,
            destination: row.group.destination.to_string(),
            sender: row.sender.to_string(),
            recipients: row.recipients,
            size: row.size,
            accepted: row.accepted,
            attempts: row.group.attempts,
            due: row.group.due,
            held: row.group.held.as_ref().map(Hold::from),
            last: row.group.last,
        }
    }
}

/// A message from its acceptance on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MessageLife {
    /// The message.
    pub id: MessageId,
    /// What was accepted; `None` where the sealed snapshot can't be opened.
    pub accepted: Option<Accepted>,
    /// Octets as they leave.
    pub size: u64,
    /// Deliveries that are not done yet; none: the message is finished.
    pub deliveries: Vec<Delivery>,
    /// What happened, oldest first.
    pub events: Vec<LifeEvent>,
    /// What operators did to it, from the audit chain.
    pub audit: Vec<Record>,
}

/// A message as it was accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// When the final dot arrived.
    pub at: Timestamp,
    /// Who handed it in.
    pub client: Client,
    /// MAIL FROM; empty for notices.
    pub sender: String,
    /// RCPT TO, with what policy decided for each.
    pub recipients: Vec<RecipientDecision>,
    /// Revision of the settings that it was judged by.
    pub settings_revision: u64,
    /// Rules that matched.
    pub matches: Vec<RuleMatch>,
    /// What was found, masked.
    pub findings: Vec<Finding>,
    /// Why the content could not be decided.
    pub undecidable: Option<String>,
    /// Fields that rules added, as `name: value`.
    pub tags: Vec<String>,
}

/// A recipient and its verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientDecision {
    /// RCPT TO.
    pub address: Address,
    /// What must happen.
    pub action: Action,
    /// The rule that asked for it.
    pub rule: Option<String>,
}

/// What became of a test message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestReport {
    /// The message.
    pub id: MessageId,
    /// How far it came.
    pub outcome: TestOutcome,
    /// The far end's reply, or why it is held; empty where nobody has answered yet.
    pub detail: String,
}

/// How far a test message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestOutcome {
    /// The far end has taken it.
    Delivered,
    /// Not taken yet; it waits in the queue and is tried again.
    Waiting,
    /// Held by a rule.
    Held,
    /// Refused for good, and removed from the queue.
    Refused,
}

/// A delivery that is not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Number within the message.
    pub group: u32,
    /// Where to.
    pub destination: String,
    /// For whom; indices where the snapshot can't be opened.
    pub recipients: Vec<String>,
    /// Attempts so far.
    pub attempts: u32,
    /// Not before this time.
    pub due: Timestamp,
    /// Why it waits for an operator.
    pub held: Option<Hold>,
    /// The far end's last reply.
    pub last: Option<String>,
}

/// One step in a message's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifeEvent {
    /// When.
    pub at: Timestamp,
    /// The delivery concerned; `None`: the whole message.
    pub group: Option<u32>,
    /// `accepted`, `delivered`, `deferred`, `failed`, `held`, `released`, `retried`, `rerouted`, `deleted`, `withdrawn`.
    pub what: String,
    /// Whom it concerns.
    pub recipients: Vec<String>,
    /// The far end's reply, the reason of a hold, the new destination.
    pub detail: Option<String>,
    /// When it is tried again.
    pub until: Option<Timestamp>,
}

impl MessageLife {
    /// What remains of `id` once the spool has let it go.
    #[must_use]
    pub fn forgotten(id: MessageId, audit: Vec<Record>) -> Self {
        Self { id, accepted: None, size: 0, deliveries: Vec::new(), events: Vec::new(), audit }
    }

    /// The life of `id` as the spool tells it, and what the audit chain has about it.
    #[must_use]
    pub fn new(id: MessageId, life: Life, audit: Vec<Record>) -> Self {
        let addresses = life.acceptance.as_ref().map(|a| a.envelope.recipients.clone()).unwrap_or_default();
        let named = |indices: &[u16]| -> Vec<String> {
            let name = |index: &u16| match addresses.get(usize::from(*index)) {
                Some(address) => address.to_string(),
                None => format!("recipient {index}"),
            };
            indices.iter().map(name).collect()
        };
        let deliveries = life.groups.iter().map(|group| delivery(group, named(&group.recipients))).collect();
        let events = life.events.into_iter().map(|event| life_event(event, &named)).collect();
        let accepted = life.acceptance.map(|acceptance| accepted(&acceptance));
        Self { id, accepted, size: life.size, deliveries, events, audit }
    }
}

fn accepted(acceptance: &spool::Acceptance) -> Accepted {
    let (envelope, verdict) = (&acceptance.envelope, &acceptance.verdict);
    let recipients = envelope.recipients.iter().enumerate().map(|(index, address)| {
        let decided = verdict.recipients.get(index);
        RecipientDecision {
            address: address.clone(),
            action: decided.map(|decided| decided.action).unwrap_or_default(),
            rule: decided.and_then(|decided| decided.rule.clone()),
        }
    });
    Accepted {
        at: envelope.received,
        client: envelope.client.clone(),
        sender: envelope.sender.to_string(),
        recipients: recipients.collect(),
        settings_revision: acceptance.settings_revision,
        matches: verdict.matches.clone(),
        findings: verdict.findings.clone(),
        undecidable: verdict.undecidable.clone(),
        tags: verdict.tags.iter().map(|tag| format!("{}: {}", tag.name, tag.value)).collect(),
    }
}

fn delivery(group: &Group, recipients: Vec<String>) -> Delivery {
    Delivery {
        group: group.number,
        destination: group.destination.to_string(),
        recipients,
        attempts: group.attempts,
        due: group.due,
        held: group.held.as_ref().map(Hold::from),
        last: group.last.clone(),
    }
}

fn life_event(event: Event, named: &dyn Fn(&[u16]) -> Vec<String>) -> LifeEvent {
    let (what, recipients, detail, until) = match event.what {
        EventKind::Accepted => ("accepted", Vec::new(), None, None),
        EventKind::Delivered { recipients, reply } => ("delivered", named(&recipients), Some(reply.to_string()), None),
        EventKind::Deferred { recipients, reply, until } => {
            ("deferred", named(&recipients), Some(reply.to_string()), Some(until))
        }
        EventKind::Failed { recipients, reply } => ("failed", named(&recipients), Some(reply.to_string()), None),
        EventKind::Held(held) => ("held", Vec::new(), Some(held.why), None),
        EventKind::Released => ("released", Vec::new(), None, None),
        EventKind::Retried => ("retried", Vec::new(), None, None),
        EventKind::Rerouted { from, to } => ("rerouted", Vec::new(), Some(format!("from {from} to {to}")), None),
        EventKind::Deleted => ("deleted", Vec::new(), None, None),
        EventKind::Withdrawn => ("withdrawn", Vec::new(), None, None),
    };
    LifeEvent { at: event.at, group: event.group, what: what.to_owned(), recipients, detail, until }
}

/// What was changed behind our back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// Whether all is as it was written.
    pub good: bool,
    /// The audit chain and the settings revisions.
    pub ledger: Report,
    /// Rows of the queue's index that do not say what the sealed segments say.
    pub index: Vec<IndexFinding>,
    /// Parts of segments that can't be used, and the messages in them.
    pub set_aside: Vec<SetAsidePart>,
}

/// A row of the queue's index that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexFinding {
    /// The message.
    pub id: MessageId,
    /// The delivery, where the row is a delivery's.
    pub group: Option<u32>,
    /// What is wrong with the row.
    pub what: String,
}

impl From<spool::ChangedRow> for IndexFinding {
    fn from(row: spool::ChangedRow) -> Self {
        let what = match row.what {
            RowChange::Columns(columns) => format!("changed: {}", columns.join(", ")),
            RowChange::Missing => "removed".to_owned(),
            RowChange::Invented => "inserted from outside".to_owned(),
        };
        Self { id: row.id, group: row.group, what }
    }
}

/// A part of a segment that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAsidePart {
    /// The message, where it can still be told.
    pub message: Option<MessageId>,
    /// Number of the segment.
    pub segment: u32,
    /// Byte offset in it.
    pub offset: u32,
    /// What is wrong: `record`, `key-slot`, `content`, ….
    pub damage: spool::Damage,
    /// Whether its acceptance had certainly been confirmed to the client.
    pub acknowledged: bool,
}

impl From<spool::SetAside> for SetAsidePart {
    fn from(part: spool::SetAside) -> Self {
        Self {
            message: part.message,
            segment: part.segment,
            offset: part.offset,
            damage: part.damage,
            acknowledged: part.acknowledged,
        }
    }
}

/// The settings in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsReport {
    /// Their revision; 0 where none is recorded yet.
    pub revision: u64,
    /// When, by whom, and the digest of the text that was applied.
    pub recorded: Option<RevisionInfo>,
    /// Canonical TOML, defaults written out.
    pub toml: String,
}

/// What applying a settings text did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedReport {
    /// The revision now in force.
    pub revision: u64,
    /// Whether a new revision was recorded; `false`: the text was that of the revision in force.
    pub recorded: bool,
    /// What differs from the settings before.
    pub changes: Vec<Change>,
    /// Paths of changes that wait for a restart.
    pub after_restart: Vec<String>,
}
