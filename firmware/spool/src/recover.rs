//! The start.
//!
//! Job: find out what the disk holds and bring queue and index to it. Place: before anything is accepted or delivered.
//! Invariants: a key slot decides whether a message is live; the index is believed only where the slots agree with it;
//! what is damaged is copied, named, and holds up nothing else. A crash here leaves a disk that the next start reads the
//! same way: nothing is removed but what no message needs.

use crate::{
    Config, Keys, OpenError, aside,
    disk::{Disk, Folder},
    index::{Index, Opened, Requests},
    lane::Closed,
    queue::Position,
    record::HEADER,
    replay::{Replay, Replayed, Span},
    segment::{Segment, SegmentError, Spare, is_spare, segment_number},
    shared::Shared,
    slot::Slot,
    view::{Damage, IndexFound, Recovery, SetAside},
};
use mail::MessageId;
use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, atomic::Ordering},
};

/// What the threads start from.
pub(crate) struct Recovered {
    pub shared: Arc<Shared>,
    pub index: Index,
    /// Segments of former runs, by lane.
    pub closed: [Vec<Closed>; 2],
    pub recovery: Recovery,
}

pub(crate) fn recover(
    config: Config,
    keys: Keys,
    disk: Arc<dyn Disk>,
    requests: Requests,
) -> Result<Recovered, OpenError> {
    let mut shared = Shared::new(config, keys, disk, requests);
    let mut set_aside = Vec::new();
    let (mut segments, unreadable) = open_segments(&shared)?;
    let mut in_place: Vec<SetAside> = unreadable.iter().map(|number| aside::unreadable(*number)).collect();
    let (mut index, found) = open_index(&shared)?;
    let mut span = Span { from: [Position::default(); 2], until: None };
    if found == IndexFound::Intact {
        span.from = reconcile(&shared, &mut index, &segments, &unreadable, &mut in_place)?;
    }
    shared.queue.lock().positions = span.from;
    let replayed =
        Replay { epochs: &shared.epochs, segments: &segments, queue: &shared.queue, index: &mut index }.run(&span)?;
    move_aside(&shared, &index, &segments, &replayed, &mut set_aside, &mut in_place)?;
    let copied = aside::list(shared.disk.as_ref());
    let doubts = Doubts::new(&segments, &replayed, &unreadable, copied.as_deref().ok());
    let orphans = remove_orphans(&shared, &index, &doubts);
    give_back_tails(&shared, &mut segments, &replayed);
    // A number counts while any file has it, readable or not: a segment that is made is renamed to its name.
    let numbers = segments.iter().map(|segment| segment.number).chain(unreadable);
    let highest = numbers.chain(span.from.iter().map(|position| position.segment)).max().unwrap_or(0);
    shared.next_segment.store(highest.saturating_add(1), Ordering::Relaxed);
    {
        // Of what was brought in to apply facts that it had already, only a window's worth is needed.
        let mut state = shared.queue.lock();
        let resident: Vec<_> = state.messages.keys().copied().collect();
        state.evict(resident);
    }
    let mut closed = [Vec::new(), Vec::new()];
    for segment in &segments {
        shared.add_segment(segment);
        if let Some(list) = closed.get_mut(usize::from(segment.lane)) {
            list.push(Closed::new(Arc::clone(segment)));
        }
    }
    // What a power cut tore before anyone was told of it is no alarm.
    let alarms = copied.iter().flatten().chain(&in_place).filter(|found| found.acknowledged).count();
    shared.figures.set_aside.store(alarms as u64, Ordering::Relaxed);
    set_aside.extend(in_place.iter().cloned());
    shared.in_place = in_place;
    let recovery = Recovery {
        index: found,
        segments: segments.len() as u64,
        replayed: replayed.records,
        messages: shared.queue.lock().live,
        orphans,
        set_aside,
    };
    Ok(Recovered { shared: Arc::new(shared), index, closed, recovery })
}

fn disk_error(what: &str) -> impl FnOnce(io::Error) -> OpenError {
    let what = what.to_owned();
    move |source| OpenError::Disk { what, source }
}

/// Opens all segments, oldest first; keeps or removes spare files. Gives the numbers of the unreadable ones, too.
fn open_segments(shared: &Shared) -> Result<(Vec<Arc<Segment>>, Vec<u32>), OpenError> {
    let disk = shared.disk.as_ref();
    let (mut segments, mut unreadable) = (Vec::new(), Vec::new());
    for name in disk.list(Folder::Segments).map_err(disk_error("listing the segments"))? {
        if let Some(number) = segment_number(&name) {
            match Segment::open(disk, number) {
                Ok(segment) => segments.push(Arc::new(segment)),
                Err(SegmentError::Header) => unreadable.push(number),
                Err(SegmentError::Disk(error)) => return Err(disk_error("opening a segment")(error)),
            }
        } else if is_spare(&name) {
            let opened = disk.open(Folder::Segments, &name).and_then(|file| Ok((file.length()?, file)));
            let kept = opened.is_ok_and(|(length, file)| {
                u32::try_from(length)
                    .is_ok_and(|length| shared.spares.keep(Spare { name: name.clone(), length, file, used: true }))
            });
            if !kept && let Err(error) = disk.unlink(Folder::Segments, &name) {
                log::warn!("a spare segment file was not removed: {error}; the next start tries again");
            }
        }
    }
    segments.sort_by_key(|segment| segment.number);
    Ok((segments, unreadable))
}

