//! What the last run left behind.
//!
//! Job: keep a trial's last words over the restart that it asks for, and find the message of a panic. Place: the words
//! lie in one sector of the plain partition, since a trial may end because the data partition does not open; a panic lies
//! in pstore, which is the firmware's memory. Invariants: both are text of somebody who may have gone mad: bounded, one
//! line, no control characters; each is taken once. A crash leaves the words to the next start; a torn sector reads as
//! none.

use crate::helper::{Place, paths::PLAIN as PARTITION};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
};

/// The sector of the plain partition: behind both copies of the plain area (`plain::area`), within what a factory reset
/// erases.
const SECTOR_AT: u64 = 768 * 1024;
const SECTOR: usize = 512;
const MAGIC: &[u8; 16] = b"POSTERN-WORDS-1\0";

/// The kernel's records of panics.
const PSTORE: &str = "/sys/fs/pstore";
/// Files of one panic; the kernel cuts it into pieces of a kilobyte.
const MOST_FILES: usize = 64;
/// Bytes of one of them.
const MOST_PIECE: u64 = 64 * 1024;
/// Characters of a panic that are told.
const MOST_PANIC: usize = 300;

/// Writes last words.
///
/// # Errors
/// There is no such partition, or it can't be written.
pub fn leave(words: &str, place: &Place) -> io::Result<()> {
    let words = line(words, SECTOR - MAGIC.len() - 2);
    let mut sector = MAGIC.to_vec();
    sector.extend_from_slice(&u16::try_from(words.len()).unwrap_or_default().to_be_bytes());
    sector.extend_from_slice(words.as_bytes());
    sector.resize(SECTOR, 0);
    let file = OpenOptions::new().write(true).open(place.at(PARTITION))?;
    file.write_all_at(&sector, SECTOR_AT)?;
    file.sync_all()
}

/// Takes the last words, if there are any.
pub fn take(place: &Place) -> Option<String> {
    let file = OpenOptions::new().read(true).write(true).open(place.at(PARTITION)).ok()?;
    let mut sector = [0; SECTOR];
    file.read_exact_at(&mut sector, SECTOR_AT).ok()?;
    let (length, rest) = sector.strip_prefix(MAGIC)?.split_first_chunk::<2>()?;
    let words = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
    let words = line(std::str::from_utf8(words).ok()?, SECTOR);
    if let Err(error) = file.write_all_at(&[0; SECTOR], SECTOR_AT).and_then(|()| file.sync_all()) {
        log::warn!(error:%; "the words of the run before can't be erased; they may be told again");
    }
    (!words.is_empty()).then_some(words)
}

/// Takes the message of the panic that ended a run before. The firmware's memory is small: all records are removed.
pub fn take_panic(place: &Place) -> Option<String> {
    let mut pieces: Vec<_> = fs::read_dir(place.at(PSTORE)).ok()?.flatten().map(|entry| entry.path()).collect();
    // The names end in the piece's number; the sort only makes the result the same every time.
    pieces.sort();
    let (mut cause, mut panic) = (None, None);
    for path in pieces.iter().take(MOST_FILES) {
        if let Some(log) = read_piece(path) {
            cause = cause.or_else(|| damage_in(&log));
            panic = panic.or_else(|| panic_in(&log));
        }
        if let Err(error) = fs::remove_file(path) {
            log::warn!(error:%, path = path.display().to_string(); "a record of a panic can't be removed");
        }
    }
    // Verity names the block before the panic names the device: the cause says more than the consequence.
    cause.or(panic)
}

/// Whether the run before ended in a panic, or one before that nobody has looked at.
#[must_use]
pub fn panicked(place: &Place) -> bool {
    fs::read_dir(place.at(PSTORE)).is_ok_and(|mut records| records.next().is_some())
}

