//! Sealing and unsealing the root secret.
//!
//! Job: put 32 octets under the storage key and the policy, and get them back. Place: called by `vault` on the owner
//! thread. Invariants: [`seal`] returns only what it has unsealed again and compared; the secret crosses the bus
//! encrypted only. A crash leaves nothing: what is sealed is stored by the caller.

use super::{
    link::{Encrypting, Tpm},
    policy::{Pcrs, PolicyFiles, SecureBoot, satisfy},
};
use crate::{
    fault::Fault,
    key::Key,
    store::octets,
    tree::{CryptoError, Root, mix_root},
};
use serde::{Deserialize, Serialize};
use tss_esapi::{
    attributes::ObjectAttributesBuilder,
    constants::{SessionType, response_code::Tss2ResponseCodeKind as Kind},
    handles::SessionHandle,
    interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm},
    structures::{Digest, KeyedHashScheme, Private, Public, PublicBuilder, PublicKeyedHashParameters, SensitiveData},
    traits::{Marshall, UnMarshall},
};
use zeroize::Zeroizing;

/// The sealed root secret and what it is sealed to. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SealedRoot {
    /// Security generation, the policyRef of the signatures that release it.
    pub(crate) generation: u32,
    /// Name of the storage key, by which another or a cleared TPM is recognised.
    #[serde(with = "octets")]
    storage_key: Vec<u8>,
    /// Name of the endorsement key, by which a cleared TPM is told from another one; empty where it could not be had.
    #[serde(with = "octets")]
    endorsement_key: Vec<u8>,
    /// Name of the vendor's policy key.
    #[serde(with = "octets")]
    pub(crate) policy_key: Vec<u8>,
    /// PCR 7 at sealing.
    #[serde(with = "octets")]
    pcr7: Vec<u8>,
    /// TPMT_PUBLIC.
    #[serde(with = "octets")]
    public: Vec<u8>,
    /// TPM2B_PRIVATE without its length.
    #[serde(with = "octets")]
    private: Vec<u8>,
}

/// What a sealing starts from.
pub(crate) enum Sealing {
    /// A first start: a new root secret.
    New,
    /// This root secret anew, and only by the policy key of this name.
    Again(Key<Root>, Vec<u8>),
}

/// Seals to the PCR values of now, for `generation`. Proves that it unseals.
pub(crate) fn seal(
    tpm: &mut Tpm,
    files: &PolicyFiles,
    generation: u32,
    sealing: Sealing,
) -> Result<(SealedRoot, Key<Root>), Fault> {
    let endorsement_key = tpm.endorsement_name()?.unwrap_or_default();
    let storage = tpm.storage_key(None)?;
    let session = tpm.salted_session(storage.handle, SessionType::Hmac)?;
    let (root, wanted_key) = match sealing {
        Sealing::Again(root, policy_key) => (root, Some(policy_key)),
        Sealing::New => {
            let encrypting = Encrypting { session, command: false, response: true };
            let random = tpm.run_encrypted("TPM2_GetRandom", (None, encrypting), |_| None, |tpm| tpm.get_random(32))?;
            let mixed = mix_root(&random);
            let refused = |error: CryptoError| Fault::Refused { command: "TPM2_GetRandom", detail: error.to_string() };
            (mixed.map_err(refused)?, None)
        }
    };

    let pcr7 = Pcrs::read(tpm)?.seven;
    let policy = tpm.salted_session(storage.handle, SessionType::Policy)?;
    let (policy_key, digest) = satisfy(tpm, policy, files, generation, wanted_key.as_deref(), &SecureBoot::Is(&pcr7))?;
    tpm.flush(SessionHandle::from(policy).into())?;

    let encrypting = Encrypting { session, command: true, response: true };
    let made = tpm.run_encrypted(
        "TPM2_Create",
        (None, encrypting),
        |_| None,
        |tpm| {
            let secret = SensitiveData::try_from(root.expose().as_slice())?;
            tpm.create(storage.handle, sealed_template(digest)?, None, Some(secret), None, None)
        },
    )?;
    let sealed = SealedRoot {
        generation,
        storage_key: storage.name,
        endorsement_key,
        policy_key,
        pcr7,
        public: tpm.run("marshal", |_| made.out_public.marshall())?,
        private: made.out_private.value().to_vec(),
    };
    tpm.flush_all()?;

    let proof = unseal(tpm, files, &sealed)?;
    if proof.expose() != root.expose() {
        return Err(Fault::Refused {
            command: "TPM2_Unseal",
            detail: "it gave other octets than were sealed".to_owned(),
        });
    }
    Ok((sealed, root))
}

/// The root secret, if this TPM, this firmware and this boot are those that it was sealed to.
pub(crate) fn unseal(tpm: &mut Tpm, files: &PolicyFiles, sealed: &SealedRoot) -> Result<Key<Root>, Fault> {
    let storage = tpm.storage_key(Some(&sealed.storage_key))?;
    if storage.name != sealed.storage_key {
        let here = tpm.endorsement_name()?;
        let same = here.is_some_and(|name| name == sealed.endorsement_key);
        return Err(if same { Fault::Cleared } else { Fault::Replaced });
    }
    let policy = tpm.salted_session(storage.handle, SessionType::Policy)?;
    let secure_boot = SecureBoot::Is(&sealed.pcr7);
    satisfy(tpm, policy, files, sealed.generation, Some(&sealed.policy_key), &secure_boot)?;

    let session = tpm.salted_session(storage.handle, SessionType::Hmac)?;
    let loading = Encrypting { session, command: true, response: false };
    let damaged = |kind| {
        let damage = matches!(kind, Kind::Integrity | Kind::Size | Kind::Value | Kind::Insufficient | Kind::Type);
        damage.then(|| Fault::StoreCorrupt { path: "root.json".into(), detail: "the TPM does not know it".to_owned() })
    };
    let object = tpm.run_encrypted("TPM2_Load", (None, loading), damaged, |tpm| {
        let private = Private::try_from(sealed.private.as_slice())?;
        tpm.load(storage.handle, private, Public::unmarshall(&sealed.public)?)
    })?;
    tpm.keep(object.into());
    let releasing = Encrypting { session, command: false, response: true };
    let secret =
        tpm.run_encrypted("TPM2_Unseal", (Some(policy), releasing), |_| None, |tpm| tpm.unseal(object.into()))?;
    tpm.flush_all()?;
    let octets: &[u8; 32] = secret
        .value()
        .try_into()
        .map_err(|_| Fault::StoreCorrupt { path: "root.json".into(), detail: "it holds no root secret".to_owned() })?;
    Ok(Key::from_bytes(Zeroizing::new(*octets)))
}

/// A sealed data object: released by the policy alone, never counted for dictionary lockout, tied to this TPM.
fn sealed_template(policy: Digest) -> tss_esapi::Result<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_admin_with_policy(true)
        .with_no_da(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::KeyedHash)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(policy)
        .with_keyed_hash_parameters(PublicKeyedHashParameters::new(KeyedHashScheme::Null))
        .with_keyed_hash_unique_identifier(Digest::default())
        .build()
}
