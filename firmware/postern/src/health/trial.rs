//! Whether a new image stays, and whether a known one is still well.
//!
//! Job: ask the daemon for its health until it is good or the time is over, then have the image marked good or given up.
//! Place: `postern trial`, started by `postern-trial.service` where the image that runs has not shown that it works, and by
//! `postern-health.service` (`--good`) where it has: there a check that passes ends the count of starts without one, and
//! one that fails is an alarm. Invariants: an image is kept only after a check that passed; whatever fails on a trial ends
//! with an exit status that makes systemd restart the box, and the firmware then starts the image before. A crash leaves
//! the image unmarked, and has the same end.

use crate::helper::{Client, ErrorKind, HelperError, Request, paths::SOCKET};
use operator::{Response, cli, health::HealthCheck};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

/// Between two checks.
const PAUSE: Duration = Duration::from_secs(3);
/// What one check may take at least, also at the end.
const SHORTEST: Duration = Duration::from_secs(30);

/// `postern trial`
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// How long the image has to become healthy
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    wait: u64,
    /// The image has shown before that it works, and is not given up
    #[arg(long)]
    good: bool,
    /// Root's helper
    #[arg(long, default_value = SOCKET, value_name = "PATH")]
    helper: PathBuf,
}

/// Runs the trial to its end.
pub fn run(arguments: &Arguments, socket: &Path) -> ExitCode {
    if let Err(error) = crate::journal::start(log::LevelFilter::Info) {
        eprintln!("postern: logging can't be started ({error}); check journald's socket");
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            log::error!(error:%; "no thread can be started; the image is given up");
            return ExitCode::FAILURE;
        }
    };
    let helper = Client::new(&arguments.helper);
    let ask = |request| runtime.block_on(helper.call(request));
    let mut ended = healthy(socket, Instant::now() + Duration::from_secs(arguments.wait));
    if ended.is_ok() {
        log::info!(event = "trial_passed", on_trial = !arguments.good; "the image has shown that it works");
        match ask(Request::MarkGood) {
            Ok(_) => return ExitCode::SUCCESS,
            Err(error) => ended = Err(format!("it is healthy and can't be marked good: {}", error.what)),
        }
    }
    let words = ended.err().unwrap_or_default();
    if arguments.good {
        log::error!(event = "not_healthy", words = words.as_str(); "this image is not healthy; it goes on");
        return ExitCode::FAILURE;
    }
    log::error!(event = "trial_failed", words = words.as_str(); "the image has not shown that it works");
    outcome(ask(Request::GiveUpTrial { words }).err())
}

/// What is left to do where the image is given up: nothing, where root restarts the box or has a reason not to.
fn outcome(error: Option<HelperError>) -> ExitCode {
    match error {
        None => ExitCode::SUCCESS,
        // Without another image a restart would only be the next one of many.
        Some(error) if error.kind == ErrorKind::Refused => {
            log::error!(error:%; "the image goes on although it is not healthy");
            ExitCode::SUCCESS
        }
        Some(error) => {
            log::error!(error:%; "the helper does not give the image up; systemd restarts the box");
            ExitCode::FAILURE
        }
    }
}

/// Asks until the daemon says that all is well.
///
/// # Errors
/// At the end of the time: what was wrong last.
fn healthy(socket: &Path, until: Instant) -> Result<(), String> {
    loop {
        let left = until.saturating_duration_since(Instant::now()).max(SHORTEST);
        let wrong = match cli::call_within(socket, operator::Request::Health, left) {
            Ok(Response::Health(report)) => match report.failure() {
                None => return Ok(()),
                Some(HealthCheck { name, what, .. }) => format!("{name}: {what}"),
            },
            Ok(_) => "the daemon gave another answer than was asked for".to_owned(),
            Err(refusal) => format!("the daemon: {}", refusal.what),
        };
        log::warn!(wrong = wrong.as_str(); "not healthy yet");
        if Instant::now() + PAUSE >= until {
            return Err(wrong);
        }
        std::thread::sleep(PAUSE);
    }
}
