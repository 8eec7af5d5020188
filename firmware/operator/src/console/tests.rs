//! The console as it is seen, without terminal and daemon: events in, screens out.

use super::{
    event::{Effect, Event, Key, Lane},
    look::Look,
    state::{State, update},
    view::view,
};
use crate::{
    Alarm, CloudState, Facts, Fault, KeyFacts, Locked, Refusal, Request, Response, Secret,
    update::{SlotReport, UpdateReport},
    view::{AppliedReport, QueueFigures, StatusReport},
};
use jiff::Timestamp;
use ratatui::{Terminal, backend::TestBackend};
use zeroize::Zeroizing;

const WORDS: &str = "abandon ability able about above absent absorb abstract absurd abuse access accident account accuse \
                     achieve acid acoustic acquire across act action actor actress actual";

/// A console with whatever it has asked for.
struct Console {
    state: State,
    asked: Vec<Effect>,
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn status() -> StatusReport {
    StatusReport {
        starting: false,
        locked: None,
        facts: Facts {
            host: "postern.clinic.example".into(),
            version: "0.1.0".into(),
            development: false,
            secure_boot: crate::SecureBoot::On,
            set_up: true,
            administrator: true,
            started: at(1_800_000_000 - 7_200),
            addresses: vec!["192.0.2.10".parse().unwrap()],
            data_locked: None,
            listeners: vec!["0.0.0.0:25".parse().unwrap()],
            sessions: 3,
            accepted: 120,
            refused: 2,
            delivered: 117,
            cloud: CloudState::NotEnrolled,
            failing: vec![],
            alarms: vec![],
        },
        settings_revision: 1,
        keys: KeyFacts { locked: None, sealed: true, recovery_confirmed: true, identity: None, epoch: Some(1) },
        queue: Some(QueueFigures {
            messages: 1,
            failed: 0,
            set_aside: 0,
            destinations: vec![],
            oldest: Some(at(1_800_000_000 - 600)),
            free_bytes: 3 << 30,
            memory_used: 0,
            memory_bytes: 1,
            disk_errors: 0,
            index_error: None,
        }),
    }
}

impl Console {
    fn new(status: StatusReport) -> Self {
        let mut console = Self { state: State::new(at(1_800_000_000)), asked: Vec::new() };
        console.event(Event::Up);
        console.event(Event::Answer(Lane::Look, Ok(Response::Status(Box::new(status)))));
        console
    }

    fn event(&mut self, event: Event) -> &mut Self {
        let (state, effects) = update(self.state.clone(), event);
        (self.state, self.asked) = (state, effects);
        self
    }

    fn key(&mut self, key: Key) -> &mut Self {
        self.event(Event::Key(key))
    }

    fn typed(&mut self, text: &str) -> &mut Self {
        for c in text.chars() {
            self.key(Key::Char(c));
        }
        self
    }

    fn answer(&mut self, result: Result<Response, Refusal>) -> &mut Self {
        self.event(Event::Answer(Lane::Act, result))
    }

    fn screen_in(&self, look: Look) -> String {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| view(&self.state, look, frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let rows = buffer.content.chunks(80);
        rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned() + "\n").collect()
    }

    fn screen(&self) -> String {
        self.screen_in(Look { unicode: true, colour: true })
    }

    #[track_caller]
    fn shows(&mut self, text: &str) -> &mut Self {
        let screen = self.screen();
        assert!(screen.contains(text), "\"{text}\" is not on the screen:\n{screen}");
        self
    }
}

#[track_caller]
fn assert_screen(console: &Console, name: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/console").join(name);
    let screen = console.screen_in(Look { unicode: false, colour: false });
    assert!(screen.is_ascii(), "{screen}");
    if std::env::var_os("POSTERN_WRITE_EXPECTED").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &screen).unwrap();
    }
    assert_eq!(screen, std::fs::read_to_string(&path).unwrap_or_default(), "{}:\n{screen}", path.display());
}

