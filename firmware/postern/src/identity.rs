//! The vault's device identity, as the cloud client wants it.
//!
//! Job: hand the TPM's key to TLS and keep what an enrolment gave. Place: between vault and delivery, which do not know
//! each other. Invariants: an enrolment is on disk before it is used. A crash between the service's answer and the disk
//! leaves a code that may be used again.

use delivery::{Enrolment, Identity, IdentityError};
use rustls::{
    pki_types::{CertificateSigningRequestDer, pem::PemObject},
    sign::SigningKey,
};
use std::sync::Arc;

/// The identity of this machine's TPM.
pub struct DeviceIdentity {
    identity: Arc<vault::Identity>,
    host: String,
}

impl DeviceIdentity {
    /// The identity of `host`, whose name stands in the certificate request.
    #[must_use]
    pub fn new(identity: Arc<vault::Identity>, host: &mail::Domain) -> Self {
        Self { identity, host: host.to_string() }
    }
}

impl Identity for DeviceIdentity {
    fn request(&self) -> Result<Vec<u8>, IdentityError> {
        let pem = self.identity.certificate_request(&self.host).map_err(|fault| IdentityError(fault.to_string()))?;
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes());
        der.map(|der| der.to_vec())
            .map_err(|error| IdentityError(format!("the request is no PEM ({error}); report this")))
    }

    fn signing_key(&self) -> Result<Arc<dyn SigningKey>, IdentityError> {
        let certified = self.identity.certified_key();
        let missing = || IdentityError("this TPM's key has no certificate; enrol with `postern enrol`".to_owned());
        Ok(certified.ok_or_else(missing)?.key.clone())
    }
}

/// What the vault keeps of an earlier enrolment.
#[must_use]
pub fn kept(identity: &vault::Identity) -> Option<Enrolment> {
    identity.enrolment().map(|e| Enrolment {
        appliance: e.appliance,
        tenant: e.tenant,
        certificate: e.certificate,
        ca: e.ca,
    })
}

/// Keeps a new enrolment.
///
/// # Errors
/// It is for another key, or the disk would not take it.
pub fn keep(identity: &vault::Identity, enrolment: &Enrolment) -> Result<(), vault::EnrolError> {
    let Enrolment { appliance, tenant, certificate, ca } = enrolment.clone();
    identity.enrol(vault::Enrolment { appliance, tenant, certificate, ca })
}
