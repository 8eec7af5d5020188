//! One connection to a next hop.
//!
//! Job: carry out what [`session::client::Client`] asks for, over TCP and TLS. Place: held by one delivery at a time,
//! idle in the pool between. Invariants: MAIL, RCPT and DATA leave in one write where the next hop has PIPELINING, a
//! small message with its final dot in another; nothing is read in plain once TLS was asked for; content that cannot be
//! read to its end never gets a final dot. A crash leaves nothing behind but a connection that the next hop closes.

use super::source::{Source, SourceError};
use mail::{EnhancedCode, Outcome, Reply};
use rustls_pki_types::ServerName;
use session::client::{Action, Client, Completed, Input, Stuffing, Tls, Transaction};
use settings::{HostPort, RelayTls};
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Name look-up, and the TCP handshake with one address.
const CONNECT: Duration = Duration::from_secs(30);
/// The TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(60);
/// What a next hop that broke off may have said before; it is there already or never comes.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;
/// Replies are short; a hundred of them fit.
const READ_BUFFER: usize = 4096;

/// A next hop, as settings name it.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) server: HostPort,
    pub(super) level: RelayTls,
    pub(super) connector: Option<TlsConnector>,
    /// Our name in EHLO.
    pub(super) host: String,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// An open session, ready for a message.
pub(super) struct Connection {
    stream: Stream,
    client: Client,
    buffer: Vec<u8>,
    opened: Instant,
}

enum OpenError {
    /// Nothing to be done about it here.
    Reply(Reply),
    /// The TLS handshake failed; opportunistic TLS may go on without.
    Tls(Reply),
}

impl Connection {
    /// Connects to the first address of the target that takes mail. Every failure is a 4xx of ours or the next hop's.
    pub(super) async fn open(target: &Target) -> Result<Self, Reply> {
        let mut failure = None;
        for address in resolve(&target.server).await? {
            let tls = match target.level {
                RelayTls::None => Tls::None,
                RelayTls::Opportunistic => Tls::Opportunistic,
                RelayTls::Verified => Tls::Required,
            };
            let mut opened = Self::open_at(address, target, tls).await;
            if let (Err(OpenError::Tls(why)), RelayTls::Opportunistic) = (&opened, target.level) {
                log::warn!(
                    "STARTTLS with {} failed, going on in plain as tls = \"opportunistic\" allows: {why}",
                    target.server.host
                );
                opened = Self::open_at(address, target, Tls::None).await;
            }
            match opened {
                Ok(connection) => return Ok(connection),
                Err(OpenError::Reply(reply) | OpenError::Tls(reply)) => failure = Some(reply),
            }
        }
        Err(failure.unwrap_or_else(|| no_address(&target.server, "it has no address")))
    }

    async fn open_at(address: SocketAddr, target: &Target, tls: Tls) -> Result<Self, OpenError> {
        let stream = match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(OpenError::Reply(unreachable(address, &error.to_string()))),
            Err(_) => return Err(OpenError::Reply(unreachable(address, "no answer within 30 seconds"))),
        };
        // Commands and content are written whole: waiting for more would only delay them.
        stream.set_nodelay(true).map_err(|error| OpenError::Reply(unreachable(address, &error.to_string())))?;
        let mut stream = Stream::Plain(stream);
        let mut client = Client::new(target.host.as_str(), tls);
        let mut buffer = vec![0; READ_BUFFER];
        loop {
            let (next, mut actions) = heard(client, &mut stream, &mut buffer).await;
            client = next;
            if let Some(Action::StartTls) = actions.first() {
                stream = handshake(stream, target).await.map_err(OpenError::Tls)?;
                (client, actions) = client.step(Input::Secured);
            }
            for action in actions {
                match action {
                    // A failed write shows itself again when the answer is read.
                    Action::Write(octets) => drop(write(&mut stream, &octets, client.patience()).await),
                    Action::Ready => return Ok(Self { stream, client, buffer, opened: Instant::now() }),
                    Action::Unusable(reply) => return Err(OpenError::Reply(reply)),
                    Action::StartTls | Action::SendContent | Action::Completed(_) | Action::Close => {
                        return Err(OpenError::Reply(out_of_order()));
                    }
                }
            }
        }
    }

    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Sends one message; gives the connection back where it can take another.
    pub(super) async fn send(self, transaction: Transaction<'_>, source: &mut Source) -> (Completed, Option<Self>) {
        let Self { mut stream, client, mut buffer, opened } = self;
        let recipients = transaction.recipients.len();
        let (mut client, mut actions) = client.step(Input::Begin(transaction));
        let mut completed = None;
        loop {
            let mut content = false;
            let mut broken = false;
            for action in actions {
                match action {
                    Action::Write(octets) => broken |= write(&mut stream, &octets, client.patience()).await.is_err(),
                    Action::SendContent => content = true,
                    Action::Completed(outcomes) => completed = Some(outcomes),
                    Action::Ready => {
                        let completed = completed.unwrap_or_else(|| unknown(recipients));
                        return (completed, Some(Self { stream, client, buffer, opened }));
                    }
                    Action::Close | Action::StartTls | Action::Unusable(_) => {
                        return (completed.unwrap_or_else(|| unknown(recipients)), None);
                    }
                }
            }
            let input = if content { send_content(&mut stream, source, client.patience()).await } else { None };
            (client, actions) = match input {
                Some(Input::Lost) => last_words(client, &mut stream, &mut buffer).await,
                Some(input) => {
                    let (next, more) = client.step(input);
                    if more.is_empty() { heard(next, &mut stream, &mut buffer).await } else { (next, more) }
                }
                None if broken => last_words(client, &mut stream, &mut buffer).await,
                None => heard(client, &mut stream, &mut buffer).await,
            };
        }
    }

    /// Says goodbye. RFC 5321 §4.1.1.10 wants the answer awaited; it can change nothing, so it is not.
    pub(super) async fn quit(mut self) {
        if write(&mut self.stream, b"QUIT\r\n", LAST_WORDS).await.is_ok() {
            let _ = timeout(LAST_WORDS, self.stream.shutdown()).await;
        }
    }
}

