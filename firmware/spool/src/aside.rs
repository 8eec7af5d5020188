//! The set-aside area.
//!
//! Job: keep a copy of what was found damaged, and list it. Place: recovery writes it, operators read it. Invariants:
//! the copy is as sealed as the original; the same damage is copied once. A crash leaves a copy whole or in part; the
//! next start copies it again.

use crate::{
    disk::{Disk, DiskFile, Folder},
    segment::{Segment, segment_name},
    slot::SLOT,
    view::{Damage, SetAside},
};
use std::io;

/// Most bytes that are copied of one damaged part.
const MOST: u32 = 4 << 20;

/// Copies a damaged part with its key slot; says whether it was new.
pub(crate) fn set_aside(
    disk: &dyn Disk,
    segment: &Segment,
    found: &SetAside,
    length: u32,
    slot: Option<u32>,
) -> io::Result<bool> {
    let name = name(found);
    let bytes = length.min(MOST).min(segment.length.saturating_sub(found.offset));
    let mut copy = vec![0; SLOT + bytes as usize];
    let (key, part) = copy.split_at_mut(SLOT);
    if let Some(slot) = slot.filter(|slot| *slot < segment.slots) {
        segment.file.read_at(segment.slot_offset(slot), key)?;
    }
    segment.file.read_at(u64::from(found.offset), part)?;
    let file = match disk.create(Folder::Aside, &name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let file = disk.open(Folder::Aside, &name)?;
            if file.length()? == copy.len() as u64 {
                return Ok(false);
            }
            file
        }
        Err(error) => return Err(error),
    };
    write(disk, file.as_ref(), &copy)?;
    Ok(true)
}

fn write(disk: &dyn Disk, file: &dyn DiskFile, bytes: &[u8]) -> io::Result<()> {
    file.write_at(0, bytes)?;
    file.sync()?;
    disk.sync_folder(Folder::Aside)
}

/// A segment whose header can't be read: nothing of it can be told apart, so all of it stays where it is.
pub(crate) fn unreadable(number: u32) -> SetAside {
    log::error!("{} has no readable header; it is left where it is, check the data disk", segment_name(number));
    SetAside { message: None, segment: number, offset: 0, damage: Damage::Record, acknowledged: true }
}

/// What lies in the area.
pub(crate) fn list(disk: &dyn Disk) -> io::Result<Vec<SetAside>> {
    let mut found: Vec<_> = disk.list(Folder::Aside)?.iter().filter_map(|name| parse(name)).collect();
    found.sort_by_key(|found| (found.segment, found.offset));
    Ok(found)
}

const DAMAGES: [(Damage, &str); 7] = [
    (Damage::Record, "record"),
    (Damage::KeySlot, "key-slot"),
    (Damage::RecordMissing, "record-missing"),
    (Damage::EpochMissing, "epoch-missing"),
    (Damage::Snapshot, "snapshot"),
    (Damage::Content, "content"),
    (Damage::FactLost, "fact-lost"),
];

fn name(found: &SetAside) -> String {
    let message = found.message.map_or_else(|| "unknown".to_owned(), |id| id.to_string());
    let damage = DAMAGES.iter().find(|(damage, _)| *damage == found.damage).map_or("record", |(_, word)| word);
    let certainty = if found.acknowledged { "acknowledged" } else { "unacknowledged" };
    format!("{message}.{}.{}.{damage}.{certainty}", found.segment, found.offset)
}

fn parse(name: &str) -> Option<SetAside> {
    let mut parts = name.split('.');
    let message = parts.next()?.parse().ok();
    let (segment, offset) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let word = parts.next()?;
    let (damage, _) = DAMAGES.into_iter().find(|(_, other)| *other == word)?;
    Some(SetAside { message, segment, offset, damage, acknowledged: parts.next()? == "acknowledged" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail::MessageId;

    #[test]
    fn the_name_of_a_copy_says_all_that_is_listed() {
        for (damage, _) in DAMAGES {
            for message in [None, Some(MessageId::from_bytes([5; 16]))] {
                let found = SetAside { message, segment: 7, offset: 4096, damage, acknowledged: message.is_some() };
                assert_eq!(parse(&name(&found)), Some(found));
            }
        }
        assert_eq!(parse("something else"), None);
    }
}
