//! What an operator is told when a request is not done.
//!
//! Job: one error shape for every face, in two halves, with a kind that code may match on. Place: beside the message's
//! way. Invariants: carries no secret and no content of a message. A crash leaves nothing behind.

use crate::{Closed, Locked};
use serde::{Deserialize, Serialize};
use settings::Problem;
use std::fmt;

/// Which kind of refusal; code decides by this and never by text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The daemon starts; it can't say yet.
    Starting,
    /// The appliance is locked.
    Locked,
    /// The appliance has no settings yet.
    NotSetUp,
    /// Who asks may not.
    NotAllowed,
    /// Who asks must sign in first.
    SignIn,
    /// The request is not one that this version knows, or is too large.
    BadRequest,
    /// There is no such message.
    NotFound,
    /// It was understood and is not done: wrong words, wrong state, bad settings.
    Refused,
    /// We could not: disk, TPM, network.
    Failed,
    /// The daemon does not answer.
    Unreachable,
}

/// A request that is not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Refusal {
    /// Its kind.
    pub fault: Fault,
    /// What happened.
    pub what: String,
    /// What to do.
    pub remedy: String,
    /// All errors of refused settings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

impl Refusal {
    /// A refusal in two halves: what happened; what to do.
    #[must_use]
    pub fn new(fault: Fault, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { fault, what: what.into(), remedy: remedy.into(), problems: Vec::new() }
    }

    /// The two halves of an error whose text is `what; what to do`, as all of ours are.
    #[must_use]
    pub fn of(fault: Fault, error: &impl fmt::Display) -> Self {
        let text = error.to_string();
        let (what, remedy) = text.split_once("; ").unwrap_or((&text, "look at the daemon's log"));
        Self::new(fault, what, remedy)
    }

    /// Settings with these errors.
    #[must_use]
    pub fn settings(problems: Vec<Problem>) -> Self {
        let count = problems.len();
        let plural = if count == 1 { "" } else { "s" };
        Self {
            problems,
            ..Self::new(
                Fault::Refused,
                format!("the settings have {count} error{plural}; nothing was changed"),
                "correct what is listed and apply the file again",
            )
        }
    }
}

impl From<Locked> for Refusal {
    fn from(locked: Locked) -> Self {
        Self::new(Fault::Locked, format!("the appliance is locked: {}", locked.what), locked.remedy)
    }
}

impl From<Closed> for Refusal {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::Starting => Self::new(Fault::Starting, "the daemon is starting", "try again in a moment"),
            Closed::Locked(locked) => locked.into(),
            Closed::NotSetUp => Self::new(
                Fault::NotSetUp,
                "the appliance is not set up yet",
                "set it up at its console, or with `postern settings apply FILE`",
            ),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  → {}", self.what, self.remedy)?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n\n{problem}"))
    }
}
