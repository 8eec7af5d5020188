//! A software TPM with a known boot, and a vault on it.

use lab::tpm::SoftTpm;
use std::{path::PathBuf, time::Duration};
use tempfile::TempDir;
use vault::{Fault, Keys, Opened, Vault, VaultConfig};

pub struct Appliance {
    pub tpm: SoftTpm,
    pub folder: TempDir,
}

impl Appliance {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { tpm: SoftTpm::start(&folder.path().join("tpm")).unwrap(), folder }
    }

    pub fn config(&self) -> VaultConfig {
        VaultConfig {
            dir: self.folder.path().join("vault"),
            tcti: self.tpm.tcti(),
            policy_key: self.tpm.policy_key(),
            policy_signatures: self.tpm.policy_signatures(),
            generation_floor: 1,
            may_seal: true,
            deadline: Duration::from_secs(20),
            create: true,
        }
    }

    pub fn store(&self, file: &str) -> PathBuf {
        self.folder.path().join("vault/store").join(file)
    }

    pub fn open(&self) -> (Vault, Opened) {
        Vault::open(self.config()).unwrap()
    }

    /// First start, the recovery key taken down. Gives what the keys were, and the words.
    pub fn first_start(&self) -> (Secrets, String) {
        let (vault, opened) = self.open();
        let Opened::Fresh(keys) = opened else { panic!("a first start: {opened:?}") };
        let words = vault.show_recovery_key().unwrap().unwrap().phrase().to_string();
        vault.confirm_recovery_key(&words).unwrap();
        (Secrets::of(&keys), words)
    }

    pub fn unlocked(&self) -> (Vault, Keys) {
        match self.open() {
            (vault, Opened::Unlocked(keys)) => (vault, keys),
            (_, other) => panic!("unlocked: {other:?}"),
        }
    }

    pub fn locked(&self) -> (Vault, Fault) {
        match self.open() {
            (vault, Opened::Locked(fault)) => (vault, fault),
            (_, other) => panic!("locked: {other:?}"),
        }
    }
}

/// Copies of all keys, to compare.
#[derive(PartialEq, Eq, Clone)]
pub struct Secrets(Vec<[u8; 32]>);

impl Secrets {
    pub fn of(keys: &Keys) -> Self {
        let (_, epoch) = keys.epochs.current();
        Self(vec![
            *epoch.expose(),
            *keys.index.expose(),
            *keys.ledger.expose(),
            *keys.audit.expose(),
            *keys.settings.expose(),
            *keys.pseudonym.expose(),
        ])
    }

    pub fn all(&self) -> &[[u8; 32]] {
        &self.0
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}
