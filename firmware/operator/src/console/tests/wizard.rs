//! The first questions.

use super::*;

pub const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// A new box, with the wizard on the page of the administrator.
pub fn at_the_administrator() -> Console {
    let mut new = status();
    (new.facts.set_up, new.facts.administrator, new.queue) = (false, false, None);
    new.facts.host.clear();
    new.keys.recovery_confirmed = false;
    let mut console = Console::new(new);
    console.shows("no settings yet").key(Key::Enter);
    console.typed("postern.clinic.example").key(Key::PageDown).key(Key::PageDown).shows("Mail");
    console.typed("192.0.2.30:25").key(Key::Enter).typed("clinic.example").key(Key::Enter);
    console.typed("192.0.2.20:25").key(Key::Enter).shows("192.0.2.20");
    console.key(Key::PageDown).key(Key::PageDown).shows("Administrator");
    console
}

/// Before the words are shown.
pub fn at_the_recovery_key() -> Console {
    let mut console = at_the_administrator();
    console
        .key(Key::Enter)
        .typed("plum tree in the yard")
        .key(Key::Enter)
        .typed("plum tree in the yard")
        .key(Key::Enter);
    console.event(Event::Hashed(Some(HASH.into()))).shows("Recovery key");
    console
}

/// With the words confirmed.
pub fn at_the_summary() -> Console {
    let mut console = at_the_recovery_key();
    console.key(Key::Enter).answer(Ok(Response::Recovery { words: words() })).key(Key::Enter);
    type_back(&mut console);
    console.answer(Ok(Response::RecoveryConfirmed)).shows("Summary");
    console
}

pub fn applied() -> Response {
    Response::Applied(AppliedReport { revision: 1, recorded: true, changes: vec![], after_restart: vec![] })
}

/// Types the words that are asked back.
fn type_back(console: &mut Console) {
    let all: Vec<&str> = WORDS.split_whitespace().collect();
    let screen = console.screen();
    let numbers = screen.lines().filter_map(|line| line.trim().strip_prefix("Word ")?.parse::<usize>().ok());
    for number in numbers {
        console.typed(all[number - 1]).key(Key::Enter);
    }
}

/// Every page of the wizard.
pub fn pages() -> Vec<(&'static str, Console)> {
    let mut new = status();
    (new.facts.set_up, new.facts.administrator, new.queue) = (false, false, None);
    new.keys.recovery_confirmed = false;
    let mut first = Console::new(new);
    let board = Console { state: first.state.clone(), asked: vec![] };
    first.key(Key::Enter).typed("x").key(Key::PageDown);
    let (administrator, before) = (at_the_administrator(), at_the_recovery_key());
    let mut shown = at_the_recovery_key();
    shown.key(Key::Enter).answer(Ok(Response::Recovery { words: words() }));
    let mut asked = Console { state: shown.state.clone(), asked: vec![] };
    asked.key(Key::Enter);
    let mut covered = Console { state: shown.state.clone(), asked: vec![] };
    covered.at(130);
    let mut paper = at_the_recovery_key();
    paper.key(Key::Enter).answer(Err(Refusal::new(Fault::Refused, "it was shown", "confirm it"))).typed(WORDS);
    let mut anew = Console { state: paper.state.clone(), asked: vec![] };
    anew.key(Key::New);
    let mut failed = at_the_summary();
    failed.key(Key::Enter);
    let under_way = Console { state: failed.state.clone(), asked: vec![] };
    failed.answer(Err(Refusal::new(Fault::Failed, "the address can't be applied: ".repeat(8), "try again")));
    let mut test = at_the_summary();
    test.key(Key::Enter).answer(Ok(applied()));
    vec![
        ("new", board),
        ("network", first),
        ("administrator", administrator),
        ("recovery key", before),
        ("words", shown),
        ("asked back", asked),
        ("covered", covered),
        ("from paper", paper),
        ("anew", anew),
        ("applying", under_way),
        ("failed", failed),
        ("summary", at_the_summary()),
        ("test", test),
    ]
}

#[test]
fn the_first_questions_end_with_settings_a_sign_in_and_a_test() {
    let mut console = at_the_administrator();
    console.key(Key::Enter).typed("plum tree in the yard").key(Key::Enter).typed("plum tree in the yard");
    assert_screen(&console, "wizard-administrator.txt");
    console.key(Key::Enter);
    assert!(matches!(console.asked.as_slice(), [Effect::Hash(_)]), "{:?}", console.asked);
    console.event(Event::Hashed(Some(HASH.into())));
    console.shows("Recovery key").key(Key::Enter);
    console.answer(Ok(Response::Recovery { words: words() }));
    assert_screen(&console, "wizard-recovery-key.txt");
    console.key(Key::Enter).shows("Type these words");
    type_back(&mut console);
    console.answer(Ok(Response::RecoveryConfirmed));
    assert_screen(&console, "wizard-summary.txt");
    console.key(Key::Enter);
    let asked = console.requests();
    let [Request::SettingsApply { text }] = asked.as_slice() else { panic!("{asked:?}") };
    let settings = settings::parse(text).unwrap();
    assert_eq!((settings.operators.len(), settings.internal.len()), (1, 1));
    console.answer(Ok(applied())).shows("Test message");
    console.typed("bob@partner.example").key(Key::Enter);
    // There is an operator now; the wizard knows the password.
    console.answer(Err(Refusal::new(Fault::SignIn, "this needs an operator's sign-in", "sign in")));
    let asked = console.requests();
    assert!(matches!(asked.as_slice(), [Request::SignIn { .. }, Request::TestMail { .. }]), "{asked:?}");
}

