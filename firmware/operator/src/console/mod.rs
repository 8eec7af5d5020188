//! The console: tty1 and the serial line.
//!
//! Job: the first questions of a new appliance, its status at a glance, and what an operator in front of it may do. Place:
//! a face on the operators' socket, in a process of its own without rights of its own. Invariants: all that is known is
//! in one state ([`state::update`] is pure); the terminal is drawn anew after it was away; the daemon may go and come
//! back. A crash loses what was typed and not applied; systemd starts the console again.

mod board;
mod draft;
mod event;
mod field;
mod form;
mod link;
mod look;
mod pages;
mod recovery;
mod state;
#[cfg(test)]
mod tests;
mod view;
mod wizard;

use crate::{Request, password};
use crossterm::{
    cursor,
    event::{self as terminal_event, KeyCode, KeyEventKind, KeyModifiers},
    execute, terminal,
};
use event::{Effect, Event, Key, Lane};
use jiff::Timestamp;
use look::Look;
use ratatui::{
    Terminal, TerminalOptions, Viewport,
    backend::{Backend, CrosstermBackend},
    layout::Rect,
};
use state::{State, update};
use std::{
    env,
    io::{self, Stdout},
    path::PathBuf,
    process::ExitCode,
    sync::mpsc::{Receiver, Sender, TryRecvError, channel},
    time::{Duration, Instant},
};

/// Between two looks at keys, answers and the clock.
const BEAT: Duration = Duration::from_millis(200);

/// Everything is drawn anew so often: whoever plugs a serial cable in sees nothing until then. At 115,200 bit/s a screen
/// takes a fifth of a second.
const REDRAW: Duration = Duration::from_secs(15);

/// What a serial line says of its size: nothing. Then it is this.
const SIZE: (u16, u16) = (80, 24);

type Screen = Terminal<CrosstermBackend<Stdout>>;

/// Runs until the terminal is gone, or Ctrl-C on the board.
#[must_use]
pub fn run(socket: PathBuf) -> ExitCode {
    let mut screen = match open() {
        Ok(screen) => screen,
        Err(error) => {
            eprintln!(
                "postern: this is no terminal that can be drawn on ({error}); run it on one, or use `postern status`"
            );
            return ExitCode::FAILURE;
        }
    };
    let ended = converse(socket, &mut screen);
    let _ = execute!(io::stdout(), cursor::Show, terminal::LeaveAlternateScreen);
    let _ = terminal::disable_raw_mode();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postern: the terminal broke off ({error}); the console is started again by the system");
            ExitCode::FAILURE
        }
    }
}

fn open() -> io::Result<Screen> {
    terminal::enable_raw_mode()?;
    execute!(io::stdout(), terminal::EnterAlternateScreen, terminal::Clear(terminal::ClearType::All))?;
    let backend = CrosstermBackend::new(io::stdout());
    let (width, height) = size(&backend);
    let viewport = Viewport::Fixed(Rect::new(0, 0, width, height));
    Terminal::with_options(backend, TerminalOptions { viewport })
}

fn size(backend: &CrosstermBackend<Stdout>) -> (u16, u16) {
    match backend.size() {
        Ok(size) if size.width > 0 && size.height > 0 => (size.width.max(40), size.height.max(12)),
        _ => SIZE,
    }
}

fn converse(socket: PathBuf, screen: &mut Screen) -> io::Result<()> {
    let term = env::var("TERM").unwrap_or_default();
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|name| env::var(name).ok().filter(|v| !v.is_empty()));
    let look = Look::of(&term, &locale.unwrap_or_default());
    let (events, happened) = channel();
    let lane = |lane: Lane| -> io::Result<Sender<Request>> {
        let (requests, asked) = channel();
        let (events, socket) = (events.clone(), socket.clone());
        std::thread::Builder::new().name("link".into()).spawn(move || link::run(lane, socket, &asked, &events))?;
        Ok(requests)
    };
    let (looks, acts) = (lane(Lane::Look)?, lane(Lane::Act)?);

    let mut state = State::new(Timestamp::now());
    let mut drawn = Instant::now();
    loop {
        let mut redraw = false;
        for event in collect(&happened)? {
            let (next, effects) = update(state, event);
            state = next;
            for effect in effects {
                match effect {
                    // The lanes end with the console only.
                    Effect::Ask(request) => {
                        drop(if Lane::of(&request) == Lane::Look { looks.send(request) } else { acts.send(request) })
                    }
                    Effect::Hash(secret) => hash(secret, events.clone()),
                    Effect::Redraw => redraw = true,
                    Effect::Quit => return Ok(()),
                }
            }
        }
        draw(screen, &state, look, redraw || drawn.elapsed() > REDRAW)?;
        if redraw || drawn.elapsed() > REDRAW {
            drawn = Instant::now();
        }
    }
}

/// Waits for a key or an answer, at most a beat; the tick comes last.
fn collect(happened: &Receiver<Event>) -> io::Result<Vec<Event>> {
    let mut events = Vec::new();
    if terminal_event::poll(BEAT)? {
        // A pasted text comes as many keys at once.
        while terminal_event::poll(Duration::ZERO)? {
            match terminal_event::read()? {
                terminal_event::Event::Key(key) if key.kind != KeyEventKind::Release => {
                    events.extend(read(key).map(Event::Key));
                }
                terminal_event::Event::Resize(..) => events.push(Event::Key(Key::Redraw)),
                _ => {}
            }
        }
    }
    loop {
        match happened.try_recv() {
            Ok(event) => events.push(event),
            Err(TryRecvError::Empty) => break,
            Err(TryRecvError::Disconnected) => return Err(io::Error::other("the way to the service is gone")),
        }
    }
    events.push(Event::Tick(Timestamp::now()));
    Ok(events)
}

fn read(key: terminal_event::KeyEvent) -> Option<Key> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    Some(match key.code {
        KeyCode::Char('c') if control => Key::Interrupt,
        KeyCode::Char('l') if control => Key::Redraw,
        KeyCode::Char('n') if control => Key::New,
        KeyCode::Char('u') if control => Key::ClearLine,
        KeyCode::Char('h') if control => Key::Backspace,
        KeyCode::Char('j' | 'm') if control => Key::Enter,
        KeyCode::Char(_) if control || key.modifiers.contains(KeyModifiers::ALT) => return None,
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Esc,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Delete => Key::Delete,
        _ => return None,
    })
}

/// Makes the hash aside: it takes long enough to be noticed.
fn hash(secret: crate::Secret, events: Sender<Event>) {
    std::thread::spawn(move || drop(events.send(Event::Hashed(password::hash(secret.expose())))));
}

fn draw(screen: &mut Screen, state: &State, look: Look, whole: bool) -> io::Result<()> {
    if whole {
        let (width, height) = size(screen.backend());
        let area = Rect::new(0, 0, width, height);
        if screen.get_frame().area() != area {
            screen.resize(area)?;
        }
    }
    let completed = screen.draw(|frame| view::view(state, look, frame))?;
    if !whole {
        return Ok(());
    }
    // Every cell again, over what is there: no flicker where nothing was lost.
    let buffer = completed.buffer.clone();
    let width = buffer.area.width.max(1);
    let cells = (0_u16..).zip(&buffer.content).map(|(index, cell)| (index % width, index / width, cell));
    screen.backend_mut().draw(cells)?;
    Backend::flush(screen.backend_mut())
}
