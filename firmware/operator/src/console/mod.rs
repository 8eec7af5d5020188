//! The console: tty1 and the serial line.
//!
//! Job: the first questions of a new appliance, its status at a glance, and what an operator in front of it may do. Place:
//! a face on the operators' socket, in a process of its own without rights of its own. Invariants: all that is known is
//! in one state ([`state::update`] is pure); the terminal is drawn anew after it was away; the daemon may go and come
//! back. A crash loses what was typed and not applied; systemd starts the console again.

mod alarms;
mod board;
mod draft;
mod event;
mod field;
mod form;
mod keys;
mod link;
mod look;
mod menu;
mod pages;
mod press;
mod queue;
mod recovery;
mod state;
mod terminal;
#[cfg(test)]
mod tests;
mod view;
mod wizard;

use crate::{Request, password};
use event::{Effect, Event, Happened, Lane};
use jiff::Timestamp;
use keys::{ALONE, Decoder};
use look::Look;
use state::{State, update};
use std::{
    collections::VecDeque,
    env,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel},
    thread,
    time::{Duration, Instant},
};
use terminal::Screen;

/// Between two looks at the clock.
const BEAT: Duration = Duration::from_millis(200);

/// Everything is drawn anew so often: whoever plugs a serial cable in sees nothing until then. At 115,200 bit/s a screen
/// takes a fifth of a second.
const REDRAW: Duration = Duration::from_secs(15);

/// What may happen before it is looked at; a line that is faster than we are has to wait.
const MOST_EVENTS: usize = 64;

/// What the image says of itself, before the daemon says anything.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// Its version; empty where there is no image.
    pub version: String,
    /// Whether it was signed with development keys; said on every screen.
    pub development: bool,
}

/// Runs until the terminal is gone, or Ctrl-C on the board.
#[must_use]
pub fn run(socket: PathBuf, image: Description) -> ExitCode {
    let mut screen = match Screen::open() {
        Ok(screen) => screen,
        Err(error) => {
            let what = format!("this is no terminal that can be drawn on ({error})");
            return fail(&what, "run it on one, or use `postern status`");
        }
    };
    let ended = converse(socket, image, &mut screen);
    screen.close();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let what = format!("the terminal broke off ({error})");
            fail(&what, "the console is started again by the system")
        }
    }
}

/// Says why; where it would be said may be what is gone.
fn fail(what: &str, remedy: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "postern: {what}; {remedy}");
    ExitCode::FAILURE
}

/// The requests of each lane.
struct Lanes(Vec<(Lane, Sender<Request>)>);

impl Lanes {
    fn open(socket: &Path, events: &SyncSender<Happened>) -> io::Result<Self> {
        let mut lanes = Vec::new();
        for lane in [Lane::Look, Lane::Slots, Lane::Act, Lane::Power] {
            let (requests, asked) = channel();
            let (events, socket) = (events.clone(), socket.to_path_buf());
            thread::Builder::new().name("link".into()).spawn(move || link::run(lane, socket, &asked, &events))?;
            lanes.push((lane, requests));
        }
        Ok(Self(lanes))
    }

    fn ask(&self, lane: Lane, request: Request) -> io::Result<()> {
        let requests = self.0.iter().find(|(of, _)| *of == lane).map(|(_, requests)| requests);
        let sent = requests.is_some_and(|requests| requests.send(request).is_ok());
        if sent { Ok(()) } else { Err(io::Error::other("the way to the service is gone")) }
    }
}

fn converse(socket: PathBuf, image: Description, screen: &mut Screen) -> io::Result<()> {
    let term = env::var("TERM").unwrap_or_default();
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|name| env::var(name).ok().filter(|v| !v.is_empty()));
    let look = Look::of(&term, &locale.unwrap_or_default());
    let (events, happened) = sync_channel(MOST_EVENTS);
    let lanes = Lanes::open(&socket, &events)?;
    let typing = events.clone();
    thread::Builder::new().name("keys".into()).spawn(move || terminal::listen(&typing))?;

    let began = Instant::now();
    let mut decoder = Decoder::default();
    let mut state = State::new(Timestamp::now(), image);
    let mut drawn = Instant::now();
    let mut redraw = true;
    loop {
        let mut now = VecDeque::from(collect(&happened, &mut decoder, began)?);
        while let Some(event) = now.pop_front() {
            let (next, effects) = update(state, event);
            state = next;
            for effect in effects {
                match effect {
                    Effect::Ask(lane, request) => lanes.ask(lane, request)?,
                    Effect::Hash(secret) => {
                        if !hash(secret, events.clone()) {
                            now.push_back(Event::Hashed(None));
                        }
                    }
                    Effect::Redraw => {
                        screen.wipe()?;
                        redraw = true;
                    }
                    Effect::Quit => return Ok(()),
                }
            }
        }
        let whole = std::mem::take(&mut redraw) || drawn.elapsed() > REDRAW || screen.is_resized();
        screen.draw(&state, look, whole)?;
        if whole {
            drawn = Instant::now();
        }
    }
}

/// Waits for a key or an answer, at most a beat; the tick comes first, so that all else is at its time.
fn collect(happened: &Receiver<Happened>, decoder: &mut Decoder, began: Instant) -> io::Result<Vec<Event>> {
    let patience = if decoder.is_within() { ALONE } else { BEAT };
    let first = match happened.recv_timeout(patience) {
        Ok(first) => Some(first),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("the way to the service is gone")),
    };
    let mut events = vec![Event::Tick(Timestamp::now(), began.elapsed())];
    if first.is_none() {
        events.extend(decoder.expire().map(Event::Key));
    }
    let Some(first) = first else { return Ok(events) };
    // A pasted text comes as many keys at once.
    for happened in [first].into_iter().chain(happened.try_iter().take(MOST_EVENTS)) {
        match happened {
            Happened::Typed(bytes) => {
                events.extend(bytes.iter().flat_map(|byte| decoder.feed(*byte)).map(Event::Key));
            }
            Happened::Gone(why) => return Err(io::Error::other(why)),
            Happened::Event(event) => events.push(event),
        }
    }
    Ok(events)
}

/// Makes the hash aside, since it takes long enough to be noticed; whether it is under way.
fn hash(secret: crate::Secret, events: SyncSender<Happened>) -> bool {
    let work = move || drop(events.send(Happened::Event(Event::Hashed(password::hash(secret.expose())))));
    thread::Builder::new().name("hash".into()).spawn(work).is_ok()
}