/// Feeds the client with the next octets, or with their absence.
async fn heard(client: Client, stream: &mut Stream, buffer: &mut [u8]) -> (Client, Vec<Action>) {
    let patience = client.patience();
    let read = timeout(patience, stream.read(buffer)).await;
    client.step(input_of(&read, buffer))
}

/// After a failed write: a next hop that closes early may have said why (RFC 5321 §3.8), and that is its answer.
async fn last_words(mut client: Client, stream: &mut Stream, buffer: &mut [u8]) -> (Client, Vec<Action>) {
    while let Ok(Ok(length @ 1..)) = timeout(LAST_WORDS, stream.read(buffer)).await {
        let (next, mut actions) = client.step(Input::Received(buffer.get(..length).unwrap_or_default()));
        client = next;
        if actions.iter().any(|action| matches!(action, Action::Completed(_) | Action::Close)) {
            // Settled, but nothing more can be written here.
            actions.retain(|action| *action != Action::Ready);
            actions.push(Action::Close);
            return (client, actions);
        }
    }
    client.step(Input::Lost)
}

fn input_of<'a>(read: &Result<io::Result<usize>, tokio::time::error::Elapsed>, buffer: &'a [u8]) -> Input<'a> {
    match read {
        Ok(Ok(length @ 1..)) => Input::Received(buffer.get(..*length).unwrap_or_default()),
        Ok(_) => Input::Lost,
        Err(_) => Input::TimedOut,
    }
}

/// Writes content and end of data; each piece waits for the one behind it, so that the final dot goes with the last.
async fn send_content(stream: &mut Stream, source: &mut Source, patience: Duration) -> Option<Input<'static>> {
    let mut stuffing = Stuffing::new();
    let mut ready: Vec<u8> = Vec::new();
    let abandon = |error: SourceError| Some(Input::Abandon(error.outcome()));
    loop {
        let piece = match source.next().await {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(error) => return abandon(error),
        };
        let piece = match stuffing.encode(piece) {
            Ok(piece) => piece,
            Err(flaw) => return abandon(flaw.into()),
        };
        if !ready.is_empty() && write(stream, &ready, patience).await.is_err() {
            return Some(Input::Lost);
        }
        ready = piece;
    }
    if let Err(flaw) = stuffing.finish(&mut ready) {
        return abandon(flaw.into());
    }
    Some(if write(stream, &ready, patience).await.is_err() { Input::Lost } else { Input::ContentSent })
}

async fn write(stream: &mut Stream, octets: &[u8], patience: Duration) -> io::Result<()> {
    let written = async {
        stream.write_all(octets).await?;
        // TCP has nothing to flush; TLS may hold records back.
        stream.flush().await
    };
    timeout(patience, written).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn handshake(stream: Stream, target: &Target) -> Result<Stream, Reply> {
    let host = &target.server.host;
    let failed = |why: &str| {
        let text = format!("TLS with {host} failed: {why}; check its certificate and relay.ca");
        Reply::new(451, EnhancedCode(4, 7, 5), text)
    };
    let (Stream::Plain(stream), Some(connector)) = (stream, &target.connector) else {
        return Err(failed("TLS was asked for out of order"));
    };
    let name = ServerName::try_from(host.clone()).map_err(|_| failed("its name in the settings is not a host name"))?;
    match timeout(HANDSHAKE, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream))),
        Ok(Err(error)) => Err(failed(&error.to_string())),
        Err(_) => Err(failed("no answer within 60 seconds")),
    }
}

async fn resolve(server: &HostPort) -> Result<Vec<SocketAddr>, Reply> {
    match timeout(CONNECT, tokio::net::lookup_host((server.host.as_str(), server.port))).await {
        Ok(Ok(found)) => Ok(found.take(MAX_ADDRESSES).collect()),
        Ok(Err(error)) => Err(no_address(server, &error.to_string())),
        Err(_) => Err(no_address(server, "no answer within 30 seconds")),
    }
}

fn no_address(server: &HostPort, why: &str) -> Reply {
    let text = format!("the name {} cannot be resolved: {why}; check the name and the DNS servers", server.host);
    Reply::new(451, EnhancedCode(4, 4, 3), text)
}

fn unreachable(address: SocketAddr, why: &str) -> Reply {
    let text = format!("no connection to {address}: {why}; check that a mail server listens there");
    Reply::new(451, EnhancedCode(4, 4, 1), text)
}

fn out_of_order() -> Reply {
    Reply::new(451, EnhancedCode(4, 5, 0), "the SMTP session ended out of order")
}

/// A connection that ends without a word about the message: it stays with us.
fn unknown(recipients: usize) -> Completed {
    Completed { outcomes: vec![Outcome::Deferred(out_of_order()); recipients], untouched: false }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, octets),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, octets),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