fn open_index(shared: &Shared) -> Result<(Index, IndexFound), OpenError> {
    let path = &shared.config.index;
    let found = match Index::open(path, &shared.index_key) {
        // Reading all rows once shows pages that are no longer ours before anything relies on them.
        Opened::Usable(index) => match index.each_message(|_| {}).and_then(|()| index.counts()) {
            Ok(_) => return Ok((index, IndexFound::Intact)),
            Err(_) => IndexFound::Unusable,
        },
        Opened::Absent => IndexFound::Absent,
        Opened::Unusable => IndexFound::Unusable,
    };
    Ok((Index::create(path, &shared.index_key)?, found))
}

/// Holds rows and key slots against each other. Rows without a live slot are finished messages (the index is older than
/// the segments) and go. Live or damaged slots without a row, before the watermark, are finished messages whose shredding a power
/// cut undid, or rows that someone removed: replaying from their segment on tells. Rows whose segment can't be read are
/// damaged messages. Gives where to replay from.
fn reconcile(
    shared: &Shared,
    index: &mut Index,
    segments: &[Arc<Segment>],
    unreadable: &[u32],
    in_place: &mut Vec<SetAside>,
) -> Result<[Position; 2], OpenError> {
    let mut from = index.watermarks()?;
    let mut slots = HashMap::new();
    for segment in segments {
        let read = segment.read_slots().map_err(disk_error("reading key slots"))?;
        let live = read.into_iter().enumerate().filter_map(|(number, slot)| match slot {
            Slot::Live(slot) => Some((number, Some((slot.message, slot.offset)))),
            Slot::Damaged => Some((number, None)),
            Slot::Empty | Slot::Shredded => None,
        });
        for (number, slot) in live {
            slots.insert((segment.number, number), slot);
        }
    }
    let (mut gone, mut damaged) = (Vec::new(), Vec::new());
    index.each_message(|row| {
        match slots.remove(&(row.segment, row.slot as usize)) {
            None if unreadable.contains(&row.segment) => {
                damaged.push((row.id, Damage::Record));
                in_place.push(SetAside {
                    message: Some(row.id),
                    segment: row.segment,
                    offset: row.offset,
                    damage: Damage::Record,
                    acknowledged: true,
                });
            }
            Some(Some((id, offset))) if id == row.id && offset == row.offset => {}
            Some(None) => damaged.push((row.id, Damage::KeySlot)),
            _ => {
                gone.push(row.id);
                return;
            }
        }
        let mut state = shared.queue.lock();
        state.live += 1;
        row.segments.iter().for_each(|segment| state.pin(*segment));
    })?;
    index.forget(&gone)?;
    for ((number, _), slot) in slots {
        let Some(segment) = segments.iter().find(|segment| segment.number == number) else { continue };
        // Whose a damaged slot is, the record that names it tells.
        let offset = slot.map_or(segment.log, |(_, offset)| offset);
        if let Some(from) = from.get_mut(usize::from(segment.lane & 1))
            && (Position { segment: number, offset }) < *from
        {
            *from = Position { segment: number, offset: segment.log };
        }
    }
    {
        let mut state = shared.queue.lock();
        for (destination, held, count) in index.counts()? {
            state.count_indexed(destination, held, count);
        }
    }
    for (id, damage) in damaged {
        hold(shared, index, id, damage)?;
    }
    Ok(from)
}

/// Holds a message that the queue or the index has; says whether one does.
fn hold(shared: &Shared, index: &Index, id: MessageId, damage: Damage) -> Result<bool, OpenError> {
    let mut state = shared.queue.lock();
    if !state.messages.contains_key(&id) {
        let Some(message) = index.load(id)? else { return Ok(false) };
        state.adopt(id, message);
    }
    state.hold_damaged(id, damage);
    Ok(true)
}

