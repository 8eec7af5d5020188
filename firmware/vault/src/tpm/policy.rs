//! The policy under which the TPM releases what is sealed.
//!
//! Job: bring a session through PolicyPCR over PCR 11, PolicyAuthorize with the vendor's signature, and PolicyPCR over
//! PCR 7 and 12; and say precisely why that fails. Place: used by `seal` and `identity`. Invariants: PCR 12 is zero or
//! nothing is sealed or released; a signature counts for one security generation only; the TPM enforces all of it, what
//! is compared here only finds the words. A crash leaves nothing.

use super::link::Tpm;
use crate::{fault::Fault, store::octets};
use aws_lc_rs::digest::{Context as Hash, SHA256};
use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};
use serde::Deserialize;
use std::{
    fs,
    path::{Path, PathBuf},
};
use tss_esapi::{
    attributes::ObjectAttributesBuilder,
    constants::response_code::Tss2ResponseCodeKind as Kind,
    interface_types::{
        algorithm::{HashingAlgorithm, PublicAlgorithm},
        key_bits::RsaKeyBits,
        resource_handles::Hierarchy,
        session_handles::{AuthSession, PolicySession},
    },
    structures::{
        Digest, Name, Nonce, PcrSelectionList, PcrSelectionListBuilder, PcrSlot, Public, PublicBuilder, PublicKeyRsa,
        PublicRsaParametersBuilder, RsaExponent, RsaScheme, RsaSignature, Signature,
    },
};
use x509_parser::prelude::FromDer;

/// A signature file is a few entries; a longer one is none.
const LONGEST: u64 = 1 << 20;
const ZERO: [u8; 32] = [0; 32];

/// Where the image keeps the vendor's policy key and the signatures by it.
#[derive(Debug, Clone)]
pub(crate) struct PolicyFiles {
    /// PEM, `PUBLIC KEY`, RSA-2048.
    pub(crate) key: PathBuf,
    /// systemd's `tpm2-pcr-signature.json`, each entry with a `generation`.
    pub(crate) signatures: PathBuf,
}

#[derive(Deserialize)]
struct Signatures {
    sha256: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    /// The policy digest after PolicyPCR over PCR 11, hexadecimal.
    pol: String,
    /// Security generation, the policyRef; systemd's own entries have none and are not for us.
    generation: Option<u32>,
    /// RSASSA-SHA256 over SHA-256(approvedPolicy ‖ policyRef), base64.
    sig: String,
}

/// What the PCRs of interest hold now (SHA-256 bank).
pub(super) struct Pcrs {
    pub(super) seven: Vec<u8>,
    pub(super) twelve: Vec<u8>,
}

/// What is required of PCR 7 besides the signed PCR 11 and the zero in PCR 12.
pub(super) enum SecureBoot<'a> {
    /// This value.
    Is(&'a [u8]),
    /// Any: bound by something else (see `identity`).
    BoundElsewhere,
}

impl Pcrs {
    pub(super) fn read(tpm: &mut Tpm) -> Result<Self, Fault> {
        let (_, _, values) =
            tpm.run("TPM2_PCR_Read", |tpm| tpm.pcr_read(selection(&[PcrSlot::Slot7, PcrSlot::Slot12])?))?;
        match values.value() {
            [seven, twelve] => Ok(Self { seven: seven.to_vec(), twelve: twelve.to_vec() }),
            _ => Err(Fault::Refused { command: "TPM2_PCR_Read", detail: "it has no SHA-256 bank".to_owned() }),
        }
    }
}

impl PolicyFiles {
    /// The vendor's policy key as a public area; its name goes into every policy.
    fn public(&self) -> Result<Public, Fault> {
        let unusable = |detail: &str| Fault::PolicyFile { path: self.key.clone(), detail: detail.to_owned() };
        let pem = read(&self.key)?;
        let der = SubjectPublicKeyInfoDer::from_pem_slice(&pem).map_err(|_| unusable("it is no public key in PEM"))?;
        let parsed = x509_parser::x509::SubjectPublicKeyInfo::from_der(&der).ok();
        let key = parsed.as_ref().and_then(|(_, info)| info.parsed().ok());
        let Some(x509_parser::public_key::PublicKey::RSA(rsa)) = key else {
            return Err(unusable("it is no RSA key"));
        };
        let modulus = rsa.modulus.iter().position(|&octet| octet != 0).map_or(&[][..], |at| &rsa.modulus[at..]);
        if modulus.len() != 256 || rsa.try_exponent() != Ok(65537) {
            return Err(unusable("it is no RSA key of 2048 bits with exponent 65537"));
        }
        public_area(modulus).map_err(|error| unusable(&error.to_string()))
    }

    fn entries(&self) -> Result<Vec<Entry>, Fault> {
        let path = &self.signatures;
        let unusable = |detail: String| Fault::PolicyFile { path: path.clone(), detail };
        let parsed: Signatures =
            serde_json::from_slice(&read(path)?).map_err(|error| unusable(format!("no signature file: {error}")))?;
        Ok(parsed.sha256)
    }

