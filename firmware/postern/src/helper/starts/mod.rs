//! Which slot the firmware starts: the dead man's order.
//!
//! Job: see to it that a slot that dies, however early, yields to the other one, and know why. Place: in `prepare` at
//! every start, after a health check that passed, around an installation. Invariants: the firmware alone falls back, since
//! a slot that panics or hangs can't; nobody but this module and RAUC ([`super::update`]) sets BootOrder and BootNext; what
//! is counted is counted before it is asked for. RAUC's part (1.15, efi-use-bootnext): it takes the slot that it writes
//! out of BootOrder before the first octet, and sets BootNext to it behind the last.
//!
//! P is the preferred slot, on which a health check passed last; O is the other; N is O while it is being replaced.
//! BootNext is used up by the firmware before it starts anything.
//!
//! | state                               | BootOrder | BootNext | dies early  | prepare at the next start                 |
//! | ----------------------------------- | --------- | -------- | ----------- | ----------------------------------------- |
//! | P runs, O is good                   | O P       | P        | P: O starts | of P: BootNext = P, the start is counted  |
//! | O runs, since P fell                | O P       | P        | O: P tried  | of O: the reason; P, counted, is tried    |
//! | P fell three times                  | O P       | -        | O: O again  | of O: nothing                             |
//! | P up three times, never healthy     | P O       | O        | O: P starts | of O or P: BootNext = O                   |
//! | P runs, O is not good               | P         | -        | P: P again  | of P: nothing; there is nothing else      |
//! | N is being written                  | P         | as it was| P           | of P: N is not good                       |
//! | N is written                        | P         | N        | N: P starts | of N: trial. Of P: N did not stay         |
//! | N runs on trial                     | P         | -        | N: P starts | of N: trial. Of P: N did not stay         |
//! | N is healthy: N is P                | O P       | P        | as above    | as above                                  |
//!
//! | a crash or power cut               | leaves                                                                    |
//! | ---------------------------------- | ------------------------------------------------------------------------- |
//! | between count and BootNext         | one try less; O starts next, with a reason that says the power may have failed |
//! | between BootNext and order         | the slot that BootNext names starts, and arranges the order               |
//! | N healthy: behind BootNext = N     | N starts again, on trial still                                            |
//! | N healthy: behind the record       | N starts as P and arranges the order                                      |
//! | before RAUC takes N out            | N starts nowhere by itself but as the dead man of P, where it is on trial |
//! | in the firmware, before `prepare`  | O runs, with its reason; P is tried at the next restart                   |
//!
//! A slot that has run and stops later is started again, up to three times without health. Where it stopped in a panic, or
//! had fallen before, its root is first read from end to end: with a damaged block it dies before BootNext is set again.
//!
//! What no firmware gets out of: a start of P that is lost before it is seen, *and* an O that dies early.
//!
//! The record lies in two copies on the plain partition, since `prepare` comes before the data partition is opened; it
//! goes with a factory reset, after which the slot that runs is P.

pub mod rules;

use super::{
    HelperError,
    boot_entries::{Entries, Wanted},
    files,
    paths::{PLAIN, ROOT, STARTS, STARTS_LOCK},
    place::Place,
    slot::Slot,
    update::words,
};
use crate::plain::copies::Copies;
use jiff::Timestamp;
use nix::fcntl::{Flock, FlockArg};
use operator::update::{Reason, Starts};
use rules::{Record, Start};
use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
};

/// Between the plain area's copies and last words (`plain::area`).
const COPIES: Copies = Copies { magic: b"POSTERN-START-1\0", at: [256 * 1024, 896 * 1024] };
/// Octets of the root that are read at once.
const READ_AT_ONCE: usize = 1 << 20;
/// What is published has some hundred octets.
const MOST_PUBLISHED: u64 = 16 * 1024;

/// The record; none on a box that is new.
///
/// # Errors
/// The plain partition can't be read.
pub fn load(place: &Place) -> Result<Option<Record>, HelperError> {
    let read = File::open(place.at(PLAIN)).and_then(|file| COPIES.load(&file));
    let content = read.map_err(|error| unusable("read", &error))?;
    // One that nobody can read is as good as none: the slot that runs is preferred then.
    let record = content.and_then(|content| serde_json::from_slice::<Record>(&content).ok());
    // Whoever holds the disk can write it, and its text is shown to people.
    Ok(record.filter(Record::is_plausible))
}

