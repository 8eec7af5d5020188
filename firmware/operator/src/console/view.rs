//! The console's screens, drawn.
//!
//! Job: header, footer, and between them the board, a question, a menu or a page of the wizard. Place: behind the state
//! machine; it only reads. Invariants: everything fits in 80×24; a development image says so on every screen; every screen
//! says which keys do what; what is covered is not drawn. A crash leaves nothing behind.

use super::{
    alarms, board,
    field::{Halves, Kind},
    form::{Form, FormKind},
    look::{BAD, FAINT, Look, PLAIN, STRONG, Sheet, TURNED, shortened},
    menu::Menu,
    pages, queue,
    state::{Screen, State},
};
use crate::cli::form::{minute, time};
use ratatui::{Frame, layout::Rect};

/// Draws the state.
pub fn view(state: &State, look: Look, frame: &mut Frame<'_>) {
    let area = frame.area();
    let inner = Rect { x: area.x + 1, width: area.width.saturating_sub(2), ..area };
    let top = header(state, &mut Sheet::new(frame.buffer_mut(), Rect { height: 2.min(area.height), ..area }));
    let body = Rect { y: area.y + top, height: area.height.saturating_sub(top + 2), ..inner };
    let mut sheet = Sheet::new(frame.buffer_mut(), body);
    match &state.screen {
        _ if state.covered => {
            sheet.gap();
            sheet.line("Covered, since nobody has pressed a key for a while.", STRONG);
            sheet.gap();
            sheet.text(0, "Any key shows it again. After some minutes more it is taken away.", PLAIN);
        }
        Screen::Board => board::board(state, &mut sheet),
        Screen::Alarms(from) => alarms::screen(state, *from, &mut sheet),
        Screen::Wizard => match &state.wizard {
            Some(wizard) => pages::page(wizard, state, &mut sheet),
            None => board::board(state, &mut sheet),
        },
        Screen::Form(form) => question(form, &mut sheet),
        Screen::Menu(menu) => choices(menu, &mut sheet),
        Screen::Queue(queue) => queue::screen(queue, state, &mut sheet),
        Screen::Recovery(recovery, error) => {
            sheet.line("Recovery key", STRONG);
            sheet.gap();
            pages::recovery(recovery, error.as_ref(), &mut sheet);
        }
    }
    let cursor = sheet.cursor;
    footer(state, &mut Sheet::new(frame.buffer_mut(), Rect { y: area.bottom().saturating_sub(2), height: 2, ..area }));
    look.reduce(frame.buffer_mut());
    // A terminal without a cursor to show parks it where it disturbs least.
    if let Some(cursor) = cursor {
        frame.set_cursor_position(cursor);
    }
}

/// Host, version and time; and that it is a development image. The rows that it takes.
fn header(state: &State, sheet: &mut Sheet<'_>) -> u16 {
    let width = usize::from(sheet.area.width);
    let facts = state.status.as_ref().map(|status| &status.facts);
    let host = facts.map_or("", |facts| facts.host.as_str());
    let version = facts.map_or(state.image.version.as_str(), |facts| facts.version.as_str());
    let left = format!(" Postern {version}  {host}");
    let right = format!("  {} ", time(state.now));
    let room = width.saturating_sub(right.len());
    let left = shortened(&left, room);
    sheet.line(&format!("{left:<room$}{right}"), TURNED);
    if state.image.development || facts.is_some_and(|facts| facts.development) {
        let text = shortened("DEVELOPMENT: these keys are known to everybody; not for real mail", width);
        sheet.line(&format!("{text:^width$}"), BAD);
        return 3;
    }
    2
}

/// A line with what goes on and who has signed in, and below it the keys.
fn footer(state: &State, sheet: &mut Sheet<'_>) {
    let width = usize::from(sheet.area.width);
    sheet.put(0, &"─".repeat(width), FAINT);
    let notice = if state.waits() {
        Some(("please wait".to_owned(), STRONG))
    } else if let (Some(since), Some(_)) = (state.silent_since(), &state.status) {
        Some((format!("no answer from the service since {}", minute(since, state.now)), BAD))
    } else {
        let left = state.asked.iter().find_map(|asked| asked.left.clone());
        left.map(|kind| (format!("under way: {}", Form::new(kind).title()), STRONG))
    };
    if let Some((text, style)) = notice {
        sheet.put(2, &format!(" {text} "), style);
    }
    if let Some(name) = &state.signed_in {
        let shown = format!(" {} ", shortened(name, width / 4));
        let x = width.saturating_sub(shown.chars().count() + 2);
        sheet.put(u16::try_from(x).unwrap_or(0), &shown, STRONG);
    }
    sheet.gap();
    sheet.put(1, &keys(state), PLAIN);
}

