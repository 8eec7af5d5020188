//! The terminal below the console.
//!
//! Job: open it, read its bytes, learn its size, draw on it, and leave it as it was. Place: between the device and the
//! rest, which knows keys and buffers only. Invariants: what was typed or shown is zeroized in every buffer of ours; a
//! terminal that is gone ends the console, so that it begins anew with the next; one that was away is drawn from nothing.
//! A crash leaves a terminal in raw mode, which the system resets before it starts the console again.

use super::{event::Happened, look::Look, state::State, view};
use crossterm::{
    cursor, execute, queue,
    style::{Attribute, Print, SetAttribute},
    terminal,
};
use ratatui::{
    Terminal, TerminalOptions, Viewport,
    backend::{Backend, CrosstermBackend},
    layout::Rect,
};
use std::{
    fs::File,
    hint::black_box,
    io::{self, IsTerminal, Read, Stdout},
    os::fd::AsFd,
    sync::mpsc::SyncSender,
};
use zeroize::Zeroizing;

/// What a serial line says of its size: nothing. Then it is this.
const SIZE: (u16, u16) = (80, 24);

/// Less can't be drawn on; a terminal that says so shows a part.
const SMALLEST: (u16, u16) = (40, 12);

/// Bytes read at once: a line that is pasted.
const PIECE: usize = 256;

/// Select ASCII (ISO 2022), which garbage on a line may have left.
const ASCII: &str = "\x0f\x1b(B";

pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// # Errors
    /// Standard input or output is no terminal.
    pub fn open() -> io::Result<Self> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Err(io::Error::other("standard input and output are no terminal"));
        }
        terminal::enable_raw_mode()?;
        let backend = CrosstermBackend::new(io::stdout());
        let (width, height) = size(&backend);
        let viewport = Viewport::Fixed(Rect::new(0, 0, width, height));
        let mut screen = Self { terminal: Terminal::with_options(backend, TerminalOptions { viewport })? };
        screen.wipe()?;
        Ok(screen)
    }

    /// Leaves the terminal; errors are those of one that is gone.
    pub fn close(mut self) {
        let _ = self.reset();
        let _ = execute!(io::stdout(), cursor::Show, terminal::EnableLineWrap, terminal::LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
        // Its end would complain about a cursor that can't be shown, on a terminal that is gone, and panic.
        std::mem::forget(self.terminal);
    }

    /// Whether the size is another than the one that is drawn for.
    pub fn is_resized(&mut self) -> bool {
        let (width, height) = size(self.terminal.backend());
        self.terminal.get_frame().area() != Rect::new(0, 0, width, height)
    }

    /// Empties the screen of a terminal that may show anything, in whatever mode.
    pub fn wipe(&mut self) -> io::Result<()> {
        self.reset()?;
        execute!(
            io::stdout(),
            terminal::EnterAlternateScreen,
            terminal::DisableLineWrap,
            terminal::Clear(terminal::ClearType::All)
        )
    }

    fn reset(&mut self) -> io::Result<()> {
        queue!(io::stdout(), Print(ASCII), SetAttribute(Attribute::Reset))
    }

    /// Draws what has changed; with `whole`, every cell, for whoever plugged a cable in just now.
    pub fn draw(&mut self, state: &State, look: Look, whole: bool) -> io::Result<()> {
        if whole {
            let (width, height) = size(self.terminal.backend());
            let area = Rect::new(0, 0, width, height);
            if self.terminal.get_frame().area() != area {
                self.terminal.resize(area)?;
            }
            self.reset()?;
        }
        let completed = self.terminal.draw(|frame| view::view(state, look, frame))?;
        if !whole {
            return Ok(());
        }
        // Every cell again, over what is there: no flicker where nothing was lost.
        let mut buffer = completed.buffer.clone();
        let width = buffer.area.width.max(1);
        let cells = (0_u16..).zip(&buffer.content).map(|(index, cell)| (index % width, index / width, cell));
        let drawn = self.terminal.backend_mut().draw(cells);
        // Words of a recovery key may be among them.
        buffer.reset();
        black_box(&buffer);
        drawn?;
        Backend::flush(self.terminal.backend_mut())?;
        // Nothing has changed since but where the cursor stands.
        self.terminal.draw(|frame| view::view(state, look, frame)).map(drop)
    }
}

fn size(backend: &CrosstermBackend<Stdout>) -> (u16, u16) {
    match backend.size() {
        Ok(size) if size.width > 0 && size.height > 0 => (size.width.max(SMALLEST.0), size.height.max(SMALLEST.1)),
        _ => SIZE,
    }
}

/// Reads until the terminal is gone; that is told.
pub fn listen(events: &SyncSender<Happened>) {
    let why = match read(events) {
        Ok(()) => "it was hung up".to_owned(),
        Err(error) => error.to_string(),
    };
    // Nobody is there any more to be told when the console ends.
    let _ = events.send(Happened::Gone(why));
}

fn read(events: &SyncSender<Happened>) -> io::Result<()> {
    // Not through standard input's own buffer, which keeps what was typed.
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut piece = Zeroizing::new([0; PIECE]);
    loop {
        match input.read(piece.as_mut_slice()) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                let bytes = Zeroizing::new(piece.get(..read).unwrap_or_default().to_vec());
                if events.send(Happened::Typed(bytes)).is_err() {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
