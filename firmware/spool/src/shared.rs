//! What all parts of an open spool share.
//!
//! Job: hold the disk, the keys, the queue and the ways to the threads. Place: behind every [`crate::Spool`]. Invariants:
//! locks are taken in the order removal, queue, segments, lane; none is held over a disk call but `removal`. A crash
//! leaves nothing behind.

use crate::{
    Config, Keys, OperateError,
    disk::Disk,
    fact::Fact,
    index,
    lane::{FactJob, Job, LaneQueue},
    queue::{Queue, Snapshot, State},
    record::Kind,
    seal::MessageKey,
    segment::{Place, Segment},
    slot::{Slot, SlotError},
    snapshot,
    spare::Spares,
    stage::{Budget, Room},
    view::{Damage, SetAside},
};
use mail::MessageId;
use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64},
    },
};
use tokio::sync::oneshot;
use vault::{Epochs, purpose::QueueIndex};

#[derive(Default)]
pub(crate) struct Figures {
    pub syncs: AtomicU64,
    pub disk_errors: AtomicU64,
    pub set_aside: AtomicU64,
    /// By lane.
    pub unrecorded: [AtomicU64; 2],
}

pub(crate) struct Shared {
    pub config: Config,
    pub epochs: Arc<Epochs>,
    pub disk: Arc<dyn Disk>,
    pub room: Room,
    pub queue: Queue,
    pub lanes: [LaneQueue; 2],
    pub spares: Spares,
    pub budget: Arc<Budget>,
    pub index: index::Requests,
    pub index_key: vault::Key<QueueIndex>,
    pub figures: Figures,
    pub next_segment: AtomicU32,
    pub closing: AtomicBool,
    /// Damage that the start found and that could not be copied: it stays where it is.
    pub in_place: Vec<SetAside>,
    segments: RwLock<HashMap<u32, Arc<Segment>>>,
    /// Held by whoever reads segments as a whole, so that none is removed meanwhile.
    pub removal: RwLock<()>,
}

/// What a fact's submitter waits for.
pub(crate) type Recorded = oneshot::Receiver<io::Result<()>>;

impl Shared {
    pub fn new(config: Config, keys: Keys, disk: Arc<dyn Disk>, index: index::Requests) -> Self {
        let room = Room { disk: Arc::clone(&disk), reserve: config.reserve_bytes };
        let length = u32::try_from(config.segment_bytes).unwrap_or(u32::MAX);
        Self {
            queue: Queue::new(config.window),
            lanes: [LaneQueue::new(), LaneQueue::new()],
            spares: Spares::new(room.clone(), length),
            budget: Budget::new(config.memory_bytes),
            index,
            figures: Figures::default(),
            next_segment: AtomicU32::new(1),
            closing: AtomicBool::new(false),
            in_place: Vec::new(),
            segments: RwLock::new(HashMap::new()),
            removal: RwLock::new(()),
            config,
            epochs: keys.epochs,
            index_key: keys.index,
            disk,
            room,
        }
    }

    pub fn add_segment(&self, segment: &Arc<Segment>) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        segments.insert(segment.number, Arc::clone(segment));
    }

    pub fn remove_segment(&self, number: u32) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }

    pub fn segment(&self, number: u32) -> Option<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).get(&number).map(Arc::clone)
    }

    pub fn all_segments(&self) -> Vec<Arc<Segment>> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = segments.values().map(Arc::clone).collect();
        all.sort_by_key(|segment| segment.number);
        all
    }

    /// Tells whoever waits that something may be due.
    pub fn changed(&self) {
        self.queue.changed.notify_waiters();
    }

    /// The lane with less to do.
    pub fn quieter_lane(&self) -> usize {
        usize::from(self.lanes[1].load() < self.lanes[0].load())
    }

    /// Opens a message's key from its slot.
    pub fn open_key(&self, id: MessageId, place: Place) -> Result<Arc<MessageKey>, Damage> {
        let segment = self.segment(place.segment).ok_or(Damage::RecordMissing)?;
        match segment.read_slot(place.slot) {
            Ok(Slot::Live(slot)) if slot.message == id && slot.offset == place.offset => {
                slot.unwrap(&self.epochs).map(Arc::new).map_err(|error| match error {
                    SlotError::EpochMissing => Damage::EpochMissing,
                    SlotError::Forged => Damage::KeySlot,
                })
            }
            Ok(_) | Err(_) => Err(Damage::KeySlot),
        }
    }

    /// Reads and opens a message's snapshot.
    pub fn open_snapshot(&self, place: Place, key: &MessageKey) -> Result<Arc<Snapshot>, Damage> {
        let segment = self.segment(place.segment).ok_or(Damage::RecordMissing)?;
        snapshot::read(&segment, place, key).map(Arc::new)
    }

    /// Seals a fact's place in the order of its message and hands it to the message's lane. The caller holds the queue,
    /// so that no other fact comes between.
    pub fn submit_fact(
        &self,
        state: &mut State,
        id: MessageId,
        kind: Kind,
        fact: Fact,
    ) -> Result<Recorded, OperateError> {
        let message = state.messages.get_mut(&id).ok_or(OperateError::Unknown(id))?;
        let key = message.key.clone().ok_or(OperateError::Busy(id))?;
        let number = message.next_fact + 1;
        let (done, recorded) = oneshot::channel();
        let job = FactJob { message: id, kind, number, key, fact, done: Some(done), spill: None, withdraws: None };
        let lane = usize::from(message.lane & 1);
        self.lanes[lane].submit(Job::Fact(job)).map_err(|_| OperateError::Closed)?;
        message.next_fact = number;
        message.pending += 1;
        Ok(recorded)
    }
}
