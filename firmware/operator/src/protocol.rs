//! What goes over the operator's socket.
//!
//! Job: name every request and every answer once, for all faces. Place: between the faces and [`crate::Operator`].
//! Invariants: one JSON object a line each way; the version stands in both; sizes are bounded; a secret is read from
//! the line straight into memory that is zeroized. A crash leaves nothing behind.

use crate::{
    Enrolment, KeyFacts, Refusal, Secret, Unlocked,
    health::HealthReport,
    machine::{MachineAct, NetworkReport},
    update::UpdateReport,
    view::{AppliedReport, AuditReport, MessageLife, QueueReport, SettingsReport, StatusReport, TestReport},
};
use mail::{Address, Destination, MessageId};
use serde::{Deserialize, Serialize};
use spool::RowState;

/// Version of the protocol; a face and a daemon of different versions do not talk.
pub const VERSION: u32 = 1;

/// Longest request line in bytes: a settings text of [`settings::LONGEST_TEXT`] with every character escaped as `\n` is,
/// and as much again for those that take more.
pub const LONGEST_REQUEST: usize = 4 * settings::LONGEST_TEXT;

/// Longest answer line in bytes, far above the largest list.
pub const LONGEST_ANSWER: u64 = 64 * 1024 * 1024;

/// Most rows that one list has; a longer one is neither read by people nor held in memory twice.
pub const MOST_ROWS: usize = 10_000;

/// A request with its version.
#[derive(Debug, Serialize, Deserialize)]
pub struct Call {
    /// [`VERSION`] of who asks.
    pub version: u32,
    /// What is asked.
    pub request: Request,
}

/// What an operator may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How the appliance is.
    Status,
    /// Deliveries in the queue.
    QueueList {
        /// Only in this state.
        state: Option<RowState>,
        /// Only to this destination.
        destination: Option<Destination>,
        /// At most this many, at most [`MOST_ROWS`].
        limit: usize,
    },
    /// The deliveries of one message.
    QueueShow {
        /// Which.
        id: MessageId,
    },
    /// Try a message again now.
    QueueRetry {
        /// Which.
        id: MessageId,
    },
    /// Keep a message back.
    QueueHold {
        /// Which.
        id: MessageId,
        /// Why; shown with the message.
        why: String,
    },
    /// Let a held message go on.
    QueueRelease {
        /// Which.
        id: MessageId,
    },
    /// Remove a message for good.
    QueueDelete {
        /// Which.
        id: MessageId,
    },
    /// A message's whole life.
    MessageShow {
        /// Which.
        id: MessageId,
    },
    /// The state of the keys.
    KeysStatus,
    /// Open a locked appliance.
    KeysUnlock {
        /// The recovery key.
        words: Secret,
    },
    /// The recovery key's words; given once.
    RecoveryShow,
    /// The recovery key, given back.
    RecoveryConfirm {
        /// The recovery key.
        words: Secret,
    },
    /// Replace the recovery key.
    RecoveryRenew,
    /// Enrol with the cloud service.
    Enrol {
        /// The one-time code.
        code: Secret,
    },
    /// Send a message of our own through the appliance and say what became of it.
    TestMail {
        /// To whom.
        recipient: Address,
    },
    /// Say who asks; holds for this connection.
    SignIn {
        /// As the settings name the operator.
        name: String,
        /// The password.
        password: Secret,
    },
    /// End what [`Request::SignIn`] began.
    SignOut,
    /// The box's own network.
    NetworkShow,
    /// Something that the machine itself is to do.
    Machine(MachineAct),
    /// Send messages of our own on the way of all mail, and say of each step whether it works.
    Health,
    /// Slots, and what became of the last update.
    UpdateStatus,
    /// Install an image into the slot that does not run.
    UpdateInstall {
        /// The path of a bundle on the appliance, or an `https` URL.
        source: String,
        /// What the bundle's SHA-256 must be, in hexadecimal digits.
        sha256: Option<String>,
        /// Whether to begin the restart that tries it.
        reboot: bool,
    },
    /// Take note of why the last update did not stay.
    UpdateAcknowledge,
    /// Look for changes behind our back.
    AuditVerify,
    /// The settings in force.
    SettingsShow,
    /// Take a settings text into force.
    SettingsApply {
        /// The text.
        text: String,
    },
}

/// An answer with its version.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// [`VERSION`] of who answers.
    pub version: u32,
    /// What was asked for, or why not.
    pub result: Result<Response, Refusal>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<StatusReport>),
    /// To [`Request::QueueList`] and [`Request::QueueShow`].
    Queue(QueueReport),
    /// To what was done to a message.
    Acted {
        /// Which message.
        id: MessageId,
        /// What was done, for example `queue.release`.
        action: String,
    },
    /// To [`Request::MessageShow`].
    Message(Box<MessageLife>),
    /// To [`Request::KeysStatus`].
    Keys(KeyFacts),
    /// To [`Request::KeysUnlock`].
    Unlocked(Unlocked),
    /// To [`Request::RecoveryShow`].
    Recovery {
        /// The words.
        words: Secret,
    },
    /// To [`Request::RecoveryConfirm`].
    RecoveryConfirmed,
    /// To [`Request::RecoveryRenew`].
    RecoveryRenewed,
    /// To [`Request::Enrol`].
    Enrolled(Enrolment),
    /// To [`Request::TestMail`].
    Tested(TestReport),
    /// To [`Request::SignIn`].
    SignedIn {
        /// Who.
        name: String,
        /// Why the ledger does not have it, where it could not be written.
        unrecorded: Option<Refusal>,
    },
    /// To [`Request::SignOut`].
    SignedOut,
    /// To [`Request::NetworkShow`].
    Network(NetworkReport),
    /// To [`Request::Machine`]: it is done, or has begun.
    Machine {
        /// What.
        act: MachineAct,
        /// Why the ledger does not have it, where it could not be written.
        unrecorded: Option<Refusal>,
    },
    /// To [`Request::Health`].
    Health(HealthReport),
    /// To [`Request::UpdateStatus`] and [`Request::UpdateInstall`].
    Update(UpdateReport),
    /// To [`Request::UpdateAcknowledge`].
    UpdateAcknowledged,
    /// To [`Request::AuditVerify`].
    Audit(AuditReport),
    /// To [`Request::SettingsShow`].
    Settings(SettingsReport),
    /// To [`Request::SettingsApply`].
    Applied(AppliedReport),
}
