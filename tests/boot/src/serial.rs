//! The serial console, ttyS0 of the machine.
//!
//! Job: what the machine printed since power-on, and keys pressed by the one in front of it. Place: beside the message's
//! way. Invariants: everything printed stands in the log file, across restarts of the machine; a wait looks only at what
//! came after its mark. A crash leaves the log.

use std::{
    fs, io,
    io::Write,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The console of one machine.
#[derive(Clone, Debug)]
pub struct Serial {
    log: PathBuf,
    socket: PathBuf,
}

impl Serial {
    /// The console that QEMU logs to `log` and serves on `socket`.
    #[must_use]
    pub fn new(log: &Path, socket: &Path) -> Self {
        Self { log: log.to_owned(), socket: socket.to_owned() }
    }

    /// All that was printed, invalid UTF-8 replaced.
    #[must_use]
    pub fn text(&self) -> String {
        // QEMU makes the file when the machine starts.
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
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Opens the keyboard. QEMU serves one at a time.
    ///
    /// # Errors
    /// The machine is off.
    pub fn keyboard(&self) -> io::Result<Keyboard> {
        Ok(Keyboard { stream: UnixStream::connect(&self.socket)? })
    }
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
            std::thread::sleep(Duration::from_millis(15));
        }
        Ok(())
    }
}
