//! Updates of the image, as root.
//!
//! Job: install a bundle into the slot that does not run, know whether the image that runs is on trial, mark it good or
//! give it up. Place: the requests come from the daemon (`serve`); [`at_boot`] runs in `postern helper data`, before the
//! daemon; which slot the firmware starts is [`super::starts`]' alone. Invariants: the running slot is never written, nor
//! the other one while the running one has not shown that it works, nor while RAUC is still at work; RAUC checks signature
//! and kind, and the floor is checked here too; the record says what is about to happen before it happens; a slot is
//! marked good only on request of a health check that passed. A crash or a power cut at any point leaves the record, from
//! which the next start concludes ([`trial`]).
//!
//! ```text
//! InstallBundle ─▶ record "installing" ─▶ rauc install (BootNext = the other slot) ─▶ record "installed" ─▶ reboot
//! at_boot ─▶ record "trial" ─▶ postern-trial.service ─▶ healthy: MarkGood ─▶ record "done"
//!                                                    └▶ not: GiveUpTrial ─▶ last words ─▶ reboot, the old slot runs
//! ```

mod rauc;
pub mod record;
pub mod trial;
mod version;
pub(super) mod words;

use super::{
    HelperError, Place,
    boot_entries::Entries,
    files,
    paths::{GOOD, SLOT, UPDATE_LOCK},
    power,
    protocol::ErrorKind,
    slot::Slot,
    starts,
};
use jiff::{SignedDuration, Timestamp};
use nix::fcntl::{Flock, FlockArg};
use operator::update::{OnSlot, Reason, SlotReport, Update, UpdateReport, UpdateState};
use serde::Deserialize;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};
use trial::Boot;
use version::Version;

/// Where bundles may lie: put there by root, or fetched by the daemon into a folder of its own.
const SOURCES: [&str; 2] = ["/data/update", "/data/postern/update"];
/// What the image says of itself; part of the verified root.
const IMAGE: &str = "/usr/share/postern/image.json";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// `image.json`, as far as updates need it.
#[derive(Debug, Deserialize)]
struct Image {
    version: String,
    floor: String,
    board: String,
}

impl Image {
    /// What RAUC's configuration calls this kind of box.
    fn compatible(&self) -> String {
        format!("postern-{}", self.board)
    }
}

/// Installs the bundle at `source`, an absolute path; `reboot`: and begins the restart that tries it.
///
/// # Errors
/// Why not, in two halves; the image that runs was not touched.
pub fn install(source: &str, reboot: bool, place: &Place) -> Result<(), HelperError> {
    let _one = one_at_a_time(place)?;
    if !rauc::is_idle(place) {
        return Err(under_way());
    }
    settle(place);
    let path = source_file(source, place)?;
    let (slot, image) = (running_slot(place)?, image(place)?);
    if record::load(place).is_some_and(|update| update.state == UpdateState::Trial && update.to.slot == slot.letter()) {
        return Err(refused(
            "the image that runs is still on trial; the other slot is what the box falls back to",
            "wait until the trial has ended; `postern update status` says so",
        ));
    }
    starts::may_install(slot, place)?;
    let bundle = rauc::look(&path, place)?;
    let version = admit(&bundle, &image)?;
    let update = Update {
        state: UpdateState::Installing,
        from: OnSlot { slot: slot.letter().to_owned(), version: image.version },
        to: OnSlot { slot: slot.other().letter().to_owned(), version },
        since: Timestamp::now(),
        boot: boot_id(place),
        reason: None,
        acknowledged: false,
    };
    record::store(&update, place)?;
    starts::installing(slot, place)?;
    match rauc::install(&path, place) {
        Ok(()) => {}
        // It took too long for us, not for RAUC.
        Err(_) if !rauc::is_idle(place) => {
            return Err(HelperError::failed(
                "the installation takes longer than was waited for, and goes on",
                "look at `postern update status` until it has ended, then restart the box",
            ));
        }
        Err(error) => {
            ended(&update, Some(&error), place)?;
            return Err(error);
        }
    }
    ended(&update, None, place)?;
    if reboot { power::reboot(place) } else { Ok(()) }
}

/// Writes down how an installation ended. Without it the next start finds "installing" on the new slot, which is a trial
/// too.
fn ended(update: &Update, error: Option<&HelperError>, place: &Place) -> Result<(), HelperError> {
    let version = error.is_none().then_some(update.to.version.as_str());
    starts::installed(version, place)?;
    let reason = error.map(|error| Reason { what: error.what.clone(), remedy: error.remedy.clone() });
    let state = if error.is_none() { UpdateState::Installed } else { UpdateState::Failed };
    record::store(&Update { state, reason, since: Timestamp::now(), ..update.clone() }, place)?;
    if error.is_none() {
        log::info!(event = "update_installed", from = update.from.version.as_str(), to = update.to.version.as_str(); "installed");
    }
    Ok(())
}

