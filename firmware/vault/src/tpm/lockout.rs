//! The lockout authorisation: who may end a dictionary lockout or clear the TPM without the platform.
//!
//! Job: set it to a random value, once, and clear the TPM by it. Place: called by `vault` after the value is safely
//! stored, and for a factory reset. Invariants: a value that someone else set is left alone; owner authorisation is never
//! touched. A crash between storing and setting leaves it unset; the next start sets the stored value. A crash around
//! the clearing leaves the TPM as it was or cleared.

use super::link::{Encrypting, Tpm};
use crate::{fault::Fault, key::Key, tree::secret::LockoutAuth};
use tss_esapi::{
    constants::{CapabilityType, PropertyTag, SessionType},
    handles::AuthHandle,
    structures::{Auth, CapabilityData},
};

/// TPMA_PERMANENT: lockoutAuth has been set since the last TPM2_Clear (TPM 2.0 Part 2, §8.6).
const LOCKOUT_AUTH_SET: u32 = 1 << 2;

/// What was found or done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lockout {
    /// It was unset and is now ours.
    Set,
    /// It had been set before: by us, or by somebody else.
    WasSet,
}

/// Sets the lockout authorisation where it is unset.
pub(crate) fn own_lockout(tpm: &mut Tpm, auth: &Key<LockoutAuth>) -> Result<Lockout, Fault> {
    if is_set(tpm)? {
        return Ok(Lockout::WasSet);
    }
    let storage = tpm.storage_key(None)?;
    let session = tpm.salted_session(storage.handle, SessionType::Hmac)?;
    let encrypting = Encrypting { session, command: true, response: false };
    tpm.run_encrypted(
        "TPM2_HierarchyChangeAuth",
        (None, encrypting),
        |_| None,
        |tpm| tpm.hierarchy_change_auth(AuthHandle::Lockout, Auth::try_from(auth.expose().as_slice())?),
    )?;
    tpm.flush_all()?;
    Ok(Lockout::Set)
}

/// Clears the TPM: its storage seed is replaced, so that nothing that was ever sealed to it opens again (TPM 2.0 Part 3,
/// §24.6). `auth` is used where the lockout authorisation is set.
pub(crate) fn clear(tpm: &mut Tpm, auth: Option<&Key<LockoutAuth>>) -> Result<(), Fault> {
    let auth = match auth {
        Some(auth) if is_set(tpm)? => auth.expose().as_slice(),
        _ => &[],
    };
    let storage = tpm.storage_key(None)?;
    let session = tpm.salted_session(storage.handle, SessionType::Hmac)?;
    // Clearing flushes the storage key, which therefore must not be flushed after it.
    tpm.forget_key(storage.handle)?;
    tpm.run("Esys_TR_SetAuth", |tpm| tpm.tr_set_auth(AuthHandle::Lockout.into(), Auth::try_from(auth)?))?;
    tpm.run("TPM2_Clear", |tpm| tpm.execute_with_session(Some(session), |tpm| tpm.clear(AuthHandle::Lockout)))?;
    tpm.flush_all()
}

fn is_set(tpm: &mut Tpm) -> Result<bool, Fault> {
    let (found, _) = tpm.run("TPM2_GetCapability", |tpm| {
        tpm.get_capability(CapabilityType::TpmProperties, PropertyTag::Permanent.into(), 1)
    })?;
    let permanent = match &found {
        CapabilityData::TpmProperties(list) => list.find(PropertyTag::Permanent).map(|property| property.value()),
        _ => None,
    };
    Ok(permanent.is_none_or(|bits| bits & LOCKOUT_AUTH_SET != 0))
}
