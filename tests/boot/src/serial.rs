//! The serial console, ttyS0 of the machine.
//!
//! Job: what the machine printed since power-on, and keys pressed by the one in front of it. Place: beside the message's
//! way. Invariants: everything printed stands in the log file, across restarts of the machine; a wait looks only at what
//! came after its mark. A crash leaves the log.

use crate::screen::Screen;
use std::{
    fs::{self, File},
    io,
    io::Write,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// The console of one machine.
#[derive(Clone, Debug)]
pub struct Serial {
    log: PathBuf,
    line: Option<Line>,
}

/// The other end of the serial port of a machine that is on.
#[derive(Clone, Debug)]
pub struct Line {
    stream: Arc<UnixStream>,
    /// Octets of the log before the machine was switched on.
    before: usize,
}

impl Serial {
    /// The console that is logged to `log`; `line`: what [`join`] gave, while the machine is on.
    #[must_use]
    pub fn new(log: &Path, line: Option<Line>) -> Self {
        Self { log: log.to_owned(), line }
    }

    /// All that was printed, invalid UTF-8 replaced.
    #[must_use]
    pub fn text(&self) -> String {
        // It is made when the machine starts.
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The present end; what is printed later stands behind it.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.text().len()
    }

    /// What was printed behind `mark`.
    #[must_use]
    pub fn since(&self, mark: usize) -> String {
        self.text().get(mark..).unwrap_or_default().to_owned()
    }

    /// Waits until one of `patterns` was printed behind `mark`; its index.
    ///
    /// # Errors
    /// None was within `patience`; the error ends with the last lines.
    pub fn wait_for(&self, mark: usize, patterns: &[&str], patience: Duration) -> io::Result<usize> {
        let deadline = Instant::now() + patience;
        loop {
            let text = self.since(mark);
            if let Some(index) = patterns.iter().position(|pattern| text.contains(pattern)) {
                return Ok(index);
            }
            if Instant::now() > deadline {
                let lines: Vec<_> = text.lines().rev().take(25).collect();
                let tail: Vec<_> = lines.into_iter().rev().collect();
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("the console never showed {patterns:?}; its last lines:\n{}", tail.join("\n")),
                ));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// What stands on the screen now, of what was printed since power-on.
    #[must_use]
    pub fn screen(&self) -> Screen {
        let before = self.line.as_ref().map_or(0, |line| line.before);
        // It is made when the machine starts.
        Screen::after(fs::read(&self.log).unwrap_or_default().get(before..).unwrap_or_default())
    }

    /// Waits until one of `patterns` stands on the screen, where lines that are wrapped count as one; its index.
    ///
    /// # Errors
    /// None did within `patience`; the error shows the screen.
    pub fn wait_for_screen(&self, patterns: &[&str], patience: Duration) -> io::Result<usize> {
        let deadline = Instant::now() + patience;
        loop {
            let screen = self.screen();
            let words = screen.words();
            if let Some(index) = patterns.iter().position(|pattern| words.contains(pattern)) {
                return Ok(index);
            }
            if Instant::now() > deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("the screen never showed {patterns:?}; it shows:\n{}", screen.lines().join("\n")),
                ));
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Puts hands on the keyboard.
    ///
    /// # Errors
    /// The machine is off.
    pub fn keyboard(&self) -> io::Result<Keyboard> {
        let line = self.line.as_ref().ok_or_else(|| io::Error::other("the machine is off"))?;
        Ok(Keyboard { stream: line.stream.try_clone()? })
    }
}

/// Joins QEMU's serial port, which waits for that, and logs to `log` what it prints.
///
/// QEMU's own log has a character twice wherever its peer did not read at once; so nobody else writes the log.
///
/// # Errors
/// There is no such socket, or the log can't be written.
pub fn join(socket: &Path, log: &Path) -> io::Result<Line> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let stream = loop {
        match UnixStream::connect(socket) {
            // It has its name a moment before it listens.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            connected => break connected?,
        }
    };
    let (mut printed, mut log) = (stream.try_clone()?, File::options().create(true).append(true).open(log)?);
    let before = usize::try_from(log.metadata()?.len()).map_err(io::Error::other)?;
    // Ends with the machine.
    thread::spawn(move || io::copy(&mut printed, &mut log));
    Ok(Line { stream: Arc::new(stream), before })
}

/// Somebody's hands on the console.
pub struct Keyboard {
    stream: UnixStream,
}

impl Keyboard {
    /// Types `keys`, slowly enough for a 16550.
    ///
    /// # Errors
    /// The machine is off.
    pub fn press(&mut self, keys: &str) -> io::Result<()> {
        for octet in keys.as_bytes() {
            self.stream.write_all(&[*octet])?;
            thread::sleep(Duration::from_millis(15));
        }
        Ok(())
    }
}
