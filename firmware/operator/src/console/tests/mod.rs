//! The console as it is seen, without terminal and daemon: events in, screens out.

mod acts;
mod gone;
mod size;
mod wizard;

use super::{
    Description,
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
use std::time::Duration;
use zeroize::Zeroizing;

const WORDS: &str = "abandon ability able about above absent absorb abstract absurd abuse access accident account accuse \
                     achieve acid acoustic acquire across act action actor actress actual";

/// A console with whatever it has asked for.
struct Console {
    state: State,
    asked: Vec<Effect>,
}

/// When the console began.
const BEGAN: i64 = 1_800_000_000;

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
    fn silent() -> Self {
        let image = Description { version: "0.1.0".into(), development: false };
        let mut console = Self { state: State::new(at(BEGAN), image), asked: Vec::new() };
        console.event(Event::Tick(at(BEGAN), Duration::ZERO));
        console
    }

    fn new(status: StatusReport) -> Self {
        let mut console = Self::silent();
        assert_eq!(console.requests(), [Request::Status, Request::UpdateStatus]);
        console.status(status);
        console
    }

    /// Somebody has signed in, and is before the menu.
    fn signed_in(status: StatusReport) -> Self {
        let mut console = Self::new(status);
        console.key(Key::Enter).typed("admin").key(Key::Enter).typed("x").key(Key::Enter);
        console.answer(Ok(signed_in())).shows("What do you want to do?");
        console
    }

    fn event(&mut self, event: Event) -> &mut Self {
        let (state, effects) = update(self.state.clone(), event);
        (self.state, self.asked) = (state, effects);
        self
    }

    /// What was asked for last.
    fn requests(&self) -> Vec<Request> {
        let request = |effect: &Effect| if let Effect::Ask(_, request) = effect { Some(request.clone()) } else { None };
        self.asked.iter().filter_map(request).collect()
    }

    fn status(&mut self, status: StatusReport) -> &mut Self {
        self.event(Event::Answer(Lane::Look, Ok(Response::Status(Box::new(status)))))
    }

    fn slots(&mut self, report: UpdateReport) -> &mut Self {
        self.event(Event::Answer(Lane::Slots, Ok(Response::Update(report))))
    }

    /// So many seconds after the beginning, with a daemon that answers.
    fn at(&mut self, second: u64) -> &mut Self {
        self.event(Event::Tick(at(BEGAN + i64::try_from(second).unwrap()), Duration::from_secs(second)));
        if self.requests().contains(&Request::Status) {
            let asked = self.asked.clone();
            let status = self.state.status.clone().unwrap();
            self.status(status).asked = asked;
        }
        self
    }

    /// So many seconds after the beginning the daemon says this.
    fn becomes(&mut self, second: u64, status: StatusReport) -> &mut Self {
        self.state.status = Some(status);
        self.at(second)
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

    /// Chooses from the menu that is shown.
    #[track_caller]
    fn choose(&mut self, entry: &str) -> &mut Self {
        let screen = self.screen();
        let line =
            screen.lines().find(|line| line.contains(entry)).unwrap_or_else(|| panic!("no {entry} in:\n{screen}"));
        let key = line.trim().chars().next().unwrap();
        self.key(Key::Char(key))
    }

    fn drawn(&self, look: Look, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view(&self.state, look, frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let rows = buffer.content.chunks(usize::from(width));
        rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned() + "\n").collect()
    }

    fn screen_in(&self, look: Look) -> String {
        self.drawn(look, 80, 24)
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

    #[track_caller]
    fn hides(&mut self, text: &str) -> &mut Self {
        let screen = self.screen();
        assert!(!screen.contains(text), "\"{text}\" is on the screen:\n{screen}");
        self
    }
}

fn signed_in() -> Response {
    Response::SignedIn { name: "admin".into(), unrecorded: None }
}

fn words() -> Secret {
    Secret::new(Zeroizing::new(WORDS.to_owned()))
}

fn gone() -> Refusal {
    Refusal::new(Fault::Unreachable, "no daemon answers on /run/x", "start it")
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
    console.slots(report);
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
    assert_eq!(console.requests(), [Request::KeysUnlock { words: words() }]);
    console.answer(Err(Refusal::new(Fault::Refused, "these are not the words", "compare them with the paper")));
    console.shows("these are not the words").shows("compare them with the paper").shows("abandon");
}

#[test]
fn more_alarms_than_fit_are_counted() {
    let mut bad = status();
    let alarm = |n: usize| Alarm { what: format!("alarm {n}"), remedy: "look at it".into(), since: at(0) };
    bad.facts.alarms = (0..12).map(alarm).collect();
    let mut console = Console::new(bad);
    console.shows("alarm 0").shows("more; A shows all").shows("something needs attention (12)");
    console.key(Key::Char('a')).shows("What needs attention").shows("more below").key(Key::End);
    for _ in 0..20 {
        console.key(Key::Down);
    }
    console.shows("alarm 11").key(Key::Esc).shows("alarm 0");
}

#[test]
fn hostile_text_in_a_status_can_not_command_the_terminal() {
    let mut hostile = status();
    hostile.facts.alarms = vec![Alarm { what: "\u{1b}[2Jx\u{202e}".into(), remedy: "\r\n".into(), since: at(0) }];
    let screen = Console::new(hostile).screen();
    assert!(!screen.contains(['\u{1b}', '\u{202e}', '\r']), "{screen:?}");
}
