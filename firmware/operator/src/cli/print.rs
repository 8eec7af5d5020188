//! Answers as lines.
//!
//! Job: show each answer so that it can be read at a glance, and name what needs an act. Place: the last step of a
//! command. Invariants: times are UTC; all text from outside goes through the table's cleaning. A crash leaves nothing
//! behind.

use super::{
    form::{counted, people, sender, size, span, time},
    image, json,
    life::message,
    machine::{addresses, done, network},
    table::{Table, clean, lines},
};
use crate::{
    CloudState, Enrolment, KeyFacts, Refusal, Response, SecureBoot, Unlocked,
    view::{
        AppliedReport, AuditReport, QueueFigures, QueueReport, SettingsReport, StatusReport, TestOutcome, TestReport,
    },
};
use jiff::Timestamp;
use serde_json::json as object;
use spool::RowState;
use std::fmt::Write as _;

/// An answer for programs: the report itself, without the name of its kind.
pub(super) fn json_of(response: &Response) -> String {
    match response {
        Response::Status(report) => json(report),
        Response::Queue(report) => json(report),
        Response::Acted { id, action } => json(&object!({ "id": id, "done": action })),
        Response::Message(life) => json(life),
        Response::Keys(facts) => json(facts),
        Response::Unlocked(unlocked) => json(unlocked),
        Response::Recovery { words } => json(&object!({ "words": words.expose() })),
        Response::RecoveryConfirmed => json(&object!({ "confirmed": true })),
        Response::RecoveryRenewed => json(&object!({ "renewed": true })),
        Response::Enrolled(enrolment) => json(enrolment),
        Response::Tested(report) => json(report),
        Response::SignedIn { name, unrecorded } => json(&object!({ "signed_in": name, "unrecorded": unrecorded })),
        Response::SignedOut => json(&object!({ "signed_in": null })),
        Response::Network(report) => json(report),
        Response::Machine { act, unrecorded } => json(&object!({ "done": act.name(), "unrecorded": unrecorded })),
        Response::Health(report) => json(report),
        Response::Update(report) => json(report),
        Response::UpdateAcknowledged => json(&object!({ "acknowledged": true })),
        Response::Audit(report) => json(report),
        Response::Settings(report) => json(report),
        Response::Applied(report) => json(report),
    }
}

/// An answer for people.
pub(super) fn text_of(response: &Response) -> String {
    match response {
        Response::Status(report) => status(report),
        Response::Queue(report) => queue(report, Timestamp::now()),
        Response::Acted { id, action } => {
            let done = match action.as_str() {
                "queue.retry" => "is tried again now",
                "queue.hold" => "is held",
                "queue.release" => "goes on",
                "queue.delete" => "is deleted and its key destroyed",
                other => other,
            };
            format!("{id} {done}\n")
        }
        Response::Message(life) => message(life),
        Response::Keys(facts) => keys(facts),
        Response::Unlocked(done) => unlocked(done),
        Response::Recovery { words } => recovery(words.expose()),
        Response::RecoveryConfirmed => "the recovery key is confirmed\n".to_owned(),
        Response::RecoveryRenewed => {
            let mut out = String::new();
            let what = "there is a new recovery key; the old words open nothing any more";
            alarm(&mut out, what, "`postern keys recovery show`, write it down, then `postern keys recovery confirm`");
            out
        }
        Response::Enrolled(enrolment) => format!("enrolled: {}\n", enrolled(enrolment)),
        Response::Tested(report) => tested(report),
        Response::SignedIn { name, unrecorded } => told(format!("signed in as {}\n", clean(name)), unrecorded.as_ref()),
        Response::SignedOut => "signed out\n".to_owned(),
        Response::Network(report) => network(report),
        Response::Machine { act, unrecorded } => told(done(act), unrecorded.as_ref()),
        Response::Health(report) => image::health(report),
        Response::Update(report) => image::update(report),
        Response::UpdateAcknowledged => "taken note of\n".to_owned(),
        Response::Audit(report) => audit(report),
        Response::Settings(report) => settings(report),
        Response::Applied(report) => applied(report),
    }
}

/// What was done, and that the ledger does not have it.
fn told(mut out: String, unrecorded: Option<&Refusal>) -> String {
    if let Some(Refusal { what, remedy, .. }) = unrecorded {
        alarm(&mut out, &format!("this is not in the ledger: {what}"), remedy);
    }
    out
}

