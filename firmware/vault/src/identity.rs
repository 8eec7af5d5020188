//! The device identity: the key with which this appliance proves itself to the cloud service.
//!
//! Job: keep the TPM-held key and its certificate together, make certificate requests, and sign for rustls. Place: made
//! when the vault opens; used by the cloud client. Invariants: the private part never leaves the TPM; a certificate counts
//! only if it is for the key that is there; without either nothing is sent, and secured mail waits. A crash leaves the
//! key or the enrolment of before or of after; a key without its certificate needs enrolment, which is safe.
//!
//! Signing waits for the TPM, up to the vault's deadline: a TLS handshake that uses it runs on a thread of its own.

use crate::{
    fault::Fault,
    key::Key,
    store::Store,
    tpm::{self, IdentityBlob, Owner, PolicyFiles},
    tree::secret::IdentityAuth,
};
use aws_lc_rs::digest::{SHA256, digest};
use rustls::{
    SignatureAlgorithm, SignatureScheme,
    client::ResolvesClientCert,
    pki_types::{CertificateDer, pem::PemObject},
    sign::{CertifiedKey, Signer, SigningKey},
};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

const KEY_FILE: &str = "identity.json";
const ENROLMENT_FILE: &str = "enrolment.json";
/// What is signed to see whether the key can be used now.
const PROBE: &[u8] = b"postern identity probe";

/// The identity, shared by all who use it.
pub struct Identity {
    owner: Owner,
    files: PolicyFiles,
    store: Store,
    auth: Key<IdentityAuth>,
    /// For a new key.
    generation: u32,
    now: Mutex<Now>,
}

struct Now {
    key: Option<IdentityBlob>,
    enrolment: Option<Enrolled>,
    fault: Option<Fault>,
}

#[derive(Clone)]
struct Enrolled {
    enrolment: Enrolment,
    certified: Option<Arc<CertifiedKey>>,
}

/// What the cloud service answered to the enrolment; all of it is public.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// Name that the service gave this appliance.
    pub appliance: String,
    /// The tenant that it belongs to.
    pub tenant: String,
    /// Client certificate and what leads from it to the CA, PEM, leaf first.
    pub certificate: String,
    /// The CA that issued it, PEM.
    pub ca: String,
}

/// Whether the cloud path can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityState {
    /// Key and certificate are there.
    Enrolled,
    /// The key is new (first start, new or cleared TPM, new security generation) or has no certificate: secured mail
    /// waits until the box is enrolled.
    NeedsEnrolment,
    /// The TPM does not let the key be used: secured mail waits.
    Unavailable(Fault),
}

