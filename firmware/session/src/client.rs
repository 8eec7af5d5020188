//! The SMTP client state machine, without I/O.
//!
//! Job: hand messages to a next hop over one connection, and say for each recipient what became of it (RFC 5321 §3,
//! §4.2.1; RFC 2920; RFC 3207). Place: the relay feeds it with what the socket gave and carries out its actions.
//! Invariants: a recipient counts as delivered only by a 2xx to the final dot; whatever is unclear is deferred; what
//! was learned before TLS is forgotten under TLS; nothing is converted for a next hop that lacks an extension. A crash
//! leaves nothing behind: the next hop drops a message without its final dot, and one whose final reply was not
//! recorded is sent again.

mod replies;
mod stuffing;
mod transaction;

pub use stuffing::{NotCanonical, Stuffing};
pub use transaction::Transaction;

use mail::{EnhancedCode, Outcome, Reply};
use replies::{Nonsense, Replies};
use std::time::Duration;
use transaction::Exchange;

/// When STARTTLS is used (RFC 3207).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Never.
    None,
    /// When it is offered and not refused.
    Opportunistic,
    /// Always, or no mail is sent over this connection.
    Required,
}

/// What the next hop's EHLO answer offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// 8BITMIME (RFC 6152).
    pub eight_bit: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// SIZE (RFC 1870).
    pub size: bool,
    /// The largest message in octets, where SIZE names one.
    pub max_size: Option<u64>,
}

