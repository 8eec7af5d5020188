//! `postern helper`: all that runs as root.
//!
//! Job: do for the daemon what its user may not: network, clock, power, data partition, factory reset. Place: `prepare`
//! and `data` early in every boot, `serve` behind its socket. Invariants: an enumerated list of requests, each checked
//! again here; no configuration, script or path is taken from the data partition; no key passes but a passphrase of the
//! data partition. A crash leaves what each act says of itself.
//!
//! ```text
//! boot:  prepare ─▶ repart, cryptsetup, mount ─▶ data ─▶ postern run ──socket──▶ serve ─▶ dispatch
//! ```

mod boot_entries;
mod client;
mod data;
mod disk;
mod dispatch;
mod files;
mod firmware;
mod network;
pub mod paths;
mod place;
mod power;
mod power_button;
mod prepare;
mod program;
mod protocol;
mod reset;
mod serve;
mod slot;
pub mod starts;
pub mod update;

pub use client::Client;
pub use place::Place;
pub use protocol::{ErrorKind, HelperError, Passphrase, Request, Response};

use crate::journal;
use nix::{
    sys::stat::{Mode, umask},
    unistd::User,
};
use std::{
    io,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// `postern helper`
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// Act below this folder instead of the whole machine
    #[arg(long, hide = true, default_value = "/")]
    root: PathBuf,
    #[command(subcommand)]
    task: Task,
}

#[derive(clap::Subcommand, Clone, Debug)]
enum Task {
    /// Carry out the daemon's requests; started by systemd with the socket
    Serve {
        /// The daemon's user, who alone may ask besides root
        #[arg(long, default_value = "postern")]
        user: String,
    },
    /// Early in the boot: slot, signatures, boot entries, network
    Prepare,
    /// Behind the data partition's mount: its folders, or what stands in for it
    Data,
    /// Switch off when the power button is pressed; started by udev
    PowerButton {
        /// The button's device, such as /dev/input/event0
        device: PathBuf,
    },
}

/// Runs one task to its end.
pub fn run(arguments: Arguments) -> ExitCode {
    if let Err(error) = journal::start(log::LevelFilter::Info) {
        eprintln!("postern: logging can't be started ({error}); check journald's socket");
        return ExitCode::FAILURE;
    }
    // Passphrases pass through here.
    if let Err(error) = vault::forbid_core_dumps() {
        log::error!(error:%; "core dumps can't be forbidden; they could hold a passphrase, so nothing is started");
        return ExitCode::FAILURE;
    }
    // What is rendered is for services of other users to read; secrets are given their mode where they are written.
    umask(Mode::from_bits_truncate(0o022));
    let place = Place::new(&arguments.root);
    match arguments.task {
        Task::Prepare => prepare::prepare(&place),
        Task::Data => {
            data::data(&place);
            update::at_boot(&place);
        }
        Task::PowerButton { device } => {
            if let Err(error) = power_button::watch(&device, &place) {
                log::error!(error:%, device:? = device; "the power button can't be watched");
                return ExitCode::FAILURE;
            }
        }
        Task::Serve { user } => {
            if let Err(error) = socket(&place).and_then(|listener| serve::serve(&listener, &place, uid_of(&user)?)) {
                log::error!(error:%; "the helper ends");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// The socket that systemd hands over. Under another root than `/` there is no systemd: it is made.
fn socket(place: &Place) -> io::Result<UnixListener> {
    let handed_over = listenfd::ListenFd::from_env().take_unix_listener(0)?;
    match handed_over {
        Some(listener) => Ok(listener),
        None if place.at("/") != Path::new("/") => UnixListener::bind(place.at(paths::SOCKET)),
        None => Err(io::Error::other("no socket was handed over; start postern-helper.socket")),
    }
}

fn uid_of(user: &str) -> io::Result<u32> {
    match User::from_name(user)? {
        Some(user) => Ok(user.uid.as_raw()),
        None => Err(io::Error::other(format!("there is no user {user}; this image is incomplete"))),
    }
}
