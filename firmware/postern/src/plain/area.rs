//! The plain area as a partition of its own.
//!
//! Job: keep a [`Plain`] in two copies on a raw partition. Place: under the helper, for root alone writes partitions.
//! Invariants: a copy counts only where its digest holds over header and content; the newer of two good copies counts; a
//! write goes to the other copy than the one that counts, and is synced before it is reported. A crash, also a torn
//! write, leaves the copy of before.
//!
//! ```text
//! copy at 0 and at half of the area:
//!   0   magic "POSTERN-PLAIN-1\0"   16 octets
//!   16  sequence number, u64 BE
//!   24  length of the content, u32 BE
//!   28  SHA-256 over octets 0 to 27 and the content
//!   60  zeros to 512
//!   512 content: JSON, at most 15.5 KiB
//! ```

use super::{MAX_LISTENERS, Plain};
use crate::helper::{ErrorKind, HelperError, Place, paths::PLAIN as PARTITION};
use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

const MAGIC: &[u8; 16] = b"POSTERN-PLAIN-1\0";
/// Where the digest stands, and what it covers of the header.
const DIGEST: usize = 28;
/// What a disk writes as one.
const SECTOR: usize = 512;
/// Octets of one copy.
const COPY: usize = 16 * 1024;
/// Where the second copy begins: half of the partition, so that nothing local reaches both.
const SECOND: u64 = 512 * 1024;
/// Octets of the area.
const SIZE: u64 = 2 * SECOND;

/// What the area on `place` holds; none where it is empty.
///
/// # Errors
/// There is no such partition, it can't be read, or neither copy is ours.
pub fn read(place: &Place) -> Result<Option<Plain>, HelperError> {
    let file = File::open(place.at(PARTITION)).map_err(|error| failed("opened", &error))?;
    let current = current(&file).map_err(|error| failed("read", &error))?;
    current.map(|copy| content(&copy.content)).transpose()
}

/// Changes what the area on `place` holds. What can't be read counts as empty: it is written anew.
///
/// # Errors
/// There is no such partition, or it can't be written; it holds what it held.
pub fn change(place: &Place, change: impl FnOnce(&mut Plain)) -> Result<(), HelperError> {
    let file = OpenOptions::new().read(true).write(true).open(place.at(PARTITION));
    let file = file.map_err(|error| failed("opened", &error))?;
    let file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| failed("locked", &error.into()))?;
    let now = current(&file).map_err(|error| failed("read", &error))?;
    let stored = now.as_ref().and_then(|copy| content(&copy.content).ok());
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
    let (offset, sequence) = now.map_or((0, 1), |copy| (SECOND - copy.offset, copy.sequence.saturating_add(1)));
    store(&file, offset, sequence, &text).map_err(|error| failed("written", &error))
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

/// A copy whose digest holds.
struct Copy {
    offset: u64,
    sequence: u64,
    content: Vec<u8>,
}

/// The copy that counts.
fn current(file: &File) -> io::Result<Option<Copy>> {
    let copies = [copy(file, 0)?, copy(file, SECOND)?];
    Ok(copies.into_iter().flatten().max_by_key(|copy| copy.sequence))
}

fn copy(file: &File, offset: u64) -> io::Result<Option<Copy>> {
    let mut octets = vec![0; COPY];
    match file.read_exact_at(&mut octets, offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    Ok(parse(&octets).map(|(sequence, content)| Copy { offset, sequence, content: content.to_vec() }))
}

fn parse(octets: &[u8]) -> Option<(u64, &[u8])> {
    let (header, content) = octets.split_at_checked(SECTOR)?;
    let rest = header.strip_prefix(MAGIC)?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (stored, rest) = rest.split_first_chunk::<SHA256_OUTPUT_LEN>()?;
    let content = content.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let good = digest(header.get(..DIGEST)?, content) == *stored && rest.iter().all(|octet| *octet == 0);
    good.then(|| (u64::from_be_bytes(*sequence), content))
}

fn digest(header: &[u8], content: &[u8]) -> [u8; SHA256_OUTPUT_LEN] {
    let mut digest = Context::new(&SHA256);
    digest.update(header);
    digest.update(content);
    let mut octets = [0; SHA256_OUTPUT_LEN];
    octets.copy_from_slice(digest.finish().as_ref());
    octets
}

/// Header and content of one copy, in whole sectors.
fn format(sequence: u64, content: &[u8]) -> io::Result<Vec<u8>> {
    let too_long = || io::Error::new(io::ErrorKind::FileTooLarge, "there are too many listeners or servers");
    let length = u32::try_from(content.len()).ok().filter(|_| content.len() <= COPY - SECTOR).ok_or_else(too_long)?;
    let mut octets = [&MAGIC[..], &sequence.to_be_bytes(), &length.to_be_bytes()].concat();
    let digest = digest(&octets, content);
    octets.extend_from_slice(&digest);
    octets.resize(SECTOR, 0);
    octets.extend_from_slice(content);
    octets.resize(octets.len().next_multiple_of(SECTOR), 0);
    Ok(octets)
}

/// One write and one sync: the digest tells a torn copy, so their order within it does not matter.
fn store(file: &File, offset: u64, sequence: u64, content: &[u8]) -> io::Result<()> {
    file.write_all_at(&format(sequence, content)?, offset)?;
    file.sync_all()
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
    use super::*;
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
        let newer = usize::try_from(SECOND).unwrap();
        let length = SECTOR + serde_json::to_vec(&plain("b.example")).unwrap().len();
        for bit in 0..length * 8 {
            let mut octets = good[newer..newer + COPY].to_vec();
            octets[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&octets).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn a_good_digest_over_strange_content_is_refused_and_can_be_written_over() {
        let (_root, place) = area();
        for strange in [&b"{}"[..], b"", b"[]", br#"{"host":"a\nb","listen":[]}"#, &[b' '; COPY - SECTOR]] {
            let file = OpenOptions::new().write(true).open(place.at(PARTITION)).unwrap();
            store(&file, 0, 99, strange).unwrap();
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
    fn a_box_without_the_partition_says_so() {
        let root = tempfile::tempdir().unwrap();
        assert!(read(&Place::new(root.path())).unwrap_err().what.contains("can't be opened"));
    }
}
