//! The command line.
//!
//! Job: turn arguments into requests and answers into lines, for people or, with `--json`, for programs. Place: a face
//! on the operator's socket; `check` and `policy` work without a daemon. Invariants: secrets are read from standard
//! input and never taken as arguments, which every process can see; exit 0 done, 1 refused or failed, 2 usage; text
//! from outside can't command the terminal. A crash leaves nothing behind.

pub(crate) mod client;
pub(crate) mod form;
mod image;
mod life;
mod machine;
mod offline;
mod print;
pub(crate) mod table;

pub use client::call_within;

use crate::{Fault, Refusal, Request, Response, Secret, protocol::MOST_ROWS};
use clap::{Args, Subcommand};
use mail::{Address, Destination, Domain, MessageId, ReversePath};
use serde::Serialize;
use spool::RowState;
use std::{
    env,
    fs::File,
    io::{self, IsTerminal, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

/// Where the daemon listens unless told otherwise.
pub const SOCKET: &str = "/run/postern/postern.sock";

/// The variable that names another socket.
pub const SOCKET_VARIABLE: &str = "POSTERN_SOCKET";

/// Between two health checks of one command.
const BETWEEN_CHECKS: Duration = Duration::from_secs(2);

/// Bytes of a secret: a recovery key has some two hundred.
const LONGEST_SECRET: u64 = 4096;

/// What every command takes.
#[derive(Args, Clone, Debug, Default)]
pub struct Face {
    /// The daemon's socket [default: $POSTERN_SOCKET, else /run/postern/postern.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long, global = true)]
    pub json: bool,
}

impl Face {
    /// The socket of this call: given, else of the environment, else the default.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        let named = || env::var_os(SOCKET_VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from);
        self.socket.clone().or_else(named).unwrap_or_else(|| PathBuf::from(SOCKET))
    }
}

/// What an operator may ask on the command line.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// How the appliance is
    Status,
    /// Mail that is not delivered yet
    #[command(subcommand)]
    Queue(Queue),
    /// One message
    #[command(subcommand)]
    Message(Message),
    /// Keys, TPM and recovery key
    #[command(subcommand)]
    Keys(Keys),
    /// Enrol with the cloud service; the one-time code is read from standard input
    Enrol,
    /// Send a message of the appliance's own and say what became of it
    TestMail {
        /// To whom
        recipient: Address,
    },
    /// Send messages of its own through the appliance, to nobody, and say of each step whether it works
    Health {
        /// Try again for so long until it is healthy
        #[arg(long, default_value_t = 0, value_name = "SECONDS")]
        wait: u64,
    },
    /// Updates of the image
    #[command(subcommand)]
    Update(UpdateCommand),
    /// The records of what was done
    #[command(subcommand)]
    Audit(Audit),
    /// The settings in force
    #[command(subcommand)]
    Settings(SettingsCommand),
    /// The machine below the appliance
    #[command(flatten)]
    Machine(machine::MachineCommand),
    /// Report every error of a settings file at once; needs no daemon
    Check {
        /// The file, or - for standard input
        file: PathBuf,
    },
    /// What the policy sees in a message; needs no daemon
    #[command(subcommand)]
    Policy(PolicyCommand),
}

/// `postern queue`
#[derive(Clone, Debug, Subcommand)]
pub enum Queue {
    /// List deliveries, oldest first
    List {
        /// Only in this state: waiting, delivering or held
        #[arg(long, value_parser = state)]
        state: Option<RowState>,
        /// Only to this destination: smarthost, cloud or internal:DOMAIN
        #[arg(long, value_parser = destination, value_name = "DESTINATION")]
        to: Option<Destination>,
        /// At most so many
        #[arg(long, default_value_t = 100, value_parser = limit, value_name = "N")]
        limit: usize,
    },
    /// The deliveries of one message
    Show {
        /// As `queue list` prints it
        id: MessageId,
    },
    /// Try again now, also what failed for good
    Retry {
        /// As `queue list` prints it
        id: MessageId,
    },
    /// Keep a message back
    Hold {
        /// As `queue list` prints it
        id: MessageId,
        /// Why; shown with the message and recorded
        #[arg(long, default_value = "held by an operator")]
        why: String,
    },
    /// Let a held message go on
    Release {
        /// As `queue list` prints it
        id: MessageId,
    },
    /// Remove a message for good, undelivered; its key is destroyed
    Delete {
        /// As `queue list` prints it
        id: MessageId,
    },
}

