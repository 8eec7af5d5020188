//! What each key does on each screen.
//!
//! Job: lead from screen to screen, and from a choice to its question. Place: the part of the state machine that people
//! drive. Invariants: from every screen a key leads back, also while an answer is awaited; what was begun and is left goes
//! on, and its result is told on the board. A crash leaves nothing behind.

use super::{
    alarms::unacknowledged,
    event::{Effect, Key},
    form::{Form, FormKind},
    menu::{Choice, Menu},
    queue::{Queue, Step},
    recovery::Recovery,
    state::{Purpose, Screen, State, Told, deliver, look},
    wizard::{Way, Wizard},
};
use crate::{Fault, Refusal, Request, machine::MachineAct};

pub fn pressed(state: &mut State, key: Key) -> Vec<Effect> {
    if state.waits() {
        if key == Key::Esc {
            leave_running(state);
        }
        return Vec::new();
    }
    match &mut state.screen {
        Screen::Board => on_board(state, key),
        Screen::Alarms(from) => {
            match key {
                Key::Up => *from = from.saturating_sub(1),
                Key::PageUp => *from = from.saturating_sub(10),
                Key::Down => *from = from.saturating_add(1),
                Key::PageDown => *from = from.saturating_add(10),
                Key::Esc | Key::Enter => state.screen = Screen::Board,
                _ => {}
            }
            Vec::new()
        }
        Screen::Wizard => in_wizard(state, key),
        Screen::Form(form) => {
            if key == Key::Esc {
                return out_of_form(state);
            }
            let effects = form.key(key);
            state.carry_out(Purpose::Form, effects)
        }
        Screen::Recovery(recovery, error) => {
            if key == Key::Esc {
                back(state);
                return Vec::new();
            }
            let effects = recovery.key(key, error);
            state.carry_out(Purpose::Recovery, effects)
        }
        Screen::Queue(queue) => match queue.key(key, state.status.as_ref()) {
            Step::Ask(request) => state.ask(Purpose::Queue, request),
            Step::Stay => Vec::new(),
            Step::Leave => {
                back(state);
                Vec::new()
            }
        },
        Screen::Menu(menu) => match key {
            Key::Esc => {
                state.screen = Screen::Board;
                Vec::new()
            }
            key => menu.key(key).map(|chosen| choose(state, chosen)).unwrap_or_default(),
        },
    }
}

/// To the menu, where it needs no sign-in any more, else to the board.
fn back(state: &mut State) {
    let menu = state.signed_in.is_some() || state.is_open_to_all();
    state.screen = if menu && !state.locked() { Screen::Menu(Menu::of_operator(state)) } else { Screen::Board };
}

/// Nobody has to wait before the screen for what takes long. Words that come once only are waited for, and a sign-in.
fn leave_running(state: &mut State) {
    match &state.screen {
        Screen::Form(form) if form.kind != FormKind::SignIn => {
            let kind = form.kind.clone();
            for asked in state.asked.iter_mut().filter(|asked| asked.is_of_form()) {
                asked.left.get_or_insert_with(|| kind.clone());
            }
            state.told = Some(Told::good(format!("{}: goes on; the result is told here.", form.title())));
            state.screen = Screen::Board;
        }
        Screen::Wizard | Screen::Queue(_) | Screen::Menu(_) => state.screen = Screen::Board,
        _ => {}
    }
}

fn in_wizard(state: &mut State, key: Key) -> Vec<Effect> {
    let Some(wizard) = &mut state.wizard else {
        state.screen = Screen::Board;
        return Vec::new();
    };
    let first = wizard.first;
    let (effects, way) = wizard.key(key);
    match way {
        Way::Stay => {}
        Way::Aside if first => state.screen = Screen::Board,
        Way::Aside => back(state),
        Way::Finished => {
            (state.screen, state.wizard) = (Screen::Board, None);
            return look(state);
        }
    }
    state.carry_out(Purpose::Wizard, effects)
}

