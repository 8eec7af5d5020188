//! The recovery key: 24 words that open the vault without its TPM.
//!
//! Job: turn 256 random bits into words with a checksum and back, and wrap the root secret under them. Place: made at the
//! first start, shown once, asked back; entered to unlock. Invariants: words are never logged and have no `Debug`; after
//! they were shown only their wrapping remains; a word that is wrong or out of place is noticed by the checksum (BIP-39:
//! eight bits) or at last by the wrapping. A crash between taking the words and showing them loses them: the key is then
//! unconfirmed, which `postern keys status` says until a new one is made.

use crate::{
    fault::Fault,
    key::Key,
    store::{Store, octets},
    tree::{
        self, CryptoError, Root,
        secret::{DataPassphrase, Recovery, RecoveryUnseen, RecoveryWrap},
    },
};
use bip39::{Language, Mnemonic};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use zeroize::{Zeroize, Zeroizing};

const FILE: &str = "recovery.json";
const WORDS: usize = 24;
const LABEL_ROOT: &str = "postern/1/recovery/root";
const LABEL_UNSEEN: &str = "postern/1/recovery/unseen";

/// The words, to be shown to the operator. Zeroized on drop.
pub struct RecoveryKey {
    words: Mnemonic,
}

/// What is wrong with words that were entered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    /// Too few or too many.
    #[error("{found} words were entered; enter all {WORDS}, separated by spaces")]
    Count {
        /// How many.
        found: usize,
    },
    /// One is not in the list.
    #[error("word {position} is not in the list of words; check its spelling")]
    Unknown {
        /// Which, counted from 1.
        position: usize,
    },
    /// Each is in the list, but not together.
    #[error("the words do not fit together; check each word and their order")]
    Checksum,
}

impl RecoveryKey {
    /// The words in order, separated by spaces.
    #[must_use]
    pub fn phrase(&self) -> Zeroizing<String> {
        let mut phrase = Zeroizing::new(String::with_capacity(WORDS * 9));
        for word in self.words.words() {
            if !phrase.is_empty() {
                phrase.push(' ');
            }
            phrase.push_str(word);
        }
        phrase
    }

    fn of(key: &Key<Recovery>) -> Result<Self, CryptoError> {
        let words = Mnemonic::from_entropy_in(Language::English, key.expose()).map_err(|_| CryptoError)?;
        Ok(Self { words })
    }
}

/// The passphrase of the data partition that these words stand for: 64 hexadecimal digits. It opens no vault, and the
/// words can't be found from it.
///
/// # Errors
/// The words are not a recovery key's. Whether they are this machine's, the data partition says.
pub fn data_passphrase(words: &str) -> Result<Zeroizing<String>, WordsError> {
    let key = parse(words)?;
    let derived: Key<DataPassphrase> = tree::derive(&key).map_err(|CryptoError| WordsError::Checksum)?;
    let mut digits = Zeroizing::new(String::with_capacity(64));
    for byte in derived.expose() {
        // Writing to a String can't fail, and it has room.
        let _ = write!(digits, "{byte:02x}");
    }
    Ok(digits)
}

/// Reads entered words; capitals and any white space are as good.
fn parse(text: &str) -> Result<Key<Recovery>, WordsError> {
    let lower = Zeroizing::new(text.to_ascii_lowercase());
    let found = lower.split_whitespace().count();
    if found != WORDS {
        return Err(WordsError::Count { found });
    }
    let parsed = Mnemonic::parse_in_normalized(Language::English, &lower).map_err(|error| match error {
        bip39::Error::UnknownWord(index) => WordsError::Unknown { position: index + 1 },
        _ => WordsError::Checksum,
    })?;
    let (mut entropy, length) = parsed.to_entropy_array();
    let bytes = entropy.get(..length).and_then(|used| <&[u8; 32]>::try_from(used).ok());
    let key = bytes.map(|bytes| Key::from_bytes(Zeroizing::new(*bytes))).ok_or(WordsError::Count { found });
    entropy.zeroize();
    key
}

/// `recovery.json`
#[derive(Serialize, Deserialize)]
pub(crate) struct RecoveryFile {
    /// The root secret under the recovery key.
    #[serde(with = "octets")]
    root: Vec<u8>,
    /// Whether the words were asked back.
    pub(crate) confirmed: bool,
    /// The recovery key under the root secret, until it is shown; then empty.
    #[serde(with = "octets")]
    unseen: Vec<u8>,
}

impl RecoveryFile {
    /// A new recovery key for `root`, seen by nobody.
    pub(crate) fn generate(root: &Key<Root>) -> Result<Self, CryptoError> {
        let key: Key<Recovery> = tree::random()?;
        let over: Key<RecoveryWrap> = tree::derive(&key)?;
        let under: Key<RecoveryUnseen> = tree::derive(root)?;
        Ok(Self {
            root: tree::wrap(&over, LABEL_ROOT, root.expose())?,
            confirmed: false,
            unseen: tree::wrap(&under, LABEL_UNSEEN, key.expose())?,
        })
    }

