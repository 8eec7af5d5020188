//! The record of the last update, `update.json`.
//!
//! Job: keep an [`Update`] over restarts. Place: on the data partition; written by root alone, read by the daemon too.
//! Invariants: written whole or not at all, and durable before anything is done that it announces; what can't be read
//! counts as no record, since an update must be possible on a box whose record is damaged. A crash leaves the record of
//! before or of after.

use crate::helper::{HelperError, Place, files};
use operator::update::Update;
use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

/// Where it stands.
pub const FILE: &str = "/data/update/update.json";

/// A record has some hundred bytes; more is not ours.
const MOST: u64 = 16 * 1024;

/// The record at `path`; `None` where there is none that can be read.
#[must_use]
pub fn read(path: &Path) -> Option<Update> {
    let text = files::read(path, MOST).ok()?;
    let parsed = serde_json::from_slice(&text);
    if let Err(error) = &parsed {
        log::warn!(error:%; "the record of the last update can't be read and counts as none");
    }
    parsed.ok()
}

/// The record on `place`.
#[must_use]
pub fn load(place: &Place) -> Option<Update> {
    read(&place.at(FILE))
}

/// Replaces the record.
///
/// # Errors
/// The disk would not take it; the one before stands.
pub fn store(update: &Update, place: &Place) -> Result<(), HelperError> {
    write(update, &place.at(FILE)).map_err(|error| {
        HelperError::failed(
            format!("the record of the update can't be written: {error}"),
            "check the data partition and its free space",
        )
    })
}

fn write(update: &Update, path: &Path) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(folder)?;
    let new = path.with_extension("new");
    // Made anew, so that nothing of that name is followed or shared.
    files::remove(&new)?;
    let mut file = File::create_new(&new)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(&serde_json::to_vec_pretty(update)?)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}
