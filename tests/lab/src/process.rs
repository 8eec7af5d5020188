//! Child processes of the lab, stopped in order and never left behind.
//!
//! Job: start the real binaries, keep their output in `log/`, stop them with SIGTERM and, when they don't, SIGKILL.
//! Place: around the whole system. Invariants: a [`Process`] that is dropped is gone. A crash of the lab itself takes
//! its children along (PR_SET_PDEATHSIG).

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::OpenOptions,
    hash::{BuildHasher, RandomState},
    io,
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Ports for labs of tests lie between these.
const FIRST_BASE: u16 = 10_000;
const LAST_BASE: u16 = 32_000;

/// A running part of the lab.
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts `command`, its output appended to `log`.
    ///
    /// # Errors
    /// The program can't be started or the log can't be opened.
    pub fn start(name: &str, mut command: Command, log: &Path) -> io::Result<Self> {
        let out = OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
        die_with_parent(&mut command);
        let child = command.spawn().map_err(|error| {
            io::Error::new(error.kind(), format!("{name} can't be started ({error}); run `make run`, which builds it"))
        })?;
        Ok(Self { name: name.to_owned(), child })
    }

    /// Its process ID.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// The kernel would not tell.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process is gone.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill(self.pid(), signal)?)
    }

    /// SIGTERM, then up to `patience` for a clean end, then SIGKILL.
    ///
    /// # Errors
    /// It had to be killed, or the kernel would not tell how it ended.
    pub fn stop(&mut self, patience: Duration) -> io::Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        kill(self.pid(), Signal::SIGTERM)?;
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.kill();
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{} did not stop within {} s and was killed; see its log", self.name, patience.as_secs()),
        ))
    }

    /// SIGKILL, as a power cut would end it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[expect(unsafe_code, reason = "between fork and exec only the async-signal-safe prctl is called")]
fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl is a plain system call; nothing is allocated and no lock is taken in the forked child.
    unsafe {
        command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
    }
}

/// A program that was built beside this one.
///
/// # Errors
/// It isn't there.
pub fn sibling(name: &str) -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    // Test binaries stand one folder deeper.
    own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file()).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("{name} is not built beside {}; run `make build`", own.display()),
        )
    })
}

/// Waits until `address` takes connections.
///
/// # Errors
/// It did not within `patience`, or `process` ended before.
pub fn wait_for_port(process: &mut Process, address: SocketAddr, patience: Duration) -> io::Result<()> {
    let name = process.name.clone();
    wait_until(process, patience, &format!("{name} does not answer on {address}"), || {
        TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
    })
}

/// Polls `ready` while `process` lives.
///
/// # Errors
/// `failure`, when `patience` is over or the process ended.
pub fn wait_until(
    process: &mut Process,
    patience: Duration,
    failure: &str,
    mut ready: impl FnMut() -> bool,
) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if let Some(status) = process.ended()? {
            return Err(io::Error::other(format!("{} ended with {status}; see its log", process.name)));
        }
        if ready() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        format!("{failure} after {} s; see the log folder", patience.as_secs()),
    ))
}

/// A port on 127.0.0.1 that nobody listens on at the moment.
///
/// # Errors
/// The machine has none left.
pub fn free_port() -> io::Result<SocketAddr> {
    std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// A run of ten ports, as [`crate::layout::Layout`] wants them, that nobody listens on at the moment. They are below those
/// that the system gives to connections (ip(7), ip_local_port_range), one of which would take a port before its listener.
///
/// # Errors
/// None was found.
pub fn free_port_base() -> io::Result<u16> {
    // Systems that start at the same time begin to look in different places.
    let begin = RandomState::new().hash_one(std::process::id());
    for attempt in 0..50 {
        let run = begin.wrapping_add(attempt) % u64::from((LAST_BASE - FIRST_BASE) / 10);
        let base = FIRST_BASE + u16::try_from(run).map_err(io::Error::other)? * 10;
        let free = |offset| std::net::TcpListener::bind(("127.0.0.1", base + offset)).is_ok();
        if (0..10).all(free) {
            return Ok(base);
        }
    }
    Err(io::Error::other("no ten free ports in a row; stop what else listens on 127.0.0.1"))
}