/// Concludes an installation of this boot that ended with nobody waiting for it. RAUC must be idle, and the caller hold
/// the right to install.
fn settle(place: &Place) {
    let begun =
        record::load(place).filter(|update| update.state == UpdateState::Installing && update.boot == boot_id(place));
    let Some(update) = begun else { return };
    // The request for its start is the last thing that RAUC does.
    let whole = Entries::read(place).is_ok_and(|entries| entries.next() == Slot::named(&update.to.slot));
    let broken =
        HelperError::failed("the installation ended early", "look at the log of rauc, and install the update again");
    if let Err(error) = ended(&update, (!whole).then_some(&broken), place) {
        log::error!(error:%; "how the installation ended can't be written down");
    }
}

/// What an installation under way does; one that ended with nobody waiting is concluded. The right to install is asked for
/// only then, so that nobody who looks keeps anybody from installing.
fn progress(place: &Place) -> Option<String> {
    record::load(place).filter(|update| update.state == UpdateState::Installing)?;
    match one_at_a_time(place) {
        Err(_) => rauc::progress(place),
        Ok(_one) if rauc::is_idle(place) => {
            settle(place);
            None
        }
        Ok(_one) => Some("still under way".to_owned()),
    }
}

/// Slots, record and progress.
///
/// # Errors
/// The record of starts can't be read.
pub fn status(place: &Place) -> Result<UpdateReport, HelperError> {
    let progress = progress(place);
    let running = running_slot(place)?;
    let starts = starts::load(place)?;
    let next = Entries::read(place).ok().and_then(|entries| entries.starts_next());
    let slots = Slot::BOTH.map(|slot| SlotReport {
        name: slot.letter().to_owned(),
        version: starts.as_ref().and_then(|record| record.versions.get(&slot).cloned()),
        running: slot == running,
        good: starts.as_ref().map_or(slot == running, |record| record.is_good(slot)),
        next: next == Some(slot),
    });
    let update = record::load(place);
    Ok(UpdateReport { slots: slots.into(), update, progress, starts: Box::new(starts::published(place)) })
}

/// Keeps the image that runs: its health check has passed.
///
/// # Errors
/// The firmware or the disk would not.
pub fn mark_good(place: &Place) -> Result<(), HelperError> {
    let slot = running_slot(place)?;
    starts::healthy(slot, place)?;
    note_good(place);
    match record::load(place) {
        Some(update) if update.state == UpdateState::Trial && update.to.slot == slot.letter() => {
            log::info!(event = "update_done", version = update.to.version.as_str(); "the new image stays");
            let done = UpdateState::Done;
            record::store(&Update { state: done, since: Timestamp::now(), boot: boot_id(place), ..update }, place)
        }
        _ => Ok(()),
    }
}

/// Gives the image that runs up for the other one, which must be good, and says why to the next start.
///
/// # Errors
/// The image is not on trial, or nothing is there to fall back to; nothing has changed.
pub fn give_up(words: &str, place: &Place) -> Result<(), HelperError> {
    let slot = running_slot(place)?;
    let starts = starts::load(place)?;
    if starts.as_ref().is_none_or(|record| record.is_good(slot)) {
        return Err(refused("the image that runs is not on trial", "look at `postern health`, and mend what it names"));
    }
    if starts.is_none_or(|record| !record.is_good(slot.other())) || starts::published(place).firmware.is_some() {
        return Err(refused(
            "the image that runs is not healthy, and no other can be started in its place",
            "look at `postern health`; install a working image",
        ));
    }
    if let Err(error) = words::leave(words, place) {
        log::error!(error:%; "the last words of this image can't be kept");
    }
    log::error!(event = "update_given_up", words; "the new image is given up; the one before is started");
    power::reboot(place)
}

/// An operator has taken note of why the last update did not stay, or why the preferred slot did not run.
///
/// # Errors
/// There is nothing to take note of, or the disk would not.
pub fn acknowledge(place: &Place) -> Result<(), HelperError> {
    let fell = starts::acknowledge(running_slot(place)?, place)?;
    match record::load(place) {
        Some(update) if update.alarm().is_some() => record::store(&Update { acknowledged: true, ..update }, place),
        _ if fell => Ok(()),
        _ => {
            Err(refused("no update has failed or fallen back since the last acknowledgement", "nothing is to be done"))
        }
    }
}

