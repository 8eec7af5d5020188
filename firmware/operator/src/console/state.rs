//! The console's state machine.
//!
//! Job: what is on the screen, and what each event makes of it. Place: between terminal, socket and view; it has neither.
//! Invariants: pure: [`update`] takes the state and gives the next with what is to be done; answers are matched to
//! requests by lane and order; spans are measured by a clock that nobody sets; a daemon that is silent is never shown as
//! well; nothing secret outlives [`IDLE`] without a key. A crash loses what was typed.

use super::{
    Description,
    event::{Effect, Event, Key, Lane},
    field::Halves,
    form::{Form, FormKind},
    menu::Menu,
    press::pressed,
    queue::Queue,
    recovery::Recovery,
    wizard::Wizard,
};
use crate::{CloudState, Fault, Refusal, Request, Response, update::UpdateReport, view::StatusReport};
use jiff::Timestamp;
use std::{collections::VecDeque, time::Duration};

/// Between two looks at the status.
const LOOK: Duration = Duration::from_secs(2);

/// Between two looks at the slots.
const LOOK_AT_SLOTS: Duration = Duration::from_secs(30);

/// A daemon that has not answered for so long is not there; a busy one answers within two seconds.
const SILENT: Duration = Duration::from_secs(10);

/// An operator who types keeps the connection of the sign-in.
const KEEP: Duration = Duration::from_secs(60);

/// Whoever wrote words down a moment ago presses a key: until then they are covered.
const COVER: Duration = Duration::from_secs(2 * 60);

/// Nobody is there any more: what an operator sees goes from the screen, and what is secret from memory.
const IDLE: Duration = Duration::from_secs(10 * 60);

/// Everything that the console knows.
#[derive(Clone, Debug)]
pub struct State {
    /// The clock on the wall, which may be set.
    pub now: Timestamp,
    /// The time since the console began.
    pub clock: Duration,
    /// What the image says of itself.
    pub image: Description,
    /// Why the daemon gave no status last time; `None`: it did.
    pub down: Option<Refusal>,
    pub status: Option<StatusReport>,
    /// Slots and the last update, where there are any.
    pub update: Option<UpdateReport>,
    pub screen: Screen,
    /// Kept while another screen is shown.
    pub wizard: Option<Wizard>,
    pub signed_in: Option<String>,
    /// The result of the last act, shown on the board.
    pub told: Option<Told>,
    /// Whether what is secret on the screen is covered until the next key.
    pub covered: bool,
    pub asked: VecDeque<Asked>,
    /// When the last status came.
    heard: Duration,
    looked: Option<Duration>,
    /// When the slots were looked at: root's helper is asked for them.
    pub looked_at_slots: Option<Duration>,
    touched: Duration,
    /// When an act was answered; a sign-in is kept from being forgotten with its connection.
    acted: Duration,
    /// What goes on once somebody has signed in.
    pub after: Option<After>,
}

/// What is on the screen.
#[derive(Clone, Debug)]
pub enum Screen {
    Board,
    /// All that needs attention, from this row on.
    Alarms(usize),
    Wizard,
    Form(Form),
    Menu(Menu),
    Queue(Queue),
    Recovery(Recovery, Option<Halves>),
}

/// A result in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub text: String,
    pub good: bool,
}

impl Told {
    pub fn good(text: impl Into<String>) -> Self {
        Self { text: text.into(), good: true }
    }

    pub fn bad(text: impl Into<String>) -> Self {
        Self { text: text.into(), good: false }
    }

    fn refused(refusal: &Refusal) -> Self {
        Self::bad(format!("{}; {}", refusal.what, refusal.remedy))
    }
}

/// A request under way.
#[derive(Clone, Debug)]
pub struct Asked {
    lane: Lane,
    purpose: Purpose,
    request: Request,
    /// Whether it was asked again after a sign-in.
    again: bool,
    /// The question whose answer nobody waits for any more; it is told on the board.
    pub left: Option<FormKind>,
}

/// What waits for a sign-in, and the screen that asked for it.
#[derive(Clone, Debug)]
pub struct After {
    pub screen: Screen,
    pub purpose: Purpose,
    request: Request,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Status,
    Wizard,
    Form,
    Recovery,
    Queue,
    /// Settings for the wizard.
    Settings,
    /// The wizard's own sign-in, on a connection that has none.
    Resume,
    Update,
    /// Nothing depends on it.
    Other,
}

impl Asked {
    /// Whether a question asked it.
    pub fn is_of_form(&self) -> bool {
        self.purpose == Purpose::Form
    }
}

impl Purpose {
    /// Whether this screen waits for the answer.
    fn is_of(self, screen: &Screen) -> bool {
        match screen {
            Screen::Wizard => matches!(self, Self::Wizard | Self::Resume),
            Screen::Form(_) => self == Self::Form,
            Screen::Menu(_) => self == Self::Settings,
            Screen::Queue(_) => self == Self::Queue,
            Screen::Recovery(..) => self == Self::Recovery,
            Screen::Board | Screen::Alarms(_) => false,
        }
    }

