//! Commands: how a line is read, and when each is allowed.
//!
//! Job: turn a line into a [`Command`], by smtp-proto, and hold each command against the table. Place: between the line
//! reader and the session's state. Invariants: a parameter that EHLO does not offer is refused (RFC 5321 §4.1.1.11);
//! no reply quotes what the client sent. A crash leaves nothing behind.

use crate::{path, path::Path, reply};
use mail::{BodyType, Domain, Reply, ReversePath};
use smtp_proto::{
    Error, MAIL_BODY_7BIT, MAIL_BODY_8BITMIME, MAIL_BODY_BINARYMIME, MAIL_SMTPUTF8, MailFrom, RcptTo, Request,
};
use std::borrow::Cow;

/// A command as the session acts on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Ehlo(Domain),
    Helo(Domain),
    Mail(MailCommand),
    Rcpt(Path),
    Data,
    Rset,
    Noop,
    Vrfy,
    Help,
    StartTls,
    Quit,
}

/// MAIL with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MailCommand {
    pub(crate) sender: ReversePath,
    /// SIZE in octets (RFC 1870); `None` when absent.
    pub(crate) size: Option<u64>,
    pub(crate) body: BodyType,
    pub(crate) smtputf8: bool,
}

/// What must hold for a command; bits of [`Rule::needs`] and of the session's present state.
pub(crate) mod when {
    /// EHLO or HELO was given.
    pub(crate) const GREETED: u8 = 1;
    /// MAIL opened a transaction.
    pub(crate) const TRANSACTION: u8 = 2;
    /// No transaction is open.
    pub(crate) const NO_TRANSACTION: u8 = 4;
    /// At least one recipient was taken.
    pub(crate) const RECIPIENTS: u8 = 8;
    /// There is a certificate.
    pub(crate) const TLS_OFFERED: u8 = 16;
    /// TLS is not active.
    pub(crate) const PLAIN: u8 = 32;
    /// Nothing was pipelined behind the command (RFC 3207 §4).
    pub(crate) const LAST: u8 = 64;
}

use when::{GREETED, LAST, NO_TRANSACTION, PLAIN, RECIPIENTS, TLS_OFFERED, TRANSACTION};

/// One line of the table.
pub(crate) struct Rule {
    verb: &'static str,
    needs: u8,
    /// Whether a client may send it for ever without handing in mail.
    pub(crate) idle: bool,
}

const fn rule(verb: &'static str, needs: u8, idle: bool) -> Rule {
    Rule { verb, needs, idle }
}

// Order and requirements after RFC 5321 §4.1.4; the section that defines each command is named.
const EHLO: Rule = rule("EHLO", 0, true); // §4.1.1.1; also amid a transaction, which it then drops
const HELO: Rule = rule("HELO", 0, true); // §4.1.1.1
const MAIL: Rule = rule("MAIL", GREETED | NO_TRANSACTION, false); // §4.1.1.2
const RCPT: Rule = rule("RCPT", TRANSACTION, false); // §4.1.1.3
const DATA: Rule = rule("DATA", TRANSACTION | RECIPIENTS, false); // §4.1.1.4
const RSET: Rule = rule("RSET", 0, true); // §4.1.1.5
const NOOP: Rule = rule("NOOP", 0, true); // §4.1.1.9
const VRFY: Rule = rule("VRFY", 0, true); // §4.1.1.6
const HELP: Rule = rule("HELP", 0, true); // §4.1.1.8
const STARTTLS: Rule = rule("STARTTLS", GREETED | TLS_OFFERED | PLAIN | LAST, false); // RFC 3207 §4
const QUIT: Rule = rule("QUIT", 0, false); // §4.1.1.10

const TABLE: [Rule; 11] = [EHLO, HELO, STARTTLS, MAIL, RCPT, DATA, RSET, NOOP, VRFY, HELP, QUIT];

/// The commands' names, for HELP.
pub(crate) fn names() -> String {
    TABLE.map(|rule| rule.verb).join(" ")
}

/// What each missing bit is answered with, the first that is missing counts.
fn missing(bit: u8) -> Reply {
    match bit {
        GREETED => reply::bad_sequence("send EHLO first"),
        TRANSACTION => reply::bad_sequence("send MAIL first"),
        NO_TRANSACTION => reply::bad_sequence("a transaction is open already; RSET ends it"),
        RECIPIENTS => reply::no_recipients(),
        TLS_OFFERED => reply::not_implemented(),
        PLAIN => reply::bad_sequence("TLS is active already"),
        _ => reply::nothing_behind_starttls(),
    }
}

impl Command {
    /// The table's line for this command.
    pub(crate) fn rule(&self) -> Rule {
        match self {
            Self::Ehlo(_) => EHLO,
            Self::Helo(_) => HELO,
            Self::Mail(_) => MAIL,
            Self::Rcpt(_) => RCPT,
            Self::Data => DATA,
            Self::Rset => RSET,
            Self::Noop => NOOP,
            Self::Vrfy => VRFY,
            Self::Help => HELP,
            Self::StartTls => STARTTLS,
            Self::Quit => QUIT,
        }
    }

