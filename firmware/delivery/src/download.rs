//! Fetching a file over HTTPS.
//!
//! Job: bring one file of bounded size from a web server to the disk, for updates. Place: beside the message's way; the
//! daemon calls it as an operator asked. Invariants: HTTPS only, also behind redirects, with a certificate that is
//! checked; never more octets than were allowed; every wait has a deadline. What is fetched is not believed: its
//! signature is checked by whoever installs it. A crash leaves a part of the file, which the next download replaces.

use crate::trust::{self, SetupError};
use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use settings::Roots;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{fs::File, io::AsyncWriteExt, net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Name look-up, TCP and TLS, each.
const CONNECT: Duration = Duration::from_secs(30);
/// Between two pieces, and for the answer's head.
const PAUSE: Duration = Duration::from_secs(60);
/// All of it: 300 MiB over a line of a megabit take 42 minutes.
const WHOLE: Duration = Duration::from_secs(2 * 3600);
/// A server that sends us on more often sends us in a circle.
const REDIRECTS: usize = 5;

/// What to fetch, and how much of it at most.
#[derive(Clone, Debug)]
pub struct Download {
    /// `https://…`
    pub url: String,
    /// Who may vouch for the server; absent: the system's roots.
    pub roots: Option<Roots>,
    /// Octets at most.
    pub most: u64,
}

/// What was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downloaded {
    /// Octets.
    pub length: u64,
    /// SHA-256 in lower-case hexadecimal digits.
    pub sha256: String,
}

/// Why a file could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// Not HTTPS, or no server in it; a redirect's target too.
    #[error("{0:?} is no https URL; name one that begins with https://")]
    Url(String),
    /// No roots.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// No connection.
    #[error("{host} can't be reached: {why}; check the address, DNS and the network")]
    Unreachable {
        /// Which server.
        host: String,
        /// What failed.
        why: String,
    },
    /// TLS.
    #[error("{host} is not trusted: {why}; check its certificate and this box's clock")]
    Tls {
        /// Which server.
        host: String,
        /// What failed.
        why: String,
    },
    /// The server has it not, or not for us.
    #[error("{host} answers {status}; check the address")]
    Status {
        /// Which server.
        host: String,
        /// The answer.
        status: u16,
    },
    /// More than was allowed.
    #[error("the file is larger than {0} bytes; check that it is the right one")]
    TooLarge(u64),
    /// It broke off, or took too long.
    #[error("the download broke off: {0}; try again")]
    Broken(String),
    /// Our disk.
    #[error("{path} can't be written: {source}; check the disk's free space", path = path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
}

impl Download {
    /// Fetches the file to `path`, which is replaced, and syncs it.
    ///
    /// # Errors
    /// See [`DownloadError`]; what came so far is removed.
    pub async fn to(&self, path: &Path) -> Result<Downloaded, DownloadError> {
        let fetched = timeout(WHOLE, self.fetch(path));
        let fetched = fetched.await.unwrap_or_else(|_| Err(DownloadError::Broken("it took too long".to_owned())));
        if fetched.is_err() {
            let _ = tokio::fs::remove_file(path).await;
        }
        fetched
    }

    async fn fetch(&self, path: &Path) -> Result<Downloaded, DownloadError> {
        let mut body = self.open().await?;
        let disk = |source| DownloadError::Disk { path: path.to_owned(), source };
        let mut file = File::create(path).await.map_err(disk)?;
        let (mut length, mut digest) = (0, Context::new(&SHA256));
        let broken = |why: String| DownloadError::Broken(why);
        while let Some(frame) =
            timeout(PAUSE, body.frame()).await.map_err(|_| broken("nothing came for a minute".to_owned()))?
        {
            let Ok(piece) = frame.map_err(|error| broken(error.to_string()))?.into_data() else { continue };
            length += piece.len() as u64;
            if length > self.most {
                return Err(DownloadError::TooLarge(self.most));
            }
            digest.update(&piece);
            file.write_all(&piece).await.map_err(disk)?;
        }
        file.flush().await.map_err(disk)?;
        file.sync_all().await.map_err(disk)?;
        let sha256 = digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Downloaded { length, sha256 })
    }

    /// Follows redirects up to the answer that carries the file.
    async fn open(&self) -> Result<Incoming, DownloadError> {
        let config = ClientConfig::builder_with_provider(trust::provider())
            .with_safe_default_protocol_versions()
            .map_err(SetupError::from)?
            .with_root_certificates(trust::roots(self.roots.as_ref())?)
            .with_no_client_auth();
        let tls = TlsConnector::from(Arc::new(config));
        let mut url = self.url.clone();
        for _ in 0..=REDIRECTS {
            let bad = || DownloadError::Url(url.clone());
            let uri: Uri = url.parse().map_err(|_| bad())?;
            let host = uri.host().filter(|_| uri.scheme_str() == Some("https")).ok_or_else(bad)?.to_owned();
            let (status, headers, body) = ask(&tls, &host, &uri).await?;
            match status {
                StatusCode::OK => {
                    let length =
                        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
                    if length.is_some_and(|length: u64| length > self.most) {
                        return Err(DownloadError::TooLarge(self.most));
                    }
                    return Ok(body);
                }
                status if status.is_redirection() => {
                    let next = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
                    url = next.map(|next| absolute(&uri, next)).ok_or_else(bad)?;
                }
                status => return Err(DownloadError::Status { host, status: status.as_u16() }),
            }
        }
        Err(DownloadError::Broken("the server sends us on and on".to_owned()))
    }
}

