//! The epoch keys that wrap the message keys of the spool.
//!
//! Job: say which epoch seals now, and find the key of any epoch that still has messages. Place: made when the key
//! store opens, handed to the spool. Invariants: an epoch's id never names two keys; the set is never empty; the
//! current epoch is the one with the highest id. A crash leaves nothing: the durable table is the key store's.

use crate::key::{Key, purpose::SpoolEpoch};
use std::{collections::BTreeMap, sync::Arc};

/// The epoch keys that are open in memory. Has no way to print or copy key bytes.
#[derive(Debug)]
pub struct Epochs {
    current: (u32, Arc<Key<SpoolEpoch>>),
    earlier: BTreeMap<u32, Arc<Key<SpoolEpoch>>>,
}

impl Epochs {
    /// The set of exactly these (id, key) pairs; the highest id is current. Of two keys with one id the last counts.
    ///
    /// # Panics
    /// Where `keys` is empty: whoever calls this writes the list down.
    #[must_use]
    pub fn fixed(keys: Vec<(u32, Key<SpoolEpoch>)>) -> Self {
        match Self::of(keys) {
            Some(epochs) => epochs,
            None => unreachable!("a set of epochs has at least one key"),
        }
    }

    /// The set of these pairs, or nothing where there is none.
    pub(crate) fn of(keys: Vec<(u32, Key<SpoolEpoch>)>) -> Option<Self> {
        let mut earlier: BTreeMap<_, _> = keys.into_iter().map(|(id, key)| (id, Arc::new(key))).collect();
        let current = earlier.pop_last()?;
        Some(Self { current, earlier })
    }

    /// The epoch that seals now: its id, and its key.
    #[must_use]
    pub fn current(&self) -> (u32, Arc<Key<SpoolEpoch>>) {
        (self.current.0, Arc::clone(&self.current.1))
    }

    /// The key of epoch `id`, as long as the table still has it.
    #[must_use]
    pub fn by_id(&self, id: u32) -> Option<Arc<Key<SpoolEpoch>>> {
        if id == self.current.0 { Some(Arc::clone(&self.current.1)) } else { self.earlier.get(&id).map(Arc::clone) }
    }

    /// The ids of all epochs, oldest first.
    pub fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.earlier.keys().copied().chain([self.current.0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    fn key(byte: u8) -> Key<SpoolEpoch> {
        Key::from_bytes(Zeroizing::new([byte; 32]))
    }

    #[test]
    fn the_highest_id_is_current_and_the_rest_is_found() {
        let epochs = Epochs::fixed(vec![(7, key(7)), (3, key(3))]);
        assert_eq!((epochs.current().0, epochs.current().1.expose()[0]), (7, 7));
        assert_eq!(epochs.by_id(3).unwrap().expose(), &[3; 32]);
        assert_eq!(epochs.by_id(7).unwrap().expose(), &[7; 32]);
        assert!(epochs.by_id(4).is_none());
        assert_eq!(epochs.ids().collect::<Vec<_>>(), [3, 7]);
    }
}
