//! One connection to the TPM, for one job.
//!
//! Job: run commands within the deadline, turn their errors into faults, and open sessions that encrypt. Place: below the
//! other parts of `tpm`. Invariants: no command begins after the deadline; whatever a job loads is flushed when its
//! connection ends; each session is salted by the storage key. A crash leaves loaded objects, see [`super`].

use crate::fault::Fault;
use std::{
    fs,
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};
use tss_esapi::{
    Context, Error, TctiNameConf,
    attributes::{ObjectAttributesBuilder, SessionAttributesBuilder},
    constants::{
        CapabilityType, SessionType,
        response_code::{Tss2ResponseCode, Tss2ResponseCodeKind as Kind},
    },
    handles::{KeyHandle, ObjectHandle, PersistentTpmHandle, SessionHandle, TpmHandle},
    interface_types::{
        algorithm::{HashingAlgorithm, PublicAlgorithm},
        ecc::EccCurve,
        resource_handles::Hierarchy,
        session_handles::AuthSession,
    },
    structures::{
        CapabilityData, EccPoint, EccScheme, KeyDerivationFunctionScheme, Public, PublicBuilder,
        PublicEccParametersBuilder, SymmetricDefinition, SymmetricDefinitionObject,
    },
};

/// Where platforms keep the storage root key (TCG TPM v2.0 Provisioning Guidance, §7.5.1).
const PERSISTENT_STORAGE_KEY: u32 = 0x8100_0001;
/// First handles of what a job can leave loaded: HMAC sessions, policy sessions, transient objects.
const LOADED: [u32; 3] = [0x0200_0000, 0x0300_0000, 0x8000_0000];
/// More than any TPM can hold loaded.
const MOST_LOADED: u32 = 64;

/// Where the TPM is.
#[derive(Debug)]
pub(crate) struct Link {
    tcti: String,
    /// Whether what an earlier process left loaded has been flushed, or need not be.
    swept: AtomicBool,
}

/// A connected TPM.
pub(crate) struct Tpm {
    context: Context,
    until: Instant,
    deadline: Duration,
    tcti: String,
    /// What this job has loaded and not flushed.
    loaded: Vec<ObjectHandle>,
}

impl Link {
    pub(crate) fn to(tcti: &str) -> Self {
        // A resource manager cleans up itself, and its other clients' sessions are not ours to flush.
        let managed = tcti.starts_with("tabrmd") || (tcti.starts_with("device") && tcti.contains("tpmrm"));
        Self { tcti: tcti.to_owned(), swept: AtomicBool::new(managed) }
    }

    /// Whether `tcti` names a TPM at all (`device:/dev/tpmrm0`, `swtpm:host=127.0.0.1,port=2321`, …).
    pub(crate) fn is_valid(tcti: &str) -> bool {
        TctiNameConf::from_str(tcti).is_ok()
    }

    pub(crate) fn connect(&self, until: Instant, deadline: Duration) -> Result<Tpm, Fault> {
        if Instant::now() >= until {
            return Err(Fault::Slow { deadline });
        }
        let absent = |error: Error| Fault::Absent { tcti: self.tcti.clone(), detail: why(&self.tcti, error) };
        let context = TctiNameConf::from_str(&self.tcti).and_then(Context::new).map_err(absent)?;
        let mut tpm = Tpm { context, until, deadline, tcti: self.tcti.clone(), loaded: Vec::new() };
        if !self.swept.load(Ordering::Relaxed) {
            tpm.flush_leftovers()?;
            self.swept.store(true, Ordering::Relaxed);
        }
        Ok(tpm)
    }
}

impl Tpm {
    /// Runs one command. `name` is the TPM 2.0 name of the command.
    pub(super) fn run<T>(
        &mut self,
        name: &'static str,
        command: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
    ) -> Result<T, Fault> {
        self.run_or(name, |_| None, command)
    }

    /// Runs one command that has refusals with a meaning of their own.
    pub(super) fn run_or<T>(
        &mut self,
        name: &'static str,
        meaning: impl FnOnce(Kind) -> Option<Fault>,
        command: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
    ) -> Result<T, Fault> {
        if Instant::now() >= self.until {
            return Err(Fault::Slow { deadline: self.deadline });
        }
        command(&mut self.context)
            .map_err(|error| kind(error).and_then(meaning).unwrap_or_else(|| self.fault(name, error)))
    }

