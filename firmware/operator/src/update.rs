//! Updates of the image, and what became of them.
//!
//! Job: the words for slots, an update's state and a fallback's reason; the form of `update.json`. Place: between root's
//! helper, which installs and keeps the record, and operators. Invariants: the version before must be able to read what
//! this one writes, since it is the one that runs after a fallback: fields are only ever added, with a default; a state
//! that a version does not know reads as [`UpdateState::Unknown`], about which nothing is done. A crash leaves nothing
//! behind: these are values.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Slots and the last update.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateReport {
    /// Both slots, `a` first.
    pub slots: Vec<SlotReport>,
    /// The last update; `None` where there was none.
    pub update: Option<Update>,
    /// What the installation under way does; `None`: there is none.
    pub progress: Option<String>,
    /// What keeps the preferred slot from running, or the firmware from falling back.
    #[serde(default)]
    pub starts: Box<Starts>,
}

impl UpdateReport {
    /// What an operator can take note of, all at once: an update that did not stay, a slot that did not run.
    pub fn to_acknowledge(&self) -> impl Iterator<Item = &Reason> {
        let fallback = self.starts.fallback.as_ref().and_then(Fallback::alarm);
        self.update.as_ref().and_then(Update::alarm).into_iter().chain(fallback)
    }
}

/// What root's helper has found at this start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Starts {
    /// Why the slot that should run does not, or did not.
    #[serde(default)]
    pub fallback: Option<Fallback>,
    /// What the firmware does not do that falling back needs.
    #[serde(default)]
    pub firmware: Option<Reason>,
}

/// A slot that had shown that it works and did not run, so that the firmware started the other one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fallback {
    /// The slot that should have run, `a` or `b`.
    pub slot: String,
    /// Its version, where it is known.
    #[serde(default)]
    pub version: Option<String>,
    /// When the other one was started in its place.
    pub since: Timestamp,
    /// Why, as far as it can be told.
    pub reason: Reason,
    /// Whether an operator has taken note of it.
    #[serde(default)]
    pub acknowledged: bool,
}

impl Fallback {
    /// The reason that operators must look at, until they have.
    #[must_use]
    pub fn alarm(&self) -> Option<&Reason> {
        Some(&self.reason).filter(|_| !self.acknowledged)
    }
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotReport {
    /// `a` or `b`.
    pub name: String,
    /// Version of the image in it, where it is known.
    pub version: Option<String>,
    /// Whether it runs.
    pub running: bool,
    /// Whether it has shown that it works: the firmware may start it by itself.
    pub good: bool,
    /// Whether the firmware starts it next.
    pub next: bool,
}

impl SlotReport {
    /// The version, or why there is none: a slot tells its version when it starts, an update when it is installed.
    #[must_use]
    pub fn version_in_words(&self) -> &str {
        self.version.as_deref().unwrap_or(if self.good { "not started yet" } else { "empty" })
    }
}

/// An update from one slot to the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// How far it is.
    pub state: UpdateState,
    /// The slot that ran when it was begun.
    pub from: OnSlot,
    /// The slot that it was written to.
    pub to: OnSlot,
    /// Since when it is in this state.
    pub since: Timestamp,
    /// The kernel's boot ID at that time.
    pub boot: String,
    /// Why it failed or fell back.
    #[serde(default)]
    pub reason: Option<Reason>,
    /// Whether an operator has taken note of the reason.
    #[serde(default)]
    pub acknowledged: bool,
}

/// A version on a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnSlot {
    /// `a` or `b`.
    pub slot: String,
    /// Its version.
    pub version: String,
}

/// How far an update is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateState {
    /// The other slot is being written.
    Installing,
    /// It is written; the next start tries it.
    Installed,
    /// The new image runs and must show that it works.
    Trial,
    /// The new image works and stays.
    Done,
    /// The installation failed; the old image never stopped.
    Failed,
    /// The new image was tried, and the old one runs again.
    FellBack,
    /// A state of another version.
    #[serde(other)]
    Unknown,
}

/// Why an update did not stay, in two halves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// What happened.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl Update {
    /// The reason that operators must look at, until they have.
    #[must_use]
    pub fn alarm(&self) -> Option<&Reason> {
        let raised = matches!(self.state, UpdateState::Failed | UpdateState::FellBack) && !self.acknowledged;
        self.reason.as_ref().filter(|_| raised)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_a_version_that_knew_no_fallbacks_is_read() {
        let report: UpdateReport = serde_json::from_str(r#"{"slots":[],"update":null,"progress":null}"#).unwrap();
        assert_eq!(report, UpdateReport::default());
    }

    #[test]
    fn a_record_of_another_version_is_read() {
        let text = r#"{"state":"rehearsal","from":{"slot":"a","version":"0.1.0","x":1},
            "to":{"slot":"b","version":"9.0.0"},"since":"2026-11-21T10:00:00Z","boot":"0","more":[]}"#;
        let update: Update = serde_json::from_str(text).unwrap();
        assert_eq!((update.state, update.acknowledged, update.reason), (UpdateState::Unknown, false, None));
    }
}