/// At a start of `running`: counts it, asks the firmware for the next, and writes down what stands in the way.
///
/// # Errors
/// What keeps the firmware from falling back by itself; the box runs all the same.
pub fn at_start(running: Slot, version: Option<&str>, place: &Place) -> Result<(), HelperError> {
    if place.at(STARTS).exists() {
        // Done in this boot; a start is counted once.
        return Ok(());
    }
    let entries = Entries::read(place).and_then(|entries| entries.complete(place));
    let lost = matches!(entries, Ok((_, true)));
    let record = load(place).unwrap_or_else(|error| {
        log::error!(error:%; "the record of starts can't be read; this slot counts as the preferred");
        None
    });
    let record = record.unwrap_or_else(|| {
        // The disk is made with the same image in both slots.
        let other = |entries: &Entries| lost || entries.order().contains(&running.other());
        Record::first(running, entries.as_ref().map_or(true, |(entries, _)| other(entries)))
    });
    // A damaged block is met when it is read, which may be an hour after the start that asked for the next one.
    let fell = record.fallback.as_ref().is_some_and(|fallback| fallback.slot == running.letter());
    let doubtful = record.may_yield(running) && (fell || words::panicked(place));
    let whole = if doubtful { read_root(place) } else { Ok(()) };
    let start = Start { running, version, entries_lost: lost, now: Timestamp::now() };
    let (record, mut wanted) = record.at_start(&start);
    if whole.is_err() {
        wanted.next = None;
    }
    if record.trial == Some(running) || running != record.preferred {
        log::warn!(event = "not_preferred", running = running.letter(), preferred = record.preferred.letter(); "another slot runs than is preferred");
    }
    let kept = store(&record, place);
    let arranged = entries.and_then(|(entries, _)| {
        if entries.next().is_none() {
            return entries.arrange(&wanted, place);
        }
        // It is there after the start that should have used it up: this firmware would start one slot for ever.
        entries.arrange(&without_next(&wanted), place)?;
        Err(HelperError::failed(
            "the firmware does not use BootNext up: a slot that dies early is not left by itself, and updates are not tried",
            "look for a newer firmware of this board",
        ))
    });
    let done = kept.and(arranged).and(whole);
    let firmware = done.as_ref().err().map(|error| Reason { what: error.what.clone(), remedy: error.remedy.clone() });
    publish(&Starts { fallback: record.fallback, firmware }, place)?;
    done
}

/// Reads the root from end to end. At a damaged block the kernel stops, before this slot is asked for once more, so that
/// the firmware starts the other one.
fn read_root(place: &Place) -> Result<(), HelperError> {
    log::warn!(event = "root_read"; "the run before did not end well: the root of this slot is read whole");
    let read = File::open(place.at(ROOT)).and_then(|root| {
        let mut root = io::BufReader::with_capacity(READ_AT_ONCE, root);
        io::copy(&mut root, &mut io::sink())
    });
    read.map(drop).map_err(|error| {
        HelperError::failed(
            format!("the root of this slot can't be read: {error}"),
            "restart the box, and the other slot starts; then install the version again",
        )
    })
}

/// A health check has passed on `running`.
///
/// # Errors
/// The firmware or the disk would not; what it had is what it has.
pub fn healthy(running: Slot, place: &Place) -> Result<(), HelperError> {
    let _one_at_a_time = lock(place)?;
    let Some(before) = load(place)? else { return Ok(()) };
    let was_good = before.is_good(running);
    let (record, wanted) = before.clone().healthy(running);
    let published = published(place);
    match wanted {
        Some(wanted) if published.firmware.is_none() => {
            let entries = Entries::read(place)?;
            // The start first: whatever breaks off behind it, the slot that is well is the next.
            if let Some(next) = wanted.next {
                entries.arrange(&Wanted { order: entries.order(), next: Some(next) }, place)?;
            }
            keep(&before, &record, place)?;
            Entries::read(place)?.arrange(&wanted, place)?;
        }
        // This firmware takes no requests, which is an alarm already; the record is what counts.
        Some(_) | None => keep(&before, &record, place)?,
    }
    if !was_good {
        log::info!(event = "preferred", slot = running.letter(); "this slot has shown that it works");
    }
    publish(&Starts { fallback: record.fallback, ..published }, place)
}

/// Whether the other slot than `running` may be written.
///
/// # Errors
/// This slot has not shown that it works, or the firmware could not try another.
pub fn may_install(running: Slot, place: &Place) -> Result<(), HelperError> {
    if load(place)?.is_some_and(|record| !record.is_good(running)) {
        return Err(super::update::refused(
            "the image that runs has not shown that it works; the other slot is what the box falls back to",
            "wait until its trial has ended; `postern update status` says so",
        ));
    }
    match published(place).firmware {
        None => Ok(()),
        Some(firmware) => Err(super::update::refused(
            format!("a new image could not be tried: {}", firmware.what),
            "mend what it names and restart the box",
        )),
    }
}