    fn fault(&self, command: &'static str, error: Error) -> Fault {
        match kind(error) {
            Some(Kind::Lockout) => Fault::LockedOut,
            Some(Kind::Retry | Kind::Yielded | Kind::Testing | Kind::NvRate) => Fault::Slow { deadline: self.deadline },
            // The TPM's own codes all have a kind: this one is of the transport, which broke off.
            None if matches!(error, Error::Tss2Error(_)) => {
                Fault::Absent { tcti: self.tcti.clone(), detail: why(&self.tcti, error) }
            }
            _ => Fault::Refused { command, detail: error.to_string() },
        }
    }

    /// Runs one command under a session that encrypts both ways, or only where the command has something to encrypt.
    pub(super) fn run_encrypted<T>(
        &mut self,
        name: &'static str,
        sessions: (Option<AuthSession>, Encrypting),
        meaning: impl FnOnce(Kind) -> Option<Fault>,
        command: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
    ) -> Result<T, Fault> {
        let (authorising, encrypting) = sessions;
        let (attributes, mask) = SessionAttributesBuilder::new()
            .with_decrypt(encrypting.command)
            .with_encrypt(encrypting.response)
            .with_continue_session(true)
            .build();
        let session = encrypting.session;
        self.run("Esys_TRSess_SetAttributes", |tpm| tpm.tr_sess_set_attributes(session, attributes, mask))?;
        let used = match authorising {
            Some(authorising) => (Some(authorising), Some(session), None),
            None => (Some(session), None, None),
        };
        self.run_or(name, meaning, |tpm| tpm.execute_with_sessions(used, command))
    }

    /// A session of its own kind, salted by `storage_key`: who listens to the bus does not learn its key.
    pub(super) fn salted_session(&mut self, storage_key: KeyHandle, kind: SessionType) -> Result<AuthSession, Fault> {
        let session = self.run("TPM2_StartAuthSession", |tpm| {
            let cipher = SymmetricDefinition::AES_128_CFB;
            tpm.start_auth_session(Some(storage_key), None, None, kind, cipher, HashingAlgorithm::Sha256)
        })?;
        let session =
            session.ok_or(Fault::Refused { command: "TPM2_StartAuthSession", detail: "no session".to_owned() })?;
        self.loaded.push(SessionHandle::from(session).into());
        Ok(session)
    }

    /// Remembers a loaded object for [`Tpm::flush_all`].
    pub(super) fn keep(&mut self, object: ObjectHandle) {
        self.loaded.push(object);
    }

    pub(super) fn flush(&mut self, object: ObjectHandle) -> Result<(), Fault> {
        self.loaded.retain(|kept| *kept != object);
        self.run("TPM2_FlushContext", |tpm| tpm.flush_context(object))
    }

    /// Flushes the storage key where this job has loaded it; the platform's persistent one stays.
    pub(super) fn forget_key(&mut self, key: KeyHandle) -> Result<(), Fault> {
        let object = ObjectHandle::from(key);
        if self.loaded.contains(&object) { self.flush(object) } else { Ok(()) }
    }

    /// Frees all slots between two steps of one job; a TPM has no more than three of each kind for sure.
    pub(super) fn flush_all(&mut self) -> Result<(), Fault> {
        while let Some(object) = self.loaded.pop() {
            self.flush(object)?;
        }
        Ok(())
    }

    /// The name of a loaded object: the hash of its public area, by which everything else refers to it.
    pub(super) fn name_of(&mut self, object: ObjectHandle) -> Result<Vec<u8>, Fault> {
        Ok(self.run("Esys_TR_GetName", |tpm| tpm.tr_get_name(object))?.value().to_vec())
    }

    /// The storage root key: the platform's persistent one where it has our template, else one made for this job; the
    /// same seed makes the same key each time. Where `wanted` is given, it must have that name.
    pub(super) fn storage_key(&mut self, wanted: Option<&[u8]>) -> Result<StorageKey, Fault> {
        let template = self.run("template", |_| storage_template())?;
        if let Some(persistent) = self.persistent_storage_key(&template)?
            && wanted.is_none_or(|name| name == persistent.name)
        {
            return Ok(persistent);
        }
        let made = self.run("TPM2_CreatePrimary", |tpm| {
            tpm.execute_with_session(Some(AuthSession::Password), |tpm| {
                tpm.create_primary(Hierarchy::Owner, template, None, None, None, None)
            })
        })?;
        self.keep(made.key_handle.into());
        let name = self.name_of(made.key_handle.into())?;
        Ok(StorageKey { handle: made.key_handle, name })
    }

