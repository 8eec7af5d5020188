//! What happens to the console, and what it wants done.
//!
//! Job: name both, so that the state machine needs no terminal and no socket. Place: between them. Invariants: answers
//! come in the order of the requests of their lane. A crash leaves nothing behind.

use crate::{Refusal, Request, Response, Secret, machine::MachineAct};
use jiff::Timestamp;
use std::time::Duration;
use zeroize::Zeroizing;

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

/// Connections to the daemon: looking must go on while an act takes long, and the machine must be had while one hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The status, over and over.
    Look,
    /// The slots; root's helper is asked for them, which takes its time.
    Slots,
    /// What an operator asks for; the sign-in holds here.
    Act,
    /// Restart, power and reset, where [`Lane::Act`] is taken.
    Power,
}

impl Lane {
    /// The connection that a request goes over; `free`: nothing is under way on [`Lane::Act`].
    pub fn of(request: &Request, free: bool) -> Self {
        match request {
            Request::Status => Self::Look,
            Request::UpdateStatus => Self::Slots,
            Request::Machine(MachineAct::Reboot | MachineAct::PowerOff | MachineAct::FactoryReset) if !free => {
                Self::Power
            }
            _ => Self::Act,
        }
    }
}

/// What comes from outside.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there are some at a time, and they are moved twice")]
pub enum Happened {
    /// Bytes from the terminal.
    Typed(Zeroizing<Vec<u8>>),
    /// The terminal is not there any more, and why.
    Gone(String),
    /// All else.
    Event(Event),
}

/// What happens.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there are some at a time, and they are moved twice")]
pub enum Event {
    /// A key was pressed.
    Key(Key),
    /// Time passes: the clock on the wall, which may be set, and the time since the console began, which only grows.
    Tick(Timestamp, Duration),
    /// The connection of the acts is closed, and with it the sign-in.
    Lost,
    /// To the oldest request of this lane that has none yet.
    Answer(Lane, Result<Response, Refusal>),
    /// The hash of the password; `None`: it could not be made.
    Hashed(Option<String>),
}

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask the daemon; the screens leave the choice of the lane to the state.
    Ask(Lane, Request),
    /// Make the hash of a password.
    Hash(Secret),
    /// Draw everything anew.
    Redraw,
    /// Leave.
    Quit,
}

impl Effect {
    /// What a screen asks for.
    pub fn ask(request: Request) -> Self {
        Self::Ask(Lane::of(&request, true), request)
    }
}