    /// Nobody waits for the answer.
    fn is_quiet(self) -> bool {
        matches!(self, Self::Status | Self::Update | Self::Other)
    }
}

impl State {
    /// Before the daemon was asked.
    #[must_use]
    pub fn new(now: Timestamp, image: Description) -> Self {
        Self {
            now,
            clock: Duration::ZERO,
            image,
            down: None,
            status: None,
            update: None,
            screen: Screen::Board,
            wizard: None,
            signed_in: None,
            told: None,
            covered: false,
            asked: VecDeque::new(),
            heard: Duration::ZERO,
            looked: None,
            looked_at_slots: None,
            touched: Duration::ZERO,
            acted: Duration::ZERO,
            after: None,
        }
    }

    pub fn ask(&mut self, purpose: Purpose, request: Request) -> Vec<Effect> {
        let free = !self.asked.iter().any(|asked| asked.lane == Lane::Act && !asked.purpose.is_quiet());
        let lane = Lane::of(&request, free);
        self.asked.push_back(Asked { lane, purpose, request: request.clone(), again: false, left: None });
        vec![Effect::Ask(lane, request)]
    }

    /// What a screen wants, with its requests noted.
    pub fn carry_out(&mut self, purpose: Purpose, effects: Vec<Effect>) -> Vec<Effect> {
        let each = effects.into_iter().map(|effect| match effect {
            Effect::Ask(_, request) => self.ask(purpose, request),
            other => vec![other],
        });
        each.collect::<Vec<_>>().concat()
    }

    /// Whether the present screen waits for an answer.
    pub fn waits(&self) -> bool {
        self.asked.iter().any(|asked| asked.left.is_none() && asked.purpose.is_of(&self.screen))
    }

    /// Since when the daemon does not answer; `None`: it does.
    pub fn silent_since(&self) -> Option<Timestamp> {
        let silence = self.clock.saturating_sub(self.heard);
        let silent = self.down.is_some() || silence > SILENT;
        silent.then(|| self.now.checked_sub(silence).unwrap_or(self.now))
    }

    pub fn set_up(&self) -> Option<bool> {
        self.status.as_ref().map(|status| status.facts.set_up)
    }

    pub fn locked(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.locked.is_some())
    }

    /// Whether what an operator may do is done without a sign-in: there is nobody yet who could.
    pub fn is_open_to_all(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.facts.set_up && !status.facts.administrator)
    }

    /// Whether something on the screen should not be read by who comes next.
    fn shows_secrets(&self) -> bool {
        match &self.screen {
            Screen::Wizard => self.wizard.as_ref().is_some_and(Wizard::shows_secrets),
            Screen::Recovery(recovery, _) => recovery.shows_secrets(),
            Screen::Form(form) => matches!(form.kind, FormKind::Unlock | FormKind::Enrol),
            _ => false,
        }
    }
}

/// The next state, and what is to be done.
#[must_use]
pub fn update(mut state: State, event: Event) -> (State, Vec<Effect>) {
    let effects = match event {
        Event::Tick(now, clock) => tick(&mut state, now, clock),
        Event::Lost => {
            state.signed_in = None;
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
            state.touched = state.clock;
            // The key that uncovers does nothing else.
            if std::mem::take(&mut state.covered) { Vec::new() } else { pressed(&mut state, key) }
        }
    };
    (state, effects)
}

fn tick(state: &mut State, now: Timestamp, clock: Duration) -> Vec<Effect> {
    (state.now, state.clock) = (now, clock);
    let mut effects = Vec::new();
    let quiet = clock.saturating_sub(state.touched);
    if quiet > IDLE {
        effects.extend(leave(state));
    } else if quiet > COVER && state.shows_secrets() {
        state.covered = true;
    }
    if state.signed_in.is_some() && state.asked.is_empty() && clock.saturating_sub(state.acted) >= KEEP {
        state.acted = clock;
        effects.extend(state.ask(Purpose::Other, Request::KeysStatus));
    }
    if state.looked.is_none_or(|at| clock.saturating_sub(at) >= LOOK) {
        effects.extend(look(state));
    }
    effects
}

/// What the one who left must not leave behind: a sign-in, words, passwords. What was typed of the settings stays.
fn leave(state: &mut State) -> Vec<Effect> {
    if !matches!(state.screen, Screen::Board) {
        (state.screen, state.told) = (Screen::Board, None);
    }
    (state.covered, state.after) = (false, None);
    if state.wizard.as_ref().is_some_and(Wizard::holds_secrets) {
        state.wizard = state.wizard.take().and_then(Wizard::forgetting);
    }
    match state.signed_in.take() {
        Some(_) => {
            state.told = None;
            state.ask(Purpose::Other, Request::SignOut)
        }
        None => Vec::new(),
    }
}

