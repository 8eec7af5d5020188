//! Running other programs as root.
//!
//! Job: start a program with fixed arguments, give it at most one secret, and wait no longer than its deadline. Place:
//! under everything of the helper that systemd, cryptsetup or efibootmgr do better. Invariants: never a shell; programs
//! are taken from two folders of the verified root; the environment is ours alone; what a program prints is bounded;
//! nothing is decided by its words, except where its output is a format. A crash leaves the program running to its end.

use super::{HelperError, files, place::Place};
use std::{
    io::{Read, Write},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

/// Bytes of output that are kept; the rest is read and dropped.
const MOST_OUTPUT: u64 = 64 * 1024;

/// Where programs are, in the image as in Debian.
const FOLDERS: [&str; 2] = ["/usr/bin", "/usr/sbin"];

/// How often a running program is asked whether it has ended.
const STEP: Duration = Duration::from_millis(20);

/// A program and what it is given.
pub struct Program<'a> {
    name: &'static str,
    arguments: Vec<&'a str>,
    environment: Vec<(&'static str, &'a str)>,
    input: Option<&'a [u8]>,
    output: Option<&'a Path>,
    deadline: Duration,
}

/// What a program that ended left.
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub output: String,
    /// Its standard error, one line.
    pub errors: String,
}

impl<'a> Program<'a> {
    /// The program `name`, with half a minute.
    pub fn new(name: &'static str, arguments: &[&'a str]) -> Self {
        let deadline = Duration::from_secs(30);
        Self { name, arguments: arguments.to_vec(), environment: Vec::new(), input: None, output: None, deadline }
    }

    /// More or less time.
    pub fn within(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// A variable, which only root can read of a running program.
    pub fn variable(mut self, name: &'static str, value: &'a str) -> Self {
        self.environment.push((name, value));
        self
    }

    /// Standard input.
    pub fn input(self, input: &'a [u8]) -> Self {
        Self { input: Some(input), ..self }
    }

    /// Standard output goes to this file, which is replaced, for others to follow; [`Ended::output`] stays empty.
    pub fn output_to(self, output: &'a Path) -> Self {
        Self { output: Some(output), ..self }
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It can't be started, or takes longer than its deadline and is killed.
    pub fn run(&self, place: &Place) -> Result<Ended, HelperError> {
        let name = self.name;
        let failed = |error: std::io::Error| {
            HelperError::failed(
                format!("{name} can't be run: {error}"),
                "this image is incomplete or damaged; install it again",
            )
        };
        let found = FOLDERS.iter().map(|folder| place.at(folder).join(name)).find(|path| path.exists());
        let path = found.ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
        let mut command = Command::new(path);
        command.args(&self.arguments).env_clear().env("PATH", "/usr/bin:/usr/sbin").env("LC_ALL", "C.UTF-8");
        command.envs(self.environment.iter().copied()).current_dir("/");
        command.stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() });
        let output = match self.output {
            Some(path) => Stdio::from(files::empty(path).map_err(failed)?),
            None => Stdio::piped(),
        };
        let mut child = command.stdout(output).stderr(Stdio::piped()).spawn().map_err(failed)?;
        let output = child.stdout.take().map(|pipe| thread::spawn(move || bounded(pipe)));
        let errors = child.stderr.take().map(|pipe| thread::spawn(move || bounded(pipe)));
        if let (Some(mut pipe), Some(input)) = (child.stdin.take(), self.input) {
            // A program that ended without reading says why by its status. Input is shorter than a pipe's buffer.
            let _ = pipe.write_all(input);
        }
        let status = wait(&mut child, self.deadline).map_err(failed)?.ok_or_else(|| {
            HelperError::failed(
                format!("{name} did not end in {} s", self.deadline.as_secs()),
                "try again; restart the box if it comes back",
            )
        })?;
        let text = |reader: Option<thread::JoinHandle<Vec<u8>>>| {
            let bytes = reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let errors = text(errors).split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(Ended { status, output: text(output), errors })
    }

    /// Runs it to its end, which must be a good one; gives its standard output.
    ///
    /// # Errors
    /// As [`Program::run`], and any exit status but 0.
    pub fn succeed(&self, place: &Place) -> Result<String, HelperError> {
        let ended = self.run(place)?;
        if ended.status.success() { Ok(ended.output) } else { Err(self.ended_badly(&ended)) }
    }

    /// What its bad end is called.
    pub fn ended_badly(&self, ended: &Ended) -> HelperError {
        let name = self.name;
        let said: String = ended.errors.chars().filter(|c| !c.is_control()).take(400).collect();
        HelperError::failed(
            format!("{name} failed ({}): {said}", ended.status).replace("; ", ", "),
            "look at the log of postern-helper, then try again",
        )
    }
}

fn wait(child: &mut Child, deadline: Duration) -> std::io::Result<Option<ExitStatus>> {
    let until = Instant::now() + deadline;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(STEP);
    }
}

/// Reads to the end, so that the program never waits for us, and keeps the beginning.
fn bounded(pipe: impl Read) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut pipe = pipe.take(MOST_OUTPUT);
    if pipe.read_to_end(&mut kept).is_ok() {
        let mut rest = Zeroizing::new([0; 4096]);
        let mut pipe = pipe.into_inner();
        while matches!(pipe.read(&mut *rest), Ok(read) if read > 0) {}
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Place {
        Place::new(Path::new("/"))
    }

    #[test]
    fn a_program_gets_our_environment_and_nothing_of_the_callers() {
        let output = Program::new("env", &[]).variable("NEWPASSWORD", "x").succeed(&here()).unwrap();
        let mut names: Vec<_> = output.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        names.sort_unstable();
        assert_eq!(names, ["LC_ALL", "NEWPASSWORD", "PATH"]);
    }

    #[test]
    fn a_secret_goes_over_standard_input() {
        assert_eq!(Program::new("cat", &[]).input(b"planted").succeed(&here()).unwrap(), "planted");
    }

    #[test]
    fn a_program_that_does_not_end_is_killed_at_its_deadline() {
        let start = Instant::now();
        let endless = Program::new("sleep", &["60"]).within(Duration::from_millis(100));
        let error = endless.succeed(&here()).unwrap_err();
        assert!(error.what.contains("did not end"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_failure_has_two_halves_whatever_the_program_says() {
        let error = Program::new("ls", &["/no/such; folder"]).succeed(&here()).unwrap_err();
        assert!(error.what.contains("ls failed") && !error.what.contains("; "), "{error}");
        let missing = Program::new("no-such-program", &[]).succeed(&here()).unwrap_err();
        assert!(missing.what.contains("can't be run"), "{missing}");
    }

    #[test]
    fn endless_output_is_read_and_not_kept() {
        let output = Program::new("head", &["-c", "10000000", "/dev/zero"]).succeed(&here()).unwrap();
        assert_eq!(output.len() as u64, MOST_OUTPUT);
    }
}