    /// Whether the command may be given when the bits of `present` hold.
    pub(crate) fn allowed(&self, present: u8) -> Result<(), Reply> {
        let lacking = self.rule().needs & !present;
        if lacking == 0 { Ok(()) } else { Err(missing(1 << lacking.trailing_zeros())) }
    }
}

/// Why a line is no command that we can act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Answer so.
    Refused(Reply),
    /// The client does not speak SMTP but HTTP: a browser that was led here (cross-protocol attack).
    OtherProtocol,
}

impl From<Reply> for Fault {
    fn from(reply: Reply) -> Self {
        Self::Refused(reply)
    }
}

/// Reads a line without its CR LF.
pub(crate) fn parse(line: &str) -> Result<Command, Fault> {
    let verb = line.split(' ').next().unwrap_or_default();
    let takes_path = verb.eq_ignore_ascii_case("MAIL") || verb.eq_ignore_ascii_case("RCPT");
    let (path, mut line) = match takes_path.then(|| path::take_path(line)).flatten() {
        Some((path, rest)) => (Some(path), rest),
        None => (None, line.to_owned()),
    };
    line.push_str("\r\n");
    let request = Request::parse(&mut line.as_bytes().iter()).map_err(|error| fault(error, verb))?;
    match (request, path) {
        (Request::Ehlo { host }, _) => Ok(Command::Ehlo(client_name(&host)?)),
        (Request::Helo { host }, _) => Ok(Command::Helo(client_name(&host)?)),
        (Request::Mail { from }, Some(path)) => Ok(Command::Mail(mail_command(&from, path)?)),
        (Request::Rcpt { to }, Some(path)) => rcpt_command(&to, path).map_err(Fault::from),
        (Request::Data, _) => alone(&line, Command::Data),
        (Request::Rset, _) => alone(&line, Command::Rset),
        (Request::Quit, _) => alone(&line, Command::Quit),
        (Request::StartTls, _) => alone(&line, Command::StartTls),
        (Request::Noop { .. }, _) => Ok(Command::Noop),
        (Request::Vrfy { .. }, _) => Ok(Command::Vrfy),
        (Request::Help { .. }, _) => Ok(Command::Help),
        // Without brackets around the path, smtp-proto has already refused the line.
        (Request::Mail { .. } | Request::Rcpt { .. }, None) => Err(reply::syntax("put the address in <>").into()),
        _ => Err(reply::not_implemented().into()),
    }
}

