//! A service on ephemeral ports, an appliance, a browser and a mail sink.

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use postern_cloud::{Admin, Config, Service, Smtp, SmtpTls};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject};
use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use wire::{Digest, EnrolRequest, EnrolResponse, Metadata};

pub const ID: &str = "01JD3Q5Y7ZKX9V2W4T6R8P0M1N";

/// A reply, read whole.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn location(&self) -> &str {
        self.headers.get("location").map_or("", |l| l.to_str().unwrap())
    }
}

/// A running service with its folder.
pub struct Lab {
    pub folder: tempfile::TempDir,
    pub service: Option<Service>,
    pub sink: Sink,
}

impl Lab {
    pub async fn start() -> Self {
        let mut lab = Self { folder: tempfile::tempdir().unwrap(), service: None, sink: Sink::start().await };
        lab.run().await;
        lab.admin().await.tenants.add("clinic", "Example Clinic").await.unwrap();
        lab
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn config(&self) -> Config {
        Config {
            data: self.data(),
            master_key: self.folder.path().join("master"),
            portal_url: None,
            smtp: Smtp {
                host: "127.0.0.1".into(),
                port: self.sink.address.port(),
                tls: SmtpTls::Opportunistic,
                sender: "secure-mail@portal.example".into(),
            },
            tls: None,
            names: Vec::new(),
        }
    }

    pub async fn run(&mut self) {
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        self.service = Some(Service::start(self.config(), bind(), bind()).await.unwrap());
    }

    pub async fn restart(&mut self) {
        if let Some(service) = self.service.take() {
            service.stop().await;
        }
        self.run().await;
    }

    pub async fn admin(&self) -> Admin {
        Admin::open(&self.data(), &self.folder.path().join("master")).await.unwrap()
    }

    pub fn api(&self) -> SocketAddr {
        self.service.as_ref().unwrap().api
    }

    pub fn portal(&self) -> SocketAddr {
        self.service.as_ref().unwrap().portal
    }

    pub fn ca(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.data().join("ca.pem")).unwrap()
    }

    pub async fn code(&self) -> String {
        self.admin().await.tenants.issue_code("clinic", Duration::from_secs(600)).await.unwrap()
    }

    pub fn stranger(&self) -> Appliance {
        Appliance { tls: tls(self.ca(), None), address: self.api() }
    }

    pub async fn enrolled(&self) -> Appliance {
        let key = p256();
        let reply = self.stranger().enrol(&self.code().await, &csr(&key)).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        self.with_certificate(&reply.json::<EnrolResponse>().certificate, &key)
    }

    pub fn with_certificate(&self, pem: &str, key: &KeyPair) -> Appliance {
        appliance(self.ca(), self.api(), pem, key)
    }

    pub fn browser(&self) -> Browser {
        Browser::new(self.ca(), self.portal())
    }
}

/// An appliance with this certificate, which trusts `ca`.
pub fn appliance(ca: CertificateDer<'static>, address: SocketAddr, pem: &str, key: &KeyPair) -> Appliance {
    let chain = vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()];
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    Appliance { tls: tls(ca, Some((chain, key))), address }
}

pub fn p256() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

pub fn csr(key: &KeyPair) -> String {
    CertificateParams::default().serialize_request(key).unwrap().pem().unwrap()
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

pub fn tls(ca: CertificateDer<'static>, identity: Option<Identity>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    }
}

async fn connect(tls: &ClientConfig, address: SocketAddr, alpn: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(tls)).connect(ServerName::from(address.ip()), stream).await
}

/// A client of the API.
pub struct Appliance {
    pub tls: ClientConfig,
    pub address: SocketAddr,
}

impl Appliance {
    pub async fn open(&self) -> std::io::Result<TlsStream<TcpStream>> {
        connect(&self.tls, self.address, b"http/1.1").await
    }

    /// One request over HTTP/2.
    pub async fn request(&self, method: Method, path: &str, fields: &[(&str, String)], body: Vec<u8>) -> Reply {
        self.try_request(method, path, fields, body).await.unwrap()
    }

