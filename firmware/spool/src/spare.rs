//! Spare segment files, made ahead.
//!
//! Job: have a preallocated file ready when a lane needs a new segment, so that no session waits for zeros to be
//! written. Place: beside the lanes, on a thread of its own. Invariants: a spare for messages is made only while the
//! reserve stays untouched; a small one for facts alone may use the reserve, which is what the reserve is for. A crash
//! leaves spare files; the next start uses them or removes them.

use crate::{
    segment::{Segment, Spare},
    stage::Room,
};
use std::{
    io,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Files kept ready: one for each lane, because both fill at the same pace.
const READY: usize = 2;
/// How long to wait after the disk refused.
const PAUSE: Duration = Duration::from_secs(1);
/// A segment for facts alone takes this part of the reserve.
const RESERVE_PARTS: u64 = 8;

pub(crate) struct Spares {
    room: Room,
    length: u32,
    state: Mutex<State>,
    wake: Condvar,
}

struct State {
    ready: Vec<Spare>,
    closing: bool,
}

/// A file for a new segment.
pub(crate) struct Offer {
    pub spare: Spare,
    /// Whether messages may go into it, too.
    pub messages: bool,
}

impl Spares {
    pub fn new(room: Room, length: u32) -> Self {
        Self { room, length, state: Mutex::new(State { ready: Vec::new(), closing: false }), wake: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes spares until [`Spares::close`].
    pub fn run(&self) {
        let mut state = self.lock();
        while !state.closing {
            if state.ready.len() >= READY {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            drop(state);
            let made = self.make_full();
            state = self.lock();
            match made {
                Ok(spare) => state.ready.push(spare),
                // A full disk is told by what it means for messages; here it means only to try again later.
                Err(_) => {
                    state = self.wake.wait_timeout(state, PAUSE).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    pub fn close(&self) {
        self.lock().closing = true;
        self.wake.notify_all();
    }

    /// A file for a segment: a ready one, a new one, or a small one out of the reserve for facts alone.
    pub fn take(&self, messages: bool) -> io::Result<Offer> {
        let ready = self.lock().ready.pop();
        self.wake.notify_all();
        if let Some(spare) = ready {
            return Ok(Offer { spare, messages: true });
        }
        match self.make_full() {
            Ok(spare) => Ok(Offer { spare, messages: true }),
            Err(error) if messages => Err(error),
            Err(_) => {
                let part = (self.room.reserve / RESERVE_PARTS).clamp(64 << 10, u64::from(self.length));
                let length = u32::try_from(part & !4095).unwrap_or(self.length);
                Ok(Offer { spare: Spare::make(self.room.disk.as_ref(), length)?, messages: false })
            }
        }
    }

    /// Takes a finished segment as a spare, or removes it where there are enough.
    pub fn recycle(&self, segment: &Segment) -> io::Result<()> {
        let disk = self.room.disk.as_ref();
        if segment.length == self.length && self.lock().ready.len() < READY {
            let spare = Spare::recycle(disk, segment)?;
            self.lock().ready.push(spare);
            Ok(())
        } else {
            disk.unlink(crate::disk::Folder::Segments, &crate::segment::segment_name(segment.number))
        }
    }

    /// Takes a spare file that a former run left.
    pub fn keep(&self, spare: Spare) -> bool {
        let mut state = self.lock();
        let fits = spare.length == self.length && state.ready.len() < READY;
        if fits {
            state.ready.push(spare);
        }
        fits
    }

    fn make_full(&self) -> io::Result<Spare> {
        self.room.check(u64::from(self.length))?;
        Spare::make(self.room.disk.as_ref(), self.length)
    }
}
