//! Which slot the firmware is to start, and when it is no use any more.
//!
//! Job: from the record and what has just happened, say the record after it and what the firmware is to do. Place: under
//! [`super`], which reads and writes both. Invariants: pure; the preferred slot is a good one; a slot is preferred only
//! after a health check that passed on it; the preferred slot has at most [`MOST`] starts without such a check before the
//! other one stays. A crash leaves nothing behind.

use crate::helper::{boot_entries::Wanted, slot::Slot};
use jiff::Timestamp;
use operator::update::{Fallback, Reason};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Starts of the preferred slot without a health check that passed.
pub const MOST: u8 = 3;

/// Octets of a text in the record; the longest is a panic's.
const LONGEST_TEXT: usize = 1000;

/// What is kept over starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The slot that a health check has passed on last: the one that is to run.
    pub preferred: Slot,
    /// Those that have shown that they work.
    pub good: Vec<Slot>,
    /// The slot that is being written, or is written and has not shown yet that it works.
    #[serde(default)]
    pub trial: Option<Slot>,
    /// Starts of the preferred slot that were begun or asked for since it was last healthy.
    #[serde(default)]
    pub granted: u8,
    /// Those of them that came as far as `prepare`.
    #[serde(default)]
    pub seen: u8,
    /// Whether the firmware was asked to start the preferred slot next.
    #[serde(default)]
    pub armed: bool,
    /// What is in each slot, as far as it is known.
    #[serde(default)]
    pub versions: BTreeMap<Slot, String>,
    /// Why the preferred slot did not run.
    #[serde(default)]
    pub fallback: Option<Fallback>,
}

/// What `prepare` finds.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// The slot that runs.
    pub running: Slot,
    /// Its version.
    pub version: Option<&'a str>,
    /// Whether the firmware had lost its boot entries, and so had nothing to go by.
    pub entries_lost: bool,
    /// Now.
    pub now: Timestamp,
}

impl Record {
    /// The record of a box that has none: new, or made as new.
    #[must_use]
    pub fn first(running: Slot, other_is_good: bool) -> Self {
        let mut good = vec![running];
        if other_is_good {
            good.push(running.other());
        }
        Self {
            preferred: running,
            good,
            trial: None,
            granted: 1,
            seen: 0,
            armed: false,
            versions: BTreeMap::new(),
            fallback: None,
        }
    }

    /// Whether this module can have written it: the preferred slot is a good one, and texts are lines.
    #[must_use]
    pub fn is_plausible(&self) -> bool {
        let line = |text: &str| text.len() <= LONGEST_TEXT && !text.chars().any(char::is_control);
        let fallback = self.fallback.as_ref().is_none_or(|fallback| {
            let Fallback { slot, version, reason, .. } = fallback;
            [slot, &reason.what, &reason.remedy].into_iter().chain(version).all(|text| line(text))
        });
        self.good.contains(&self.preferred) && self.versions.values().all(|version| line(version)) && fallback
    }

    /// Whether the slot has shown that it works.
    #[must_use]
    pub fn is_good(&self, slot: Slot) -> bool {
        self.good.contains(&slot) && self.trial != Some(slot)
    }

    /// Whether `running` may still yield to the other slot by dying before it is asked for again.
    #[must_use]
    pub fn may_yield(&self, running: Slot) -> bool {
        running == self.preferred && self.trial.is_none() && self.is_good(running.other())
    }

    /// After a start; and what the firmware is to do from now on.
    #[must_use]
    pub fn at_start(mut self, start: &Start<'_>) -> (Self, Wanted) {
        let running = start.running;
        if let Some(version) = start.version {
            self.versions.insert(running, version.to_owned());
        }
        if running == self.preferred {
            // What was begun and not decided is over: the slot that should have been tried did not stay.
            self.trial = None;
            self.seen = self.seen.saturating_add(1);
            self.arm();
        } else if !self.is_good(running) {
            // A trial. Whatever ends it, the firmware falls back to the preferred slot.
            self.trial = Some(running);
            self.armed = false;
        } else {
            self.trial = None;
            let known = self.fallback.as_ref().is_some_and(|fallback| fallback.slot == self.preferred.letter());
            // Without its boot entries the firmware takes what it finds: that says nothing about the slot.
            if !start.entries_lost && (self.armed || !known) {
                self.fallback = Some(self.fell_back(start.now));
            }
            if self.seen < self.granted {
                // One of them ended before it could be seen: so may the next.
                self.seen = 0;
            }
            self.arm();
        }
        let wanted = self.wanted();
        (self, wanted)
    }

