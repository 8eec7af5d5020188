//! The status board.
//!
//! Job: show at a glance whether mail flows, and what to do where it does not. Place: the console's first screen; needs
//! no sign-in, so it has no address and no subject of anybody's mail. Invariants: what is wrong comes before what is
//! right. A crash leaves nothing behind.

use super::{
    field::Halves,
    look::{BAD, FAINT, GOOD, PLAIN, STRONG, Sheet},
    state::State,
};
use crate::{
    CloudState, Facts,
    cli::form::{counted, size, span, time},
    view::{QueueFigures, StatusReport},
};

pub fn board(state: &State, sheet: &mut Sheet<'_>) {
    let Some(status) = &state.status else {
        sheet.gap();
        sheet.line("Waiting for the service", STRONG);
        sheet.gap();
        sheet.text(
            0,
            "The mail service of this appliance starts, or was stopped. This screen goes on by itself.",
            PLAIN,
        );
        if let Some(down) = &state.down {
            sheet.gap();
            sheet.text(0, &down.what, FAINT);
        }
        return;
    };
    if let Some(locked) = &status.locked {
        sheet.big("LOCKED", BAD);
        sheet.gap();
        sheet.halves(0, &Halves::new(&locked.what, &locked.remedy));
        let since = format!("Locked since {}. Mail is refused for now (451); senders try again.", time(locked.since));
        sheet.text(0, &since, PLAIN);
        sheet.gap();
    } else if status.starting {
        sheet.big("STARTING", STRONG);
        sheet.gap();
        sheet.text(0, "The mail service starts: it asks the TPM for its keys and reads its queue.", PLAIN);
        sheet.gap();
    } else if !status.facts.set_up {
        sheet.big("NOT SET UP", STRONG);
        sheet.gap();
        sheet.text(
            0,
            "This appliance has keys of its own and no settings yet. Press Enter and answer some questions.",
            PLAIN,
        );
        sheet.text(0, "Until then mail is refused for now (451); senders try again.", FAINT);
        sheet.gap();
    }
    if let Some(told) = &state.told {
        sheet.text(0, told, GOOD);
        sheet.gap();
    }
    facts(state, status, sheet);
    attention(state, status, sheet);
}

fn facts(state: &State, status: &StatusReport, sheet: &mut Sheet<'_>) {
    let facts = &status.facts;
    let open = status.locked.is_none() && !status.starting && facts.set_up;
    if open {
        let well = facts.alarms.is_empty() && facts.failing.is_empty();
        let (word, style) = if well { ("open; mail flows", GOOD) } else { ("open; something needs attention", BAD) };
        sheet.fact("State", word, style);
    }
    sheet.fact("Addresses", &joined(facts.addresses.iter()), PLAIN);
    if open {
        let listeners = joined(facts.listeners.iter());
        sheet.fact("SMTP", &format!("{listeners}, {}", counted(facts.sessions, "session")), PLAIN);
    }
    software(state, sheet);
    if status.locked.is_none() && !status.starting {
        sheet.fact("Keys", keys(status), if status.keys.sealed { PLAIN } else { BAD });
    }
    if open {
        sheet.fact("Cloud", &cloud(&facts.cloud), PLAIN);
        let mail = format!(
            "{} accepted, {} delivered, {} refused in {}",
            facts.accepted,
            facts.delivered,
            facts.refused,
            span(facts.started, state.now)
        );
        sheet.fact("Mail", &mail, PLAIN);
    }
    if let Some(figures) = &status.queue {
        queue(state, figures, sheet);
    }
}

/// The slots, the one that runs first, and an update that is under way or did not stay.
fn software(state: &State, sheet: &mut Sheet<'_>) {
    let Some(report) = &state.update else {
        sheet.fact("Slots", "-", PLAIN);
        return;
    };
    let mut slots: Vec<_> = report.slots.iter().collect();
    slots.sort_by_key(|slot| !slot.running);
    let slots = slots.into_iter().map(|slot| {
        let version = slot.version.as_deref().unwrap_or("empty");
        let marks = [(slot.running, "runs"), (slot.next && !slot.running, "next"), (!slot.good, "not proven")];
        let marks: Vec<&str> = marks.into_iter().filter(|(holds, _)| *holds).map(|(_, mark)| mark).collect();
        if marks.is_empty() {
            format!("{} {version}", slot.name)
        } else {
            format!("{} {version} ({})", slot.name, marks.join(", "))
        }
    });
    sheet.fact("Slots", &joined(slots), PLAIN);
    if let Some(progress) = &report.progress {
        sheet.fact("Update", progress, STRONG);
    } else if let Some(update) = report.update.as_ref().filter(|update| update.reason.is_some()) {
        let what = update.reason.as_ref().map_or("", |reason| reason.what.as_str());
        let style = if update.alarm().is_some() { BAD } else { PLAIN };
        sheet.fact("Update", &format!("to {} on {}: {what}", update.to.version, time(update.since)), style);
    }
}

fn joined<T: ToString>(values: impl Iterator<Item = T>) -> String {
    let all: Vec<String> = values.map(|value| value.to_string()).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

fn keys(status: &StatusReport) -> &'static str {
    match (status.keys.sealed, status.keys.recovery_confirmed) {
        (true, true) => "sealed to this machine; recovery key confirmed",
        (true, false) => "sealed to this machine; recovery key NOT confirmed",
        (false, _) => "open until the next start, which asks for the recovery key",
    }
}

fn cloud(state: &CloudState) -> String {
    match state {
        CloudState::NotConfigured => "none; confidential mail waits".to_owned(),
        CloudState::NotEnrolled => "NOT enrolled; confidential mail waits".to_owned(),
        CloudState::Enrolled(enrolment) => format!("enrolled as {} of {}", enrolment.appliance, enrolment.tenant),
    }
}

fn queue(state: &State, figures: &QueueFigures, sheet: &mut Sheet<'_>) {
    let sum = |of: fn(&crate::view::DestinationFigures) -> u64| figures.destinations.iter().map(of).sum::<u64>();
    let (waiting, delivering, held) = (sum(|d| d.waiting), sum(|d| d.delivering), sum(|d| d.held));
    let oldest = figures.oldest.map(|oldest| format!(", oldest {}", span(oldest, state.now))).unwrap_or_default();
    let text = format!(
        "{}: {waiting} waiting, {delivering} under way, {held} held{oldest}; {} free",
        counted(figures.messages, "message"),
        size(figures.free_bytes)
    );
    sheet.fact("Queue", &text, PLAIN);
}

fn attention(state: &State, status: &StatusReport, sheet: &mut Sheet<'_>) {
    let Facts { failing, alarms, .. } = &status.facts;
    let failing = failing.iter().map(|of| {
        let since = span(of.since, state.now);
        Halves::new(format!("{} fails for {since}: {}", of.destination, of.error), "its mail waits and is tried again")
    });
    let data = status.facts.data_locked.iter().map(|locked| Halves::new(&locked.what, &locked.remedy));
    let alarms = data.chain(alarms.iter().map(|alarm| Halves::new(&alarm.what, &alarm.remedy)));
    let all: Vec<Halves> = failing.chain(alarms).collect();
    if all.is_empty() {
        return;
    }
    sheet.gap();
    for (index, halves) in all.iter().enumerate() {
        // One more may not fit as a whole; that there are more is said.
        if sheet.left() < 3 && index + 1 < all.len() || sheet.left() < 2 {
            sheet.line(&format!("… and {} more", all.len() - index), BAD);
            return;
        }
        sheet.halves(0, halves);
    }
}