/// Names and values, aligned.
pub(super) struct Facts(Table);

impl Facts {
    pub fn new(indent: usize) -> Self {
        Self(Table::new(&[]).indented(indent))
    }

    pub fn add(&mut self, name: &str, value: impl Into<String>) {
        self.0.row([name.to_owned(), value.into()]);
    }

    pub fn lay_out(&self) -> String {
        self.0.lay_out()
    }
}

/// What and remedy on two lines.
pub(super) fn alarm(out: &mut String, what: &str, remedy: &str) {
    let _ = writeln!(out, "! {}\n  → {}", clean(what), clean(remedy));
}

fn status(report: &StatusReport) -> String {
    let facts = &report.facts;
    let mut out = String::new();
    if let Some(locked) = &report.locked {
        alarm(&mut out, &format!("LOCKED since {}: {}", time(locked.since), locked.what), &locked.remedy);
        out.push('\n');
    }
    let mut top = Facts::new(0);
    let development = if facts.development { " (development keys: not for use)" } else { "" };
    top.add("host", &facts.host);
    top.add("version", format!("{}{development}", facts.version));
    let open = if facts.set_up { "open" } else { "not set up: `postern console`, or `postern settings apply FILE`" };
    let open = if report.starting { "starting; look again in a moment" } else { open };
    top.add("state", if report.locked.is_some() { "locked" } else { open });
    match facts.secure_boot {
        SecureBoot::On => top.add("secure boot", "on"),
        SecureBoot::Off => top.add("secure boot", "OFF"),
        SecureBoot::SetupMode => top.add("secure boot", "OFF: the firmware is in setup mode"),
        SecureBoot::Unknown => {}
    }
    top.add("addresses", addresses(&facts.addresses));
    top.add("started", time(facts.started));
    top.add("settings", format!("revision {}", report.settings_revision));
    let listeners: Vec<String> = facts.listeners.iter().map(ToString::to_string).collect();
    top.add("smtp", format!("{}, {}", listeners.join(" "), counted(facts.sessions, "session")));
    top.add(
        "mail",
        format!(
            "{} accepted, {} delivered, {} refused since the start",
            facts.accepted, facts.delivered, facts.refused
        ),
    );
    top.add("cloud", cloud(&facts.cloud));
    if !report.starting {
        top.add("recovery key", if report.keys.recovery_confirmed { "confirmed" } else { "NOT confirmed" });
    }
    out.push_str(&top.lay_out());
    if let Some(queue) = &report.queue {
        out.push('\n');
        out.push_str(&figures(queue));
    }
    for failing in &facts.failing {
        alarm(
            &mut out,
            &format!("{} fails since {}: {}", failing.destination, time(failing.since), failing.error),
            "mail for it waits and is tried again",
        );
    }
    for raised in &facts.alarms {
        alarm(&mut out, &raised.what, &raised.remedy);
    }
    if !report.keys.recovery_confirmed && report.locked.is_none() && !report.starting {
        alarm(
            &mut out,
            "nobody has confirmed the recovery key; without it this appliance's mail is lost with its TPM",
            "`postern keys recovery show` shows it once; write it down, then `postern keys recovery confirm`",
        );
    }
    out
}

fn figures(queue: &QueueFigures) -> String {
    let mut table = Table::new(&["QUEUE", "WAITING", "DELIVERING", "HELD"]);
    for of in &queue.destinations {
        table.row([of.destination.clone(), of.waiting.to_string(), of.delivering.to_string(), of.held.to_string()]);
    }
    if queue.destinations.is_empty() {
        table.row(["empty".to_owned()]);
    }
    let mut out = table.lay_out();
    let _ = writeln!(
        out,
        "{}; {} free on disk; {} of {} memory in use",
        counted(queue.messages, "message"),
        size(queue.free_bytes),
        size(queue.memory_used),
        size(queue.memory_bytes)
    );
    if queue.failed > 0 {
        alarm(
            &mut out,
            &format!("refused for good by the far end, and held: {}", queue.failed),
            "`postern queue list --state held`, then retry or delete them",
        );
    }
    if queue.set_aside > 0 {
        alarm(
            &mut out,
            &format!("{} set aside", counted(queue.set_aside, "damaged part")),
            "`postern audit verify` names them; check the disk",
        );
    }
    if queue.disk_errors > 0 {
        alarm(
            &mut out,
            &format!("{} failed", counted(queue.disk_errors, "disk call")),
            "check the disk's health and free space",
        );
    }
    if let Some(error) = &queue.index_error {
        alarm(&mut out, &format!("the queue index can't be written: {error}"), "check the disk; no mail is lost");
    }
    out
}