pub fn look(state: &mut State) -> Vec<Effect> {
    let mut effects = Vec::new();
    let waits_for = |purpose| state.asked.iter().any(|asked| asked.purpose == purpose);
    let (status, slots) = (waits_for(Purpose::Status), waits_for(Purpose::Update));
    state.looked = Some(state.clock);
    if !status {
        effects.extend(state.ask(Purpose::Status, Request::Status));
    }
    if !slots && state.looked_at_slots.is_none_or(|at| state.clock.saturating_sub(at) >= LOOK_AT_SLOTS) {
        state.looked_at_slots = Some(state.clock);
        effects.extend(state.ask(Purpose::Update, Request::UpdateStatus));
    }
    effects
}

fn answer(state: &mut State, lane: Lane, result: Result<Response, Refusal>) -> Vec<Effect> {
    let of_lane = |asked: &Asked| asked.lane == lane;
    let Some(asked) = state.asked.iter().position(of_lane).and_then(|at| state.asked.remove(at)) else {
        return Vec::new();
    };
    if lane == Lane::Act {
        state.acted = state.clock;
    }
    match &result {
        Ok(Response::SignedIn { name, .. }) => state.signed_in = Some(name.clone()),
        // An attempt ends the sign-in before it.
        Err(_) if matches!(asked.request, Request::SignIn { .. }) => state.signed_in = None,
        _ => {}
    }
    if let Err(refusal) = &result
        && refusal.fault == Fault::SignIn
        && !asked.again
        && asked.left.is_none()
        && asked.purpose.is_of(&state.screen)
    {
        state.signed_in = None;
        return sign_in_for(state, asked);
    }
    match asked.left {
        Some(kind) => {
            state.told = match &result {
                Ok(response) => kind.told(response),
                Err(refusal) => Some(Told::refused(refusal)),
            };
            look(state)
        }
        None => deliver(state, asked.purpose, result),
    }
}

/// Gives an answer to what asked for it.
pub fn deliver(state: &mut State, purpose: Purpose, result: Result<Response, Refusal>) -> Vec<Effect> {
    match purpose {
        Purpose::Status => {
            match result {
                Ok(Response::Status(report)) => {
                    (state.status, state.down, state.heard) = (Some(*report), None, state.clock);
                }
                Ok(_) => {}
                Err(refusal) => state.down = Some(refusal),
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
                state.told = Some(Told::good("The recovery key is confirmed; any older one opens nothing any more."));
                return look(state);
            }
            state.carry_out(Purpose::Recovery, effects)
        }
        Purpose::Queue => {
            let Screen::Queue(queue) = &mut state.screen else { return Vec::new() };
            let effects = queue.answer(result);
            state.carry_out(Purpose::Queue, effects)
        }
        Purpose::Settings => {
            settings(state, result);
            Vec::new()
        }
        Purpose::Form => answer_to_form(state, result),
        Purpose::Resume | Purpose::Other => Vec::new(),
    }
}

fn settings(state: &mut State, result: Result<Response, Refusal>) {
    match result {
        Ok(Response::Settings(report)) if matches!(state.screen, Screen::Menu(_)) => {
            let (confirmed, enrolled) = state.status.as_ref().map_or((true, false), |status| {
                let enrolled = matches!(status.facts.cloud, CloudState::Enrolled(_));
                (status.keys.recovery_confirmed, enrolled)
            });
            let mut wizard = Wizard::new(Some(&report.toml), confirmed, enrolled, state.signed_in.clone());
            wizard.revision = report.revision;
            state.wizard = Some(wizard);
            state.screen = Screen::Wizard;
        }
        Ok(_) => {}
        Err(refusal) => (state.told, state.screen) = (Some(Told::refused(&refusal)), Screen::Board),
    }
}

/// Asks who it is, then asks the same again; the wizard knows who it is.
fn sign_in_for(state: &mut State, asked: Asked) -> Vec<Effect> {
    let known = state.wizard.as_ref().filter(|_| asked.purpose == Purpose::Wizard).and_then(Wizard::sign_in);
    if let Some(sign_in) = known {
        let mut effects = state.ask(Purpose::Resume, sign_in);
        effects.push(Effect::Ask(asked.lane, asked.request.clone()));
        state.asked.push_back(Asked { again: true, ..asked });
        return effects;
    }
    let screen = std::mem::replace(&mut state.screen, Screen::Form(Form::new(FormKind::SignIn)));
    state.after = Some(After { screen, purpose: asked.purpose, request: asked.request });
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
    let told = form.kind.told(&response);
    if matches!(response, Response::Tested(_)) {
        // Whoever tests changes something and tests again.
        form.told = told;
        return Vec::new();
    }
    (state.told, state.screen) = (told, Screen::Board);
    if matches!(response, Response::SignedIn { .. }) {
        return match state.after.take() {
            Some(After { screen, purpose, request }) => {
                state.screen = screen;
                state.ask(purpose, request)
            }
            None => {
                state.screen = Screen::Menu(Menu::of_operator(state));
                Vec::new()
            }
        };
    }
    state.looked_at_slots = None;
    look(state)
}
