//! One message's commands and answers (RFC 5321 §4.1.1, RFC 2920).

use super::Capabilities;
use mail::{Address, EnhancedCode, Outcome, Reply, ReversePath};
use std::{io::Write as _, ops::Range};

/// A message to send. At most 100 recipients at once is what every server must take (RFC 5321 §4.5.3.1.8).
#[derive(Clone, Copy, Debug)]
pub struct Transaction<'a> {
    /// MAIL FROM.
    pub sender: &'a ReversePath,
    /// RCPT TO, in this order.
    pub recipients: &'a [&'a Address],
    /// Octets of the content, without dot-stuffing.
    pub size: u64,
    /// The content has octets above 127: it needs 8BITMIME.
    pub eight_bit: bool,
    /// The header has octets above 127: it needs SMTPUTF8. Addresses are looked at here.
    pub utf8_header: bool,
    /// SMTPUTF8 was asked for when the message was taken; passed on to a next hop that has it.
    pub smtputf8: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Reset,
    Mail,
    Recipient(usize),
    Data,
}

#[derive(Clone, Debug)]
enum Recipient {
    Waiting,
    Accepted,
    Settled(Outcome),
}

/// What follows from an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// More commands, or more answers.
    Waiting,
    /// 354, and somebody was accepted.
    Content,
    /// 354, and nobody was accepted.
    LoneDot,
    /// No content will be sent.
    Over,
    /// The answer does not fit the command.
    Nonsense,
}

/// A transaction under way.
#[derive(Debug)]
pub(super) struct Exchange {
    wire: Vec<u8>,
    commands: Vec<(Command, Range<usize>)>,
    pipelined: bool,
    sent: usize,
    answered: usize,
    recipients: Vec<Recipient>,
}

impl Exchange {
    /// Lays the commands out. Recipients that this next hop cannot take, whatever it says, are settled at once.
    pub(super) fn new(transaction: &Transaction<'_>, capabilities: Capabilities, reset: bool) -> Self {
        let mut exchange = Self {
            wire: Vec::with_capacity(64 + 48 * transaction.recipients.len()),
            commands: Vec::with_capacity(transaction.recipients.len() + 3),
            pipelined: capabilities.pipelining,
            sent: 0,
            answered: 0,
            recipients: Vec::with_capacity(transaction.recipients.len()),
        };
        let unfit = unfit(transaction, capabilities);
        for recipient in transaction.recipients {
            let unfit = unfit.clone().or_else(|| (!recipient.is_ascii() && !capabilities.smtputf8).then(no_smtputf8));
            exchange
                .recipients
                .push(unfit.map_or(Recipient::Waiting, |reply| Recipient::Settled(Outcome::Failed(reply))));
        }
        if !exchange.is_settled() {
            exchange.lay_out(transaction, capabilities, reset);
        }
        exchange
    }

    fn lay_out(&mut self, transaction: &Transaction<'_>, capabilities: Capabilities, reset: bool) {
        if reset {
            self.command(Command::Reset, |wire| wire.extend_from_slice(b"RSET"));
        }
        self.command(Command::Mail, |wire| {
            // Writing to memory does not fail.
            let _ = write!(wire, "MAIL FROM:<{}>", transaction.sender);
            if capabilities.size {
                let _ = write!(wire, " SIZE={}", transaction.size);
            }
            if transaction.eight_bit && capabilities.eight_bit {
                wire.extend_from_slice(b" BODY=8BITMIME");
            }
            if capabilities.smtputf8 && needs_smtputf8(transaction) {
                wire.extend_from_slice(b" SMTPUTF8");
            }
        });
        for (index, recipient) in transaction.recipients.iter().enumerate() {
            if matches!(self.recipients.get(index), Some(Recipient::Waiting)) {
                self.command(Command::Recipient(index), |wire| {
                    let _ = write!(wire, "RCPT TO:<{recipient}>");
                });
            }
        }
        self.command(Command::Data, |wire| wire.extend_from_slice(b"DATA"));
    }

    fn command(&mut self, command: Command, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.wire.len();
        write(&mut self.wire);
        self.wire.extend_from_slice(b"\r\n");
        self.commands.push((command, start..self.wire.len()));
    }

    /// The octets to send now, if any: all commands at once with PIPELINING, else the next one.
    pub(super) fn next_commands(&mut self) -> Option<Vec<u8>> {
        if self.sent > self.answered || self.sent == self.commands.len() {
            return None;
        }
        if self.pipelined {
            self.sent = self.commands.len();
            return Some(std::mem::take(&mut self.wire));
        }
        let (_, range) = self.commands.get(self.sent)?;
        self.sent += 1;
        self.wire.get(range.clone()).map(<[u8]>::to_vec)
    }

