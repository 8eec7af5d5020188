//! The index's own thread.
//!
//! Job: write the states of changed messages in large transactions, and answer what needs the index. Place: fed by the
//! queue's list of changed messages; asked by claims (for the next due rows) and operators. Invariants: a message
//! leaves the memory only after its state is in the index; a question is answered from an index that has just been
//! brought up to date; when the index fails, deliveries go on from memory. A crash leaves the last transaction.

use super::{Index, RowWrite, rows};
use crate::{
    Filter, IndexError, Life, Row,
    queue::{Key, Message, Queue},
    shared::Shared,
};
use mail::{Destination, MessageId};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// States copied under one hold of the queue's lock.
const PORTION: usize = 256;
/// How long a failed index is left alone.
const PAUSE: Duration = Duration::from_secs(1);

pub(crate) enum Request {
    Refill(Destination),
    /// Brings a message into memory and keeps it there; `None`: there is no such message.
    Keep(MessageId, oneshot::Sender<Result<Option<Kept>, IndexError>>),
    List(Filter, usize, oneshot::Sender<Result<Vec<Row>, IndexError>>),
    Life(MessageId, oneshot::Sender<Result<Option<Life>, IndexError>>),
    Flush(oneshot::Sender<Result<(), IndexError>>),
    /// Writes all states exactly as they are at one moment, and gives a connection that sees that moment.
    Snapshot(oneshot::Sender<Result<Index, IndexError>>),
    Stop,
}

/// The way to the thread.
pub(crate) struct Requests {
    sender: Mutex<Sender<Request>>,
    /// Why the index can't be written at present.
    pub error: Mutex<Option<String>>,
}

impl Requests {
    pub fn new() -> (Self, Receiver<Request>) {
        let (sender, receiver) = channel();
        (Self { sender: Mutex::new(sender), error: Mutex::new(None) }, receiver)
    }

    fn send(&self, request: Request) {
        // A thread that has ended drops the answer's sender, which the asker sees as a closed spool.
        let _ = self.sender.lock().unwrap_or_else(PoisonError::into_inner).send(request);
    }

    pub fn refill(&self, destination: Destination) {
        self.send(Request::Refill(destination));
    }

    pub fn stop(&self) {
        self.send(Request::Stop);
    }

    pub async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, IndexError>>) -> Request,
    ) -> Result<T, IndexError> {
        let (answer, answered) = oneshot::channel();
        self.send(request(answer));
        answered.await.map_err(|_| IndexError::Closed)?
    }
}

/// Keeps a message in memory.
pub(crate) struct Kept {
    shared: Arc<Shared>,
    id: MessageId,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut state = self.shared.queue.lock();
        if let Some(message) = state.messages.get_mut(&self.id) {
            message.kept = message.kept.saturating_sub(1);
        }
        state.evict([self.id]);
    }
}

/// The thread's state.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    index: Index,
    requests: Receiver<Request>,
}

impl Worker {
    pub fn new(shared: Arc<Shared>, index: Index, requests: Receiver<Request>) -> Self {
        Self { shared, index, requests }
    }

