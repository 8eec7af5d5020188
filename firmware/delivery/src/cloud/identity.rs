//! Who this appliance is towards the cloud service.

use super::EnrolError;
use crate::trust::{self, SetupError};
use rustls::{
    ClientConfig,
    sign::{CertifiedKey, SigningKey, SingleCertAndKey},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use settings::Roots;
use std::sync::Arc;

/// The device identity key, which never leaves its TPM. All calls may block for as long as the TPM takes.
pub trait Identity: Send + Sync + 'static {
    /// A PKCS #10 certification request (RFC 2986) for the key, DER, signed by it.
    ///
    /// # Errors
    /// The key cannot be used now.
    fn request(&self) -> Result<Vec<u8>, IdentityError>;

    /// The key as rustls signs with it; asked for only once an enrolment is adopted.
    ///
    /// # Errors
    /// There is no key, or it cannot be used now.
    fn signing_key(&self) -> Result<Arc<dyn SigningKey>, IdentityError>;
}

/// Why the identity key cannot be used, in two halves: what happened; what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct IdentityError(pub String);

/// TLS without a client certificate, for enrolment.
pub(super) fn anonymous(ca: Option<&Roots>) -> Result<Arc<ClientConfig>, SetupError> {
    let mut config = ClientConfig::builder_with_provider(trust::provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(trust::roots(ca)?)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// TLS with the client certificate that `identity` proves; sessions resume, so that the TPM signs seldom.
pub(super) fn authenticated(
    anonymous: &Arc<ClientConfig>,
    identity: &dyn Identity,
    certificate: &str,
) -> Result<Arc<ClientConfig>, EnrolError> {
    let chain = chain(certificate)?;
    let key = CertifiedKey::new(chain, identity.signing_key()?);
    match key.keys_match() {
        // A signer that does not show its public key is believed; the handshake will tell.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(_) => return Err(EnrolError::OtherKey),
    }
    let mut config = ClientConfig::clone(anonymous);
    config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(key));
    // A session of its own: a ticket from the enrolment's connection would resume without the certificate.
    config.resumption = rustls::client::Resumption::in_memory_sessions(32);
    Ok(Arc::new(config))
}

/// The certificates of an enrolment, leaf first.
pub(super) fn chain(certificate: &str) -> Result<Vec<CertificateDer<'static>>, EnrolError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| EnrolError::BadAnswer(format!("its certificate cannot be read: {error}")))?;
    if chain.is_empty() { Err(EnrolError::BadAnswer("it holds no certificate".to_owned())) } else { Ok(chain) }
}

/// PEM of a certification request (RFC 7468 §7).
pub(super) fn request_pem(der: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE REQUEST-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|&octet| char::from(octet)));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE REQUEST-----\n");
    pem
}