/// The keys that do something now.
fn keys(state: &State) -> String {
    if state.covered {
        return "Any key shows it again".to_owned();
    }
    if state.waits() {
        return match &state.screen {
            Screen::Recovery(..) => "please wait; Ctrl-L draws the screen anew".to_owned(),
            Screen::Form(form) if form.kind == FormKind::SignIn => {
                "please wait; Ctrl-L draws the screen anew".to_owned()
            }
            _ => "Esc to the status board; what was begun goes on".to_owned(),
        };
    }
    match &state.screen {
        Screen::Board => keys_of_board(state),
        Screen::Alarms(_) => "Up/Down move   Esc back".to_owned(),
        Screen::Wizard => state.wizard.as_ref().map(pages::keys).unwrap_or_default(),
        Screen::Form(form) => match form.fields.len() {
            0 => "Enter do it   Esc back".to_owned(),
            1 => "Enter go on   Ctrl-U clear the field   Esc back".to_owned(),
            _ if form.fields.iter().any(|field| matches!(field.kind, Kind::Choice(_))) => {
                "Enter go on   Tab next field   Left/Right choose   Ctrl-U clear   Esc back".to_owned()
            }
            _ => "Enter go on   Tab next field   Ctrl-U clear the field   Esc back".to_owned(),
        },
        Screen::Menu(_) => "Up/Down and Enter, or the key in front   Esc back".to_owned(),
        Screen::Queue(queue) => queue.keys().to_owned(),
        Screen::Recovery(recovery, _) => pages::recovery_keys(recovery).to_owned() + "   Esc back",
    }
}

fn keys_of_board(state: &State) -> String {
    let enter = match &state.status {
        None => "",
        Some(status) if status.starting => "",
        Some(status) if status.locked.is_some() => "Enter unlock   ",
        Some(status) if !status.facts.set_up && state.wizard.is_some() => "Enter go on setting up   ",
        Some(status) if !status.facts.set_up => "Enter set up   ",
        Some(_) if state.wizard.as_ref().is_some_and(|wizard| wizard.first) => "Enter go on setting up   ",
        Some(status) if status.facts.administrator && state.signed_in.is_none() => "Enter sign in   ",
        Some(_) => "Enter menu   ",
    };
    let attention = state.status.as_ref().is_some_and(|status| !alarms::all(state, status).is_empty());
    let attention = if attention { "A what needs attention   " } else { "" };
    format!("{enter}{attention}P power   R factory reset")
}

fn question(form: &Form, sheet: &mut Sheet<'_>) {
    sheet.line(form.title(), STRONG);
    sheet.gap();
    sheet.text(0, form.explanation(), PLAIN);
    sheet.gap();
    for subject in &form.subject {
        sheet.halves(0, subject);
        sheet.gap();
    }
    for (index, field) in form.fields.iter().enumerate() {
        sheet.field(field.label, field, index == form.at);
    }
    if form.fields.is_empty() {
        sheet.line("Press Enter to do it now.", STRONG);
    }
    if let Some(told) = &form.told {
        sheet.gap();
        sheet.told(told);
    }
    error(form.error.as_ref(), sheet);
}

pub fn error(error: Option<&Halves>, sheet: &mut Sheet<'_>) {
    if let Some(error) = error {
        sheet.gap();
        sheet.halves(0, error);
    }
}

fn choices(menu: &Menu, sheet: &mut Sheet<'_>) {
    sheet.line(menu.title, STRONG);
    sheet.gap();
    for (index, (text, _)) in menu.items.iter().enumerate() {
        let style = if index == menu.at { TURNED } else { PLAIN };
        sheet.put(2, &format!(" {}  {text:<46}", Menu::label(index)), style);
        sheet.gap();
    }
}
