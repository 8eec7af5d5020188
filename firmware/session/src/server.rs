//! The server's side of a session.
//!
//! Job: decide what each octet of a client means and what is answered. Place: driven by intake; asks the stages behind
//! it through its executor. Invariants: states are values that a step consumes; while the executor owes an answer no
//! further octet is looked at, so a pipelined command never overtakes it; no 250 after the final dot without `R`. A
//! crash leaves nothing behind: what has no 250 still belongs to the client.

use crate::{
    command::{self, Command, Fault, when},
    data::EndOfData,
    header::{HeaderFlaw, HeaderWatch},
    interface::{Action, Config, Input, Peer, Waiting},
    line::{LineFlaw, Lines, Next},
    path::Path,
    reply,
    transaction::Transaction,
};
use jiff::Timestamp;
use mail::{Address, Client, Domain, Envelope, MessageId, Reply};
use std::{marker::PhantomData, sync::Arc};

/// Bad commands in one session since its last accepted message; Postfix's hard limit.
const MAX_ERRORS: u32 = 20;
/// Commands that lead to no mail (NOOP, RSET, EHLO, …) since the last accepted message; each further one is an error.
const MAX_IDLE_COMMANDS: u32 = 100;
/// RFC 5321 §4.5.3.1.8: fewer recipients must not be refused.
const MIN_RECIPIENTS: usize = 100;
/// What may still come after a message outgrew the limit before the connection is given up, beyond the limit itself.
const OVERRUN: u64 = 1024 * 1024;

/// A session. See [`Server::step`].
#[derive(Debug)]
pub struct Server<R> {
    session: Session,
    state: State,
    receipt: PhantomData<fn(R)>,
}

#[derive(Debug)]
enum State {
    Idle,
    Admitting(Transaction),
    Open(Transaction),
    Beginning(Transaction),
    Receiving(Box<Receiving>),
    Committing,
    Handshake,
    Closed,
}

/// A message under way.
#[derive(Debug)]
struct Receiving {
    transaction: Transaction,
    id: MessageId,
    end: EndOfData,
    header: HeaderWatch,
    octets: u64,
    refusal: Option<Reply>,
}

#[derive(Debug)]
struct Session {
    config: Arc<Config>,
    peer: Peer,
    /// The argument of HELO or EHLO, and whether it was EHLO.
    helo: Option<(Domain, bool)>,
    tls: Option<String>,
    lines: Lines,
    at: Timestamp,
    errors: u32,
    idle: u32,
    commands: u64,
    draining: bool,
}

/// Actions in the making; neighbouring replies become one write.
#[derive(Default)]
struct Actions(Vec<Action>);

impl Actions {
    fn reply(&mut self, reply: &Reply) {
        match self.0.last_mut() {
            Some(Action::Send(octets)) => reply.write_to(octets),
            _ => {
                let mut octets = Vec::with_capacity(64);
                reply.write_to(&mut octets);
                self.0.push(Action::Send(octets));
            }
        }
    }

    fn refuse(&mut self, verb: &'static str, reply: Reply) {
        self.reply(&reply);
        self.0.push(Action::Refused { verb, reply });
    }

    fn close(&mut self, reply: &Reply) -> State {
        self.reply(reply);
        self.0.push(Action::Close);
        State::Closed
    }
}

impl<R> Server<R> {
    /// A new session, and the greeting.
    #[must_use]
    pub fn open(config: Arc<Config>, peer: Peer) -> (Self, Vec<Action>) {
        let mut actions = Actions::default();
        actions.reply(&reply::greeting(&config.host));
        let session = Session {
            config,
            peer,
            helo: None,
            tls: None,
            lines: Lines::default(),
            at: Timestamp::UNIX_EPOCH,
            errors: 0,
            idle: 0,
            commands: 0,
            draining: false,
        };
        (Self { session, state: State::Idle, receipt: PhantomData }, actions.0)
    }

