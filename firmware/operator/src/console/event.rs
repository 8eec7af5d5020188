//! What happens to the console, and what it wants done.
//!
//! Job: name both, so that the state machine needs no terminal and no socket. Place: between them. Invariants: answers
//! come in the order of the requests of their lane. A crash leaves nothing behind.

use crate::{Refusal, Request, Response, Secret};
use jiff::Timestamp;

/// A key, as far as a terminal of 1983 has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Char(char),
    Enter,
    Esc,
    Tab,
    BackTab,
    Up,
    Down,
    Left,
    Right,
    Home,
    End,
    PageUp,
    PageDown,
    Backspace,
    Delete,
    /// Ctrl-U
    ClearLine,
    /// Ctrl-L
    Redraw,
    /// Ctrl-N
    New,
    /// Ctrl-C
    Interrupt,
}

/// Connections to the daemon: looking must go on while an act takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// What needs no sign-in, over and over.
    Look,
    /// What an operator asks for; the sign-in holds here.
    Act,
}

impl Lane {
    /// The connection that a request goes over.
    pub fn of(request: &Request) -> Self {
        if matches!(request, Request::Status | Request::UpdateStatus) { Self::Look } else { Self::Act }
    }
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// A key was pressed.
    Key(Key),
    /// Time passes.
    Tick(Timestamp),
    /// There is a new connection to the daemon.
    Up,
    /// The daemon does not answer.
    Down(Refusal),
    /// To the oldest request of this lane that has none yet.
    Answer(Lane, Result<Response, Refusal>),
    /// The hash of the password; `None`: it could not be made.
    Hashed(Option<String>),
}

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask the daemon.
    Ask(Request),
    /// Make the hash of a password.
    Hash(Secret),
    /// Draw everything anew.
    Redraw,
    /// Leave.
    Quit,
}
