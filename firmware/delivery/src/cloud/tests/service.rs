//! A cloud service for tests: real TLS, HTTP/2 and certificates, storage in memory. It follows `wire`.

use super::super::{Identity, IdentityError};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair,
};
use rustls::{
    RootCertStore, ServerConfig, SignatureAlgorithm, SignatureScheme,
    server::WebPkiClientVerifier,
    sign::{Signer, SigningKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer, pem::PemObject};
use std::{
    collections::{HashMap, VecDeque},
    io::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::net::TcpListener;
use wire::{Digest, EnrolRequest, EnrolResponse, Progress, Refusal, Stored, UploadState, header, path};

/// A certificate authority.
pub(super) struct Ca {
    pub(super) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = parameters.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(parameters, key) }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        roots
    }

    /// The CA's certificate as a file for `cloud.ca`.
    pub(super) fn file(&self) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(self.pem.as_bytes()).unwrap();
        file
    }

    fn sign_request(&self, csr: &str) -> Option<String> {
        let mut request = CertificateSigningRequestParams::from_pem(csr).ok()?;
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Some(request.signed_by(&self.issuer).ok()?.pem())
    }
}

/// An identity whose key lies in memory, and that counts its signatures and may take its time.
pub(super) struct SoftIdentity {
    pair: KeyPair,
    key: Arc<CountingKey>,
}

#[derive(Debug)]
struct CountingKey {
    inner: Arc<dyn SigningKey>,
    locked_out: bool,
    signatures: Arc<AtomicUsize>,
    takes: Duration,
}

#[derive(Debug)]
struct SlowSigner {
    inner: Box<dyn Signer>,
    locked_out: bool,
    takes: Duration,
    signatures: Arc<AtomicUsize>,
}

impl SoftIdentity {
    pub(super) fn new(takes: Duration) -> Arc<Self> {
        Self::made(takes, false)
    }

    /// One whose every signature fails.
    pub(super) fn locked_out() -> Arc<Self> {
        Self::made(Duration::ZERO, true)
    }

    fn made(takes: Duration, locked_out: bool) -> Arc<Self> {
        let pair = KeyPair::generate().unwrap();
        let der = PrivateKeyDer::try_from(pair.serialize_der()).unwrap();
        let inner = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).unwrap();
        Arc::new(Self { pair, key: Arc::new(CountingKey { inner, locked_out, signatures: Arc::default(), takes }) })
    }

    pub(super) fn signatures(&self) -> usize {
        self.key.signatures.load(Ordering::SeqCst)
    }
}

impl Identity for SoftIdentity {
    fn request(&self) -> Result<Vec<u8>, IdentityError> {
        let parameters = CertificateParams::new(Vec::new()).unwrap();
        Ok(parameters.serialize_request(&self.pair).unwrap().der().to_vec())
    }

    fn signing_key(&self) -> Result<Arc<dyn SigningKey>, IdentityError> {
        Ok(Arc::clone(&self.key) as Arc<dyn SigningKey>)
    }
}

impl SigningKey for CountingKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let inner = self.inner.choose_scheme(offered)?;
        let (locked_out, takes, signatures) = (self.locked_out, self.takes, Arc::clone(&self.signatures));
        Some(Box::new(SlowSigner { inner, locked_out, takes, signatures }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.inner.algorithm()
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.inner.public_key()
    }
}

impl Signer for SlowSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.signatures.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(self.takes);
        if self.locked_out {
            let fault = std::io::Error::other("the TPM is locked out");
            return Err(rustls::Error::Other(rustls::OtherError(Arc::new(fault))));
        }
        self.inner.sign(message)
    }

    fn scheme(&self) -> SignatureScheme {
        self.inner.scheme()
    }
}

/// How this service differs from a good one.
#[derive(Clone, Copy, Default)]
pub(super) struct Manner {
    pub(super) expired: bool,
    pub(super) http1: bool,
    pub(super) tls12: bool,
    /// Trusts another device CA than the one that it issues from.
    pub(super) foreign_clients: bool,
}

#[derive(Default)]
struct Upload {
    digest: Option<Digest>,
    octets: Vec<u8>,
    done: bool,
}

/// What the service holds.
#[derive(Default)]
pub(super) struct Store {
    uploads: HashMap<String, Upload>,
    /// Answers to give before following the rules again; `None` follows them.
    pub(super) canned: VecDeque<Option<Response<Full<Bytes>>>>,
    pub(super) requests: Vec<String>,
    pub(super) connections: usize,
    /// Takes requests and never answers.
    pub(super) silent: bool,
    /// Closes the connection behind each request.
    pub(super) one_request_a_connection: bool,
    /// Closes the connection once this many octets of a body have come.
    pub(super) break_at: Option<usize>,
    pub(super) octets: usize,
}

impl Store {
    /// The stored frames by path.
    pub(super) fn frames(&self) -> Vec<(&String, &Vec<u8>)> {
        self.uploads.iter().filter(|(_, upload)| upload.done).map(|(path, upload)| (path, &upload.octets)).collect()
    }
}

pub(super) struct Service {
    pub(super) url: String,
    pub(super) server_ca: Ca,
    pub(super) store: Arc<Mutex<Store>>,
}

pub(super) const CODE: &str = "ONE-TIME";

