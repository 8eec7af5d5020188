//! The plain area as a partition of its own.
//!
//! Job: keep a [`Plain`] in two copies ([`super::copies`]) on a raw partition. Place: under the helper, for root alone
//! writes partitions. Invariants: what can't be read counts as empty when it is written. A crash leaves the copy of
//! before.
//!
//! ```text
//! the plain partition, in KiB:
//!   0    plain area, first copy       512  plain area, second copy
//!   256  record of starts, first      768  a trial's last words (helper::update::words)
//!                                     896  record of starts, second (helper::starts)
//! ```

use super::{
    MAX_LISTENERS, Plain,
    copies::{COPY, Copies},
};
use crate::helper::{ErrorKind, HelperError, Place, paths::PLAIN as PARTITION};
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

const COPIES: Copies = Copies { magic: b"POSTERN-PLAIN-1\0", at: [0, SIZE / 2] };
/// Octets of the partition.
const SIZE: u64 = 1024 * 1024;

/// What the area on `place` holds; none where it is empty.
///
/// # Errors
/// There is no such partition, it can't be read, or neither copy is ours.
pub fn read(place: &Place) -> Result<Option<Plain>, HelperError> {
    let file = File::open(place.at(PARTITION)).map_err(|error| failed("opened", &error))?;
    let current = COPIES.load(&file).map_err(|error| failed("read", &error))?;
    current.map(|octets| content(&octets)).transpose()
}

/// Changes what the area on `place` holds. What can't be read counts as empty: it is written anew.
///
/// # Errors
/// There is no such partition, or it can't be written; it holds what it held.
pub fn change(place: &Place, change: impl FnOnce(&mut Plain)) -> Result<(), HelperError> {
    let file = OpenOptions::new().read(true).write(true).open(place.at(PARTITION));
    let file = file.map_err(|error| failed("opened", &error))?;
    let file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| failed("locked", &error.into()))?;
    let now = COPIES.load(&file).map_err(|error| failed("read", &error))?;
    let stored = now.and_then(|octets| content(&octets).ok());
    let mut plain = stored.clone().unwrap_or_else(Plain::unknown);
    change(&mut plain);
    if plain.listen.len() > MAX_LISTENERS {
        let what = format!("{} listeners are more than the plain area holds", plain.listen.len());
        return Err(HelperError::new(ErrorKind::Refused, what, format!("keep at most {MAX_LISTENERS}")));
    }
    if stored.as_ref() == Some(&plain) {
        return Ok(());
    }
    let text = serde_json::to_vec(&plain).map_err(|error| failed("written", &error.into()))?;
    COPIES.store(&file, &text).map_err(|error| failed("written", &error))
}

/// Overwrites the area on `place` with zeros.
///
/// # Errors
/// There is no such partition, or it can't be written.
pub fn erase(place: &Place) -> Result<(), HelperError> {
    let file = OpenOptions::new().write(true).open(place.at(PARTITION)).map_err(|error| failed("opened", &error))?;
    let zeros = [0; COPY];
    let all = (0..SIZE).step_by(COPY).try_for_each(|offset| file.write_all_at(&zeros, offset));
    all.and_then(|()| file.sync_all()).map_err(|error| failed("erased", &error))
}

fn content(octets: &[u8]) -> Result<Plain, HelperError> {
    Plain::parse(octets).ok_or_else(|| {
        HelperError::failed(
            "the plain area was not written by Postern",
            "set the network at the console and apply the settings again, which writes it anew",
        )
    })
}

fn failed(how: &str, error: &io::Error) -> HelperError {
    let shown = Path::new(PARTITION).display();
    HelperError::failed(
        format!("the plain area {shown} can't be {how}: {error}"),
        "check the disk; install the image again if the partition is missing",
    )
}

#[cfg(test)]
mod tests {
    use super::{super::copies::SECTOR, *};
    use std::fs;
    use tempfile::TempDir;

    fn area() -> (TempDir, Place) {
        let root = tempfile::tempdir().unwrap();
        let place = Place::new(root.path());
        fs::create_dir_all(place.at("/dev/postern")).unwrap();
        fs::write(place.at(PARTITION), vec![0; SIZE as usize]).unwrap();
        (root, place)
    }

    fn plain(host: &str) -> Plain {
        Plain { host: host.parse().unwrap(), listen: vec!["192.0.2.10:25".parse().unwrap()], network: None }
    }

    fn set(place: &Place, host: &str) {
        change(place, |now| *now = plain(host)).unwrap();
    }

    #[test]
    fn it_holds_what_was_stored_last_and_nothing_at_first() {
        let (_root, place) = area();
        assert_eq!(read(&place).unwrap(), None);
        for host in ["a.example", "b.example", "c.example", "a.example"] {
            set(&place, host);
            assert_eq!(read(&place).unwrap(), Some(plain(host)));
        }
        change(&place, |now| now.network = Some("dhcp".parse().map(addressing).unwrap())).unwrap();
        assert_eq!(read(&place).unwrap().unwrap().host, plain("a.example").host, "the rest is kept");
    }

