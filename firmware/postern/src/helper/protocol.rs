//! What goes over the helper's socket.
//!
//! Job: name every request to root and every answer once. Place: between the daemon and the helper. Invariants: one JSON
//! object a line each way, one request a connection; the version stands in both; lines are bounded; a request holds
//! nothing but enumerated words, addresses, names, times and one form of passphrase, so that nothing in it can become a
//! second directive, option or command. A crash leaves nothing behind.

use jiff::Timestamp;
use mail::Domain;
use operator::update::UpdateReport;
use serde::{Deserialize, Serialize};
use settings::Addressing;
use std::{fmt, net::SocketAddr};
use zeroize::Zeroizing;

/// Version of the protocol. Both ends are of one image; a daemon that was left running over an update is not.
pub const VERSION: u32 = 1;

/// Longest request line in bytes; the largest is a network with all its servers.
pub const LONGEST_REQUEST: usize = 16 * 1024;

/// A request with its version.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// [`VERSION`] of who asks.
    pub version: u32,
    /// What is asked.
    pub request: Request,
}

/// What may be asked of root. There is nothing else that it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What the plain area holds.
    ReadPlain,
    /// Keep host name and listeners in the plain area.
    StorePlain {
        /// `host.name`
        host: Domain,
        /// `intake.listen`
        listen: Vec<SocketAddr>,
    },
    /// Take this addressing into force now and at every start.
    ApplyNetwork {
        /// `[network]`
        network: Addressing,
    },
    /// Set the clock, of the system and of the board.
    SetTime {
        /// To this moment.
        at: Timestamp,
    },
    /// Start anew.
    Reboot,
    /// Switch off.
    PowerOff,
    /// Make the box as new: every key on its disk destroyed; then start anew.
    FactoryReset {
        /// Whether the daemon has cleared the TPM; else the firmware is asked to.
        tpm_cleared: bool,
    },
    /// Open the data partition where the TPM does not.
    UnlockData {
        /// From the recovery key.
        passphrase: Passphrase,
    },
    /// Bind the data partition to this TPM and this boot anew.
    SealData {
        /// From the recovery key.
        passphrase: Passphrase,
    },
    /// Let this passphrase open the data partition, and no earlier one.
    EnrolDataRecovery {
        /// From the recovery key.
        passphrase: Passphrase,
    },
    /// Install a bundle into the slot that does not run.
    InstallBundle {
        /// Its absolute path, in one of the folders for bundles.
        source: String,
        /// Whether to begin the restart that tries it.
        reboot: bool,
    },
    /// Slots, and what became of the last update.
    UpdateStatus,
    /// Keep the image that runs: its health check has passed.
    MarkGood,
    /// Start the image before this one again, which has not shown that it works.
    GiveUpTrial {
        /// Why; told after the fallback.
        words: String,
    },
    /// An operator has taken note of why the last update did not stay.
    AcknowledgeUpdate,
}

impl Request {
    /// Its name in log and audit; never a value.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::ReadPlain => "read_plain",
            Self::StorePlain { .. } => "store_plain",
            Self::ApplyNetwork { .. } => "apply_network",
            Self::SetTime { .. } => "set_time",
            Self::Reboot => "reboot",
            Self::PowerOff => "power_off",
            Self::FactoryReset { .. } => "factory_reset",
            Self::UnlockData { .. } => "unlock_data",
            Self::SealData { .. } => "seal_data",
            Self::EnrolDataRecovery { .. } => "enrol_data_recovery",
            Self::InstallBundle { .. } => "install_bundle",
            Self::UpdateStatus => "update_status",
            Self::MarkGood => "mark_good",
            Self::GiveUpTrial { .. } => "give_up_trial",
            Self::AcknowledgeUpdate => "acknowledge_update",
        }
    }
}

/// An answer with its version.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// [`VERSION`] of who answers.
    pub version: u32,
    /// What was asked for, or why not.
    pub result: Result<Response, HelperError>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Response {
    /// It is done; of a reboot: it has begun.
    Done,
    /// To [`Request::ReadPlain`]; `None` where nothing was stored yet.
    Plain(Option<crate::plain::Plain>),
    /// To [`Request::UpdateStatus`].
    Update(UpdateReport),
}

/// Which kind of error; code decides by this and never by text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// Who asks may not.
    NotAllowed,
    /// No request of this version, or a value that can't be.
    BadRequest,
    /// It was understood and is not done: a wrong passphrase, a wrong state.
    Refused,
    /// Disk, TPM or a program failed.
    Failed,
    /// The helper does not answer.
    Unreachable,
}

/// Why something was not done, in two halves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}; {remedy}")]
#[serde(deny_unknown_fields)]
pub struct HelperError {
    /// Its kind.
    pub kind: ErrorKind,
    /// What happened.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl HelperError {
    /// An error in two halves: what happened; what to do.
    #[must_use]
    pub fn new(kind: ErrorKind, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { kind, what: what.into(), remedy: remedy.into() }
    }

    /// [`ErrorKind::Failed`] in two halves.
    #[must_use]
    pub fn failed(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, what, remedy)
    }
}

/// A passphrase of the data partition: 64 lower-case hexadecimal digits, and so neither empty, nor an option, nor more
/// than a line. Never logged, zeroized on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    const DIGITS: usize = 64;

    /// Takes the text over; none where it has another form.
    #[must_use]
    pub fn new(text: Zeroizing<String>) -> Option<Self> {
        let good = text.len() == Self::DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        good.then_some(Self(text))
    }

    /// The digits, for the program that opens the partition.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

impl Serialize for Passphrase {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Passphrase {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        Self::new(text).ok_or_else(|| serde::de::Error::custom("no passphrase of the data partition"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(request: &str) -> Result<Call, serde_json::Error> {
        serde_json::from_str(&format!(r#"{{"version":1,"request":{request}}}"#))
    }

    #[test]
    fn only_enumerated_requests_with_exactly_their_fields_are_read() {
        assert_eq!(read(r#""reboot""#).unwrap().request, Request::Reboot);
        for bad in [
            r#""run""#,
            r#"{"reboot":{"now":true}}"#,
            r#"{"set_time":{}}"#,
            r#"{"set_time":{"at":"tomorrow"}}"#,
            r#"{"apply_network":{"network":{"address":"192.0.2.10/24\nGateway=192.0.2.1","gateway":null,"dns":[],"ntp":[]}}}"#,
            r#"{"apply_network":{"network":{"address":"dhcp","gateway":null,"dns":[],"ntp":[],"exec":"x"}}}"#,
            r#"{"store_plain":{"host":"a\nb","listen":[]}}"#,
            r#"{"unlock_data":{"passphrase":"--help"}}"#,
            r#"{"unlock_data":{"passphrase":""}}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Call>(r#"{"version":1,"request":"reboot","as":"root"}"#).is_err());
    }

    #[test]
    fn a_passphrase_is_shown_nowhere() {
        let digits = "0123456789abcdef".repeat(4);
        let request = read(&format!(r#"{{"seal_data":{{"passphrase":"{digits}"}}}}"#)).unwrap();
        assert!(!format!("{request:?}").contains("0123"), "{request:?}");
        assert!(Passphrase::new(Zeroizing::new(digits.to_uppercase())).is_none());
    }
}