    /// What the session needs next.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        match self.state {
            State::Idle | State::Open(_) => Waiting::Command,
            State::Receiving(_) => Waiting::Content,
            State::Admitting(_) | State::Beginning(_) | State::Committing | State::Handshake => Waiting::Executor,
            State::Closed => Waiting::Nothing,
        }
    }

    /// Commands answered so far. A client that sends octets without ever completing a command makes no progress.
    #[must_use]
    pub fn commands(&self) -> u64 {
        self.session.commands
    }

    /// Takes one input and says what to do.
    ///
    /// The executor does the actions in order, and answers each that asks for an answer with the input named there
    /// before it gives any other input but [`Input::Octets`] and [`Input::Drain`]. An answer that nobody asked for ends
    /// the session without any acceptance.
    #[must_use]
    pub fn step(self, input: Input<R>) -> (Self, Vec<Action>) {
        let Self { mut session, state, receipt } = self;
        let mut actions = Actions::default();
        let state = match (state, input) {
            (State::Closed, _) => State::Closed,
            (state, Input::Octets { octets, at }) => {
                session.at = at;
                session.lines.push(octets);
                state
            }
            (State::Admitting(transaction), Input::Admitted(Ok(()))) => {
                actions.reply(&reply::sender_ok());
                State::Open(transaction)
            }
            (State::Admitting(_), Input::Admitted(Err(reply))) => {
                session.idle += 1;
                actions.refuse("MAIL", negative(reply));
                State::Idle
            }
            (State::Beginning(transaction), Input::Begun(Ok(id))) => {
                actions.reply(&reply::go_ahead());
                State::Receiving(Box::new(Receiving::new(transaction, id)))
            }
            (State::Beginning(transaction), Input::Begun(Err(reply))) => {
                actions.refuse("DATA", negative(reply));
                State::Open(transaction)
            }
            (State::Committing, Input::Committed(Ok((receipt, id)))) => {
                session.errors = 0;
                session.idle = 0;
                actions.reply(&reply::accepted(receipt, id));
                State::Idle
            }
            (State::Committing, Input::Committed(Err(reply))) => {
                actions.refuse("DATA", negative(reply));
                State::Idle
            }
            // What came in plain text behind STARTTLS must not pass for something that came through TLS (CVE-2011-0411).
            (State::Handshake, Input::Secured(_)) if !session.lines.is_empty() => {
                actions.close(&reply::nothing_behind_starttls())
            }
            (State::Handshake, Input::Secured(tls)) => {
                // RFC 3207 §4.2: all that was said before the handshake is forgotten.
                session.tls = Some(tls);
                session.helo = None;
                State::Idle
            }
            (state, Input::Drain) => {
                session.draining = true;
                state
            }
            (state, Input::Timeout) => {
                if matches!(&state, State::Receiving(receiving) if receiving.refusal.is_none()) {
                    actions.0.push(Action::Abandon);
                }
                actions.close(&reply::too_slow())
            }
            (_, Input::Admitted(_) | Input::Begun(_) | Input::Committed(_) | Input::Secured(_)) => {
                actions.close(&reply::internal())
            }
        };
        let state = session.advance(state, &mut actions);
        (Self { session, state, receipt }, actions.0)
    }
}

/// A refusal that is not one must not reach the client as an acceptance.
fn negative(reply: Reply) -> Reply {
    if reply.is_transient() || reply.is_permanent() { reply } else { reply::internal() }
}

impl Session {
    /// Uses up the octets that are there, as far as the executor's next answer.
    fn advance(&mut self, mut state: State, actions: &mut Actions) -> State {
        loop {
            state = match state {
                State::Idle | State::Open(_) if self.draining => return actions.close(&reply::shutting_down()),
                State::Idle | State::Open(_) => match self.lines.next() {
                    Next::Incomplete => return state,
                    Next::Hopeless => return actions.close(&reply::too_many_errors()),
                    Next::Flawed(flaw) => {
                        self.commands += 1;
                        let reply = match flaw {
                            LineFlaw::TooLong => reply::line_too_long(),
                            LineFlaw::Controls => reply::line_has_controls(),
                            LineFlaw::NotUtf8 => reply::line_not_utf8(),
                        };
                        self.error(state, &reply, actions)
                    }
                    Next::Line(line) => {
                        self.commands += 1;
                        self.command(state, &line, actions)
                    }
                },
                State::Receiving(receiving) => {
                    if self.lines.is_empty() {
                        return State::Receiving(receiving);
                    }
                    self.receive(receiving, actions)
                }
                State::Admitting(_) | State::Beginning(_) | State::Committing | State::Handshake | State::Closed => {
                    return state;
                }
            }
        }
    }

