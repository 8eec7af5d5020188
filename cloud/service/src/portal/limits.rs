//! Limits on guessing.
//!
//! Counted in memory only, under a keyed hash of the account or the client's address; neither is stored (a reader's
//! address is processed and forgotten). A restart forgets the counts.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Attempts count this long.
const WINDOW: Duration = Duration::from_secs(15 * 60);
/// Wrong passwords for one account.
const PER_ACCOUNT: u32 = 10;
/// Attempts from one address: a practice or a company behind one address still gets in.
const PER_CLIENT: u32 = 60;
/// Entries kept; beyond it the oldest go.
const ENTRIES: usize = 100_000;

/// Who is counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// An account, whether it exists or not.
    Account([u8; 32]),
    /// A client.
    Client([u8; 32]),
}

/// Counters.
#[derive(Default)]
pub struct Limits(Mutex<HashMap<Subject, (u32, Instant)>>);

impl Limits {
    /// Counts an attempt, before it is made, and says whether it may be made.
    pub fn allow(&self, subject: Subject) -> bool {
        self.allow_at(subject, Instant::now())
    }

    fn allow_at(&self, subject: Subject, now: Instant) -> bool {
        let most = match subject {
            Subject::Account(_) => PER_ACCOUNT,
            Subject::Client(_) => PER_CLIENT,
        };
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= ENTRIES {
            counts.retain(|_, (_, since)| now.duration_since(*since) < WINDOW);
            if counts.len() >= ENTRIES {
                // All are fresh: somebody floods. The oldest half goes, the limits of this moment stay.
                let mut ages: Vec<Instant> = counts.values().map(|(_, since)| *since).collect();
                ages.sort_unstable();
                if let Some(middle) = ages.get(ages.len() / 2).copied() {
                    counts.retain(|_, (_, since)| *since > middle);
                }
            }
        }
        let (count, since) = counts.entry(subject).or_insert((0, now));
        if now.duration_since(*since) >= WINDOW {
            (*count, *since) = (0, now);
        }
        *count += 1;
        *count <= most
    }

    /// Forgets a subject's attempts after a right password.
    pub fn forget(&self, subject: Subject) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&subject);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eleventh_guess_is_refused_and_later_ones_allowed_again() {
        let limits = Limits::default();
        let now = Instant::now();
        let account = Subject::Account([1; 32]);
        assert!((0..10).all(|_| limits.allow_at(account, now)));
        assert!(!limits.allow_at(account, now + Duration::from_secs(60)));
        assert!(limits.allow_at(Subject::Account([2; 32]), now));
        assert!(limits.allow_at(account, now + WINDOW));
    }

    #[test]
    fn a_flood_of_names_takes_bounded_memory() {
        let limits = Limits::default();
        let now = Instant::now();
        for i in 0..(ENTRIES as u64 + 10) {
            let mut name = [0; 32];
            name[..8].copy_from_slice(&i.to_be_bytes());
            limits.allow_at(Subject::Account(name), now + Duration::from_nanos(i));
        }
        assert!(limits.0.lock().unwrap().len() <= ENTRIES);
    }
}
