//! The service's own certificate authorities.
//!
//! Job: the device CA, which vouches for appliances, and the server CA, which vouches for the service's listeners where
//! no certificate of a public CA is given. Place: made at first start, used at enrolment and when listeners open.
//! Invariants: private keys are stored sealed only; a certificate is issued for a P-256 key whose holder signed the
//! request, and carries names that the service chose. A crash leaves either both CA records or none.

use crate::{
    Error,
    database::{now, write},
    keys::ServiceKeys,
    seal::random,
};
use aws_lc_rs::{digest, signature};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use sqlx::SqlitePool;
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer, X509CertificationRequest};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// An appliance has one certificate until it is enrolled anew; the table of appliances can revoke it any time.
const DEVICE_LIFETIME: Duration = Duration::from_secs(5 * 365 * 24 * 3600);
/// The longest that browsers take (CA/Browser Forum, ballot SC-22); made anew at every start.
const SERVER_LIFETIME: Duration = Duration::from_secs(397 * 24 * 3600);
const CA_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// Clocks of appliances without a battery run behind.
const BACKDATED: Duration = DAY;

/// A certificate authority: certificate and key.
pub struct Authority {
    /// PEM.
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Which authority.
#[derive(Clone, Copy)]
pub enum Kind {
    /// Vouches for appliances.
    Device,
    /// Vouches for the service's own listeners.
    Server,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Server => "server",
        }
    }

    fn subject(self) -> &'static str {
        match self {
            Self::Device => "Postern device CA",
            Self::Server => "Postern cloud server CA",
        }
    }
}

/// Why a request for a certificate is refused; the appliance is at fault.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Not PEM or not PKCS #10.
    #[error("the certificate request can't be read; send PKCS #10 as PEM")]
    Malformed,
    /// The key is of another kind.
    #[error("the certificate request has no P-256 key; make one on the curve P-256")]
    NotP256,
    /// The signature does not fit the key.
    #[error("the certificate request is not signed by its own key; sign it with ECDSA-SHA256")]
    BadSignature,
}

/// A certificate for an appliance.
pub struct Issued {
    /// PEM.
    pub pem: String,
    /// SHA-256 of the DER.
    pub fingerprint: Vec<u8>,
    /// Seconds since 1970.
    pub not_after: i64,
}

impl Authority {
    /// Loads an authority, or makes it at the first start.
    ///
    /// # Errors
    /// The database fails, or holds what another master key sealed.
    pub async fn load_or_create(db: &SqlitePool, keys: &ServiceKeys, kind: Kind) -> Result<Self, Error> {
        let mut tx = write(db).await?;
        let row: Option<(String, Vec<u8>)> =
            sqlx::query_as("SELECT certificate, secret_sealed FROM authority WHERE name = ?")
                .bind(kind.name())
                .fetch_optional(&mut *tx)
                .await?;
        let context = format!("authority/{}", kind.name());
        let (pem, key) = match row {
            Some((pem, sealed)) => {
                let der = PrivatePkcs8KeyDer::from(keys.authorities.open(&context, &sealed)?);
                let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256).map_err(certificate)?;
                (pem, key)
            }
            None => {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(certificate)?;
                let mut params = params(kind.subject(), None, CA_LIFETIME)?;
                params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
                params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
                let pem = params.self_signed(&key).map_err(certificate)?.pem();
                sqlx::query("INSERT INTO authority (name, certificate, secret_sealed) VALUES (?, ?, ?)")
                    .bind(kind.name())
                    .bind(&pem)
                    .bind(keys.authorities.seal(&context, key.serialized_der())?)
                    .execute(&mut *tx)
                    .await?;
                (pem, key)
            }
        };
        tx.commit().await?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(certificate)?;
        Ok(Self { pem, issuer })
    }

    /// The certificate as DER.
    ///
    /// # Errors
    /// The stored PEM is damaged.
    pub fn der(&self) -> Result<CertificateDer<'static>, Error> {
        CertificateDer::from_pem_slice(self.pem.as_bytes()).map_err(certificate)
    }

    /// Issues a client certificate for the key of a verified request.
    ///
    /// # Errors
    /// No randomness.
    pub fn issue_device(&self, appliance: &str, tenant: &str, key: &RequestKey) -> Result<Issued, Error> {
        let mut params = params(appliance, Some(tenant), DEVICE_LIFETIME)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let public = SubjectPublicKeyInfo::from_der(&key.spki).map_err(certificate)?;
        let issued = params.signed_by(&public, &self.issuer).map_err(certificate)?;
        let fingerprint = fingerprint(issued.der());
        let not_after = now() + i64::try_from(DEVICE_LIFETIME.as_secs()).unwrap_or(i64::MAX);
        Ok(Issued { pem: issued.pem(), fingerprint, not_after })
    }

    /// Issues a server certificate with a fresh key for these host names and addresses.
    ///
    /// # Errors
    /// A name is not a host name or an IP address.
    pub fn issue_server(
        &self,
        names: Vec<String>,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(certificate)?;
        let mut params = params("Postern cloud", None, SERVER_LIFETIME)?;
        params.subject_alt_names = CertificateParams::new(names).map_err(certificate)?.subject_alt_names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let issued = params.signed_by(&key, &self.issuer).map_err(certificate)?;
        let private = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok((vec![issued.der().clone(), self.der()?], private.into()))
    }
}

