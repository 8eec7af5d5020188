//! The status board.
//!
//! Job: show at a glance whether mail flows, and what to do where it does not. Place: the console's first screen; needs
//! no sign-in, so it has no address and no subject of anybody's mail. Invariants: what a daemon said that is silent now
//! is never shown as what is; the first line says whether something is wrong, and nothing that is wrong is cut without
//! saying so. A crash leaves nothing behind.

use super::{
    alarms,
    field::Halves,
    look::{BAD, FAINT, GOOD, PLAIN, STRONG, Sheet},
    state::State,
};
use crate::{
    CloudState, SecureBoot,
    cli::form::{counted, minute, size, span, time},
    update::UpdateState,
    view::{DestinationFigures, QueueFigures, StatusReport},
};
use jiff::Timestamp;

pub fn board(state: &State, sheet: &mut Sheet<'_>) {
    let silent = state.silent_since();
    let Some(status) = &state.status else { return waiting(state, sheet) };
    if let Some(since) = silent {
        no_answer(state, since, sheet);
        told(state, sheet);
        sheet.faded = true;
        facts(state, status, sheet);
        return;
    }
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
        let text = "The service starts: it asks the TPM for its keys and reads its queue. This screen goes on by itself. \
                    Until then mail is refused for now (451); senders try again.";
        sheet.text(0, text, PLAIN);
        sheet.gap();
    } else if !status.facts.set_up {
        sheet.big("NOT SET UP", STRONG);
        sheet.gap();
        let text = if state.wizard.is_some() {
            "This appliance has no settings yet. What was typed is kept: press Enter to go on."
        } else {
            "This appliance has keys of its own and no settings yet. Press Enter and answer some questions."
        };
        sheet.text(0, text, PLAIN);
        sheet.text(0, "Until then mail is refused for now (451); senders try again.", FAINT);
        sheet.gap();
    }
    told(state, sheet);
    facts(state, status, sheet);
    attention(state, status, sheet);
}

fn told(state: &State, sheet: &mut Sheet<'_>) {
    if let Some(told) = &state.told {
        sheet.told(told);
        sheet.gap();
    }
}

/// Nothing was heard since the console began.
fn waiting(state: &State, sheet: &mut Sheet<'_>) {
    sheet.gap();
    sheet.line("Waiting for the service", STRONG);
    sheet.gap();
    let text = "The mail service of this appliance starts, or was stopped. This screen goes on by itself.";
    sheet.text(0, text, PLAIN);
    if let (Some(down), Some(since)) = (&state.down, state.silent_since()) {
        sheet.gap();
        sheet.text(0, &format!("No answer since {}: {}", minute(since, state.now), down.what), FAINT);
    }
}

fn no_answer(state: &State, since: Timestamp, sheet: &mut Sheet<'_>) {
    let what = format!("no answer from the service since {}", minute(since, state.now));
    let remedy = "it is asked again all the time, and this screen goes on by itself; if it stays away for minutes, switch \
                  the machine off and on: mail in the queue stays there";
    sheet.halves(0, &Halves::new(what, remedy));
    if let Some(down) = &state.down {
        sheet.text(2, &down.what, FAINT);
    }
    sheet.gap();
}

fn facts(state: &State, status: &StatusReport, sheet: &mut Sheet<'_>) {
    let facts = &status.facts;
    let known = status.locked.is_none() && !status.starting;
    let open = known && facts.set_up;
    if state.silent_since().is_some() {
        sheet.fact("State", "unknown; what stands below was so at that time", BAD);
    } else if open {
        let count = alarms::all(state, status).len();
        let (word, style) = match count {
            0 => ("open; mail flows".to_owned(), GOOD),
            1 => ("open; something needs attention".to_owned(), BAD),
            _ => (format!("open; something needs attention ({count})"), BAD),
        };
        sheet.fact("State", &word, style);
    }
    sheet.fact("Addresses", &joined(facts.addresses.iter()), PLAIN);
    if open {
        let listeners = joined(facts.listeners.iter());
        sheet.fact("SMTP", &format!("{listeners}, {}", counted(facts.sessions, "session")), PLAIN);
    }
    software(state, sheet);
    if known {
        sheet.fact("Keys", keys(status), if status.keys.sealed { PLAIN } else { BAD });
    }
    match facts.secure_boot {
        SecureBoot::On => sheet.fact("Secure Boot", "on", PLAIN),
        SecureBoot::Off => sheet.fact("Secure Boot", "OFF: switch it on in the firmware's own menu", BAD),
        SecureBoot::SetupMode => {
            sheet.fact("Secure Boot", "OFF, and without keys: enrol ours in the firmware's own menu", BAD);
        }
        SecureBoot::Unknown => {}
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
        let version = slot.version_in_words();
        let marks = [(slot.running, "runs"), (slot.next && !slot.running, "next"), (!slot.good, "not proven")];
        let marks: Vec<&str> = marks.into_iter().filter(|(holds, _)| *holds).map(|(_, mark)| mark).collect();
        if marks.is_empty() {
            format!("{} {version}", slot.name)
        } else {
            format!("{} {version} ({})", slot.name, marks.join(", "))
        }
    });
    sheet.fact("Slots", &joined(slots), PLAIN);
    if let Some(fallback) = &report.starts.fallback {
        let text = format!("{} ({})", fallback.reason.what, minute(fallback.since, state.now));
        sheet.fact("Fallback", &text, if fallback.alarm().is_some() { BAD } else { PLAIN });
    }
    if let Some(firmware) = &report.starts.firmware {
        sheet.fact("Firmware", &firmware.what, BAD);
    }
    if let Some(progress) = &report.progress {
        sheet.fact("Update", progress, STRONG);
        return;
    }
    let Some(update) = &report.update else { return };
    let became = match update.state {
        UpdateState::Installing => "is being written",
        UpdateState::Installed => "is written; the next start tries it",
        UpdateState::Trial => "is on trial",
        UpdateState::Failed => "was not installed",
        UpdateState::FellBack => "did not stay",
        UpdateState::Done | UpdateState::Unknown => return,
    };
    let mut text = format!("{} {became} ({})", update.to.version, minute(update.since, state.now));
    if let Some(reason) = &update.reason {
        text = format!("{text}: {}", reason.what);
    }
    sheet.fact("Update", &text, if update.alarm().is_some() { BAD } else { PLAIN });
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
    let sum = |of: fn(&DestinationFigures) -> u64| figures.destinations.iter().map(of).sum::<u64>();
    let (waiting, delivering, held) = (sum(|d| d.waiting), sum(|d| d.delivering), sum(|d| d.held));
    let oldest = figures.oldest.map(|oldest| format!(", oldest {}", span(oldest, state.now))).unwrap_or_default();
    let parts = [(waiting, "waiting"), (delivering, "under way"), (held, "held")];
    let parts: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let parts = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
    let text = format!("{}{oldest}{parts}; {} free", counted(figures.messages, "message"), size(figures.free_bytes));
    sheet.fact("Queue", &text, PLAIN);
}

fn attention(state: &State, status: &StatusReport, sheet: &mut Sheet<'_>) {
    let all = alarms::all(state, status);
    if all.is_empty() {
        return;
    }
    sheet.gap();
    for (index, halves) in all.iter().enumerate() {
        let others = u16::from(index + 1 < all.len());
        if sheet.left() < alarms::rows(halves, sheet.area.width) + others {
            sheet.line(&format!("{} more; A shows all", all.len() - index), BAD);
            return;
        }
        sheet.halves(0, halves);
    }
}