    /// The signature of `approved` for `generation`.
    fn signature(&self, approved: &[u8], generation: u32) -> Result<Vec<u8>, Fault> {
        let mut signed: Vec<u32> = Vec::new();
        for entry in self.entries()? {
            if octets::parse(&entry.pol).is_some_and(|policy| policy == approved) {
                match entry.generation {
                    Some(found) if found == generation => {
                        return base64::Engine::decode(&base64::engine::general_purpose::STANDARD, &entry.sig)
                            .map_err(|_| Fault::SignatureForged);
                    }
                    Some(found) => signed.push(found),
                    None => {}
                }
            }
        }
        if signed.is_empty() {
            return Err(Fault::SignatureMissing);
        }
        Err(Fault::OtherGeneration { needed: generation, signed })
    }
}

/// Brings `session` through the whole policy. `sealed_key` is the name of the policy key that was used at sealing.
/// Gives the policy key's name and the policy digest, which is the authPolicy of what is sealed under it.
pub(super) fn satisfy(
    tpm: &mut Tpm,
    session: AuthSession,
    files: &PolicyFiles,
    generation: u32,
    sealed_key: Option<&[u8]>,
    secure_boot: &SecureBoot<'_>,
) -> Result<(Vec<u8>, Digest), Fault> {
    let policy = PolicySession::try_from(session)
        .map_err(|error| Fault::Refused { command: "TPM2_StartAuthSession", detail: error.to_string() })?;
    let pcrs = Pcrs::read(tpm)?;
    if pcrs.twelve != ZERO {
        return Err(Fault::BootAltered);
    }

    tpm.run("TPM2_PolicyPCR", |tpm| tpm.policy_pcr(policy, Digest::default(), selection(&[PcrSlot::Slot11])?))?;
    let approved = tpm.run("TPM2_PolicyGetDigest", |tpm| tpm.policy_get_digest(policy))?;
    let public = files.public()?;
    let key = tpm.run("TPM2_LoadExternal", |tpm| tpm.load_external_public(public, Hierarchy::Owner))?;
    let key_name = tpm.name_of(key.into())?;
    if sealed_key.is_some_and(|name| name != key_name) {
        return Err(Fault::OtherPolicyKey);
    }
    let signature = files.signature(&approved, generation)?;
    let reference = generation.to_be_bytes();
    let forged = |kind| matches!(kind, Kind::Signature | Kind::Size | Kind::Scheme).then_some(Fault::SignatureForged);
    let ticket = tpm.run_or("TPM2_VerifySignature", forged, |tpm| {
        let signature = PublicKeyRsa::try_from(signature)
            .and_then(|signature| RsaSignature::create(HashingAlgorithm::Sha256, signature))?;
        tpm.verify_signature(key, sha256(&[&approved, &reference])?, Signature::RsaSsa(signature))
    });
    tpm.flush(key.into())?;
    let ticket = ticket?;
    tpm.run("TPM2_PolicyAuthorize", |tpm| {
        let name = Name::try_from(key_name.clone())?;
        tpm.policy_authorize(policy, approved, Nonce::try_from(&reference[..])?, &name, ticket)
    })?;

    let changed = |kind| (kind == Kind::Value).then_some(Fault::SecureBootChanged);
    match secure_boot {
        SecureBoot::Is(seven) if *seven != pcrs.seven => return Err(Fault::SecureBootChanged),
        SecureBoot::Is(seven) => tpm.run_or("TPM2_PolicyPCR", changed, |tpm| {
            let both = selection(&[PcrSlot::Slot7, PcrSlot::Slot12])?;
            tpm.policy_pcr(policy, sha256(&[seven, &ZERO])?, both)
        })?,
        SecureBoot::BoundElsewhere => {
            tpm.run("TPM2_PolicyPCR", |tpm| tpm.policy_pcr(policy, sha256(&[&ZERO])?, selection(&[PcrSlot::Slot12])?))?
        }
    }
    let digest = tpm.run("TPM2_PolicyGetDigest", |tpm| tpm.policy_get_digest(policy))?;
    Ok((key_name, digest))
}

/// The public area of the policy key. Its attributes are part of its name: they never change.
fn public_area(modulus: &[u8]) -> tss_esapi::Result<Public> {
    let attributes = ObjectAttributesBuilder::new().with_user_with_auth(true).with_sign_encrypt(true).build()?;
    let parameters = PublicRsaParametersBuilder::new()
        .with_scheme(RsaScheme::Null)
        .with_key_bits(RsaKeyBits::Rsa2048)
        .with_exponent(RsaExponent::default())
        .with_is_signing_key(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Rsa)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_rsa_parameters(parameters)
        .with_rsa_unique_identifier(PublicKeyRsa::try_from(modulus)?)
        .build()
}

fn selection(slots: &[PcrSlot]) -> tss_esapi::Result<PcrSelectionList> {
    PcrSelectionListBuilder::new().with_selection(HashingAlgorithm::Sha256, slots).build()
}

fn sha256(parts: &[&[u8]]) -> tss_esapi::Result<Digest> {
    let mut hash = Hash::new(&SHA256);
    for part in parts {
        hash.update(part);
    }
    Digest::try_from(hash.finish().as_ref())
}

fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    let unusable = |detail: String| Fault::PolicyFile { path: path.to_owned(), detail };
    let length = fs::metadata(path).map_err(|error| unusable(error.to_string()))?.len();
    if length > LONGEST {
        return Err(unusable("it is far too long".to_owned()));
    }
    fs::read(path).map_err(|error| unusable(error.to_string()))
}
