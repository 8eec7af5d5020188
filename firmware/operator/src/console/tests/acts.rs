//! What an operator does, and what is asked before it is done.

use super::*;
use crate::machine::MachineAct;

#[test]
fn what_acts_asks_who_it_is_and_goes_on_after_the_sign_in() {
    let mut console = Console::new(status());
    console.key(Key::Enter).shows("Sign in");
    console.typed("admin").key(Key::Enter).typed("planted-password").key(Key::Enter);
    assert!(!console.screen().contains("planted-password"));
    console.answer(Err(Refusal::new(Fault::Refused, "name or password is wrong", "check both")));
    console.shows("name or password is wrong").typed("other").key(Key::Enter);
    console.answer(Ok(signed_in())).shows("What do you want to do?").shows("admin");
    // The connection was lost meanwhile: the same is asked again after a new sign-in.
    console.choose("Settings");
    assert_eq!(console.requests(), [Request::SettingsShow]);
    console.answer(Err(Refusal::new(Fault::SignIn, "this needs an operator's sign-in", "sign in"))).shows("Sign in");
    console.typed("admin").key(Key::Enter).typed("x").key(Key::Enter);
    console.answer(Ok(signed_in()));
    assert_eq!(console.requests(), [Request::SettingsShow]);
}

#[test]
fn a_factory_reset_needs_its_word_and_power_needs_a_second_enter() {
    let mut console = Console::new(status());
    console.key(Key::Char('r')).shows("destroyed").typed("erase").key(Key::Enter).shows("this is not the word");
    assert!(console.requests().is_empty());
    console.key(Key::ClearLine).typed("ERASE").key(Key::Enter);
    assert_eq!(console.requests(), [Request::Machine(MachineAct::FactoryReset)]);
    let mut console = Console::new(status());
    console.key(Key::Char('p')).key(Key::Down).key(Key::Enter).shows("Press Enter to do it now");
    console.key(Key::Enter);
    assert_eq!(console.requests(), [Request::Machine(MachineAct::PowerOff)]);
}

#[test]
fn a_new_recovery_key_is_made_after_a_question_with_the_password() {
    let mut console = Console::signed_in(status());
    console.choose("make a new one");
    assert!(console.requests().is_empty(), "choosing it does nothing");
    console.shows("Make a new recovery key?").shows("the words on the old paper open");
    console.key(Key::Enter).shows("the present key holds");
    assert!(console.requests().is_empty());
    console.typed("wrong").key(Key::Enter).answer(Err(Refusal::new(
        Fault::Refused,
        "name or password is wrong",
        "check",
    )));
    console.shows("name or password is wrong").typed("right").key(Key::Enter).hides("right").answer(Ok(signed_in()));
    assert_eq!(console.requests(), [Request::RecoveryRenew]);
    console.answer(Ok(Response::RecoveryRenewed));
    assert_eq!(console.requests(), [Request::RecoveryShow]);
    console.answer(Ok(Response::Recovery { words: words() })).shows("Write these words down");
}

#[test]
fn an_unconfirmed_recovery_key_is_confirmed_from_the_menu() {
    let mut unconfirmed = status();
    unconfirmed.keys.recovery_confirmed = false;
    let mut console = Console::signed_in(unconfirmed);
    console.choose("confirm it").key(Key::Enter);
    assert_eq!(console.requests(), [Request::RecoveryShow]);
    console
        .answer(Err(Refusal::new(Fault::Refused, "it was shown already", "confirm it")))
        .typed(WORDS)
        .key(Key::Enter);
    assert_eq!(console.requests(), [Request::RecoveryConfirm { words: words() }]);
    console.answer(Ok(Response::RecoveryConfirmed)).shows("The recovery key is confirmed");
    Console::signed_in(status()).hides("confirm it");
}

#[test]
fn settings_that_were_begun_leave_the_rest_of_the_menu_open() {
    let mut console = Console::signed_in(status());
    let toml = "[host]\nname = \"postern.clinic.example\"\n".to_owned();
    let report = crate::view::SettingsReport { revision: 1, recorded: None, toml };
    console.choose("Settings").answer(Ok(Response::Settings(report))).shows("Settings 1/");
    console.key(Key::Esc).shows("go on where you were").shows("Send a test message").shows("Queue").shows("Sign out");
    console.key(Key::Esc).shows("Enter menu").key(Key::Enter).choose("go on where").shows("Settings 1/");
    console.key(Key::Esc).choose("drop what was typed").shows("ask all questions again");
}