#[test]
fn an_error_of_the_daemon_stands_beside_its_field_and_nothing_typed_is_lost() {
    let mut console = at_the_administrator();
    console.key(Key::Enter).typed("plum tree in the yard").key(Key::Enter).typed("another tree in the yard");
    console.key(Key::Enter).shows("the two differ").shows("type the same password twice");
    console
        .key(Key::Esc)
        .key(Key::Esc)
        .shows("192.0.2.30:25")
        .key(Key::Esc)
        .key(Key::Esc)
        .shows("postern.clinic.example");
    console.key(Key::Esc).shows("Enter go on setting up").key(Key::Enter).shows("postern.clinic.example");
    console.event(Event::Tick(at(BEGAN + 2), Duration::from_secs(2)));
    console.event(Event::Answer(Lane::Look, Err(gone())));
    console.shows("no answer from the service since 08:00Z").shows("postern.clinic.example").shows("Enter go on");
    console.at(4).hides("no answer").shows("Enter go on");
}

/// A box whose cloud is configured, at the page of the one-time code.
fn at_the_enrolment() -> Console {
    let mut console = at_the_summary();
    for _ in 0..3 {
        console.key(Key::Esc);
    }
    console.shows("Cloud service").typed("https://cloud.example.net").key(Key::PageDown).shows("Administrator");
    console.key(Key::PageDown);
    console.event(Event::Hashed(Some(HASH.into()))).shows("The recovery key is confirmed").key(Key::Enter);
    console.shows("Enrolment");
    console
}

#[test]
fn a_cloud_that_is_away_at_the_enrolment_is_tried_again_or_left_for_later() {
    let mut console = at_the_enrolment();
    console.typed("1234-5678").key(Key::Enter).shows("with the code that was typed").key(Key::Enter);
    console.answer(Ok(applied()));
    assert!(matches!(console.requests().as_slice(), [Request::Enrol { .. }]));
    let away = || Err(Refusal::new(Fault::Failed, "the cloud can't be reached", "look at the way to it"));
    console.answer(away()).shows("the cloud can't be reached").shows("Tab enrol later").key(Key::Enter);
    assert!(matches!(console.requests().as_slice(), [Request::Enrol { .. }]));
    console.answer(away()).key(Key::Esc).shows("Summary").key(Key::Esc).shows("1234-5678").key(Key::ClearLine);
    console.typed("2345").key(Key::Enter).key(Key::Enter).answer(Ok(applied())).answer(away()).key(Key::Tab);
    console.shows("Test message").key(Key::Esc).shows("Addresses");
}

#[test]
fn a_failed_application_is_tried_again_and_leads_back_to_the_answers() {
    let mut console = at_the_summary();
    let failed = || Err(Refusal::new(Fault::Failed, "the address can't be set", "look at the cable"));
    console.key(Key::Enter).answer(failed()).shows("the address can't be set").shows("look at the cable");
    console.key(Key::Enter);
    assert!(matches!(console.requests().as_slice(), [Request::SettingsApply { .. }]));
    console.answer(Err(gone())).shows("no daemon answers").key(Key::Esc).shows("Summary").key(Key::Esc);
    console.shows("The recovery key is confirmed").key(Key::Esc).shows("Administrator");
}

#[test]
fn an_answer_that_was_not_waited_for_leaves_a_way_out() {
    let mut console = at_the_summary();
    console
        .key(Key::Enter)
        .shows("please wait")
        .key(Key::Esc)
        .shows("no settings yet")
        .key(Key::Enter)
        .shows("Applying");
    console.answer(Ok(applied())).shows("Test message");
    console.key(Key::PageUp).shows("Where mail for everybody else goes").shows("192.0.2.30:25");
}

#[test]
fn a_box_that_was_set_up_by_another_way_is_not_overwritten_by_what_was_typed() {
    let mut console = at_the_administrator();
    console.key(Key::Esc).key(Key::Esc).key(Key::Esc).key(Key::Esc).key(Key::Esc).shows("no settings yet");
    console.becomes(2, status()).key(Key::Enter).shows("was set up by another way").key(Key::Enter).shows("Sign in");
}

#[test]
fn a_password_is_not_changed_under_its_hash() {
    let mut console = at_the_administrator();
    console
        .key(Key::Enter)
        .typed("plum tree in the yard")
        .key(Key::Enter)
        .typed("plum tree in the yard")
        .key(Key::Enter);
    assert!(matches!(console.asked.as_slice(), [Effect::Hash(_)]));
    console.key(Key::Up).typed("!").key(Key::Enter);
    assert!(console.asked.is_empty());
    console.event(Event::Hashed(None)).shows("no random numbers").key(Key::Enter);
    assert!(matches!(console.asked.as_slice(), [Effect::Hash(_)]), "it is tried again");
    console.event(Event::Hashed(Some(HASH.into()))).shows("Recovery key");
}

#[test]
fn a_clock_that_is_wrong_is_set_before_all_else() {
    let mut new = status();
    (new.facts.set_up, new.facts.administrator, new.queue) = (false, false, None);
    let mut console = Console::new(new);
    console.key(Key::Enter).typed("postern.clinic.example").key(Key::PageDown).shows("Clock now").shows("Ctrl-U");
    console.key(Key::ClearLine).key(Key::Tab).shows("Clock (UTC)").typed("tomorrow").key(Key::Enter);
    console.shows("this is not a time").key(Key::ClearLine).typed("2027-01-16 09:00").key(Key::Enter).shows("Mail");
}
