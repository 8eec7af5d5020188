//! A record in two copies on a raw partition.
//!
//! Job: keep a few kilobytes where there is no file system. Place: under the plain area ([`super::area`]) and the record
//! of starts (`helper::starts`), each with places of its own on the plain partition. Invariants: a copy counts only where
//! its digest holds over header and content; the newer of two good copies counts; a write goes to the other copy than the
//! one that counts, and is synced before it is reported. A crash, also a torn write, leaves the copy of before.
//!
//! ```text
//! each copy:
//!   0   magic                       16 octets
//!   16  sequence number, u64 BE
//!   24  length of the content, u32 BE
//!   28  SHA-256 over octets 0 to 27 and the content
//!   60  zeros to 512
//!   512 content, at most 15.5 KiB
//! ```
//!
//! Sequence numbers go round (RFC 1982): whoever holds the disk can write any of them, and no number may be the last.

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use std::{fs::File, io, os::unix::fs::FileExt};

/// Where the digest stands, and what it covers of the header.
const DIGEST: usize = 28;
/// What a disk writes as one.
pub const SECTOR: usize = 512;
/// Octets of one copy.
pub const COPY: usize = 16 * 1024;

/// What tells these copies from others, and where both are.
#[derive(Debug)]
pub struct Copies {
    /// The first octets of each.
    pub magic: &'static [u8; 16],
    /// Where they begin: far apart, so that nothing local reaches both.
    pub at: [u64; 2],
}

/// A copy whose digest holds.
struct Copy {
    index: usize,
    sequence: u64,
    content: Vec<u8>,
}

impl Copies {
    /// The content that counts; none where there is no good copy.
    ///
    /// # Errors
    /// The partition can't be read.
    pub fn load(&self, file: &File) -> io::Result<Option<Vec<u8>>> {
        Ok(self.current(file)?.map(|copy| copy.content))
    }

    /// Writes `content` over the copy that does not count. One write and one sync: the digest tells a torn copy, so their
    /// order within it does not matter.
    ///
    /// # Errors
    /// The content is too long, or the partition can't be read or written.
    pub fn store(&self, file: &File, content: &[u8]) -> io::Result<()> {
        let (index, sequence) =
            self.current(file)?.map_or((0, 1), |copy| (1 - copy.index, copy.sequence.wrapping_add(1)));
        self.write(file, index, sequence, content)
    }

    pub(super) fn write(&self, file: &File, index: usize, sequence: u64, content: &[u8]) -> io::Result<()> {
        let offset = if index == 0 { self.at[0] } else { self.at[1] };
        file.write_all_at(&self.format(sequence, content)?, offset)?;
        file.sync_all()
    }

    fn current(&self, file: &File) -> io::Result<Option<Copy>> {
        let copies = [self.copy(file, 0, self.at[0])?, self.copy(file, 1, self.at[1])?];
        Ok(match copies {
            [Some(first), Some(second)] if is_newer(second.sequence, first.sequence) => Some(second),
            [Some(first), _] => Some(first),
            [None, second] => second,
        })
    }

    fn copy(&self, file: &File, index: usize, offset: u64) -> io::Result<Option<Copy>> {
        let mut octets = vec![0; COPY];
        match file.read_exact_at(&mut octets, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        Ok(self.parse(&octets).map(|(sequence, content)| Copy { index, sequence, content: content.to_vec() }))
    }

    pub(super) fn parse<'a>(&self, octets: &'a [u8]) -> Option<(u64, &'a [u8])> {
        let (header, content) = octets.split_at_checked(SECTOR)?;
        let rest = header.strip_prefix(self.magic)?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (stored, rest) = rest.split_first_chunk::<SHA256_OUTPUT_LEN>()?;
        let content = content.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        let good = digest(header.get(..DIGEST)?, content) == *stored && rest.iter().all(|octet| *octet == 0);
        good.then(|| (u64::from_be_bytes(*sequence), content))
    }

    /// Header and content of one copy, in whole sectors.
    fn format(&self, sequence: u64, content: &[u8]) -> io::Result<Vec<u8>> {
        let too_long =
            || io::Error::new(io::ErrorKind::FileTooLarge, "there is more to keep than the plain area holds");
        let length = u32::try_from(content.len()).ok().filter(|_| content.len() <= COPY - SECTOR);
        let length = length.ok_or_else(too_long)?;
        let mut octets = [&self.magic[..], &sequence.to_be_bytes(), &length.to_be_bytes()].concat();
        let digest = digest(&octets, content);
        octets.extend_from_slice(&digest);
        octets.resize(SECTOR, 0);
        octets.extend_from_slice(content);
        octets.resize(octets.len().next_multiple_of(SECTOR), 0);
        Ok(octets)
    }
}

/// Whether `a` comes after `b` on the circle of numbers.
fn is_newer(a: u64, b: u64) -> bool {
    let ahead = a.wrapping_sub(b);
    ahead != 0 && ahead < 1 << 63
}

fn digest(header: &[u8], content: &[u8]) -> [u8; SHA256_OUTPUT_LEN] {
    let mut digest = Context::new(&SHA256);
    digest.update(header);
    digest.update(content);
    let mut octets = [0; SHA256_OUTPUT_LEN];
    octets.copy_from_slice(digest.finish().as_ref());
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    const COPIES: Copies = Copies { magic: b"POSTERN-TEST-1\0\0", at: [0, 64 * 1024] };

    #[test]
    fn no_sequence_number_is_the_last() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        for (first, second) in
            [(u64::MAX, None), (u64::MAX, Some(u64::MAX)), (5, Some(5 + (1 << 63))), (0, Some(1 << 63)), (3, Some(2))]
        {
            COPIES.write(&file, 0, first, b"planted").unwrap();
            if let Some(second) = second {
                COPIES.write(&file, 1, second, b"planted too").unwrap();
            }
            for round in 0..4_u8 {
                COPIES.store(&file, &[round]).unwrap();
                assert_eq!(COPIES.load(&file).unwrap(), Some(vec![round]), "after {first} and {second:?}");
            }
        }
    }

    #[test]
    fn copies_of_another_kind_are_none() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        COPIES.store(&file, b"x").unwrap();
        let other = Copies { magic: b"POSTERN-OTHER-1\0", ..COPIES };
        assert_eq!(other.load(&file).unwrap(), None);
        assert!(COPIES.store(&file, &[0; COPY]).is_err());
        assert_eq!(COPIES.load(&file).unwrap().as_deref(), Some(&b"x"[..]));
    }
}