    pub async fn try_request(
        &self,
        method: Method,
        path: &str,
        fields: &[(&str, String)],
        body: Vec<u8>,
    ) -> Result<Reply, Box<dyn std::error::Error>> {
        let stream = connect(&self.tls, self.address, b"h2").await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(format!("https://{}{path}", self.address));
        for (name, value) in fields {
            request = request.header(*name, value);
        }
        let reply = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
        let (parts, body) = reply.into_parts();
        let body = body.collect().await?.to_bytes();
        connection.abort();
        Ok(Reply { status: parts.status, headers: parts.headers, body })
    }

    pub async fn enrol(&self, code: &str, csr: &str) -> Reply {
        let request =
            EnrolRequest { code: code.into(), csr: csr.into(), attestation: None, software: "postern 0.1.0".into() };
        self.request(Method::POST, wire::path::ENROL, &[], serde_json::to_vec(&request).unwrap()).await
    }

    pub async fn put(&self, group: u32, frame: &[u8]) -> Reply {
        let digest = [(wire::header::DIGEST, digest_of(frame).to_string())];
        self.request(Method::PUT, &wire::path::message(ID, group), &digest, frame.to_vec()).await
    }

    pub async fn piece(&self, frame: &[u8], offset: usize, end: usize) -> Reply {
        let fields = [
            (wire::header::DIGEST, digest_of(frame).to_string()),
            (wire::header::UPLOAD_OFFSET, offset.to_string()),
            (wire::header::UPLOAD_LENGTH, frame.len().to_string()),
        ];
        self.request(Method::PUT, &wire::path::message(ID, 0), &fields, frame[offset..end].to_vec()).await
    }

    pub async fn state(&self, group: u32) -> wire::UploadState {
        let reply = self.request(Method::GET, &wire::path::message(ID, group), &[], Vec::new()).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        reply.json()
    }
}

pub fn digest_of(bytes: &[u8]) -> Digest {
    Digest(digest(&SHA256, bytes).as_ref().try_into().unwrap())
}

pub fn frame_to(recipients: &[&str], group: u32, message: &[u8]) -> Vec<u8> {
    let metadata = Metadata {
        id: ID.into(),
        group,
        sender: "dr.weber@clinic.example".into(),
        recipients: recipients.iter().map(|r| (*r).to_owned()).collect(),
        accepted_at: "2026-01-01T00:00:00Z".into(),
        smtputf8: false,
    };
    let mut frame = wire::frame::prefix(&metadata).unwrap();
    frame.extend_from_slice(message);
    frame
}

pub fn frame(message: &[u8]) -> Vec<u8> {
    frame_to(&["jane@home.example"], 0, message)
}

/// A browser: HTTP/1.1 and a cookie jar.
#[derive(Clone)]
pub struct Browser {
    tls: ClientConfig,
    pub address: SocketAddr,
    pub host: String,
    pub cookies: HashMap<String, String>,
}

impl Browser {
    pub fn new(ca: CertificateDer<'static>, address: SocketAddr) -> Self {
        Self { tls: tls(ca, None), address, host: address.to_string(), cookies: HashMap::new() }
    }

    pub async fn get(&mut self, path: &str) -> Reply {
        self.request(Method::GET, path, &[], String::new()).await
    }

    pub async fn post(&mut self, path: &str, form: &[(&str, &str)]) -> Reply {
        let encoded: Vec<String> = form.iter().map(|(k, v)| format!("{k}={}", percent(v))).collect();
        let fields =
            [("content-type", "application/x-www-form-urlencoded"), ("origin", &format!("https://{}", self.host))];
        self.request(Method::POST, path, &fields, encoded.join("&")).await
    }

