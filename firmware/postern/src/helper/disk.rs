//! The disk that the box runs from.
//!
//! Job: find the disk behind a partition, and refuse a machine with two disks of ours. Place: early in `prepare`; under
//! boot entries and the factory reset. Invariants: a disk is ours by the GUID of its partition table; with two of them
//! nobody can say whose partitions a name leads to, so nothing is opened or written on either. A crash leaves nothing
//! behind: this reads.

use super::{HelperError, place::Place};
use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

/// DISK_GUID of board/common/disk.env as the table holds it: its first three fields little-endian (UEFI 2.10, appendix
/// A).
const GUID: [u8; 16] = [0x54, 0x53, 0x4f, 0x50, 0x52, 0x45, 0x00, 0x4e, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00];
/// What a partition table begins with (UEFI 2.10 §5.3.2); it stands in the disk's second block.
const SIGNATURE: &[u8; 8] = b"EFI PART";
/// Where the disk's GUID stands in it.
const GUID_AT: u64 = 56;
/// Sizes that a disk's blocks can have.
const BLOCKS: [u64; 2] = [512, 4096];

/// The disk that a partition is on, and its number there.
///
/// # Errors
/// There is no such partition.
pub fn disk_of(partition: &str, place: &Place) -> Result<(String, String), HelperError> {
    let missing = |error: io::Error| {
        HelperError::failed(
            format!("{partition} can't be found: {error}"),
            "check the disk, and install the image again",
        )
    };
    let device = fs::canonicalize(place.at(partition)).map_err(missing)?;
    let name = device.file_name().unwrap_or_default();
    let block = fs::canonicalize(place.at("/sys/class/block").join(name)).map_err(missing)?;
    let number = fs::read_to_string(block.join("partition")).map_err(missing)?.trim().to_owned();
    let disk = block.parent().and_then(|disk| disk.file_name()).unwrap_or_default().to_string_lossy().into_owned();
    Ok((format!("/dev/{disk}"), number))
}

/// Sees to it that there are not two disks of ours.
///
/// # Errors
/// There are.
pub fn only_one(place: &Place) -> Result<(), HelperError> {
    let names = fs::read_dir(place.at("/sys/block")).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut ours: Vec<String> = names
        .map(|name| format!("/dev/{}", name.to_string_lossy()))
        .filter(|device| is_ours(&place.at(device)).unwrap_or(false))
        .collect();
    ours.sort();
    if ours.len() < 2 {
        return Ok(());
    }
    Err(HelperError::failed(
        format!(
            "there are two Postern disks in this machine, {}, and the box can't tell which is its own",
            ours.join(" and ")
        ),
        "take the one out that does not belong here (an installation stick?) and start again",
    ))
}

fn is_ours(device: &Path) -> io::Result<bool> {
    // A drive without a disk in it must not be waited for.
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(device)?;
    for block in BLOCKS {
        let (mut signature, mut guid) = ([0; SIGNATURE.len()], [0; GUID.len()]);
        if file.read_exact_at(&mut signature, block).is_ok()
            && signature == *SIGNATURE
            && file.read_exact_at(&mut guid, block + GUID_AT).is_ok()
        {
            return Ok(guid == GUID);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guid_is_the_one_that_disks_are_made_with() {
        let written = include_str!("../../../../board/common/disk.env");
        let guid = written.lines().find_map(|line| line.strip_prefix("DISK_GUID=")).unwrap().replace('-', "");
        let digits = |range: std::ops::Range<usize>| {
            range.step_by(2).map(|at| u8::from_str_radix(&guid[at..at + 2], 16).unwrap()).collect::<Vec<u8>>()
        };
        let little = |range| digits(range).into_iter().rev();
        let table: Vec<u8> = little(0..8).chain(little(8..12)).chain(little(12..16)).chain(digits(16..32)).collect();
        assert_eq!(table, GUID);
    }

    #[test]
    fn two_disks_of_ours_are_refused_by_name_and_others_do_not_matter() {
        let root = tempfile::tempdir().unwrap();
        let place = Place::new(root.path());
        let disk = |name: &str, block: usize, guid: &[u8; 16]| {
            fs::create_dir_all(place.at("/sys/block").join(name)).unwrap();
            fs::create_dir_all(place.at("/dev")).unwrap();
            let mut table = vec![0; block + 512];
            table[block..block + 8].copy_from_slice(SIGNATURE);
            table[block + 56..block + 72].copy_from_slice(guid);
            fs::write(place.at("/dev").join(name), table).unwrap();
        };
        only_one(&place).unwrap();
        disk("nvme0n1", 4096, &GUID);
        disk("sda", 512, &[7; 16]);
        fs::create_dir_all(place.at("/sys/block/sr0")).unwrap();
        only_one(&place).unwrap();
        disk("sdb", 512, &GUID);
        let error = only_one(&place).unwrap_err();
        assert!(error.what.contains("/dev/nvme0n1 and /dev/sdb"), "{error}");
    }
}