fn read_piece(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MOST_PIECE).read_to_end(&mut bytes)).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The line of a kernel log that names a damaged block, without its `<3>[    1.234567] `.
fn damage_in(log: &str) -> Option<String> {
    let found = log.lines().find(|line| line.contains("verity") && line.contains("is corrupted"))?;
    Some(line(found.split_once("] ").map_or(found, |(_, text)| text), MOST_PANIC))
}

/// What a kernel log gives as the reason of a panic.
fn panic_in(log: &str) -> Option<String> {
    let why = log.lines().find_map(|line| line.split_once("Kernel panic - not syncing: ").map(|(_, why)| why))?;
    Some(line(why, MOST_PANIC)).filter(|why| !why.is_empty())
}

/// One line of at most `most` bytes, without control characters and without what would look like our second half.
fn line(text: &str, most: usize) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ").replace(';', ",");
    line.retain(|c| !c.is_control());
    let end = (0..=most.min(line.len())).rev().find(|&at| line.is_char_boundary(at)).unwrap_or(0);
    line.truncate(end);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, Place) {
        let root = tempfile::tempdir().unwrap();
        let place = Place::new(root.path());
        fs::create_dir_all(place.at("/dev/postern")).unwrap();
        fs::create_dir_all(place.at(PSTORE)).unwrap();
        fs::write(place.at(PARTITION), vec![0; 1 << 20]).unwrap();
        (root, place)
    }

    #[test]
    fn last_words_are_taken_once_and_touch_one_sector_only() {
        let (_root, place) = place();
        let mut all = vec![7; 1 << 20];
        fs::write(place.at(PARTITION), &all).unwrap();
        leave("judge: no worker starts;\nlook", &place).unwrap();
        assert_eq!(take(&place).as_deref(), Some("judge: no worker starts, look"));
        assert_eq!(take(&place), None);
        all[SECTOR_AT as usize..SECTOR_AT as usize + SECTOR].fill(0);
        assert_eq!(fs::read(place.at(PARTITION)).unwrap(), all);
    }

    #[test]
    fn words_of_any_length_fit_and_garbage_is_none() {
        let (_root, place) = place();
        leave(&"ü".repeat(1000), &place).unwrap();
        let told = take(&place).unwrap();
        assert!(told.len() > 400 && told.chars().all(|c| c == 'ü'), "{told}");
        for garbage in [&[0xff; 512][..], b"POSTERN-WORDS-1\0\xff\xffabc", b"POSTERN-WORDS-1\0\x00\x02\xff\xfe"] {
            File::options().write(true).open(place.at(PARTITION)).unwrap().write_all_at(garbage, SECTOR_AT).unwrap();
            assert_eq!(take(&place), None);
        }
        fs::remove_file(place.at(PARTITION)).unwrap();
        assert!(leave("x", &place).is_err() && take(&place).is_none());
    }

    #[test]
    fn a_panic_is_found_in_its_pieces_and_they_are_removed() {
        let (_root, place) = place();
        let piece = |name: &str, text: &str| fs::write(place.at(PSTORE).join(name), text).unwrap();
        piece(
            "dmesg-efi_pstore-176000000001001",
            "Panic#1 Part1\n<0>[   11.0] Kernel panic - not syncing: dm-verity device has I/O error\n",
        );
        piece(
            "dmesg-efi_pstore-176000000002001",
            "Panic#1 Part2\n<3>[   10.9] device-mapper: verity: 254:0: data block 42 is corrupted\n",
        );
        assert!(panicked(&place));
        let told = take_panic(&place).unwrap();
        assert!(!panicked(&place));
        assert_eq!(told, "device-mapper: verity: 254:0: data block 42 is corrupted");
        assert_eq!(take_panic(&place), None);
        piece(
            "dmesg-efi_pstore-1",
            "<4>[    1.0] fine\n<0>[    2.0] Kernel panic - not syncing: Attempted to kill init!\n",
        );
        assert_eq!(take_panic(&place).as_deref(), Some("Attempted to kill init!"));
        piece("dmesg-efi_pstore-1", "nothing of interest");
        assert_eq!(take_panic(&place), None);
    }
}