    /// Works until told to stop; the last states are written then.
    pub fn run(mut self) {
        let every = self.shared.config.index_every;
        let mut next = Instant::now() + every;
        loop {
            match self.requests.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Request::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    let _ = self.flush();
                    return;
                }
                Ok(request) => self.answer(request),
                Err(RecvTimeoutError::Timeout) => {
                    let pause = if self.flush().is_ok() { every } else { every.max(PAUSE) };
                    next = Instant::now() + pause;
                }
            }
        }
    }

    fn answer(&mut self, request: Request) {
        // Whoever asked may have gone; then the answer is dropped.
        match request {
            Request::Stop => {}
            Request::Refill(destination) => self.refill(&destination),
            Request::Keep(id, answer) => {
                let _ = answer.send(self.keep(id));
            }
            Request::List(filter, limit, answer) => {
                let _ = answer.send(self.list(&filter, limit));
            }
            Request::Life(id, answer) => {
                let _ = answer.send(self.life(id));
            }
            Request::Flush(answer) => {
                let _ = answer.send(self.flush());
            }
            Request::Snapshot(answer) => {
                let _ = answer.send(self.snapshot());
            }
        }
    }

    fn flush(&mut self) -> Result<(), IndexError> {
        let result = flush(&mut self.index, &self.shared.queue, PORTION);
        match &result {
            Ok(()) => *self.error() = None,
            Err(error) => self.note(error),
        }
        result
    }

    fn error(&self) -> MutexGuard<'_, Option<String>> {
        self.shared.index.error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs the first of a row of errors; the figures show that it lasts.
    fn note(&self, failure: &IndexError) {
        if self.error().replace(failure.to_string()).is_none() {
            log::error!("{failure}");
        }
        self.shared.figures.disk_errors.fetch_add(1, Ordering::Relaxed);
    }

    fn snapshot(&mut self) -> Result<Index, IndexError> {
        flush(&mut self.index, &self.shared.queue, usize::MAX)?;
        let copy = Index::connect(&self.shared.config.index, &self.shared.index_key)?;
        copy.connection.execute_batch("BEGIN; SELECT count(*) FROM watermark;")?;
        Ok(copy)
    }

    fn list(&mut self, filter: &Filter, limit: usize) -> Result<Vec<Row>, IndexError> {
        self.flush()?;
        let busy = self.shared.queue.lock().delivering();
        rows::list(&self.index.connection, &busy, filter, limit)
    }

    /// Brings the next due groups of a destination into its window.
    fn refill(&mut self, destination: &Destination) {
        // From here on, whatever is put outside the window lowers `beyond` anew, so nothing is overlooked.
        let (from, limit) = {
            let mut state = self.shared.queue.lock();
            let Some(line) = state.lines.get_mut(destination) else { return };
            let from = line.beyond.take();
            let known = usize::try_from(line.delivering).unwrap_or(0) + line.window.len();
            let limit = u32::try_from(line.bound() + known).unwrap_or(u32::MAX);
            (from, limit)
        };
        let found = from.map_or(Ok(Vec::new()), |from| {
            self.flush()?;
            let keys = self.index.waiting(destination, from, limit)?;
            self.adopt(&keys)?;
            Ok(keys)
        });
        let mut state = self.shared.queue.lock();
        match found {
            Ok(keys) => {
                let Some(line) = state.lines.get_mut(destination) else { return };
                if keys.len() == limit as usize
                    && let Some(last) = keys.last()
                {
                    line.outside(*last);
                }
                line.refilling = false;
                // Of a message with several groups, some may be outside the window.
                state.evict(keys.iter().map(|(_, id, _)| *id));
            }
            Err(error) => {
                self.note(&error);
                // Deliveries go on with what is in memory; free room may be what the index is waiting for.
                let resident: Vec<Key> = resident(&state.messages, destination);
                let Some(line) = state.lines.get_mut(destination) else { return };
                let displaced: Vec<_> = resident.into_iter().filter_map(|key| line.offer(key)).collect();
                if let Some(from) = from {
                    line.outside(from);
                }
                line.refilling = false;
                state.evict(displaced);
                drop(state);
                // Claims ask again at once; a failing index is not asked more often than this.
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        self.shared.changed();
    }

    fn adopt(&self, keys: &[Key]) -> Result<(), IndexError> {
        for (_, id, number) in keys {
            {
                let mut state = self.shared.queue.lock();
                // What is in memory is newer than the row.
                if let Some(message) = state.messages.get(id) {
                    let mut displaced = None;
                    let waiting = message
                        .group(*number)
                        .filter(|entry| entry.status() == crate::queue::Status::Waiting)
                        .map(|entry| (entry.group.destination.clone(), crate::queue::key_of(*id, &entry.group)));
                    if let Some((destination, key)) = waiting
                        && let Some(line) = state.lines.get_mut(&destination)
                    {
                        displaced = line.offer(key);
                    }
                    // This one is evicted with all that were found, if it has no place.
                    state.evict(displaced.filter(|displaced| displaced != id));
                    continue;
                }
            }
            if let Some(message) = self.index.load(*id)? {
                self.shared.queue.lock().adopt(*id, message);
            }
        }
        Ok(())
    }

    fn keep(&self, id: MessageId) -> Result<Option<Kept>, IndexError> {
        let resident = |message: Option<Message>| {
            let mut state = self.shared.queue.lock();
            if let Some(message) = message {
                state.adopt(id, message);
            }
            // Under the same lock: what nobody keeps may be evicted as soon as it is released.
            let message = state.messages.get_mut(&id)?;
            let kept = !message.finished;
            message.kept += u32::from(kept);
            Some(kept.then(|| Kept { shared: Arc::clone(&self.shared), id }))
        };
        if let Some(kept) = resident(None) {
            return Ok(kept);
        }
        let Some(message) = self.index.load(id)? else { return Ok(None) };
        Ok(resident(Some(message)).flatten())
    }

    fn life(&mut self, id: MessageId) -> Result<Option<Life>, IndexError> {
        if let Some(past) = self.shared.queue.lock().past(id) {
            let (acceptance, size, events) = (past.acceptance.clone(), past.size, past.events.clone());
            return Ok(Some(Life { acceptance, size, groups: Vec::new(), events }));
        }
        let Some(_kept) = self.keep(id)? else { return Ok(None) };
        let (place, key, snapshot, mut life) = {
            let state = self.shared.queue.lock();
            let Some(message) = state.messages.get(&id) else { return Ok(None) };
            let groups = message.groups.iter().map(|entry| entry.group.clone()).collect();
            let life = Life { acceptance: None, size: message.size, groups, events: message.events.clone() };
            (message.place, message.key.clone(), message.snapshot.clone(), life)
        };
        let snapshot = snapshot.map_or_else(
            || {
                let key = key.map_or_else(|| self.shared.open_key(id, place), Ok)?;
                self.shared.open_snapshot(place, &key)
            },
            Ok,
        );
        life.acceptance = snapshot.ok().map(|snapshot| Arc::clone(&snapshot.acceptance));
        Ok(Some(life))
    }
}

/// Waiting groups of a destination that are in memory.
fn resident(messages: &std::collections::HashMap<MessageId, Message>, destination: &Destination) -> Vec<Key> {
    messages
        .iter()
        .flat_map(|(id, message)| message.groups.iter().map(move |entry| (id, entry)))
        .filter(|(_, entry)| entry.status() == crate::queue::Status::Waiting)
        .filter(|(_, entry)| entry.group.destination == *destination)
        .map(|(id, entry)| crate::queue::key_of(*id, &entry.group))
        .collect()
}

/// Writes the states of all changed messages, and drops from memory what needs not be there.
///
/// The watermarks are read before the states, so the rows are at least as new as they say; with a `portion` that takes
/// all states at once they are exactly as new.
pub(crate) fn flush(index: &mut Index, queue: &Queue, portion: usize) -> Result<(), IndexError> {
    let mut state = queue.lock();
    let ids: Vec<_> = std::mem::take(&mut state.dirty).into_iter().collect();
    let positions = state.positions;
    let mut writes = Vec::with_capacity(ids.len());
    let mut copied = Ok(());
    for (number, some) in ids.chunks(portion).enumerate() {
        if number > 0 {
            drop(state);
            state = queue.lock();
        }
        for id in some {
            let Some(message) = state.messages.get_mut(id) else { continue };
            match RowWrite::of(*id, message) {
                Ok(write) => {
                    message.dirty = false;
                    message.flushing = true;
                    writes.push(write);
                }
                Err(error) => copied = Err(error),
            }
        }
    }
    drop(state);
    let written = copied.and_then(|()| {
        if writes.is_empty() && index.watermarks()? == positions { Ok(()) } else { index.write(&writes, positions) }
    });
    for portion in ids.chunks(PORTION) {
        let mut state = queue.lock();
        for id in portion {
            let Some(message) = state.messages.get_mut(id) else { continue };
            message.flushing = false;
            let (finished, dirty) = (message.finished, message.dirty);
            if written.is_ok() {
                message.stored = true;
                if finished && !dirty {
                    state.messages.remove(id);
                }
            } else {
                message.dirty = true;
                state.dirty.insert(*id);
            }
        }
        if written.is_ok() {
            state.evict(portion.iter().copied());
        }
    }
    written
}
