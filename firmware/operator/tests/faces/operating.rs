//! What operators do, through the command line, the socket, a real spool and a real ledger.

use crate::bench::{Bench, CODE, SETTINGS, WORDS, run};
use jiff::Timestamp;
use mail::{Destination, Outcome, RecipientOutcome, Reply};
use serde_json::{Value, json};
use spool::Settlement;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_found_held_released_tried_again_and_deleted_and_each_act_is_recorded() {
    let bench = Bench::start();
    let id = bench.accept().await.to_string();

    let list = bench.ask(&["queue", "list"], "").await.good();
    let rows: Vec<&str> = list.lines().collect();
    assert_eq!(rows.len(), 3, "{list}");
    assert!(rows[0].starts_with("ID ") && rows[0].contains("RECIPIENTS"), "{list}");
    assert!(rows[1..].iter().all(|row| row.starts_with(&id) && row.contains("waiting")), "{list}");
    assert!(list.contains("friend@example.net") && list.contains("patient@example.com"), "full addresses: {list}");
    let only = bench.ask(&["queue", "list", "--to", "cloud"], "").await.good();
    assert!(only.contains("patient@example.com") && !only.contains("friend@"), "{only}");

    let held = bench.ask(&["queue", "hold", &id, "--why", "asked for by the sender"], "").await.good();
    assert_eq!(held, format!("{id} is held\n"));
    let list = bench.ask(&["queue", "list", "--state", "held"], "").await.good();
    assert_eq!(list.matches("operator: asked for by the sender").count(), 2, "{list}");
    assert!(bench.spool().claim(Timestamp::now()).is_none(), "nothing of it may leave");

    assert_eq!(bench.ask(&["queue", "release", &id], "").await.good(), format!("{id} goes on\n"));
    assert_eq!(bench.ask(&["queue", "retry", &id], "").await.good(), format!("{id} is tried again now\n"));
    assert_eq!(bench.resumed(), ["smarthost", "cloud"], "an operator's retry does not wait for a pause to end");
    let shown = bench.ask(&["queue", "show", &id], "").await.good();
    assert_eq!(shown.matches("waiting").count(), 2, "{shown}");
    bench.ask(&["queue", "delete", &id], "").await.good();
    assert_eq!(bench.ask(&["queue", "list"], "").await.good(), "nothing there\n");
    let life = bench.ask(&["message", "show", &id], "").await.good();
    assert!(life.contains("queue.delete") && life.contains("asked for by the sender"), "{life}");

    let acts = bench.recorded();
    let expected =
        ["queue.hold", "queue.release", "queue.retry", "queue.delete"].map(|act| (act.to_owned(), id.clone()));
    assert_eq!(acts, expected);
    let record = &bench.records()[0];
    assert!(record.actor.contains("(uid ") || record.actor.starts_with("uid "), "{}", record.actor);
    assert_eq!(record.detail, json!({ "why": "asked for by the sender" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_act_that_is_refused_is_recorded_as_refused() {
    let bench = Bench::start();
    let nobody = mail::MessageId::generate().to_string();
    let told = bench.ask(&["queue", "delete", &nobody], "").await.refused();
    assert!(told.contains("there is no message") && told.contains("→"), "{told}");
    let acts: Vec<String> = bench.recorded().into_iter().map(|(action, _)| action).collect();
    assert_eq!(acts, ["queue.delete", "queue.delete.refused"]);
    let life = bench.ask(&["message", "show", &nobody], "").await.good();
    assert!(life.contains("the spool does not know it any more") && life.contains("queue.delete.refused"), "{life}");
    let other = mail::MessageId::generate().to_string();
    assert!(bench.ask(&["message", "show", &other], "").await.refused().contains("there is no message"));
    let shown = bench.ask(&["queue", "show", &nobody], "").await.refused();
    assert!(shown.contains("postern queue list"), "{shown}");
    bench.ask(&["queue", "hold", &nobody, "--why", "two\nlines"], "").await.refused();
    assert_eq!(bench.recorded().len(), 2, "a request that makes no sense is not an act");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_shows_its_whole_life_with_findings_masked_and_hostile_replies_tamed() {
    let bench = Bench::start();
    let id = bench.accept().await.to_string();
    let claim = bench.spool().claim_from(Timestamp::now(), |to| *to == Destination::Smarthost).unwrap();
    let reply = Reply::plain(451, "later\u{1b}[2J");
    let outcomes = vec![RecipientOutcome { recipient: 0, outcome: Outcome::Deferred(reply) }];
    let retry_at = Some(Timestamp::now() + Duration::from_secs(600));
    bench.spool().settle(claim, Settlement { outcomes, retry_at }).await.unwrap();
    let claim = bench.spool().claim_from(Timestamp::now(), |to| *to == Destination::Cloud).unwrap();
    let outcomes = vec![RecipientOutcome { recipient: 1, outcome: Outcome::Delivered(Reply::plain(250, "stored")) }];
    bench.spool().settle(claim, Settlement { outcomes, retry_at: None }).await.unwrap();
    bench.ask(&["queue", "retry", &id], "").await.good();

    let life = bench.ask(&["message", "show", &id], "").await.good();
    for expected in [
        "192.0.2.10 as mail.clinic.example (ESMTP, without TLS)",
        "doctor@clinic.example",
        "settings revision 3",
        "secure  patient@example.com  rule \"Patients\"",
        "us_ssn  0.85  part 1  ***-**-1123",
        "accepted",
        "delivered  patient@example.com",
        "250 stored",
        "deferred   friend@example.net",
        "queue.retry",
    ] {
        assert!(life.contains(expected), "{expected} is missing in:\n{life}");
    }
    assert!(!life.contains('\u{1b}') && life.contains("later\u{fffd}[2J"), "{life:?}");
    assert!(!life.contains("planted-content"), "content is shown: {life}");

    let json = bench.ask(&["message", "show", &id, "--json"], "").await.json();
    assert_eq!(json["accepted"]["recipients"][1]["action"], "secure");
    assert_eq!(json["deliveries"].as_array().unwrap().len(), 1);
    assert_eq!(json["audit"][0]["action"], "queue.retry");
    let whats: Vec<&str> = json["events"].as_array().unwrap().iter().map(|e| e["what"].as_str().unwrap()).collect();
    assert_eq!(whats, ["accepted", "deferred", "delivered", "retried"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_state_queue_and_what_needs_an_act() {
    let bench = Bench::start();
    bench.accept().await;
    let status = bench.ask(&["status"], "").await.good();
    for expected in [
        "host          postern.example.org",
        "development keys",
        "state         open",
        "127.0.0.1:25, 3 sessions",
        "NOT enrolled; confidential mail waits",
        "cloud      1",
        "smarthost  1",
        "1 message;",
        "! nobody has confirmed the recovery key",
    ] {
        assert!(status.contains(expected), "{expected} is missing in:\n{status}");
    }
    let json = bench.ask(&["--json", "status"], "").await.json();
    assert_eq!((&json["locked"], &json["queue"]["messages"]), (&Value::Null, &json!(1)));
    assert_eq!(json["facts"]["cloud"]["state"], "not_enrolled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_appliance_answers_about_status_and_keys_only_and_says_why() {
    let bench = Bench::start();
    let id = bench.accept().await.to_string();
    bench.lock();
    let file = bench.file("settings.toml", SETTINGS);
    for command in [
        &["queue", "list"][..],
        &["queue", "show", &id],
        &["queue", "delete", &id],
        &["message", "show", &id],
        &["audit", "verify"],
        &["settings", "show"],
        &["settings", "apply", &file],
        &["keys", "recovery", "show"],
    ] {
        let told = bench.ask(command, "").await.refused();
        assert!(told.contains("the appliance is locked: PCR 12 is not zero"), "{command:?}: {told}");
        assert!(told.contains("→ start without the added command line"), "{command:?}: {told}");
    }
    let status = bench.ask(&["status"], "").await.good();
    assert!(status.starts_with("! LOCKED since ") && status.contains("state         locked"), "{status}");
    let keys = bench.ask(&["keys", "status", "--json"], "").await.json();
    assert_eq!(keys["locked"]["what"], "PCR 12 is not zero");
    let json = bench.ask(&["queue", "list", "--json"], "").await;
    assert_eq!((json.status, &json.json()["error"]["fault"]), (1, &json!("locked")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recovery_key_unlocks_and_every_attempt_is_recorded_once_the_ledger_is_open() {
    let bench = Bench::start();
    bench.lock();
    let told = bench.ask(&["keys", "unlock"], "wrong words\n").await.refused();
    assert!(told.contains("not the words"), "{told}");
    bench.ask(&["keys", "unlock"], "").await.refused();
    assert_eq!(bench.recorded(), [], "the ledger is locked");

    let told = bench.ask(&["keys", "unlock"], &format!("  {WORDS}\n")).await.good();
    assert!(told.contains("sealed anew"), "{told}");
    let outcomes: Vec<Value> = bench.records().into_iter().map(|record| record.detail["outcome"].clone()).collect();
    assert_eq!(outcomes, ["refused: these are not the words of the recovery key", "unlocked and sealed anew"]);
    assert_eq!(bench.ask(&["queue", "list"], "").await.good(), "nothing there\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_made_while_locked_are_recorded_also_when_it_opens_by_itself() {
    let bench = Bench::start();
    bench.lock();
    for _ in 0..70 {
        bench.ask(&["keys", "unlock"], "wrong words").await.refused();
    }
    bench.open_by_itself();
    bench.ask(&["keys", "recovery", "show"], "").await.good();
    let records = bench.records();
    let attempts = records.iter().filter(|r| r.detail["outcome"].as_str().is_some_and(|o| o.starts_with("refused")));
    assert_eq!(attempts.count(), 64, "a bounded number is kept");
    let counted = records.iter().find(|record| record.detail["count"] == 6);
    assert_eq!(counted.map(|record| record.seq), Some(65), "the rest is counted, before the next act");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recovery_key_is_shown_once_and_asked_back() {
    let bench = Bench::start();
    let shown = bench.ask(&["keys", "recovery", "show"], "").await.good();
    assert!(shown.starts_with("  planted words of the recovery key\n"), "six a line: {shown}");
    bench.ask(&["keys", "recovery", "confirm"], "planted words\n").await.refused();
    let told = bench.ask(&["keys", "recovery", "confirm"], WORDS).await.good();
    assert!(told.contains("confirmed"), "{told}");
    assert!(bench.ask(&["keys", "recovery", "show"], "").await.refused().contains("paper"));
    assert!(bench.ask(&["keys", "status"], "").await.good().contains("recovery key  confirmed"));
    let renewed = bench.ask(&["keys", "recovery", "renew"], "").await.good();
    assert!(renewed.contains("old words open nothing") && renewed.contains("→"), "{renewed}");
    assert!(bench.ask(&["keys", "status"], "").await.good().contains("recovery key  NOT confirmed"));
    bench.ask(&["keys", "recovery", "show"], "").await.good();
    assert!(bench.recorded().iter().any(|(action, _)| action == "keys.recovery.renew"));
}

#[tokio::test(flavor = "multi_thread")]
async fn enrolment_takes_its_code_from_standard_input() {
    let bench = Bench::start();
    assert!(bench.ask(&["enrol"], "guess").await.refused().contains("ask for a new one"));
    assert_eq!(bench.ask(&["enrol"], &format!("{CODE}\n")).await.good(), "enrolled: box-1 of Example Clinic\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_found_in_the_audit_chain() {
    let bench = Bench::start();
    bench.ask(&["enrol"], CODE).await.good();
    bench.ask(&["keys", "recovery", "show"], "").await.good();
    bench.ask(&["keys", "recovery", "confirm"], WORDS).await.good();
    bench.ask(&["keys", "unlock"], WORDS).await.good();
    let records = serde_json::to_string(&bench.records()).unwrap();
    assert!(records.contains("enrol") && !records.contains("planted"), "{records}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_applied_as_a_revision_with_what_changed() {
    let bench = Bench::start();
    let first = bench.file("first.toml", SETTINGS);
    let told = bench.ask(&["settings", "apply", &first], "").await.good();
    assert_eq!(told, "revision 1 is in force\n");
    let again = bench.ask(&["settings", "apply", &first], "").await.good();
    assert!(again.contains("revision 1 has this text already; nothing was changed"), "{again}");

    let changed = format!("{}intake.listen = ['127.0.0.1:2525']\n", SETTINGS.replace("mx.", "mx2."));
    let told = bench.ask(&["settings", "apply", "-"], &changed).await.good();
    assert!(told.contains("relay.smarthost: \"mx.example.net:25\" → \"mx2.example.net:25\""), "{told}");
    assert!(told.contains("revision 2 is in force"), "{told}");
    assert!(told.contains("from the next start on only: intake.listen"), "{told}");

    let shown = bench.ask(&["settings", "show"], "").await.good();
    assert!(shown.starts_with("# revision 2, "), "{shown}");
    let checked = run(&["check", &bench.file("shown.toml", &shown)], "").good();
    assert!(checked.ends_with("shown.toml: good\n"), "{checked}");
    let json = bench.ask(&["settings", "show", "--json"], "").await.json();
    assert_eq!((&json["revision"], &json["recorded"]["n"]), (&json!(2), &json!(2)));

    let records = bench.records();
    let commits: Vec<&str> = records.iter().map(|record| record.subject.as_str()).collect();
    assert_eq!(commits, ["revision 1", "revision 2"]);
    assert_eq!(records[1].detail["changes"][0]["path"], "intake.listen");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_settings_are_refused_with_every_error_and_change_nothing() {
    let bench = Bench::start();
    let bad = bench.file("bad.toml", "[host]\nname = 'x'\n[intake]\nnetworks = ['0.0.0.0/0']\n[relay]\nsmart = 1\n");
    let told = bench.ask(&["settings", "apply", &bad], "").await.refused();
    for expected in ["4 errors", "line 2: host.name", "line 4: intake.networks[0]", "relay: smarthost is missing"] {
        assert!(told.contains(expected), "{expected} is missing in:\n{told}");
    }
    let json = bench.ask(&["settings", "apply", &bad, "--json"], "").await.json();
    assert_eq!(json["error"]["problems"].as_array().unwrap().len(), 4);

    let unreadable = bench.file("ca.toml", &format!("{SETTINGS}relay.ca = '/nowhere/ca.pem'\n"));
    assert!(bench.ask(&["settings", "apply", &unreadable], "").await.refused().contains("/nowhere/ca.pem"));
    let acts: Vec<String> = bench.recorded().into_iter().map(|(action, _)| action).collect();
    assert_eq!(acts, ["settings.apply.refused"; 3]);
    assert!(bench.ask(&["settings", "show"], "").await.good().starts_with("# revision 0\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_that_finds_nothing_says_so() {
    let bench = Bench::start();
    let id = bench.accept().await.to_string();
    bench.ask(&["queue", "hold", &id], "").await.good();
    let told = bench.ask(&["audit", "verify"], "").await.good();
    assert_eq!(told, "proven: 1 of 1 audit record, and 0 settings revisions\nnothing was changed behind our back\n");
    assert_eq!(bench.ask(&["audit", "verify", "--json"], "").await.json()["good"], true);
}
