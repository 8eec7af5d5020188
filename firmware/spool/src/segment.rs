//! Segment files: header page, key region, log.
//!
//! Job: make, activate, open and recycle the preallocated files that every fact is logged in. Place: below lanes, claims
//! and recovery. Invariants: a file has the name of a segment only when its header and its emptied key region are
//! durable; numbers grow and never return while any file of that number exists; a wholly finished segment leaves the
//! segments by rename before its bytes are used anew. A crash leaves spare files, which are used or removed, and
//! segments, which are read.
//!
//! Layout: 4096 bytes of header, the same 512 bytes at 0 and at 2048; `slots` key slots of 128 bytes; from `log` on, records at multiples of 64 bytes.

use crate::{
    disk::{Disk, DiskFile, Folder, is_medium_error, read_around},
    record::HEADER,
    seal,
    slot::{KeySlot, SLOT, Slot},
};
use std::{io, sync::Arc};

/// Bytes of the header page.
const PAGE: u32 = 4096;
/// Where the header stands. Two copies, apart by more than a flipped byte or a lost sector: without a header nothing
/// of a segment can be told apart.
const COPIES: [u64; 2] = [0, 2048];
/// One key slot for this many bytes of segment: small messages still fill the log before the slots run out.
const BYTES_PER_SLOT: u64 = 4096;

const MAGIC: [u8; 8] = *b"PSPOOL01";

/// Where a message's record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub segment: u32,
    /// Of the record's header.
    pub offset: u32,
    pub slot: u32,
    /// Bytes of the payload.
    pub length: u32,
}

/// An open segment file.
pub(crate) struct Segment {
    pub number: u32,
    pub lane: u8,
    /// Random; goes into the check sum of every record.
    pub id: [u8; 16],
    pub slots: u32,
    /// Offset of the log.
    pub log: u32,
    pub length: u32,
    pub file: Arc<dyn DiskFile>,
}

/// The name of segment `number`.
pub(crate) fn segment_name(number: u32) -> String {
    format!("segment-{number:010}")
}

/// The inverse of [`segment_name`].
pub(crate) fn segment_number(name: &str) -> Option<u32> {
    name.strip_prefix("segment-").filter(|digits| digits.len() == 10)?.parse().ok()
}

/// A preallocated file that is no segment yet.
pub(crate) struct Spare {
    pub name: String,
    pub length: u32,
    pub file: Arc<dyn DiskFile>,
    /// Whether it held a segment before, so that its key region has to be emptied.
    pub used: bool,
}

/// Whether `name` is a spare file's.
pub(crate) fn is_spare(name: &str) -> bool {
    name.starts_with("spare-")
}

fn spare_name() -> io::Result<String> {
    Ok(format!("spare-{:016x}", u64::from_le_bytes(seal::random()?)))
}

impl Spare {
    /// Makes and preallocates a spare file of `length` bytes; on failure nothing is left of it.
    pub fn make(disk: &dyn Disk, length: u32) -> io::Result<Self> {
        let name = spare_name()?;
        let file = disk.create(Folder::Segments, &name)?;
        let made = file
            .preallocate(u64::from(length))
            .and_then(|()| file.length())
            .and_then(|now| if now == u64::from(length) { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) });
        if let Err(error) = made {
            drop(file);
            // The file is worthless; where even this fails, the next start removes it.
            let _ = disk.unlink(Folder::Segments, &name);
            return Err(error);
        }
        Ok(Self { name, length, file, used: false })
    }

    /// Takes a finished segment out of the segments. Its shredded key slots are durable already.
    pub fn recycle(disk: &dyn Disk, segment: &Segment) -> io::Result<Self> {
        let name = spare_name()?;
        disk.rename(Folder::Segments, &segment_name(segment.number), &name)?;
        disk.sync_folder(Folder::Segments)?;
        Ok(Self { name, length: segment.length, file: Arc::clone(&segment.file), used: true })
    }

    /// Makes it segment `number` of `lane`. Header and emptied key region are durable before the name is.
    pub fn activate(self, disk: &dyn Disk, number: u32, lane: u8) -> io::Result<Segment> {
        let slots = u32::try_from(u64::from(self.length) / BYTES_PER_SLOT).unwrap_or(u32::MAX);
        let log = PAGE + (slots * SLOT as u32).next_multiple_of(PAGE);
        let segment = Segment { number, lane, id: seal::random()?, slots, log, length: self.length, file: self.file };
        if self.used {
            segment.file.write_at(u64::from(PAGE), &vec![0; (log - PAGE) as usize])?;
        }
        for copy in COPIES {
            segment.file.write_at(copy, &segment.page())?;
        }
        segment.file.sync()?;
        disk.rename(Folder::Segments, &self.name, &segment_name(number))?;
        disk.sync_folder(Folder::Segments)?;
        Ok(segment)
    }
}

