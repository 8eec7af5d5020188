//! What the daemon offers to its operators.
//!
//! Job: the one seam between this crate and the daemon that implements it, so that no face (CLI, console, web) reaches
//! past it. Place: beside the message's way; nothing here is on the path of a mail. Invariants: what needs the root
//! secret is reached through [`Appliance::opened`] and [`Appliance::ledger`] only, so a locked appliance can't answer
//! from it by mistake. A crash
//! leaves nothing behind: these are views and handles.

use crate::{
    Fault, Refusal,
    health::HealthReport,
    machine::{MachineAct, NetworkReport},
    update::UpdateReport,
};
use jiff::Timestamp;
use ledger::Ledger;
use mail::{Address, Destination, MessageId};
use serde::{Deserialize, Serialize};
use settings::Settings;
use spool::Spool;
use std::{
    fmt,
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use zeroize::Zeroizing;

/// The daemon, as its operators see it.
///
/// Methods that are not `async` answer at once from memory. The `async` ones may wait for the TPM, the disk or the
/// cloud, with deadlines of their own.
pub trait Appliance: Send + Sync + 'static {
    /// What the status screen shows; answered in every state.
    fn facts(&self) -> Facts;

    /// The state of keys, TPM and recovery key; answered in every state.
    fn keys(&self) -> KeyFacts;

    /// The handles that exist once the root secret and settings are there.
    ///
    /// # Errors
    /// The appliance is locked, and why; or it starts, or is not set up yet.
    fn opened(&self) -> Result<Opened, Closed>;

    /// Audit chain and settings revisions; there once the root secret is, also before the first settings.
    ///
    /// # Errors
    /// The appliance is locked, and why; or it starts.
    fn ledger(&self) -> Result<Ledger, Closed>;

    /// The settings in force and the number of their revision, which is 0 before the first.
    fn settings(&self) -> (Arc<Settings>, u64);

    /// Opens a locked appliance with the recovery key.
    ///
    /// # Errors
    /// [`crate::Fault::Refused`] for wrong words, [`crate::Fault::Failed`] when the TPM or the key store would not.
    fn unlock(&self, words: Secret) -> impl Future<Output = Result<Unlocked, Refusal>> + Send;

    /// The recovery key's words; they are shown once.
    ///
    /// # Errors
    /// [`crate::Fault::Refused`] once they were shown.
    fn show_recovery(&self) -> impl Future<Output = Result<Secret, Refusal>> + Send;

    /// Takes the words back from the operator and marks the recovery key as kept.
    ///
    /// # Errors
    /// [`crate::Fault::Refused`] where they are not the words that were shown.
    fn confirm_recovery(&self, words: Secret) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Replaces the recovery key by a new one, which is then to be shown and confirmed; the old words open nothing.
    ///
    /// # Errors
    /// The key store can't be written; the old key holds.
    fn renew_recovery(&self) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Ends the pause of a destination that failed: an operator knows that it is back.
    fn resume(&self, destination: &Destination);

    /// Enrols with the cloud service by a one-time code.
    ///
    /// # Errors
    /// No cloud in the settings, the code is refused, the service can't be reached.
    fn enrol(&self, code: Secret) -> impl Future<Output = Result<Enrolment, Refusal>> + Send;

    /// Sends messages of its own on the way of all mail, and says of each step whether it works; in every state.
    fn health(&self) -> impl Future<Output = HealthReport> + Send;

    /// Slots, and what became of the last update.
    ///
    /// # Errors
    /// This is no appliance with slots, or its helper does not answer.
    fn update_status(&self) -> impl Future<Output = Result<UpdateReport, Refusal>> + Send;

    /// Fetches the image where `source` is an `https` URL, and installs it into the slot that does not run; `reboot`: then
    /// begins the restart that tries it. May take an hour.
    ///
    /// # Errors
    /// Why not; the image that runs was not touched.
    fn install_update(
        &self,
        source: String,
        sha256: Option<String>,
        reboot: bool,
    ) -> impl Future<Output = Result<UpdateReport, Refusal>> + Send;

    /// Takes note of why the last update did not stay: it is no alarm any more.
    ///
    /// # Errors
    /// There is nothing to take note of.
    fn acknowledge_update(&self) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Whether these settings could be taken into force here: files readable, addresses free to be listened on.
    /// Asked before the revision is recorded.
    ///
    /// # Errors
    /// What stands in the way; nothing has changed.
    fn admit(&self, settings: &Settings) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Takes recorded settings into force. The revision is durable when this is called, so a crash before it ends is
    /// made good by the next start.
    ///
    /// # Errors
    /// The revision is recorded but could not be taken into force; says what to do.
    fn adopt(&self, settings: Settings, revision: u64) -> impl Future<Output = Result<Adopted, Refusal>> + Send;

    /// The box's own network; answered in every state.
    fn network(&self) -> NetworkReport;

    /// Has the machine do something; of a restart, begins it.
    ///
    /// # Errors
    /// [`crate::Fault::Refused`] where there is no helper that could, [`crate::Fault::Failed`] where it could not.
    fn act_on_machine(&self, act: MachineAct) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Takes a message of our own to `recipient` on the way of all messages: judged, kept, delivered.
    ///
    /// # Errors
    /// The reply that a client would have had instead of the 250.
    fn accept_test(&self, recipient: Address) -> impl Future<Output = Result<MessageId, Refusal>> + Send;
}

