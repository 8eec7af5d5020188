//! The daemon's life.
//!
//! Job: from arguments to drained. Place: around everything. Invariants: no key exists before core dumps are forbidden;
//! the operator's socket is there in every state, the start included, and first of all, so that whatever is broken behind it
//! can be told and the box be restarted; SMTP only when mail can be kept or refused; SIGTERM drains. A crash at any point is
//! made good by the next start.

use crate::{build::BuildError, daemon::Daemon, image::Image, journal, told::Told, updates, worker};
use operator::Operator;
use std::{
    future::Future,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use vault::{Opened, Vault, VaultConfig};

/// One job of the TPM takes far less; a TPM that takes longer is a fault of its own.
const TPM_DEADLINE: Duration = Duration::from_secs(10);

/// `postern run`
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// Data folder: keys (sealed), spool, ledger
    #[arg(long)]
    pub data: PathBuf,
    /// Settings to begin with, where none are recorded yet; without them the appliance waits to be set up
    #[arg(long)]
    pub settings: Option<PathBuf>,
    /// The TPM: device:/dev/tpmrm0, or swtpm:host=…,port=…
    #[arg(long, default_value = "device:/dev/tpmrm0")]
    pub tcti: String,
    /// The vendor's policy key (PEM), from the verified image
    #[arg(long, default_value = "/usr/share/postern/policy-public.pem")]
    pub policy_key: PathBuf,
    /// The signed PCR policies of this image (JSON)
    #[arg(long, default_value = "/usr/share/postern/policy-signatures.json")]
    pub policy_signatures: PathBuf,
    /// Root's helper; without one nothing of the machine itself is touched
    #[arg(long, value_name = "SOCKET")]
    pub helper: Option<PathBuf>,
    /// There while the data partition is closed and its folder only stands in for it; holds why
    #[arg(long, value_name = "FILE")]
    pub data_locked: Option<PathBuf>,
    /// What root says of this machine: Secure Boot, how the data partition was opened
    #[arg(long, value_name = "FOLDER")]
    pub machine: Option<PathBuf>,
    /// What the image says of itself (JSON); without it the program speaks for itself
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Judging processes [default: one for each core]
    #[arg(long)]
    pub workers: Option<usize>,
    /// Least important lines that are logged: error, warn, info, debug
    #[arg(long, default_value = "info")]
    pub log: log::LevelFilter,
}

/// Runs until SIGTERM or SIGINT.
pub fn run(arguments: Arguments, socket: PathBuf) -> ExitCode {
    if let Err(error) = vault::forbid_core_dumps() {
        eprintln!("postern: core dumps can't be forbidden ({error}); they could hold keys, so nothing is started");
        return ExitCode::FAILURE;
    }
    if let Err(error) = journal::start(arguments.log) {
        eprintln!("postern: logging can't be started ({error}); check journald's socket");
        return ExitCode::FAILURE;
    }
    // A panic's text may quote mail; its place does not.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        log::error!(place:%; "a defect in Postern; please report its place");
    }));
    match serve(arguments, &socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: Arguments, socket: &Path) -> Result<(), BuildError> {
    let part = |what: &str, error: &dyn std::fmt::Display| BuildError::Part(format!("{what}: {error}"));
    // Workers are forked before any key is in memory.
    let count = arguments.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let workers =
        Arc::new(worker::Pool::start(count).map_err(|error| part("no judging process can be started", &error))?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| part("no thread can be started", &error))?;
    runtime.block_on(async {
        // Caught from here on, so that a stop during the start is a clean one.
        let stopped = stop_signal().map_err(|error| part("signals can't be caught", &error))?;
        let daemon = Arc::new(Daemon::new(arguments, workers));
        let (stop, mut stopping) = watch::channel(false);
        let listener = operator::bind(socket)
            .map_err(|error| part(&format!("the operators' socket {} can't be opened", socket.display()), &error))?;
        let operators = tokio::spawn(operator::serve(listener, Arc::new(Operator::new(daemon.clone())), async move {
            let _ = stopping.wait_for(|stop| *stop).await;
        }));
        updates::remove_unfinished(&daemon.arguments.data);
        daemon.begin().await;
        tokio::spawn(daemon.clone().ask_again());
        announce();
        stopped.await;
        log::info!("stopping: no new mail is taken, what is under way is finished");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        let _ = stop.send(true);
        let _ = operators.await;
        daemon.close().await;
        log::info!("stopped");
        Ok(())
    })
}

/// Why the data folder is not the data partition; none where it is. A file that can't be read is a reason too: keys must
/// never be made in a folder that only stands in.
pub fn why_data_is_locked(arguments: &Arguments) -> Option<String> {
    let file = arguments.data_locked.as_deref()?;
    match std::fs::read_to_string(file) {
        Ok(reason) => Some(reason.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => Some(format!("{} can't be read: {error}; restart the box", file.display())),
    }
}

/// Opens the vault on the data folder.
///
/// # Errors
/// The TPM's name is none, or no thread can be started.
pub async fn open_vault(arguments: &Arguments) -> Result<(Vault, Opened), BuildError> {
    let on_trial = arguments.helper.is_some() && updates::on_trial();
    let generation = Image::of(arguments.image.as_deref()).sealed_for(on_trial);
    let config = VaultConfig {
        dir: arguments.data.join("keys"),
        tcti: arguments.tcti.clone(),
        policy_key: arguments.policy_key.clone(),
        policy_signatures: arguments.policy_signatures.clone(),
        generation_floor: generation,
        deadline: TPM_DEADLINE,
        // New keys would not open an old queue: where there is one, a missing key store is a fault.
        may_seal: Told::new(arguments.machine.as_deref()).may_seal(),
        create: !arguments.data.join("spool").exists() && !arguments.data.join("ledger.db").exists(),
    };
    let opened = tokio::task::spawn_blocking(move || Vault::open(config)).await;
    opened.map_err(|error| BuildError::Part(error.to_string()))?.map_err(|error| BuildError::Part(error.to_string()))
}

fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn announce() {
    log::info!(version = env!("CARGO_PKG_VERSION"); "ready");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}