/// Why a file with a segment's name is not a segment.
#[derive(Debug)]
pub(crate) enum SegmentError {
    Disk(io::Error),
    /// Neither copy of the header can be read.
    Header,
}

impl From<io::Error> for SegmentError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl Segment {
    fn page(&self) -> [u8; 512] {
        let mut page = [0; 512];
        page[..8].copy_from_slice(&MAGIC);
        page[8..12].copy_from_slice(&self.number.to_le_bytes());
        page[12] = self.lane;
        page[16..20].copy_from_slice(&self.slots.to_le_bytes());
        page[20..24].copy_from_slice(&self.log.to_le_bytes());
        page[24..40].copy_from_slice(&self.id);
        let sum = crc32fast::hash(&page[..40]);
        page[40..44].copy_from_slice(&sum.to_le_bytes());
        page
    }

    /// Opens the file of segment `number` by the first copy of the header that is good.
    pub fn open(disk: &dyn Disk, number: u32) -> Result<Self, SegmentError> {
        let file = disk.open(Folder::Segments, &segment_name(number))?;
        let length = u32::try_from(file.length()?).map_err(|_| SegmentError::Header)?;
        if length < PAGE {
            return Err(SegmentError::Header);
        }
        for copy in COPIES {
            let mut page = [0; 512];
            match file.read_at(copy, &mut page) {
                Ok(()) => {}
                Err(error) if is_medium_error(&error) => continue,
                Err(error) => return Err(error.into()),
            }
            if let Some(segment) = Self::parse(&page, number, length, &file) {
                if copy != COPIES[0] {
                    segment.renew_header();
                }
                return Ok(segment);
            }
        }
        Err(SegmentError::Header)
    }

    fn parse(page: &[u8; 512], number: u32, length: u32, file: &Arc<dyn DiskFile>) -> Option<Self> {
        let word = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&page[at..at + 4]);
            u32::from_le_bytes(word)
        };
        let mut id = [0; 16];
        id.copy_from_slice(&page[24..40]);
        let segment =
            Self { number, lane: page[12], id, slots: word(16), log: word(20), length, file: Arc::clone(file) };
        let fits = u64::from(segment.slots) * SLOT as u64 + u64::from(PAGE) <= u64::from(segment.log);
        let good = segment.page() == *page
            && segment.lane <= 1
            && fits
            && segment.log.is_multiple_of(HEADER as u32)
            && segment.log <= length;
        good.then_some(segment)
    }

    /// Writes the first copy of the header anew from the second. Nothing depends on it but the next damage.
    fn renew_header(&self) {
        let renewed = self.file.write_at(COPIES[0], &self.page()).and_then(|()| self.file.sync());
        match renewed {
            Ok(()) => log::warn!("{} had a damaged header, renewed from its copy", segment_name(self.number)),
            Err(error) => {
                log::warn!(
                    "{} has a damaged header, read from its copy, not renewed: {error}",
                    segment_name(self.number)
                );
            }
        }
    }

    /// Offset of a slot.
    pub fn slot_offset(&self, slot: u32) -> u64 {
        u64::from(PAGE) + u64::from(slot) * SLOT as u64
    }

    /// Reads one slot.
    pub fn read_slot(&self, slot: u32) -> io::Result<Slot> {
        if slot >= self.slots {
            return Ok(Slot::Damaged);
        }
        let mut bytes = [0; SLOT];
        self.file.read_at(self.slot_offset(slot), &mut bytes)?;
        Ok(Slot::decode(&bytes))
    }

    /// Reads all slots; those that the disk has lost are damaged.
    pub fn read_slots(&self) -> io::Result<Vec<Slot>> {
        let mut bytes = vec![0; self.slots as usize * SLOT];
        read_around(self.file.as_ref(), u64::from(PAGE), &mut bytes)?;
        Ok(bytes.as_chunks::<SLOT>().0.iter().map(Slot::decode).collect())
    }

    /// Overwrites a key. Durable with the next sync.
    pub fn shred(&self, slot: u32) -> io::Result<()> {
        if slot >= self.slots {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.file.write_at(self.slot_offset(slot), &Slot::SHREDDED)
    }

    /// Room for records.
    pub fn log_room(&self) -> u32 {
        self.length - self.log
    }
}

/// Writes consecutive slots, from `first` on.
pub(crate) fn write_slots(segment: &Segment, first: u32, slots: &[KeySlot]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(slots.len() * SLOT);
    for slot in slots {
        bytes.extend_from_slice(&slot.encode());
    }
    segment.file.write_at(segment.slot_offset(first), &bytes)
}
