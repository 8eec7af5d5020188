//! What an operator may know about the keys.
//!
//! Job: the report of `postern keys status`, also as JSON. Place: made by [`crate::Vault::status`]. Invariants: nothing
//! in it is secret. A crash leaves nothing.

use crate::{
    fault::Fault,
    identity::{Identity, IdentityState},
};
use serde::Serialize;

/// The report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Locked or not.
    pub state: State,
    /// Why it is locked, or why unlocking does not last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<FaultStatus>,
    /// Security generation that the keys are sealed for.
    pub generation: Option<u32>,
    /// The recovery key; none while locked, or where its file cannot be read.
    pub recovery: Option<RecoveryStatus>,
    /// The device identity.
    pub identity: Option<IdentityStatus>,
    /// How many epoch keys there are.
    pub epochs: Option<usize>,
    /// Whether all key memory is locked and kept out of dumps.
    pub memory_locked: bool,
}

/// Locked or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The TPM released the keys, or will at the next start.
    Unlocked,
    /// By the recovery key; the next start needs it again.
    UnlockedThisBoot,
    /// No keys.
    Locked,
}

/// A fault in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FaultStatus {
    /// [`Fault::code`].
    pub code: &'static str,
    /// What happened; what to do.
    pub message: String,
}

impl FaultStatus {
    pub(crate) fn of(fault: &Fault) -> Self {
        Self { code: fault.code(), message: fault.to_string() }
    }
}

/// Where the recovery key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RecoveryStatus {
    /// Whether it was shown.
    pub shown: bool,
    /// Whether it was asked back. Until then the operator is reminded.
    pub confirmed: bool,
}

/// Whether the cloud path can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IdentityStatus {
    /// `enrolled`, `needs-enrolment`, `unavailable`.
    pub state: &'static str,
    /// Why it is unavailable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<FaultStatus>,
    /// The name that the service gave this appliance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub appliance: Option<String>,
}

impl IdentityStatus {
    pub(crate) fn of(identity: &Identity) -> Self {
        let (state, fault) = match identity.state() {
            IdentityState::Enrolled => ("enrolled", None),
            IdentityState::NeedsEnrolment => ("needs-enrolment", None),
            IdentityState::Unavailable(fault) => ("unavailable", Some(FaultStatus::of(&fault))),
        };
        Self { state, fault, appliance: identity.enrolment().map(|enrolment| enrolment.appliance) }
    }
}
