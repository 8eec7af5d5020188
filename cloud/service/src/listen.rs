//! Listening: TLS connections, HTTP/2 and 1.1 over them.
//!
//! Job: accept, shake hands, serve a router. Place: in front of API and portal, opened last. Invariants: what a stranger
//! can hold is bounded (connections in all and of one network, streams, header size, time of a handshake, of the first
//! octets and of a header); a handler knows the certificate that the client proved. A crash leaves nothing; a stop lets requests under way finish.

use axum::{Extension, Router};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 2_000;
/// Connections at once of one network; those of an enrolled appliance's certificate do not count. A browser opens one over
/// HTTP/2 and six at most over 1.1.
const PER_NETWORK: usize = 64;
/// Streams of one HTTP/2 connection.
const STREAMS: u32 = 64;
/// Bytes of a request's header fields.
const HEADER_BYTES: u32 = 32 * 1024;
/// Each header must be through by then.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a far end may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For its handshake.
    handshake: Duration,
    /// From the handshake until it is clear which HTTP it speaks.
    opening: Duration,
    /// For all that it does without a certificate; absent: as long as it takes.
    nameless: Option<Duration>,
}

/// With browsers.
pub const BROWSER: Patience =
    Patience { handshake: Duration::from_secs(15), opening: Duration::from_secs(15), nameless: None };
/// With appliances: a TPM may take half a minute for the signature of a handshake; without a certificate there is only
/// enrolment, which takes seconds.
pub const APPLIANCE: Patience = Patience {
    handshake: Duration::from_secs(90),
    opening: Duration::from_secs(15),
    nameless: Some(Duration::from_secs(30)),
};
/// An HTTP/2 connection without traffic is asked whether anybody is there.
const PING_EVERY: Duration = Duration::from_secs(60);
/// How long requests under way may take at a stop.
const DRAIN: Duration = Duration::from_secs(10);

/// Who is at the far end.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address; processed, never stored.
    pub address: SocketAddr,
    /// The client certificate, its key proven in the handshake (or in the one that this session resumes).
    pub certificate: Option<CertificateDer<'static>>,
}

impl Peer {
    /// The network that limits count: an IPv6 host has 2⁶⁴ addresses, so its /64.
    pub fn network(&self) -> IpAddr {
        network(self.address)
    }
}

fn network(address: SocketAddr) -> IpAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => std::net::Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// Connections of each network.
#[derive(Default)]
struct Networks(Mutex<HashMap<IpAddr, usize>>);

impl Networks {
    /// Counts a connection, unless its network has enough.
    fn enter(self: &Arc<Self>, network: IpAddr) -> Option<Counted> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(network).or_insert(0);
        if *count >= PER_NETWORK {
            return None;
        }
        *count += 1;
        Some(Counted { networks: self.clone(), network })
    }
}

/// A connection that counts until this is dropped.
struct Counted {
    networks: Arc<Networks>,
    network: IpAddr,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.networks.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.network);
            }
        }
    }
}

/// Serves `router` until `stop`, then lets requests under way finish.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    patience: Patience,
    router: Router,
    stop: CancellationToken,
) {
    let networks = Arc::<Networks>::default();
    let acceptor = TlsAcceptor::from(tls);
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let slot = tokio::select! {
            () = stop.cancelled() => break,
            slot = slots.clone().acquire_owned() => slot,
        };
        let Ok(slot) = slot else { break };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                // Out of file descriptors, or the client is gone already: neither ends the service.
                log::warn!("a connection was not accepted: {e}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(counted) = networks.enter(network(address)) else {
            log::debug!("a network has {PER_NETWORK} connections already; another one was closed");
            continue;
        };
        let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
        connections.spawn(async move {
            let _slot = slot;
            // Small replies must not wait for more (RFC 896).
            let _ = stream.set_nodelay(true);
            match tokio::time::timeout(patience.handshake, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => connection(stream, address, counted, patience, router, stop).await,
                Ok(Err(e)) => log::debug!("a handshake failed: {e}"),
                Err(_) => log::debug!("a handshake took too long"),
            }
        });
    }
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
        log::warn!("{} connections were cut at the stop", connections.len());
    }
}

