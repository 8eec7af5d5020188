//! The table of random keys.
//!
//! Job: hold what is random and must survive a restart: the epoch keys, the lockout authorisation, and to what the root
//! secret may be sealed. Place: wrapped under HKDF(root ‖ S), in the key store. Invariants: it has an epoch; whoever can
//! read it, could also have written it, so that what stands in it is to be believed, which plain files are not. A crash
//! leaves the table of before or of after.

use crate::{
    epochs::Epochs,
    fault::Fault,
    key::{Key, purpose::SpoolEpoch},
    store::{Store, octets},
    tree::{self, CryptoError, Root, secret::LockoutAuth},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use zeroize::Zeroizing;

const FILE: &str = "table.json";
/// Most epochs of one table: one an hour for ten years; a bigger count is damage.
const MOST_EPOCHS: usize = 100_000;

/// The table in memory.
pub(crate) struct Table {
    /// The security generation that the root secret is to be sealed for; only ever raised.
    pub(crate) generation: u32,
    /// Name of the vendor's policy key that it may be sealed under.
    pub(crate) policy_key: Vec<u8>,
    pub(crate) lockout: Key<LockoutAuth>,
    pub(crate) epochs: Arc<Epochs>,
}

/// The table on disk.
#[derive(Serialize, Deserialize)]
struct Wrapped {
    s: SecretS,
    #[serde(with = "octets")]
    wrapped: Vec<u8>,
}

/// Where the half of the table's key is that is not derived from the root secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SecretS {
    /// There is none: epochs do not roll yet. With rolling epochs it stands in an NV index of the TPM.
    None,
}

impl SecretS {
    /// Authenticated with the table, so that a table with S is never taken for one without.
    fn label(self) -> &'static str {
        match self {
            Self::None => "postern/1/table/s-none",
        }
    }
}

impl Table {
    /// The table of a first start: one epoch.
    pub(crate) fn first(generation: u32, policy_key: Vec<u8>) -> Result<Self, CryptoError> {
        let epochs = Epochs::of(vec![(1, tree::random()?)]).ok_or(CryptoError)?;
        Ok(Self { generation, policy_key, lockout: tree::random()?, epochs: Arc::new(epochs) })
    }

    pub(crate) fn read(store: &Store, root: &Key<Root>) -> Result<Self, Fault> {
        let corrupt = |detail: &str| Fault::StoreCorrupt { path: store.path(FILE), detail: detail.to_owned() };
        let file: Wrapped = store.read(FILE)?.ok_or_else(|| corrupt("it is missing"))?;
        let key = tree::table_key(root, &[]).map_err(|error| corrupt(&error.to_string()))?;
        let open = tree::unwrap(&key, file.s.label(), &file.wrapped)
            .ok_or_else(|| corrupt("it is not wrapped under this root secret"))?;
        Self::decode(&open).ok_or_else(|| corrupt("its content is not that of this version"))
    }

    pub(crate) fn write(&self, store: &Store, root: &Key<Root>) -> Result<(), Fault> {
        let failed = |error: CryptoError| Fault::StoreUnreadable { path: store.path(FILE), detail: error.to_string() };
        let key = tree::table_key(root, &[]).map_err(failed)?;
        let s = SecretS::None;
        let wrapped = tree::wrap(&key, s.label(), &self.encode()).map_err(failed)?;
        store.write(FILE, &Wrapped { s, wrapped })
    }

    /// generation ‖ length and octets of the policy key's name ‖ lockout authorisation ‖ (id ‖ key) of each epoch;
    /// numbers are 32 bits, big-endian.
    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let ids: Vec<u32> = self.epochs.ids().collect();
        // Reserved at once: a vector that grows leaves copies behind that are not zeroized.
        let mut plain = Zeroizing::new(Vec::with_capacity(8 + self.policy_key.len() + 32 + ids.len() * 36));
        plain.extend_from_slice(&self.generation.to_be_bytes());
        plain.extend_from_slice(&(self.policy_key.len() as u32).to_be_bytes());
        plain.extend_from_slice(&self.policy_key);
        plain.extend_from_slice(self.lockout.expose());
        for (id, key) in ids.into_iter().filter_map(|id| Some((id, self.epochs.by_id(id)?))) {
            plain.extend_from_slice(&id.to_be_bytes());
            plain.extend_from_slice(key.expose());
        }
        plain
    }

    fn decode(plain: &[u8]) -> Option<Self> {
        let (generation, rest) = plain.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (policy_key, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        let (lockout, rest) = rest.split_first_chunk::<32>()?;
        let (entries, left) = rest.as_chunks::<36>();
        if !left.is_empty() || entries.len() > MOST_EPOCHS {
            return None;
        }
        let entry = |entry: &[u8; 36]| {
            let (id, key) = entry.split_first_chunk::<4>()?;
            let key: &[u8; 32] = key.try_into().ok()?;
            Some((u32::from_be_bytes(*id), Key::<SpoolEpoch>::from_bytes(Zeroizing::new(*key))))
        };
        let epochs = Epochs::of(entries.iter().map(entry).collect::<Option<_>>()?)?;
        Some(Self {
            generation: u32::from_be_bytes(*generation),
            policy_key: policy_key.to_vec(),
            lockout: Key::from_bytes(Zeroizing::new(*lockout)),
            epochs: Arc::new(epochs),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn the_table_comes_back_whole_and_under_its_own_root_only() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::begin(folder.path()).unwrap();
        let (root, other) = (tree::random().unwrap(), tree::random().unwrap());
        let mut table = Table::first(4, vec![0, 11, 7]).unwrap();
        let keys = [3, 9, 5].map(|id| (id, tree::random().unwrap()));
        table.epochs = Arc::new(Epochs::fixed(keys.into()));
        table.write(&store, &root).unwrap();

        let read = Table::read(&store, &root).unwrap();
        assert_eq!((read.generation, &read.policy_key), (4, &table.policy_key));
        assert_eq!(read.lockout.expose(), table.lockout.expose());
        assert_eq!(read.epochs.ids().collect::<Vec<_>>(), [3, 5, 9]);
        for id in [3, 5, 9] {
            assert_eq!(read.epochs.by_id(id).unwrap().expose(), table.epochs.by_id(id).unwrap().expose());
        }
        assert!(matches!(Table::read(&store, &other), Err(Fault::StoreCorrupt { .. })));
    }

    #[test]
    fn no_key_of_the_table_stands_in_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::begin(folder.path()).unwrap();
        let table = Table::first(1, Vec::new()).unwrap();
        table.write(&store, &tree::random().unwrap()).unwrap();
        let file: Wrapped = store.read(FILE).unwrap().unwrap();
        for secret in [table.lockout.expose(), table.epochs.current().1.expose()] {
            assert!(!file.wrapped.windows(8).any(|octets| secret.windows(8).any(|part| part == octets)));
        }
    }
}
