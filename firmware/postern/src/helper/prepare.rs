//! `postern helper prepare`: the first of ours in every boot.
//!
//! Job: find the running slot, hand the signatures on its boot partition to those who unseal with them, count this start
//! and arrange the next ([`super::starts`]), render the network. Place: before the data partition is made or opened. Invariants: no step's failure stops
//! the boot or another step: a box that can't do one of them still starts, says so, and can be mended over its console;
//! what is read from the boot partition, which is not verified, is bounded, and believed by nobody but those who check
//! its signatures. A crash leaves files in `/run`, which the next start makes anew.

use super::{
    HelperError, disk,
    files::{self, replace},
    firmware, network,
    paths::{BOOT, RUN, SIGNATURES, SLOT, TWO_DISKS, UPDATE_VARIANT},
    place::Place,
    slot::Slot,
    starts, update,
};
use crate::plain::area;
use nix::mount::{MsFlags, mount};
use settings::Addressing;
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// Signatures for each generation and phase take a tenth of it.
const LONGEST_SIGNATURES: u64 = 256 * 1024;
/// How long the kernel may take to find its disk again after it has mounted its root from there.
const PATIENCE: Duration = Duration::from_secs(10);

/// Does every step; what fails is logged.
pub fn prepare(place: &Place) {
    attempt("root's own folder is missing", make_folder(place));
    attempt("no data partition is made", firmware::tell(place));
    let slot = attempt("the running slot is unknown", running_slot(place));
    if let Some(slot) = slot {
        attempt("the running slot is not written down", write_slot(slot, place));
        // Of two disks nobody knows which is the own one: without signatures neither is opened, and neither is counted on.
        if attempt("the box stays locked", alone(place)).is_none() {
            return network_of(None, place);
        }
        attempt("the boot partition is not mounted", mount_boot(slot, place));
        for (from, to) in
            [("pcr-signature.json", "/run/systemd/tpm2-pcr-signature.json"), ("policy-signatures.json", SIGNATURES)]
        {
            attempt("signatures are missing: keys will stay locked", hand_on(from, to, place));
        }
        let version = update::running_version(place);
        let counted = starts::at_start(slot, version.as_deref(), place);
        attempt("the firmware may not fall back by itself", counted);
    }
    let plain = attempt("the box's own address is unknown: DHCP is tried", area::read(place)).flatten();
    network_of(plain.and_then(|plain| plain.network).as_ref(), place);
}

fn network_of(network: Option<&Addressing>, place: &Place) {
    attempt("the network is not set up", network::write(network, place));
}

/// Says why, where there is another disk of ours.
fn alone(place: &Place) -> Result<(), HelperError> {
    let path = place.at(TWO_DISKS);
    disk::only_one(place).inspect_err(|error| {
        attempt("the reason is not written down", {
            replace(&path, format!("{error}\n").as_bytes()).map_err(|error| unwritable(&path, &error))
        });
    })
}

fn attempt<T>(otherwise: &str, done: Result<T, HelperError>) -> Option<T> {
    done.inspect_err(|error| log::error!(event = "prepare_failed", error:%; "{otherwise}")).ok()
}

/// Root's folder for what the others read: nobody else writes in it.
fn make_folder(place: &Place) -> Result<(), HelperError> {
    let folder = place.at(RUN);
    fs::create_dir_all(&folder).map_err(|error| unwritable(&folder, &error))?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).map_err(|error| unwritable(&folder, &error))
}

fn running_slot(place: &Place) -> Result<Slot, HelperError> {
    let remedy = "this image is damaged or was started by other means; install it again";
    let command_line = fs::read_to_string(place.at("/proc/cmdline"))
        .map_err(|error| HelperError::failed(format!("the kernel's command line can't be read: {error}"), remedy))?;
    Slot::of(&command_line)
        .ok_or_else(|| HelperError::failed("the kernel's command line has no postern.slot=a or b", remedy))
}

fn write_slot(slot: Slot, place: &Place) -> Result<(), HelperError> {
    let files = [(SLOT, slot), (UPDATE_VARIANT, slot.other())];
    files.iter().try_for_each(|(path, slot)| {
        let path = place.at(path);
        replace(&path, format!("{}\n", slot.letter()).as_bytes()).map_err(|error| unwritable(&path, &error))
    })
}

/// Read-only, and nothing on it runs or is anybody's but root's.
fn mount_boot(slot: Slot, place: &Place) -> Result<(), HelperError> {
    let (device, target) = (place.at(slot.boot_partition()), place.at(BOOT));
    if target.join("postern").exists() {
        return Ok(());
    }
    let until = Instant::now() + PATIENCE;
    while !device.exists() && Instant::now() < until {
        thread::sleep(Duration::from_millis(50));
    }
    fs::create_dir_all(&target).map_err(|error| unwritable(&target, &error))?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(&device), &target, Some("vfat"), flags, Some("umask=0077")).map_err(|error| {
        HelperError::failed(
            format!("{} can't be mounted: {error}", device.display()),
            "start the other slot and install the image again",
        )
    })
}

fn hand_on(from: &str, to: &str, place: &Place) -> Result<(), HelperError> {
    let (source, target) = (place.at(BOOT).join("postern").join(from), place.at(to));
    let content = files::read(&source, LONGEST_SIGNATURES).map_err(|error| {
        HelperError::failed(
            format!("{} can't be read: {error}", source.display()),
            "start the other slot and install the image again",
        )
    })?;
    replace(&target, &content).map_err(|error| unwritable(&target, &error))
}

fn unwritable(path: &Path, error: &io::Error) -> HelperError {
    HelperError::failed(
        format!("{} can't be written: {error}", path.display()),
        "restart the box; install the image again if it comes back",
    )
}