fn cloud(state: &CloudState) -> String {
    match state {
        CloudState::NotConfigured => "not configured; confidential mail waits".to_owned(),
        CloudState::NotEnrolled => "NOT enrolled; confidential mail waits for `postern enrol`".to_owned(),
        CloudState::Enrolled(enrolment) => enrolled(enrolment),
    }
}

fn enrolled(enrolment: &Enrolment) -> String {
    let until = enrolment.valid_until.map(|until| format!(", certificate until {}", time(until))).unwrap_or_default();
    format!("{} of {}{until}", clean(&enrolment.appliance), clean(&enrolment.tenant))
}

fn queue(report: &QueueReport, now: Timestamp) -> String {
    if report.rows.is_empty() {
        return "nothing there\n".to_owned();
    }
    let mut table = Table::new(&["ID", "STATE", "TO", "AGE", "SIZE", "TRIES", "NEXT", "FROM", "RECIPIENTS", "WHY"]);
    for row in &report.rows {
        let state = match row.state {
            RowState::Waiting => "waiting",
            RowState::Delivering => "delivering",
            RowState::Held => "held",
        };
        let next = match row.state {
            RowState::Waiting if row.due > now => format!("in {}", span(now, row.due)),
            RowState::Waiting => "now".to_owned(),
            RowState::Delivering | RowState::Held => "-".to_owned(),
        };
        let why = row.held.as_ref().map(|hold| format!("{}: {}", hold.by, hold.why)).or_else(|| row.last.clone());
        table.row([
            row.id.to_string(),
            state.to_owned(),
            row.destination.clone(),
            span(row.accepted, now),
            size(row.size),
            row.attempts.to_string(),
            next,
            sender(&row.sender),
            people(&row.recipients),
            why.unwrap_or_default(),
        ]);
    }
    let mut out = table.lay_out();
    if report.more {
        let _ = writeln!(out, "… and more; --limit shows more of them");
    }
    out
}

fn keys(facts: &KeyFacts) -> String {
    let mut out = String::new();
    if let Some(locked) = &facts.locked {
        alarm(&mut out, &format!("LOCKED since {}: {}", time(locked.since), locked.what), &locked.remedy);
    }
    let mut table = Facts::new(0);
    table.add("state", if facts.locked.is_some() { "locked" } else { "open" });
    let next = if facts.sealed { "opens by itself" } else { "will ask for the recovery key" };
    table.add("next start", next);
    table.add("recovery key", if facts.recovery_confirmed { "confirmed" } else { "NOT confirmed" });
    table.add("identity", facts.identity.as_deref().unwrap_or("none yet"));
    table.add("epoch", facts.epoch.map_or("none".to_owned(), |epoch| epoch.to_string()));
    out.push_str(&table.lay_out());
    out
}

fn unlocked(done: &Unlocked) -> String {
    let mut out = if done.resealed {
        "unlocked, and sealed anew: the next start needs no recovery key\n".to_owned()
    } else {
        "unlocked until the next start, which will ask again\n".to_owned()
    };
    if done.enrol_again {
        alarm(
            &mut out,
            "this is another TPM: confidential mail waits",
            "enrol the appliance anew with `postern enrol`",
        );
    }
    if !done.advice.is_empty() {
        let _ = writeln!(out, "{}", lines(&done.advice));
    }
    out
}

fn tested(report: &TestReport) -> String {
    let became = match report.outcome {
        TestOutcome::Delivered => "was taken by the next hop",
        TestOutcome::Waiting if report.detail.is_empty() => "is still under way",
        TestOutcome::Waiting => "was not taken yet; it waits and is tried again",
        TestOutcome::Held => "is held",
        TestOutcome::Refused => "was refused for good and is removed",
    };
    let colon = if report.detail.is_empty() { "" } else { ": " };
    format!("test message {} {became}{colon}{}\n", report.id, clean(&report.detail))
}

