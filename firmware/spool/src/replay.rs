//! Replaying segments.
//!
//! Job: bring queue and index to what the segments say. Place: recovery uses it for the tail, or for all when there is
//! no index; `verify_index` for a second index to compare. Invariants: a message counts only with record and key, which
//! one sync made durable together; a fact counts only in the order of its number; what is known already is passed over,
//! so a replay may begin earlier than it must. A crash leaves nothing behind: the index is derived.

use crate::{
    IndexError,
    fact::Fact,
    index::{Index, flush},
    queue::{Message, Position, Queue},
    record::{Header, Kind},
    scan::{Damaged, Found, Scan},
    seal::{MessageKey, Role},
    segment::{Place, Segment},
    slot::{KeySlot, Slot, SlotError},
    snapshot,
    view::{Damage, SetAside},
};
use mail::MessageId;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use vault::Epochs;

/// Changed messages in memory before they are written to the index.
const PORTION: usize = 4096;

/// Where to read, and until where.
pub(crate) struct Span {
    /// By lane: what is before is in the index.
    pub from: [Position; 2],
    /// By lane: what is behind is left out; `None`: all is read.
    pub until: Option<[Position; 2]>,
}

/// What a replay met.
#[derive(Default)]
pub(crate) struct Replayed {
    pub records: u64,
    /// End of the log of each segment that was read to its end.
    pub ends: HashMap<u32, u32>,
    /// Whether the disk has lost a part of a log: what stood there is not known.
    pub lost: bool,
    /// Damage, with the length of the damaged part and the key slot.
    pub damaged: Vec<(SetAside, u32, Option<u32>)>,
}

/// The parts that a replay works on.
pub(crate) struct Replay<'a> {
    pub epochs: &'a Epochs,
    pub segments: &'a [Arc<Segment>],
    pub queue: &'a Queue,
    pub index: &'a mut Index,
}

/// A segment while it is read.
struct Reading {
    segment: Arc<Segment>,
    slots: Vec<Slot>,
    /// Slots whose record was met, good or damaged.
    met: HashSet<u32>,
    /// Facts that left a gap behind them, at this offset.
    gaps: Vec<(MessageId, u32)>,
    damage: Vec<Damaged>,
    /// Messages whose record is good and whose key is not.
    keyless: Vec<(Header, u32, Damage)>,
}

