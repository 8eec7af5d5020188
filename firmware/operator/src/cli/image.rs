//! Health and updates as lines.
//!
//! Job: show what a health check found and where an update stands. Place: beside the other answers ([`super::print`]).
//! Invariants: what failed stands first and with what to do; all text goes through the table's cleaning. A crash leaves
//! nothing behind.

use super::{
    form::time,
    print::alarm,
    table::{Table, clean},
};
use crate::{
    health::{HealthReport, HealthState},
    update::{Fallback, SlotReport, UpdateReport, UpdateState},
};
use std::fmt::Write as _;

/// A health check's result.
pub(super) fn health(report: &HealthReport) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}, checked {}", if report.healthy { "healthy" } else { "NOT healthy" }, time(report.at));
    for check in report.checks.iter().filter(|check| !check.remedy.is_empty()) {
        alarm(&mut out, &format!("{}: {}", check.name, check.what), &check.remedy);
    }
    let mut table = Table::new(&["CHECK", "RESULT", "WHAT"]);
    for check in &report.checks {
        let state = match check.state {
            HealthState::Passed => "passed",
            HealthState::Skipped => "skipped",
            HealthState::Outside => "not ours",
            HealthState::Failed => "FAILED",
        };
        table.row([check.name.clone(), state.to_owned(), check.what.clone()]);
    }
    out.push_str(&table.lay_out());
    out
}

/// Slots, and where the last update stands.
pub(super) fn update(report: &UpdateReport) -> String {
    let mut out = String::new();
    if let Some(reason) = report.update.as_ref().and_then(|update| update.alarm()) {
        alarm(&mut out, &reason.what, &format!("{}; then `postern update acknowledge`", reason.remedy));
    }
    let fallback = report.starts.fallback.as_ref();
    if let Some(reason) = fallback.and_then(Fallback::alarm) {
        alarm(&mut out, &reason.what, &format!("{}; then `postern update acknowledge`", reason.remedy));
    }
    if let Some(firmware) = &report.starts.firmware {
        alarm(&mut out, &firmware.what, &firmware.remedy);
    }
    let mut table = Table::new(&["SLOT", "VERSION", "STATE"]);
    for slot in &report.slots {
        table.row([slot.name.clone(), slot.version_in_words().to_owned(), words(slot)]);
    }
    out.push_str(&table.lay_out());
    if let Some(update) = &report.update {
        let state = match update.state {
            UpdateState::Installing => "is being installed",
            UpdateState::Installed => "is installed; the next start tries it",
            UpdateState::Trial => "is on trial",
            UpdateState::Done => "works and stays",
            UpdateState::Failed => "was not installed",
            UpdateState::FellBack => "did not stay; the one before runs again",
            UpdateState::Unknown => "is in a state that this version does not know",
        };
        let (from, to) = (clean(&update.from.version), clean(&update.to.version));
        let _ = writeln!(out, "update from {from} to {to}: {to} {state}, since {}", time(update.since));
        if let Some(reason) = update.reason.as_ref().filter(|_| update.acknowledged) {
            let _ = writeln!(out, "  {} (acknowledged)", clean(&reason.what));
        }
    }
    if let Some(fallback) = fallback.filter(|fallback| fallback.acknowledged) {
        let _ = writeln!(out, "{} (acknowledged; since {})", clean(&fallback.reason.what), time(fallback.since));
    }
    if let Some(progress) = &report.progress {
        let _ = writeln!(out, "installing: {}", clean(progress));
    }
    out
}

fn words(slot: &SlotReport) -> String {
    let words = [(slot.running, "runs"), (slot.good, "good"), (slot.next && !slot.running, "starts next")];
    let said: Vec<&str> = words.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
    if said.is_empty() { "not marked good".to_owned() } else { said.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        health::HealthCheck,
        update::{OnSlot, Reason, Update},
    };
    use jiff::Timestamp;

    #[test]
    fn what_failed_stands_first_with_what_to_do() {
        let checks = vec![
            HealthCheck::passed("keys", "the TPM has released them"),
            HealthCheck::told("workers", HealthState::Failed, "no judging process starts; look at the log"),
        ];
        let told = health(&HealthReport::new(checks));
        assert!(told.starts_with("NOT healthy, checked "), "{told}");
        assert!(told.contains("! workers: no judging process starts\n  → look at the log\n"), "{told}");
    }

    #[test]
    fn a_fallback_is_told_with_its_reason_until_it_is_acknowledged() {
        let slot =
            |name: &str, running, good| SlotReport { name: name.into(), version: None, running, good, next: running };
        let on = |slot: &str, version: &str| OnSlot { slot: slot.into(), version: version.into() };
        let update = Update {
            state: UpdateState::FellBack,
            from: on("a", "1.0.0"),
            to: on("b", "1.1.0"),
            since: Timestamp::UNIX_EPOCH,
            boot: String::new(),
            reason: Some(Reason { what: "it hung".into(), remedy: "install another".into() }),
            acknowledged: false,
        };
        let slots = vec![slot("a", true, true), slot("b", false, false)];
        let mut report = UpdateReport { slots, update: Some(update), ..UpdateReport::default() };
        let told = self::update(&report);
        assert!(told.starts_with("! it hung\n  → install another; then `postern update acknowledge`\n"), "{told}");
        assert!(told.contains("not started yet  runs, good") && told.contains("empty            not marked"), "{told}");
        report.update.as_mut().unwrap().acknowledged = true;
        let told = self::update(&report);
        assert!(!told.contains('!') && told.contains("it hung (acknowledged)"), "{told}");
    }

    #[test]
    fn a_slot_that_did_not_start_and_a_firmware_that_does_not_fall_back_are_told() {
        let reason = |what: &str, remedy: &str| Reason { what: what.into(), remedy: remedy.into() };
        let mut report = UpdateReport::default();
        report.starts.firmware = Some(reason("the firmware keeps no boot entries", "look at its setup"));
        report.starts.fallback = Some(Fallback {
            slot: "a".into(),
            version: None,
            since: Timestamp::UNIX_EPOCH,
            reason: reason("slot a did not start", "restart"),
            acknowledged: false,
        });
        let told = self::update(&report);
        assert!(told.contains("! slot a did not start\n  → restart; then `postern update acknowledge`\n"), "{told}");
        assert!(told.contains("! the firmware keeps no boot entries\n  → look at its setup\n"), "{told}");
        report.starts.fallback.as_mut().unwrap().acknowledged = true;
        let told = self::update(&report);
        assert!(!told.contains("! slot a") && told.contains("slot a did not start (acknowledged; "), "{told}");
    }
}
