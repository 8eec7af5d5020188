//! The SMTP sockets and the service on them.
//!
//! Job: bind addresses (or take systemd's sockets), run intake on them, and swap the service without closing a socket.
//! Place: opened last by `build()`. Invariants: while the service is swapped, the sockets stay open, so no client sees a
//! refused connection. A crash closes the sockets; clients try again.

use intake::{Acceptor, Intake, Sessions};
use settings::Settings;
use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
};
use tokio::{sync::watch, task::JoinHandle};

/// An address can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{address} can't be listened on: {source}; stop what else listens there, or change intake.listen")]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

/// Sockets by address, kept over all services on them.
#[derive(Default)]
pub struct Listeners {
    sockets: Vec<(SocketAddr, TcpListener)>,
    handed_over: bool,
}

impl Listeners {
    /// The sockets that systemd handed over, if it did (sd_listen_fds(3)); they win over `intake.listen`.
    #[must_use]
    pub fn from_environment() -> Self {
        let mut fds = listenfd::ListenFd::from_env();
        let sockets: Vec<_> = (0..fds.len())
            .filter_map(|index| fds.take_tcp_listener(index).ok().flatten())
            .filter_map(|socket| Some((socket.local_addr().ok()?, socket)))
            .collect();
        Self { handed_over: !sockets.is_empty(), sockets }
    }

    /// Listens on exactly `addresses`. What is bound already stays bound; on an error nothing has changed.
    ///
    /// # Errors
    /// An address is in use or not ours.
    pub fn bind(&mut self, addresses: &[SocketAddr]) -> Result<(), BindError> {
        if self.handed_over {
            return Ok(());
        }
        let new = self.missing(addresses)?;
        self.sockets.retain(|(bound, _)| addresses.contains(bound));
        self.sockets.extend(new);
        Ok(())
    }

    /// Whether [`Listeners::bind`] would do now. What this binds is closed again at once.
    ///
    /// # Errors
    /// As [`Listeners::bind`].
    pub fn try_bind(&self, addresses: &[SocketAddr]) -> Result<(), BindError> {
        if self.handed_over { Ok(()) } else { self.missing(addresses).map(drop) }
    }

    /// Sockets for those addresses that are not bound yet.
    fn missing(&self, addresses: &[SocketAddr]) -> Result<Vec<(SocketAddr, TcpListener)>, BindError> {
        let missing = addresses.iter().filter(|address| !self.sockets.iter().any(|(bound, _)| bound == *address));
        let bind = |&address: &SocketAddr| match TcpListener::bind(address) {
            Ok(socket) => Ok((address, socket)),
            Err(source) => Err(BindError { address, source }),
        };
        missing.map(bind).collect()
    }

    /// Where we listen.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|(address, _)| *address).collect()
    }

    /// Starts a service on all sockets.
    ///
    /// # Errors
    /// No file descriptors are left.
    pub fn serve<A: Acceptor>(
        &self,
        acceptor: Arc<A>,
        settings: &Settings,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> io::Result<Service> {
        let sockets = self.sockets.iter().map(|(_, socket)| socket.try_clone()).collect::<io::Result<Vec<_>>>()?;
        let intake = Intake::new(acceptor, settings.intake.clone(), settings.host.name.clone(), tls);
        let sessions = intake.sessions();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            if let Err(error) = intake.serve(sockets, stopped).await {
                log::error!(error:%; "intake ended; restart the daemon");
            }
        });
        Ok(Service { stop, task, sessions })
    }
}

/// A running intake.
pub struct Service {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    sessions: Sessions,
}

impl Service {
    /// How many sessions there are at present.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.count()
    }

    /// Takes no new session and lets those that receive a message finish it.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.task.await;
    }
}