#[test]
fn an_update_that_did_not_stay_is_told_with_its_reason_and_taken_note_of() {
    use crate::update::{OnSlot, Reason, Update, UpdateState};
    let on = |slot: &str, version: &str| OnSlot { slot: slot.into(), version: version.into() };
    let update = Update {
        state: UpdateState::FellBack,
        from: on("a", "0.1.0"),
        to: on("b", "0.2.0"),
        since: at(BEGAN - 300),
        boot: String::new(),
        reason: Some(Reason { what: "mail did not flow with it".into(), remedy: "ask for another image".into() }),
        acknowledged: false,
    };
    let report = UpdateReport { update: Some(update), ..UpdateReport::default() };
    let mut locked = status();
    locked.locked = Some(Locked { what: "the TPM is another".into(), remedy: "unlock".into(), since: at(0) });
    Console::new(locked).slots(report.clone()).shows("mail did not flow with it").shows("ask for another image");
    let mut console = Console::new(status());
    console.slots(report.clone()).shows("0.2.0 did not stay (07:55Z): mail did not flow with it");
    let mut console = Console::signed_in(status());
    console.hides("Take note").key(Key::Esc).slots(report).key(Key::Enter).choose("Take note");
    console.shows("mail did not flow with it").shows("ask for another image").key(Key::Enter);
    assert_eq!(console.requests(), [Request::UpdateAcknowledge]);
    console.answer(Ok(Response::UpdateAcknowledged)).shows("Noted.");
    assert!(console.requests().contains(&Request::UpdateStatus), "it is looked at again at once");
}

#[test]
fn a_slot_that_did_not_run_is_shown_with_its_reason_until_somebody_takes_note() {
    use crate::update::{Fallback, Reason};
    let reason = |what: &str| Reason { what: what.into(), remedy: "restart the box".into() };
    let mut report = UpdateReport::default();
    report.starts.firmware = Some(reason("it keeps no boot entries"));
    report.starts.fallback = Some(Fallback {
        slot: "a".into(),
        version: Some("0.2.0".into()),
        since: at(BEGAN - 300),
        reason: reason("slot a did not start"),
        acknowledged: false,
    });
    let mut console = Console::signed_in(status());
    console
        .key(Key::Esc)
        .slots(report.clone())
        .shows("slot a did not start (07:55Z)")
        .shows("it keeps no boot entries");
    console.key(Key::Enter).choose("Take note").shows("slot a did not start").key(Key::Enter);
    assert_eq!(console.requests(), [Request::UpdateAcknowledge]);
    report.starts.fallback.as_mut().unwrap().acknowledged = true;
    let mut console = Console::signed_in(status());
    console.key(Key::Esc).slots(report).shows("slot a did not start").key(Key::Enter).hides("Take note");
}

