//! The device identity key inside the TPM.
//!
//! Job: make the key and sign with it. Place: called by [`crate::identity`] on the owner thread. Invariants: the private
//! part exists inside this TPM only (fixedTPM, sensitiveDataOrigin); using it takes the signed PCR 11, the zero in PCR
//! 12, and an authorisation derived from the root secret. PCR 7 binds it through that authorisation: the root secret is
//! released under PCR 7, and after a planned change of Secure Boot the key is still good once the root is sealed anew,
//! which a policy over PCR 7 in the key itself would rule out for ever. A crash leaves nothing.

use super::{
    link::{Encrypting, Tpm},
    policy::{PolicyFiles, SecureBoot, satisfy},
};
use crate::{fault::Fault, key::Key, store::octets, tree::secret::IdentityAuth};
use serde::{Deserialize, Serialize};
use tss_esapi::{
    attributes::ObjectAttributesBuilder,
    constants::{SessionType, StructureTag, response_code::Tss2ResponseCodeKind as Kind, tss::TPM2_RH_NULL},
    interface_types::{
        algorithm::{HashingAlgorithm, PublicAlgorithm},
        ecc::EccCurve,
        session_handles::{AuthSession, PolicySession},
    },
    structures::{
        Auth, Digest, EccPoint, EccScheme, HashScheme, HashcheckTicket, KeyDerivationFunctionScheme, Private, Public,
        PublicBuilder, PublicEccParametersBuilder, Signature, SignatureScheme,
    },
    traits::{Marshall, UnMarshall},
    tss2_esys::TPMT_TK_HASHCHECK,
};

/// Octets of a coordinate, and of each half of a signature.
const COORDINATE: usize = 32;

/// The key as it stands in the key store: useless outside its TPM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdentityBlob {
    /// Security generation, the policyRef of the signatures that allow its use.
    generation: u32,
    #[serde(with = "octets")]
    storage_key: Vec<u8>,
    #[serde(with = "octets")]
    policy_key: Vec<u8>,
    /// TPMT_PUBLIC.
    #[serde(with = "octets")]
    public: Vec<u8>,
    /// TPM2B_PRIVATE without its length.
    #[serde(with = "octets")]
    private: Vec<u8>,
}

impl IdentityBlob {
    /// The public point, uncompressed (SEC 1 §2.3.3: 04 ‖ x ‖ y); none where the blob is damaged.
    pub(crate) fn point(&self) -> Option<[u8; 1 + 2 * COORDINATE]> {
        let Ok(Public::Ecc { unique, .. }) = Public::unmarshall(&self.public) else { return None };
        let mut point = [0; 1 + 2 * COORDINATE];
        point[0] = 4;
        put_right(&mut point[1..=COORDINATE], unique.x().value())?;
        put_right(&mut point[1 + COORDINATE..], unique.y().value())?;
        Some(point)
    }
}

/// Makes a new identity key.
pub(crate) fn create_identity(
    tpm: &mut Tpm,
    files: &PolicyFiles,
    generation: u32,
    auth: &Key<IdentityAuth>,
) -> Result<IdentityBlob, Fault> {
    let storage = tpm.storage_key(None)?;
    let (_, policy_key, digest) = authorised_session(tpm, &storage, files, generation, None)?;
    let session = tpm.salted_session(storage.handle, SessionType::Hmac)?;
    let encrypting = Encrypting { session, command: true, response: true };
    let made = tpm.run_encrypted(
        "TPM2_Create",
        (None, encrypting),
        |_| None,
        |tpm| {
            let auth = Auth::try_from(auth.expose().as_slice())?;
            tpm.create(storage.handle, template(digest)?, Some(auth), None, None, None)
        },
    )?;
    let public = tpm.run("marshal", |_| made.out_public.marshall())?;
    let private = made.out_private.value().to_vec();
    tpm.flush_all()?;
    Ok(IdentityBlob { generation, storage_key: storage.name, policy_key, public, private })
}

