//! The typed settings document.
//!
//! Job: turn the operator's TOML into types, report every error at once with its path, and say what differs between two
//! revisions. Place: below all stages; each is built from its own section. Invariants: a [`Settings`] that exists is
//! whole and consistent; no stage re-checks it. A crash leaves nothing behind: revisions are kept by the ledger.
//!
//! `firmware/settings/example.toml` documents every key.

mod check;
mod diff;
mod model;
mod network;
mod operators;
mod problem;
mod read;
mod render;
mod rules;
mod sections;

pub use diff::{Change, diff};
pub use model::*;
pub use network::{Addressing, AddressingError, MOST_DNS, MOST_NTP, OwnAddress, TimeServer};
pub use operators::{Operator, Role, with_passwords_of};
pub use problem::Problem;

use problem::{Place, Problems};
use read::Section;
use sections::Ourselves;
use toml::de::DeTable;

/// Bytes of a settings text; a thousand rules take a tenth of it.
pub const LONGEST_TEXT: usize = 1024 * 1024;

/// Reads a settings text.
///
/// # Errors
/// Every error that the text has, in the order of its lines. Where it is not TOML, only that is reported: what follows
/// a broken line can't be trusted to mean what it says.
pub fn parse(text: &str) -> Result<Settings, Vec<Problem>> {
    let mut problems = Problems::new(text);
    let whole = Place { path: String::new(), span: 0..0 };
    if text.len() > LONGEST_TEXT {
        let (what, remedy) = sections::too_large(text.len(), LONGEST_TEXT);
        problems.add(&whole, what, remedy);
        return Err(problems.into_sorted());
    }
    let (tree, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        for error in errors {
            let place = Place { path: String::new(), span: error.span().unwrap_or(0..0) };
            problems.add(
                &place,
                format!("this is not TOML: {}", error.message()),
                "correct the line; texts stand in quotes",
            );
        }
        return Err(problems.into_sorted());
    }

    let mut root = Section::root(&tree);
    let host = sections::host(&mut root, &mut problems);
    let network = network::network(&mut root, &mut problems);
    let operators = operators::operators(&mut root, &mut problems);
    let intake = sections::intake(&mut root, &mut problems);
    let ourselves = Ourselves { host: host.as_ref(), intake: intake.as_ref() };
    let relay = sections::relay(&mut root, &ourselves, &mut problems);
    let internal = sections::internal(&mut root, &ourselves, &mut problems);
    let cloud = sections::cloud(&mut root, &mut problems);
    let retry = sections::retry(&mut root, &mut problems);
    let spool = sections::spool(&mut root, &mut problems);
    let policy = rules::policy(&mut root, intake.as_ref().map(|intake| intake.max_message_bytes), &mut problems);
    root.finish(&mut problems);

    match (host, intake, relay) {
        (Some(host), Some(intake), Some(relay)) if problems.is_empty() => {
            Ok(Settings { host, network, operators, intake, relay, internal, cloud, retry, spool, policy })
        }
        _ => Err(problems.into_sorted()),
    }
}
