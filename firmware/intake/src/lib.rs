//! The sockets on which mail comes in.
//!
//! Job: accept connections, run a [`session::Server`] over each, TLS included, and hand messages to an [`Acceptor`].
//! Place: first thing on a message's way. Invariants: at most as many sessions as the settings allow, in all and of one
//! client; every wait has an end; a client that is refused is told so with 4xx; no content and no full address in the
//! log. A crash leaves nothing behind: what has no 250 still belongs to the client.

mod acceptor;
mod certificate;
mod connection;
mod limits;
mod listener;

pub use acceptor::Acceptor;
pub use certificate::{CertificateError, certificate, tls_config};
pub use limits::{Sessions, Timeouts};
pub use listener::Intake;