fn params(common_name: &str, organisation: Option<&str>, lifetime: Duration) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    if let Some(organisation) = organisation {
        name.push(DnType::OrganizationName, organisation);
    }
    params.distinguished_name = name;
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + lifetime).into();
    // RFC 5280 §4.1.2.2: positive, at most 20 octets.
    let mut serial = random::<16>()?;
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn certificate(error: impl std::fmt::Display) -> Error {
    Error::Certificate(error.to_string())
}

/// SHA-256 of a certificate's DER.
pub fn fingerprint(der: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, der).as_ref().to_vec()
}

/// The key of a certificate request whose own signature was verified.
pub struct RequestKey {
    spki: Vec<u8>,
}

impl RequestKey {
    /// Reads a request and verifies it. Only its key is taken: subject and extensions are not the appliance's to choose.
    ///
    /// # Errors
    /// Unreadable, of another key type, or not signed by that key.
    pub fn verify(pem: &str) -> Result<Self, RequestError> {
        let der = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| RequestError::Malformed)?;
        let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| RequestError::Malformed)?;
        if !rest.is_empty() {
            return Err(RequestError::Malformed);
        }
        let info = &request.certification_request_info;
        let spki = &info.subject_pki;
        let curve = spki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
        let is_p256 = spki.algorithm.algorithm == x509_parser::oid_registry::OID_KEY_TYPE_EC_PUBLIC_KEY
            && curve == Some(x509_parser::oid_registry::OID_EC_P256);
        if !is_p256 {
            return Err(RequestError::NotP256);
        }
        if request.signature_algorithm.algorithm != x509_parser::oid_registry::OID_SIG_ECDSA_WITH_SHA256 {
            return Err(RequestError::BadSignature);
        }
        signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_ASN1, &spki.subject_public_key.data)
            .verify(info.raw, &request.signature_value.data)
            .map_err(|_| RequestError::BadSignature)?;
        Ok(Self { spki: spki.raw.to_vec() })
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    pub fn hash(&self) -> Vec<u8> {
        fingerprint(&self.spki)
    }
}

/// Refuses a data folder that another master key sealed, before anything is written under this one.
///
/// # Errors
/// The database fails, or the key is another.
pub async fn verify_master(db: &SqlitePool, keys: &ServiceKeys) -> Result<(), Error> {
    let mut tx = write(db).await?;
    let row: Option<(Vec<u8>,)> =
        sqlx::query_as("SELECT secret_sealed FROM authority WHERE name = 'check'").fetch_optional(&mut *tx).await?;
    match row {
        Some((sealed,)) => {
            keys.authorities.open("check", &sealed).map_err(|_| Error::MasterKeyForeign)?;
        }
        None => {
            sqlx::query("INSERT INTO authority (name, secret_sealed) VALUES ('check', ?)")
                .bind(keys.authorities.seal("check", b"")?)
                .execute(&mut *tx)
                .await?;
        }
    }
    Ok(tx.commit().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(key: &KeyPair) -> String {
        CertificateParams::default().serialize_request(key).unwrap().pem().unwrap()
    }

    #[test]
    fn a_request_signed_by_its_own_p256_key_is_taken() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        assert!(RequestKey::verify(&request(&key)).is_ok());
    }

    #[test]
    fn a_request_with_another_kind_of_key_is_refused() {
        for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            assert!(matches!(RequestKey::verify(&request(&key)), Err(RequestError::NotP256)));
        }
    }

    #[test]
    fn a_request_for_somebody_elses_key_is_refused() {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let own = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let der = CertificateParams::default().serialize_request(&own).unwrap().der().to_vec();
        let at = der.windows(65).position(|w| w == own.public_key_raw()).unwrap();
        let mut forged = der;
        forged[at..at + 65].copy_from_slice(other.public_key_raw());
        let pem = format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
            STANDARD.encode(forged)
        );
        assert!(matches!(RequestKey::verify(&pem), Err(RequestError::BadSignature)));
    }

    #[test]
    fn nonsense_is_no_request() {
        for pem in ["", "hello", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"] {
            assert!(matches!(RequestKey::verify(pem), Err(RequestError::Malformed)), "{pem}");
        }
    }
}
