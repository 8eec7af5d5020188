//! Menus.
//!
//! Job: list what an operator may do now, and find what was chosen. Place: a screen of the console. Invariants: what can't
//! be done at present is not offered; every entry has a key of its own. A crash leaves nothing behind.

use super::{alarms::unacknowledged, event::Key, field::next, state::State};

/// What a menu offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Settings,
    GoOn,
    Discard,
    Queue,
    TestMail,
    Confirm,
    Renew,
    Enrolment,
    Acknowledge,
    Update,
    Clock,
    Restart,
    PowerOff,
    Reset,
    SignOut,
}

/// A list to choose from.
#[derive(Clone, Debug)]
pub struct Menu {
    pub title: &'static str,
    pub items: Vec<(&'static str, Choice)>,
    pub at: usize,
}

impl Menu {
    /// What may be done now.
    pub fn of_operator(state: &State) -> Self {
        let unconfirmed = state.status.as_ref().is_some_and(|status| !status.keys.recovery_confirmed);
        let alarm = state.update.as_ref().is_some_and(|report| !unacknowledged(report).is_empty());
        let mut items = Vec::new();
        if state.wizard.is_some() {
            items.push(("Settings: go on where you were", Choice::GoOn));
            items.push(("Settings: drop what was typed", Choice::Discard));
        } else {
            items.push(("Settings: ask all questions again", Choice::Settings));
        }
        items.push(("Queue: what waits, and try it now", Choice::Queue));
        items.push(("Send a test message", Choice::TestMail));
        if unconfirmed {
            items.push(("Recovery key: confirm it", Choice::Confirm));
        }
        items.push(("Recovery key: make a new one", Choice::Renew));
        items.push(("Enrol with the cloud service", Choice::Enrolment));
        if alarm {
            items.push(("Take note of a slot that did not stay", Choice::Acknowledge));
        }
        items.push(("Update from a URL", Choice::Update));
        items.push(("Set the clock", Choice::Clock));
        items.push(("Restart", Choice::Restart));
        items.push(("Switch off", Choice::PowerOff));
        if state.signed_in.is_some() {
            items.push(("Sign out", Choice::SignOut));
        }
        Self { title: "What do you want to do?", items, at: 0 }
    }

    pub fn of_power() -> Self {
        Self { title: "Power", items: vec![("Restart", Choice::Restart), ("Switch off", Choice::PowerOff)], at: 0 }
    }

    /// The key of an entry: 1 to 9, then letters.
    pub fn label(index: usize) -> char {
        let label = if index < 9 { b'1'.checked_add(index as u8) } else { b'a'.checked_add((index - 9) as u8) };
        label.map_or(' ', char::from)
    }

    /// Moves, or chooses.
    pub fn key(&mut self, key: Key) -> Option<Choice> {
        match key {
            Key::Enter => return self.items.get(self.at).map(|(_, choice)| *choice),
            Key::Char(c) => {
                let at = (0..self.items.len()).find(|index| Self::label(*index) == c.to_ascii_lowercase())?;
                return self.items.get(at).map(|(_, choice)| *choice);
            }
            Key::Home | Key::PageUp => self.at = 0,
            Key::End | Key::PageDown => self.at = self.items.len().saturating_sub(1),
            Key::Tab | Key::Down | Key::Up | Key::BackTab => self.at = next(self.at, self.items.len(), key),
            _ => {}
        }
        None
    }
}
