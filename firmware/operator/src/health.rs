//! Whether the appliance does what it is for.
//!
//! Job: the words for a health check's result. Place: between the daemon, which checks, and those who ask: operators, and
//! the unit that decides about a new image's trial. Invariants: a report says for each step whose fault a failure is: a
//! cloud service that is away or a full disk is not this firmware's. A crash leaves nothing behind: these are values.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    /// Whether no step failed.
    pub healthy: bool,
    /// When the check ended.
    pub at: Timestamp,
    /// Every step, in the order in which a message meets them.
    pub checks: Vec<HealthCheck>,
}

/// One step of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// `keys`, `data`, `intake`, `judge`, `workers`, `spool`, `relay` or `cloud`.
    pub name: String,
    /// What came of it.
    pub state: HealthState,
    /// What happened.
    pub what: String,
    /// What to do; empty where nothing is to be done.
    pub remedy: String,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// It works.
    Passed,
    /// It could not be checked: not set up, or an earlier step failed.
    Skipped,
    /// It does not work at present, through something outside of this firmware.
    Outside,
    /// It does not work.
    Failed,
}

impl HealthReport {
    /// A report of these steps, made now.
    #[must_use]
    pub fn new(checks: Vec<HealthCheck>) -> Self {
        let healthy = checks.iter().all(|check| check.state != HealthState::Failed);
        Self { healthy, at: Timestamp::now(), checks }
    }

    /// The first step that failed.
    #[must_use]
    pub fn failure(&self) -> Option<&HealthCheck> {
        self.checks.iter().find(|check| check.state == HealthState::Failed)
    }
}

impl HealthCheck {
    /// A step that works.
    #[must_use]
    pub fn passed(name: &str, what: impl Into<String>) -> Self {
        Self::of(name, HealthState::Passed, what.into(), "")
    }

    /// A step that was left out, and why.
    #[must_use]
    pub fn skipped(name: &str, why: impl Into<String>) -> Self {
        Self::of(name, HealthState::Skipped, why.into(), "")
    }

    /// A step whose result is told by `text`, in two halves: `what; what to do`.
    #[must_use]
    pub fn told(name: &str, state: HealthState, text: &str) -> Self {
        let (what, remedy) = text.split_once("; ").unwrap_or((text, "look at the daemon's log"));
        Self::of(name, state, what.to_owned(), remedy)
    }

    fn of(name: &str, state: HealthState, what: String, remedy: &str) -> Self {
        Self { name: name.to_owned(), state, what, remedy: remedy.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_outside_of_the_firmware_is_no_failure() {
        let outside = HealthCheck::told("cloud", HealthState::Outside, "the service is away; wait");
        assert!(HealthReport::new(vec![HealthCheck::passed("keys", ""), outside.clone()]).healthy);
        let failed = HealthCheck::told("cloud", HealthState::Failed, "the key can't sign; look at the TPM");
        let report = HealthReport::new(vec![outside, failed.clone()]);
        assert!(!report.healthy);
        assert_eq!(report.failure(), Some(&failed));
        assert_eq!(failed.remedy, "look at the TPM");
    }
}