/// Why a certificate was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnrolError {
    /// No PEM certificate in it.
    #[error("the service's answer holds no certificate; check that the cloud address is right, then enrol again")]
    NoCertificate,
    /// It certifies another key.
    #[error("the certificate is for another key than this machine's; enrol again with a new code")]
    OtherKey,
    /// It could not be stored, or there is no key to enrol.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Identity {
    /// The identity of `store`. Touches the TPM: a key that another TPM made is replaced, unless `blocked` says why the
    /// firmware is not to be trusted with a new one.
    pub(crate) fn open(
        owner: Owner,
        files: PolicyFiles,
        store: Store,
        auth: Key<IdentityAuth>,
        generation: u32,
        blocked: Option<Fault>,
    ) -> Arc<Self> {
        let now = Mutex::new(Now { key: None, enrolment: None, fault: None });
        let identity = Self { owner, files, store, auth, generation, now };
        identity.renew(blocked);
        Arc::new(identity)
    }

    /// Whether the cloud path can be used, as of the last look.
    #[must_use]
    pub fn state(&self) -> IdentityState {
        let now = self.now();
        match (&now.fault, &now.enrolment) {
            (Some(fault), _) => IdentityState::Unavailable(fault.clone()),
            (None, Some(enrolled)) if enrolled.certified.is_some() => IdentityState::Enrolled,
            _ => IdentityState::NeedsEnrolment,
        }
    }

    /// Looks again whether the TPM lets the key be used. Blocking, up to the vault's deadline.
    pub fn check(&self) -> IdentityState {
        if let Some(key) = self.key() {
            let outcome = self.sign_with(key, PROBE).err();
            self.now().fault = outcome;
        }
        self.state()
    }

    /// A certificate request (PKCS #10, RFC 2986) for the key, as PEM. Blocking, up to the vault's deadline.
    ///
    /// # Errors
    /// What keeps the TPM from signing.
    pub fn certificate_request(&self, common_name: &str) -> Result<String, Fault> {
        let refused = |detail: String| Fault::Refused { command: "the certificate request", detail };
        let blob = self.key().ok_or_else(|| self.missing())?;
        let point = blob.point().ok_or_else(|| refused("the identity key's public part is damaged".to_owned()))?;
        let key = RequestKey { identity: self, blob, point, fault: Mutex::new(None) };
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        let request = parameters.serialize_request(&key).and_then(|request| request.pem());
        request.map_err(|error| {
            let fault = key.fault.lock().unwrap_or_else(PoisonError::into_inner).take();
            fault.unwrap_or_else(|| refused(error.to_string()))
        })
    }

    /// Stores what the service answered to an enrolment with this key's certificate request.
    ///
    /// # Errors
    /// The certificate is not for this key, or cannot be stored.
    pub fn enrol(&self, enrolment: Enrolment) -> Result<(), EnrolError> {
        let key = self.key().ok_or_else(|| self.missing())?;
        let chain = chain(&enrolment).ok_or(EnrolError::NoCertificate)?;
        let point = key.point().ok_or(EnrolError::OtherKey)?;
        if !certifies(&chain, &point) {
            return Err(EnrolError::OtherKey);
        }
        self.store.write(ENROLMENT_FILE, &enrolment)?;
        let certified = Some(self.certified(chain, key));
        self.now().enrolment = Some(Enrolled { enrolment, certified });
        Ok(())
    }

    /// What the service answered to the last enrolment; it may be for a key that is gone, see [`Identity::state`].
    #[must_use]
    pub fn enrolment(&self) -> Option<Enrolment> {
        self.now().enrolment.as_ref().map(|enrolled| enrolled.enrolment.clone())
    }

    /// Certificate chain and signing key for rustls; none before enrolment. Its key blocks while the TPM signs.
    #[must_use]
    pub fn certified_key(&self) -> Option<Arc<CertifiedKey>> {
        self.now().enrolment.as_ref().and_then(|enrolled| enrolled.certified.clone())
    }

    /// For `rustls::ClientConfig`: always the newest enrolment, so that enrolling anew needs no new configuration.
    #[must_use]
    pub fn resolver(self: &Arc<Self>) -> Arc<dyn ResolvesClientCert> {
        Arc::new(Resolver(Arc::clone(self)))
    }

    /// Reads key and enrolment, and makes a new key where there is none that this TPM can ever use.
    fn renew(&self, blocked: Option<Fault>) {
        let loaded = self.load_or_create(blocked);
        let enrolment = self.store.read::<Enrolment>(ENROLMENT_FILE).unwrap_or_else(|fault| {
            log::warn!("{fault}");
            None
        });
        let mut now = self.now();
        match loaded {
            Ok((key, fault)) => {
                now.enrolment = enrolment.map(|enrolment| {
                    let ours =
                        chain(&enrolment).filter(|chain| key.point().is_some_and(|point| certifies(chain, &point)));
                    let certified = ours.map(|chain| self.certified(chain, key.clone()));
                    Enrolled { enrolment, certified }
                });
                (now.key, now.fault) = (Some(key), fault);
            }
            Err(fault) => now.fault = Some(fault),
        }
    }

    /// The key, and what keeps it from being used now.
    fn load_or_create(&self, blocked: Option<Fault>) -> Result<(IdentityBlob, Option<Fault>), Fault> {
        let stored = self.store.read::<IdentityBlob>(KEY_FILE);
        let because = match stored {
            Ok(Some(blob)) => match self.sign_with(blob.clone(), PROBE) {
                Ok(_) => return Ok((blob, None)),
                // The key's policy names a generation for ever; a raised floor takes its signatures away.
                Err(fault @ (Fault::Replaced | Fault::OtherGeneration { .. })) if blocked.is_none() => fault.code(),
                Err(fault) => return Ok((blob, Some(fault))),
            },
            Ok(None) => "first start",
            Err(fault @ Fault::StoreUnreadable { .. }) => return Err(fault),
            Err(fault) => fault.code(),
        };
        if let Some(fault) = blocked {
            return Err(fault);
        }
        log::info!("a new device identity key is made ({because}); secured mail waits until the box is enrolled");
        let (files, generation, auth) = (self.files.clone(), self.generation, self.auth.duplicate());
        let blob = self.owner.run(move |tpm| tpm::create_identity(tpm, &files, generation, &auth))?;
        self.store.write(KEY_FILE, &blob)?;
        Ok((blob, None))
    }

    fn certified(&self, chain: Vec<CertificateDer<'static>>, key: IdentityBlob) -> Arc<CertifiedKey> {
        let (owner, files) = (self.owner.clone(), self.files.clone());
        let signer = TpmSigner { owner, files, key, auth: Arc::new(self.auth.duplicate()) };
        Arc::new(CertifiedKey::new(chain, Arc::new(signer)))
    }

    fn sign_with(&self, key: IdentityBlob, message: &[u8]) -> Result<Vec<u8>, Fault> {
        sign(&self.owner, self.files.clone(), key, self.auth.duplicate(), message)
    }

    fn key(&self) -> Option<IdentityBlob> {
        self.now().key.clone()
    }

    fn missing(&self) -> Fault {
        self.now().fault.clone().unwrap_or(Fault::Replaced)
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.state())
    }
}

