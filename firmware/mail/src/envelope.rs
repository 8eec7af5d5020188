//! The SMTP envelope (RFC 5321 §2.3.1) as it was accepted.

use crate::{Address, MessageId, ReversePath};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The `BODY` parameter of MAIL (RFC 6152).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BodyType {
    /// `7BIT`, also when the parameter is absent.
    #[default]
    SevenBit,
    /// `8BITMIME`.
    EightBitMime,
}

/// Who handed the message in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// The address of the connection's far end.
    pub ip: IpAddr,
    /// The argument of EHLO or HELO, syntactically valid.
    pub helo: String,
    /// Whether EHLO was used.
    pub esmtp: bool,
    /// TLS version and cipher suite, `None` on a plain connection.
    pub tls: Option<String>,
}

/// All that is known of a message besides its octets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Given by intake when DATA begins.
    pub id: MessageId,
    /// MAIL FROM.
    pub sender: ReversePath,
    /// RCPT TO in the order given, without doubles; never empty. Recipients are referred to by their index here.
    pub recipients: Vec<Address>,
    /// BODY.
    pub body: BodyType,
    /// Whether MAIL carried SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// The client.
    pub client: Client,
    /// When the final dot arrived.
    pub received: jiff::Timestamp,
}
