//! Opening, locking and unlocking.
//!
//! Job: give the keys where TPM, firmware and boot are those that the root secret was sealed to, else say why not, and
//! take the recovery key. Place: the first thing that `build()` makes; everything that seals gets its keys here.
//! Invariants: there is no way to keys but the TPM's policy or the recovery key; the root secret is sealed anew only where
//! the signed policy holds now, for no lower generation and under no other policy key than before; the keys are handed
//! out again only to who had them and could not use them. A crash leaves each file of before or of after: between two files any combination opens.

use crate::{
    epochs::Epochs,
    fault::Fault,
    identity::Identity,
    key::{Key, purpose},
    memory,
    recovery::{RecoveryFile, RecoveryKey, WordsError},
    status::{FaultStatus, IdentityStatus, RecoveryStatus, State, Status},
    store::{Found, Store},
    table::Table,
    tpm::{self, Link, Lockout, Owner, PolicyFiles, SealedRoot, Sealing},
    tree::{self, CryptoError, Root},
};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

const ROOT_FILE: &str = "root.json";

/// Where everything is.
#[derive(Debug, Clone)]
pub struct VaultConfig {
    /// Folder of the key store, on the data partition; made at the first start.
    pub dir: PathBuf,
    /// The TPM: `device:/dev/tpmrm0`, `swtpm:host=127.0.0.1,port=2321`.
    pub tcti: String,
    /// The vendor's policy key, public part, PEM.
    pub policy_key: PathBuf,
    /// The signed PCR policies of this image, JSON.
    pub policy_signatures: PathBuf,
    /// Security generation to seal for. The caller raises it only after the new slot has been marked good.
    pub generation_floor: u32,
    /// How long one job of the TPM may take: up to forty commands, of which a chip on a slow bus does ten a second.
    /// Ten seconds is ample.
    pub deadline: Duration,
    /// Whether keys may be made where there is no store. False where a queue exists that new keys would not open.
    pub create: bool,
    /// Whether anything may be sealed to this start. False where the firmware would start anybody's system.
    pub may_seal: bool,
}

/// Why there is no vault at all, not even a locked one.
#[derive(Debug, thiserror::Error)]
pub enum FatalError {
    /// The TPM's name is none.
    #[error("`{tcti}` names no TPM; write device:/dev/tpmrm0 or swtpm:host=…,port=…")]
    Tcti {
        /// What was written.
        tcti: String,
    },
    /// No thread.
    #[error("the TPM's thread cannot be started ({0}); free memory or raise the limit of tasks")]
    Thread(std::io::Error),
}

/// Why the recovery key did not unlock.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnlockError {
    /// The words cannot be right.
    #[error(transparent)]
    Words(#[from] WordsError),
    /// The words are a recovery key, but not this vault's, or no longer.
    #[error("these words are another recovery key's; enter those that were shown last on this machine")]
    OtherKey,
    /// Nothing to do.
    #[error("the vault is not locked; nothing needs to be done")]
    NotLocked,
    /// The key store does not allow it.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// What opening gave.
#[derive(Debug)]
pub enum Opened {
    /// First start: new keys. The recovery key waits to be shown.
    Fresh(Keys),
    /// The TPM has released them.
    Unlocked(Keys),
    /// No keys; SMTP answers 451 until [`Vault::unlock`] or [`Vault::retry`].
    Locked(Fault),
}

/// The keys, each for its one user.
#[derive(Debug)]
pub struct Keys {
    /// Wrap the message keys of the spool.
    pub epochs: Arc<Epochs>,
    /// `queue.db`
    pub index: Key<purpose::QueueIndex>,
    /// `ledger.db`
    pub ledger: Key<purpose::Ledger>,
    /// MAC of the audit chain.
    pub audit: Key<purpose::Audit>,
    /// Secrets inside the settings.
    pub settings: Key<purpose::Settings>,
    /// Keyed hashes that stand for people.
    pub pseudonym: Key<purpose::Pseudonym>,
    /// For the cloud client.
    pub identity: Arc<Identity>,
    /// Whether the next start will need the recovery key again.
    pub lasting: Lasting,
}

/// How long the unlocking lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lasting {
    /// The TPM will release the keys at the next start.
    Sealed,
    /// Unlocked by the recovery key, and this keeps the keys from being sealed anew.
    ThisBoot(Fault),
}

/// The handle to the vault, locked or not. Cheap to clone.
#[derive(Clone)]
pub struct Vault {
    inner: Arc<Inner>,
}