/// Concludes from the records where slot and update stand after this start. Nothing here keeps a box from starting.
pub fn at_boot(place: &Place) {
    let (words, panic) = (words::take(place), words::take_panic(place));
    for (event, text) in [("words_found", &words), ("panic_found", &panic)] {
        if let Some(text) = text {
            log::warn!(event, text = text.as_str(); "the run before left a reason");
        }
    }
    let slot = match running_slot(place) {
        Ok(slot) => slot,
        Err(error) => return log::error!(error:%; "updates can't be followed"),
    };
    let record = starts::load(place).unwrap_or_else(|error| {
        log::error!(error:%; "the record of starts can't be read; this image counts as a good one");
        None
    });
    let is_good = |slot: Slot| record.as_ref().is_none_or(|record| record.is_good(slot));
    if let Some(why) = words.as_deref().or(panic.as_deref())
        && let Some(up) = up_since(place)
        && let Err(error) = starts::explain(up, why, place)
    {
        log::error!(error:%; "the reason of a fallback can't be kept");
    }
    let mut on_trial = !is_good(slot);
    if let Some(update) = record::load(place) {
        let id = boot_id(place);
        let boot = Boot {
            slot: slot.letter(),
            good: is_good(slot),
            other_good: is_good(slot.other()),
            id: &id,
            last_words: words.as_deref(),
            panic: panic.as_deref(),
            now: Timestamp::now(),
        };
        let after = trial::at_boot(update.clone(), &boot);
        on_trial |= after.state == UpdateState::Trial && after.to.slot == slot.letter();
        if after != update {
            log::warn!(event = "update", before:? = update.state, now:? = after.state; "the update's state has changed");
            if let Err(error) = record::store(&after, place) {
                log::error!(error:%; "where the update stands is concluded again at the next start");
            }
        }
    }
    if on_trial {
        log::warn!(event = "trial", slot = slot.letter(); "this image must show that it works");
    } else {
        note_good(place);
    }
}

fn note_good(place: &Place) {
    if let Err(error) = files::empty(&place.at(GOOD)) {
        log::error!(error:%; "it can't be noted that this image is good");
    }
}

/// Whether the bundle may be installed over this image; its version.
fn admit(bundle: &rauc::Bundle, image: &Image) -> Result<String, HelperError> {
    let own = image.compatible();
    if bundle.compatible != own {
        return Err(refused(
            format!("the bundle is for {:?}, this box is a {own:?}", clean(&bundle.compatible)),
            "get the bundle for this kind of box",
        ));
    }
    let text = bundle.version.as_deref().map(clean).unwrap_or_default();
    let (Some(version), Some(floor)) = (Version::parse(&text), Version::parse(&image.floor)) else {
        return Err(refused(
            format!("the bundle's version {text:?} can't be compared with {:?}", clean(&image.floor)),
            "get a bundle whose version is of the form 1.2.3",
        ));
    };
    if version < floor {
        return Err(refused(
            format!("version {text} is older than {}, the oldest that this box may run", image.floor),
            "install a newer one: the older ones have known holes",
        ));
    }
    Ok(text)
}

/// The file at `source`: a regular one, no link, in a folder for bundles.
fn source_file(source: &str, place: &Place) -> Result<PathBuf, HelperError> {
    let path = Path::new(source);
    let plain = !source.chars().any(char::is_control) && path.components().all(|part| part.as_os_str() != "..");
    if !plain || !SOURCES.iter().any(|folder| path.parent() == Some(Path::new(folder))) {
        return Err(refused(
            "bundles are taken from /data/update only",
            "put the bundle there, or name an https URL to fetch it from",
        ));
    }
    let path = place.at(source);
    match files::open_to_read(&path) {
        Ok(_) => Ok(path),
        Err(error) => Err(refused(format!("{source} can't be read: {error}"), "check the bundle's name")),
    }
}

fn one_at_a_time(place: &Place) -> Result<Flock<File>, HelperError> {
    let path = place.at(UPDATE_LOCK);
    let file = files::open(&path).map_err(|error| {
        HelperError::failed(format!("{} can't be opened: {error}", path.display()), "restart the box")
    })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| under_way())
}

fn under_way() -> HelperError {
    refused(
        "another installation is under way, or RAUC does not answer",
        "wait until it has ended; `postern update status` shows how far it is",
    )
}

fn running_slot(place: &Place) -> Result<Slot, HelperError> {
    let text = fs::read_to_string(place.at(SLOT)).unwrap_or_default();
    Slot::named(text.trim()).ok_or_else(|| {
        HelperError::failed(
            "it is not known which slot runs",
            "restart the box; updates work on an installed appliance only",
        )
    })
}

/// The version of the image that runs.
#[must_use]
pub fn running_version(place: &Place) -> Option<String> {
    image(place).ok().map(|image| image.version)
}

/// When this system was started. The clock may be set later, which only makes a reason that was found older.
fn up_since(place: &Place) -> Option<Timestamp> {
    let text = fs::read_to_string(place.at("/proc/uptime")).ok()?;
    let seconds = text.split('.').next()?.parse().ok()?;
    Timestamp::now().checked_sub(SignedDuration::from_secs(seconds)).ok()
}

fn image(place: &Place) -> Result<Image, HelperError> {
    let text = fs::read(place.at(IMAGE)).map_err(|error| error.to_string());
    text.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string())).map_err(|error| {
        HelperError::failed(format!("{IMAGE} can't be read: {error}"), "this image is incomplete; install it again")
    })
}

fn boot_id(place: &Place) -> String {
    fs::read_to_string(place.at(BOOT_ID)).unwrap_or_default().trim().to_owned()
}

fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && *c != ';').take(60).collect()
}

pub(super) fn refused(what: impl Into<String>, remedy: &str) -> HelperError {
    HelperError::new(ErrorKind::Refused, what, remedy)
}

#[cfg(test)]
mod tests;
