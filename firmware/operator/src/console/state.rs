//! The console's state machine.
//!
//! Job: what is on the screen, and what each event makes of it. Place: between terminal, socket and view; it has neither.
//! Invariants: pure: [`update`] takes the state and gives the next with what is to be done; answers are matched to
//! requests by lane and order; without the daemon everything stays as it is and says so. A crash loses what was typed.

use super::{
    event::{Effect, Event, Key, Lane},
    field::Halves,
    form::{Form, FormKind, Menu, MenuKind},
    recovery::Recovery,
    wizard::{Way, Wizard},
};
use crate::{CloudState, Fault, Refusal, Request, Response, update::UpdateReport, view::StatusReport};
use jiff::Timestamp;
use std::collections::VecDeque;

/// Between two looks at the status.
const LOOK: i64 = 2;

/// Between two looks at the slots.
const LOOK_AT_SLOTS: i64 = 30;

/// An operator who types keeps the connection of the sign-in.
const KEEP: i64 = 60;

/// Nobody is there any more: what an operator sees goes from the screen.
const IDLE: i64 = 10 * 60;

/// Everything that the console knows.
#[derive(Clone, Debug)]
pub struct State {
    pub now: Timestamp,
    /// Why the daemon does not answer; `None`: it does.
    pub down: Option<Refusal>,
    pub status: Option<StatusReport>,
    /// Slots and the last update, where there are any.
    pub update: Option<UpdateReport>,
    pub screen: Screen,
    /// Kept while another screen is shown.
    pub wizard: Option<Wizard>,
    pub signed_in: Option<String>,
    /// The result of the last act, shown on the board.
    pub told: Option<String>,
    /// What is waited for.
    pub busy: bool,
    asked: VecDeque<Asked>,
    looked: Option<Timestamp>,
    /// When the slots were looked at: root's helper is asked for them.
    looked_at_slots: Option<Timestamp>,
    touched: Timestamp,
    /// When an act was answered; a sign-in is kept from being forgotten with its connection.
    acted: Timestamp,
    /// What goes on once somebody has signed in.
    after: Option<(Screen, Purpose, Option<Request>)>,
}

/// What is on the screen.
#[derive(Clone, Debug)]
pub enum Screen {
    Board,
    Wizard,
    Form(Form),
    Menu(Menu),
    Recovery(Recovery, Option<Halves>),
}

/// A request under way.
#[derive(Clone, Debug)]
struct Asked {
    purpose: Purpose,
    request: Request,
    /// Whether it was asked again after a sign-in.
    again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Status,
    Wizard,
    Form,
    Recovery,
    /// Settings for the wizard.
    Settings,
    /// The wizard's own sign-in, on a connection that has none.
    Resume,
    Update,
    /// Nothing depends on it.
    Other,
}

impl Purpose {
    /// Nobody waits for the answer.
    fn is_quiet(self) -> bool {
        matches!(self, Self::Status | Self::Update | Self::Other)
    }
}

impl State {
    /// Before the daemon was asked.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            now,
            down: None,
            status: None,
            update: None,
            screen: Screen::Board,
            wizard: None,
            signed_in: None,
            told: None,
            busy: false,
            asked: VecDeque::new(),
            looked: None,
            looked_at_slots: None,
            touched: now,
            acted: now,
            after: None,
        }
    }

    fn ask(&mut self, purpose: Purpose, request: Request) -> Vec<Effect> {
        self.asked.push_back(Asked { purpose, request: request.clone(), again: false });
        self.busy = self.asked.iter().any(|asked| !asked.purpose.is_quiet());
        vec![Effect::Ask(request)]
    }

    /// What a screen wants, with its requests noted.
    fn carry_out(&mut self, purpose: Purpose, effects: Vec<Effect>) -> Vec<Effect> {
        let each = effects.into_iter().map(|effect| match effect {
            Effect::Ask(request) => self.ask(purpose, request),
            other => vec![other],
        });
        each.collect::<Vec<_>>().concat()
    }

    fn set_up(&self) -> Option<bool> {
        self.status.as_ref().map(|status| status.facts.set_up)
    }

    fn locked(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.locked.is_some())
    }
}

/// The next state, and what is to be done.
#[must_use]
pub fn update(mut state: State, event: Event) -> (State, Vec<Effect>) {
    let effects = match event {
        Event::Tick(now) => tick(&mut state, now),
        Event::Up => {
            (state.down, state.looked, state.looked_at_slots) = (None, None, None);
            // A sign-in belongs to a connection, and this is another.
            state.signed_in = None;
            look(&mut state)
        }
        Event::Down(refusal) => {
            (state.down, state.signed_in) = (Some(refusal), None);
            Vec::new()
        }
        Event::Hashed(hash) => {
            if let Some(wizard) = &mut state.wizard {
                wizard.hashed(hash);
            }
            Vec::new()
        }
        Event::Answer(lane, result) => answer(&mut state, lane, result),
        Event::Key(Key::Redraw) => vec![Effect::Redraw],
        Event::Key(key) => {
            state.touched = state.now;
            pressed(&mut state, key)
        }
    };
    (state, effects)
}