/// What is there only with the root secret. Cheap to clone.
#[derive(Clone)]
pub struct Opened {
    /// Every message that we answer for.
    pub spool: Spool,
    /// Audit chain and settings revisions.
    pub ledger: Ledger,
}

/// Why there is no queue to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It is not known yet: the daemon starts, which takes a TPM and a long queue a while.
    Starting,
    /// There are no keys, or what they open is broken.
    Locked(Locked),
    /// There are keys, but no settings yet.
    NotSetUp,
}

impl From<Locked> for Closed {
    fn from(locked: Locked) -> Self {
        Self::Locked(locked)
    }
}

/// Why the appliance is locked, in two halves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locked {
    /// What happened, for example "PCR 12 is not zero: the kernel command line was changed".
    pub what: String,
    /// What to do.
    pub remedy: String,
    /// Since when.
    pub since: Timestamp,
}

impl Locked {
    /// The two halves of an error whose text is `what; what to do`, as the vault's are.
    #[must_use]
    pub fn of(error: &impl fmt::Display, since: Timestamp) -> Self {
        let Refusal { what, remedy, .. } = Refusal::of(Fault::Locked, error);
        Self { what, remedy, since }
    }
}

/// A secret that an operator typed, or that is shown to one. Never logged, never audited, zeroized on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text over.
    #[must_use]
    pub fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    /// The text, for handing to whoever checks it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// The facts of the status screen that the spool does not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `host.name`.
    pub host: String,
    /// Version of the firmware.
    pub version: String,
    /// Whether keys or policy signatures are development ones; said on every screen.
    pub development: bool,
    /// Whether the firmware starts signed systems only.
    pub secure_boot: SecureBoot,
    /// Whether there are settings: false on a new appliance, until the first are taken into force.
    pub set_up: bool,
    /// Whether the settings name an operator; until then whoever stands before the console may set the appliance up.
    pub administrator: bool,
    /// The box's own addresses, without loopback.
    pub addresses: Vec<IpAddr>,
    /// Why the data partition is not open; `None` where it is, or where there is none.
    pub data_locked: Option<Locked>,
    /// When the daemon started.
    pub started: Timestamp,
    /// The SMTP listeners.
    pub listeners: Vec<SocketAddr>,
    /// SMTP sessions at present.
    pub sessions: u64,
    /// Messages accepted with a 250 since the start.
    pub accepted: u64,
    /// Messages or recipients refused since the start.
    pub refused: u64,
    /// Messages that reached their last recipient since the start.
    pub delivered: u64,
    /// The cloud.
    pub cloud: CloudState,
    /// Destinations that fail at present.
    pub failing: Vec<Failing>,
    /// What an operator must look at.
    pub alarms: Vec<Alarm>,
}

/// Whether the firmware starts only what is signed (UEFI 2.10, §32.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecureBoot {
    /// It does.
    On,
    /// It does not, or knows no Secure Boot.
    Off,
    /// It has no platform key yet: whoever comes first enrols one.
    SetupMode,
    /// This is not the appliance's own machine.
    Unknown,
}

/// Where the appliance stands with the cloud service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum CloudState {
    /// No `[cloud]` in the settings.
    NotConfigured,
    /// Configured, but no certificate for this TPM's key yet: confidential mail waits.
    NotEnrolled,
    /// Enrolled.
    Enrolled(Enrolment),
}

/// What an enrolment gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The name that the service gave this appliance.
    pub appliance: String,
    /// The organisation's name at the service.
    pub tenant: String,
    /// End of the certificate's validity.
    pub valid_until: Option<Timestamp>,
}

/// A destination that fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    /// As `queue list --to` takes it.
    pub destination: String,
    /// When the first of its failures in a row was.
    pub since: Timestamp,
    /// The last reply or error.
    pub error: String,
}

/// Something that an operator must look at, in two halves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// What happened.
    pub what: String,
    /// What to do.
    pub remedy: String,
    /// Since when.
    pub since: Timestamp,
}

/// The state of keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFacts {
    /// Why locked; `None` when open.
    pub locked: Option<Locked>,
    /// Whether the seal is bound to this TPM and holds at the next start; false after an unlocking that lasts for this
    /// boot only.
    pub sealed: bool,
    /// Whether an operator has given the recovery key back.
    pub recovery_confirmed: bool,
    /// The device identity towards the cloud: `enrolled`, `needs-enrolment`, `unavailable`; `None` while locked.
    pub identity: Option<String>,
    /// Number of the epoch key that seals now; `None` while locked.
    pub epoch: Option<u32>,
}

/// What an unlocking did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlocked {
    /// Whether the root secret was sealed anew, so that the next start needs no recovery key.
    pub resealed: bool,
    /// Whether the box must be enrolled anew (another TPM): confidential mail waits until then.
    pub enrol_again: bool,
    /// What the operator should know or do next; empty where nothing is left to do.
    pub advice: String,
}

/// What taking settings into force did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// Paths of changes that need a restart to take effect, for example `intake.listen`.
    pub after_restart: Vec<String>,
}
