//! What an operator sees of the queue.
//!
//! Job: the answers to list, life, stats and verify, and what a start found. Place: between the spool and the
//! operator's faces. Invariants: these are copies; holding one blocks nothing. A crash leaves nothing behind.

use crate::{Acceptance, Event, Group, Held};
use jiff::Timestamp;
use mail::{Address, Destination, MessageId, ReversePath};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// State of one delivery group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowState {
    /// Due now or later.
    Waiting,
    /// Claimed: an attempt is under way.
    Delivering,
    /// Waits for an operator.
    Held,
}

/// One delivery group of one message.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The message.
    pub id: MessageId,
    /// State of the group.
    pub state: RowState,
    /// MAIL FROM.
    pub sender: ReversePath,
    /// The recipients of the group.
    pub recipients: Vec<Address>,
    /// Number, destination, attempts, due time, hold and last reply.
    pub group: Group,
    /// Octets as they leave, prefix and content.
    pub size: u64,
    /// When the message was received.
    pub accepted: Timestamp,
}

/// Which rows to list; everything that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this state.
    pub state: Option<RowState>,
    /// Only this destination.
    pub destination: Option<Destination>,
    /// Only this message.
    pub message: Option<MessageId>,
}

/// A message from its acceptance on.
#[derive(Clone, Debug)]
pub struct Life {
    /// Envelope, verdict, prefix and plan as they were accepted. `None` where the snapshot can't be opened (damaged).
    pub acceptance: Option<Arc<Acceptance>>,
    /// Octets as they leave, prefix and content.
    pub size: u64,
    /// The groups that are still to be delivered; none: the message is finished.
    pub groups: Vec<Group>,
    /// What happened, oldest first; begins with the acceptance.
    pub events: Vec<Event>,
}

/// Figures of one destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DestinationStats {
    /// Which.
    pub destination: Destination,
    /// Groups that wait, due or not.
    pub waiting: u64,
    /// Groups with an attempt under way.
    pub delivering: u64,
    /// Groups that wait for an operator.
    pub held: u64,
}

/// Figures of the whole spool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Messages with at least one group left.
    pub messages: u64,
    /// By destination.
    pub destinations: Vec<DestinationStats>,
    /// Groups held because the far end refused for good: the alarm counter of this process's queue.
    pub failed: u64,
    /// Messages, or parts of segments, that had certainly been acknowledged and were set aside as damaged.
    pub set_aside: u64,
    /// Receipts given by this process.
    pub accepted: u64,
    /// Messages finished by this process.
    pub finished: u64,
    /// Outcomes and other facts that the disk has not taken yet.
    pub unrecorded: u64,
    /// Syncs of segments so far; receipts and facts share them.
    pub syncs: u64,
    /// Disk calls that failed so far.
    pub disk_errors: u64,
    /// Bytes of bodies waiting in memory.
    pub memory_used: u64,
    /// The bound for them.
    pub memory_bytes: u64,
    /// Free bytes on the disk.
    pub free_bytes: u64,
    /// Segment files in use.
    pub segments: u64,
    /// Messages whose state is newer than the index.
    pub index_lag: u64,
    /// Why the index can't be written at present.
    pub index_error: Option<String>,
}

/// A row of `queue.db` that does not say what the segments say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChangedRow {
    /// The message.
    pub id: MessageId,
    /// The delivery group, where the row is a group's.
    pub group: Option<u32>,
    /// What is wrong: the columns that differ, or that the row is missing or invented.
    pub what: RowChange,
}

/// How a row differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowChange {
    /// These columns do not say what the segments say.
    Columns(Vec<String>),
    /// The segments have it, the index does not.
    Missing,
    /// The index has it, the segments do not.
    Invented,
}

/// How the index was found at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IndexFound {
    /// Usable; the facts behind its watermark were replayed.
    Intact,
    /// There was none; rebuilt.
    Absent,
    /// Not a database of ours, or one that claims more than the segments hold; put aside as `queue.db.broken`, rebuilt.
    Unusable,
}

/// What a start found.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// The index.
    pub index: IndexFound,
    /// Segment files read.
    pub segments: u64,
    /// Records replayed into the index.
    pub replayed: u64,
    /// Messages with at least one group left.
    pub messages: u64,
    /// Spill files of messages that were never accepted, removed.
    pub orphans: u64,
    /// What was found damaged at this start.
    pub set_aside: Vec<SetAside>,
}

/// A part of a segment that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SetAside {
    /// The message concerned, where it can still be told.
    pub message: Option<MessageId>,
    /// Number of the segment.
    pub segment: u32,
    /// Byte offset in the segment.
    pub offset: u32,
    /// What is wrong.
    pub damage: Damage,
    /// Whether it had certainly been acknowledged. `false`: it stands at the end of the log, and may as well be what a
    /// power cut left of a write that nobody was told of.
    pub acknowledged: bool,
}

/// What is wrong with a part of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Damage {
    /// The bytes of a record are not those that were written.
    Record,
    /// The slot with the message's key is unreadable.
    KeySlot,
    /// There is a key, but no record.
    RecordMissing,
    /// The vault does not have the epoch key. Nothing is removed; it opens once the key is there.
    EpochMissing,
    /// The snapshot does not open.
    Snapshot,
    /// The spill file is absent or too short.
    Content,
    /// A fact about the message is lost: its state is uncertain, so it is held.
    FactLost,
}

/// Why a claim's content could not be given, for log lines.
pub(crate) fn damage_hold(damage: Damage) -> Held {
    let why = match damage {
        Damage::Record => "the stored record is damaged",
        Damage::KeySlot => "the stored key is damaged",
        Damage::RecordMissing => "the stored record is missing",
        Damage::EpochMissing => "the vault does not have the epoch key",
        Damage::Snapshot => "the stored snapshot is damaged",
        Damage::Content => "the stored content is damaged",
        Damage::FactLost => "a record about this message is lost, so it may have been delivered already",
    };
    Held { by: crate::HeldBy::Damage, why: why.into() }
}
