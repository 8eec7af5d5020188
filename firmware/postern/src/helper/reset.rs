//! Factory reset.
//!
//! Job: make the box as new. Place: asked by an operator, or by whoever stands before the console. Invariants: keys go
//! first, then what they opened; every step is taken whatever the one before came to, and the reset counts as done only
//! where the key slots are overwritten. A crash leaves a data partition that does not open: a reset can be asked for
//! again, and ends what was begun.
//!
//! The TPM is cleared by the daemon before, since it alone has the authorisation; where it could not, the firmware is
//! asked to at the next start, if it does so without a question to somebody who may not be there.

use super::{HelperError, disk::disk_of, paths::DATA as PARTITION, place::Place, power, program::Program};
use crate::plain::area;
use std::{
    fs::{self, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    time::Duration,
};

/// LUKS2 keeps at most 16 MiB of header and key slots before the data; twice that is nothing but ciphertext.
const HEADER: u64 = 32 * 1024 * 1024;
/// Telling a large disk that it is empty.
const DISCARD: Duration = Duration::from_secs(60);

/// Destroys all keys on the disk and starts anew.
pub fn factory_reset(tpm_cleared: bool, place: &Place) -> Result<(), HelperError> {
    log::warn!(event = "factory_reset"; "the box is made as new");
    let partition = place.at(PARTITION);
    let name = partition.to_string_lossy();
    let step = |what: &str, done: Result<(), HelperError>| {
        done.inspect_err(|error| log::error!(event = "factory_reset", error:%; "{what}"))
    };
    if !tpm_cleared {
        let _ = step("the TPM is not cleared by the firmware", ask_firmware(place));
    }
    let plain = step("the plain area remains", area::erase(place));
    let erase = Program::new("cryptsetup", &["luksErase", "--batch-mode", &name]);
    let _ = step("the key slots are left to be overwritten", erase.succeed(place).map(drop));
    let header = step("the key slots remain", overwrite(place));
    // In use as it is: with its keys gone, nobody reads from it any more.
    let discard = Program::new("blkdiscard", &["--force", &name]).within(DISCARD);
    let _ = step("the ciphertext remains on the disk", discard.succeed(place).map(drop));
    header.and(plain)?;
    let _ = step("the partition remains", remove(place));
    power::reboot(place)
}

/// Zeros over both copies of header and key slots.
fn overwrite(place: &Place) -> Result<(), HelperError> {
    let zeros = vec![0; 1 << 20];
    if !place.at(PARTITION).exists() {
        return Ok(());
    }
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(place.at(PARTITION))?;
        let length = file.seek(SeekFrom::End(0))?.min(HEADER);
        file.seek(SeekFrom::Start(0))?;
        let mut left = length;
        while left > 0 {
            let part = usize::try_from(left).map_or(zeros.len(), |left| left.min(zeros.len()));
            file.write_all(zeros.get(..part).unwrap_or(&zeros))?;
            left -= part as u64;
        }
        file.sync_all()
    };
    write().map_err(|error| {
        HelperError::failed(
            format!("the key slots of the data partition can't be overwritten: {error}"),
            "try again; if it comes back, take the disk out and destroy it",
        )
    })
}

/// Takes the partition out of the table, so that the next start makes a new one.
fn remove(place: &Place) -> Result<(), HelperError> {
    let (disk, number) = disk_of(PARTITION, place)?;
    let arguments = ["--quiet", "--force", "--no-reread", "--no-tell-kernel", "--delete", &disk, &number];
    Program::new("sfdisk", &arguments).succeed(place).map(drop)
}

/// Physical presence interface, operation 5, "clear" (TCG PC Client Platform Physical Presence Interface, §2.1.2).
fn ask_firmware(place: &Place) -> Result<(), HelperError> {
    let folder = place.at("/sys/class/tpm/tpm0/ppi");
    let unable = |what: String| HelperError::failed(what, "clear the TPM in the firmware's setup");
    let operations = fs::read_to_string(folder.join("tcg_operations"))
        .map_err(|error| unable(format!("the firmware takes no request for the TPM: {error}")))?;
    if !operations.lines().any(|line| line.starts_with("5 4:")) {
        return Err(unable("the firmware clears the TPM only after a question at its screen".to_owned()));
    }
    fs::write(folder.join("request"), "5").map_err(|error| unable(format!("the firmware refuses: {error}")))
}