/// `postern message`
#[derive(Clone, Debug, Subcommand)]
pub enum Message {
    /// The whole life of a message
    Show {
        /// As `queue list` and the log print it
        id: MessageId,
    },
}

/// `postern keys`
#[derive(Clone, Debug, Subcommand)]
pub enum Keys {
    /// State of keys, TPM and recovery key
    Status,
    /// Open a locked appliance; the recovery key's words are read from standard input
    Unlock,
    /// The recovery key
    #[command(subcommand)]
    Recovery(Recovery),
}

/// `postern keys recovery`
#[derive(Clone, Debug, Subcommand)]
pub enum Recovery {
    /// Show the words, once and never again
    Show,
    /// Give the words back, from standard input, as they stand on the paper
    Confirm,
    /// Make a new recovery key, where the paper is lost or was seen; the old words open nothing any more
    Renew,
}

/// `postern update`
#[derive(Clone, Debug, Subcommand)]
pub enum UpdateCommand {
    /// Both slots, and what became of the last update
    Status,
    /// Install an image into the slot that does not run; the next start tries it
    Install {
        /// A bundle in /data/update, or an https URL
        #[arg(value_name = "FILE|URL")]
        source: String,
        /// What the bundle's SHA-256 must be
        #[arg(long, value_name = "HEX")]
        sha256: Option<String>,
        /// Restart at once to try it
        #[arg(long)]
        reboot: bool,
    },
    /// Take note of why the last update did not stay
    Acknowledge,
}

/// `postern audit`
#[derive(Clone, Debug, Subcommand)]
pub enum Audit {
    /// Look for records, index rows and stored mail that were changed behind our back
    Verify,
}

/// `postern settings`
#[derive(Clone, Debug, Subcommand)]
pub enum SettingsCommand {
    /// Print the settings in force, defaults written out
    Show,
    /// Take a settings file into force
    Apply {
        /// The file, or - for standard input
        file: PathBuf,
    },
}

/// `postern policy`
#[derive(Clone, Debug, Subcommand)]
pub enum PolicyCommand {
    /// All findings of all detectors
    Scan {
        /// The file is plain text, not a message
        #[arg(long)]
        text: bool,
        /// A settings file whose patterns are looked for too
        #[arg(long, value_name = "FILE")]
        settings: Option<PathBuf>,
        /// The message, or - for standard input
        file: PathBuf,
    },
    /// The verdict on a message, and the rules that led to it
    Explain {
        /// The settings file
        #[arg(long, value_name = "FILE")]
        settings: PathBuf,
        /// MAIL FROM; <> for a notice
        #[arg(long, value_parser = reverse_path, value_name = "ADDRESS")]
        from: ReversePath,
        /// RCPT TO; several times, or several addresses
        #[arg(long, required = true, num_args = 1.., value_name = "ADDRESS")]
        to: Vec<String>,
        /// The message, or - for standard input
        file: Option<PathBuf>,
    },
}

/// The three streams of a command.
pub struct Streams<'a> {
    /// Standard input.
    pub input: &'a mut dyn Read,
    /// Standard output.
    pub output: &'a mut dyn Write,
    /// Standard error.
    pub errors: &'a mut dyn Write,
    /// Whether a person types the input: then a question is asked, and one line is the answer.
    pub interactive: bool,
}

/// Runs a command on the process's own streams.
#[must_use]
pub fn run(command: Command, face: &Face) -> ExitCode {
    let stdin = io::stdin();
    let interactive = stdin.is_terminal();
    let (mut input, mut output, mut errors) = (stdin.lock(), io::stdout().lock(), io::stderr().lock());
    let mut streams = Streams { input: &mut input, output: &mut output, errors: &mut errors, interactive };
    ExitCode::from(run_on(command, face, &mut streams))
}