/// ECDSA-SHA256 over `message`, DER (RFC 3279 §2.2.3).
fn sign(
    owner: &Owner,
    files: PolicyFiles,
    key: IdentityBlob,
    auth: Key<IdentityAuth>,
    message: &[u8],
) -> Result<Vec<u8>, Fault> {
    let digest = digest(&SHA256, message);
    let pair = owner.run(move |tpm| tpm::sign(tpm, &files, &key, &auth, digest.as_ref()))?;
    let (r, s) = pair.split_at(pair.len() / 2);
    let integers = [der_integer(r), der_integer(s)].concat();
    // Both integers together are at most 70 octets: the short form of the length (X.690 §8.1.3.4).
    Ok([&[0x30, integers.len() as u8], integers.as_slice()].concat())
}

/// A positive INTEGER from at most 32 octets, big-endian (X.690 §8.3).
fn der_integer(number: &[u8]) -> Vec<u8> {
    let first = number.iter().position(|&octet| octet != 0).unwrap_or(number.len().saturating_sub(1));
    let digits = &number[first..];
    let pad = usize::from(digits.first().is_some_and(|octet| octet & 0x80 != 0));
    let mut integer = vec![0x02, (digits.len() + pad) as u8];
    integer.extend(std::iter::repeat_n(0, pad));
    integer.extend_from_slice(digits);
    integer
}

/// The certificates of an enrolment, leaf first; none where there is not one.
fn chain(enrolment: &Enrolment) -> Option<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(enrolment.certificate.as_bytes()).collect::<Result<_, _>>().ok()?;
    if chain.is_empty() { None } else { Some(chain) }
}

/// Whether the leaf of `chain` is for the key with this public point.
fn certifies(chain: &[CertificateDer<'_>], point: &[u8]) -> bool {
    let leaf = chain.first().and_then(|leaf| x509_parser::parse_x509_certificate(leaf).ok());
    leaf.is_some_and(|(_, certificate)| *certificate.public_key().subject_public_key.data == *point)
}

/// Signs TLS handshakes; blocking.
struct TpmSigner {
    owner: Owner,
    files: PolicyFiles,
    key: IdentityBlob,
    auth: Arc<Key<IdentityAuth>>,
}

impl fmt::Debug for TpmSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TpmSigner")
    }
}

impl SigningKey for TpmSigner {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&SignatureScheme::ECDSA_NISTP256_SHA256).then(|| {
            let (owner, files) = (self.owner.clone(), self.files.clone());
            let (key, auth) = (self.key.clone(), Arc::clone(&self.auth));
            Box::new(Self { owner, files, key, auth }) as Box<dyn Signer>
        })
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for TpmSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let signed = sign(&self.owner, self.files.clone(), self.key.clone(), self.auth.duplicate(), message);
        signed.map_err(|fault| rustls::Error::Other(rustls::OtherError(Arc::new(fault))))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

#[derive(Debug)]
struct Resolver(Arc<Identity>);

impl ResolvesClientCert for Resolver {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.certified_key()
    }

    fn has_certs(&self) -> bool {
        self.0.certified_key().is_some()
    }
}

/// The key as rcgen wants it, for one request.
struct RequestKey<'a> {
    identity: &'a Identity,
    blob: IdentityBlob,
    point: [u8; 65],
    /// rcgen's error has no room for ours.
    fault: Mutex<Option<Fault>>,
}

impl rcgen::PublicKeyData for RequestKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for RequestKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.identity.sign_with(self.blob.clone(), message).map_err(|fault| {
            *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
            rcgen::Error::RemoteKeyError
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_the_shortest_and_never_negative() {
        let mut number = [0; 32];
        assert_eq!(der_integer(&number), [2, 1, 0]);
        number[31] = 0x7f;
        assert_eq!(der_integer(&number), [2, 1, 0x7f]);
        number[31] = 0x80;
        assert_eq!(der_integer(&number), [2, 2, 0, 0x80]);
        assert_eq!(der_integer(&[0xff; 32]).len(), 35);
    }
}