struct Inner {
    config: VaultConfig,
    owner: Owner,
    /// Held while the vault opens or its recovery key changes: one at a time.
    changing: Mutex<()>,
    now: Mutex<Now>,
}

enum Now {
    Locked(Fault),
    Open(Arc<Open>),
}

struct Open {
    root: Key<Root>,
    store: Store,
    generation: u32,
    lasting: Lasting,
    epochs: Arc<Epochs>,
    identity: Arc<Identity>,
}

impl Vault {
    /// Opens the vault, or makes one. Blocking, up to a few times the deadline.
    ///
    /// # Errors
    /// Only what the configuration makes impossible; what TPM and key store do is [`Opened::Locked`].
    pub fn open(config: VaultConfig) -> Result<(Self, Opened), FatalError> {
        if !Link::is_valid(&config.tcti) {
            return Err(FatalError::Tcti { tcti: config.tcti });
        }
        let owner = Owner::start(&config.tcti, config.deadline).map_err(FatalError::Thread)?;
        let now = Mutex::new(Now::Locked(Fault::Slow { deadline: config.deadline }));
        let vault = Self { inner: Arc::new(Inner { config, owner, changing: Mutex::new(()), now }) };
        let opened = vault.open_now(&vault.inner.changing());
        Ok((vault, opened))
    }

    /// Opens a locked vault by the TPM once more, for faults that pass: slow, absent, locked out. Blocking. Where it is
    /// open: the same keys again, for an appliance that could not be opened with those that it had.
    #[must_use]
    pub fn retry(&self) -> Opened {
        let one_at_a_time = self.inner.changing();
        match self.inner.opened() {
            Ok(open) => open.keys().map_or_else(Opened::Locked, Opened::Unlocked),
            Err(_) => self.open_now(&one_at_a_time),
        }
    }

    /// Opens a locked vault by its recovery key. Blocking, up to a few times the deadline.
    ///
    /// # Errors
    /// See [`UnlockError`]; the vault stays locked.
    pub fn unlock(&self, words: &str) -> Result<Keys, UnlockError> {
        let _one_at_a_time = self.inner.changing();
        self.fault().ok_or(UnlockError::NotLocked)?;
        let store = self.inner.store()?;
        let root = RecoveryFile::read(&store)?.root(words)?.ok_or(UnlockError::OtherKey)?;
        let mut table = Table::read(&store, &root)?;
        let lasting = match self.inner.seal_again(&store, &root, &mut table) {
            Ok(()) => Lasting::Sealed,
            Err(fault) => Lasting::ThisBoot(fault),
        };
        log::warn!("the vault was unlocked by its recovery key ({})", lasting.words());
        Ok(self.inner.hand_out(store, root, &table, lasting)?)
    }