/// What an HTTP/2 connection begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads until it is clear which HTTP is spoken: the server below would wait for that without end.
async fn opening(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<impl AsyncRead + AsyncWrite> {
    let mut first = Vec::with_capacity(PREFACE.len());
    while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
        let left = PREFACE.len() - first.len();
        if (&mut stream).take(left as u64).read_buf(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let (reader, writer) = tokio::io::split(stream);
    Ok(tokio::io::join(io::Cursor::new(first).chain(reader), writer))
}

async fn connection(
    stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    address: SocketAddr,
    counted: Counted,
    patience: Patience,
    router: Router,
    stop: CancellationToken,
) {
    let certificate =
        stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.clone().into_owned());
    // Who proved a certificate is no stranger: a clinic's appliances may share one address.
    let counted = certificate.is_none().then_some(counted);
    let longest = patience.nameless.filter(|_| certificate.is_none());
    let stream = match tokio::time::timeout(patience.opening, opening(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => return log::debug!("a connection ended before its first request: {e}"),
        Err(_) => return log::debug!("a connection stayed without a request"),
    };
    let service = TowerToHyperService::new(router.layer(Extension(Peer { address, certificate })));
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(HEADER_BYTES as usize)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADER_BYTES)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PATIENCE);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(Box::pin(stream)), service));
    let too_long = async {
        match longest {
            Some(longest) => tokio::time::sleep(longest).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = too_long => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(patience.opening, connection).await {
                Ok(ended) => ended,
                Err(_) => return log::debug!("a connection without a certificate was cut"),
            }
        }
    };
    drop(counted);
    if let Err(e) = ended {
        log::debug!("a connection ended: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::{PrivateKeyDer, ServerName};
    use std::time::Instant;
    use tokio::{io::AsyncWriteExt, net::TcpStream};
    use tokio_rustls::{TlsConnector, client::TlsStream};

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    /// A server with the patience `of`, all its times divided by `hurry`.
    struct Server {
        address: SocketAddr,
        client: TlsConnector,
        _stop: tokio_util::sync::DropGuard,
    }

    impl Server {
        async fn start(of: Patience, hurry: u32) -> Self {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let server = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
            let server = server.unwrap().with_no_client_auth();
            let server = Arc::new(server.with_single_cert(vec![made.cert.der().clone()], key).unwrap());
            let mut roots = rustls::RootCertStore::empty();
            roots.add(made.cert.der().clone()).unwrap();
            let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            let client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let stop = CancellationToken::new();
            let patience = Patience {
                handshake: of.handshake / hurry,
                opening: of.opening / hurry,
                nameless: of.nameless.map(|longest| longest / hurry),
            };
            let router = Router::new().fallback(async || "here");
            tokio::spawn(serve(listener, server, patience, router, stop.clone()));
            Self { address, client: TlsConnector::from(Arc::new(client)), _stop: stop.drop_guard() }
        }

        async fn tcp(&self) -> TcpStream {
            TcpStream::connect(self.address).await.unwrap()
        }

        async fn tls(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
            self.client.connect(ServerName::try_from("localhost").unwrap(), stream).await
        }
    }

    /// Whether the far end hangs up within 5 s; what it says until then does not matter.
    async fn hangs_up(stream: &mut (impl AsyncRead + Unpin)) -> bool {
        let mut said = Vec::new();
        tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut said)).await.is_ok()
    }

    #[tokio::test]
    async fn a_handshake_as_slow_as_a_tpm_gets_through_to_the_api_only() {
        for (patience, through) in [(APPLIANCE, true), (BROWSER, false)] {
            let server = Server::start(patience, 50).await;
            let stream = server.tcp().await;
            tokio::time::sleep(Duration::from_secs(32) / 50).await;
            assert_eq!(server.tls(stream).await.is_ok(), through, "{patience:?}");
        }
    }

    #[tokio::test]
    async fn a_stranger_who_says_too_little_after_the_handshake_is_hung_up_on() {
        let server = Server::start(BROWSER, 50).await;
        for said in [&b""[..], b"P", &PREFACE[..PREFACE.len() - 1]] {
            let mut stream = server.tls(server.tcp().await).await.unwrap();
            stream.write_all(said).await.unwrap();
            stream.flush().await.unwrap();
            assert!(hangs_up(&mut stream).await, "{said:?} held the connection");
        }
    }

    #[tokio::test]
    async fn a_request_in_single_octets_is_answered() {
        let server = Server::start(BROWSER, 1).await;
        let mut stream = server.tls(server.tcp().await).await.unwrap();
        for octet in b"PUT / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" {
            stream.write_all(&[*octet]).await.unwrap();
            stream.flush().await.unwrap();
        }
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 200") && reply.ends_with("here"), "{reply}");
    }

    #[tokio::test]
    async fn one_network_cannot_hold_all_connections() {
        let server = Server::start(BROWSER, 1).await;
        let mut held = Vec::new();
        for _ in 0..PER_NETWORK {
            held.push(server.tcp().await);
        }
        assert!(server.tls(server.tcp().await).await.is_err(), "one more got through");
        held.clear();
        let mut through = false;
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            through = server.tls(server.tcp().await).await.is_ok();
            if through {
                break;
            }
        }
        assert!(through, "the network stays locked out");
    }

    #[tokio::test]
    async fn without_a_certificate_the_api_is_not_kept_open() {
        let server = Server::start(APPLIANCE, 50).await;
        let mut stream = server.tls(server.tcp().await).await.unwrap();
        let start = Instant::now();
        let mut reply = [0; 1024];
        while start.elapsed() < Duration::from_secs(5) {
            // However busy the stranger is.
            let written = stream.write_all(REQUEST).await.is_ok() && stream.flush().await.is_ok();
            if !written || !matches!(stream.read(&mut reply).await, Ok(1..)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let held = start.elapsed();
        assert!(held >= Duration::from_millis(500) && held < Duration::from_secs(3), "held for {held:?}");
    }
}