    /// After a health check that passed on `running`; and what the firmware is to do where that changes.
    #[must_use]
    pub fn healthy(mut self, running: Slot) -> (Self, Option<Wanted>) {
        if !self.is_good(running) {
            self.preferred = running;
            self.trial = None;
            self.fallback = None;
            if !self.good.contains(&running) {
                self.good.push(running);
            }
        } else if running != self.preferred {
            // The other one runs in its place and is well, which says nothing about the preferred.
            return (self, None);
        }
        (self.seen, self.granted) = (0, 0);
        if self.fallback.as_ref().is_some_and(|fallback| fallback.acknowledged) {
            self.fallback = None;
        }
        if self.trial.is_some() {
            // The other slot is being written, or waits for its one start: the firmware is RAUC's until then.
            self.granted = 1;
            return (self, None);
        }
        self.arm();
        let wanted = self.wanted();
        (self, Some(wanted))
    }

    /// Before the slot that does not run is written.
    #[must_use]
    pub fn installing(mut self, running: Slot) -> Self {
        let written = running.other();
        if self.preferred != running {
            (self.preferred, self.seen, self.granted) = (running, 0, 1);
        }
        self.good.retain(|slot| *slot != written);
        (self.trial, self.armed, self.fallback) = (Some(written), false, None);
        self.versions.remove(&written);
        self
    }

    /// The installation has ended: with this version in the slot, or with nothing to try.
    #[must_use]
    pub fn installed(mut self, version: Option<&str>) -> Self {
        match (self.trial, version) {
            (Some(slot), Some(version)) => {
                self.versions.insert(slot, version.to_owned());
            }
            _ => self.trial = None,
        }
        self
    }

    /// An operator has taken note of the fallback: the preferred slot may try once more.
    #[must_use]
    pub fn acknowledged(mut self, running: Slot) -> (Self, Option<Wanted>) {
        let Some(fallback) = &mut self.fallback else { return (self, None) };
        fallback.acknowledged = true;
        if running == self.preferred || self.armed || self.trial.is_some() || !self.is_good(running) {
            return (self, None);
        }
        self.granted = self.granted.min(MOST - 1);
        self.arm();
        let wanted = self.wanted();
        (self, Some(wanted))
    }

    /// Asks for one more start of the preferred slot, where it has one left and there is another to fall to.
    fn arm(&mut self) {
        self.armed = false;
        if !self.is_good(self.preferred.other()) {
            self.granted = 0;
        } else if self.granted < MOST {
            self.granted += 1;
            self.armed = true;
        }
    }

    fn wanted(&self) -> Wanted {
        let (preferred, other) = (self.preferred, self.preferred.other());
        if !self.is_good(other) {
            return Wanted { order: vec![preferred], next: None };
        }
        if !self.armed && self.granted >= MOST && self.seen > 0 {
            // It comes up, and is not well: the other one is started, and this one only where that does not come up.
            return Wanted { order: vec![preferred, other], next: Some(other) };
        }
        // The dead man's order: whoever dies before it can say so is not started again, since the other one comes first.
        Wanted { order: vec![other, preferred], next: self.armed.then_some(preferred) }
    }

    fn fell_back(&self, now: Timestamp) -> Fallback {
        let slot = self.preferred;
        let version = self.versions.get(&slot).cloned();
        let name = named(slot, version.as_deref());
        let what = if self.seen > 0 && self.seen >= self.granted {
            format!("{name} was started {} times and did not become healthy", self.seen)
        } else {
            format!(
                "{name} did not start: the firmware refused it, it stopped or hung before it could say why, or the power \
                 failed at that moment"
            )
        };
        let remedy = if self.granted < MOST {
            "restart the box to try it again; install the version again if it comes back"
        } else {
            "install a version that works"
        };
        Fallback {
            slot: slot.letter().to_owned(),
            version,
            since: now,
            reason: Reason { what, remedy: remedy.to_owned() },
            acknowledged: false,
        }
    }
}

/// What a slot is called to people.
#[must_use]
pub fn named(slot: Slot, version: Option<&str>) -> String {
    match version {
        Some(version) => format!("slot {} (version {version})", slot.letter()),
        None => format!("slot {}", slot.letter()),
    }
}

#[cfg(test)]
mod tests;