    fn addressing(address: settings::OwnAddress) -> settings::Addressing {
        settings::Addressing { address, gateway: None, dns: Vec::new(), ntp: Vec::new() }
    }

    #[test]
    fn a_write_torn_at_any_sector_in_any_order_leaves_the_copy_before() {
        let (_root, place) = area();
        set(&place, "a.example");
        set(&place, "b.example");
        let before = fs::read(place.at(PARTITION)).unwrap();
        // Longer than a sector, so that header and content can be torn apart.
        let listen: Vec<std::net::SocketAddr> = (0..100).map(|port| ([192, 0, 2, 10], 2500 + port).into()).collect();
        change(&place, |now| now.listen = listen.clone()).unwrap_err();
        let listen = listen[..super::super::MAX_LISTENERS].to_vec();
        change(&place, |now| *now = Plain { listen: listen.clone(), ..plain(&format!("{}.example", "c".repeat(60))) })
            .unwrap();
        let after = fs::read(place.at(PARTITION)).unwrap();
        let changed: Vec<usize> = (0..before.len() / SECTOR)
            .filter(|n| before[n * SECTOR..][..SECTOR] != after[n * SECTOR..][..SECTOR])
            .collect();
        assert!(changed.len() >= 2, "{changed:?}");
        let torn = 1_u32 << changed.len();
        for written in 0..torn - 1 {
            let mut disk = before.clone();
            for (bit, sector) in changed.iter().enumerate().filter(|(bit, _)| written & (1 << bit) != 0) {
                let _ = bit;
                disk[sector * SECTOR..][..SECTOR].copy_from_slice(&after[sector * SECTOR..][..SECTOR]);
            }
            fs::write(place.at(PARTITION), &disk).unwrap();
            assert_eq!(read(&place).unwrap(), Some(plain("b.example")), "sectors {written:b} of {changed:?}");
            // And the next write succeeds over what was torn.
            set(&place, "d.example");
            assert_eq!(read(&place).unwrap(), Some(plain("d.example")));
        }
        fs::write(place.at(PARTITION), &after).unwrap();
        assert_eq!(read(&place).unwrap().unwrap().listen, listen);
    }

    #[test]
    fn every_flipped_bit_of_the_newer_copy_brings_the_older_one_back() {
        let (_root, place) = area();
        set(&place, "a.example");
        set(&place, "b.example");
        let good = fs::read(place.at(PARTITION)).unwrap();
        let newer = usize::try_from(SIZE / 2).unwrap();
        let length = SECTOR + serde_json::to_vec(&plain("b.example")).unwrap().len();
        for bit in 0..length * 8 {
            let mut octets = good[newer..newer + COPY].to_vec();
            octets[bit / 8] ^= 1 << (bit % 8);
            assert!(COPIES.parse(&octets).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn a_good_digest_over_strange_content_is_refused_and_can_be_written_over() {
        let (_root, place) = area();
        for strange in [&b"{}"[..], b"", b"[]", br#"{"host":"a\nb","listen":[]}"#, &[b' '; COPY - SECTOR]] {
            let file = OpenOptions::new().write(true).open(place.at(PARTITION)).unwrap();
            COPIES.write(&file, 0, 99, strange).unwrap();
            let error = read(&place).unwrap_err();
            assert!(error.what.contains("not written by Postern"), "{error}");
            set(&place, "a.example");
            assert_eq!(read(&place).unwrap(), Some(plain("a.example")));
            erase(&place).unwrap();
        }
    }

    #[test]
    fn erased_is_empty_and_no_octet_remains() {
        let (_root, place) = area();
        set(&place, "a.example");
        set(&place, "b.example");
        erase(&place).unwrap();
        assert_eq!(read(&place).unwrap(), None);
        assert!(fs::read(place.at(PARTITION)).unwrap().iter().all(|octet| *octet == 0));
    }

    #[test]
    fn a_copy_with_the_highest_sequence_number_does_not_freeze_the_area() {
        let (_root, place) = area();
        let file = OpenOptions::new().write(true).open(place.at(PARTITION)).unwrap();
        for index in [0, 1] {
            COPIES.write(&file, index, u64::MAX, &serde_json::to_vec(&plain("planted.example")).unwrap()).unwrap();
        }
        for host in ["a.example", "b.example", "c.example"] {
            set(&place, host);
            assert_eq!(read(&place).unwrap(), Some(plain(host)));
        }
    }

    #[test]
    fn a_box_without_the_partition_says_so() {
        let root = tempfile::tempdir().unwrap();
        assert!(read(&Place::new(root.path())).unwrap_err().what.contains("can't be opened"));
    }
}
