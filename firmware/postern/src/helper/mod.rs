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

mod client;
mod dispatch;
mod place;
mod program;
mod protocol;
mod serve;

pub use client::Client;
pub use protocol::{ErrorKind, HelperError, Passphrase, Request, Response};