impl Replay<'_> {
    /// Reads the span; the queue then holds what changed, the index what fits.
    pub fn run(mut self, span: &Span) -> Result<Replayed, IndexError> {
        let mut report = Replayed::default();
        for segment in self.segments {
            let lane = usize::from(segment.lane & 1);
            let from = span.from.get(lane).copied().unwrap_or_default();
            let until = span.until.and_then(|until| until.get(lane).copied());
            if segment.number < from.segment || until.is_some_and(|until| segment.number > until.segment) {
                continue;
            }
            let start = if segment.number == from.segment { from.offset } else { segment.log };
            let stop = until.filter(|until| until.segment == segment.number).map(|until| until.offset);
            self.read(segment, start.max(segment.log), stop, &mut report)?;
        }
        self.write()?;
        Ok(report)
    }

    fn write(&mut self) -> Result<(), IndexError> {
        flush(self.index, self.queue, usize::MAX)
    }

    fn read(
        &mut self,
        segment: &Arc<Segment>,
        start: u32,
        stop: Option<u32>,
        report: &mut Replayed,
    ) -> Result<(), IndexError> {
        let mut reading = Reading {
            slots: segment.read_slots()?,
            segment: Arc::clone(segment),
            met: HashSet::new(),
            gaps: Vec::new(),
            damage: Vec::new(),
            keyless: Vec::new(),
        };
        let mut scan = Scan::new(segment, start);
        while let Some(found) = scan.next()? {
            match found {
                Found::Record { offset, .. } | Found::Damage(Damaged { offset, .. })
                    if stop.is_some_and(|stop| offset >= stop) =>
                {
                    break;
                }
                Found::Record { offset, header, payload } => {
                    report.records += 1;
                    self.record(&mut reading, offset, header, &payload)?;
                    if self.queue.lock().dirty.len() >= PORTION {
                        self.write()?;
                    }
                }
                Found::Damage(damaged) => {
                    if let Some(header) = damaged.header.filter(|header| header.kind == Kind::Message) {
                        reading.met.insert(header.slot);
                    }
                    reading.damage.push(damaged);
                }
            }
        }
        if scan.lost() {
            log::error!("the disk has lost a part of segment {}; check the data disk", segment.number);
            report.lost = true;
            // Neither cut off nor used anew: another reader may get more out of it.
            self.queue.lock().pin(segment.number);
        } else if stop.is_none() {
            report.ends.insert(segment.number, scan.end());
        }
        let end = stop.unwrap_or_else(|| scan.end());
        if let Some(position) = self.queue.lock().positions.get_mut(usize::from(segment.lane & 1)) {
            *position = (*position).max(Position { segment: segment.number, offset: end });
        }
        self.judge(&reading, start, stop, scan.durable(), report)
    }

    fn record(&mut self, reading: &mut Reading, offset: u32, header: Header, payload: &[u8]) -> Result<(), IndexError> {
        match header.kind {
            Kind::Close => Ok(()),
            Kind::Message => {
                reading.met.insert(header.slot);
                self.message(reading, offset, header, payload)
            }
            _ => self.fact(reading, offset, header, payload),
        }
    }

    fn message(
        &mut self,
        reading: &mut Reading,
        offset: u32,
        header: Header,
        payload: &[u8],
    ) -> Result<(), IndexError> {
        let id = header.message;
        let opened = match reading.slots.get(header.slot as usize) {
            Some(Slot::Live(slot)) if slot.message == id && slot.offset == offset => open(slot, self.epochs),
            // Finished; or its key did not reach the disk, and then nobody was told that it is ours.
            Some(Slot::Shredded) => return Ok(()),
            Some(Slot::Empty) => Err(Damage::RecordMissing),
            Some(Slot::Live(_) | Slot::Damaged) | None => Err(Damage::KeySlot),
        };
        let opened = opened.and_then(|key| {
            let snapshot = snapshot::open(&key, payload).map_err(|_| Damage::Snapshot)?;
            Ok((Arc::new(key), Arc::new(snapshot)))
        });
        match opened {
            Ok((key, snapshot)) => {
                let known = self.queue.lock().messages.contains_key(&id) || self.index.contains(id)?;
                if !known {
                    let place =
                        Place { segment: reading.segment.number, offset, slot: header.slot, length: header.length };
                    let lane = reading.segment.lane;
                    self.queue.lock().insert(id, Message::accepted(place, lane, key, snapshot));
                }
            }
            Err(damage) => reading.keyless.push((header, offset, damage)),
        }
        Ok(())
    }

    fn fact(&mut self, reading: &mut Reading, offset: u32, header: Header, payload: &[u8]) -> Result<(), IndexError> {
        let id = header.message;
        if !self.resident(id)? {
            return Ok(());
        }
        let (known, key, place) = {
            let state = self.queue.lock();
            let Some(message) = state.messages.get(&id).filter(|message| !message.finished) else { return Ok(()) };
            (message.facts, message.key.clone(), message.place)
        };
        if header.number <= known {
            return Ok(());
        }
        let key = match key.map_or_else(|| self.open_key(id, place), Ok) {
            Ok(key) => key,
            Err(damage) => {
                self.queue.lock().hold_damaged(id, damage);
                return Ok(());
            }
        };
        let plain = key.open_piece(Role::Fact, Header::bound(header.kind, header.number), payload);
        let Some(fact) = plain.ok().and_then(|plain| serde_json::from_slice::<Fact>(&plain).ok()) else {
            self.queue.lock().hold_damaged(id, Damage::FactLost);
            return Ok(());
        };
        if header.number != known + 1 {
            reading.gaps.push((id, offset));
        }
        let mut state = self.queue.lock();
        state.apply(id, header.number, &fact, reading.segment.number);
        if let Some(message) = state.messages.get_mut(&id) {
            message.key = Some(key);
        }
        Ok(())
    }

    /// Brings a message into memory; says whether there is one.
    fn resident(&mut self, id: MessageId) -> Result<bool, IndexError> {
        if self.queue.lock().messages.contains_key(&id) {
            return Ok(true);
        }
        let Some(message) = self.index.load(id)? else { return Ok(false) };
        self.queue.lock().adopt(id, message);
        Ok(true)
    }

    fn open_key(&self, id: MessageId, place: Place) -> Result<Arc<MessageKey>, Damage> {
        let segment = self.segments.iter().find(|segment| segment.number == place.segment);
        match segment.map(|segment| segment.read_slot(place.slot)) {
            Some(Ok(Slot::Live(slot))) if slot.message == id => open(&slot, self.epochs).map(Arc::new),
            _ => Err(Damage::KeySlot),
        }
    }

    /// Sorts out what was damaged. Before `durable` it was acknowledged; behind it, a power cut explains as much.
    fn judge(
        &mut self,
        reading: &Reading,
        start: u32,
        stop: Option<u32>,
        durable: u32,
        report: &mut Replayed,
    ) -> Result<(), IndexError> {
        let segment = reading.segment.number;
        let mut add = |message, offset, damage, length, slot| {
            let acknowledged = offset < durable;
            report.damaged.push((SetAside { message, segment, offset, damage, acknowledged }, length, slot));
        };
        for (header, offset, damage) in &reading.keyless {
            // Without a key and not known to be durable: its batch was cut off.
            if *offset >= durable && *damage == Damage::RecordMissing {
                continue;
            }
            let damage = if *damage == Damage::RecordMissing { Damage::KeySlot } else { *damage };
            add(Some(header.message), *offset, damage, header.room() as u32, Some(header.slot));
        }
        for damaged in &reading.damage {
            let acknowledged = damaged.offset < durable;
            match damaged.header {
                Some(header) if header.kind == Kind::Message => {
                    let live =
                        reading.slots.get(header.slot as usize).is_some_and(|slot| matches!(slot, Slot::Live(_)));
                    if live {
                        let message = Some(header.message);
                        add(message, damaged.offset, Damage::Record, damaged.length, Some(header.slot));
                    }
                }
                Some(_) if !acknowledged => {}
                // A key slot that points here names it below.
                None if self.slot_at(reading, damaged.offset).is_some() => {}
                None if !acknowledged => {}
                _ => {
                    let live = self.resident(damaged.message)?
                        && self.queue.lock().messages.get(&damaged.message).is_some_and(|message| !message.finished);
                    if live {
                        self.queue.lock().hold_damaged(damaged.message, Damage::FactLost);
                        add(Some(damaged.message), damaged.offset, Damage::FactLost, damaged.length, None);
                    } else if damaged.header.is_none() {
                        add(None, damaged.offset, Damage::Record, damaged.length, None);
                    }
                }
            }
        }
        for (number, slot) in (0..).zip(&reading.slots) {
            let Slot::Live(slot) = slot else { continue };
            let within = slot.offset >= start && stop.is_none_or(|stop| slot.offset < stop);
            if within && !reading.met.contains(&number) {
                let damaged = reading.damage.iter().find(|damaged| damaged.offset == slot.offset);
                let (damage, length) =
                    damaged.map_or((Damage::RecordMissing, 0), |damaged| (Damage::Record, damaged.length));
                add(Some(slot.message), slot.offset, damage, length, Some(number));
            }
        }
        for (id, offset) in &reading.gaps {
            // A gap within the last batch is a torn write; before it, a fact that someone relies on is gone.
            if *offset < durable {
                self.queue.lock().hold_damaged(*id, Damage::FactLost);
                add(Some(*id), *offset, Damage::FactLost, 0, None);
            }
        }
        Ok(())
    }

    fn slot_at(&self, reading: &Reading, offset: u32) -> Option<u32> {
        (0..).zip(&reading.slots).find_map(|(number, slot)| match slot {
            Slot::Live(slot) if slot.offset == offset => Some(number),
            _ => None,
        })
    }
}

fn open(slot: &KeySlot, epochs: &Epochs) -> Result<MessageKey, Damage> {
    slot.unwrap(epochs).map_err(|error| match error {
        SlotError::EpochMissing => Damage::EpochMissing,
        SlotError::Forged => Damage::KeySlot,
    })
}
