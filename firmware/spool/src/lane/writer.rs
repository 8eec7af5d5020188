//! The thread of a lane.
//!
//! Job: write batches, sync them, apply and answer them; overwrite the keys of finished messages; let finished segments
//! go. Place: the only writer of its segments. Invariants: apply before answer, sync before apply, write before sync; a
//! key is overwritten only after the fact that finished its message is durable. A crash between any two of these leaves
//! less said than done, never more.

use super::{
    FactJob, Job, MessageJob, Receipt,
    room::{Active, Closed, shred},
};
use crate::{
    disk::Folder,
    fact::{Fact, event},
    queue::{Finished, Message, Position},
    record::{HEADER, Header, Kind, room},
    seal::{Role, Unsealable},
    segment::{Place, write_slots},
    shared::Shared,
    slot::KeySlot,
};
use mail::MessageId;
use std::{
    collections::VecDeque,
    io,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Most bytes of a batch: beyond it, the wait of the first session outweighs what sharing a sync saves.
const BATCH_BYTES: u64 = 4 << 20;
/// How soon overwritten keys are synced when no batch does it, and how soon a refusing disk is asked again.
const HOUSEKEEPING: Duration = Duration::from_millis(500);

pub(crate) struct Writer {
    shared: Arc<Shared>,
    lane: u8,
    active: Option<Active>,
    closed: Vec<Closed>,
    /// Facts that a failed disk did not take.
    late: VecDeque<FactJob>,
    /// Finished messages whose key could not be overwritten yet.
    unshredded: Vec<Finished>,
    buffer: Vec<u8>,
}

/// Jobs that are written together.
#[derive(Default)]
struct Batch {
    messages: Vec<(Box<MessageJob>, Place)>,
    facts: Vec<FactJob>,
    barriers: Vec<oneshot::Sender<()>>,
}

impl Writer {
    /// Takes over the closed segments of the lane and what recovery found finished.
    pub fn new(shared: Arc<Shared>, lane: u8, closed: Vec<Closed>, finished: Vec<Finished>) -> Self {
        Self { shared, lane, active: None, closed, late: VecDeque::new(), unshredded: finished, buffer: Vec::new() }
    }

    /// Opens the first segment, so that a start fails where no mail could be kept.
    pub fn prepare(&mut self) -> io::Result<()> {
        // Segments that nobody needs any more are the first to be used anew.
        self.care();
        self.roll(false)
    }

    /// Works until the lane is closed.
    pub fn run(mut self) {
        let mut cared = Instant::now();
        loop {
            let idle_for = if self.has_chores() { HOUSEKEEPING } else { Duration::from_secs(3600) };
            let (jobs, closed) = self.queue().take(idle_for);
            let count = jobs.len();
            self.retry_late();
            self.work(jobs);
            self.queue().answered(count);
            if closed || (count == 0 || cared.elapsed() > HOUSEKEEPING) && self.has_chores() {
                self.care();
                cared = Instant::now();
            }
            if closed {
                self.sign_off();
                return;
            }
        }
    }

    fn queue(&self) -> &super::LaneQueue {
        &self.shared.lanes[usize::from(self.lane & 1)]
    }

    fn has_chores(&self) -> bool {
        !self.late.is_empty()
            || !self.unshredded.is_empty()
            || self.active.as_ref().is_some_and(|active| !active.shredded.is_empty())
            || self.closed.iter().any(|closed| !closed.shredded.is_empty())
            || self.closed.iter().any(|closed| !self.shared.queue.lock().is_pinned(closed.segment.number))
    }

    /// Writes jobs in batches as large as they come.
    fn work(&mut self, jobs: VecDeque<Job>) {
        let mut batch = Batch::default();
        let mut slots = Vec::new();
        for job in jobs {
            if self.buffer.len() as u64 >= BATCH_BYTES {
                self.flush(&mut batch, &mut slots);
            }
            match job {
                Job::Barrier(done) => batch.barriers.push(done),
                Job::Fact(job) => self.add_fact(job, &mut batch, &mut slots),
                Job::Message(job) => self.add_message(job, &mut batch, &mut slots),
            }
        }
        self.flush(&mut batch, &mut slots);
    }

    fn add_message(&mut self, job: Box<MessageJob>, batch: &mut Batch, slots: &mut Vec<KeySlot>) {
        let wanted = room(job.payload.len() as u32);
        let fits = |this: &Self, slots: &Vec<_>| {
            let slots = slots.len() as u32;
            this.active.as_ref().is_some_and(|a| a.fits_message(this.buffer.len() as u64, slots, wanted))
        };
        if !fits(self, slots) {
            self.flush(batch, slots);
            if !fits(self, slots)
                && let Err(error) = self.roll(true)
            {
                // The session may have gone; then nobody waits for the answer.
                let _ = job.done.send(Err(error));
                return;
            }
        }
        let Some(active) = &self.active else { return };
        let place = Place {
            segment: active.segment.number,
            offset: active.tail + self.buffer.len() as u32,
            slot: active.next_slot + slots.len() as u32,
            length: job.payload.len() as u32,
        };
        let binding = job.key.binding;
        let header = Header {
            kind: Kind::Message,
            suite: binding.suite,
            length: place.length,
            slot: place.slot,
            message: binding.message,
            number: 0,
            durable: active.tail,
            epoch: binding.epoch,
        };
        // From here on the disk may name it; until here, whoever is refused leaves nothing behind.
        job.staged.keep_spill();
        append(&mut self.buffer, &active.segment.id, &header, &job.payload);
        slots.push(KeySlot { offset: place.offset, ..job.slot.clone() });
        batch.messages.push((job, place));
    }

    fn add_fact(&mut self, job: FactJob, batch: &mut Batch, slots: &mut Vec<KeySlot>) {
        // Facts of one message stay in order, so none overtakes one that the disk has not taken.
        if !self.late.is_empty() {
            return self.too_late(job, &io::ErrorKind::StorageFull.into());
        }
        let payload = match seal_fact(&job) {
            Ok(payload) => payload,
            Err(_) => return self.too_late(job, &io::Error::other("sealing failed")),
        };
        let wanted = room(payload.len() as u32);
        let fits = |this: &Self| this.active.as_ref().is_some_and(|a| a.fits_fact(this.buffer.len() as u64, wanted));
        if !fits(self) {
            self.flush(batch, slots);
            // Where the disk did not take the batch, its facts wait, and this one waits behind them.
            if !self.late.is_empty() {
                return self.too_late(job, &io::ErrorKind::StorageFull.into());
            }
            if !fits(self)
                && let Err(error) = self.roll(false)
            {
                return self.too_late(job, &error);
            }
        }
        let Some(active) = &self.active else { return };
        let binding = job.key.binding;
        let header = Header {
            kind: job.kind,
            suite: binding.suite,
            length: payload.len() as u32,
            slot: 0,
            message: job.message,
            number: job.number,
            durable: active.tail,
            epoch: binding.epoch,
        };
        append(&mut self.buffer, &active.segment.id, &header, &payload);
        batch.facts.push(job);
    }

    /// Writes and syncs the batch, then applies and answers it.
    fn flush(&mut self, batch: &mut Batch, slots: &mut Vec<KeySlot>) {
        let batch = std::mem::take(batch);
        let slots = std::mem::take(slots);
        if !self.buffer.is_empty() {
            match self.write(&slots) {
                Ok(()) => self.applied(batch.messages, batch.facts),
                Err(error) => self.failed(batch.messages, batch.facts, &error),
            }
        }
        for barrier in batch.barriers {
            let _ = barrier.send(());
        }
    }

    /// Key slots and records reach the disk by one sync: neither is of use without the other.
    fn write(&mut self, slots: &[KeySlot]) -> io::Result<()> {
        let Some(active) = &mut self.active else { return Err(io::ErrorKind::NotFound.into()) };
        active.segment.file.write_at(u64::from(active.tail), &self.buffer)?;
        if !slots.is_empty() {
            write_slots(&active.segment, active.next_slot, slots)?;
        }
        active.segment.file.sync()?;
        self.shared.figures.syncs.fetch_add(1, Ordering::Relaxed);
        active.tail += self.buffer.len() as u32;
        active.next_slot += slots.len() as u32;
        self.buffer.clear();
        if self.buffer.capacity() > BATCH_BYTES as usize {
            self.buffer = Vec::new();
        }
        let durable = std::mem::take(&mut active.shredded);
        self.unpin(durable);
        Ok(())
    }

    /// The batch is durable: the queue is told, then the sessions are.
    fn applied(&mut self, messages: Vec<(Box<MessageJob>, Place)>, facts: Vec<FactJob>) {
        let Some(active) = &self.active else { return };
        let segment = active.segment.number;
        let mut receipts = Vec::with_capacity(messages.len());
        let mut answers = Vec::with_capacity(facts.len());
        let finished = {
            let mut state = self.shared.queue.lock();
            for (job, place) in messages {
                let id = job.key.binding.message;
                state.insert(id, Message::accepted(place, self.lane, job.key, job.snapshot));
                state.accepted += 1;
                receipts.push((job.done, Receipt { message: id }));
            }
            for job in facts {
                state.apply(job.message, job.number, &job.fact, segment);
                state.settled(job.message);
                if let Some(failed) = job.withdraws
                    && let Some(closed) = self.closed.iter_mut().find(|closed| closed.segment.number == failed)
                {
                    closed.holds.push(segment);
                    state.pin(segment);
                }
                answers.push((job.done, job.spill));
            }
            if let Some(position) = state.positions.get_mut(usize::from(self.lane)) {
                *position = Position { segment, offset: active.tail };
            }
            std::mem::take(&mut state.finished[usize::from(self.lane & 1)])
        };
        for (done, receipt) in receipts {
            let _ = done.send(Ok(receipt));
        }
        self.finish(finished);
        for (done, spill) in answers {
            if let Some(spill) = spill {
                self.remove_spill(&spill);
            }
            if let Some(done) = done {
                let _ = done.send(Ok(()));
            }
        }
        self.shared.changed();
    }

    /// Nothing is known of the batch: no receipts; its facts are written anew in another segment, and so is, for each
    /// of its messages, that it was never accepted.
    fn failed(&mut self, messages: Vec<(Box<MessageJob>, Place)>, facts: Vec<FactJob>, error: &io::Error) {
        self.shared.figures.disk_errors.fetch_add(1, Ordering::Relaxed);
        log::error!("writing a segment failed: {error}; the segment is closed, check the data disk");
        self.buffer.clear();
        let failed = self.active.take().map(|active| {
            let number = active.segment.number;
            self.closed.push(Closed { shredded: active.shredded, failed: true, ..Closed::new(active.segment) });
            number
        });
        for job in facts {
            self.too_late(job, error);
        }
        for (job, _) in messages {
            let MessageJob { key, snapshot, done, .. } = *job;
            let _ = done.send(Err(copy_of(error)));
            let gone = (0..).zip(&snapshot.acceptance.deliveries).map(|(number, _)| number).collect();
            let fact = Fact { gone, groups: Vec::new(), events: vec![event(None, crate::EventKind::Withdrawn)] };
            self.late.push_back(FactJob {
                message: key.binding.message,
                kind: Kind::Withdraw,
                number: 1,
                key,
                fact,
                done: None,
                spill: snapshot.content.spill.clone(),
                withdraws: failed,
            });
        }
        self.count_late();
    }

    /// Answers a fact that the disk does not take at present, and keeps it.
    fn too_late(&mut self, mut job: FactJob, error: &io::Error) {
        if let Some(done) = job.done.take() {
            let _ = done.send(Err(copy_of(error)));
        }
        self.late.push_back(job);
        self.count_late();
    }

    fn count_late(&self) {
        self.shared.figures.unrecorded[usize::from(self.lane & 1)].store(self.late.len() as u64, Ordering::Relaxed);
    }

    fn retry_late(&mut self) {
        if self.late.is_empty() {
            return;
        }
        let late = std::mem::take(&mut self.late);
        let (mut batch, mut slots) = (Batch::default(), Vec::new());
        for job in late {
            self.add_fact(job, &mut batch, &mut slots);
        }
        self.flush(&mut batch, &mut slots);
        self.count_late();
    }

    /// Closes the active segment and opens the next.
    fn roll(&mut self, messages: bool) -> io::Result<()> {
        let offer = self.shared.spares.take(messages)?;
        let number = self.shared.next_segment.fetch_add(1, Ordering::Relaxed);
        let segment = Arc::new(offer.spare.activate(self.shared.disk.as_ref(), number, self.lane)?);
        self.shared.add_segment(&segment);
        if let Some(active) = self.active.replace(Active::new(segment, offer.messages)) {
            self.closed.push(Closed { shredded: active.shredded, ..Closed::new(active.segment) });
        }
        Ok(())
    }

    /// Overwrites the keys of finished messages and removes their spill files.
    fn finish(&mut self, finished: Vec<Finished>) {
        for mut one in finished {
            if let Some(spill) = one.spill.take() {
                self.remove_spill(&spill);
            }
            if let Err((one, error)) = shred(self.active.as_mut(), &mut self.closed, one) {
                self.shared.figures.disk_errors.fetch_add(1, Ordering::Relaxed);
                log::error!("a key could not be overwritten: {error}; tried again shortly");
                self.unshredded.push(one);
            }
        }
    }

    fn remove_spill(&self, name: &str) {
        if let Err(error) = self.shared.disk.unlink(Folder::Spill, name)
            && error.kind() != io::ErrorKind::NotFound
        {
            self.shared.figures.disk_errors.fetch_add(1, Ordering::Relaxed);
            log::warn!("a spill file was not removed: {error}; the next start removes it");
        }
    }

    fn unpin(&self, finished: Vec<Finished>) {
        if finished.is_empty() {
            return;
        }
        let mut state = self.shared.queue.lock();
        for segment in finished.into_iter().flat_map(|one| one.segments) {
            state.unpin(segment);
        }
    }

    /// Makes overwritten keys durable and lets finished segments go.
    fn care(&mut self) {
        let again = std::mem::take(&mut self.unshredded);
        self.finish(again);
        if let Some(active) = &mut self.active
            && !active.shredded.is_empty()
        {
            match active.segment.file.sync() {
                Ok(()) => {
                    let durable = std::mem::take(&mut active.shredded);
                    self.unpin(durable);
                }
                Err(error) => self.failed(Vec::new(), Vec::new(), &error),
            }
        }
        let mut kept = Vec::new();
        for mut closed in std::mem::take(&mut self.closed) {
            if !closed.failed && !closed.shredded.is_empty() {
                match closed.segment.file.sync() {
                    Ok(()) => self.unpin(std::mem::take(&mut closed.shredded)),
                    Err(error) => {
                        self.shared.figures.disk_errors.fetch_add(1, Ordering::Relaxed);
                        log::error!("syncing a segment failed: {error}; check the data disk");
                        closed.failed = true;
                    }
                }
            }
            if closed.failed {
                self.care_failed(&mut closed);
            }
            if !self.let_go(&mut closed) {
                kept.push(closed);
            }
        }
        self.closed = kept;
    }

    /// A failed segment can't prove its shredding. It goes once all its messages are finished, and until its name is
    /// gone for certain it keeps the segments that say they are.
    fn care_failed(&self, closed: &mut Closed) {
        let mut state = self.shared.queue.lock();
        for finished in std::mem::take(&mut closed.shredded) {
            state.unpin(closed.segment.number);
            closed.holds.extend(finished.segments.into_iter().filter(|segment| *segment != closed.segment.number));
        }
    }

    /// Removes or recycles a segment that nobody needs; says whether it is gone.
    fn let_go(&self, closed: &mut Closed) -> bool {
        let number = closed.segment.number;
        if !closed.shredded.is_empty() || self.shared.queue.lock().is_pinned(number) {
            return false;
        }
        // Whoever reads segments as a whole keeps them all in place.
        let Ok(_guard) = self.shared.removal.try_write() else { return false };
        let disk = self.shared.disk.as_ref();
        let gone = if closed.failed {
            disk.unlink(Folder::Segments, &crate::segment::segment_name(number))
                .and_then(|()| disk.sync_folder(Folder::Segments))
        } else {
            self.shared.spares.recycle(&closed.segment)
        };
        match gone {
            Ok(()) => {
                self.shared.remove_segment(number);
                let mut state = self.shared.queue.lock();
                closed.holds.drain(..).for_each(|held| state.unpin(held));
                true
            }
            Err(error) => {
                self.shared.figures.disk_errors.fetch_add(1, Ordering::Relaxed);
                log::warn!("a finished segment could not be removed: {error}; tried again shortly");
                false
            }
        }
    }

    /// Says at the end of the log that all before it was durable.
    fn sign_off(&mut self) {
        let Some(active) = &mut self.active else { return };
        if active.tail == active.segment.log {
            return;
        }
        let header = Header {
            kind: Kind::Close,
            suite: self.shared.config.suite,
            length: 0,
            slot: 0,
            message: MessageId::from_bytes([0; 16]),
            number: 0,
            durable: active.tail,
            epoch: 0,
        };
        if active.fits_fact(0, header.room()) {
            append(&mut self.buffer, &active.segment.id, &header, &[]);
            if let Err(error) = self.write(&[]) {
                log::warn!("the end of a segment could not be written: {error}; the next start reads it all the same");
            }
        }
    }
}

fn append(buffer: &mut Vec<u8>, segment: &[u8; 16], header: &Header, payload: &[u8]) {
    buffer.extend_from_slice(&header.encode(segment, crc32fast::hash(payload)));
    buffer.extend_from_slice(payload);
    buffer.resize(buffer.len().next_multiple_of(HEADER), 0);
}

fn seal_fact(job: &FactJob) -> Result<Vec<u8>, Unsealable> {
    let plain = serde_json::to_vec(&job.fact).map_err(|_| Unsealable)?;
    let mut sealed = Vec::with_capacity(plain.len() + 32);
    job.key.seal_piece(Role::Fact, Header::bound(job.kind, job.number), &plain, &mut sealed)?;
    Ok(sealed)
}

/// An error for each of many sessions.
fn copy_of(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests;
