//! Commands without a daemon.
//!
//! Job: `check`, `policy scan` and `policy explain`. Place: beside the daemon, on the same code that it runs.
//! Invariants: nothing is changed and nothing is asked of anybody. A crash leaves nothing behind.

use super::{Done, Failure, PolicyCommand, Streams, json, read_bytes, read_text};
use crate::{Fault, Refusal};
use mail::{Address, AddressError, ReversePath};
use policy::{Facts, Policy, detect::Detectors};
use serde::Serialize;
use settings::{Problem, Settings};
use std::path::{Path, PathBuf};

/// The largest message that settings can allow.
const LONGEST_MESSAGE: u64 = 1024 * 1024 * 1024;

/// What `check --json` prints.
#[derive(Serialize)]
struct Checked {
    good: bool,
    problems: Vec<Problem>,
}

pub(super) fn check(file: &Path, as_json: bool, streams: &mut Streams<'_>) -> Result<Done, Refusal> {
    let text = read_text(file, settings::LONGEST_TEXT as u64, streams)?;
    let problems = settings::parse(&text).err().unwrap_or_default();
    let good = problems.is_empty();
    let shown = if as_json {
        json(&Checked { good, problems })
    } else if good {
        format!("{}: good\n", file.display())
    } else {
        let count = problems.len();
        let each: String = problems.iter().map(|problem| format!("{}: {problem}\n", file.display())).collect();
        format!("{each}{count} error{}\n", if count == 1 { "" } else { "s" })
    };
    Ok(Done { good, ..Done::good(super::table::lines(&shown).into_owned()) })
}

pub(super) fn policy(command: PolicyCommand, as_json: bool, streams: &mut Streams<'_>) -> Result<Done, Failure> {
    match command {
        PolicyCommand::Scan { text, settings, file } => Ok(scan(text, settings.as_deref(), &file, as_json, streams)?),
        PolicyCommand::Explain { settings, from, to, file } => {
            let (recipients, file) = recipients_and_file(to, file)?;
            Ok(explain(&settings, from, recipients, &file, as_json, streams)?)
        }
    }
}

/// In `--to B C FILE` the list takes the file's name with it.
fn recipients_and_file(mut to: Vec<String>, file: Option<PathBuf>) -> Result<(Vec<Address>, PathBuf), Failure> {
    let last = if file.is_none() && to.len() > 1 { to.pop().map(PathBuf::from) } else { None };
    let Some(file) = file.or(last) else {
        return Err(Failure::usage(
            "the message is missing",
            "name its file behind the recipients, or - for standard input",
        ));
    };
    let parsed = to.iter().map(|address| {
        address.parse().map_err(|error: AddressError| {
            let Refusal { what, remedy, .. } = Refusal::of(Fault::BadRequest, &error);
            Failure::usage(format!("--to {address}: {what}"), remedy)
        })
    });
    Ok((parsed.collect::<Result<_, _>>()?, file))
}

fn scan(
    text: bool,
    settings: Option<&Path>,
    file: &Path,
    as_json: bool,
    streams: &mut Streams<'_>,
) -> Result<Done, Refusal> {
    let input = read_bytes(file, LONGEST_MESSAGE, streams)?;
    let report = match settings {
        Some(settings) => policy::scan(compile(&load(settings, streams)?)?.detectors(), &input, text),
        None => policy::scan(&Detectors::new(&[]).map_err(|errors| not_compiled(&errors))?, &input, text),
    };
    Ok(Done::good(if as_json { json(&report) } else { report.to_string() }))
}

fn explain(
    settings: &Path,
    sender: ReversePath,
    recipients: Vec<Address>,
    file: &Path,
    as_json: bool,
    streams: &mut Streams<'_>,
) -> Result<Done, Refusal> {
    let policy = compile(&load(settings, streams)?)?;
    let message = read_bytes(file, LONGEST_MESSAGE, streams)?;
    let facts = Facts { sender, recipients, size: message.len() as u64 };
    let explanation = policy::explain(&policy, &facts, &message);
    Ok(Done::good(if as_json { json(&explanation) } else { explanation.to_string() }))
}

fn load(file: &Path, streams: &mut Streams<'_>) -> Result<Settings, Refusal> {
    let text = read_text(file, settings::LONGEST_TEXT as u64, streams)?;
    settings::parse(&text).map_err(|problems| Refusal {
        what: format!("{} has errors", file.display()),
        remedy: "correct what is listed".to_owned(),
        ..Refusal::settings(problems)
    })
}

fn compile(settings: &Settings) -> Result<Policy, Refusal> {
    Policy::compile(&settings.policy, &settings.internal).map_err(|errors| not_compiled(&errors))
}

/// Settings are checked with the same limits before, so this is a fault of ours.
fn not_compiled<E: std::fmt::Display>(errors: &[E]) -> Refusal {
    let each: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Refusal::new(
        Fault::Failed,
        format!("the policy does not compile: {}", each.join("; ")),
        "simplify the patterns that are named, and report this",
    )
}