/// Runs a command on these streams: 0 done, 1 refused or failed, 2 usage.
pub fn run_on(command: Command, face: &Face, streams: &mut Streams<'_>) -> u8 {
    let result = match command {
        Command::Check { file } => offline::check(&file, face.json, streams).map_err(Failure::from),
        Command::Policy(command) => offline::policy(command, face.json, streams),
        command => ask(command, face, streams).map_err(Failure::from),
    };
    let (status, written) = match result {
        Ok(Done { text, good }) => (u8::from(!good), streams.output.write_all(text.as_bytes())),
        Err(Failure { refusal, status }) if face.json => {
            (status, streams.output.write_all(json(&Refused { error: &refusal }).as_bytes()))
        }
        Err(Failure { refusal, status }) => {
            (status, writeln!(streams.errors, "postern: {}", table::lines(&refusal.to_string())))
        }
    };
    match written.and_then(|()| streams.output.flush()) {
        // Whoever read our lines has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => 1,
        _ => status,
    }
}

/// What a command has to say, and whether it found all in order.
struct Done {
    text: Zeroizing<String>,
    good: bool,
}

impl Done {
    fn good(text: String) -> Self {
        Self { text: Zeroizing::new(text), good: true }
    }
}

/// Why a command is not done, and the status that it ends with.
struct Failure {
    refusal: Refusal,
    status: u8,
}

impl Failure {
    /// Arguments that contradict each other in a way that their grammar can't tell.
    fn usage(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { refusal: Refusal::new(Fault::BadRequest, what, remedy), status: 2 }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, status: 1 }
    }
}

/// A refusal as programs read it.
#[derive(Serialize)]
struct Refused<'a> {
    error: &'a Refusal,
}

fn json(value: &impl Serialize) -> String {
    // Our own types have string keys only, so this can't fail; an empty line would be seen.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

/// Asks the daemon.
fn ask(command: Command, face: &Face, streams: &mut Streams<'_>) -> Result<Done, Refusal> {
    let until = match command {
        Command::Health { wait } => Instant::now().checked_add(Duration::from_secs(wait)),
        _ => None,
    };
    let request = request(command, streams)?;
    let response = match until {
        Some(until) => health_until(until, &face.socket())?,
        None => client::call(&face.socket(), request)?,
    };
    let good = match &response {
        Response::Audit(report) => report.good,
        Response::Health(report) => report.healthy,
        _ => true,
    };
    let text = if face.json { print::json_of(&response) } else { print::text_of(&response) };
    Ok(Done { text: Zeroizing::new(text), good })
}

/// Asks for the health until it is good or the time is over; the daemon may only be starting.
fn health_until(until: Instant, socket: &Path) -> Result<Response, Refusal> {
    loop {
        let answer = client::call(socket, Request::Health);
        let good = matches!(&answer, Ok(Response::Health(report)) if report.healthy);
        if good || Instant::now() + BETWEEN_CHECKS > until {
            return answer;
        }
        std::thread::sleep(BETWEEN_CHECKS);
    }
}

fn request(command: Command, streams: &mut Streams<'_>) -> Result<Request, Refusal> {
    Ok(match command {
        Command::Status => Request::Status,
        Command::Queue(Queue::List { state, to, limit }) => Request::QueueList { state, destination: to, limit },
        Command::Queue(Queue::Show { id }) => Request::QueueShow { id },
        Command::Queue(Queue::Retry { id }) => Request::QueueRetry { id },
        Command::Queue(Queue::Hold { id, why }) => Request::QueueHold { id, why },
        Command::Queue(Queue::Release { id }) => Request::QueueRelease { id },
        Command::Queue(Queue::Delete { id }) => Request::QueueDelete { id },
        Command::Message(Message::Show { id }) => Request::MessageShow { id },
        Command::Keys(Keys::Status) => Request::KeysStatus,
        Command::Keys(Keys::Unlock) => {
            Request::KeysUnlock { words: secret("The words of the recovery key, then Enter:", streams)? }
        }
        Command::Keys(Keys::Recovery(Recovery::Show)) => Request::RecoveryShow,
        Command::Keys(Keys::Recovery(Recovery::Confirm)) => {
            Request::RecoveryConfirm { words: secret("The words as you wrote them down, then Enter:", streams)? }
        }
        Command::Keys(Keys::Recovery(Recovery::Renew)) => Request::RecoveryRenew,
        Command::Enrol => Request::Enrol { code: secret("The one-time code of the service, then Enter:", streams)? },
        Command::TestMail { recipient } => Request::TestMail { recipient },
        Command::Health { .. } => Request::Health,
        Command::Update(UpdateCommand::Status) => Request::UpdateStatus,
        Command::Update(UpdateCommand::Install { source, sha256, reboot }) => {
            Request::UpdateInstall { source, sha256, reboot }
        }
        Command::Update(UpdateCommand::Acknowledge) => Request::UpdateAcknowledge,
        Command::Machine(command) => machine::request(command)?,
        Command::Audit(Audit::Verify) => Request::AuditVerify,
        Command::Settings(SettingsCommand::Show) => Request::SettingsShow,
        Command::Settings(SettingsCommand::Apply { file }) => {
            Request::SettingsApply { text: read_text(&file, settings::LONGEST_TEXT as u64, streams)? }
        }
        Command::Check { .. } | Command::Policy(_) => {
            return Err(Refusal::new(Fault::BadRequest, "this needs no daemon", "run it without --socket"));
        }
    })
}

/// A secret from standard input: one line of a person, the whole of a pipe.
fn secret(question: &str, streams: &mut Streams<'_>) -> Result<Secret, Refusal> {
    let fail = |error: io::Error| {
        Refusal::new(
            Fault::Failed,
            format!("standard input can't be read: {error}"),
            "give the secret on standard input",
        )
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST_SECRET as usize));
    if streams.interactive {
        writeln!(streams.errors, "{question}").map_err(fail)?;
    }
    let mut byte = Zeroizing::new([0u8]);
    // Byte for byte, so that no buffer keeps a copy; a secret is short.
    while bytes.len() < LONGEST_SECRET as usize && streams.input.read(&mut *byte).map_err(fail)? == 1 {
        if byte[0] == b'\n' && streams.interactive {
            break;
        }
        bytes.push(byte[0]);
    }
    let text = std::str::from_utf8(&bytes).map(str::trim).unwrap_or_default();
    if text.is_empty() || bytes.len() == LONGEST_SECRET as usize {
        return Err(Refusal::new(
            Fault::BadRequest,
            "there is no secret on standard input, or it is longer than any of ours",
            "pipe it in, or call the command on a terminal and type it",
        ));
    }
    Ok(Secret::new(Zeroizing::new(text.to_owned())))
}

