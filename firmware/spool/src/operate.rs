//! What an operator does to queued messages.
//!
//! Job: list, show, hold, release, retry, re-route and delete; verify the index. Place: between the operator's faces and
//! the queue. Invariants: a change counts once its fact is durable, and only then is it answered; what is being delivered
//! is left alone; confidential mail is never sent another way than the cloud's. A crash leaves a change whole or not
//! made.

use crate::{
    ChangedRow, EventKind, Filter, Group, Held, HeldBy, IndexError, Life, OperateError, Row, SetAside, Spool, Stats,
    aside,
    fact::{Fact, event},
    index::{self, Kept, Request},
    lane::Job,
    queue::micros,
    record::Kind,
    view::DestinationStats,
};
use jiff::Timestamp;
use mail::{Destination, MessageId};
use std::{
    io,
    sync::{Arc, PoisonError, atomic::Ordering},
};
use tokio::sync::oneshot;

impl Spool {
    /// Delivery groups that pass the filter, oldest message first, at most `limit`.
    ///
    /// # Errors
    /// The index failed.
    pub async fn list(&self, filter: Filter, limit: usize) -> Result<Vec<Row>, IndexError> {
        self.shared().index.ask(|answer| Request::List(filter, limit, answer)).await
    }

    /// A message from its acceptance on; also of those that finished a short while ago in this process.
    ///
    /// # Errors
    /// The index failed.
    pub async fn life(&self, id: MessageId) -> Result<Option<Life>, IndexError> {
        self.shared().index.ask(|answer| Request::Life(id, answer)).await
    }

    /// Makes waiting groups due at once, and lets those go on that are held because they failed.
    ///
    /// # Errors
    /// See [`OperateError`].
    pub async fn retry(&self, id: MessageId) -> Result<(), OperateError> {
        let due = micros(Timestamp::now());
        self.change(id, Kind::Retry, EventKind::Retried, |group| match &group.held {
            None => Some(Group { due, ..group }),
            Some(held) if held.by == HeldBy::Failure => Some(Group { due, held: None, ..group }),
            Some(_) => None,
        })
        .await
    }

    /// Holds all groups that are not held.
    ///
    /// # Errors
    /// See [`OperateError`].
    pub async fn hold(&self, id: MessageId, why: &str) -> Result<(), OperateError> {
        let held = Held { by: HeldBy::Operator, why: why.to_owned() };
        self.change(id, Kind::Hold, EventKind::Held(held.clone()), |group| {
            group.held.is_none().then(|| Group { held: Some(held.clone()), ..group })
        })
        .await
    }

    /// Lets all held groups go on, to where the verdict at acceptance sends them.
    ///
    /// # Errors
    /// See [`OperateError`].
    pub async fn release(&self, id: MessageId) -> Result<(), OperateError> {
        let due = micros(Timestamp::now());
        self.change(id, Kind::Release, EventKind::Released, |group| {
            group.held.is_some().then_some(Group { due, held: None, ..group })
        })
        .await
    }

    /// Sends all groups another way. Each gets a new number: at the new destination nothing is known of it.
    ///
    /// # Errors
    /// See [`OperateError`]; `Confidential` where a group would leave the cloud's path.
    pub async fn reroute(&self, id: MessageId, to: Destination) -> Result<(), OperateError> {
        let kept = self.resident(id).await?;
        let recorded = {
            let mut state = self.shared().queue.lock();
            let message = state.messages.get_mut(&id).ok_or(OperateError::Unknown(id))?;
            if message.groups.iter().any(|entry| entry.busy) {
                return Err(OperateError::Busy(id));
            }
            let moved: Vec<Group> = message
                .groups
                .iter()
                .filter(|entry| entry.group.destination != to)
                .map(|entry| entry.group.clone())
                .collect();
            if moved.is_empty() {
                return Err(OperateError::Nothing(id));
            }
            if moved.iter().any(|group| group.destination == Destination::Cloud) {
                return Err(OperateError::Confidential(id));
            }
            let mut fact = Fact { gone: Vec::new(), groups: Vec::new(), events: Vec::new() };
            for group in moved {
                let number = message.next_group;
                message.next_group = number.saturating_add(1);
                let what = EventKind::Rerouted { from: group.destination.clone(), to: to.clone() };
                fact.events.push(event(Some(group.number), what));
                fact.gone.push(group.number);
                fact.groups.push(Group { number, destination: to.clone(), ..group });
            }
            self.submit(&mut state, id, Kind::Reroute, fact)?
        };
        drop(kept);
        answered(recorded).await
    }

    /// Removes a message: nobody gets it any more.
    ///
    /// # Errors
    /// See [`OperateError`].
    pub async fn delete(&self, id: MessageId) -> Result<(), OperateError> {
        let kept = self.resident(id).await?;
        let recorded = {
            let mut state = self.shared().queue.lock();
            let message = state.messages.get(&id).ok_or(OperateError::Unknown(id))?;
            if message.groups.iter().any(|entry| entry.busy) {
                return Err(OperateError::Busy(id));
            }
            let gone = message.groups.iter().map(|entry| entry.group.number).collect();
            let fact = Fact { gone, groups: Vec::new(), events: vec![event(None, EventKind::Deleted)] };
            self.submit(&mut state, id, Kind::Delete, fact)?
        };
        drop(kept);
        answered(recorded).await
    }

