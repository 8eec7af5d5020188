//! A message's life as lines.
//!
//! Job: show on one page what came in, what was decided and why, what is left to do, and what happened. Place: the
//! last step of `message show`. Invariants: findings stand as policy masked them; all text from outside goes through the
//! table's cleaning. A crash leaves nothing behind.

use super::{
    form::{action, sender, size, time},
    print::{Facts, alarm},
    table::Table,
};
use crate::view::{Accepted, Delivery, MessageLife};
use serde_json::json;

pub(super) fn message(life: &MessageLife) -> String {
    let mut out = format!("message {}\n", life.id);
    match &life.accepted {
        Some(acceptance) => accepted(&mut out, acceptance, life.size),
        None if life.events.is_empty() => out.push_str("  the spool does not know it any more\n"),
        None if life.deliveries.is_empty() => {
            out.push_str("  its key is destroyed: what was accepted can't be read any more\n")
        }
        None => {
            alarm(&mut out, "what was accepted can't be opened", "`postern audit verify` says what is damaged");
        }
    }
    if !life.deliveries.is_empty() {
        out.push_str("\nto be delivered\n");
        out.push_str(&deliveries(&life.deliveries));
    }
    if !life.events.is_empty() {
        out.push_str(&events(life));
    }
    if !life.audit.is_empty() {
        out.push_str("\nwhat operators did\n");
        let mut table = Table::new(&[]).indented(2);
        for record in &life.audit {
            let detail = if record.detail == json!({}) { String::new() } else { record.detail.to_string() };
            table.row([time(record.time), record.actor.clone(), record.action.clone(), detail]);
        }
        out.push_str(&table.lay_out());
    }
    out
}

fn events(life: &MessageLife) -> String {
    let mut table = Table::new(&[]).indented(2);
    for event in &life.events {
        let until = event.until.map(|until| format!(" (again at {})", time(until))).unwrap_or_default();
        table.row([
            time(event.at),
            event.what.clone(),
            event.recipients.join(", "),
            format!("{}{until}", event.detail.as_deref().unwrap_or_default()),
        ]);
    }
    let finished = if life.deliveries.is_empty() { "finished: nothing is left to deliver\n" } else { "" };
    format!("\nwhat happened\n{}{finished}", table.lay_out())
}

fn accepted(out: &mut String, acceptance: &Accepted, octets: u64) {
    let client = &acceptance.client;
    let protocol = if client.esmtp { "ESMTP" } else { "SMTP" };
    let tls = client.tls.as_deref().unwrap_or("without TLS");
    let mut facts = Facts::new(2);
    facts.add("accepted", time(acceptance.at));
    facts.add("client", format!("{} as {} ({protocol}, {tls})", client.ip, client.helo));
    facts.add("from", sender(&acceptance.sender));
    facts.add("size", size(octets));
    facts.add("judged by", format!("settings revision {}", acceptance.settings_revision));
    if let Some(why) = &acceptance.undecidable {
        facts.add("undecidable", why);
    }
    for tag in &acceptance.tags {
        facts.add("added", tag);
    }
    out.push_str(&facts.lay_out());

    out.push_str("\nverdict\n");
    let mut table = Table::new(&[]).indented(2);
    for decision in &acceptance.recipients {
        let rule = decision.rule.as_ref().map_or("no rule matched".to_owned(), |rule| format!("rule \"{rule}\""));
        table.row([action(decision.action).to_owned(), decision.address.to_string(), rule]);
    }
    out.push_str(&table.lay_out());
    if !acceptance.matches.is_empty() {
        out.push_str("\nrules that matched\n");
        let mut table = Table::new(&[]).indented(2);
        for matched in &acceptance.matches {
            table.row([matched.rule.clone(), matched.action.map_or("tag", action).to_owned(), matched.because.clone()]);
        }
        out.push_str(&table.lay_out());
    }
    if !acceptance.findings.is_empty() {
        out.push_str("\nfindings\n");
        let mut table = Table::new(&[]).indented(2);
        for finding in &acceptance.findings {
            table.row([
                finding.detector.clone(),
                format!("{:.2}", finding.score),
                format!("part {}", finding.part),
                finding.sample.clone(),
            ]);
        }
        out.push_str(&table.lay_out());
    }
}

fn deliveries(deliveries: &[Delivery]) -> String {
    let mut table = Table::new(&["TO", "TRIES", "NOT BEFORE", "RECIPIENTS", "WHY"]).indented(2);
    for delivery in deliveries {
        let why = delivery.held.as_ref().map(|hold| format!("held by {}: {}", hold.by, hold.why));
        table.row([
            delivery.destination.clone(),
            delivery.attempts.to_string(),
            time(delivery.due),
            delivery.recipients.join(", "),
            why.or_else(|| delivery.last.clone()).unwrap_or_default(),
        ]);
    }
    table.lay_out()
}