    /// Answers a bad command, and ends the session when there were too many.
    fn error(&mut self, state: State, reply: &Reply, actions: &mut Actions) -> State {
        actions.reply(reply);
        self.errors += 1;
        if self.errors < MAX_ERRORS { state } else { actions.close(&reply::too_many_errors()) }
    }

    fn present(&self, state: &State) -> u8 {
        let mut bits = when::NO_TRANSACTION;
        if let State::Open(transaction) = state {
            bits = when::TRANSACTION;
            if !transaction.recipients.is_empty() {
                bits |= when::RECIPIENTS;
            }
        }
        for (holds, bit) in [
            (self.helo.is_some(), when::GREETED),
            (self.config.starttls, when::TLS_OFFERED),
            (self.tls.is_none(), when::PLAIN),
            (self.lines.is_empty(), when::LAST),
        ] {
            bits |= if holds { bit } else { 0 };
        }
        bits
    }

    fn command(&mut self, state: State, line: &str, actions: &mut Actions) -> State {
        let command = match command::parse(line) {
            Ok(command) => command,
            Err(Fault::OtherProtocol) => return actions.close(&reply::not_smtp()),
            Err(Fault::Refused(reply)) => return self.error(state, &reply, actions),
        };
        if let Err(reply) = command.allowed(self.present(&state)) {
            if matches!(command, Command::StartTls) && !self.lines.is_empty() {
                // Nothing that follows is used.
                return actions.close(&reply::nothing_behind_starttls());
            }
            return self.error(state, &reply, actions);
        }
        if command.rule().idle {
            self.idle += 1;
            if self.idle > MAX_IDLE_COMMANDS {
                self.errors += 1;
                if self.errors >= MAX_ERRORS {
                    return actions.close(&reply::too_many_errors());
                }
            }
        }
        match (command, state) {
            (Command::Ehlo(name), _) => {
                let starttls = self.config.starttls && self.tls.is_none();
                actions.reply(&reply::ehlo(&self.config.host, self.config.max_message, starttls));
                self.helo = Some((name, true));
                State::Idle
            }
            (Command::Helo(name), _) => {
                actions.reply(&reply::helo(&self.config.host));
                self.helo = Some((name, false));
                State::Idle
            }
            (Command::Mail(mail), _) => {
                if mail.size.is_some_and(|size| size > self.config.max_message) {
                    actions.refuse("MAIL", reply::too_large(self.config.max_message));
                    return State::Idle;
                }
                actions.0.push(Action::Admit);
                State::Admitting(Transaction::new(mail))
            }
            (Command::Rcpt(path), State::Open(transaction)) => self.recipient(transaction, path, actions),
            (Command::Data, State::Open(transaction)) => {
                actions.0.push(Action::Begin);
                State::Beginning(transaction)
            }
            (Command::Rset, _) => {
                actions.reply(&reply::ok());
                State::Idle
            }
            (Command::StartTls, _) => {
                actions.reply(&reply::start_tls());
                actions.0.push(Action::StartTls);
                State::Handshake
            }
            (Command::Quit, _) => actions.close(&reply::bye()),
            (Command::Noop, state) => {
                actions.reply(&reply::ok());
                state
            }
            (Command::Vrfy, state) => {
                actions.reply(&reply::vrfy());
                state
            }
            (Command::Help, state) => {
                actions.reply(&reply::help(&command::names()));
                state
            }
            // The table lets RCPT and DATA through in an open transaction only.
            (Command::Rcpt(_) | Command::Data, state) => {
                self.error(state, &reply::bad_sequence("send MAIL first"), actions)
            }
        }
    }

