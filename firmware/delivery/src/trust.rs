//! Whose certificates are believed.
//!
//! Job: load trusted roots, for the next hops and for the cloud. Place: once, when the delivery is built. Invariants: a
//! file that is named but cannot be used is an error, never an empty or a wider trust. A crash leaves nothing behind.

use rustls::{RootCertStore, crypto::CryptoProvider};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use settings::Roots;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// The system's roots, as Debian's and Buildroot's ca-certificates lay them down.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Settings that the delivery cannot be built from.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The file is not there, not readable, or not PEM.
    #[error("the CA file {} cannot be read ({reason}); name a readable PEM file", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        reason: rustls_pki_types::pem::Error,
    },
    /// The file is PEM and holds no certificate that can sign.
    #[error("the CA file {} holds no usable certificate; put the CA's certificate in it", path.display())]
    Empty {
        /// Which file.
        path: PathBuf,
    },
    /// `cloud.url` names no server.
    #[error("cloud.url {0:?} is not https://host:port; correct it")]
    Url(String),
    /// The cryptographic library refused.
    #[error("TLS cannot be set up ({0}); report this with `postern support`")]
    Tls(#[from] rustls::Error),
}

/// The roots in `ca`, or the system's.
pub(crate) fn roots(ca: Option<&Roots>) -> Result<RootCertStore, SetupError> {
    let (found, place) = match ca {
        Some(Roots::Text(text)) => (CertificateDer::pem_slice_iter(text.as_bytes()).collect(), in_the_settings()),
        Some(Roots::File(path)) => (from_file(path), path.clone()),
        None => (from_file(Path::new(SYSTEM_ROOTS)), SYSTEM_ROOTS.into()),
    };
    let certificates: Vec<_> = found.map_err(|reason| SetupError::Unreadable { path: place.clone(), reason })?;
    let mut store = RootCertStore::empty();
    // Some of the system's old roots are not valid by today's rules; they are left out, as every TLS client does.
    let (usable, _) = store.add_parsable_certificates(certificates);
    if usable == 0 { Err(SetupError::Empty { path: place }) } else { Ok(store) }
}

fn from_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, rustls_pki_types::pem::Error> {
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect)
}

/// What stands for a path where the certificates are in the settings.
fn in_the_settings() -> PathBuf {
    PathBuf::from("in the settings")
}

/// The one cryptographic provider, never the process default: nobody else may choose it.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn load(text: &str) -> Result<RootCertStore, SetupError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let from_file = roots(Some(&Roots::File(file.path().to_owned())));
        let from_text = roots(Some(&Roots::Text(text.to_owned())));
        assert_eq!(from_file.is_ok(), from_text.is_ok());
        from_file
    }

    #[test]
    fn a_missing_ca_file_is_an_error_and_not_the_systems_roots() {
        let error = roots(Some(&Roots::File("/nonexistent/ca.pem".into()))).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/ca.pem"), "{error}");
    }

    #[test]
    fn a_file_without_certificates_is_an_error() {
        for text in ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(load(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_ca_certificate_is_taken() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        assert_eq!(load(&parameters.self_signed(&key).unwrap().pem()).unwrap().len(), 1);
    }
}
