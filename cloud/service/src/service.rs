//! The whole service: built in the order of need, sockets last.
//!
//! Job: put the parts together, and take them apart again. Place: called by `main` and by tests. Invariants: nothing is
//! accepted before keys, database and store are ready and what a crash left behind is cleaned; one service runs on a data
//! folder. A crash leaves what the parts leave; the next start begins with cleaning.

use crate::{
    Error,
    api::{self, Api},
    authority::{Authority, Kind, verify_master},
    database,
    directory::Directory,
    inbox::Inbox,
    ingest::Ingest,
    keys::{Master, ServiceKeys},
    listen,
    notice::{Notifier, Smtp},
    objects::Objects,
    portal::{self, Portal},
    tenants::Tenants,
};
use rustls::{ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often expired uploads and sessions are forgotten.
const HOUSEKEEPING: Duration = Duration::from_secs(600);
/// TLS sessions that can be resumed; they live in memory only, so a restart means full handshakes.
const SESSIONS_KEPT: usize = 4096;

/// How the service runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Data folder, made if absent.
    pub data: PathBuf,
    /// Master key file, made if absent; outside the data folder.
    pub master_key: PathBuf,
    /// `https://host[:port]` of the portal as recipients reach it; absent: the address that it listens on.
    pub portal_url: Option<String>,
    /// Where notices go out.
    pub smtp: Smtp,
    /// Certificate chain and key for both listeners; absent: issued by the service's own server CA.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Further host names and addresses for a certificate of the own CA.
    pub names: Vec<String>,
}

/// What the admin commands work with; it may be open while the service runs.
pub struct Admin {
    /// Tenants, codes and appliances.
    pub tenants: Arc<Tenants>,
}

impl Admin {
    /// Opens the data folder.
    ///
    /// # Errors
    /// Folder, key or database can't be used.
    pub async fn open(data: &Path, master_key: &Path) -> Result<Self, Error> {
        let store = Store::open(data, master_key).await?;
        Ok(Self { tenants: Arc::new(Tenants::new(store.db, store.keys)) })
    }
}

/// Keys and database.
struct Store {
    db: sqlx::SqlitePool,
    keys: Arc<ServiceKeys>,
}

impl Store {
    async fn open(data: &Path, master_key: &Path) -> Result<Self, Error> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(Error::file(data))?;
        fs::set_permissions(data, fs::Permissions::from_mode(0o700)).map_err(Error::file(data))?;
        let keys = Arc::new(Master::load_or_create(master_key, data)?.service()?);
        let db = database::open(data).await?;
        verify_master(&db, &keys).await?;
        Ok(Self { db, keys })
    }
}

/// A running service.
pub struct Service {
    /// Where the API listens.
    pub api: SocketAddr,
    /// Where the portal listens.
    pub portal: SocketAddr,
    /// `https://host[:port]` of the portal.
    pub portal_url: String,
    stop: CancellationToken,
    tasks: TaskTracker,
    db: sqlx::SqlitePool,
    // Held as long as the service runs; the system lets go of it when the process ends, however it ends.
    _lock: fs::File,
}

impl Service {
    /// Starts on bound sockets.
    ///
    /// # Errors
    /// Anything that keeps the service from keeping its promises.
    pub async fn start(config: Config, api: TcpListener, portal: TcpListener) -> Result<Self, Error> {
        let store = Store::open(&config.data, &config.master_key).await?;
        let lock = lock(&config.data)?;
        let Store { db, keys } = store;
        let objects = Objects::open(&config.data)?;
        let tenants = Arc::new(Tenants::new(db.clone(), keys.clone()));
        let ingest = Arc::new(Ingest::new(db.clone(), objects.clone(), tenants.clone(), keys.clone()));
        match ingest.sweep().await? {
            0 => {}
            removed => log::warn!("{removed} unfinished objects of an earlier run were removed"),
        }
        let devices = Authority::load_or_create(&db, &keys, Kind::Device).await?;
        let (api_address, portal_address) = (local(&api)?, local(&portal)?);
        let portal_url = origin(config.portal_url.as_deref(), portal_address)?;
        let identity = match &config.tls {
            Some((certificate, key)) => read_identity(certificate, key)?,
            None => own_identity(&db, &keys, &config, [api_address, portal_address], &portal_url).await?,
        };
        let api_tls = api_tls(&identity, &devices)?;
        let portal_tls = portal_tls(identity)?;

        let directory = Directory::new(db.clone(), keys.clone(), tenants.clone())?;
        let inbox = Inbox::new(db.clone(), objects, tenants.clone());
        let pages = Arc::new(Portal::new(db.clone(), directory, inbox, tenants.clone(), keys, portal_url.clone()));
        let notifier = Arc::new(Notifier::new(db.clone(), tenants.clone(), &config.smtp, &portal_url)?);

        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(notifier.run(ingest.stored.clone(), stop.clone()));
        tasks.spawn(housekeeping(ingest.clone(), pages.clone(), stop.clone()));
        let api_router = api::router(Arc::new(Api::new(tenants, ingest, devices)));
        tasks.spawn(listen::serve(listener(api)?, api_tls, listen::APPLIANCE, api_router, stop.clone()));
        tasks.spawn(listen::serve(listener(portal)?, portal_tls, listen::BROWSER, portal::router(pages), stop.clone()));
        tasks.close();
        Ok(Self { api: api_address, portal: portal_address, portal_url, stop, tasks, db, _lock: lock })
    }

