//! Listening: TLS connections, HTTP/2 and 1.1 over them.
//!
//! Job: accept, shake hands, serve a router. Place: in front of API and portal, opened last. Invariants: what a stranger
//! can hold is bounded (connections, streams, header size, time of a handshake and of a header); a handler knows the
//! certificate that the client proved. A crash leaves nothing; a stop lets requests under way finish.

use axum::{Extension, Router};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 2_000;
/// Streams of one HTTP/2 connection.
const STREAMS: u32 = 64;
/// Bytes of a request's header fields.
const HEADER_BYTES: u32 = 32 * 1024;
/// Each header must be through by then.
const PATIENCE: Duration = Duration::from_secs(15);
/// A browser's handshake.
pub const BROWSER_HANDSHAKE: Duration = Duration::from_secs(15);
/// An appliance's handshake: its TPM may take half a minute for the signature.
pub const APPLIANCE_HANDSHAKE: Duration = Duration::from_secs(90);
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
        match self.address.ip().to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => std::net::Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        }
    }
}

/// Serves `router` until `stop`, then lets requests under way finish.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    handshake: Duration,
    router: Router,
    stop: CancellationToken,
) {
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
        let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
        connections.spawn(async move {
            let _slot = slot;
            // Small replies must not wait for more (RFC 896).
            let _ = stream.set_nodelay(true);
            match tokio::time::timeout(handshake, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => connection(stream, address, router, stop).await,
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

async fn connection(
    stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    address: SocketAddr,
    router: Router,
    stop: CancellationToken,
) {
    let certificate =
        stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.clone().into_owned());
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
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = ended {
        log::debug!("a connection ended: {e}");
    }
}
