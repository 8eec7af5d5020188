//! Connections to the cloud service.
//!
//! Job: make HTTP/2 connections over TLS 1.3, and send one request at a time over them. Place: below uploads and
//! enrolment. Invariants: each connection lives on a thread of its own with its own runtime, since the TPM blocks that
//! thread while it signs the handshake, and the stored message while it is read; nothing else waits for either. A crash
//! leaves nothing behind.

use super::fault::Fault;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Limited, combinators::UnsyncBoxBody};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, sync::oneshot, time::timeout};
use tokio_rustls::TlsConnector;

/// Name look-up, and the TCP handshake with one address.
const CONNECT: Duration = Duration::from_secs(30);
/// The TLS handshake; a TPM may take half a minute for its signature.
const HANDSHAKE: Duration = Duration::from_secs(90);
/// All of it, on a thread that a TPM can block.
const OPEN: Duration = Duration::from_secs(180);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;
/// Requests on one connection before another one is opened.
const BUSY: usize = 4;
/// An unused connection this old is not trusted to be alive.
const IDLE: Duration = Duration::from_secs(60);
/// Answers are small JSON documents.
const MAX_ANSWER: usize = 64 * 1024;
/// Waiting for an answer, without the time that sending takes.
const ANSWER: Duration = Duration::from_secs(60);
/// The slowest line on which a piece still goes through, in octets a second.
const SLOWEST: u64 = 32 * 1024;

/// The body of a request.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Where the service is.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) name: ServerName<'static>,
    /// `https://host:port`
    pub(super) origin: String,
}

struct Link {
    sender: SendRequest<Body>,
    used: Mutex<Instant>,
}

/// The connections with one TLS configuration.
pub(super) struct Links {
    endpoint: Endpoint,
    tls: Arc<ClientConfig>,
    max: usize,
    open: Mutex<Vec<Arc<Link>>>,
}

impl Links {
    pub(super) fn new(endpoint: Endpoint, tls: Arc<ClientConfig>, max: usize) -> Self {
        Self { endpoint, tls, max: max.max(1), open: Mutex::default() }
    }

    /// Connections to the same service with the same certificates that resume no session, so that each handshake is
    /// signed anew.
    pub(super) fn alone(&self) -> Self {
        let mut tls = ClientConfig::clone(&self.tls);
        tls.resumption = rustls::client::Resumption::disabled();
        Self::new(self.endpoint.clone(), Arc::new(tls), 1)
    }

    /// Sends what `request` makes for a path on this service, and collects the answer. `make` may be called twice: a
    /// connection that was open already and breaks is replaced once, since every request here is idempotent.
    pub(super) async fn request(
        &self,
        path: &str,
        length: u64,
        make: impl Fn(http::request::Builder) -> Result<Request<Body>, http::Error>,
    ) -> Result<Response<Bytes>, Fault> {
        loop {
            let (link, reused) = self.link().await?;
            let request = make(Request::builder().uri(format!("{}{path}", self.endpoint.origin)))
                .map_err(|error| Fault::Nonsense(error.to_string()))?;
            match self.exchange(&link, request, length).await {
                Err(fault @ (Fault::Lost(_) | Fault::Certificate(_) | Fault::Silent(_))) => {
                    self.forget(&link);
                    // Silence is not the age of the connection.
                    if !reused || matches!(fault, Fault::Silent(_)) {
                        return Err(fault);
                    }
                }
                answer => return answer,
            }
        }
    }

