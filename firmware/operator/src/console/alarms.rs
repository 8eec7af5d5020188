//! What needs attention.
//!
//! Job: gather it from the status, worst first, and show all of it on a screen of its own where the board has no room.
//! Place: beside the board; needs no sign-in either. Invariants: each has what happened and what to do. A crash leaves
//! nothing behind.

use super::{
    field::Halves,
    look::{BAD, FAINT, GOOD, STRONG, Sheet, wrapped},
    state::State,
};
use crate::{cli::form::span, update::UpdateReport, view::StatusReport};

/// All that needs attention.
pub fn all(state: &State, status: &StatusReport) -> Vec<Halves> {
    let data = status.facts.data_locked.iter().map(|locked| Halves::new(&locked.what, &locked.remedy));
    let alarms = status.facts.alarms.iter().map(|alarm| Halves::new(&alarm.what, &alarm.remedy));
    // A daemon that is not open raises no alarms; what became of the slots is known without it.
    let slots = state.update.as_ref().filter(|_| status.starting || status.locked.is_some());
    let slots = slots.map(of_slots).unwrap_or_default();
    let failing = status.facts.failing.iter().map(|of| {
        let since = span(of.since, state.now);
        let what = format!("{} fails for {since}: {}", of.destination, of.error);
        Halves::new(what, "its mail waits and is tried again; look at that server, or at the way to it")
    });
    data.chain(slots).chain(alarms).chain(failing).collect()
}

fn of_slots(report: &UpdateReport) -> Vec<Halves> {
    let firmware = report.starts.firmware.as_ref().map(|reason| Halves::new(&reason.what, &reason.remedy));
    unacknowledged(report).into_iter().chain(firmware).collect()
}

/// Why a slot did not stay or start, as long as nobody has taken note of it.
pub fn unacknowledged(report: &UpdateReport) -> Vec<Halves> {
    report.to_acknowledge().map(|reason| Halves::new(&reason.what, &reason.remedy)).collect()
}

/// Rows that one takes.
pub fn rows(halves: &Halves, width: u16) -> u16 {
    let width = usize::from(width.saturating_sub(2));
    let rows = wrapped(&halves.what, width).len() + wrapped(&halves.remedy, width).len();
    u16::try_from(rows).unwrap_or(u16::MAX)
}

/// All of it, from the one with number `from` on.
pub fn screen(state: &State, from: usize, sheet: &mut Sheet<'_>) {
    sheet.line("What needs attention", STRONG);
    sheet.gap();
    let Some(status) = &state.status else {
        sheet.line("Nothing is known yet: the service has not answered.", FAINT);
        return;
    };
    let all = all(state, status);
    if all.is_empty() {
        sheet.line("Nothing.", GOOD);
        return;
    }
    let from = from.min(all.len() - 1);
    for (index, halves) in all.iter().enumerate().skip(from) {
        if index > from && sheet.left() < rows(halves, sheet.area.width) + 1 {
            sheet.line(&format!("{} of {} more below", all.len() - index, all.len()), BAD);
            return;
        }
        sheet.halves(0, halves);
    }
}