    fn recipient(&mut self, mut transaction: Transaction, path: Path, actions: &mut Actions) -> State {
        let address = match path {
            Path::Mailbox(address) => address,
            // Our own postmaster is always reachable (RFC 5321 §4.5.1).
            _ => match Address::new("postmaster", self.config.host.clone()) {
                Ok(address) => address,
                Err(_) => return self.error(State::Open(transaction), &reply::bad_recipient(), actions),
            },
        };
        let limit = self.config.max_recipients.max(MIN_RECIPIENTS);
        if !transaction.smtputf8 && !address.is_ascii() {
            return self.error(State::Open(transaction), &reply::needs_smtputf8(553), actions);
        }
        if !self.peer.listed && !self.is_postmaster(&address) {
            let reply = reply::relaying_denied();
            actions.0.push(Action::Refused { verb: "RCPT", reply: reply.clone() });
            return self.error(State::Open(transaction), &reply, actions);
        }
        if transaction.has(&address) {
            actions.reply(&reply::recipient_ok());
        } else if transaction.recipients.len() >= limit {
            // Not counted as an error: RFC 5321 §4.5.3.1.10 makes clients go on and send the rest later.
            actions.reply(&reply::too_many_recipients());
        } else {
            transaction.add(address);
            actions.reply(&reply::recipient_ok());
        }
        State::Open(transaction)
    }

    fn is_postmaster(&self, address: &Address) -> bool {
        address.local().eq_ignore_ascii_case("postmaster") && *address.domain() == self.config.host
    }

    fn receive(&mut self, mut receiving: Box<Receiving>, actions: &mut Actions) -> State {
        let input = std::mem::take(self.lines.rest());
        let Receiving { end, header, octets, refusal, .. } = &mut *receiving;
        let max = self.config.max_message;
        let was_refused = refusal.is_some();
        let ended = end.read(&input, |piece| {
            *octets += piece.len() as u64;
            if refusal.is_some() {
                return;
            }
            *refusal = match header.watch(&piece) {
                _ if *octets > max => Some(reply::too_large(max)),
                Err(HeaderFlaw::Loop) => Some(reply::mail_loop()),
                Err(HeaderFlaw::TooLong) => Some(reply::header_too_long()),
                Ok(()) => None,
            };
            if refusal.is_none() {
                actions.0.push(Action::Append(piece));
            }
        });
        if refusal.is_none() {
            *refusal = end.flaw().map(reply::flawed);
        }
        if refusal.is_some() && !was_refused {
            actions.0.push(Action::Abandon);
        }
        match (ended, refusal.take()) {
            (Some(used), None) => {
                *self.lines.rest() = input.slice(used..);
                actions.0.push(Action::Commit(Box::new(self.envelope(*receiving))));
                State::Committing
            }
            (Some(used), Some(reply)) => {
                *self.lines.rest() = input.slice(used..);
                actions.refuse("DATA", reply);
                State::Idle
            }
            (None, Some(reply)) if *octets > max.saturating_mul(2).saturating_add(OVERRUN) => {
                actions.0.push(Action::Refused { verb: "DATA", reply });
                actions.close(&reply::too_many_errors())
            }
            (None, still) => {
                *refusal = still;
                State::Receiving(receiving)
            }
        }
    }

    fn envelope(&self, receiving: Receiving) -> Envelope {
        let Receiving { transaction, id, .. } = receiving;
        let (helo, esmtp) = match &self.helo {
            Some((name, esmtp)) => (name.to_string(), *esmtp),
            None => (String::new(), false),
        };
        Envelope {
            id,
            sender: transaction.sender,
            recipients: transaction.recipients,
            body: transaction.body,
            smtputf8: transaction.smtputf8,
            client: Client { ip: self.peer.ip, helo, esmtp, tls: self.tls.clone() },
            received: self.at,
        }
    }
}

impl Receiving {
    fn new(transaction: Transaction, id: MessageId) -> Self {
        Self { transaction, id, end: EndOfData::default(), header: HeaderWatch::default(), octets: 0, refusal: None }
    }
}