    /// Why the vault is locked; none where it is open.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        match &*self.inner.now() {
            Now::Locked(fault) => Some(fault.clone()),
            Now::Open(_) => None,
        }
    }

    /// What `postern keys status` shows. Does not ask the TPM.
    #[must_use]
    pub fn status(&self) -> Status {
        let memory_locked = memory::all_locked();
        let open = match self.inner.opened() {
            Ok(open) => open,
            Err(fault) => {
                return Status {
                    state: State::Locked,
                    fault: Some(FaultStatus::of(&fault)),
                    generation: None,
                    recovery: None,
                    identity: None,
                    epochs: None,
                    memory_locked,
                };
            }
        };
        let (state, fault) = match &open.lasting {
            Lasting::Sealed => (State::Unlocked, None),
            Lasting::ThisBoot(fault) => (State::UnlockedThisBoot, Some(FaultStatus::of(fault))),
        };
        let recovery = RecoveryFile::read(&open.store).ok();
        Status {
            state,
            fault,
            generation: Some(open.generation),
            recovery: recovery.map(|file| RecoveryStatus { shown: file.shown(), confirmed: file.confirmed }),
            identity: Some(IdentityStatus::of(&open.identity)),
            epochs: Some(open.epochs.ids().count()),
            memory_locked,
        }
    }

    /// The words of the recovery key: once, and never again.
    ///
    /// # Errors
    /// The vault is locked, or its store cannot be written.
    pub fn show_recovery_key(&self) -> Result<Option<RecoveryKey>, Fault> {
        let _one_at_a_time = self.inner.changing();
        let open = self.inner.opened()?;
        RecoveryFile::read(&open.store)?.show(&open.store, &open.root)
    }

    /// Whether these are the recovery key's words; nothing is marked.
    ///
    /// # Errors
    /// As [`Vault::confirm_recovery_key`].
    pub fn check_recovery_key(&self, words: &str) -> Result<(), UnlockError> {
        let _one_at_a_time = self.inner.changing();
        self.inner.recovery_file_of(words).map(drop)
    }

    /// Asks the recovery key back: the operator has it in writing. Whatever else it is to open must open with it before:
    /// a confirmed key is asked for no more.
    ///
    /// # Errors
    /// The words are wrong, or another key's; [`UnlockError::Fault`] where the vault is locked.
    pub fn confirm_recovery_key(&self, words: &str) -> Result<(), UnlockError> {
        let _one_at_a_time = self.inner.changing();
        let (mut file, store) = self.inner.recovery_file_of(words)?;
        file.confirmed = true;
        Ok(file.write(&store)?)
    }

    /// Replaces the recovery key by a new one, which is then to be shown and confirmed; the old words open nothing.
    ///
    /// # Errors
    /// The vault is locked, or its store cannot be written.
    pub fn renew_recovery_key(&self) -> Result<(), Fault> {
        let _one_at_a_time = self.inner.changing();
        let open = self.inner.opened()?;
        RecoveryFile::generate(&open.root).map_err(crypto)?.write(&open.store)
    }

    /// Clears the TPM, for a factory reset: no image of the disk, however old, opens with it again. Blocking. The keys
    /// that were handed out go on until the process ends.
    ///
    /// # Errors
    /// A locked vault does not know the lockout authorisation, so only a TPM where none is set is cleared then; or the
    /// TPM refuses.
    pub fn clear_tpm(&self) -> Result<(), Fault> {
        let _one_at_a_time = self.inner.changing();
        let auth = match self.inner.opened() {
            Ok(open) => Some(Table::read(&open.store, &open.root)?.lockout),
            Err(_) => None,
        };
        self.inner.owner.run(move |tpm| tpm::clear(tpm, auth.as_ref()))
    }

    fn open_now(&self, _one_at_a_time: &MutexGuard<'_, ()>) -> Opened {
        let opened = match Store::find(&self.inner.config.dir) {
            Ok(Found::Store(store)) => self.inner.open_sealed(store).map(Opened::Unlocked),
            Ok(Found::Nothing) => self.inner.first_start().map(Opened::Fresh),
            Err(fault) => Err(fault),
        };
        opened.unwrap_or_else(|fault| {
            *self.inner.now() = Now::Locked(fault.clone());
            Opened::Locked(fault)
        })
    }
}

impl Inner {
    fn open_sealed(&self, store: Store) -> Result<Keys, Fault> {
        let path = store.path(ROOT_FILE);
        let missing = || Fault::StoreCorrupt { path, detail: "it is missing".to_owned() };
        let sealed: SealedRoot = store.read(ROOT_FILE)?.ok_or_else(missing)?;
        let files = self.files();
        let (root, sealed) = self.owner.run(move |tpm| Ok((tpm::unseal(tpm, &files, &sealed)?, sealed)))?;
        let mut table = Table::read(&store, &root)?;
        // The TPM has just proven the generation of the sealed root; a table of before a raise is brought up to it.
        if table.generation < sealed.generation {
            table.generation = sealed.generation;
            table.write(&store, &root)?;
        }
        // The signatures of lower generations end with the next image: to seal anew can wait, to lose the keys cannot.
        if sealed.generation < self.config.generation_floor.max(table.generation)
            && let Err(fault) = self.seal_again(&store, &root, &mut table)
        {
            log::warn!("the keys stay sealed for generation {}: {fault}", sealed.generation);
        }
        self.hand_out(store, root, &table, Lasting::Sealed)
    }

    fn first_start(&self) -> Result<Keys, Fault> {
        let folder = &self.config.dir;
        if !self.config.create {
            return Err(Fault::StoreMissing { path: folder.clone() });
        }
        self.may_seal()?;
        let (files, generation) = (self.files(), self.config.generation_floor);
        let (sealed, root) = self.owner.run(move |tpm| tpm::seal(tpm, &files, generation, Sealing::New))?;
        let store = Store::begin(folder)?;
        let table = Table::first(generation, sealed.policy_key.clone()).map_err(crypto)?;
        table.write(&store, &root)?;
        RecoveryFile::generate(&root).map_err(crypto)?.write(&store)?;
        store.write(ROOT_FILE, &sealed)?;
        let store = store.complete(folder)?;
        self.hand_out(store, root, &table, Lasting::Sealed)
    }