    async fn exchange(&self, link: &Link, request: Request<Body>, length: u64) -> Result<Response<Bytes>, Fault> {
        let patience = ANSWER + Duration::from_secs(length / SLOWEST);
        let answered = async {
            let mut sender = link.sender.clone();
            sender.ready().await.map_err(|error| Fault::lost(&error))?;
            let response = sender.send_request(request).await.map_err(|error| Fault::lost(&error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| Fault::lost(error.as_ref()))?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        let answer = timeout(patience, answered).await;
        *link.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        answer.unwrap_or_else(|_| Err(Fault::Silent(patience.as_secs())))
    }

    fn open(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, link: &Arc<Link>) {
        self.open().retain(|other| !Arc::ptr_eq(link, other));
    }

    /// The least busy connection, or a new one; and whether it was open before.
    async fn link(&self) -> Result<(Arc<Link>, bool), Fault> {
        {
            let mut open = self.open();
            open.retain(|link| {
                let used = *link.used.lock().unwrap_or_else(PoisonError::into_inner);
                // One reference is the pool's; others are requests under way.
                !link.sender.is_closed() && (Arc::strong_count(link) > 1 || used.elapsed() < IDLE)
            });
            let least = open.iter().min_by_key(|link| Arc::strong_count(link));
            if let Some(link) = least.filter(|link| Arc::strong_count(link) <= BUSY || open.len() >= self.max) {
                return Ok((Arc::clone(link), true));
            }
        }
        let link = Arc::new(Link { sender: self.connect().await?, used: Mutex::new(Instant::now()) });
        let mut open = self.open();
        // Several may have been opened at once; more than the settings allow end with their request.
        if open.len() < self.max {
            open.push(Arc::clone(&link));
        }
        Ok((link, false))
    }

    async fn connect(&self) -> Result<SendRequest<Body>, Fault> {
        let (done, opened) = oneshot::channel();
        let (endpoint, tls) = (self.endpoint.clone(), Arc::clone(&self.tls));
        std::thread::Builder::new()
            .name("cloud-link".to_owned())
            .spawn(move || live(&endpoint, tls, done))
            .map_err(|error| Fault::Unreachable(format!("no thread for a connection: {error}")))?;
        match timeout(OPEN, opened).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(_)) => Err(Fault::Lost("the connection's thread ended".to_owned())),
            Err(_) => Err(Fault::Unreachable(format!("no connection within {} seconds", OPEN.as_secs()))),
        }
    }
}

/// The life of one connection, on its own thread.
fn live(endpoint: &Endpoint, tls: Arc<ClientConfig>, done: oneshot::Sender<Result<SendRequest<Body>, Fault>>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = done.send(Err(Fault::Unreachable(format!("no runtime for a connection: {error}"))));
            return;
        }
    };
    runtime.block_on(async {
        let opened = async {
            let stream = TlsConnector::from(tls);
            let stream = handshake(endpoint, &stream).await?;
            Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(Some(Duration::from_secs(20)))
                .keep_alive_timeout(Duration::from_secs(20))
                .handshake(TokioIo::new(stream))
                .await
                .map_err(|error| Fault::lost(&error))
        };
        match opened.await {
            Err(fault) => drop(done.send(Err(fault))),
            Ok((sender, connection)) => {
                if done.send(Ok(sender)).is_ok() {
                    // Ends when nobody holds the sender any more, or the service closes.
                    if let Err(error) = connection.await {
                        log::debug!("a connection to the cloud service ended: {error}");
                    }
                }
            }
        }
    });
}

async fn handshake(
    endpoint: &Endpoint,
    tls: &TlsConnector,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Fault> {
    let found = match timeout(CONNECT, tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port))).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Err(Fault::Name(error.to_string())),
        Err(_) => return Err(Fault::Name("no answer within 30 seconds".to_owned())),
    };
    let mut failure = Fault::Name("it has no address".to_owned());
    for address in found.take(MAX_ADDRESSES) {
        let stream = match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                failure = Fault::Unreachable(format!("{address}: {error}"));
                continue;
            }
            Err(_) => {
                failure = Fault::Unreachable(format!("{address}: no answer within 30 seconds"));
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        match timeout(HANDSHAKE, tls.connect(endpoint.name.clone(), stream)).await {
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => return Ok(stream),
            Ok(Ok(_)) => failure = Fault::Nonsense("it does not speak HTTP/2".to_owned()),
            Ok(Err(error)) => failure = Fault::tls(&error),
            Err(_) => failure = Fault::Unreachable(format!("{address}: no TLS handshake within 90 seconds")),
        }
    }
    Err(failure)
}