/// Back from a question; what waited for a sign-in is told that there was none.
fn out_of_form(state: &mut State) -> Vec<Effect> {
    let Some(after) = state.after.take() else {
        back(state);
        return Vec::new();
    };
    state.screen = after.screen;
    let refusal = Refusal::new(Fault::SignIn, "nobody has signed in; nothing was done", "try again, and sign in then");
    deliver(state, after.purpose, Err(refusal))
}

fn on_board(state: &mut State, key: Key) -> Vec<Effect> {
    state.told = None;
    match key {
        Key::Interrupt => return vec![Effect::Quit],
        Key::Char('p' | 'P') => state.screen = Screen::Menu(Menu::of_power()),
        Key::Char('r' | 'R') => return choose(state, Choice::Reset),
        Key::Char('a' | 'A') => state.screen = Screen::Alarms(0),
        Key::Enter => enter(state),
        _ => {}
    }
    Vec::new()
}

/// What the board leads to.
fn enter(state: &mut State) {
    // Somebody else has set the box up meanwhile; answers that began from nothing would undo it.
    if state.set_up() == Some(true) && state.wizard.as_ref().is_some_and(|wizard| wizard.first && !wizard.in_force()) {
        state.wizard = None;
        state.told = Some(Told::bad("The appliance was set up by another way; what was typed here was dropped."));
        return;
    }
    let Some(status) = &state.status else { return };
    state.screen = if status.starting {
        Screen::Board
    } else if status.locked.is_some() {
        Screen::Form(Form::new(FormKind::Unlock))
    } else if !status.facts.set_up || state.wizard.as_ref().is_some_and(|wizard| wizard.first) {
        let confirmed = status.keys.recovery_confirmed;
        state.wizard.get_or_insert_with(|| Wizard::new(None, confirmed, false, None));
        Screen::Wizard
    } else if status.facts.administrator && state.signed_in.is_none() {
        Screen::Form(Form::new(FormKind::SignIn))
    } else {
        Screen::Menu(Menu::of_operator(state))
    };
}

fn choose(state: &mut State, choice: Choice) -> Vec<Effect> {
    let form = match choice {
        Choice::Settings => return state.ask(Purpose::Settings, Request::SettingsShow),
        Choice::GoOn => {
            state.screen = Screen::Wizard;
            return Vec::new();
        }
        Choice::Discard => {
            state.wizard = None;
            back(state);
            return Vec::new();
        }
        Choice::Queue => {
            let (queue, request) = Queue::open();
            state.screen = Screen::Queue(queue);
            return state.ask(Purpose::Queue, request);
        }
        Choice::Confirm => {
            state.screen = Screen::Recovery(Recovery::Before(state.signed_in.clone()), None);
            return Vec::new();
        }
        Choice::Renew => {
            state.screen = Screen::Recovery(Recovery::renewing(state.signed_in.clone()), None);
            return Vec::new();
        }
        Choice::SignOut => {
            (state.signed_in, state.screen) = (None, Screen::Board);
            // What the next one could go on with is the settings, not the sign-in.
            state.wizard = state.wizard.take().and_then(Wizard::forgetting);
            state.told = Some(Told::good("Signed out."));
            return state.ask(Purpose::Other, Request::SignOut);
        }
        Choice::Acknowledge => {
            let subject = state.update.as_ref().map(unacknowledged).unwrap_or_default();
            state.screen = Screen::Form(Form { subject, ..Form::new(FormKind::Acknowledge) });
            return Vec::new();
        }
        Choice::Enrolment => FormKind::Enrol,
        Choice::TestMail => FormKind::TestMail,
        Choice::Update => FormKind::Update,
        Choice::Clock => FormKind::Clock,
        Choice::Restart => FormKind::Machine(MachineAct::Reboot),
        Choice::PowerOff => FormKind::Machine(MachineAct::PowerOff),
        Choice::Reset => FormKind::Machine(MachineAct::FactoryReset),
    };
    state.screen = Screen::Form(Form::new(form));
    Vec::new()
}
