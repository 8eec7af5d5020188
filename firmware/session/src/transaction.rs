//! One mail transaction.
//!
//! Job: hold what MAIL and RCPT said. Place: inside a session, from MAIL to the reply after the final dot. Invariants:
//! recipients are distinct and in the order given; a transaction is one value, so that RSET drops exactly this. A crash
//! leaves nothing behind.

use crate::command::MailCommand;
use mail::{Address, BodyType, ReversePath};
use std::collections::HashSet;

#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) sender: ReversePath,
    pub(crate) body: BodyType,
    pub(crate) smtputf8: bool,
    pub(crate) recipients: Vec<Address>,
    known: HashSet<Address>,
}

impl Transaction {
    pub(crate) fn new(command: MailCommand) -> Self {
        let MailCommand { sender, body, smtputf8, size: _ } = command;
        Self { sender, body, smtputf8, recipients: Vec::new(), known: HashSet::new() }
    }

    /// Whether the recipient is already in.
    pub(crate) fn has(&self, recipient: &Address) -> bool {
        self.known.contains(recipient)
    }

    /// Adds a recipient that is not yet in.
    pub(crate) fn add(&mut self, recipient: Address) {
        if self.known.insert(recipient.clone()) {
            self.recipients.push(recipient);
        }
    }
}