    fn persistent_storage_key(&mut self, template: &Public) -> Result<Option<StorageKey>, Fault> {
        let handles = self.handles(PERSISTENT_STORAGE_KEY, 1)?;
        let Ok(wanted) = PersistentTpmHandle::new(PERSISTENT_STORAGE_KEY).map(TpmHandle::Persistent) else {
            return Ok(None);
        };
        if !handles.contains(&wanted) {
            return Ok(None);
        }
        let object = self.run("TPM2_ReadPublic", |tpm| tpm.tr_from_tpm_public(wanted))?;
        let handle = KeyHandle::from(object);
        let (public, name, _) = self.run("TPM2_ReadPublic", |tpm| tpm.read_public(handle))?;
        let fits = without_unique(&public) == without_unique(template);
        Ok(fits.then(|| StorageKey { handle, name: name.value().to_vec() }))
    }

    /// The name of the endorsement key (ECC P-256, TCG EK Credential Profile, template L-2), by which a cleared TPM is
    /// told from another one; none where the endorsement hierarchy is not ours to use.
    pub(super) fn endorsement_name(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let template = self.run("template", |_| {
            let p256 = tss_esapi::abstraction::AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP256);
            tss_esapi::abstraction::ek::create_ek_public_from_default_template_2(p256, None)
        })?;
        let made = self.run("TPM2_CreatePrimary", |tpm| {
            tpm.execute_with_session(Some(AuthSession::Password), |tpm| {
                tpm.create_primary(Hierarchy::Endorsement, template, None, None, None, None)
            })
        });
        match made {
            Ok(made) => {
                let name = self.name_of(made.key_handle.into())?;
                self.flush(made.key_handle.into())?;
                Ok(Some(name))
            }
            Err(Fault::Refused { .. }) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Handles in use from `first` on.
    fn handles(&mut self, first: u32, most: u32) -> Result<Vec<TpmHandle>, Fault> {
        let (found, _) =
            self.run("TPM2_GetCapability", |tpm| tpm.get_capability(CapabilityType::Handles, first, most))?;
        match found {
            CapabilityData::Handles(list) => Ok(list.into_inner()),
            _ => Ok(Vec::new()),
        }
    }

    /// Flushes what a killed process left loaded: without a resource manager the few slots stay taken until a restart.
    fn flush_leftovers(&mut self) -> Result<(), Fault> {
        for first in LOADED {
            for handle in self.handles(first, MOST_LOADED)? {
                let object = self.run("TPM2_ReadPublic", |tpm| tpm.tr_from_tpm_public(handle))?;
                self.flush(object)?;
            }
        }
        Ok(())
    }
}

/// A session, and which way it encrypts the first parameter.
#[derive(Clone, Copy)]
pub(super) struct Encrypting {
    pub(super) session: AuthSession,
    pub(super) command: bool,
    pub(super) response: bool,
}

/// A loaded storage root key.
pub(super) struct StorageKey {
    pub(super) handle: KeyHandle,
    pub(super) name: Vec<u8>,
}

/// Why there is no connection: the TPM library has a number for everything, the system has words for a device file.
fn why(tcti: &str, error: Error) -> String {
    let device = tcti.strip_prefix("device:").map(|path| fs::OpenOptions::new().read(true).write(true).open(path));
    match (device, error) {
        (Some(Err(system)), _) => system.to_string(),
        (_, Error::Tss2Error(Tss2ResponseCode::FormatZero(code))) => code.to_string(),
        _ => error.to_string(),
    }
}

fn kind(error: Error) -> Option<Kind> {
    match error {
        Error::Tss2Error(code) => code.kind(),
        Error::WrapperError(_) => None,
    }
}

/// ECC P-256 storage root key (TCG TPM v2.0 Provisioning Guidance, annex B; the same as systemd's and tpm2-tools').
fn storage_template() -> tss_esapi::Result<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_decrypt(true)
        .build()?;
    let parameters = PublicEccParametersBuilder::new()
        .with_symmetric(SymmetricDefinitionObject::AES_128_CFB)
        .with_ecc_scheme(EccScheme::Null)
        .with_curve(EccCurve::NistP256)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_is_decryption_key(true)
        .with_restricted(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

/// A public area with an empty point: what two keys of one template have in common.
fn without_unique(public: &Public) -> Option<Public> {
    match public.clone() {
        Public::Ecc { object_attributes, name_hashing_algorithm, auth_policy, parameters, .. } => Some(Public::Ecc {
            object_attributes,
            name_hashing_algorithm,
            auth_policy,
            parameters,
            unique: EccPoint::default(),
        }),
        _ => None,
    }
}