fn fault(error: Error, verb: &str) -> Fault {
    const HTTP: [&str; 7] = ["GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "DELETE"];
    match error {
        Error::SyntaxError { syntax } => reply::syntax(format!("the syntax is {syntax}")).into(),
        Error::InvalidParameter { param } => reply::syntax(format!("the value of {param} is not valid")).into(),
        Error::UnsupportedParameter { .. } => reply::parameter_not_offered().into(),
        Error::InvalidSenderAddress => reply::bad_sender().into(),
        Error::InvalidRecipientAddress => reply::bad_recipient().into(),
        _ if HTTP.contains(&verb) => Fault::OtherProtocol,
        _ => reply::unknown_command().into(),
    }
}

/// Commands without arguments; smtp-proto skips whatever follows them.
fn alone(line: &str, command: Command) -> Result<Command, Fault> {
    if line.trim().contains(' ') { Err(reply::syntax("this command takes no argument").into()) } else { Ok(command) }
}

/// Host name or address literal (RFC 5321 §4.1.1.1). It stands in Received, so nothing else is taken.
fn client_name(host: &str) -> Result<Domain, Reply> {
    host.parse()
        .ok()
        .filter(|_| host.is_ascii())
        .ok_or_else(|| reply::syntax("give a host name or an address literal, such as [192.0.2.1]"))
}

fn mail_command(from: &MailFrom<Cow<'_, str>>, path: Path) -> Result<MailCommand, Reply> {
    const OFFERED: u64 = MAIL_BODY_7BIT | MAIL_BODY_8BITMIME | MAIL_SMTPUTF8;
    let sender = match path {
        Path::Null => ReversePath::Null,
        Path::Mailbox(address) => ReversePath::Mailbox(address),
        Path::Postmaster | Path::Flawed => return Err(reply::bad_sender()),
    };
    let others = from.trans_id.is_some()
        || from.by != 0
        || from.env_id.is_some()
        || from.solicit.is_some()
        || from.mtrk.is_some()
        || from.auth.is_some()
        || from.hold_for != 0
        || from.hold_until != 0
        || from.mt_priority != 0;
    if others || from.flags & !OFFERED & !MAIL_BODY_BINARYMIME != 0 {
        return Err(reply::parameter_not_offered());
    }
    let body = match from.flags & (MAIL_BODY_7BIT | MAIL_BODY_8BITMIME | MAIL_BODY_BINARYMIME) {
        0 | MAIL_BODY_7BIT => BodyType::SevenBit,
        MAIL_BODY_8BITMIME => BodyType::EightBitMime,
        _ => return Err(reply::parameter_not_offered()),
    };
    let smtputf8 = from.flags & MAIL_SMTPUTF8 != 0;
    if !smtputf8 && sender.address().is_some_and(|address| !address.is_ascii()) {
        return Err(reply::needs_smtputf8(550));
    }
    let size = (from.size > 0).then_some(from.size as u64);
    Ok(MailCommand { sender, size, body, smtputf8 })
}

fn rcpt_command(to: &RcptTo<Cow<'_, str>>, path: Path) -> Result<Command, Reply> {
    if to.flags != 0 || to.orcpt.is_some() || to.rrvs != 0 {
        return Err(reply::parameter_not_offered());
    }
    match path {
        Path::Null | Path::Flawed => Err(reply::bad_recipient()),
        path => Ok(Command::Rcpt(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(line: &str) -> u16 {
        match parse(line) {
            Ok(_) => 250,
            Err(Fault::Refused(reply)) => reply.code,
            Err(Fault::OtherProtocol) => 421,
        }
    }

    #[test]
    fn the_table_names_what_is_missing_first() {
        for (line, present, code) in [
            ("MAIL FROM:<>", NO_TRANSACTION, 503),
            ("MAIL FROM:<>", GREETED | TRANSACTION, 503),
            ("MAIL FROM:<>", GREETED | NO_TRANSACTION, 250),
            ("RCPT TO:<a@b>", GREETED | NO_TRANSACTION, 503),
            ("DATA", GREETED | NO_TRANSACTION, 503),
            ("DATA", GREETED | TRANSACTION, 554),
            ("DATA", GREETED | TRANSACTION | RECIPIENTS, 250),
            ("STARTTLS", PLAIN | TLS_OFFERED | LAST, 503),
            ("STARTTLS", GREETED | PLAIN | LAST, 502),
            ("STARTTLS", GREETED | TLS_OFFERED | LAST, 503),
            ("STARTTLS", GREETED | TLS_OFFERED | PLAIN, 503),
            ("STARTTLS", GREETED | TLS_OFFERED | PLAIN | LAST, 250),
            ("QUIT", 0, 250),
        ] {
            let allowed = parse(line).unwrap().allowed(present);
            assert_eq!(allowed.err().map_or(250, |reply| reply.code), code, "{line} {present:#b}");
        }
    }

    #[test]
    fn parameters_that_are_not_offered_are_refused() {
        for line in [
            "MAIL FROM:<a@b> RET=FULL",
            "MAIL FROM:<a@b> ENVID=x",
            "MAIL FROM:<a@b> BODY=BINARYMIME",
            "MAIL FROM:<a@b> AUTH=<>",
            "MAIL FROM:<a@b> REQUIRETLS",
            "MAIL FROM:<a@b> MT-PRIORITY=3",
            "MAIL FROM:<a@b> X=Y",
            "RCPT TO:<a@b> NOTIFY=NEVER",
            "RCPT TO:<a@b> ORCPT=rfc822;a@b",
            "RCPT TO:<a@b> X",
        ] {
            assert_eq!(code(line), 555, "{line}");
        }
    }

    #[test]
    fn syntax_is_that_of_rfc_5321() {
        for (line, expected) in [
            ("mail from:<a@b> size=1 body=8bitmime smtputf8", 250),
            ("MAIL FROM:a@b", 501),
            ("MAIL FROM:<a@b", 501),
            ("MAIL FROM:<a b@c>", 501),
            ("MAIL FROM:<postmaster>", 501),
            ("MAIL FROM:<a@b> SIZE=x", 501),
            ("MAIL FROM:<a@b> BODY=9BIT", 501),
            ("MAIL FROM:<ä@b>", 550),
            ("RCPT TO:<>", 501),
            ("RCPT TO:<a>", 501),
            ("RCPT TO:<a@[192.0.2.1]>", 250),
            ("EHLO", 501),
            ("EHLO a_b.example", 250),
            ("EHLO [IPv6:2001:db8::1]", 250),
            ("EHLO a(b)", 501),
            ("EHLO <script>", 501),
            ("EHLO münchen.example", 501),
            ("DATA now", 501),
            ("QUIT ", 250),
            ("BDAT 10", 502),
            ("AUTH PLAIN", 502),
            ("EXPN staff", 502),
            ("", 500),
            ("GET / HTTP/1.1", 421),
        ] {
            assert_eq!(code(line), expected, "{line}");
        }
    }
}