/// Before the other slot than `running` is written: from here on it counts as broken.
///
/// # Errors
/// Disk or firmware would not.
pub fn installing(running: Slot, place: &Place) -> Result<(), HelperError> {
    let _one_at_a_time = lock(place)?;
    let before = load(place)?.unwrap_or_else(|| Record::first(running, true));
    let record = before.clone().installing(running);
    keep(&before, &record, place)?;
    let entries = Entries::read(place)?;
    if entries.next() == Some(running.other()) {
        entries.forget_next(place)?;
    }
    publish(&Starts { fallback: record.fallback, ..published(place) }, place)
}

/// The installation has ended: with this version in the slot that was written, or with nothing to try.
///
/// # Errors
/// The disk would not; the next start concludes.
pub fn installed(version: Option<&str>, place: &Place) -> Result<(), HelperError> {
    let _one_at_a_time = lock(place)?;
    match load(place)? {
        Some(before) => keep(&before, &before.clone().installed(version), place),
        None => Ok(()),
    }
}

/// Adds what the run before has left as a reason, once it can be read.
///
/// # Errors
/// The disk would not.
pub fn explain(since: Timestamp, why: &str, place: &Place) -> Result<(), HelperError> {
    let _one_at_a_time = lock(place)?;
    let Some(before) = load(place)? else { return Ok(()) };
    let mut record = before.clone();
    let Some(fallback) = record.fallback.as_mut().filter(|fallback| fallback.since >= since) else { return Ok(()) };
    let name =
        Slot::named(&fallback.slot).map_or_else(String::new, |slot| rules::named(slot, fallback.version.as_deref()));
    fallback.reason.what = format!("{name} stopped: {why}");
    keep(&before, &record, place)?;
    publish(&Starts { fallback: record.fallback, ..published(place) }, place)
}

/// An operator has taken note of the fallback; whether there was one to take note of.
///
/// # Errors
/// The disk or the firmware would not.
pub fn acknowledge(running: Slot, place: &Place) -> Result<bool, HelperError> {
    let _one_at_a_time = lock(place)?;
    let Some(before) = load(place)? else { return Ok(false) };
    if before.fallback.as_ref().is_none_or(|fallback| fallback.acknowledged) {
        return Ok(false);
    }
    let (record, wanted) = before.clone().acknowledged(running);
    keep(&before, &record, place)?;
    if let Some(wanted) = wanted {
        Entries::read(place)?.arrange(&wanted, place)?;
    }
    publish(&Starts { fallback: record.fallback, ..published(place) }, place)?;
    Ok(true)
}

/// What the daemon may know of it: written by root, in a folder of root's.
#[must_use]
pub fn published(place: &Place) -> Starts {
    read(&place.at(STARTS))
}

/// What stands in the file of [`published`].
#[must_use]
pub fn read(path: &Path) -> Starts {
    let text = files::read(path, MOST_PUBLISHED).ok();
    text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

fn publish(starts: &Starts, place: &Place) -> Result<(), HelperError> {
    let text = serde_json::to_vec(starts).map_err(io::Error::from);
    text.and_then(|text| files::replace(&place.at(STARTS), &text))
        .map_err(|error| HelperError::failed(format!("{STARTS} can't be written: {error}"), "restart the box"))
}

/// What comes first where the firmware takes no request for one start.
fn without_next(wanted: &Wanted) -> Wanted {
    let mut order = wanted.order.clone();
    order.sort_by_key(|slot| Some(*slot) != wanted.next);
    Wanted { order, next: None }
}

fn keep(before: &Record, record: &Record, place: &Place) -> Result<(), HelperError> {
    if before == record { Ok(()) } else { store(record, place) }
}

fn store(record: &Record, place: &Place) -> Result<(), HelperError> {
    let write = || {
        let text = serde_json::to_vec(record)?;
        let file = OpenOptions::new().read(true).write(true).open(place.at(PLAIN))?;
        COPIES.store(&file, &text)
    };
    write().map_err(|error: io::Error| unusable("written", &error))
}

fn lock(place: &Place) -> Result<Flock<File>, HelperError> {
    let locked = files::open(&place.at(STARTS_LOCK))
        .and_then(|file| Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.into()));
    locked.map_err(|error| HelperError::failed(format!("{STARTS_LOCK} can't be locked: {error}"), "restart the box"))
}

fn unusable(how: &str, error: &io::Error) -> HelperError {
    HelperError::failed(
        format!("the record of starts can't be {how}: {error}"),
        "check the disk; install the image again if the plain partition is missing",
    )
}
