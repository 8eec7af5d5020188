//! One connection.
//!
//! Job: execute a session's actions over a socket, first plain, then inside TLS. Place: between the listener and the
//! [`Acceptor`]. Invariants: replies to pipelined commands leave in one write; octets are read only while the session
//! waits for the client; every wait has a deadline; a message whose append failed is never finished. A crash leaves
//! nothing behind: staging is dropped, and the client has no 250.

use crate::{
    Acceptor, Timeouts,
    limits::Place,
    listener::{Phase, Shared},
};
use bytes::{Bytes, BytesMut};
use mail::{EnhancedCode, Envelope, MessageId, Reply};
use session::{Action, Input, Peer, Server, Waiting};
use std::{future::Future, io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    runtime::{Handle, RuntimeFlavor},
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

/// Octets of one read: several commands, or most of an ordinary message.
const READ: usize = 32 * 1024;
/// From here on [`Acceptor::append`] may wait for the disk.
const MAY_BLOCK: u64 = 64 * 1024;

/// Runs a session until the connection ends.
pub(crate) async fn serve<A: Acceptor>(shared: Arc<Shared<A>>, mut socket: TcpStream, peer: Peer, place: Place) {
    let opened = Instant::now();
    let (server, actions) = Server::open(Arc::clone(&shared.config), peer);
    let mut connection = Connection {
        phase: shared.phase.clone(),
        shared,
        peer,
        message: None,
        buffer: BytesMut::new(),
        out: Vec::new(),
        command_since: opened,
        commands: 0,
        drain_told: false,
        refused: false,
    };
    let result = connection.run(&mut socket, server, actions).await;
    let result = match result {
        Ok(End::Handshake(server)) => connection.secure(socket, *server).await,
        other => other.map(|_| ()),
    };
    match result {
        Ok(()) => log::debug!(client:% = peer.ip, seconds = opened.elapsed().as_secs(); "session ended"),
        Err(error) => log::debug!(client:% = peer.ip, error:% = error; "connection lost"),
    }
    drop(place);
}

/// How [`Connection::run`] ended.
enum End<R> {
    Closed,
    /// The session waits for TLS.
    Handshake(Box<Server<R>>),
}

/// A message under way.
struct Message<S> {
    staging: Staging<S>,
    /// Octets of content handed on.
    octets: u64,
    /// Octets that came, refused ones too.
    came: u64,
    began: Instant,
}

enum Staging<S> {
    /// The acceptor holds it.
    Held(S),
    /// The acceptor could not; the reply waits for the final dot.
    Failed(Reply),
    /// The session has refused it, and knows the reply.
    Abandoned,
}

struct Connection<A: Acceptor> {
    shared: Arc<Shared<A>>,
    phase: watch::Receiver<Phase>,
    peer: Peer,
    message: Option<Message<A::Staging>>,
    buffer: BytesMut,
    /// Replies that were not yet written.
    out: Vec<u8>,
    /// When the present wait for a whole command began.
    command_since: Instant,
    commands: u64,
    drain_told: bool,
    /// Whether a refusal was already logged.
    refused: bool,
}

/// What came of waiting for the client.
enum Event {
    Octets(Bytes),
    TooSlow,
    Drain,
    Gone,
}

impl<A: Acceptor> Connection<A> {
    /// The handshake, and the session inside it.
    async fn secure(&mut self, socket: TcpStream, server: Server<A::Receipt>) -> io::Result<()> {
        let Some(tls) = self.shared.tls.clone() else { return Ok(()) };
        // Nothing that came in plain text may pass for something that came through TLS.
        self.buffer = BytesMut::new();
        let handshake = timeout(self.shared.timeouts.handshake, tls.accept(socket));
        let mut stream = match handshake.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                log::info!(client:% = self.peer.ip, error:% = error; "TLS handshake failed");
                return Ok(());
            }
            Err(_) => {
                log::info!(client:% = self.peer.ip; "TLS handshake took too long");
                return Ok(());
            }
        };
        let (server, actions) = server.step(Input::Secured(describe(stream.get_ref().1)));
        // A second STARTTLS is refused by the session, so the end is always the connection's end.
        self.run(&mut stream, server, actions).await?;
        within(self.shared.timeouts.write, stream.shutdown()).await
    }

    async fn run<S>(
        &mut self,
        stream: &mut S,
        mut server: Server<A::Receipt>,
        mut actions: Vec<Action>,
    ) -> io::Result<End<A::Receipt>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            let mut answer = None;
            for action in actions {
                match action {
                    Action::Send(octets) if self.out.is_empty() => self.out = octets,
                    Action::Send(octets) => self.out.extend_from_slice(&octets),
                    Action::Admit => answer = Some(Input::Admitted(self.shared.acceptor.available())),
                    Action::Begin => answer = Some(Input::Begun(self.begin())),
                    Action::Append(octets) => self.append(&octets),
                    Action::Abandon => self.abandon(),
                    Action::Commit(envelope) => {
                        self.flush(stream).await?;
                        answer = Some(Input::Committed(self.finish(*envelope).await));
                    }
                    Action::Refused { verb, reply } => {
                        // One line a session: trying addresses must not become a flood of log lines.
                        let level = if self.refused { log::Level::Debug } else { log::Level::Info };
                        self.refused = true;
                        log::log!(level, client:% = self.peer.ip, command = verb, reply:% = reply; "refused");
                    }
                    Action::StartTls => {
                        self.flush(stream).await?;
                        return Ok(End::Handshake(Box::new(server)));
                    }
                    Action::Close => {
                        self.flush(stream).await?;
                        return Ok(End::Closed);
                    }
                }
            }
            let input = match answer {
                Some(answer) => answer,
                None => {
                    self.flush(stream).await?;
                    match self.wait(stream, &server).await? {
                        Event::Octets(octets) => Input::Octets { octets, at: jiff::Timestamp::now() },
                        Event::TooSlow => Input::Timeout,
                        Event::Drain => Input::Drain,
                        Event::Gone => return Ok(End::Closed),
                    }
                }
            };
            (server, actions) = server.step(input);
        }
    }

    async fn flush<S: AsyncWrite + Unpin>(&mut self, stream: &mut S) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let sent = within(self.shared.timeouts.write, async {
            stream.write_all(&self.out).await?;
            stream.flush().await
        });
        sent.await?;
        self.out.clear();
        Ok(())
    }

    /// Waits until the client sends something, the deadline passes, or the service stops.
    async fn wait<S>(&mut self, stream: &mut S, server: &Server<A::Receipt>) -> io::Result<Event>
    where
        S: AsyncRead + Unpin,
    {
        let now = Instant::now();
        if self.commands != server.commands() {
            self.commands = server.commands();
            self.command_since = now;
        }
        let Timeouts { command, content, grace, rate, .. } = self.shared.timeouts;
        let deadline = match (server.waiting(), &self.message) {
            (Waiting::Content, Some(message)) => {
                let due = message.began + grace + Duration::from_secs(message.came / rate.max(1));
                due.min(now + content)
            }
            _ => self.command_since + command,
        };
        if self.buffer.capacity() - self.buffer.len() < READ / 4 {
            self.buffer.reserve(READ);
        }
        tokio::select! {
            biased;
            read = timeout_at(deadline, stream.read_buf(&mut self.buffer)) => match read {
                Err(_) => Ok(Event::TooSlow),
                Ok(Ok(0)) => Ok(Event::Gone),
                Ok(Ok(octets)) => {
                    if let Some(message) = &mut self.message {
                        message.came += octets as u64;
                    }
                    Ok(Event::Octets(self.buffer.split().freeze()))
                }
                Ok(Err(error)) => Err(error),
            },
            () = draining(&mut self.phase, self.drain_told) => {
                self.drain_told = true;
                Ok(Event::Drain)
            }
        }
    }

    fn begin(&mut self) -> Result<MessageId, Reply> {
        let id = MessageId::generate();
        let staging = self.shared.acceptor.begin(id)?;
        self.message = Some(Message { staging: Staging::Held(staging), octets: 0, came: 0, began: Instant::now() });
        Ok(id)
    }

    fn append(&mut self, octets: &[u8]) {
        let Some(message) = &mut self.message else { return };
        message.octets += octets.len() as u64;
        let Staging::Held(staging) = &mut message.staging else { return };
        let mut append = || self.shared.acceptor.append(staging, octets);
        // Only a message that may wait for the disk is worth a thread of its own.
        let result = if message.octets > MAY_BLOCK && may_block_in_place() {
            tokio::task::block_in_place(append)
        } else {
            append()
        };
        if let Err(reply) = result {
            message.staging = Staging::Failed(reply);
        }
    }

    fn abandon(&mut self) {
        if let Some(message) = &mut self.message {
            message.staging = Staging::Abandoned;
        }
    }

    async fn finish(&mut self, envelope: Envelope) -> Result<(A::Receipt, MessageId), Reply> {
        let message = self.message.take();
        let octets = message.as_ref().map_or(0, |message| message.octets);
        let staging = match message.map(|message| message.staging) {
            Some(Staging::Held(staging)) => staging,
            Some(Staging::Failed(reply)) => return Err(reply),
            // The session commits only what it began and did not abandon.
            Some(Staging::Abandoned) | None => return Err(Reply::new(451, EnhancedCode(4, 3, 0), "local error")),
        };
        let ip = self.peer.ip;
        let tls = envelope.client.tls.is_some();
        let sender = log::log_enabled!(log::Level::Info)
            .then(|| envelope.sender.address().map_or_else(|| "<>".to_owned(), mail::Address::masked));
        let recipients = envelope.recipients.len();
        let result = self.shared.acceptor.finish(staging, envelope).await;
        if let Ok((_, id)) = &result {
            let sender = sender.unwrap_or_default();
            log::debug!(id:% = id, client:% = ip, sender, recipients, octets, tls; "accepted");
        }
        result
    }
}

fn may_block_in_place() -> bool {
    Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread)
}

/// Returns when the service begins to stop; never, once that is known.
async fn draining(phase: &mut watch::Receiver<Phase>, told: bool) {
    if told {
        std::future::pending::<()>().await;
    }
    // Without its sender the service is gone, which is a stop too.
    let _sender_gone = phase.wait_for(|phase| *phase != Phase::Running).await;
}

async fn within(bound: Duration, what: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    timeout(bound, what).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// `TLSv1.3 TLS_AES_256_GCM_SHA384`, as it stands in Received.
fn describe(connection: &rustls::ServerConnection) -> String {
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLS",
    };
    let suite = connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown");
    format!("{version} {}", suite.replacen("TLS13_", "TLS_", 1))
}
