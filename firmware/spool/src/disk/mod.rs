//! The disk as the spool sees it.
//!
//! Job: name the few calls that durability rests on, so that a simulated disk can stand in for them and cut the power
//! after any of them. Place: below segments and spill files; `queue.db` is SQLite's own and not behind this trait.
//! Invariants: what a call promises about durability is said here and nowhere assumed beyond that. A crash leaves what
//! was synced, and any part of what was not.

mod real;
mod simulated;

pub use real::RealDisk;
pub use simulated::{Cut, SimulatedDisk};

use std::{io, sync::Arc};

/// A folder of the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Folder {
    /// Segment files and spare ones.
    Segments,
    /// One file for each body that is too large for memory.
    Spill,
    /// Copies of damaged parts.
    Aside,
}

impl Folder {
    /// All of them.
    pub const ALL: [Folder; 3] = [Folder::Segments, Folder::Spill, Folder::Aside];

    /// Its name on the disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Segments => "segments",
            Self::Spill => "spill",
            Self::Aside => "aside",
        }
    }
}

/// The calls on names. All paths are a folder and a file name without slashes.
pub trait Disk: Send + Sync + 'static {
    /// Makes a file that must not exist. The name is durable after [`Disk::sync_folder`].
    ///
    /// # Errors
    /// The system's.
    fn create(&self, folder: Folder, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file that must exist.
    ///
    /// # Errors
    /// The system's.
    fn open(&self, folder: Folder, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames within a folder, replacing what has the new name. Durable after [`Disk::sync_folder`]; a crash before
    /// leaves one of the two names, never neither.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, folder: Folder, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name. Durable after [`Disk::sync_folder`].
    ///
    /// # Errors
    /// The system's.
    fn unlink(&self, folder: Folder, name: &str) -> io::Result<()>;

    /// Makes all names of the folder durable.
    ///
    /// # Errors
    /// The system's.
    fn sync_folder(&self, folder: Folder) -> io::Result<()>;

    /// The names in a folder, in no order.
    ///
    /// # Errors
    /// The system's.
    fn list(&self, folder: Folder) -> io::Result<Vec<String>>;

    /// Free bytes that this process may use.
    ///
    /// # Errors
    /// The system's.
    fn free(&self) -> io::Result<u64>;
}

/// The calls on an open file.
pub trait DiskFile: Send + Sync + 'static {
    /// Gives the file `length` bytes of zeros that a later write at the same place needs no metadata for, so that
    /// [`DiskFile::sync`] has only data to write.
    ///
    /// # Errors
    /// The system's; `StorageFull` where there is no room.
    fn preallocate(&self, length: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`. Durable after [`DiskFile::sync`]; a crash before leaves any subset of the
    /// 512-byte sectors.
    ///
    /// # Errors
    /// The system's; part of the bytes may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Fills `bytes` from `offset`.
    ///
    /// # Errors
    /// The system's; `UnexpectedEof` where the file is shorter.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// `fdatasync`: all that was written before is durable. After an error nothing may be assumed of any byte written
    /// since the last success, and calling again proves nothing.
    ///
    /// # Errors
    /// The system's.
    fn sync(&self) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// The system's.
    fn length(&self) -> io::Result<u64>;

    /// Cuts the file off; durable after [`DiskFile::sync`].
    ///
    /// # Errors
    /// The system's.
    fn truncate(&self, length: u64) -> io::Result<()>;
}

/// What the smallest piece that is read around may hold.
const SECTOR: usize = 512;

/// Stands for bytes that the disk does not give back: neither a record nor an empty key slot begins like this, so what
/// lay there counts as damaged.
const UNREADABLE: u8 = 0xff;

/// Whether a read failed because the disk has lost those bytes, and not because it could not be asked.
pub(crate) fn is_medium_error(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let number = error.raw_os_error().map(Errno::from_raw);
    matches!(number, Some(Errno::EIO | Errno::EBADMSG | Errno::ENODATA | Errno::EILSEQ))
}

/// Fills `bytes` from `offset`; what the disk has lost is filled with bytes that are nothing. Says whether all was read.
///
/// # Errors
/// Those of [`DiskFile::read_at`] that are not about the medium.
pub(crate) fn read_around(file: &dyn DiskFile, offset: u64, bytes: &mut [u8]) -> io::Result<bool> {
    match file.read_at(offset, bytes) {
        Ok(()) => Ok(true),
        Err(error) if !is_medium_error(&error) => Err(error),
        Err(_) => {
            // Halves, so that a few lost sectors of a large piece cost few further reads of a disk that is slow to
            // give up; cut where sectors begin.
            let within = usize::try_from(offset % SECTOR as u64).unwrap_or(0);
            let sectors = (within + bytes.len()).div_ceil(SECTOR);
            if sectors <= 1 {
                bytes.fill(UNREADABLE);
                return Ok(false);
            }
            let (left, right) = bytes.split_at_mut((sectors / 2 * SECTOR).saturating_sub(within));
            let behind = offset + left.len() as u64;
            let left = read_around(file, offset, left)?;
            Ok(read_around(file, behind, right)? && left)
        }
    }
}
