//! The console's screens, drawn.
//!
//! Job: header, footer, and between them the board, a question, a menu or a page of the wizard. Place: behind the state
//! machine; it only reads. Invariants: everything fits in 80×24; a development image says so on every screen. A crash
//! leaves nothing behind.

use super::{
    board,
    field::Halves,
    form::{Form, Menu},
    look::{BAD, FAINT, Look, PLAIN, STRONG, Sheet, TURNED},
    pages,
    state::{Screen, State},
};
use crate::cli::form::time;
use ratatui::{Frame, layout::Rect};

/// Draws the state.
pub fn view(state: &State, look: Look, frame: &mut Frame<'_>) {
    let area = frame.area();
    let inner = Rect { x: area.x + 1, width: area.width.saturating_sub(2), ..area };
    let top = header(state, &mut Sheet::new(frame.buffer_mut(), Rect { height: 2.min(area.height), ..area }));
    let body = Rect { y: area.y + top, height: area.height.saturating_sub(top + 2), ..inner };
    let mut sheet = Sheet::new(frame.buffer_mut(), body);
    match &state.screen {
        Screen::Board => board::board(state, &mut sheet),
        Screen::Wizard => match &state.wizard {
            Some(wizard) => pages::page(wizard, state, &mut sheet),
            None => board::board(state, &mut sheet),
        },
        Screen::Form(form) => question(form, &mut sheet),
        Screen::Menu(menu) => choices(menu, &mut sheet),
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
    let version = facts.map_or(env!("CARGO_PKG_VERSION"), |facts| facts.version.as_str());
    let left = format!(" Postern {version}  {host}");
    let right = format!("{} ", time(state.now));
    let room = width.saturating_sub(right.len());
    sheet.line(&format!("{left:<room$.room$}{right}"), TURNED);
    if facts.is_some_and(|facts| facts.development) {
        sheet.line(&format!("{:^width$}", "DEVELOPMENT: these keys are known to everybody; not for real mail"), BAD);
        return 3;
    }
    2
}

fn footer(state: &State, sheet: &mut Sheet<'_>) {
    let width = usize::from(sheet.area.width);
    sheet.line(&"─".repeat(width), FAINT);
    if state.down.is_some() {
        sheet.put(1, "waiting for the service; it is tried again every second", BAD);
        return;
    }
    if state.busy {
        sheet.put(1, "please wait", STRONG);
        return;
    }
    sheet.put(1, &keys(state), PLAIN);
    if let Some(name) = &state.signed_in {
        let shown = format!("{name} ");
        let x = sheet.area.width.saturating_sub(u16::try_from(shown.chars().count()).unwrap_or(0));
        sheet.put(x, &shown, STRONG);
    }
}

/// The keys that do something now.
fn keys(state: &State) -> String {
    match &state.screen {
        Screen::Board => {
            let enter = match &state.status {
                Some(status) if status.locked.is_some() => "Enter unlock   ",
                Some(status) if !status.facts.set_up && state.wizard.is_some() => "Enter go on setting up   ",
                Some(status) if !status.facts.set_up => "Enter set up   ",
                Some(_) if state.wizard.is_some() => "Enter go on with the settings   ",
                Some(status) if status.facts.administrator && state.signed_in.is_none() => "Enter sign in   ",
                Some(_) => "Enter menu   ",
                None => "",
            };
            format!("{enter}P power   R factory reset")
        }
        Screen::Wizard => state.wizard.as_ref().map(pages::keys).unwrap_or_default(),
        Screen::Form(_) => "Enter go on   Tab next field   Esc back".to_owned(),
        Screen::Menu(_) => "Up/Down or a number, then Enter   Esc back".to_owned(),
        Screen::Recovery(recovery, _) => pages::recovery_keys(recovery).to_owned() + "   Esc back",
    }
}

fn question(form: &Form, sheet: &mut Sheet<'_>) {
    sheet.line(form.title(), STRONG);
    sheet.gap();
    sheet.text(0, form.explanation(), PLAIN);
    sheet.gap();
    for (index, field) in form.fields.iter().enumerate() {
        sheet.field(field.label, field, index == form.at);
    }
    if form.fields.is_empty() {
        sheet.line("Press Enter to do it now.", STRONG);
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
        sheet.put(2, &format!(" {}  {text:<40}", index + 1), style);
        sheet.gap();
    }
}