pub(super) async fn start(manner: Manner) -> Service {
    let (server_ca, device_ca) = (Ca::new(), Arc::new(Ca::new()));
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    if manner.expired {
        parameters.not_after = rcgen::date_time_ymd(2020, 1, 1);
    }
    let certificate = parameters.signed_by(&key, &server_ca.issuer).unwrap();
    let trusted = if manner.foreign_clients { Ca::new().roots() } else { device_ca.roots() };
    let provider = crate::trust::provider();
    // Enrolment comes without a certificate; each request is checked for one.
    let verifier = WebPkiClientVerifier::builder_with_provider(trusted.into(), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .unwrap();
    let versions: &[_] = if manner.tls12 { &[&rustls::version::TLS12] } else { &[&rustls::version::TLS13] };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    config.alpn_protocols = if manner.http1 { vec![] } else { vec![b"h2".to_vec()] };
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let store = Arc::new(Mutex::new(Store::default()));
    let shared = Arc::clone(&store);
    // On a thread of its own, so that whatever blocks the test's runtime shows in the test alone.
    let listener = listener.into_std().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, store, ca) = (acceptor.clone(), Arc::clone(&shared), Arc::clone(&device_ca));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    connection(stream, store, ca).await;
                });
            }
        });
    });
    Service { url, server_ca, store }
}

type TlsStream = tokio_rustls::server::TlsStream<tokio::net::TcpStream>;

async fn connection(stream: TlsStream, store: Arc<Mutex<Store>>, ca: Arc<Ca>) {
    store.lock().unwrap().connections += 1;
    let known = stream.get_ref().1.peer_certificates().is_some();
    let served = Arc::new(tokio::sync::Notify::new());
    let (ending, shared) = (Arc::clone(&served), Arc::clone(&store));
    let service = service_fn(move |request: Request<Incoming>| {
        let (store, ca, served) = (Arc::clone(&store), Arc::clone(&ca), Arc::clone(&served));
        async move {
            let answer = answer(request, known, &store, &ca, &served).await;
            served.notify_one();
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let connection =
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    loop {
        tokio::select! {
            _ = &mut connection => return,
            () = ending.notified() => {
                let store = shared.lock().unwrap();
                if store.break_at.is_some_and(|at| store.octets >= at) {
                    return;
                }
                if store.one_request_a_connection {
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

fn reply(status: u16, body: &impl serde::Serialize) -> Response<Full<Bytes>> {
    let body = Full::from(serde_json::to_vec(body).unwrap());
    Response::builder().status(status).body(body).unwrap()
}

pub(super) fn refuse(status: u16) -> Response<Full<Bytes>> {
    reply(status, &Refusal { error: format!("refused with {status}; do something") })
}

async fn answer(
    request: Request<Incoming>,
    known: bool,
    store: &Mutex<Store>,
    ca: &Ca,
    broken: &tokio::sync::Notify,
) -> Response<Full<Bytes>> {
    let (head, mut body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let field = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let offset = field(header::UPLOAD_OFFSET).map(|text| text.parse::<usize>().unwrap());
    let silent = {
        let mut store = store.lock().unwrap();
        store.requests.push(format!("{} {} {}", head.method, path, offset.unwrap_or(0)));
        if let Some(Some(canned)) = store.canned.pop_front() {
            return canned;
        }
        store.silent
    };
    if silent {
        std::future::pending::<()>().await;
    }
    let mut octets = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return refuse(400) };
        let Ok(data) = frame.into_data() else { continue };
        octets.extend_from_slice(&data);
        let due = {
            let mut store = store.lock().unwrap();
            store.octets += data.len();
            store.break_at.is_some_and(|at| store.octets >= at)
        };
        if due {
            broken.notify_one();
            std::future::pending::<()>().await;
        }
    }
    if path == path::ENROL {
        let request: EnrolRequest = serde_json::from_slice(&octets).unwrap();
        return match ca.sign_request(&request.csr).filter(|_| request.code == CODE) {
            Some(certificate) => {
                let (appliance, tenant) = ("box-1".to_owned(), "corp".to_owned());
                reply(200, &EnrolResponse { appliance, tenant, certificate, ca: ca.pem.clone() })
            }
            None => refuse(403),
        };
    }
    if !known {
        return refuse(401);
    }
    let mut store = store.lock().unwrap();
    if head.method == Method::GET {
        return reply(200, &state(store.uploads.get(&path)));
    }
    let digest: Digest = field(header::DIGEST).unwrap().parse().unwrap();
    let length = field(header::UPLOAD_LENGTH).map_or(octets.len(), |text| text.parse().unwrap());
    put(store.uploads.entry(path).or_default(), offset.unwrap_or(0), length, digest, &octets)
}

fn state(upload: Option<&Upload>) -> UploadState {
    match upload {
        Some(Upload { digest: Some(digest), done: true, .. }) => {
            UploadState::Stored { digest: *digest, receipt: "r".into() }
        }
        Some(Upload { digest: Some(digest), octets, .. }) => {
            UploadState::Partial { offset: octets.len() as u64, length: LARGE as u64, digest: *digest }
        }
        _ => UploadState::Absent,
    }
}

/// The length of the frame in the tests that send pieces.
pub(super) const LARGE: usize = 20 * 1024 * 1024;

fn put(upload: &mut Upload, offset: usize, length: usize, digest: Digest, octets: &[u8]) -> Response<Full<Bytes>> {
    if upload.done {
        return if upload.digest == Some(digest) { reply(200, &Stored { receipt: "r".into() }) } else { refuse(409) };
    }
    if upload.digest != Some(digest) && offset == 0 {
        *upload = Upload { digest: Some(digest), ..Upload::default() };
    }
    if offset != upload.octets.len() {
        return reply(StatusCode::RANGE_NOT_SATISFIABLE.as_u16(), &Progress { offset: upload.octets.len() as u64 });
    }
    upload.octets.extend_from_slice(octets);
    if upload.octets.len() < length {
        return reply(202, &Progress { offset: upload.octets.len() as u64 });
    }
    let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &upload.octets);
    if sum.as_ref() != digest.0 {
        return refuse(422);
    }
    upload.done = true;
    reply(201, &Stored { receipt: "r".into() })
}
