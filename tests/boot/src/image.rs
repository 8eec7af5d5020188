//! The image under test.
//!
//! Job: name the files of an assembled image. Place: before the machine. Invariants: images are read only; a machine writes
//! to its own overlay. A crash leaves nothing.

use serde_json::Value;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// An assembled image, as `postern-image assemble` leaves it, with the keys that it was signed with.
#[derive(Clone, Debug)]
pub struct Image {
    folder: PathBuf,
}

impl Image {
    /// The image in `POSTERN_IMAGE`, or the surrogate that `make boot-image` builds.
    ///
    /// # Errors
    /// It isn't there.
    pub fn from_environment() -> io::Result<Self> {
        let folder = match std::env::var_os("POSTERN_IMAGE") {
            Some(folder) => PathBuf::from(folder),
            None => Self::surrogate_folder(),
        };
        Self::open(&folder)
    }

    /// The image in `folder`.
    ///
    /// # Errors
    /// It isn't there.
    pub fn open(folder: &Path) -> io::Result<Self> {
        if !folder.join("disk.img").is_file() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("there is no disk.img in {}; run `make boot-image`, or set POSTERN_IMAGE", folder.display()),
            ));
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// Where `make boot-image` puts the surrogate.
    #[must_use]
    pub fn surrogate_folder() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/boot/surrogate")
    }

    /// The version after this one, in the folder `next` beside it.
    ///
    /// # Errors
    /// It isn't there.
    pub fn successor(&self) -> io::Result<Self> {
        Self::open(&self.folder.canonicalize()?.with_file_name("next"))
    }

    /// A file of the image.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What the assembly says of itself: sizes, hashes, predicted PCR values.
    ///
    /// # Errors
    /// `image.json` is missing or not JSON.
    pub fn facts(&self) -> io::Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.file("image.json"))?)?)
    }
}