#[test]
fn the_board_of_a_box_that_does_its_work() {
    let mut console = Console::new(status());
    let slot = |name: &str, version: &str, running: bool| SlotReport {
        name: name.into(),
        version: Some(version.into()),
        running,
        good: true,
        next: running,
    };
    let report =
        UpdateReport { slots: vec![slot("a", "0.0.9", false), slot("b", "0.1.0", true)], ..Default::default() };
    console.event(Event::Answer(Lane::Look, Ok(Response::Update(report))));
    assert_screen(&console, "board-open.txt");
}

#[test]
fn the_board_of_a_locked_development_box_says_so_in_big_letters_with_what_to_do() {
    let mut locked = status();
    locked.facts.development = true;
    locked.queue = None;
    locked.locked = Some(Locked {
        what: "PCR 12 is not zero: the kernel command line was changed".into(),
        remedy: "start without the added command line, or enter the recovery key".into(),
        since: at(1_800_000_000 - 60),
    });
    let mut console = Console::new(locked);
    assert_screen(&console, "board-locked.txt");
    console.key(Key::Enter).shows("Unlock with the recovery key");
    console.typed(WORDS).key(Key::Enter);
    let words = Secret::new(Zeroizing::new(WORDS.to_owned()));
    assert_eq!(console.asked, [Effect::Ask(Request::KeysUnlock { words })]);
    console.answer(Err(Refusal::new(Fault::Refused, "these are not the words", "compare them with the paper")));
    console.shows("these are not the words").shows("compare them with the paper").shows("abandon");
}

#[test]
fn more_alarms_than_fit_are_counted() {
    let mut bad = status();
    let alarm = |n: usize| Alarm { what: format!("alarm {n}"), remedy: "look at it".into(), since: at(0) };
    bad.facts.alarms = (0..12).map(alarm).collect();
    let mut console = Console::new(bad);
    console.shows("alarm 0").shows("more").shows("something needs attention");
}

#[test]
fn hostile_text_in_a_status_can_not_command_the_terminal() {
    let mut hostile = status();
    hostile.facts.alarms = vec![Alarm { what: "\u{1b}[2Jx\u{202e}".into(), remedy: "\r\n".into(), since: at(0) }];
    let screen = Console::new(hostile).screen();
    assert!(!screen.contains(['\u{1b}', '\u{202e}', '\r']), "{screen:?}");
}

#[test]
fn what_acts_asks_who_it_is_and_goes_on_after_the_sign_in() {
    let mut console = Console::new(status());
    console.key(Key::Enter).shows("Sign in");
    console.typed("admin").key(Key::Enter).typed("planted-password").key(Key::Enter);
    assert!(!console.screen().contains("planted-password"));
    console.answer(Err(Refusal::new(Fault::Refused, "name or password is wrong", "check both")));
    console.shows("name or password is wrong").typed("other").key(Key::Enter);
    console
        .answer(Ok(Response::SignedIn { name: "admin".into(), unrecorded: None }))
        .shows("What do you want to do?")
        .shows("admin");
    // The connection was lost meanwhile: the same is asked again after a new sign-in.
    console.key(Key::Char('1'));
    assert_eq!(console.asked, [Effect::Ask(Request::SettingsShow)]);
    console.answer(Err(Refusal::new(Fault::SignIn, "this needs an operator's sign-in", "sign in"))).shows("Sign in");
    console.typed("admin").key(Key::Enter).typed("x").key(Key::Enter);
    console.answer(Ok(Response::SignedIn { name: "admin".into(), unrecorded: None }));
    assert_eq!(console.asked, [Effect::Ask(Request::SettingsShow)]);
}

#[test]
fn a_signed_in_operator_who_is_gone_is_signed_out() {
    let mut console = Console::new(status());
    console.key(Key::Enter).typed("admin").key(Key::Enter).typed("x").key(Key::Enter);
    console.answer(Ok(Response::SignedIn { name: "admin".into(), unrecorded: None }));
    console.event(Event::Tick(at(1_800_000_000 + 601)));
    assert_eq!(console.asked, [Effect::Ask(Request::SignOut)]);
    assert!(!console.screen().contains("What do you want"));
}