fn tick(state: &mut State, now: Timestamp) -> Vec<Effect> {
    state.now = now;
    let idle = now.as_second() - state.touched.as_second() > IDLE;
    if idle && state.signed_in.take().is_some() {
        state.screen = Screen::Board;
        return state.ask(Purpose::Other, Request::SignOut);
    }
    let mut effects = Vec::new();
    if state.signed_in.is_some() && !state.busy && past(now, state.acted, KEEP) {
        state.acted = now;
        effects.extend(state.ask(Purpose::Other, Request::KeysStatus));
    }
    if state.looked.is_none_or(|at| past(now, at, LOOK)) && state.down.is_none() {
        effects.extend(look(state));
    }
    effects
}

/// Whether `at` is so many seconds away; a clock that was set back must not stop the looking.
fn past(now: Timestamp, at: Timestamp, seconds: i64) -> bool {
    (now.as_second() - at.as_second()).abs() >= seconds
}

fn look(state: &mut State) -> Vec<Effect> {
    if state.asked.iter().any(|asked| asked.purpose == Purpose::Status) {
        return Vec::new();
    }
    state.looked = Some(state.now);
    let mut effects = state.ask(Purpose::Status, Request::Status);
    if state.looked_at_slots.is_none_or(|at| past(state.now, at, LOOK_AT_SLOTS)) {
        state.looked_at_slots = Some(state.now);
        effects.extend(state.ask(Purpose::Update, Request::UpdateStatus));
    }
    effects
}

fn answer(state: &mut State, lane: Lane, result: Result<Response, Refusal>) -> Vec<Effect> {
    let of_lane = |asked: &Asked| Lane::of(&asked.request) == lane;
    let Some(asked) = state.asked.iter().position(of_lane).and_then(|at| state.asked.remove(at)) else {
        return Vec::new();
    };
    if lane == Lane::Act {
        state.acted = state.now;
        if result.as_ref().is_err_and(|refusal| refusal.fault == Fault::Unreachable) {
            state.signed_in = None;
        }
    }
    state.busy = state.asked.iter().any(|asked| !asked.purpose.is_quiet());
    if let Ok(Response::SignedIn { name, .. }) = &result {
        state.signed_in = Some(name.clone());
    }
    if let Err(refusal) = &result
        && refusal.fault == Fault::SignIn
        && !asked.again
        && !asked.purpose.is_quiet()
    {
        state.signed_in = None;
        return sign_in_for(state, asked);
    }
    match asked.purpose {
        Purpose::Status => {
            if let Ok(Response::Status(report)) = result {
                state.status = Some(*report);
            }
            Vec::new()
        }
        Purpose::Update => {
            state.update = match result {
                Ok(Response::Update(report)) => Some(report),
                // No appliance with slots, or nobody who knows.
                _ => None,
            };
            Vec::new()
        }
        Purpose::Wizard => {
            let effects = state.wizard.as_mut().map(|wizard| wizard.answer(result)).unwrap_or_default();
            state.carry_out(Purpose::Wizard, effects)
        }
        Purpose::Recovery => {
            let Screen::Recovery(recovery, error) = &mut state.screen else { return Vec::new() };
            let effects = recovery.answer(result, error);
            if matches!(recovery, Recovery::Done) {
                state.screen = Screen::Board;
                state.told = Some("The new recovery key is confirmed; the old one opens nothing any more.".to_owned());
            }
            state.carry_out(Purpose::Recovery, effects)
        }
        Purpose::Settings => match result {
            Ok(Response::Settings(report)) => {
                let (confirmed, enrolled) = state.status.as_ref().map_or((true, false), |status| {
                    let enrolled = matches!(status.facts.cloud, CloudState::Enrolled(_));
                    (status.keys.recovery_confirmed, enrolled)
                });
                state.wizard = Some(Wizard::new(Some(&report.toml), confirmed, enrolled));
                state.screen = Screen::Wizard;
                Vec::new()
            }
            Ok(_) => Vec::new(),
            Err(refusal) => {
                state.told = Some(refusal.what);
                Vec::new()
            }
        },
        Purpose::Form => answer_to_form(state, result),
        Purpose::Resume | Purpose::Other => Vec::new(),
    }
}

/// Asks who it is, then asks the same again; the wizard knows who it is.
fn sign_in_for(state: &mut State, asked: Asked) -> Vec<Effect> {
    let known = state.wizard.as_ref().filter(|_| asked.purpose == Purpose::Wizard).and_then(Wizard::sign_in);
    if let Some(sign_in) = known {
        let mut effects = state.ask(Purpose::Resume, sign_in);
        state.asked.push_back(Asked { again: true, ..asked.clone() });
        state.busy = true;
        effects.push(Effect::Ask(asked.request));
        return effects;
    }
    let back = std::mem::replace(&mut state.screen, Screen::Form(Form::new(FormKind::SignIn)));
    state.after = Some((back, asked.purpose, Some(asked.request)));
    Vec::new()
}

