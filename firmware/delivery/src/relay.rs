//! Ordinary mail to the next hop, over SMTP.
//!
//! Job: deliver one group of recipients of one message: find or make a connection, send, and say for each recipient
//! what became of it. Place: the pipeline calls it with a claim, and settles the claim with what it gives. Invariants:
//! confidential mail has no way in, for [`Destination::Cloud`] has no next hop here; every fault is an outcome with a
//! reply, never an error and never a lost recipient; a destination that wants verified TLS never gets a message in
//! plain. A crash leaves nothing behind: what was not settled is sent again (at least once).

mod connection;
mod pool;
mod source;
mod tls;

use crate::{gate::Pause, route::RECIPIENTS, trust::SetupError};
use connection::Target;
use jiff::Timestamp;
use mail::{Address, Content, Destination, EnhancedCode, Envelope, Outcome, RecipientOutcome, Reply};
use pool::Hop;
use session::client::Transaction;
use settings::{HostPort, RelayTls, Settings};
use source::Source;
use std::{collections::HashMap, sync::Arc};

/// A destination that failed and was, or is, not tried for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspension {
    /// Which.
    pub destination: Destination,
    /// When the first of its failures in a row was.
    pub since: Timestamp,
    /// When it is tried again; may have passed.
    pub until: Timestamp,
    /// What its last failure was.
    pub why: Reply,
}

impl Suspension {
    pub(crate) fn of(destination: Destination, Pause { since, until, why }: Pause) -> Self {
        Self { destination, since, until, why }
    }
}

/// The SMTP client side: one queue of connections for each next hop.
#[derive(Clone)]
pub struct Relay {
    hops: Arc<HashMap<Destination, Arc<Hop>>>,
}

impl Relay {
    /// Next hops as `settings` name them. Connects to nobody yet; `deliver` needs a tokio runtime with time and net.
    ///
    /// # Errors
    /// `relay.ca`, or the system's roots where it is absent, cannot be used and a next hop asks for verified TLS.
    pub fn new(settings: &Settings) -> Result<Self, SetupError> {
        let relay = &settings.relay;
        let hop = |destination: &Destination, server: &HostPort, level: RelayTls| {
            let target = Target {
                server: server.clone(),
                level,
                connector: tls::connector(level, relay.ca.as_ref())?,
                host: settings.host.name.as_str().to_owned(),
            };
            Ok::<_, SetupError>(Hop::new(destination.to_string(), target, relay.max_connections))
        };
        let mut hops = HashMap::new();
        hops.insert(Destination::Smarthost, hop(&Destination::Smarthost, &relay.smarthost, relay.tls)?);
        for route in &settings.internal {
            let destination = Destination::Internal(route.domain.as_str().to_owned());
            let hop = hop(&destination, &route.server, route.tls)?;
            hops.insert(destination, hop);
        }
        Ok(Self { hops: Arc::new(hops) })
    }

    /// Delivers `content` to `recipients` (indices into the envelope): one outcome for each, same order.
    ///
    /// Waits while the destination has all the connections that it may have. While it is suspended, and for a
    /// destination that these settings do not know, everybody is deferred at once.
    pub async fn deliver(
        &self,
        destination: &Destination,
        envelope: &Envelope,
        recipients: &[u16],
        content: Box<dyn Content>,
    ) -> Vec<RecipientOutcome> {
        let Some(hop) = self.hops.get(destination) else {
            let text = match destination {
                Destination::Cloud => "confidential mail never leaves by SMTP".to_owned(),
                _ => format!("the settings have no route {destination} any more; add it, or delete the message"),
            };
            return all(recipients, &Outcome::Deferred(Reply::new(451, EnhancedCode(4, 3, 5), text)));
        };
        match Source::new(content, envelope).await {
            Ok(source) => send(hop, envelope, recipients, source).await,
            Err(error) => all(recipients, &error.outcome()),
        }
    }

    /// The destinations that fail: not tried at present, or not got through to since.
    #[must_use]
    pub fn suspensions(&self) -> Vec<Suspension> {
        let found = self
            .hops
            .iter()
            .filter_map(|(destination, hop)| Some(Suspension::of(destination.clone(), hop.gate().suspension()?)));
        found.collect()
    }

    /// Until when `destination` is not tried, past or to come; the retry must not be sooner.
    #[must_use]
    pub fn not_before(&self, destination: &Destination) -> Option<Timestamp> {
        self.hops.get(destination)?.gate().suspension().map(|pause| pause.until)
    }

    /// Tries `destination` again at once.
    pub fn resume(&self, destination: &Destination) {
        if let Some(hop) = self.hops.get(destination) {
            hop.gate().resume();
        }
    }

    /// Ends idle connections with QUIT, for the drain.
    pub async fn close(&self) {
        for hop in self.hops.values() {
            hop.close().await;
        }
    }
}

async fn send(hop: &Arc<Hop>, envelope: &Envelope, recipients: &[u16], mut source: Source) -> Vec<RecipientOutcome> {
    let mut outcomes = Vec::with_capacity(recipients.len());
    for group in recipients.chunks(RECIPIENTS) {
        let known: Vec<(u16, &Address)> =
            group.iter().filter_map(|&index| Some((index, envelope.recipients.get(usize::from(index))?))).collect();
        let addresses: Vec<&Address> = known.iter().map(|(_, address)| *address).collect();
        let transaction = Transaction {
            sender: &envelope.sender,
            recipients: &addresses,
            size: source.size,
            eight_bit: source.eight_bit,
            utf8_header: source.utf8_header,
            smtputf8: envelope.smtputf8,
        };
        let settled = hop.send(transaction, &mut source).await;
        let settled = known.iter().zip(settled);
        outcomes.extend(settled.map(|(&(recipient, _), outcome)| RecipientOutcome { recipient, outcome }));
        // An index that the envelope does not have stands for a damaged record: shown to an operator.
        let unknown = group.iter().filter(|&&index| usize::from(index) >= envelope.recipients.len());
        outcomes.extend(unknown.map(|&recipient| RecipientOutcome { recipient, outcome: no_such_recipient() }));
    }
    outcomes
}

fn no_such_recipient() -> Outcome {
    Outcome::Failed(Reply::new(
        554,
        EnhancedCode(5, 3, 5),
        "the queue names a recipient that the envelope does not have",
    ))
}

/// The same for everybody.
pub(crate) fn all(recipients: &[u16], outcome: &Outcome) -> Vec<RecipientOutcome> {
    recipients.iter().map(|&recipient| RecipientOutcome { recipient, outcome: outcome.clone() }).collect()
}

#[cfg(test)]
mod tests;
