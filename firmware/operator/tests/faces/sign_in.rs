//! Who may do what: before the first operator, without a sign-in, and with one.

use crate::bench::{Bench, SETTINGS, WORDS};
use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, SaltString},
};
use operator::{Caller, Fault, Operator, Refusal, Request, Response, Secret, view::TestOutcome};
use std::sync::Arc;
use zeroize::Zeroizing;

const PASSWORD: &str = "right-password-of-anna";

fn secret(text: &str) -> Secret {
    Secret::new(Zeroizing::new(text.to_owned()))
}

fn sign_in(name: &str, password: &str) -> Request {
    Request::SignIn { name: name.to_owned(), password: secret(password) }
}

/// The console's user, which is neither root nor the daemon.
fn console() -> Caller {
    Caller::new("postern-console (uid 991)".to_owned(), false)
}

fn with_anna() -> String {
    // As cheap as settings allow.
    let cheap = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8_192, 1, 1, None).unwrap());
    let salt = SaltString::encode_b64(b"some salt of 16b").unwrap();
    let hash = cheap.hash_password(PASSWORD.as_bytes(), &salt).unwrap();
    format!("{SETTINGS}[[operators]]\nname = 'anna'\nrole = 'administrator'\npassword = '{hash}'\n")
}

#[track_caller]
fn refused(result: Result<Response, Refusal>, fault: Fault) -> Refusal {
    let refusal = result.unwrap_err();
    assert_eq!(refusal.fault, fault, "{refusal}");
    refusal
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_appliance_is_set_up_by_whoever_stands_before_it_and_then_asks_for_a_password() {
    let bench = Bench::start();
    bench.forget_settings();
    let (operator, mut console) = (Operator::new(Arc::clone(&bench.appliance)), console());
    let Response::Status(status) = operator.ask(&mut console, Request::Status).await.unwrap() else { panic!() };
    assert!(!status.facts.set_up && status.locked.is_none() && status.queue.is_none(), "{status:?}");
    refused(operator.ask(&mut console, Request::SettingsShow).await, Fault::NotSetUp);
    let list = Request::QueueList { state: None, destination: None, limit: 1 };
    refused(operator.ask(&mut console, list.clone()).await, Fault::SignIn);

    operator.ask(&mut console, Request::RecoveryShow).await.unwrap();
    operator.ask(&mut console, Request::RecoveryConfirm { words: secret(WORDS) }).await.unwrap();
    let apply = Request::SettingsApply { text: with_anna() };
    let Response::Applied(applied) = operator.ask(&mut console, apply.clone()).await.unwrap() else { panic!() };
    assert_eq!((applied.revision, applied.changes.as_slice()), (1, &[][..]));

    refused(operator.ask(&mut console, apply.clone()).await, Fault::SignIn);
    refused(operator.ask(&mut console, Request::RecoveryRenew).await, Fault::SignIn);
    operator.ask(&mut console, sign_in("anna", PASSWORD)).await.unwrap();
    operator.ask(&mut console, apply).await.unwrap();
    operator.ask(&mut console, list.clone()).await.unwrap();
    operator.ask(&mut console, Request::SignOut).await.unwrap();
    refused(operator.ask(&mut console, list).await, Fault::SignIn);

    let recorded = bench.recorded();
    assert!(recorded.contains(&("sign_in".into(), "anna".into())), "{recorded:?}");
    let actors: Vec<String> = bench.records().into_iter().map(|record| record.actor).collect();
    assert!(actors.iter().any(|actor| actor.starts_with("postern-console")), "{actors:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_name_is_told_what_a_wrong_password_is_and_both_make_the_next_wait() {
    let bench = Bench::start();
    let file = bench.file("settings.toml", &with_anna());
    bench.ask(&["settings", "apply", &file], "").await.good();
    let operator = Operator::new(Arc::clone(&bench.appliance));
    let wrong = refused(operator.ask(&mut console(), sign_in("anna", "planted-guess")).await, Fault::Refused);
    let unknown = refused(operator.ask(&mut console(), sign_in("planted-guess", PASSWORD)).await, Fault::Refused);
    assert_eq!(wrong, unknown);
    for _ in 0..2 {
        refused(operator.ask(&mut console(), sign_in("anna", "")).await, Fault::Refused);
    }
    let waits = refused(operator.ask(&mut console(), sign_in("anna", PASSWORD)).await, Fault::Refused);
    assert!(waits.what.contains("not looked at") && waits.remedy.contains("wait"), "{waits}");
    tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
    operator.ask(&mut console(), sign_in("anna", PASSWORD)).await.unwrap();
    let records = bench.records();
    let refusals: Vec<_> = records.iter().filter(|record| record.action == "sign_in.refused").collect();
    assert_eq!(refusals.len(), 4, "{refusals:?}");
    assert!(!format!("{records:?}").contains("planted-guess"), "a password typed as a name stays out: {records:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_appliance_takes_the_recovery_key_and_nothing_else_from_the_console() {
    let bench = Bench::start();
    bench.lock();
    let (operator, mut console) = (Operator::new(Arc::clone(&bench.appliance)), console());
    refused(operator.ask(&mut console, Request::SettingsApply { text: SETTINGS.into() }).await, Fault::SignIn);
    refused(operator.ask(&mut console, Request::RecoveryShow).await, Fault::SignIn);
    refused(operator.ask(&mut console, sign_in("anna", PASSWORD)).await, Fault::Locked);
    operator.ask(&mut console, Request::Status).await.unwrap();
    operator.ask(&mut console, Request::KeysUnlock { words: secret(WORDS) }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_shown_without_hashes_are_given_back_and_the_last_operator_can_not_be_removed() {
    let bench = Bench::start();
    let file = bench.file("settings.toml", &with_anna());
    bench.ask(&["settings", "apply", &file], "").await.good();
    let shown = bench.ask(&["settings", "show"], "").await.good();
    assert!(shown.contains("\"unchanged\"") && !shown.contains("argon2id"), "{shown}");
    let other = bench.file("other.toml", &shown.replace("mx.example.net", "mx2.example.net"));
    let applied = bench.ask(&["settings", "apply", &other], "").await.good();
    assert!(applied.contains("mx2.example.net") && !applied.contains("password"), "{applied}");
    Operator::new(Arc::clone(&bench.appliance)).ask(&mut console(), sign_in("anna", PASSWORD)).await.unwrap();
    let none = bench.file("none.toml", SETTINGS);
    let told = bench.ask(&["settings", "apply", &none], "").await.refused();
    assert!(told.contains("no operator any more"), "{told}");
    let stranger = bench.file("new.toml", &shown.replace("anna", "bert"));
    let told = bench.ask(&["settings", "apply", &stranger], "").await.refused();
    assert!(told.contains("bert is new and has no password"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_message_is_told_to_be_delivered_waiting_or_refused_and_a_refused_one_leaves_nothing() {
    let bench = Bench::start();
    for (recipient, outcome, detail) in [
        ("taken@example.org", TestOutcome::Delivered, "taken as 1"),
        ("later@example.org", TestOutcome::Waiting, "come back later"),
        ("nobody@example.org", TestOutcome::Refused, "nobody of this name"),
    ] {
        let told = bench.ask(&["test-mail", recipient, "--json"], "").await;
        let report: operator::view::TestReport = serde_json::from_value(told.json()).unwrap();
        assert_eq!(report.outcome, outcome, "{report:?}");
        assert!(report.detail.contains(detail), "{report:?}");
    }
    assert_eq!(bench.spool().stats().messages, 1, "only the one that waits is still there");
    assert!(bench.recorded().iter().any(|(action, _)| action == "test_mail"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_goes_where_the_ledger_takes_nothing_and_what_changes_anything_does_not() {
    let bench = Bench::start();
    let (operator, mut console) = (Operator::new(Arc::clone(&bench.appliance)), console());
    bench.forget_settings();
    operator.ask(&mut console, Request::SettingsApply { text: with_anna() }).await.unwrap();
    bench.break_ledger();
    refused(operator.ask(&mut console, sign_in("anna", "wrong")).await, Fault::Refused);
    let answer = operator.ask(&mut console, sign_in("anna", PASSWORD)).await.unwrap();
    let Response::SignedIn { name, unrecorded: Some(why) } = answer else { panic!("{answer:?}") };
    assert!(name == "anna" && !why.remedy.is_empty(), "{why}");
    refused(operator.ask(&mut console, Request::RecoveryRenew).await, Fault::Failed);
    refused(
        operator.ask(&mut console, Request::SettingsApply { text: with_anna().replace("anna'", "emma'") }).await,
        Fault::Failed,
    );
}