/// What happened on the connection.
#[derive(Debug)]
pub enum Input<'a> {
    /// Octets came.
    Received(&'a [u8]),
    /// The handshake that [`Action::StartTls`] asked for is done.
    Secured,
    /// A message is to be sent; only after [`Action::Ready`].
    Begin(Transaction<'a>),
    /// All that [`Action::SendContent`] asked for was written, final dot included.
    ContentSent,
    /// The content could not be sent to its end; the outcome is for those who were accepted so far.
    Abandon(Outcome),
    /// The connection is gone.
    Lost,
    /// Nothing came within [`Client::patience`].
    TimedOut,
}

/// What the relay is to do, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Write these octets.
    Write(Vec<u8>),
    /// Make a TLS handshake, reading nothing more in plain; then [`Input::Secured`].
    StartTls,
    /// A message may be sent.
    Ready,
    /// Write the content through [`Stuffing`] with its end of data; then [`Input::ContentSent`].
    SendContent,
    /// The message is done with; one outcome for each of the transaction's recipients, in their order.
    Completed(Completed),
    /// No message can be sent over this connection, for this reason.
    Unusable(Reply),
    /// Close the connection.
    Close,
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub struct Completed {
    /// In the order of the transaction's recipients.
    pub outcomes: Vec<Outcome>,
    /// The connection went away before the next hop answered anything about this message: a cached connection that
    /// had been closed meanwhile. It may be sent over another one at once.
    pub untouched: bool,
}

#[derive(Debug)]
enum State {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Handshake,
    Idle,
    Commands(Exchange),
    Content(Exchange),
    /// Behind the final dot.
    Final(Exchange),
    /// Behind the lone dot that RFC 2920 §3.1 asks for where 354 came though nobody was accepted.
    LoneDot(Exchange),
    Closed,
}

/// One connection's client side.
#[derive(Debug)]
pub struct Client {
    host: String,
    tls: Tls,
    secured: bool,
    capabilities: Capabilities,
    replies: Replies,
    /// The last transaction may still stand at the next hop; RSET goes before the next MAIL.
    unclean: bool,
    state: State,
}

impl Client {
    /// A client on a fresh connection, before the greeting. `host` is the EHLO argument: a domain or address literal.
    #[must_use]
    pub fn new(host: impl Into<String>, tls: Tls) -> Self {
        Self {
            host: host.into(),
            tls,
            secured: false,
            capabilities: Capabilities::default(),
            replies: Replies::default(),
            unclean: false,
            state: State::Greeting,
        }
    }

    /// What the next hop offers; all false before the first [`Action::Ready`].
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// How long to wait for the next octet from the next hop (RFC 5321 §4.5.3.2).
    #[must_use]
    pub fn patience(&self) -> Duration {
        Duration::from_secs(match self.state {
            State::Commands(ref exchange) if exchange.awaits_data() => 2 * 60,
            State::Content(_) => 3 * 60,
            State::Final(_) | State::LoneDot(_) => 10 * 60,
            _ => 5 * 60,
        })
    }

    /// Takes what happened, gives what to do.
    #[must_use]
    pub fn step(mut self, input: Input<'_>) -> (Self, Vec<Action>) {
        let mut actions = Vec::with_capacity(2);
        match input {
            Input::Received(octets) => {
                self.replies.push(octets);
                self.read(&mut actions);
            }
            Input::Secured if matches!(self.state, State::Handshake) => {
                // RFC 3207 §4.2: all that was learned in plain is discarded.
                self.secured = true;
                self.capabilities = Capabilities::default();
                self.state = State::Ehlo;
                actions.push(Action::Write(format!("EHLO {}\r\n", self.host).into_bytes()));
            }
            Input::Begin(transaction) if matches!(self.state, State::Idle) => self.begin(&transaction, &mut actions),
            Input::ContentSent => {
                self.state = match self.state {
                    State::Content(exchange) => State::Final(exchange),
                    other => other,
                };
            }
            Input::Abandon(outcome) => self.close(outcome, &mut actions),
            Input::Lost => {
                let outcome = self.connection_fault("the next hop closed the connection");
                self.close(outcome, &mut actions);
            }
            Input::TimedOut => {
                let outcome = self.connection_fault("the next hop did not answer in time");
                self.close(outcome, &mut actions);
                // Silence is not a closed connection: over another one the message would wait as long again.
                for action in &mut actions {
                    if let Action::Completed(completed) = action {
                        completed.untouched = false;
                    }
                }
            }
            Input::Secured | Input::Begin(_) => {
                let outcome = nonsense(Nonsense::Unexpected);
                self.close(outcome, &mut actions);
            }
        }
        (self, actions)
    }

    fn read(&mut self, actions: &mut Vec<Action>) {
        while !matches!(self.state, State::Closed) {
            match self.replies.next() {
                Ok(Some(reply)) => {
                    let state = std::mem::replace(&mut self.state, State::Closed);
                    self.on_reply(state, reply, actions);
                }
                Ok(None) => break,
                Err(flaw) => self.close(nonsense(flaw), actions),
            }
        }
        // Octets that nothing asked for would be taken for the answer to the next command.
        if matches!(self.state, State::Idle) && self.replies.has_rest() {
            self.close(nonsense(Nonsense::Unexpected), actions);
        }
    }

    fn on_reply(&mut self, state: State, reply: Reply, actions: &mut Vec<Action>) {
        // RFC 5321 §3.8: 421 may come at any time, and the connection is closed behind it.
        if reply.code == 421 {
            self.state = state;
            return self.close(Outcome::Deferred(reply), actions);
        }
        match state {
            State::Greeting if reply.is_positive() => {
                self.state = State::Ehlo;
                actions.push(Action::Write(format!("EHLO {}\r\n", self.host).into_bytes()));
            }
            State::Ehlo if reply.is_positive() => {
                self.capabilities = read_capabilities(&reply.lines);
                self.after_ehlo(actions);
            }
            // RFC 5321 §3.2: an old server knows only HELO. Not where TLS is due, which needs EHLO.
            State::Ehlo if reply.is_permanent() && (self.secured || self.tls != Tls::Required) => {
                self.state = State::Helo;
                actions.push(Action::Write(format!("HELO {}\r\n", self.host).into_bytes()));
            }
            State::Helo if reply.is_positive() => self.ready(actions),
            State::StartTls if reply.code == 220 => {
                // CVE-2011-0411 the other way round: what was sent behind the 220 in plain is not from the TLS peer.
                if self.replies.has_rest() {
                    let text = "the next hop, or somebody between, sent plain text behind its STARTTLS answer";
                    self.state = State::StartTls;
                    return self.close(Outcome::Deferred(Reply::new(451, EnhancedCode(4, 7, 5), text)), actions);
                }
                self.state = State::Handshake;
                actions.push(Action::StartTls);
            }
            State::StartTls if reply.is_transient() || reply.is_permanent() => {
                if self.tls == Tls::Required {
                    let text = format!("the next hop refuses STARTTLS, and only TLS is allowed: {reply}");
                    self.state = State::StartTls;
                    return self.close(Outcome::Deferred(Reply::new(451, EnhancedCode(4, 7, 4), text)), actions);
                }
                self.ready(actions);
            }
            State::Greeting | State::Ehlo | State::Helo if reply.is_transient() || reply.is_permanent() => {
                self.state = state;
                self.close(Outcome::Deferred(reply), actions);
            }
            State::Commands(exchange) => self.on_command_reply(exchange, reply, actions),
            // A reply before the final dot: only a refusal makes sense, and the rest is not wanted any more.
            State::Content(exchange) if reply.is_transient() || reply.is_permanent() => {
                self.state = State::Content(exchange);
                self.close(transaction::outcome_of(reply), actions);
            }
            State::Final(mut exchange) if reply.is_positive() || reply.is_transient() || reply.is_permanent() => {
                exchange.settle_accepted(&transaction::outcome_of(reply));
                self.unclean = false;
                self.complete(exchange, actions);
            }
            State::LoneDot(exchange) => {
                self.unclean = false;
                self.complete(exchange, actions);
            }
            other => {
                self.state = other;
                self.close(nonsense(Nonsense::Unexpected), actions);
            }
        }
    }

    fn after_ehlo(&mut self, actions: &mut Vec<Action>) {
        if self.secured || self.tls == Tls::None || (self.tls == Tls::Opportunistic && !self.capabilities.starttls) {
            self.ready(actions);
        } else if self.capabilities.starttls {
            self.state = State::StartTls;
            actions.push(Action::Write(b"STARTTLS\r\n".to_vec()));
        } else {
            let text =
                "the next hop offers no STARTTLS, and only TLS is allowed; check it, or whether somebody strips it";
            self.state = State::Ehlo;
            self.close(Outcome::Deferred(Reply::new(451, EnhancedCode(4, 7, 4), text)), actions);
        }
    }

    fn ready(&mut self, actions: &mut Vec<Action>) {
        self.state = State::Idle;
        actions.push(Action::Ready);
    }

    fn begin(&mut self, transaction: &Transaction<'_>, actions: &mut Vec<Action>) {
        let mut exchange = Exchange::new(transaction, self.capabilities, self.unclean);
        if exchange.is_settled() {
            self.state = State::Idle;
            actions.push(Action::Completed(Completed { outcomes: exchange.into_outcomes(), untouched: false }));
            actions.push(Action::Ready);
            return;
        }
        actions.extend(exchange.next_commands().map(Action::Write));
        self.unclean = true;
        self.state = State::Commands(exchange);
    }

    fn on_command_reply(&mut self, mut exchange: Exchange, reply: Reply, actions: &mut Vec<Action>) {
        match exchange.answer(reply) {
            transaction::Step::Waiting => {
                actions.extend(exchange.next_commands().map(Action::Write));
                self.state = State::Commands(exchange);
            }
            transaction::Step::Content => {
                self.state = State::Content(exchange);
                actions.push(Action::SendContent);
            }
            transaction::Step::LoneDot => {
                self.state = State::LoneDot(exchange);
                actions.push(Action::Write(b".\r\n".to_vec()));
            }
            transaction::Step::Over => self.complete(exchange, actions),
            transaction::Step::Nonsense => {
                self.state = State::Commands(exchange);
                self.close(nonsense(Nonsense::Unexpected), actions);
            }
        }
    }

    fn complete(&mut self, exchange: Exchange, actions: &mut Vec<Action>) {
        actions.push(Action::Completed(Completed { outcomes: exchange.into_outcomes(), untouched: false }));
        self.ready(actions);
    }

    /// Ends everything; whoever has no answer yet gets `outcome`.
    fn close(&mut self, outcome: Outcome, actions: &mut Vec<Action>) {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Commands(mut exchange) | State::Content(mut exchange) | State::Final(mut exchange) => {
                let untouched = exchange.is_untouched();
                exchange.settle_rest(&outcome);
                actions.push(Action::Completed(Completed { outcomes: exchange.into_outcomes(), untouched }));
            }
            State::LoneDot(exchange) => {
                actions.push(Action::Completed(Completed { outcomes: exchange.into_outcomes(), untouched: false }));
            }
            // A session that was never announced has no message to give the reason to.
            State::Idle if actions.first() == Some(&Action::Ready) => actions.push(Action::Unusable(reply_in(outcome))),
            State::Idle | State::Closed => {}
            State::Greeting | State::Ehlo | State::Helo | State::StartTls | State::Handshake => {
                actions.push(Action::Unusable(reply_in(outcome)));
            }
        }
        // `Ready` from the same step is no longer true.
        actions.retain(|action| *action != Action::Ready);
        actions.push(Action::Close);
    }

    fn connection_fault(&self, what: &str) -> Outcome {
        let moment = match &self.state {
            State::Greeting => "before its greeting",
            State::Ehlo | State::Helo => "after EHLO",
            State::StartTls | State::Handshake => "during STARTTLS",
            State::Idle | State::Closed => "while nothing was sent",
            State::Commands(exchange) => exchange.moment(),
            State::Content(_) => "while the message was sent",
            State::Final(_) | State::LoneDot(_) => {
                "after the final dot, before its answer; it may have the message, which is sent again"
            }
        };
        Outcome::Deferred(Reply::new(451, EnhancedCode(4, 4, 2), format!("{what} {moment}")))
    }
}

fn reply_in(outcome: Outcome) -> Reply {
    let (Outcome::Delivered(reply) | Outcome::Deferred(reply) | Outcome::Failed(reply)) = outcome;
    reply
}

fn nonsense(flaw: Nonsense) -> Outcome {
    let text = format!("the next hop does not speak SMTP as it should: {flaw}; check what listens there");
    Outcome::Deferred(Reply::new(451, EnhancedCode(4, 5, 0), text))
}

fn read_capabilities(lines: &[String]) -> Capabilities {
    let mut found = Capabilities::default();
    // The first line is the server's name.
    for line in lines.iter().skip(1) {
        let mut words = line.split_ascii_whitespace();
        match words.next().unwrap_or_default().to_ascii_uppercase().as_str() {
            "PIPELINING" => found.pipelining = true,
            "8BITMIME" => found.eight_bit = true,
            "SMTPUTF8" => found.smtputf8 = true,
            "STARTTLS" => found.starttls = true,
            "SIZE" => {
                found.size = true;
                // RFC 1870 §4: 0 or nothing means that no limit is known.
                found.max_size = words.next().and_then(|size| size.parse().ok()).filter(|&size| size > 0);
            }
            _ => {}
        }
    }
    found
}
