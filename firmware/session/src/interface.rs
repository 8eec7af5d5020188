//! What passes between a session and its executor.
//!
//! Job: name every input and action of a [`crate::Server`], and what each obliges the other side to. Place: between the
//! state machine and the sockets. Invariants: an action that asks for an answer names the input that gives it. A crash
//! leaves nothing behind.

use bytes::Bytes;
use jiff::Timestamp;
use mail::{Domain, Envelope, MessageId, Reply};
use std::net::IpAddr;

/// What all sessions share.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our name.
    pub host: Domain,
    /// SIZE in octets.
    pub max_message: u64,
    /// Recipients of one transaction; fewer than 100 count as 100.
    pub max_recipients: usize,
    /// Whether STARTTLS is offered.
    pub starttls: bool,
}

/// The client as the socket shows it.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its address.
    pub ip: IpAddr,
    /// Whether it may hand in mail for any domain.
    pub listed: bool,
}

/// What the executor tells the session.
#[derive(Debug)]
pub enum Input<R> {
    /// Octets came, at that time.
    Octets {
        /// As read; any split.
        octets: Bytes,
        /// Now.
        at: Timestamp,
    },
    /// The answer to [`Action::Admit`].
    Admitted(Result<(), Reply>),
    /// The answer to [`Action::Begin`].
    Begun(Result<MessageId, Reply>),
    /// The answer to [`Action::Commit`]. `R` proves that the message is on stable storage.
    Committed(Result<(R, MessageId), Reply>),
    /// The answer to [`Action::StartTls`]: TLS version and cipher suite.
    Secured(String),
    /// The client was too slow (RFC 5321 §4.5.3.2).
    Timeout,
    /// The service stops: a message that is being received may finish, then the session ends.
    Drain,
}

/// What the session asks of the executor, to be done in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Send these octets. They may wait for later ones until input is needed or a commit is awaited.
    Send(Vec<u8>),
    /// Say with [`Input::Admitted`] whether mail can be taken now.
    Admit,
    /// Begin a message and say so with [`Input::Begun`].
    Begin,
    /// Add these octets to the message. Where that fails, drop the message, ignore further ones, and answer
    /// [`Action::Commit`] with the error.
    Append(Bytes),
    /// Drop the message that was begun.
    Abandon,
    /// Make the message durable and answer with [`Input::Committed`].
    Commit(Box<Envelope>),
    /// Send all that waits, then accept TLS and answer with [`Input::Secured`]; on failure close.
    StartTls,
    /// A recipient or message was refused, for the log; the reply is among the octets to send.
    Refused {
        /// The command that was refused.
        verb: &'static str,
        /// The reply.
        reply: Reply,
    },
    /// Send all that waits, then close.
    Close,
}

/// What the session needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// A command: 5 minutes (RFC 5321 §4.5.3.2.7).
    Command,
    /// More of a message: 3 minutes (RFC 5321 §4.5.3.2.5).
    Content,
    /// The executor's answer. Reading on is allowed, but what is read only waits.
    Executor,
    /// Nothing; the session has ended.
    Nothing,
}