    /// Stops: requests under way finish, the database is closed.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
        self.db.close().await;
    }
}

async fn housekeeping(ingest: Arc<Ingest>, portal: Arc<Portal>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(HOUSEKEEPING) => {}
        }
        if let Err(e) = ingest.expire().await {
            log::error!("expired uploads were not removed: {e}");
        }
        if let Err(e) = portal.expire().await {
            log::error!("ended sessions were not removed: {e}");
        }
    }
}

fn lock(data: &Path) -> Result<fs::File, Error> {
    let path = data.join("lock");
    let file =
        fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(Error::file(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Error::InUse(data.to_owned())),
        Err(fs::TryLockError::Error(e)) => Err(Error::file(&path)(e)),
    }
}

fn local(listener: &TcpListener) -> Result<SocketAddr, Error> {
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    listener.local_addr().map_err(|source| Error::Listen { address: unknown, source })
}

fn listener(listener: TcpListener) -> Result<tokio::net::TcpListener, Error> {
    let address = local(&listener)?;
    listener
        .set_nonblocking(true)
        .and_then(|()| tokio::net::TcpListener::from_std(listener))
        .map_err(|source| Error::Listen { address, source })
}

/// Scheme, host and port, as browsers send them in `Origin`.
fn origin(url: Option<&str>, address: SocketAddr) -> Result<String, Error> {
    let Some(url) = url else { return Ok(format!("https://{address}")) };
    let refused = || Error::PortalUrl(url.to_owned());
    let parsed: http::Uri = url.parse().map_err(|_| refused())?;
    let authority = parsed.authority().ok_or_else(refused)?;
    let bare = parsed.path() == "/" && parsed.query().is_none() && !authority.as_str().contains('@');
    if parsed.scheme_str() != Some("https") || !bare {
        return Err(refused());
    }
    // Browsers leave the default port out.
    let authority = authority.as_str().to_ascii_lowercase();
    Ok(format!("https://{}", authority.strip_suffix(":443").unwrap_or(&authority)))
}

/// Certificate chain and key.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn read_identity(certificate: &Path, key: &Path) -> Result<Identity, Error> {
    let wrong = |path: &Path| {
        let path = path.display().to_string();
        move |e: rustls_pki_types::pem::Error| Error::Certificate(format!("{path}: {e}"))
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(wrong(certificate))?;
    Ok((chain, PrivateKeyDer::from_pem_file(key).map_err(wrong(key))?))
}

/// A fresh certificate of the own server CA, whose public part is left in the data folder for clients to trust.
async fn own_identity(
    db: &sqlx::SqlitePool,
    keys: &ServiceKeys,
    config: &Config,
    addresses: [SocketAddr; 2],
    portal_url: &str,
) -> Result<Identity, Error> {
    let authority = Authority::load_or_create(db, keys, Kind::Server).await?;
    let path = config.data.join("ca.pem");
    fs::write(&path, &authority.pem).map_err(Error::file(&path))?;
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    names.extend(addresses.iter().filter(|a| !a.ip().is_unspecified()).map(|a| a.ip().to_string()));
    if let Some(host) = portal_url.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)) {
        names.push(host.trim_matches(['[', ']']).to_owned());
    }
    names.extend(config.names.iter().cloned());
    names.sort();
    names.dedup();
    authority.issue_server(names)
}

fn tls_error(error: impl std::fmt::Display) -> Error {
    Error::Certificate(error.to_string())
}

/// TLS 1.3 only; a client certificate is asked for and verified where shown, so that an appliance can enrol without one.
/// Sessions resume; the certificate that the first handshake proved stays with them, and is looked up at every request.
fn api_tls((chain, key): &Identity, devices: &Authority) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(devices.der()?).map_err(tls_error)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(tls_error)?;
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls_error)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(tls_error)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    tls.session_storage = rustls::server::ServerSessionMemoryCache::new(SESSIONS_KEPT);
    Ok(Arc::new(tls))
}

fn portal_tls((chain, key): Identity) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .map_err(tls_error)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(tls_error)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(tls))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_portal_url_becomes_the_origin_that_browsers_send() {
        let address = "127.0.0.1:42503".parse().unwrap();
        for (url, expected) in [
            (None, "https://127.0.0.1:42503"),
            (Some("https://Mail.Example.org"), "https://mail.example.org"),
            (Some("https://mail.example.org:443/"), "https://mail.example.org"),
            (Some("https://[::1]:8443"), "https://[::1]:8443"),
        ] {
            assert_eq!(origin(url, address).unwrap(), expected);
        }
        for url in ["http://x.example", "https://x.example/path", "https://a@x.example", "x.example", "https://", ""] {
            assert!(matches!(origin(Some(url), address), Err(Error::PortalUrl(_))), "{url}");
        }
    }
}
