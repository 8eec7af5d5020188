//! An intake on loopback with stages that keep what they get in memory.

#![allow(dead_code, reason = "each test file uses a part of it")]

use intake::{Acceptor, Intake, Timeouts};
use mail::{Domain, EnhancedCode, Envelope, MessageId, Reply};
use std::{
    future::Future,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};
use tokio::sync::watch;

/// The proof of a store that is a list.
pub struct Stored;

/// What arrived, and what the stages are to answer.
#[derive(Default)]
pub struct Stages {
    pub messages: Mutex<Vec<(Envelope, Vec<u8>)>>,
    pub locked: AtomicBool,
    pub full: AtomicBool,
    /// How long a commit takes.
    pub commit: Mutex<Duration>,
    /// Messages begun and not yet finished or dropped.
    pub staged: Arc<Mutex<usize>>,
}

pub struct Staging {
    octets: Vec<u8>,
    staged: Arc<Mutex<usize>>,
}

impl Drop for Staging {
    fn drop(&mut self) {
        *self.staged.lock().unwrap() -= 1;
    }
}

impl Acceptor for Stages {
    type Receipt = Stored;
    type Staging = Staging;

    fn available(&self) -> Result<(), Reply> {
        match self.locked.load(Ordering::Relaxed) {
            true => Err(Reply::new(451, EnhancedCode(4, 3, 0), "locked; unlock at the console")),
            false => Ok(()),
        }
    }

    fn begin(&self, _id: MessageId) -> Result<Staging, Reply> {
        *self.staged.lock().unwrap() += 1;
        Ok(Staging { octets: Vec::new(), staged: Arc::clone(&self.staged) })
    }

    fn append(&self, staging: &mut Staging, bytes: &[u8]) -> Result<(), Reply> {
        if self.full.load(Ordering::Relaxed) {
            return Err(Reply::new(452, EnhancedCode(4, 3, 1), "the disk is full"));
        }
        staging.octets.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(
        &self,
        mut staging: Staging,
        envelope: Envelope,
    ) -> impl Future<Output = Result<(Stored, MessageId), Reply>> + Send {
        let wait = *self.commit.lock().unwrap();
        async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let id = envelope.id;
            self.messages.lock().unwrap().push((envelope, std::mem::take(&mut staging.octets)));
            Ok((Stored, id))
        }
    }
}

/// A running intake; stops when dropped.
pub struct Rig {
    pub address: SocketAddr,
    pub stages: Arc<Stages>,
    pub stop: watch::Sender<bool>,
    pub thread: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

pub struct Options {
    pub listed: bool,
    pub tls: bool,
    pub size: u64,
    pub max_sessions: usize,
    pub max_sessions_per_client: usize,
    pub timeouts: Timeouts,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listed: true,
            tls: true,
            size: 100 << 20,
            max_sessions: 500,
            max_sessions_per_client: 100,
            timeouts: Timeouts::default(),
        }
    }
}

impl Rig {
    pub fn start(options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host: Domain = "mx.example".parse().unwrap();
        let tls = options.tls.then(|| intake::certificate(dir.path(), &host).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let network = if options.listed { "127.0.0.0" } else { "192.0.2.0" };
        let settings = settings::Intake {
            listen: vec![address],
            networks: vec![settings::Network { address: network.parse().unwrap(), prefix: 8 }],
            max_message_bytes: options.size,
            max_recipients: 100,
            max_sessions: options.max_sessions,
            max_sessions_per_client: options.max_sessions_per_client,
            tls: None,
        };
        let stages = Arc::new(Stages::default());
        let intake = Intake::new(Arc::clone(&stages), settings, host, tls).with_timeouts(options.timeouts);
        let (stop, stopped) = watch::channel(false);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(intake.serve(vec![listener], stopped)).unwrap();
        });
        Self { address, stages, stop, thread: Some(thread), _dir: dir }
    }

    /// Tells the service to stop and waits for it.
    pub fn stop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    pub fn count(&self) -> usize {
        self.stages.messages.lock().unwrap().len()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _failed = thread.join();
        }
    }
}

/// A client that speaks by the line.
pub struct Client(pub BufReader<TcpStream>);

impl Client {
    /// Connects and takes the greeting.
    pub fn connect(address: SocketAddr) -> Self {
        let mut client = Self::raw(address);
        client.expect("220 ");
        client
    }

    pub fn raw(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    pub fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// The next whole reply begins so.
    pub fn expect(&mut self, start: &str) -> String {
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            if line.as_bytes().get(3) != Some(&b'-') {
                assert!(line.starts_with(start), "expected {start:?}, got {line:?}");
                return line;
            }
        }
    }

    /// Up to the 354.
    pub fn begin(&mut self) {
        self.send("EHLO client.example\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n");
        for code in ["250", "250", "250", "354"] {
            self.expect(code);
        }
    }

    /// The server has closed, and said nothing more.
    pub fn expect_closed(&mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => assert_eq!(String::from_utf8_lossy(&rest), ""),
            // What the server had not read when it closed comes back as a reset.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}