    /// Seals `root` to what the PCRs hold now. The table is written first: it says for which generation at least.
    fn seal_again(&self, store: &Store, root: &Key<Root>, table: &mut Table) -> Result<(), Fault> {
        self.may_seal()?;
        let generation = self.config.generation_floor.max(table.generation);
        let (files, again) = (self.files(), Sealing::Again(root.duplicate(), table.policy_key.clone()));
        let (sealed, _) = self.owner.run(move |tpm| tpm::seal(tpm, &files, generation, again))?;
        if table.generation != generation {
            table.generation = generation;
            table.write(store, root)?;
        }
        store.write(ROOT_FILE, &sealed)
    }

    fn may_seal(&self) -> Result<(), Fault> {
        if self.config.may_seal { Ok(()) } else { Err(Fault::SecureBootOff) }
    }

    /// From the root secret to everybody's key.
    fn hand_out(&self, store: Store, root: Key<Root>, table: &Table, lasting: Lasting) -> Result<Keys, Fault> {
        if lasting == Lasting::Sealed {
            self.own_lockout(table);
        }
        let auth = tree::derive(&root).map_err(crypto)?;
        let blocked = match &lasting {
            Lasting::Sealed => None,
            Lasting::ThisBoot(fault) => Some(fault.clone()),
        };
        let identity = Identity::open(self.owner.clone(), self.files(), store.clone(), auth, table.generation, blocked);
        let (generation, epochs) = (table.generation, Arc::clone(&table.epochs));
        let open = Open { root, store, generation, lasting, epochs, identity };
        let keys = open.keys()?;
        *self.now() = Now::Open(Arc::new(open));
        Ok(keys)
    }

    /// The value stands in the table before it is set in the TPM. Failing here costs no key.
    fn own_lockout(&self, table: &Table) {
        let auth = table.lockout.duplicate();
        match self.owner.run(move |tpm| tpm::own_lockout(tpm, &auth)) {
            Ok(Lockout::Set) => log::info!("the TPM's lockout authorisation is set"),
            Ok(Lockout::WasSet) => {}
            Err(fault) => log::warn!("the TPM's lockout authorisation is not set: {fault}"),
        }
    }

    /// The recovery key's file, if these are its words.
    fn recovery_file_of(&self, words: &str) -> Result<(RecoveryFile, Store), UnlockError> {
        let open = self.opened()?;
        let file = RecoveryFile::read(&open.store)?;
        let root = file.root(words)?.ok_or(UnlockError::OtherKey)?;
        if root.expose() == open.root.expose() { Ok((file, open.store.clone())) } else { Err(UnlockError::OtherKey) }
    }

    fn store(&self) -> Result<Store, Fault> {
        match Store::find(&self.config.dir)? {
            Found::Store(store) => Ok(store),
            Found::Nothing => Err(Fault::StoreMissing { path: self.config.dir.clone() }),
        }
    }

    fn files(&self) -> PolicyFiles {
        let VaultConfig { policy_key, policy_signatures, .. } = &self.config;
        PolicyFiles { key: policy_key.clone(), signatures: policy_signatures.clone() }
    }

    fn opened(&self) -> Result<Arc<Open>, Fault> {
        match &*self.now() {
            Now::Locked(fault) => Err(fault.clone()),
            Now::Open(open) => Ok(Arc::clone(open)),
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn keys(&self) -> Result<Keys, Fault> {
        Ok(Keys {
            epochs: Arc::clone(&self.epochs),
            index: tree::derive(&self.root).map_err(crypto)?,
            ledger: tree::derive(&self.root).map_err(crypto)?,
            audit: tree::derive(&self.root).map_err(crypto)?,
            settings: tree::derive(&self.root).map_err(crypto)?,
            pseudonym: tree::derive(&self.root).map_err(crypto)?,
            identity: Arc::clone(&self.identity),
            lasting: self.lasting.clone(),
        })
    }
}

impl Lasting {
    /// For the log.
    fn words(&self) -> String {
        match self {
            Self::Sealed => "the keys are sealed anew".to_owned(),
            Self::ThisBoot(fault) => format!("for this boot only: {fault}"),
        }
    }
}

fn crypto(error: CryptoError) -> Fault {
    Fault::Refused { command: "the key derivation", detail: error.to_string() }
}
