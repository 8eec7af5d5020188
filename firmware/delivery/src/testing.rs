//! What the tests of several modules need.

use mail::{BodyType, Client, Domain, Envelope, MessageId, Outcome};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use settings::{Host, HostPort, Intake, Policy, Relay, RelayTls, Retry, Settings, Spool};
use std::{
    net::Ipv4Addr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Settings whose smarthost is this server, without TLS.
pub(crate) fn settings(host: &str, port: u16) -> Settings {
    let name: Domain = "postern.example".parse().unwrap();
    Settings {
        host: Host { name },
        network: None,
        operators: Vec::new(),
        intake: Intake {
            listen: Vec::new(),
            networks: Vec::new(),
            max_message_bytes: 100 << 20,
            max_recipients: 1000,
            max_sessions: 500,
            max_sessions_per_client: 100,
            tls: None,
        },
        relay: Relay {
            smarthost: HostPort { host: host.to_owned(), port },
            tls: RelayTls::None,
            max_connections: 20,
            ca: None,
        },
        internal: Vec::new(),
        cloud: None,
        retry: Retry {
            first: Duration::from_secs(60),
            longest: Duration::from_secs(3600),
            give_up: Duration::from_secs(120 * 3600),
        },
        spool: Spool { memory_bytes: 64 << 20, reserve_bytes: 64 << 20, segment_bytes: 64 << 20 },
        policy: Policy::default(),
    }
}

/// An envelope from `sender@corp.example` to these.
pub(crate) fn envelope(recipients: &[&str]) -> Envelope {
    Envelope {
        id: MessageId::generate(),
        sender: "sender@corp.example".parse().unwrap(),
        recipients: recipients.iter().map(|r| r.parse().unwrap()).collect(),
        body: BodyType::SevenBit,
        smtputf8: false,
        client: Client {
            ip: Ipv4Addr::LOCALHOST.into(),
            helo: "client.corp.example".to_owned(),
            esmtp: true,
            tls: None,
        },
        received: jiff::Timestamp::now(),
    }
}

/// What a scripted server does on one connection: wait for a text, then send one. Where the text to wait for is empty
/// it sends at once; behind the last entry it closes. The text may stand anywhere in what is heard, and all up to its
/// end is used up.
pub(crate) type Script = Vec<(&'static str, &'static str)>;

/// A greeting with PIPELINING, then this many messages.
pub(crate) fn numbered(messages: usize) -> Script {
    let mut script =
        vec![("", "220 hi\r\n"), ("EHLO postern.example\r\n", "250-hi\r\n250-8BITMIME\r\n250 PIPELINING\r\n")];
    for _ in 0..messages {
        script.push(("DATA\r\n", "250 ok\r\n250 ok\r\n"));
        script.push(("", "354 go\r\n"));
        // Behind the 354 the end of data may be the whole content, `.` CR LF at once.
        script.push((END, "250 2.0.0 taken\r\n"));
    }
    script
}

/// Stands for the end of data in a script.
pub(crate) const END: &str = "\r\n.\r\n";

/// A scripted server on a port of its own.
pub(crate) struct Scripted {
    pub(crate) port: u16,
    connections: Arc<AtomicUsize>,
    heard: tokio::task::JoinHandle<Vec<String>>,
}

impl Scripted {
    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// What was heard on each connection, when all scripts are done.
    pub(crate) async fn heard(self) -> Vec<String> {
        tokio::time::timeout(Duration::from_secs(20), self.heard).await.unwrap().unwrap()
    }
}

/// Serves one script a connection, in this order, then listens no more.
pub(crate) async fn serve(scripts: Vec<Script>) -> Scripted {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let heard = tokio::spawn(async move {
        let mut heard = Vec::new();
        for script in scripts {
            let (stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            heard.push(follow(stream, &script).await);
        }
        heard
    });
    Scripted { port, connections, heard }
}

/// The first script in plain, the second under TLS on the same connection.
pub(crate) async fn serve_tls(
    plain: &[(&'static str, &'static str)],
    cert: &Path,
    key: &Path,
    script: Script,
) -> Scripted {
    let chain = CertificateDer::pem_file_iter(cert).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    let config = rustls::ServerConfig::builder_with_provider(crate::trust::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let (count, plain) = (Arc::clone(&connections), plain.to_vec());
    let heard = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        count.fetch_add(1, Ordering::SeqCst);
        let mut heard = vec![follow(&mut stream, &plain).await];
        let stream = acceptor.accept(stream).await.unwrap();
        // The greeting is not said again under TLS.
        heard.push(follow(stream, &script[1..]).await);
        heard
    });
    Scripted { port, connections, heard }
}

/// Follows `plain` on each connection, then passes octets to and from another port.
pub(crate) async fn front(plain: &[(&'static str, &'static str)], behind: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let plain = plain.to_vec();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            follow(&mut stream, &plain).await;
            let mut server = TcpStream::connect(("127.0.0.1", behind)).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
        }
    });
    port
}

async fn follow(mut stream: impl AsyncRead + AsyncWrite + Unpin, script: &[(&'static str, &'static str)]) -> String {
    let mut heard = Vec::new();
    let mut used = 0;
    for (wait, say) in script {
        loop {
            // An empty message has its dot right behind DATA's line end.
            let from = if *wait == END { used - 2 } else { used };
            if let Some(at) = memchr::memmem::find(&heard[from..], wait.as_bytes()) {
                used = from + at + wait.len();
                break;
            }
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer).await {
                Ok(length @ 1..) => heard.extend_from_slice(&buffer[..length]),
                _ => return String::from_utf8_lossy(&heard).into_owned(),
            }
        }
        stream.write_all(say.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
    }
    String::from_utf8_lossy(&heard).into_owned()
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Whether it arrived.
pub(crate) fn delivered(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Delivered(reply) if reply.is_positive())
}

/// The enhanced code of a deferral.
pub(crate) fn deferral(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Deferred(reply) => reply.enhanced.map(|code| code.to_string()).unwrap_or_default(),
        other => panic!("not deferred: {other:?}"),
    }
}

/// The enhanced code of a permanent failure.
pub(crate) fn failure(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Failed(reply) => reply.enhanced.map(|code| code.to_string()).unwrap_or_default(),
        other => panic!("not failed: {other:?}"),
    }
}

/// The text of whatever reply.
pub(crate) fn text_of(outcome: &Outcome) -> String {
    let (Outcome::Delivered(reply) | Outcome::Deferred(reply) | Outcome::Failed(reply)) = outcome;
    reply.lines.join(" ")
}