/// A file's bytes, or standard input's where the name is `-`.
fn read_bytes(file: &Path, most: u64, streams: &mut Streams<'_>) -> Result<Vec<u8>, Refusal> {
    let name = file.display();
    let fail = |error: io::Error| {
        Refusal::new(Fault::Failed, format!("{name} can't be read: {error}"), "check the file's name and its rights")
    };
    let mut bytes = Vec::new();
    if file.as_os_str() == "-" {
        streams.input.take(most + 1).read_to_end(&mut bytes).map_err(fail)?;
    } else {
        File::open(file).and_then(|open| open.take(most + 1).read_to_end(&mut bytes)).map_err(fail)?;
    }
    if bytes.len() as u64 > most {
        return Err(Refusal::new(
            Fault::BadRequest,
            format!("{name} is larger than {most} bytes"),
            "check that it is the right file",
        ));
    }
    Ok(bytes)
}

fn read_text(file: &Path, most: u64, streams: &mut Streams<'_>) -> Result<String, Refusal> {
    String::from_utf8(read_bytes(file, most, streams)?).map_err(|error| {
        Refusal::new(
            Fault::BadRequest,
            format!("{} is not UTF-8 (byte {})", file.display(), error.utf8_error().valid_up_to()),
            "save the file as UTF-8",
        )
    })
}

fn state(text: &str) -> Result<RowState, String> {
    match text {
        "waiting" => Ok(RowState::Waiting),
        "delivering" => Ok(RowState::Delivering),
        "held" => Ok(RowState::Held),
        _ => Err("write waiting, delivering or held".to_owned()),
    }
}

pub(crate) fn destination(text: &str) -> Result<Destination, String> {
    match text {
        "smarthost" => Ok(Destination::Smarthost),
        "cloud" => Ok(Destination::Cloud),
        _ => match text.strip_prefix("internal:").map(str::parse::<Domain>) {
            Some(Ok(domain)) => Ok(Destination::Internal(domain.to_string())),
            _ => Err("write smarthost, cloud or internal:DOMAIN".to_owned()),
        },
    }
}

fn limit(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|limit| (1..=MOST_ROWS).contains(limit))
        .ok_or_else(|| format!("write a number from 1 to {MOST_ROWS}"))
}

fn reverse_path(text: &str) -> Result<ReversePath, mail::AddressError> {
    if text == "<>" { Ok(ReversePath::Null) } else { text.parse() }
}
