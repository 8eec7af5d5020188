//! Root's files.
//!
//! Job: write and read what root leaves for others. Place: under everything of the helper that keeps a file. Invariants:
//! the last part of a path is never followed as a link, whoever may write its folder; what is replaced is replaced whole;
//! what is read is bounded. A crash leaves the file of before or of after, and perhaps one that ends in `.new`, which the
//! next writer removes.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Nothing that is opened here is a link, and nothing waits for another end.
const PLAIN_FILE: i32 = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;

/// Writes a file that every service may read, whole or not at all, and makes its folder.
///
/// # Errors
/// The folder or the file can't be written.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = path.with_extension("new");
    remove(&new)?;
    // Made anew, so that nothing of that name is followed or shared.
    let mut file = File::create_new(&new)?;
    file.write_all(content)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    fs::rename(&new, path)
}

/// Opens a file for writing, and makes it for root alone where it is missing.
///
/// # Errors
/// It can't be opened, or is a link.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).custom_flags(PLAIN_FILE).open(path)
}

/// Makes an empty file, or empties the one that is there.
///
/// # Errors
/// It can't be opened, or is a link.
pub fn empty(path: &Path) -> io::Result<File> {
    let file = open(path)?;
    file.set_len(0)?;
    Ok(file)
}

/// Opens a file for reading.
///
/// # Errors
/// It can't be opened, or is no regular file.
pub fn open_to_read(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(PLAIN_FILE).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no file")) }
}

/// Reads a file of at most `most` bytes.
///
/// # Errors
/// It can't be read, is no regular file, or is longer.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open_to_read(path)?.take(most.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than it can be"));
    }
    Ok(content)
}

/// Removes a file, if it is there.
///
/// # Errors
/// It is there and stays.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_leads_nobody_to_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let (victim, link) = (folder.path().join("victim"), folder.path().join("link"));
        fs::write(&victim, "kept").unwrap();
        symlink(&victim, &link).unwrap();
        assert!(open(&link).is_err() && empty(&link).is_err() && read(&link, 100).is_err());
        // The name that a replacement is prepared under, too.
        symlink(&victim, folder.path().join("other.new")).unwrap();
        replace(&folder.path().join("other"), b"new").unwrap();
        replace(&link, b"new").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
        assert!(link.symlink_metadata().unwrap().is_file());
    }

    #[test]
    fn what_is_longer_or_no_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert_eq!(read(&path, 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(read(folder.path(), 100).is_err());
        assert_eq!(empty(&path).unwrap().metadata().unwrap().len(), 0);
    }
}