/// Signs a SHA-256 digest. The signature is r ‖ s, 32 octets each.
pub(crate) fn sign(
    tpm: &mut Tpm,
    files: &PolicyFiles,
    blob: &IdentityBlob,
    auth: &Key<IdentityAuth>,
    digest: &[u8],
) -> Result<[u8; 2 * COORDINATE], Fault> {
    let storage = tpm.storage_key(Some(&blob.storage_key))?;
    if storage.name != blob.storage_key {
        return Err(Fault::Replaced);
    }
    let (policy, _, _) = authorised_session(tpm, &storage, files, blob.generation, Some(&blob.policy_key))?;
    let session = tpm.salted_session(storage.handle, SessionType::Hmac)?;
    let encrypting = Encrypting { session, command: true, response: false };
    let foreign = |kind| (kind == Kind::Integrity).then_some(Fault::Replaced);
    let object = tpm.run_encrypted("TPM2_Load", (None, encrypting), foreign, |tpm| {
        let private = Private::try_from(blob.private.as_slice())?;
        tpm.load(storage.handle, private, Public::unmarshall(&blob.public)?)
    })?;
    tpm.keep(object.into());
    tpm.run("Esys_TR_SetAuth", |tpm| tpm.tr_set_auth(object.into(), Auth::try_from(auth.expose().as_slice())?))?;
    let signature = tpm.run_encrypted(
        "TPM2_Sign",
        (Some(policy), encrypting),
        |_| None,
        |tpm| {
            // The key is not restricted: what it signs needs no proof that the TPM hashed it.
            let no_ticket = TPMT_TK_HASHCHECK {
                tag: StructureTag::Hashcheck.into(),
                hierarchy: TPM2_RH_NULL,
                digest: tss_esapi::tss2_esys::TPM2B_DIGEST::default(),
            };
            let scheme = SignatureScheme::EcDsa { hash_scheme: HashScheme::new(HashingAlgorithm::Sha256) };
            tpm.sign(object, Digest::try_from(digest)?, scheme, HashcheckTicket::try_from(no_ticket)?)
        },
    )?;
    tpm.flush_all()?;
    let mut octets = [0; 2 * COORDINATE];
    let (r, s) = octets.split_at_mut(COORDINATE);
    let whole = match &signature {
        Signature::EcDsa(pair) => {
            put_right(r, pair.signature_r().value()).and_then(|()| put_right(s, pair.signature_s().value()))
        }
        _ => None,
    };
    whole.map(|()| octets).ok_or(Fault::Refused { command: "TPM2_Sign", detail: "no ECDSA signature".to_owned() })
}

/// A session that satisfies the key's policy, the policy key's name, and the policy digest.
fn authorised_session(
    tpm: &mut Tpm,
    storage: &super::link::StorageKey,
    files: &PolicyFiles,
    generation: u32,
    sealed_key: Option<&[u8]>,
) -> Result<(AuthSession, Vec<u8>, Digest), Fault> {
    let session = tpm.salted_session(storage.handle, SessionType::Policy)?;
    let (policy_key, _) = satisfy(tpm, session, files, generation, sealed_key, &SecureBoot::BoundElsewhere)?;
    let policy = PolicySession::try_from(session)
        .map_err(|error| Fault::Refused { command: "TPM2_StartAuthSession", detail: error.to_string() })?;
    tpm.run("TPM2_PolicyAuthValue", |tpm| tpm.policy_auth_value(policy))?;
    let digest = tpm.run("TPM2_PolicyGetDigest", |tpm| tpm.policy_get_digest(policy))?;
    Ok((session, policy_key, digest))
}

fn template(policy: Digest) -> tss_esapi::Result<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_admin_with_policy(true)
        .with_no_da(true)
        .with_sign_encrypt(true)
        .build()?;
    let parameters = PublicEccParametersBuilder::new()
        .with_ecc_scheme(EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)))
        .with_curve(EccCurve::NistP256)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_is_signing_key(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(policy)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

/// Writes a number big-endian into `field`, zeros before it; none where it is too long.
fn put_right(field: &mut [u8], number: &[u8]) -> Option<()> {
    let start = field.len().checked_sub(number.len())?;
    field[start..].copy_from_slice(number);
    Some(())
}