/// Six words a line, so that they can be written down in rows.
fn recovery(words: &str) -> String {
    let words: Vec<&str> = words.split_whitespace().collect();
    let rows: String = words.chunks(6).map(|row| format!("  {}\n", row.join(" "))).collect();
    format!(
        "{rows}\nThey are not shown again. Write them down on paper now, keep it away from this machine, then give them back \
         with\n`postern keys recovery confirm`.\n"
    )
}

fn audit(report: &AuditReport) -> String {
    let mut out = String::new();
    let ledger = &report.ledger;
    let _ = writeln!(
        out,
        "proven: {} of {}, and {}",
        ledger.proven,
        counted(ledger.expected, "audit record"),
        counted(ledger.revisions, "settings revision")
    );
    if let Some(tampering) = &ledger.tampering {
        alarm(
            &mut out,
            &tampering.to_string(),
            "find out who has been root on this machine; records before it are proven, none behind it is",
        );
    }
    for row in &report.index {
        let group = row.group.map(|group| format!(", delivery {group}")).unwrap_or_default();
        alarm(
            &mut out,
            &format!("index row of message {}{group}: {}", row.id, row.what),
            "stop the daemon, delete queue.db and start again: it is rebuilt from the sealed segments",
        );
    }
    for part in &report.set_aside {
        let message = part.message.map_or("a message that can't be told".to_owned(), |id| format!("message {id}"));
        let damage = serde_json::to_value(part.damage).unwrap_or_default();
        let lost = if part.acknowledged { "it was acknowledged" } else { "it may never have been acknowledged" };
        alarm(
            &mut out,
            &format!(
                "{message}, segment {} at byte {}: damaged {} was set aside; {lost}",
                part.segment,
                part.offset,
                damage.as_str().unwrap_or("bytes")
            ),
            "ask the sender to send it again; check the disk",
        );
    }
    if report.good {
        out.push_str("nothing was changed behind our back\n");
    }
    out
}

fn settings(report: &SettingsReport) -> String {
    let recorded = report.recorded.as_ref().map(|info| format!(", {} by {}", time(info.time), clean(&info.author)));
    format!("# revision {}{}\n{}", report.revision, recorded.unwrap_or_default(), lines(&report.toml))
}

fn applied(report: &AppliedReport) -> String {
    let mut out = String::new();
    for change in &report.changes {
        let _ = writeln!(out, "{}", clean(&change.to_string()));
    }
    if !report.recorded {
        let _ = writeln!(out, "revision {} has this text already; nothing was changed", report.revision);
    } else {
        let _ = writeln!(out, "revision {} is in force", report.revision);
    }
    if !report.after_restart.is_empty() {
        alarm(
            &mut out,
            &format!("from the next start on only: {}", report.after_restart.join(", ")),
            "restart the daemon when it suits; mail waits at the senders meanwhile",
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_names_every_finding_with_what_to_do() {
        let ledger = ledger::Report {
            proven: 6,
            expected: 9,
            revisions: 0,
            tampering: Some(ledger::Tampering::Edited { seq: 7 }),
        };
        let id = mail::MessageId::from_bytes([1; 16]);
        let row = spool::ChangedRow { id, group: Some(2), what: spool::RowChange::Columns(vec!["due".into()]) };
        let part = spool::SetAside {
            message: Some(id),
            segment: 3,
            offset: 4096,
            damage: spool::Damage::KeySlot,
            acknowledged: true,
        };
        let report = AuditReport { good: false, ledger, index: vec![row.into()], set_aside: vec![part.into()] };
        let told = audit(&report);
        for expected in [
            "proven: 6 of 9 audit records, and 0 settings revisions",
            "! audit record 7 was edited\n  → find out who",
            &format!("! index row of message {id}, delivery 2: changed: due\n  → stop the daemon"),
            &format!("! message {id}, segment 3 at byte 4096: damaged key-slot was set aside; it was acknowledged"),
        ] {
            assert!(told.contains(expected), "{expected} is missing in:\n{told}");
        }
        assert!(!told.contains("nothing was changed"), "{told}");
    }
}
