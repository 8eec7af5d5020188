//! The near end of the development agent.
//!
//! Job: run a command line inside the machine and return what it printed. Place: beside the message's way, in development
//! images only. Invariants: an answer belongs to its request by number; every wait has an end. A crash leaves nothing.

use serde_json::{Value, json};
use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The tools of development images; the appliance has none.
pub const BUSYBOX: &str = "/usr/lib/postern-development/busybox";

/// How often a machine that does not answer is asked again.
const RETRY: Duration = Duration::from_millis(300);

/// What a program inside the machine did.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Exit status; -1 when it was killed or never started.
    pub status: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// The agent of one machine, by its socket.
#[derive(Clone, Debug)]
pub struct Agent {
    socket: PathBuf,
}

impl Agent {
    /// The agent behind `socket`.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Runs `argv` with `input`, for at most `patience`.
    ///
    /// # Errors
    /// The machine is off, not that far yet, or does not answer in time.
    pub fn run(&self, argv: &[&str], input: &str, patience: Duration) -> io::Result<Ran> {
        let id =
            u64::try_from(std::time::UNIX_EPOCH.elapsed().map_err(io::Error::other)?.as_nanos() & 0xffff_ffff_ffff)
                .map_err(io::Error::other)?;
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        let request = json!({ "id": id, "argv": argv, "input": input, "seconds": patience.as_secs().max(1) });
        stream.write_all(format!("{request}\n").as_bytes())?;
        let mut reader = BufReader::new(stream);
        let deadline = Instant::now() + patience + Duration::from_secs(5);
        let mut line = Vec::new();
        while Instant::now() < deadline {
            match reader.read_until(b'\n', &mut line) {
                Ok(0) => break,
                Ok(_) if !line.ends_with(b"\n") => {}
                Ok(_) => {
                    let answer: Value = serde_json::from_slice(&line).unwrap_or_default();
                    line.clear();
                    if answer["id"].as_u64() == Some(id) {
                        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
                        let status = answer["status"].as_i64().and_then(|s| i32::try_from(s).ok()).unwrap_or(-1);
                        return Ok(Ran { status, stdout: text("stdout"), stderr: text("stderr") });
                    }
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer from the machine to {argv:?}")))
    }

    /// Runs `argv` and returns its standard output.
    ///
    /// # Errors
    /// As [`Agent::run`], or it failed; the error has what it printed.
    pub fn output(&self, argv: &[&str]) -> io::Result<String> {
        let ran = self.run(argv, "", Duration::from_secs(60))?;
        if ran.status == 0 {
            return Ok(ran.stdout);
        }
        Err(io::Error::other(format!("{argv:?} ended with {}: {}{}", ran.status, ran.stdout, ran.stderr)))
    }

    /// A file of the machine, as `cat` shows it.
    ///
    /// # Errors
    /// As [`Agent::output`].
    pub fn file(&self, path: &str) -> io::Result<String> {
        self.output(&[BUSYBOX, "cat", path])
    }

    /// Waits until the agent answers.
    ///
    /// # Errors
    /// It does not within `patience`.
    pub fn wait(&self, patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let error = match self.run(&[BUSYBOX, "true"], "", Duration::from_secs(1)) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if Instant::now() > deadline {
                return Err(error);
            }
            std::thread::sleep(RETRY);
        }
    }
}