/// Copies what is damaged. A message that nothing is known of besides is shredded then: all that is left of it is in
/// the copy, and its segment is free to go.
fn move_aside(
    shared: &Shared,
    index: &Index,
    segments: &[Arc<Segment>],
    replayed: &Replayed,
    set_aside: &mut Vec<SetAside>,
    in_place: &mut Vec<SetAside>,
) -> Result<(), OpenError> {
    for (found, length, slot) in &replayed.damaged {
        let Some(segment) = segments.iter().find(|segment| segment.number == found.segment) else { continue };
        if found.damage == Damage::EpochMissing {
            // Not damage of ours: it opens when the vault has the key again, so the segment stays.
            shared.queue.lock().pin(segment.number);
            set_aside.push(found.clone());
            continue;
        }
        let who = found.message.map_or_else(|| "a part of a segment".to_owned(), |id| format!("message {id}"));
        match aside::set_aside(shared.disk.as_ref(), segment, found, *length, *slot) {
            Ok(new) => {
                if new {
                    if found.acknowledged {
                        log::error!("{who} is set aside: {}", crate::view::damage_hold(found.damage).why);
                    } else {
                        log::warn!("{who} is set aside: it was cut off before it was acknowledged, or is damaged");
                    }
                    set_aside.push(found.clone());
                }
                let known = match found.message {
                    Some(id) => hold(shared, index, id, found.damage)?,
                    None => false,
                };
                if let Some(slot) = slot.filter(|_| !known)
                    && let Err(error) = segment.shred(slot)
                {
                    log::warn!("a key slot that was set aside was not overwritten: {error}");
                }
            }
            Err(error) => {
                shared.figures.disk_errors.fetch_add(1, Ordering::Relaxed);
                log::error!("{who} is damaged and could not be copied: {error}; it stays where it is");
                shared.queue.lock().pin(segment.number);
                if let Some(id) = found.message {
                    hold(shared, index, id, found.damage)?;
                }
                in_place.push(found.clone());
            }
        }
    }
    Ok(())
}

/// Why a spill file may belong to an accepted message that the queue does not have. The content of such a message may
/// be intact, and its spill file is all there is of it.
struct Doubts<'a> {
    /// Damaged, set aside now or before, or without a key at this start.
    messages: HashSet<MessageId>,
    /// Something is damaged and can't be told whose it is.
    anyone: bool,
    segments: &'a [Arc<Segment>],
}

impl<'a> Doubts<'a> {
    /// `copied`: what lies in the set-aside area, if that can be told.
    fn new(segments: &'a [Arc<Segment>], replayed: &Replayed, unreadable: &[u32], copied: Option<&[SetAside]>) -> Self {
        let known = replayed.damaged.iter().map(|(found, ..)| found).chain(copied.unwrap_or_default());
        let messages = known.clone().filter_map(|found| found.message).collect();
        let nameless = known.filter(|found| found.acknowledged).any(|found| found.message.is_none());
        let anyone = nameless || replayed.lost || !unreadable.is_empty() || copied.is_none();
        Self { messages, anyone, segments }
    }

    /// Whether some message that nobody can name has lost its key slot. Reads all slots, so it is asked last.
    fn damaged_slot(&self) -> bool {
        let mut read = self.segments.iter().map(|segment| segment.read_slots());
        read.any(|slots| slots.map_or(true, |slots| slots.contains(&Slot::Damaged)))
    }
}

/// Removes spill files of messages that were never accepted.
fn remove_orphans(shared: &Shared, index: &Index, doubts: &Doubts<'_>) -> u64 {
    let Ok(names) = shared.disk.list(Folder::Spill) else { return 0 };
    let (mut removed, mut kept) = (0, 0);
    let mut anyone = doubts.anyone.then_some(true);
    for name in names {
        let id = name.split_once('-').and_then(|(id, _)| id.parse::<MessageId>().ok());
        let known = id.is_some_and(|id| shared_has(shared, index, id));
        let wanted = known
            && id.is_some_and(|id| {
                let resident = shared.queue.lock().messages.get(&id).map(|message| message.spill.clone());
                let spill = resident.map_or_else(|| index.spill_of(id), Ok);
                // Where the index does not answer, the file stays.
                spill.is_ok_and(|spill| spill.is_none_or(|spill| spill == name))
            });
        if wanted {
            continue;
        }
        let doubtful = id.is_some_and(|id| doubts.messages.contains(&id))
            || !known && *anyone.get_or_insert_with(|| doubts.damaged_slot());
        if doubtful {
            kept += 1;
        } else if shared.disk.unlink(Folder::Spill, &name).is_ok() {
            removed += 1;
        }
    }
    if kept > 0 {
        log::warn!("{kept} spill files stay that may belong to damaged messages");
    }
    removed
}

fn shared_has(shared: &Shared, index: &Index, id: MessageId) -> bool {
    let resident = shared.queue.lock().messages.get(&id).map(|message| !message.finished);
    resident.unwrap_or_else(|| index.contains(id).unwrap_or(true))
}

/// Gives the unused room of segments that stay back to the disk; the others are recycled whole.
fn give_back_tails(shared: &Shared, segments: &mut [Arc<Segment>], replayed: &Replayed) {
    for segment in segments {
        let Some(end) = replayed.ends.get(&segment.number) else { continue };
        let damaged = replayed.damaged.iter().any(|(found, ..)| found.segment == segment.number);
        let length = end.next_multiple_of(4096).max(segment.log + HEADER as u32);
        if damaged || length >= segment.length || !shared.queue.lock().is_pinned(segment.number) {
            continue;
        }
        if segment.file.truncate(u64::from(length)).is_ok() {
            let Segment { number, lane, id, slots, log, .. } = **segment;
            *segment = Arc::new(Segment { number, lane, id, slots, log, length, file: Arc::clone(&segment.file) });
        }
    }
}
