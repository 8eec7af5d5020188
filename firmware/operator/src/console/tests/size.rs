//! Every screen on small and large terminals, with names that are long.

use super::*;
use crate::{
    Alarm, Enrolment, Failing, SecureBoot,
    view::{DestinationFigures, QueueReport, QueueRow},
};

const HOST: &str = "postausgang-zwischenstelle.klinikverbund-oberfranken-nordwest.gesundheitsverwaltung.example";

/// A box with much to say.
fn full() -> StatusReport {
    let mut full = status();
    full.facts.host = HOST.into();
    full.facts.development = true;
    full.facts.secure_boot = SecureBoot::Off;
    full.facts.addresses =
        (0..9).map(|n| format!("2001:db8:aaaa:bbbb:cccc:dddd:eeee:{n:04x}").parse().unwrap()).collect();
    full.facts.listeners =
        (0..6).map(|n| format!("[2001:db8:aaaa:bbbb:cccc:dddd:eeee:{n:04x}]:25").parse().unwrap()).collect();
    full.facts.cloud = CloudState::Enrolled(Enrolment {
        appliance: "krankenhausaufnahmeverwaltung-außenstelle-süd-0001".into(),
        tenant: "Gemeinnützige Krankenhausbetriebsgesellschaft Großhabersdorf-Unterschlauersbach mbH".into(),
        valid_until: None,
    });
    let error = "451 4.7.1 Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft: try later";
    full.facts.failing = vec![Failing {
        destination: format!("internal:abteilung-0.{HOST}"),
        since: at(BEGAN - 300),
        error: error.into(),
    }];
    let alarm = |n: usize| Alarm {
        what: format!("alarm {n} of Rechtsschutzversicherungsgesellschaften with a text over more than one row of it"),
        remedy: "look at the disk; then at the next one, and at all the others behind it, one after the other".into(),
        since: at(0),
    };
    full.facts.alarms = (0..7).map(alarm).collect();
    let hop = |n: u64| DestinationFigures {
        destination: format!("internal:abteilung-{n}.{HOST}"),
        waiting: 12_345_678,
        delivering: n,
        held: 3,
    };
    full.queue.as_mut().unwrap().destinations = (0..30).map(hop).collect();
    full
}

/// An update that did not stay, of versions with long names.
fn fallen_back() -> UpdateReport {
    use crate::update::{OnSlot, Reason, Update, UpdateState};
    let slot = |name: &str, version: &str, running: bool| SlotReport {
        name: name.into(),
        version: Some(version.into()),
        running,
        good: running,
        next: running,
    };
    let on = |slot: &str, version: &str| OnSlot { slot: slot.into(), version: version.into() };
    let reason = Reason {
        what: "slot b did not come so far that it could say why: it hung, or its kernel panicked".into(),
        remedy: "ask for another image".into(),
    };
    UpdateReport {
        slots: vec![slot("a", "10.20.30-vorabversion.1", true), slot("b", "10.20.31-vorabversion.2", false)],
        update: Some(Update {
            state: UpdateState::FellBack,
            from: on("a", "10.20.30-vorabversion.1"),
            to: on("b", "10.20.31-vorabversion.2"),
            since: at(BEGAN - 90_000),
            boot: String::new(),
            reason: Some(reason),
            acknowledged: false,
        }),
        ..UpdateReport::default()
    }
}

fn rows() -> Response {
    let row = |n: u64| QueueRow {
        id: mail::MessageId::generate(),
        group: 0,
        state: [spool::RowState::Waiting, spool::RowState::Held, spool::RowState::Delivering][n as usize % 3],
        destination: format!("internal:abteilung-0.{HOST}"),
        sender: String::new(),
        recipients: vec![
            format!("oberverwaltungsinspektorin.{n}@{HOST}").parse().unwrap(),
            "a@b.example".parse().unwrap(),
        ],
        size: 1,
        accepted: at(BEGAN - 100_000),
        attempts: 99,
        due: at(BEGAN + 3_600),
        held: None,
        last: Some("451 4.3.0 ".repeat(40)),
    };
    Response::Queue(QueueReport { rows: (0..40).map(row).collect(), more: true })
}