fn answer_to_form(state: &mut State, result: Result<Response, Refusal>) -> Vec<Effect> {
    let Screen::Form(form) = &mut state.screen else { return Vec::new() };
    let response = match result {
        Ok(response) => response,
        Err(refusal) => {
            form.error = Some(refusal.into());
            form.clear_secrets();
            return Vec::new();
        }
    };
    state.told = form.kind.told(&response);
    state.screen = Screen::Board;
    if matches!(response, Response::SignedIn { .. }) {
        state.told = None;
        return match state.after.take() {
            Some((screen, purpose, request)) => {
                state.screen = screen;
                request.map(|request| state.ask(purpose, request)).unwrap_or_default()
            }
            None => {
                state.screen = Screen::Menu(Menu::new(MenuKind::Operator));
                Vec::new()
            }
        };
    }
    look(state)
}

fn pressed(state: &mut State, key: Key) -> Vec<Effect> {
    if state.busy {
        return Vec::new();
    }
    match &mut state.screen {
        Screen::Board => pressed_on_board(state, key),
        Screen::Wizard => {
            let Some(wizard) = &mut state.wizard else {
                state.screen = Screen::Board;
                return Vec::new();
            };
            let (effects, way) = wizard.key(key);
            match way {
                Way::Stay => {}
                Way::Aside => state.screen = Screen::Board,
                Way::Finished => {
                    (state.screen, state.wizard) = (Screen::Board, None);
                    let mut effects = effects;
                    effects.extend(look(state));
                    return effects;
                }
            }
            state.carry_out(Purpose::Wizard, effects)
        }
        Screen::Form(form) => {
            if key == Key::Esc {
                // What was asked for without a sign-in is not done.
                state.after = None;
                state.screen = Screen::Board;
                return Vec::new();
            }
            let effects = form.key(key);
            state.carry_out(Purpose::Form, effects)
        }
        Screen::Recovery(recovery, error) => {
            if key == Key::Esc {
                state.screen = Screen::Board;
                return Vec::new();
            }
            let effects = recovery.key(key, error);
            state.carry_out(Purpose::Recovery, effects)
        }
        Screen::Menu(menu) => match key {
            Key::Esc => {
                state.screen = Screen::Board;
                Vec::new()
            }
            Key::Enter => {
                let chosen = menu.chosen();
                choose(state, chosen)
            }
            key => menu.key(key).map(|chosen| choose(state, Some(chosen))).unwrap_or_default(),
        },
    }
}

fn pressed_on_board(state: &mut State, key: Key) -> Vec<Effect> {
    state.told = None;
    match key {
        Key::Interrupt => vec![Effect::Quit],
        Key::Char('p' | 'P') => {
            state.screen = Screen::Menu(Menu::new(MenuKind::Power));
            Vec::new()
        }
        Key::Char('r' | 'R') => choose(state, Some(Choice::Reset)),
        Key::Enter if state.locked() => {
            state.screen = Screen::Form(Form::new(FormKind::Unlock));
            Vec::new()
        }
        Key::Enter if state.set_up() == Some(false) => {
            let confirmed = state.status.as_ref().is_some_and(|status| status.keys.recovery_confirmed);
            state.wizard.get_or_insert_with(|| Wizard::new(None, confirmed, false));
            state.screen = Screen::Wizard;
            Vec::new()
        }
        Key::Enter if state.set_up() == Some(true) => {
            let administrator = state.status.as_ref().is_some_and(|status| status.facts.administrator);
            state.screen = if administrator && state.signed_in.is_none() {
                Screen::Form(Form::new(FormKind::SignIn))
            } else if state.wizard.is_some() {
                Screen::Wizard
            } else {
                Screen::Menu(Menu::new(MenuKind::Operator))
            };
            Vec::new()
        }
        _ => Vec::new(),
    }
}

/// What a menu offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Settings,
    Recovery,
    Enrolment,
    TestMail,
    Update,
    SignOut,
    Restart,
    PowerOff,
    Reset,
}

fn choose(state: &mut State, choice: Option<Choice>) -> Vec<Effect> {
    use crate::machine::MachineAct;
    let Some(choice) = choice else { return Vec::new() };
    let form = match choice {
        Choice::Settings => return state.ask(Purpose::Settings, Request::SettingsShow),
        Choice::Recovery => {
            state.screen = Screen::Recovery(Recovery::Before, None);
            return state.ask(Purpose::Recovery, Request::RecoveryRenew);
        }
        Choice::SignOut => {
            (state.signed_in, state.screen) = (None, Screen::Board);
            state.told = Some("Signed out.".to_owned());
            return state.ask(Purpose::Other, Request::SignOut);
        }
        Choice::Enrolment => FormKind::Enrol,
        Choice::TestMail => FormKind::TestMail,
        Choice::Update => FormKind::Update,
        Choice::Restart => FormKind::Machine(MachineAct::Reboot),
        Choice::PowerOff => FormKind::Machine(MachineAct::PowerOff),
        Choice::Reset => FormKind::Machine(MachineAct::FactoryReset),
    };
    state.screen = Screen::Form(Form::new(form));
    Vec::new()
}
