//! What an operator may see and do, once, whatever the face.
//!
//! Job: answer operators' requests over a Unix socket and offer the command-line face of it. Place: beside the
//! message's way; it looks at the spool and asks it to act, but carries no mail. Invariants: only root, the daemon's own
//! user and signed-in operators act (`access` has the exceptions before the first operator); what acts is recorded in the
//! ledger; secrets come over standard input and leave no trace; a locked appliance answers about status and keys only.
//! A crash leaves nothing behind: what was done is in the spool and the ledger, and the socket is made anew.

mod access;
mod appliance;
pub mod cli;
pub mod console;
pub mod health;
pub mod machine;
mod operate;
mod password;
pub mod protocol;
mod record;
mod refusal;
mod server;
mod sign_in;
mod test_mail;
pub mod update;
pub mod view;

pub use access::Caller;
pub use appliance::{
    Adopted, Alarm, Appliance, Closed, CloudState, Enrolment, Facts, Failing, KeyFacts, Locked, Opened, Secret,
    SecureBoot, Unlocked,
};
pub use operate::Operator;
pub use protocol::{Request, Response};
pub use refusal::{Fault, Refusal};
pub use server::{bind, serve};
