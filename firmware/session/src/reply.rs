//! Every reply of the server, in one place.
//!
//! Job: say what a session answers, with the codes of RFC 5321 §4.2.3 and RFC 3463. Place: under the server. Invariants:
//! no text quotes what the client sent; the 250 after the final dot needs the receipt. A crash leaves nothing behind.

use crate::data::Flaw;
use mail::{Domain, EnhancedCode, MessageId, Reply};

fn reply(code: u16, subject: u16, detail: u16, text: impl Into<String>) -> Reply {
    let class = u8::try_from(code / 100).unwrap_or(5);
    Reply::new(code, EnhancedCode(class, subject, detail), text)
}

/// The greeting.
pub(crate) fn greeting(host: &Domain) -> Reply {
    Reply::plain(220, format!("{host} ESMTP Postern"))
}

/// EHLO's answer: the name, then one extension a line (RFC 5321 §4.1.1.1).
pub(crate) fn ehlo(host: &Domain, max_message: u64, starttls: bool) -> Reply {
    let mut lines = vec![host.to_string(), "PIPELINING".into(), format!("SIZE {max_message}"), "8BITMIME".into()];
    lines.extend(starttls.then(|| "STARTTLS".to_owned()));
    lines.extend(["ENHANCEDSTATUSCODES".to_owned(), "SMTPUTF8".to_owned()]);
    Reply { code: 250, enhanced: None, lines }
}

pub(crate) fn helo(host: &Domain) -> Reply {
    Reply::plain(250, host.to_string())
}

/// The only way to say that a message is ours: `_receipt` is the proof that it is on stable storage.
pub(crate) fn accepted<R>(_receipt: R, id: MessageId) -> Reply {
    reply(250, 0, 0, format!("queued as {id}"))
}

pub(crate) fn sender_ok() -> Reply {
    reply(250, 1, 0, "sender ok")
}

pub(crate) fn recipient_ok() -> Reply {
    reply(250, 1, 5, "recipient ok")
}

pub(crate) fn ok() -> Reply {
    reply(250, 0, 0, "ok")
}

pub(crate) fn go_ahead() -> Reply {
    Reply::plain(354, "end the message with <CR><LF>.<CR><LF>")
}

pub(crate) fn start_tls() -> Reply {
    reply(220, 0, 0, "start the handshake")
}

/// RFC 5321 §3.5.3: the address is not checked before delivery.
pub(crate) fn vrfy() -> Reply {
    reply(252, 0, 0, "not verified; send mail and delivery will be tried")
}

pub(crate) fn help(commands: &str) -> Reply {
    reply(214, 0, 0, format!("see RFC 5321; the commands are {commands}"))
}

pub(crate) fn bye() -> Reply {
    reply(221, 0, 0, "closing the connection")
}

pub(crate) fn unknown_command() -> Reply {
    reply(500, 5, 1, "this command is not known")
}

pub(crate) fn not_implemented() -> Reply {
    reply(502, 5, 1, "this command is not offered here")
}

pub(crate) fn bad_sequence(text: &str) -> Reply {
    reply(503, 5, 1, text)
}

/// RFC 3207 §4: the handshake must be next; whatever else follows was injected, or will be taken for TLS.
pub(crate) fn nothing_behind_starttls() -> Reply {
    bad_sequence("nothing may follow STARTTLS before the handshake")
}

pub(crate) fn syntax(text: impl Into<String>) -> Reply {
    reply(501, 5, 4, text)
}

pub(crate) fn line_too_long() -> Reply {
    reply(500, 5, 2, "the line is too long")
}

pub(crate) fn line_has_controls() -> Reply {
    reply(500, 5, 2, "end each line with CR LF, and send no CR, LF or NUL within it")
}

pub(crate) fn line_not_utf8() -> Reply {
    reply(500, 5, 2, "the line is not UTF-8")
}

pub(crate) fn parameter_not_offered() -> Reply {
    reply(555, 5, 4, "this parameter is not offered here")
}

pub(crate) fn bad_sender() -> Reply {
    reply(501, 1, 7, "the sender is not an address")
}

pub(crate) fn bad_recipient() -> Reply {
    reply(501, 1, 3, "the recipient is not an address")
}

/// RFC 6531 §3.5: 550 at MAIL, 553 at RCPT.
pub(crate) fn needs_smtputf8(code: u16) -> Reply {
    reply(code, 6, 7, "an address beyond ASCII needs SMTPUTF8 on the MAIL command")
}

pub(crate) fn relaying_denied() -> Reply {
    reply(550, 7, 1, "relaying denied; this client is not in a listed network")
}

pub(crate) fn too_many_recipients() -> Reply {
    reply(452, 5, 3, "too many recipients; send the rest in another transaction")
}

/// RFC 2920 §3.1 and RFC 5321 §3.3 leave 503 and 554; 554 tells that RCPT was seen.
pub(crate) fn no_recipients() -> Reply {
    reply(554, 5, 1, "no valid recipients")
}

pub(crate) fn too_large(max_message: u64) -> Reply {
    reply(552, 3, 4, format!("the message is larger than {max_message} octets"))
}

pub(crate) fn header_too_long() -> Reply {
    reply(552, 3, 4, "the header section is larger than 1 MiB")
}

pub(crate) fn mail_loop() -> Reply {
    reply(554, 4, 6, "too many hops; the message is in a loop")
}

/// RFC 3463 has no detail for it; 5.6.11 is what postmasters know from Exchange and search for.
pub(crate) fn flawed(flaw: Flaw) -> Reply {
    match flaw {
        Flaw::BareCr => reply(550, 6, 11, "the message has a CR without LF, which RFC 5321 2.3.8 forbids"),
        Flaw::BareLf => reply(550, 6, 11, "the message has an LF without CR, which RFC 5321 2.3.8 forbids"),
    }
}

pub(crate) fn too_many_errors() -> Reply {
    reply(421, 7, 0, "too many errors; closing the connection")
}

pub(crate) fn not_smtp() -> Reply {
    reply(421, 7, 0, "this is an SMTP server; closing the connection")
}

pub(crate) fn too_slow() -> Reply {
    reply(421, 4, 2, "too slow; closing the connection")
}

pub(crate) fn shutting_down() -> Reply {
    reply(421, 3, 2, "the service is shutting down; try again later")
}

/// Our own executor broke the contract; nothing was accepted.
pub(crate) fn internal() -> Reply {
    reply(451, 3, 0, "local error; try again later")
}

/// Instead of a greeting, when there are as many sessions as are allowed.
#[must_use]
pub fn too_many_sessions() -> Reply {
    reply(421, 3, 2, "too many sessions; try again later")
}

/// Instead of a greeting, when the client has as many sessions as one client may have.
#[must_use]
pub fn refused_at_connect() -> Reply {
    reply(421, 7, 0, "too many sessions from your address; try again later")
}
