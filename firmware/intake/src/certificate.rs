//! The certificate of STARTTLS.
//!
//! Job: load the operator's certificate, or make one at first start and keep it. Place: called by `build()` before the
//! sockets open. Invariants: a key file is never readable to others; a certificate that exists is not replaced while it
//! is valid, so that clients that pinned it stay content. A crash leaves at most a `.new` file, which the next start
//! overwrites.

use mail::Domain;
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file can't be read or written.
    #[error("{path} can't be used: {source}; check that it exists and belongs to the daemon's user", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not PEM of the right kind.
    #[error("{path} is not what is needed: {reason}; give a PEM chain, leaf first, and an unencrypted PKCS #8 key", path = path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Certificate and key are no pair, or of a kind that TLS can't use.
    #[error("certificate and key can't be used for TLS: {0}; give the key that the certificate was issued for")]
    Pair(#[from] rustls::Error),
    /// The random number generator or the name failed.
    #[error("no certificate could be made for this host name: {0}; check [host] name, or give [intake] tls")]
    Make(#[from] rcgen::Error),
}

/// TLS 1.2 and 1.3 with these files; no client certificate is asked for.
///
/// # Errors
/// The files can't be read, or are no pair.
pub fn tls_config(files: &settings::TlsFiles) -> Result<Arc<ServerConfig>, CertificateError> {
    let pem = |path: &Path, error: rustls_pki_types::pem::Error| match error {
        rustls_pki_types::pem::Error::Io(source) => CertificateError::File { path: path.into(), source },
        other => CertificateError::Pem { path: path.into(), reason: other.to_string() },
    };
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| pem(&files.certificate, error))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| pem(&files.key, error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(Arc::new(config))
}

/// The self-made certificate of this host in `dir`: made there as `smtp.crt` and `smtp.key` when there is none.
///
/// Mail servers use STARTTLS without checking names unless told otherwise (RFC 7435), so that a certificate of our own
/// already keeps listeners out.
///
/// # Errors
/// The folder can't be written, or the files there are damaged.
pub fn certificate(dir: &Path, host: &Domain) -> Result<Arc<ServerConfig>, CertificateError> {
    let files = settings::TlsFiles { certificate: dir.join("smtp.crt"), key: dir.join("smtp.key") };
    if !files.certificate.exists() {
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::new(vec![host.to_string()])?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, host.as_str());
        let made = params.self_signed(&key)?;
        // The key is first: a certificate that exists has its key.
        keep(&files.key, key.serialize_pem().as_bytes(), 0o600)?;
        keep(&files.certificate, made.pem().as_bytes(), 0o644)?;
    }
    tls_config(&files)
}

/// Writes a file so that it is there wholly or not at all.
fn keep(path: &Path, octets: &[u8], mode: u32) -> Result<(), CertificateError> {
    let new = path.with_added_extension("new");
    let written = (|| {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(octets)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    })();
    written.map_err(|source| CertificateError::File { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn host() -> Domain {
        "mx.example".parse().unwrap()
    }

    #[test]
    fn a_certificate_is_made_once_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        assert!(certificate(dir.path(), &host()).is_ok());
        let first = fs::read(dir.path().join("smtp.crt")).unwrap();
        assert!(certificate(dir.path(), &host()).is_ok());
        assert_eq!(fs::read(dir.path().join("smtp.crt")).unwrap(), first);
        let mode = fs::metadata(dir.path().join("smtp.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_start_that_was_broken_off_between_key_and_certificate_is_repaired() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("smtp.key"), "half").unwrap();
        fs::write(dir.path().join("smtp.crt.new"), "half").unwrap();
        assert!(certificate(dir.path(), &host()).is_ok());
    }

    #[test]
    fn damaged_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(certificate(dir.path(), &host()).is_ok());
        fs::write(dir.path().join("smtp.key"), "garbage").unwrap();
        let error = certificate(dir.path(), &host()).unwrap_err().to_string();
        assert!(error.contains("smtp.key") && error.contains("PKCS #8"), "{error}");
        let missing = settings::TlsFiles { certificate: "/nonexistent".into(), key: "/nonexistent".into() };
        assert!(matches!(tls_config(&missing), Err(CertificateError::File { .. })));
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert!(certificate(one.path(), &host()).is_ok() && certificate(other.path(), &host()).is_ok());
        let mixed = settings::TlsFiles { certificate: one.path().join("smtp.crt"), key: other.path().join("smtp.key") };
        assert!(matches!(tls_config(&mixed), Err(CertificateError::Pair(_))));
    }
}