/// A redirect's target; one without a server stays at the present one (RFC 9110 §10.2.2).
fn absolute(from: &Uri, to: &str) -> String {
    match (to.starts_with('/') && !to.starts_with("//"), from.authority()) {
        (true, Some(authority)) => format!("https://{authority}{to}"),
        _ => to.to_owned(),
    }
}

async fn ask(tls: &TlsConnector, host: &str, uri: &Uri) -> Result<(StatusCode, HeaderMap, Incoming), DownloadError> {
    let stream = connect(tls, host, uri.port_u16().unwrap_or(443)).await?;
    let broken = |error: hyper::Error| DownloadError::Broken(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends when the body is read or dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            log::debug!("the download's connection ended: {error}");
        }
    });
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or(host, |authority| authority.as_str());
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, concat!("postern/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|_| DownloadError::Url(uri.to_string()))?;
    let response = timeout(PAUSE, sender.send_request(request)).await;
    let response = response.map_err(|_| DownloadError::Broken("no answer for a minute".to_owned()))?.map_err(broken)?;
    let (head, body) = response.into_parts();
    Ok((head.status, head.headers, body))
}

async fn connect(tls: &TlsConnector, host: &str, port: u16) -> Result<TlsStream<TcpStream>, DownloadError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let unreachable = |why: String| DownloadError::Unreachable { host: host.to_owned(), why };
    let untrusted = |why: String| DownloadError::Tls { host: host.to_owned(), why };
    let late = |_| unreachable(format!("no answer within {} s", CONNECT.as_secs()));
    let stream = timeout(CONNECT, TcpStream::connect((bare, port))).await.map_err(late)?;
    let stream = stream.map_err(|error| unreachable(error.to_string()))?;
    let name = ServerName::try_from(bare.to_owned()).map_err(|error| untrusted(error.to_string()))?;
    let stream = timeout(CONNECT, tls.connect(name, stream)).await.map_err(late)?;
    stream.map_err(|error| untrusted(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    use tokio::{io::AsyncReadExt, net::TcpListener};

    /// A web server that gives each of these answers to one connection, and the URL of its first file.
    async fn server(answers: Vec<String>) -> (Roots, String) {
        let key = KeyPair::generate().unwrap();
        let pem = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        let config = rustls::ServerConfig::builder_with_provider(trust::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in answers {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut heard = Vec::new();
                while !heard.ends_with(b"\r\n\r\n") && stream.read_buf(&mut heard).await.unwrap() > 0 {}
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        (Roots::Text(pem), format!("https://localhost:{port}/a.raucb"))
    }

    async fn fetch(url: &str, roots: Roots, most: u64) -> (Result<Downloaded, DownloadError>, Option<Vec<u8>>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle");
        let done = Download { url: url.to_owned(), roots: Some(roots), most }.to(&path).await;
        (done, std::fs::read(path).ok())
    }

    fn file(text: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
    }

    #[tokio::test]
    async fn a_file_is_fetched_behind_a_redirect_and_its_digest_told() {
        let sent_on = "HTTP/1.1 302 Found\r\nLocation: /b.raucb\r\nContent-Length: 0\r\n\r\n".to_owned();
        let (roots, url) = server(vec![sent_on, file("bundle")]).await;
        let (done, stored) = fetch(&url, roots, 6).await;
        assert_eq!(stored.unwrap(), b"bundle");
        let digest = aws_lc_rs::digest::digest(&SHA256, b"bundle");
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(done.unwrap(), Downloaded { length: 6, sha256: hex });
    }

    #[tokio::test]
    async fn what_is_too_large_or_cut_leaves_no_file() {
        let unannounced = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nbundle".to_owned();
        let cut = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nbun".to_owned();
        for (answer, most, too_large) in [(file("bundle"), 5, true), (unannounced, 5, true), (cut, 6, false)] {
            let (roots, url) = server(vec![answer.clone()]).await;
            let (done, stored) = fetch(&url, roots, most).await;
            let error = done.unwrap_err();
            assert_eq!(matches!(error, DownloadError::TooLarge(5)), too_large, "{answer}: {error}");
            assert_eq!(stored, None, "{answer}");
        }
    }

    #[tokio::test]
    async fn nothing_is_fetched_in_plain_or_from_a_stranger() {
        let plain = "HTTP/1.1 302 Found\r\nLocation: http://localhost/b\r\nContent-Length: 0\r\n\r\n".to_owned();
        let (roots, url) = server(vec![plain]).await;
        assert!(matches!(fetch(&url, roots, 9).await.0, Err(DownloadError::Url(_))));
        let (other, _) = server(Vec::new()).await;
        let (_, url) = server(vec![file("bundle")]).await;
        assert!(matches!(fetch(&url, other.clone(), 9).await.0, Err(DownloadError::Tls { .. })));
        for bad in ["http://localhost/a", "/data/update/a", "https://", "file:///etc/passwd"] {
            assert!(matches!(fetch(bad, other.clone(), 9).await.0, Err(DownloadError::Url(_))), "{bad}");
        }
    }
}