    /// The figures of the spool.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = self.shared();
        let figures = &shared.figures;
        let load = |figure: &std::sync::atomic::AtomicU64| figure.load(Ordering::Relaxed);
        let state = shared.queue.lock();
        let destinations = state
            .lines
            .iter()
            .map(|(destination, line)| DestinationStats {
                destination: destination.clone(),
                waiting: line.waiting,
                delivering: line.delivering,
                held: line.held,
            })
            .collect();
        Stats {
            messages: state.live,
            destinations,
            failed: state.failed,
            set_aside: load(&figures.set_aside),
            accepted: state.accepted,
            finished: state.ended,
            unrecorded: figures.unrecorded.iter().map(load).sum(),
            syncs: load(&figures.syncs),
            disk_errors: load(&figures.disk_errors),
            memory_used: shared.budget.used(),
            memory_bytes: shared.budget.bound(),
            free_bytes: shared.disk.free().unwrap_or(0),
            segments: shared.all_segments().len() as u64,
            index_lag: state.dirty.len() as u64,
            index_error: shared.index.error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// What lies in the set-aside area, and what the start found damaged and had to leave where it is.
    ///
    /// # Errors
    /// The disk failed.
    pub fn set_aside(&self) -> io::Result<Vec<SetAside>> {
        let mut found = aside::list(self.shared().disk.as_ref())?;
        found.extend(self.shared().in_place.iter().cloned());
        Ok(found)
    }

    /// Names every row of the index that does not say what the segments say.
    ///
    /// # Errors
    /// The index or the disk failed.
    pub async fn verify_index(&self) -> Result<Vec<ChangedRow>, IndexError> {
        let present = self.shared().index.ask(Request::Snapshot).await?;
        let shared = Arc::clone(self.shared());
        let compared = tokio::task::spawn_blocking(move || index::verify(&shared, &present)).await;
        compared.map_err(|_| IndexError::Closed)?
    }

    /// Waits until all that was submitted so far is durable and in the index.
    ///
    /// # Errors
    /// The index failed.
    pub async fn drain(&self) -> Result<(), IndexError> {
        for lane in &self.shared().lanes {
            let (done, passed) = oneshot::channel();
            if lane.submit(Job::Barrier(done)).is_ok() {
                // A lane that ends meanwhile has done all that came before.
                let _ = passed.await;
            }
        }
        self.shared().index.ask(Request::Flush).await
    }

    /// Has a message in memory, with its key, as long as the answer lives.
    async fn resident(&self, id: MessageId) -> Result<Kept, OperateError> {
        let kept = self.shared().index.ask(|answer| Request::Keep(id, answer)).await?;
        let kept = kept.ok_or(OperateError::Unknown(id))?;
        let place = {
            let state = self.shared().queue.lock();
            let message = state.messages.get(&id).filter(|message| !message.finished);
            let message = message.ok_or(OperateError::Unknown(id))?;
            message.key.is_none().then_some(message.place)
        };
        if let Some(place) = place {
            // Without its key no fact about it can be sealed; what is damaged can still be looked at, not changed.
            let key = self.shared().open_key(id, place).map_err(|_| OperateError::Nothing(id))?;
            self.shared().queue.lock().change(id, |message| message.key = Some(key));
        }
        Ok(kept)
    }

    /// Gives every group for which `to` has one its new state.
    async fn change(
        &self,
        id: MessageId,
        kind: Kind,
        what: EventKind,
        to: impl Fn(Group) -> Option<Group>,
    ) -> Result<(), OperateError> {
        let kept = self.resident(id).await?;
        let recorded = {
            let mut state = self.shared().queue.lock();
            let message = state.messages.get(&id).ok_or(OperateError::Unknown(id))?;
            let (busy, free): (Vec<_>, Vec<_>) = message.groups.iter().partition(|entry| entry.busy);
            let groups: Vec<Group> = free.into_iter().filter_map(|entry| to(entry.group.clone())).collect();
            if groups.is_empty() {
                return Err(if busy.is_empty() { OperateError::Nothing(id) } else { OperateError::Busy(id) });
            }
            let events = groups.iter().map(|group| event(Some(group.number), what.clone())).collect();
            self.submit(&mut state, id, kind, Fact { gone: Vec::new(), groups, events })?
        };
        drop(kept);
        answered(recorded).await
    }

    /// Submits a fact; the groups that it touches are taken until it is applied, so that no claim comes between.
    fn submit(
        &self,
        state: &mut crate::queue::State,
        id: MessageId,
        kind: Kind,
        fact: Fact,
    ) -> Result<crate::shared::Recorded, OperateError> {
        let mut touched = fact.gone.clone();
        touched.extend(fact.groups.iter().map(|group| group.number));
        let recorded = self.shared().submit_fact(state, id, kind, fact)?;
        state.change(id, |message| {
            for entry in message.groups.iter_mut().filter(|entry| touched.contains(&entry.group.number)) {
                entry.busy = true;
            }
        });
        Ok(recorded)
    }
}

async fn answered(recorded: crate::shared::Recorded) -> Result<(), OperateError> {
    match recorded.await {
        Ok(result) => result.map_err(OperateError::Disk),
        Err(_) => Err(OperateError::Closed),
    }
}
