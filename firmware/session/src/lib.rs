//! The SMTP state machines, without I/O.
//!
//! Job: turn octets from a client into replies, a strictly bounded message and an [`mail::Envelope`]; the only user of
//! smtp-proto. Place: between the sockets of intake and the stages behind the final dot. Invariants: a session's state
//! is consumed by every step; the 250 after the final dot can't be formed without the receipt `R`; only CR LF . CR LF
//! ends a message; nothing here reads a clock, a socket or a file. A crash leaves nothing behind: the client has no
//! 250 yet and keeps its message.
//!
//! The executor's side of the contract stands at [`Server::step`].

pub mod client;
mod command;
mod data;
mod header;
mod interface;
mod line;
mod path;
mod received;
mod reply;
mod server;
mod transaction;

pub use data::{EndOfData, Flaw};
pub use interface::{Action, Config, Input, Peer, Waiting};
pub use received::received_header;
pub use reply::{refused_at_connect, too_many_sessions};
pub use server::Server;