    pub(crate) fn read(store: &Store) -> Result<Self, Fault> {
        let missing = || Fault::StoreCorrupt { path: store.path(FILE), detail: "it is missing".to_owned() };
        store.read(FILE)?.ok_or_else(missing)
    }

    pub(crate) fn write(&self, store: &Store) -> Result<(), Fault> {
        store.write(FILE, self)
    }

    /// Whether the words have been shown.
    pub(crate) fn shown(&self) -> bool {
        self.unseen.is_empty()
    }

    /// The words, once: durably forgotten before they are returned.
    pub(crate) fn show(&mut self, store: &Store, root: &Key<Root>) -> Result<Option<RecoveryKey>, Fault> {
        if self.shown() {
            return Ok(None);
        }
        let corrupt = |detail: &str| Fault::StoreCorrupt { path: store.path(FILE), detail: detail.to_owned() };
        let under: Key<RecoveryUnseen> = tree::derive(root).map_err(|error| corrupt(&error.to_string()))?;
        let key: Key<Recovery> = tree::unwrap_key(&under, LABEL_UNSEEN, &self.unseen)
            .ok_or_else(|| corrupt("the unseen recovery key is not wrapped under this root secret"))?;
        let words = RecoveryKey::of(&key).map_err(|error| corrupt(&error.to_string()))?;
        let unseen = std::mem::take(&mut self.unseen);
        if let Err(fault) = self.write(store) {
            self.unseen = unseen;
            return Err(fault);
        }
        Ok(Some(words))
    }

    /// The root secret, if these are the words; none if they are another key's.
    pub(crate) fn root(&self, words: &str) -> Result<Option<Key<Root>>, WordsError> {
        let key = parse(words)?;
        let Ok(over) = tree::derive::<RecoveryWrap, _>(&key) else { return Ok(None) };
        Ok(tree::unwrap_key(&over, LABEL_ROOT, &self.root))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> (tempfile::TempDir, Store, Key<Root>, String) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::begin(folder.path()).unwrap();
        let root = tree::random().unwrap();
        let mut file = RecoveryFile::generate(&root).unwrap();
        let phrase = file.show(&store, &root).unwrap().unwrap().phrase().to_string();
        (folder, store, root, phrase)
    }

    #[test]
    fn words_are_shown_once_and_give_the_root_back() {
        let (_folder, store, root, phrase) = fresh();
        assert_eq!(phrase.split(' ').count(), 24);
        let mut stored = RecoveryFile::read(&store).unwrap();
        assert!(stored.show(&store, &root).unwrap().is_none());
        let entered = format!("  {}\n", phrase.to_uppercase().replace(' ', " \t"));
        assert_eq!(stored.root(&entered).unwrap().unwrap().expose(), root.expose());
    }

    #[test]
    fn the_words_are_those_of_bip_39() {
        let key = Key::from_bytes(Zeroizing::new([0; 32]));
        let phrase = RecoveryKey::of(&key).unwrap().phrase();
        assert_eq!(*phrase, format!("{}art", "abandon ".repeat(23)));
    }

    #[test]
    fn wrong_words_are_told_apart() {
        let (_folder, store, _, phrase) = fresh();
        let stored = RecoveryFile::read(&store).unwrap();
        let mut words: Vec<&str> = phrase.split(' ').collect();
        let refused = |words: &[&str]| match stored.root(&words.join(" ")) {
            Err(error) => error,
            Ok(_) => panic!("refused"),
        };
        assert_eq!(refused(&words[..23]), WordsError::Count { found: 23 });
        let good = std::mem::replace(&mut words[6], "postern");
        assert_eq!(refused(&words), WordsError::Unknown { position: 7 });
        // Of the 2,048 words in one place one in 256 passes the checksum; those must fail at the wrapping.
        let mut passed = 0;
        for word in Language::English.word_list() {
            words[6] = word;
            match stored.root(&words.join(" ")) {
                Err(error) => assert_eq!(error, WordsError::Checksum),
                Ok(root) => {
                    assert_eq!(root.is_some(), *word == good);
                    passed += 1;
                }
            }
        }
        assert!((1..64).contains(&passed), "{passed} words pass the checksum");
    }

    /// Computed with an independent implementation (Python's `hmac`): extract with salt `postern/1`, expand once.
    #[test]
    fn the_data_partitions_passphrase_is_derived_with_its_own_label() {
        let words = format!("{}art", "abandon ".repeat(23));
        assert_eq!(
            *data_passphrase(&words).unwrap(),
            "ee121fb9f57485e70174080a7db94a64c69c9d3f9bb2f9421886e39c24e6b4f1"
        );
        assert_eq!(data_passphrase("abandon").unwrap_err(), WordsError::Count { found: 1 });
    }

    #[test]
    fn another_boxes_words_open_nothing() {
        let (_folder, store, ..) = fresh();
        let (_other_folder, _, _, others) = fresh();
        assert!(RecoveryFile::read(&store).unwrap().root(&others).unwrap().is_none());
    }
}
