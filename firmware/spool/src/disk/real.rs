//! The file system.
//!
//! Job: the [`Disk`] of an appliance. Place: below the spool, above the kernel. Invariants: one process has a spool at
//! a time (an advisory lock on the file `lock`); folders are private to their user. A crash leaves what the kernel had
//! synced; the lock goes with the process.

use super::{Disk, DiskFile, Folder};
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// A folder of the file system.
pub struct RealDisk {
    root: PathBuf,
    _lock: Flock<File>,
}

impl RealDisk {
    /// Opens the spool's folder, making it and its three folders where they are missing.
    ///
    /// # Errors
    /// The system's; `ResourceBusy` where another process has the spool.
    pub fn open(root: &Path) -> io::Result<Self> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        for folder in Folder::ALL {
            builder.create(root.join(folder.name()))?;
        }
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(root.join("lock"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => io::Error::from(io::ErrorKind::ResourceBusy),
            other => io::Error::from(other),
        })?;
        File::open(root)?.sync_all()?;
        Ok(Self { root: root.to_owned(), _lock: lock })
    }

    fn path(&self, folder: Folder, name: &str) -> PathBuf {
        self.root.join(folder.name()).join(name)
    }
}

impl Disk for RealDisk {
    fn create(&self, folder: Folder, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        Ok(Arc::new(RealFile(options.open(self.path(folder, name))?)))
    }

    fn open(&self, folder: Folder, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile(OpenOptions::new().read(true).write(true).open(self.path(folder, name))?)))
    }

    fn rename(&self, folder: Folder, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(folder, from), self.path(folder, to))
    }

    fn unlink(&self, folder: Folder, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(folder, name))
    }

    fn sync_folder(&self, folder: Folder) -> io::Result<()> {
        File::open(self.root.join(folder.name()))?.sync_all()
    }

    fn list(&self, folder: Folder) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.root.join(folder.name()))? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn free(&self) -> io::Result<u64> {
        let stat = nix::sys::statvfs::statvfs(&self.root)?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    /// Blocks are reserved first, so that a full disk is noticed before anything is written; then zeros are written,
    /// because the first write to a reserved but never written block changes metadata, which `fdatasync` would have
    /// to wait for.
    fn preallocate(&self, length: u64) -> io::Result<()> {
        let length_off = i64::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        match fallocate(&self.0, FallocateFlags::empty(), 0, length_off) {
            Ok(()) | Err(nix::errno::Errno::EOPNOTSUPP) => {}
            Err(errno) => return Err(errno.into()),
        }
        let zeros = vec![0; 1 << 20];
        let mut at = 0;
        while at < length {
            let piece = zeros.len().min(usize::try_from(length - at).unwrap_or(usize::MAX));
            self.0.write_all_at(zeros.get(..piece).unwrap_or(&zeros), at)?;
            at += piece as u64;
        }
        self.0.sync_all()
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }
}