/// Every kind of screen that there is, by name.
fn screens() -> Vec<(&'static str, Console)> {
    let mut all: Vec<(&'static str, Console)> = Vec::new();
    let mut silent = Console::silent();
    silent.state.image.development = true;
    all.push(("waiting", silent));
    let mut board = Console::new(full());
    all.push(("board", Console { state: board.state.clone(), asked: vec![] }));
    board.key(Key::Char('a'));
    all.push(("alarms", board));
    let mut gone = Console::new(full());
    gone.event(Event::Tick(at(BEGAN + 2), Duration::from_secs(2))).event(Event::Answer(Lane::Look, Err(super::gone())));
    all.push(("no answer", gone));
    let closed = |starting: bool| {
        let mut closed = full();
        (closed.starting, closed.queue) = (starting, None);
        closed.locked = (!starting).then(|| Locked {
            what: "the TPM is another one than the keys of this appliance were sealed to ".repeat(3),
            remedy: "enter the recovery key".into(),
            since: at(0),
        });
        Console::new(closed)
    };
    all.push(("starting", closed(true)));
    let mut locked = closed(false);
    all.push(("locked", Console { state: locked.state.clone(), asked: vec![] }));
    locked.key(Key::Enter).typed(&WORDS.repeat(2));
    all.push(("unlock", locked));
    let menu = || Console::signed_in(full());
    all.push(("menu", menu()));
    for entry in
        ["Send a test", "make a new one", "Enrol", "Update from", "Set the clock", "Restart", "Switch off", "Settings"]
    {
        let mut console = menu();
        console.choose(entry);
        if entry == "Settings" {
            console.shows("please wait");
        }
        all.push((entry, console));
    }
    let mut queue = menu();
    queue.choose("Queue").answer(Ok(rows()));
    all.push(("queue", Console { state: queue.state.clone(), asked: vec![] }));
    queue.key(Key::End).key(Key::Enter).answer(Ok(rows())).key(Key::PageDown);
    all.push(("messages", queue));
    for (name, mut console) in super::wizard::pages() {
        console.state.image.development = true;
        all.push((name, console));
    }
    all
}

#[test]
fn every_screen_fits_names_its_keys_and_says_development() {
    for (name, console) in screens() {
        for (width, height) in [(80, 24), (100, 30), (40, 12), (200, 60)] {
            for look in [Look { unicode: true, colour: true }, Look { unicode: false, colour: false }] {
                let screen = console.drawn(look, width, height);
                let last = screen.lines().last().unwrap_or_default();
                assert!(!last.trim().is_empty(), "{name} at {width}x{height} names no key:\n{screen}");
                assert!(screen.contains("DEVELOPMENT"), "{name} at {width}x{height}:\n{screen}");
                assert!(screen.contains("Z\n") && screen.lines().count() == usize::from(height), "{name}:\n{screen}");
                assert!(look.unicode || screen.is_ascii(), "{name}:\n{screen}");
            }
            if width >= 80 {
                let screen = console.drawn(Look { unicode: true, colour: true }, width, height);
                let last = screen.lines().last().unwrap_or_default();
                assert!(last.chars().count() < usize::from(width), "{name}: the keys are cut:\n{screen}");
            }
        }
    }
}

#[test]
fn long_names_leave_room_for_what_matters() {
    let mut console = Console::new(full());
    console.slots(fallen_back());
    console.shows("State").shows("Addresses").shows("Slots").shows("Keys").shows("Secure Boot").shows("OFF");
    console.shows("Queue").shows("A shows all").shows("P power");
    assert_screen(&console, "board-full.txt");
    let mut queue = Console::signed_in(full());
    queue.choose("Queue").answer(Ok(rows())).shows("12345678").shows("waiting").shows("oldest").shows("Fails for");
    assert_screen(&queue, "queue.txt");
    queue.key(Key::Enter).answer(Ok(rows())).shows("40 deliveries, more behind them").shows("held");
    assert_screen(&queue, "queue-messages.txt");
}

#[test]
fn a_summary_of_long_answers_still_says_what_enter_does() {
    let mut console = super::wizard::at_the_summary();
    let wizard = console.state.wizard.as_mut().unwrap();
    let domains: Vec<String> = (0..40).map(|n| format!("abteilung-{n}.{HOST}")).collect();
    wizard.draft.field_mut(super::super::draft::Name::Domains).set(&domains.join(", "));
    console.shows("Nothing of this is in force yet").shows("Operator").shows("Enter apply all this");
}
