//! A next hop that takes all mail, remembers it, and misbehaves when told to.
//!
//! Job: stand where the internet's mail servers stand. Place: at the end of a message's way in the lab, the tests and the
//! benchmark. Invariants: code of its own, so that it can't share a fault with the session that it judges; octets are
//! kept exactly as they came but for dot-stuffing; every transaction that reached its final dot has one line in the
//! transcript. A crash leaves at most a file in `tmp/`.

mod conversation;
mod store;

pub use store::Entry;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};
use tokio::sync::watch;

/// How a sink is set up.
#[derive(Clone, Debug)]
pub struct SinkConfig {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The Maildir, and `transcript.jsonl` in it; `None` counts only.
    pub dir: Option<PathBuf>,
    /// Whether STARTTLS is offered, with a certificate made at start for `localhost` and 127.0.0.1.
    pub starttls: bool,
    /// Extensions that are offered.
    pub extensions: Vec<String>,
}

impl SinkConfig {
    /// Stores under `dir` and offers everything but STARTTLS.
    #[must_use]
    pub fn new(listen: SocketAddr, dir: PathBuf) -> Self {
        Self { dir: Some(dir), ..Self::counting(listen) }
    }

    /// Stores nothing and counts.
    #[must_use]
    pub fn counting(listen: SocketAddr) -> Self {
        let extensions = ["PIPELINING", "SIZE 1073741824", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"];
        Self { listen, dir: None, starttls: false, extensions: extensions.map(str::to_owned).to_vec() }
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// 421 instead of the greeting.
    Unavailable,
    /// 450 to every RCPT.
    DeferRecipients,
    /// 550 to every RCPT.
    RefuseRecipients,
    /// 450 to each second RCPT of a transaction.
    DeferEverySecondRecipient,
    /// 451 after the final dot.
    DeferMessage,
    /// 554 after the final dot.
    RefuseMessage,
    /// The connection is dropped after the final dot, the message stored or not: the client can't know which.
    DropAfterDot {
        /// Whether the message was stored before.
        stored: bool,
    },
    /// Something that is not SMTP instead of every reply.
    Nonsense,
    /// Each reply comes so much later.
    Slow(Duration),
}

/// A running sink; stops when dropped.
pub struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    certificate: Option<String>,
}

/// What all connections share.
struct Shared {
    extensions: Vec<String>,
    tls: Option<tokio_rustls::TlsAcceptor>,
    fault: Mutex<Fault>,
    count: AtomicU64,
    store: Option<store::Store>,
}

impl Shared {
    fn fault(&self) -> Fault {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink {
    /// Listens, then serves on a thread of its own.
    ///
    /// # Errors
    /// The port is taken or the folder can't be written.
    pub fn start(config: SinkConfig) -> io::Result<Self> {
        let listener = TcpListener::bind(config.listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let store = config.dir.as_deref().map(store::Store::open).transpose()?;
        let (tls, certificate) = match config.starttls {
            true => self_signed().map(|(acceptor, pem)| (Some(acceptor), Some(pem)))?,
            false => (None, None),
        };
        let shared = Arc::new(Shared {
            extensions: config.extensions,
            tls,
            fault: Mutex::default(),
            count: AtomicU64::new(0),
            store,
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("sink".into()).spawn(move || {
            runtime.block_on(serve(listener, serving, stopped));
        })?;
        Ok(Self { address, shared, stop, thread: Some(thread), certificate })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Messages that got their 250, or were stored before the connection was dropped.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Acquire)
    }

    /// From now on, on new and present connections.
    pub fn set_fault(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// The certificate as PEM, where STARTTLS is offered.
    #[must_use]
    pub fn certificate(&self) -> Option<&str> {
        self.certificate.as_deref()
    }

    /// All transactions so far that reached their final dot, in order.
    ///
    /// # Errors
    /// The transcript can't be read; a counting sink has none.
    pub fn transcript(&self) -> io::Result<Vec<Entry>> {
        self.shared.store.as_ref().map_or_else(|| Err(io::ErrorKind::Unsupported.into()), store::Store::transcript)
    }

    /// Closes all connections and the port.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.end();
    }
}

/// The transcript of the sink whose Maildir is `dir`, also when it runs no more.
///
/// # Errors
/// There is none, or it is damaged.
pub fn transcript_of(dir: &Path) -> io::Result<Vec<Entry>> {
    store::read_transcript(&dir.join(store::TRANSCRIPT))
}

/// Accepts until told to stop; what is open then ends with the runtime.
async fn serve(listener: TcpListener, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        let accepted = tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                let _unsupported = socket.set_nodelay(true);
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    // A client that goes away is its own business.
                    let _gone = conversation::serve(&shared, socket, peer).await;
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

fn self_signed() -> io::Result<(tokio_rustls::TlsAcceptor, String)> {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).map_err(io::Error::other)?;
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .map_err(io::Error::other)?;
    Ok((Arc::new(config).into(), made.cert.pem()))
}