    pub async fn request(&mut self, method: Method, path: &str, fields: &[(&str, &str)], body: String) -> Reply {
        let stream = connect(&self.tls, self.address, b"http/1.1").await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let cookies: Vec<String> = self.cookies.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let mut request = Request::builder().method(method).uri(path).header("host", &self.host);
        if !cookies.is_empty() {
            request = request.header("cookie", cookies.join("; "));
        }
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let reply = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
        let (parts, body) = reply.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        connection.abort();
        for cookie in parts.headers.get_all("set-cookie") {
            let cookie = cookie.to_str().unwrap();
            for attribute in ["Secure", "HttpOnly", "SameSite=Lax", "Path=/"] {
                assert!(cookie.contains(attribute), "{cookie}");
            }
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            if value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        Reply { status: parts.status, headers: parts.headers, body }
    }

    /// Follows a link and registers; ends on the message.
    pub async fn register(&mut self, link: &str, password: &str) -> Reply {
        let page = self.get(link).await;
        let token = form_token(&page);
        let form = [("form", token.as_str()), ("password", password), ("again", password)];
        let reply = self.post(&format!("{link}/register"), &form).await;
        assert_eq!(reply.status, StatusCode::SEE_OTHER, "{}", reply.text());
        reply
    }
}

pub fn form_token(page: &Reply) -> String {
    let text = page.text();
    let start = text.find("name=\"form\" value=\"").unwrap_or_else(|| panic!("no form in {text}")) + 19;
    text[start..].split('"').next().unwrap().to_owned()
}

fn percent(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02X}")).collect()
}

/// An SMTP server that keeps what it gets.
pub struct Sink {
    pub address: SocketAddr,
    pub mails: Arc<Mutex<Vec<Mail>>>,
    /// What it answers to the next RCPTs, instead of 250.
    pub refusals: Arc<Mutex<Vec<&'static str>>>,
}

#[derive(Clone, Debug)]
pub struct Mail {
    pub recipient: String,
    pub data: String,
}

impl Mail {
    /// The decoded text part.
    pub fn text(&self) -> String {
        let message = mail_parser::MessageParser::default().parse(&self.data).unwrap();
        message.body_text(0).unwrap().into_owned()
    }

    /// Path of the link in the text.
    pub fn link(&self) -> String {
        let text = self.text();
        let start = text.find("/m/").unwrap_or_else(|| panic!("no link in {text}"));
        text[start..].split_whitespace().next().unwrap().to_owned()
    }
}

impl Sink {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mails: Arc<Mutex<Vec<Mail>>> = Arc::default();
        let refusals: Arc<Mutex<Vec<&str>>> = Arc::default();
        let (kept, refused) = (mails.clone(), refusals.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(session(stream, kept.clone(), refused.clone()));
            }
        });
        Self { address, mails, refusals }
    }

    /// Waits until this many mails have come.
    pub async fn wait(&self, count: usize) -> Vec<Mail> {
        for _ in 0..600 {
            let mails = self.mails.lock().unwrap().clone();
            if mails.len() >= count {
                return mails;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("only {} of {count} notices came", self.mails.lock().unwrap().len());
    }
}

async fn session(
    stream: TcpStream,
    mails: Arc<Mutex<Vec<Mail>>>,
    refusals: Arc<Mutex<Vec<&'static str>>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(b"220 sink\r\n").await?;
    let mut recipient = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        let reply = match verb.as_str() {
            "EHLO" => "250-sink\r\n250 8BITMIME".to_owned(),
            "RCPT" => {
                recipient = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
                let refusal = refusals.lock().unwrap().pop();
                refusal.unwrap_or("250 ok").to_owned()
            }
            "DATA" => {
                stream.get_mut().write_all(b"354 go\r\n").await?;
                let mut data = String::new();
                while !data.ends_with("\r\n.\r\n") {
                    if stream.read_line(&mut data).await? == 0 {
                        return Ok(());
                    }
                }
                mails.lock().unwrap().push(Mail { recipient: recipient.clone(), data });
                "250 taken".to_owned()
            }
            "QUIT" => "221 bye".to_owned(),
            _ => "250 ok".to_owned(),
        };
        stream.get_mut().write_all(format!("{reply}\r\n").as_bytes()).await?;
        if verb == "QUIT" {
            return Ok(());
        }
    }
}

/// Writes raw bytes to the API over HTTP/1.1 and reads what comes until the end.
pub async fn raw(appliance: &Appliance, bytes: &[u8]) -> String {
    let mut stream = appliance.open().await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut reply = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut reply)).await;
    String::from_utf8_lossy(&reply).into_owned()
}
