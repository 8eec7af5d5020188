//! The files of the key store.
//!
//! Job: read and replace small files whole. Place: below `vault`; the folder is on the data partition. Invariants: a file
//! is replaced by write to `*.new`, fsync, rename, fsync of the folder, so that it is either the old or the new one; a
//! first line with the SHA-256 of the rest tells damage from content (whoever changes a file on purpose can change that
//! line too: what must not be forged is sealed or wrapped besides). A first start is built in `store.new` and renamed
//! whole. A crash leaves `*.new` behind, which is never read and removed by the next start.

use crate::fault::Fault;
use aws_lc_rs::digest::{SHA256, digest};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// What the first line begins with; the number is the version of the format.
const MAGIC: &str = "postern-vault 1 ";
/// No file of the store is near this size; a longer one is not read into memory.
const LONGEST: u64 = 1 << 20;
/// Ending of a file or folder that is not whole yet.
const UNFINISHED: &str = "new";

/// A folder with key files.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    folder: PathBuf,
}

/// Where the store stands.
pub(crate) enum Found {
    /// A store that was completed once.
    Store(Store),
    /// None.
    Nothing,
}

impl Store {
    /// Looks for the store in `folder`, and removes what a crash left unfinished.
    pub(crate) fn find(folder: &Path) -> Result<Found, Fault> {
        let store = Self { folder: folder.join("store") };
        let beside = Self::unfinished(folder);
        match fs::remove_dir_all(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unreadable(&beside, &error)),
            _ => {}
        }
        match fs::read_dir(&store.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
            Err(error) => Err(unreadable(&store.folder, &error)),
            Ok(entries) => {
                for entry in entries {
                    let path = entry.map_err(|error| unreadable(&store.folder, &error))?.path();
                    if path.extension().is_some_and(|ending| ending == UNFINISHED) {
                        fs::remove_file(&path).map_err(|error| unreadable(&path, &error))?;
                    }
                }
                Ok(Found::Store(store))
            }
        }
    }

    /// An empty store that [`Store::complete`] puts into place.
    pub(crate) fn begin(folder: &Path) -> Result<Self, Fault> {
        let beside = Self::unfinished(folder);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&beside);
        made.map_err(|error| unreadable(&beside, &error))?;
        Ok(Self { folder: beside })
    }

    /// Puts a begun store into place: from here on it exists.
    pub(crate) fn complete(self, folder: &Path) -> Result<Self, Fault> {
        let store = Self { folder: folder.join("store") };
        let renamed = fs::rename(&self.folder, &store.folder)
            .and_then(|()| sync_folder(folder))
            .and_then(|()| folder.parent().filter(|above| !above.as_os_str().is_empty()).map_or(Ok(()), sync_folder));
        renamed.map_err(|error| unreadable(&store.folder, &error))?;
        Ok(store)
    }

    fn unfinished(folder: &Path) -> PathBuf {
        folder.join("store.new")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The document in file `name`; none where there is no such file.
    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Fault> {
        let path = self.path(name);
        let Some(text) = self.read_text(name)? else { return Ok(None) };
        let corrupt = |detail: &str| Fault::StoreCorrupt { path: path.clone(), detail: detail.to_owned() };
        let (first, body) = text.split_once('\n').ok_or_else(|| corrupt("it is cut off"))?;
        let expected = first.strip_prefix(MAGIC).ok_or_else(|| corrupt("it is of no known version"))?;
        if expected != hex(digest(&SHA256, body.as_bytes()).as_ref()) {
            return Err(corrupt("its checksum is wrong"));
        }
        serde_json::from_str(body).map(Some).map_err(|_| corrupt("its fields are not those of this version"))
    }

    /// The text of file `name`; none where there is no such file.
    pub(crate) fn read_text(&self, name: &str) -> Result<Option<String>, Fault> {
        let path = self.path(name);
        let read = fs::metadata(&path).and_then(|file| {
            if file.len() > LONGEST { Err(io::ErrorKind::FileTooLarge.into()) } else { fs::read(&path) }
        });
        match read {
            Ok(bytes) => String::from_utf8(bytes)
                .map(Some)
                .map_err(|_| Fault::StoreCorrupt { path, detail: "it is no text".to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(&path, &error)),
        }
    }

    /// Replaces file `name` by `document`; when this returns, it is on stable storage.
    pub(crate) fn write<T: Serialize>(&self, name: &str, document: &T) -> Result<(), Fault> {
        let body = serde_json::to_string_pretty(document)
            .map_err(|error| Fault::StoreUnreadable { path: self.path(name), detail: error.to_string() })?;
        self.write_text(name, &format!("{MAGIC}{}\n{body}", hex(digest(&SHA256, body.as_bytes()).as_ref())))
    }

    /// As [`Store::write`], for a file in a format of its own.
    pub(crate) fn write_text(&self, name: &str, text: &str) -> Result<(), Fault> {
        let path = self.path(name);
        let beside = self.path(&format!("{name}.{UNFINISHED}"));
        let written = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside);
        written
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&beside, &path))
            .and_then(|()| sync_folder(&self.folder))
            .map_err(|error| unreadable(&path, &error))
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

fn unreadable(path: &Path, error: &io::Error) -> Fault {
    Fault::StoreUnreadable { path: path.to_owned(), detail: error.to_string() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Octets in a document, as lower-case hexadecimal.
pub(crate) mod octets {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::hex(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        parse(&String::deserialize(deserializer)?).ok_or_else(|| D::Error::custom("no hexadecimal octets"))
    }

    /// The octets that `text` writes down in hexadecimal.
    pub(crate) fn parse(text: &str) -> Option<Vec<u8>> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let octet = |pair: &[u8; 2]| u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok();
        if rest.is_empty() { pairs.iter().map(octet).collect() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(folder: &Path) -> Store {
        Store::begin(folder).unwrap().complete(folder).unwrap()
    }

    #[test]
    fn a_file_that_a_crash_left_half_written_is_neither_read_nor_kept() {
        let folder = tempfile::tempdir().unwrap();
        let written = store(folder.path());
        written.write("root.json", &1).unwrap();
        fs::write(written.path("root.json.new"), b"postern-vau").unwrap();
        let Found::Store(found) = Store::find(folder.path()).unwrap() else { panic!("the store is there") };
        assert_eq!(found.read::<u32>("root.json").unwrap(), Some(1));
        assert!(!found.path("root.json.new").exists());
    }

    #[test]
    fn a_first_start_that_a_crash_broke_off_leaves_no_store() {
        let folder = tempfile::tempdir().unwrap();
        Store::begin(folder.path()).unwrap().write("root.json", &1).unwrap();
        assert!(matches!(Store::find(folder.path()).unwrap(), Found::Nothing));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_damage_never_another_value() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        store.write("root.json", &"sealed").unwrap();
        let whole = fs::read(store.path("root.json")).unwrap();
        let damaged = (0..whole.len() * 8).map(|bit| {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            flipped
        });
        for bytes in damaged.chain((0..whole.len()).map(|length| whole[..length].to_vec())) {
            fs::write(store.path("root.json"), &bytes).unwrap();
            let read = store.read::<String>("root.json");
            assert!(matches!(read, Err(Fault::StoreCorrupt { .. })), "{read:?} from {bytes:?}");
        }
    }

    #[test]
    fn files_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        store.write("root.json", &1).unwrap();
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(store.path("root.json")), mode(folder.path().join("store"))), (0o600, 0o700));
    }
}