    /// Takes the answer to the oldest command without one.
    pub(super) fn answer(&mut self, reply: Reply) -> Step {
        let Some(&(command, _)) = self.commands.get(self.answered) else { return Step::Nonsense };
        let refused = reply.is_transient() || reply.is_permanent();
        if self.answered >= self.sent || !(refused || fits(command, &reply)) {
            return Step::Nonsense;
        }
        self.answered += 1;
        match command {
            // Without RSET the old transaction would be mixed with the new one.
            Command::Reset if refused => return Step::Nonsense,
            Command::Reset => {}
            Command::Mail if refused => {
                self.settle_rest(&outcome_of(reply));
                if !self.pipelined {
                    return Step::Over;
                }
            }
            Command::Mail => {}
            Command::Recipient(index) => {
                if let Some(recipient @ Recipient::Waiting) = self.recipients.get_mut(index) {
                    *recipient =
                        if refused { Recipient::Settled(outcome_of_recipient(reply)) } else { Recipient::Accepted };
                }
                // Without PIPELINING nothing forces us to send DATA for nobody.
                if !self.pipelined && self.awaits_data() && self.is_settled() {
                    return Step::Over;
                }
            }
            Command::Data if refused => {
                self.settle_accepted(&outcome_of(reply));
                return Step::Over;
            }
            Command::Data if self.is_settled() => return Step::LoneDot,
            Command::Data => return Step::Content,
        }
        Step::Waiting
    }

    /// Only DATA's answer is still to come.
    pub(super) fn awaits_data(&self) -> bool {
        self.answered + 1 == self.commands.len()
    }

    /// Nobody waits for anything.
    pub(super) fn is_settled(&self) -> bool {
        self.recipients.iter().all(|recipient| matches!(recipient, Recipient::Settled(_)))
    }

    /// Nothing about this message was answered yet.
    pub(super) fn is_untouched(&self) -> bool {
        self.commands.iter().take(self.answered).all(|(command, _)| *command == Command::Reset)
    }

    /// When it is, for the text of a lost connection.
    pub(super) fn moment(&self) -> &'static str {
        match self.commands.get(self.answered) {
            Some((Command::Reset | Command::Mail, _)) => "after MAIL",
            Some((Command::Recipient(_), _)) => "after RCPT",
            _ => "after DATA",
        }
    }

    /// Gives `outcome` to those who were accepted.
    pub(super) fn settle_accepted(&mut self, outcome: &Outcome) {
        for recipient in &mut self.recipients {
            if matches!(recipient, Recipient::Accepted) {
                *recipient = Recipient::Settled(outcome.clone());
            }
        }
    }

    /// Gives `outcome` to all who have none.
    pub(super) fn settle_rest(&mut self, outcome: &Outcome) {
        for recipient in &mut self.recipients {
            if !matches!(recipient, Recipient::Settled(_)) {
                *recipient = Recipient::Settled(outcome.clone());
            }
        }
    }

    pub(super) fn into_outcomes(self) -> Vec<Outcome> {
        let unanswered = || Outcome::Deferred(Reply::new(451, EnhancedCode(4, 5, 0), "the next hop gave no answer"));
        self.recipients
            .into_iter()
            .map(|recipient| match recipient {
                Recipient::Settled(outcome) => outcome,
                Recipient::Waiting | Recipient::Accepted => unanswered(),
            })
            .collect()
    }
}

/// The positive answer to `command`.
fn fits(command: Command, reply: &Reply) -> bool {
    match command {
        Command::Data => reply.code == 354,
        _ => reply.is_positive(),
    }
}

fn needs_smtputf8(transaction: &Transaction<'_>) -> bool {
    transaction.smtputf8
        || transaction.utf8_header
        || transaction.sender.address().is_some_and(|sender| !sender.is_ascii())
        || transaction.recipients.iter().any(|recipient| !recipient.is_ascii())
}

/// Why this next hop cannot take the message at all.
fn unfit(transaction: &Transaction<'_>, capabilities: Capabilities) -> Option<Reply> {
    let foreign_sender = transaction.sender.address().is_some_and(|sender| !sender.is_ascii());
    if !capabilities.smtputf8 && (transaction.utf8_header || foreign_sender) {
        return Some(no_smtputf8());
    }
    if !capabilities.eight_bit && transaction.eight_bit {
        let text = "the next hop has no 8BITMIME, and mail is not converted; send it as 7-bit MIME";
        return Some(Reply::new(554, EnhancedCode(5, 6, 3), text));
    }
    if let Some(max) = capabilities.max_size.filter(|&max| transaction.size > max) {
        let text = format!("{} octets are more than the {max} that the next hop takes; send less", transaction.size);
        return Some(Reply::new(552, EnhancedCode(5, 3, 4), text));
    }
    None
}

/// RFC 6531 §3.5: X.6.7 where a recipient or sender needs SMTPUTF8 and the next hop has none.
fn no_smtputf8() -> Reply {
    let text = "the next hop has no SMTPUTF8, and mail is not converted; use ASCII addresses and header fields";
    Reply::new(553, EnhancedCode(5, 6, 7), text)
}

pub(super) fn outcome_of(reply: Reply) -> Outcome {
    match reply.code {
        200..300 => Outcome::Delivered(reply),
        // Authentication or TLS wanted (RFC 4954 §6, RFC 3207 §4): it is about this connection, not about the message,
        // and an operator can mend it.
        530 | 534 | 535 | 538 => Outcome::Deferred(reply),
        500..600 => Outcome::Failed(reply),
        _ => Outcome::Deferred(reply),
    }
}

/// RFC 5321 §4.5.3.1.10: 552 to RCPT means too many recipients and is to be treated as 452, unless its enhanced code
/// says another thing (5.2.2, a full mailbox).
fn outcome_of_recipient(reply: Reply) -> Outcome {
    let too_many = reply.enhanced.is_none_or(|EnhancedCode(_, subject, detail)| (subject, detail) == (5, 3));
    if reply.code == 552 && too_many { Outcome::Deferred(reply) } else { outcome_of(reply) }
}
