//! Nobody is there: no daemon, or nobody before the console.

use super::*;

#[test]
fn without_a_daemon_the_console_waits_and_says_so() {
    let mut console = Console::silent();
    console.event(Event::Answer(Lane::Look, Err(gone())));
    assert_screen(&console, "waiting.txt");
}

#[test]
fn a_board_whose_daemon_is_gone_says_since_when_and_shows_nothing_as_well() {
    let mut console = Console::new(status());
    console.shows("open; mail flows");
    console.at(58);
    console.event(Event::Tick(at(BEGAN + 60), Duration::from_secs(60)));
    assert!(console.requests().contains(&Request::Status), "it is asked again by itself");
    console.event(Event::Answer(Lane::Look, Err(gone()))).hides("mail flows");
    console.event(Event::Tick(at(BEGAN + 150), Duration::from_secs(150)));
    assert_screen(&console, "board-no-answer.txt");
    assert!(console.requests().contains(&Request::Status), "it is asked again by itself");
    console.status(status()).shows("open; mail flows").hides("no answer");
}

#[test]
fn a_daemon_that_takes_the_question_and_does_not_answer_is_as_good_as_gone() {
    let mut console = Console::new(status());
    console.at(2);
    console.event(Event::Tick(at(BEGAN + 4), Duration::from_secs(4)));
    for second in 5..14 {
        console.event(Event::Tick(at(BEGAN + second), Duration::from_secs(second as u64)));
        assert!(console.requests().is_empty(), "one question at a time");
    }
    console.shows("no answer from the service since 08:00Z").hides("mail flows");
}

#[test]
fn a_refused_status_is_no_answer_and_a_clock_that_is_set_is_no_silence() {
    let mut console = Console::new(status());
    console.event(Event::Tick(at(BEGAN + 1_000_000), Duration::from_secs(1))).shows("mail flows");
    console.event(Event::Tick(at(BEGAN - 1_000_000), Duration::from_secs(3))).shows("mail flows");
    console.event(Event::Answer(Lane::Look, Err(Refusal::new(Fault::Failed, "more than 32 operators ask", "wait"))));
    console.shows("no answer from the service").shows("more than 32 operators ask").hides("mail flows");
}

#[test]
fn a_sign_in_ends_with_its_connection_and_without_a_key() {
    let mut console = Console::signed_in(status());
    console.shows(" admin ").event(Event::Lost).hides(" admin ");
    let mut console = Console::signed_in(status());
    console.at(599).shows("What do you want").at(601);
    assert!(console.requests().contains(&Request::SignOut), "{:?}", console.requests());
    console.hides("What do you want").hides(" admin ").at(1200);
    assert!(!console.requests().contains(&Request::SignOut), "once");
    // A clock that was set back does not keep it.
    let mut console = Console::signed_in(status());
    console.event(Event::Tick(at(BEGAN - 86_400), Duration::from_secs(601)));
    assert!(console.requests().contains(&Request::SignOut));
}

#[test]
fn words_are_covered_after_two_minutes_and_gone_after_ten() {
    let mut console = Console::signed_in(status());
    console.choose("make a new one").typed("planted password").key(Key::Enter);
    console.answer(Ok(signed_in())).answer(Ok(Response::RecoveryRenewed));
    console.answer(Ok(Response::Recovery { words: words() })).shows("abandon");
    console.at(119).shows("abandon").at(121).hides("abandon").shows("Any key shows it again");
    console.key(Key::Enter).shows("abandon").key(Key::Enter).shows("Type these words");
    console.typed("abandon").shows("abandon").at(242).hides("abandon");
    console.at(722).hides("abandon");
    assert!(console.requests().contains(&Request::SignOut));
    console.key(Key::Enter).key(Key::Enter).hides("abandon").shows("Sign in");
    assert!(!format!("{:?}", console.state).contains("planted"), "nothing of it stays");
}

#[test]
fn a_wizard_that_is_left_keeps_its_answers_and_no_secret() {
    let mut console = super::wizard::at_the_recovery_key();
    console.key(Key::Enter).answer(Ok(Response::Recovery { words: words() })).shows("abandon");
    console.at(121).hides("abandon").at(601).hides("abandon").shows("no settings yet");
    let wizard = console.state.wizard.clone().unwrap();
    assert!(!wizard.holds_secrets() && wizard.sign_in().is_none(), "{wizard:?}");
    console.key(Key::Enter).shows("Administrator").shows("Password");
    console.key(Key::Esc).key(Key::Esc).shows("192.0.2.30:25");
    console.key(Key::PageDown).key(Key::PageDown).key(Key::PageDown).shows("guessed too soon");
    // The words were shown: whoever wrote them down goes on with the paper.
    console.typed("plum tree in the yard").key(Key::Enter).typed("plum tree in the yard").key(Key::Enter);
    console.event(Event::Hashed(Some(super::wizard::HASH.into()))).shows("type all of them").shows("Ctrl-N");
}

#[test]
fn what_a_test_left_does_not_lead_back_into_the_settings() {
    let mut console = super::wizard::at_the_summary();
    console.key(Key::Enter).answer(Ok(super::wizard::applied())).shows("Test message");
    console.at(601);
    assert!(console.state.wizard.is_none(), "its settings are in force, and its password is gone");
}

#[test]
fn what_takes_long_is_left_running_and_told_when_it_is_done() {
    let mut console = Console::signed_in(status());
    console.choose("Update from").typed("https://u.example/p.raucb").key(Key::Enter).key(Key::Enter).key(Key::Enter);
    assert!(matches!(console.requests().as_slice(), [Request::UpdateInstall { .. }]));
    console.shows("please wait").shows("Esc to the status board").key(Key::Char('x')).key(Key::Esc);
    console.shows("under way: Update").shows("Addresses");
    // The machine is had meanwhile, over a connection of its own.
    console.key(Key::Char('p')).key(Key::Enter).key(Key::Enter);
    let reboot = Request::Machine(crate::machine::MachineAct::Reboot);
    assert_eq!(console.asked, [Effect::Ask(Lane::Power, reboot)]);
    console.event(Event::Answer(Lane::Power, Err(Refusal::new(Fault::Refused, "not now", "wait")))).shows("not now");
    console.key(Key::Esc).key(Key::Esc);
    console.answer(Err(Refusal::new(Fault::Failed, "the image's signature is wrong", "get it again")));
    console.shows("the image's signature is wrong; get it again").hides("under way: ");
}

#[test]
fn who_goes_back_from_a_sign_in_is_not_stuck_in_what_asked_for_it() {
    let mut console = super::wizard::at_the_summary();
    // The draft's password does not do any more.
    console.key(Key::Enter);
    let sign_in = || Err(Refusal::new(Fault::SignIn, "this needs an operator's sign-in", "sign in"));
    console
        .answer(sign_in())
        .answer(Err(Refusal::new(Fault::Refused, "name or password is wrong", "check")))
        .answer(sign_in());
    console.shows("this needs an operator's sign-in").shows("Enter try again").shows("Esc back to the summary");
    let mut console = Console::signed_in(status());
    console
        .choose("Queue")
        .answer(sign_in())
        .shows("Sign in")
        .key(Key::Esc)
        .shows("nobody has signed in")
        .key(Key::Esc);
    console.hides("nobody has signed in").shows("Enter");
}