#[test]
fn the_queue_is_looked_at_by_next_hop_and_tried_now() {
    use crate::view::{DestinationFigures, QueueReport, QueueRow};
    let mut busy = status();
    let hop = |destination: &str, waiting| DestinationFigures {
        destination: destination.into(),
        waiting,
        delivering: 0,
        held: 0,
    };
    busy.queue.as_mut().unwrap().destinations = vec![hop("smarthost", 2), hop("cloud", 1)];
    let ids: Vec<mail::MessageId> = (0..3).map(|_| mail::MessageId::generate()).collect();
    let row = |id: usize, destination: &str| QueueRow {
        id: ids[id],
        group: 0,
        state: spool::RowState::Waiting,
        destination: destination.into(),
        sender: "a@clinic.example".into(),
        recipients: vec!["bob@partner.example".parse().unwrap()],
        size: 1,
        accepted: at(BEGAN - 7_200),
        attempts: 3,
        due: at(BEGAN + 1_800),
        held: None,
        last: Some("451 4.3.0 greylisted".into()),
    };
    let report = |rows| Ok(Response::Queue(QueueReport { rows, more: false }));
    let mut console = Console::signed_in(busy);
    console.choose("Queue").answer(report(vec![row(0, "smarthost"), row(1, "smarthost"), row(2, "cloud")]));
    console.shows("smarthost").shows("cloud").shows("2 h").key(Key::Enter);
    let of = Some(mail::Destination::Smarthost);
    assert_eq!(console.requests(), [Request::QueueList { state: None, destination: of, limit: 300 }]);
    console.answer(report(vec![row(0, "smarthost"), row(0, "smarthost"), row(1, "smarthost")]));
    console.shows("in 30 min, 3 attempts").shows("bob@partner.example").shows("451 4.3.0 greylisted");
    console.key(Key::End).key(Key::Char('r'));
    assert_eq!(console.requests(), [Request::QueueRetry { id: ids[1] }]);
    let acted = |id: usize| Ok(Response::Acted { id: ids[id], action: "queue.retry".into() });
    console.answer(acted(1)).answer(report(vec![row(0, "smarthost"), row(0, "smarthost"), row(1, "smarthost")]));
    console.shows("1 message tried now.").key(Key::Char('a'));
    assert_eq!(console.requests(), [Request::QueueRetry { id: ids[0] }]);
    console.answer(acted(0));
    assert_eq!(console.requests(), [Request::QueueRetry { id: ids[1] }], "each message once");
    console.answer(Err(Refusal::new(Fault::Refused, "an attempt is under way", "wait for it"))).answer(report(vec![]));
    console.shows("1 message tried now, 1 not: an attempt is under way").shows("Nothing waits for it");
    console.key(Key::Esc).answer(report(vec![])).key(Key::Char('r')).answer(report(vec![row(0, "smarthost")]));
    assert_eq!(console.requests(), [Request::QueueRetry { id: ids[0] }], "from the list of next hops, too");
    console.answer(acted(0)).answer(report(vec![])).key(Key::Esc).answer(report(vec![])).key(Key::Esc);
    console.shows("What do you want to do?");
}

#[test]
fn a_test_message_that_fails_says_why_and_is_sent_again() {
    use crate::view::{TestOutcome, TestReport};
    let mut console = Console::signed_in(status());
    console.choose("test message").typed("bob@partner.example").key(Key::Enter).shows("please wait");
    let detail = "550 5.7.1 relaying denied".to_owned();
    let report = TestReport { id: mail::MessageId::generate(), outcome: TestOutcome::Refused, detail };
    console.answer(Ok(Response::Tested(report))).shows("550 5.7.1 relaying denied").shows("bob@partner.example");
    console.key(Key::Enter);
    assert!(matches!(console.requests().as_slice(), [Request::TestMail { .. }]));
}

#[test]
fn an_unlocking_tells_what_is_left_to_do() {
    let mut locked = status();
    (locked.queue, locked.facts.set_up) = (None, true);
    locked.locked = Some(Locked { what: "another TPM".into(), remedy: "enter the key".into(), since: at(0) });
    let mut console = Console::new(locked);
    console.key(Key::Enter).typed(WORDS).key(Key::Enter);
    let advice = "the data partition needs the recovery key at the next start too".to_owned();
    console.answer(Ok(Response::Unlocked(crate::Unlocked { resealed: true, enrol_again: true, advice })));
    console.shows("sealed anew").shows("enrol with the cloud service again").shows("the data partition needs");
}

#[test]
fn a_daemon_that_starts_is_neither_locked_nor_to_be_set_up() {
    let mut starting = status();
    (starting.starting, starting.queue, starting.facts.set_up) = (true, None, false);
    let mut console = Console::new(starting);
    assert_screen(&console, "board-starting.txt");
    console.key(Key::Enter).hides("LOCKED").hides("Name and address").shows("P power");
    console.becomes(2, status()).shows("mail flows");
}

#[test]
fn settings_that_somebody_else_changed_meanwhile_are_not_taken_back_unseen() {
    let mut console = Console::signed_in(status());
    let toml = "[host]\nname = \"postern.clinic.example\"\n[relay]\nsmarthost = \"192.0.2.30:25\"\n[intake]\nnetworks =                 [\"192.0.2.20\"]\n[[operators]]\nname = \"admin\"\nrole = \"administrator\"\npassword = \"unchanged\"\n";
    let report = crate::view::SettingsReport { revision: 1, recorded: None, toml: toml.into() };
    console.choose("Settings").answer(Ok(Response::Settings(report)));
    for _ in 0..5 {
        console.key(Key::PageDown);
    }
    console.shows("Summary").hides("changed meanwhile");
    let mut changed = status();
    changed.settings_revision = 2;
    console.becomes(2, changed).shows("revision 2 is in force").shows("applying this takes that back");
}
