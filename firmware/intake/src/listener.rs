//! Listeners and the life of the service.
//!
//! Job: accept connections on the sockets that are handed over, give each a place or a 421, and stop in order. Place:
//! started last by the daemon, when keys and spool are ready. Invariants: a client that is refused costs no task; a stop
//! first tells idle sessions 421, then lets messages finish, then cuts. A crash leaves nothing behind.

use crate::{
    Acceptor, Timeouts, connection,
    limits::{Full, Place, Places, Sessions},
};
use mail::{Domain, Reply};
use session::Peer;
use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

/// Pause after a failed accept, when there are no file descriptors left; trying on at once would only burn time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// At most one line about refused connections in this time: a flood must not become a flood of log lines.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Where the service stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// No new sessions; those that receive a message may finish it.
    Draining,
    /// All end now.
    Cut,
}

/// What every connection needs.
pub(crate) struct Shared<A> {
    pub(crate) acceptor: Arc<A>,
    pub(crate) config: Arc<session::Config>,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) timeouts: Timeouts,
    pub(crate) phase: watch::Receiver<Phase>,
    networks: Vec<settings::Network>,
    places: Arc<Places>,
}

/// The SMTP intake, not yet listening.
pub struct Intake<A: Acceptor> {
    acceptor: Arc<A>,
    settings: settings::Intake,
    host: Domain,
    tls: Option<Arc<rustls::ServerConfig>>,
    timeouts: Timeouts,
    places: Arc<Places>,
}

impl<A: Acceptor> Intake<A> {
    /// `host` is our name in greeting and EHLO; without `tls` there is no STARTTLS.
    #[must_use]
    pub fn new(
        acceptor: Arc<A>,
        settings: settings::Intake,
        host: Domain,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Self {
        let places = Places::new(settings.max_sessions, settings.max_sessions_per_client);
        Self { acceptor, settings, host, tls, timeouts: Timeouts::default(), places }
    }

    /// Counts this service's sessions, also once it serves.
    #[must_use]
    pub fn sessions(&self) -> Sessions {
        Sessions(Arc::clone(&self.places))
    }

    /// Other time bounds than RFC 5321's.
    #[must_use]
    pub fn with_timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// Serves these sockets until `shutdown` becomes true or its sender is gone; returns when all sessions have ended,
    /// at most [`Timeouts::drain`] later.
    ///
    /// # Errors
    /// A socket can't be used with the runtime.
    pub async fn serve(
        self,
        listeners: Vec<std::net::TcpListener>,
        mut shutdown: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let (set_phase, phase) = watch::channel(Phase::Running);
        let shared = Arc::new(Shared {
            acceptor: self.acceptor,
            config: Arc::new(session::Config {
                host: self.host,
                max_message: self.settings.max_message_bytes,
                max_recipients: self.settings.max_recipients,
                starttls: self.tls.is_some(),
            }),
            tls: self.tls.map(TlsAcceptor::from),
            timeouts: self.timeouts,
            phase,
            networks: self.settings.networks,
            places: self.places,
        });
        // Every task holds a sender; when all are gone, all sessions have ended.
        let (alive, mut ended) = mpsc::channel::<Infallible>(1);
        let mut bound = Vec::new();
        for listener in listeners {
            listener.set_nonblocking(true)?;
            // Accepted sockets inherit it: replies are whole writes, and waiting to join them only adds delay.
            socket2::SockRef::from(&listener).set_tcp_nodelay(true)?;
            bound.push(TcpListener::from_std(listener)?);
        }
        for listener in bound {
            tokio::spawn(accept(listener, Arc::clone(&shared), alive.clone()));
        }
        drop(alive);
        // A sender that is gone says stop too. What is returned borrows the channel and must not live on.
        drop(shutdown.wait_for(|stop| *stop).await);
        log::info!("intake stops; messages under way may finish");
        set_phase.send_replace(Phase::Draining);
        if timeout(self.timeouts.drain, ended.recv()).await.is_err() {
            log::warn!("sessions are cut: they did not end in time");
            set_phase.send_replace(Phase::Cut);
            let _none = ended.recv().await;
        }
        Ok(())
    }
}

/// Accepts until the service stops.
async fn accept<A: Acceptor>(listener: TcpListener, shared: Arc<Shared<A>>, alive: mpsc::Sender<Infallible>) {
    let mut phase = shared.phase.clone();
    let mut warned = Seldom::default();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase != Phase::Running) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, from)) => {
                let ip = from.ip().to_canonical();
                let ours = shared.acceptor.is_ours(SocketAddr::new(ip, from.port()));
                let listed = ours || shared.networks.iter().any(|network| network.contains(ip));
                let place = if ours { Ok(shared.places.take_one_more(ip)) } else { shared.places.take(ip, listed) };
                match place {
                    Ok(place) => start(&shared, socket, Peer { ip, listed }, place, alive.clone()),
                    Err(full) => {
                        let reply = match full {
                            Full::All => session::too_many_sessions(),
                            Full::Client => session::refused_at_connect(),
                        };
                        warned.warn(|| log::warn!(client:% = ip, reply:% = reply; "connection refused"));
                        refuse(&socket, &reply);
                    }
                }
            }
            Err(error) => {
                warned.warn(|| log::warn!(error:% = error; "no connection can be accepted; trying again"));
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn start<A: Acceptor>(
    shared: &Arc<Shared<A>>,
    socket: TcpStream,
    peer: Peer,
    place: Place,
    alive: mpsc::Sender<Infallible>,
) {
    let session = connection::serve(Arc::clone(shared), socket, peer, place);
    let mut phase = shared.phase.clone();
    tokio::spawn(async move {
        // Wherever a session is then, in a handshake, a write or a commit: it ends, and its client has no 250.
        tokio::select! {
            biased;
            () = session => {}
            _ = phase.wait_for(|phase| *phase == Phase::Cut) => {}
        }
        drop(alive);
    });
}

/// One write that can't block; the client that does not get it sees the connection close.
fn refuse(socket: &TcpStream, reply: &Reply) {
    let mut octets = Vec::new();
    reply.write_to(&mut octets);
    let _lost = socket2::SockRef::from(socket).send(&octets);
}

/// Lets a line through now and then.
#[derive(Default)]
struct Seldom(Option<Instant>);

impl Seldom {
    fn warn(&mut self, log: impl FnOnce()) {
        if self.0.is_none_or(|last| last.elapsed() > WARN_EVERY) {
            self.0 = Some(Instant::now());
            log();
        }
    }
}
