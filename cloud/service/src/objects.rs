//! The object store: sealed segments of messages, one folder a message.
//!
//! Job: write, read and remove objects, durably. Place: between ingest and the folder `DATA/objects`; another
//! `object_store` backend may stand in its place. Invariants: [`Writing::finish`] returns after content, name and
//! folders are on stable storage; only sealed bytes come here. A crash leaves staged files or folders that no row
//! knows: [`Objects::sweep`] removes them at start, before anything new is written.

use crate::Error;
use bytes::Bytes;
use futures_util::StreamExt;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, local::LocalFileSystem, path::Path as ObjectPath};
use std::{
    collections::HashSet,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Bytes handed to the store at once.
const PART: usize = 1024 * 1024;

/// The store.
#[derive(Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    root: PathBuf,
}

impl Objects {
    /// Opens `DATA/objects`, made if absent.
    ///
    /// # Errors
    /// The folder can't be made or synced.
    pub fn open(data: &Path) -> Result<Self, Error> {
        let root = data.join("objects");
        fs::create_dir_all(&root).and_then(|()| fs::File::open(data)?.sync_all()).map_err(Error::file(&root))?;
        let store = LocalFileSystem::new_with_prefix(&root)?.with_fsync(true);
        Ok(Self { store: Arc::new(store), root })
    }

    /// Begins an object; nothing is visible before it is finished.
    pub async fn write(&self, place: &str, segment: usize) -> Result<Writing, Error> {
        let upload = self.store.put_multipart(&object(place, segment)).await?;
        Ok(Writing { upload, held: Vec::with_capacity(PART) })
    }

    /// Reads a part of an object.
    pub async fn read(&self, place: &str, segment: usize, range: Range<u64>) -> Result<Bytes, Error> {
        Ok(self.store.get_range(&object(place, segment), range).await?)
    }

    /// Removes all objects of a message. What is missing already is no error.
    pub async fn remove(&self, place: &str) -> Result<(), Error> {
        let folder = ObjectPath::from(place);
        let mut listed = self.store.list(Some(&folder));
        while let Some(entry) = listed.next().await {
            match self.store.delete(&entry?.location).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        match fs::remove_dir(self.root.join(place)) {
            Err(e) if !matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::DirectoryNotEmpty) => {
                Err(Error::file(self.root.join(place))(e))
            }
            _ => Ok(()),
        }
    }

    /// Removes what no row knows: folders other than `known` (place and number of segments), segments beyond the number,
    /// and files that a broken write left staged. Returns how many entries went.
    ///
    /// # Errors
    /// A folder can't be read, or an entry not removed.
    pub fn sweep(&self, known: &HashSet<(String, usize)>) -> Result<usize, Error> {
        let segments: std::collections::HashMap<_, _> = known.iter().map(|(p, n)| (p.as_str(), *n)).collect();
        let mut removed = 0;
        for entry in fs::read_dir(&self.root).map_err(Error::file(&self.root))? {
            let path = entry.map_err(Error::file(&self.root))?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            match segments.get(name) {
                None if path.is_dir() => {
                    fs::remove_dir_all(&path).map_err(Error::file(&path))?;
                    removed += 1;
                }
                None => {
                    fs::remove_file(&path).map_err(Error::file(&path))?;
                    removed += 1;
                }
                Some(count) => {
                    for file in fs::read_dir(&path).map_err(Error::file(&path))? {
                        let file = file.map_err(Error::file(&path))?.path();
                        let number = file.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<usize>().ok());
                        if number.is_none_or(|n| n >= *count) {
                            fs::remove_file(&file).map_err(Error::file(&file))?;
                            removed += 1;
                        }
                    }
                }
            }
        }
        Ok(removed)
    }
}

fn object(place: &str, segment: usize) -> ObjectPath {
    ObjectPath::from(format!("{place}/{segment}"))
}

/// An object that is being written. Dropped unfinished, it leaves at most a staged file.
pub struct Writing {
    upload: Box<dyn MultipartUpload>,
    held: Vec<u8>,
}

impl Writing {
    /// Takes all of `bytes` and leaves it empty.
    pub async fn append(&mut self, bytes: &mut Vec<u8>) -> Result<(), Error> {
        self.held.append(bytes);
        if self.held.len() >= PART { self.flush().await } else { Ok(()) }
    }

    /// Makes the object visible and durable.
    pub async fn finish(mut self) -> Result<(), Error> {
        self.flush().await?;
        self.upload.complete().await?;
        Ok(())
    }

    /// Gives the object up.
    pub async fn abort(mut self) -> Result<(), Error> {
        Ok(self.upload.abort().await?)
    }

    async fn flush(&mut self) -> Result<(), Error> {
        if !self.held.is_empty() {
            let part = std::mem::replace(&mut self.held, Vec::with_capacity(PART));
            self.upload.put_part(part.into()).await?;
        }
        Ok(())
    }
}