#[test]
fn a_factory_reset_needs_its_word_and_power_needs_a_second_enter() {
    use crate::machine::MachineAct;
    let mut console = Console::new(status());
    console.key(Key::Char('r')).shows("destroyed").typed("erase").key(Key::Enter).shows("this is not the word");
    assert!(console.asked.is_empty());
    console.key(Key::ClearLine).typed("ERASE").key(Key::Enter);
    assert_eq!(console.asked, [Effect::Ask(Request::Machine(MachineAct::FactoryReset))]);
    let mut console = Console::new(status());
    console.key(Key::Char('p')).key(Key::Down).key(Key::Enter).shows("Press Enter to do it now");
    console.key(Key::Enter);
    assert_eq!(console.asked, [Effect::Ask(Request::Machine(MachineAct::PowerOff))]);
}

/// A new box, with the wizard on the page of the administrator.
fn at_the_administrator() -> Console {
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

#[test]
fn the_first_questions_end_with_settings_a_sign_in_and_a_test() {
    let mut console = at_the_administrator();
    console.key(Key::Enter).typed("plum tree in the yard").key(Key::Enter).typed("plum tree in the yard");
    assert_screen(&console, "wizard-administrator.txt");
    console.key(Key::Enter);
    assert!(matches!(console.asked.as_slice(), [Effect::Hash(_)]), "{:?}", console.asked);
    console.event(Event::Hashed(Some(format!("$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l${}", "A".repeat(43)))));
    console.shows("Recovery key").key(Key::Enter);
    let words = Secret::new(Zeroizing::new(WORDS.to_owned()));
    console.answer(Ok(Response::Recovery { words }));
    assert_screen(&console, "wizard-recovery-key.txt");
    console.key(Key::Enter).shows("Type these words");
    let all: Vec<&str> = WORDS.split_whitespace().collect();
    let screen = console.screen();
    let numbers = screen.lines().filter_map(|line| line.trim().strip_prefix("Word ")?.parse::<usize>().ok());
    for number in numbers {
        console.typed(all[number - 1]).key(Key::Enter);
    }
    console.answer(Ok(Response::RecoveryConfirmed));
    assert_screen(&console, "wizard-summary.txt");
    console.key(Key::Enter);
    let [Effect::Ask(Request::SettingsApply { text })] = console.asked.as_slice() else {
        panic!("{:?}", console.asked)
    };
    let settings = settings::parse(text).unwrap();
    assert_eq!((settings.operators.len(), settings.internal.len()), (1, 1));
    let applied = AppliedReport { revision: 1, recorded: true, changes: vec![], after_restart: vec![] };
    console.answer(Ok(Response::Applied(applied))).shows("Test message");
    console.typed("bob@partner.example").key(Key::Enter);
    // There is an operator now; the wizard knows the password.
    console.answer(Err(Refusal::new(Fault::SignIn, "this needs an operator's sign-in", "sign in")));
    let asked = console.asked.clone();
    assert!(matches!(asked.as_slice(), [Effect::Ask(Request::SignIn { .. }), Effect::Ask(Request::TestMail { .. })]));
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
    let gone = Refusal::new(Fault::Unreachable, "no daemon answers", "start it");
    console.event(Event::Down(gone)).shows("waiting for the service").shows("postern.clinic.example");
    console.event(Event::Up).shows("Enter go on");
}

#[test]
fn without_a_daemon_the_console_waits_and_says_so() {
    let mut console = Console { state: State::new(at(1_800_000_000)), asked: Vec::new() };
    console.event(Event::Down(Refusal::new(Fault::Unreachable, "no daemon answers on /run/x", "start it")));
    assert_screen(&console, "waiting.txt");
}
