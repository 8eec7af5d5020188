//! The data partition.
//!
//! Job: see to it that there is a `/data` in every state: the data partition where the TPM opens it, else a small
//! tmpfs with the reason beside it; open, seal and enrol by a passphrase of the recovery key. Place: `postern helper
//! data` behind the mount and before the daemon; the rest is asked for by the daemon. Invariants: a partition that does
//! not open is never written to; a boot that the TPM would not have opened is not sealed to. A crash leaves the key slots
//! of before or of after: the tool writes the new one before it wipes an old one.

use super::{
    HelperError,
    network::replace,
    place::Place,
    program::Program,
    protocol::{ErrorKind, Passphrase},
};
use nix::{
    mount::{MsFlags, mount},
    unistd::{Gid, Group, Uid, User},
};
use std::{
    fs,
    io::Read,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    time::Duration,
};

/// The encrypted partition.
pub const PARTITION: &str = "/dev/disk/by-partlabel/data";
const MAPPED: &str = "/dev/mapper/data";
const FOLDER: &str = "/data";
/// There while `/data` is a tmpfs; holds why.
const LOCKED: &str = "/run/postern/data-locked";
/// What cryptsetup(8) ends with where no key slot opens by a passphrase.
const WRONG_PASSPHRASE: i32 = 2;
/// Deriving a key from a passphrase takes seconds by intent, and more on a slow box; the TPM's part takes seconds too.
const SLOW: Duration = Duration::from_secs(120);

/// `postern helper data`
pub fn data(place: &Place) {
    let reason = if is_mounted(place) { None } else { why_locked(place) };
    if let Some(reason) = &reason {
        log::error!(event = "data_locked", reason:%; "the data partition is not open");
        if let Err(error) = stand_in(reason, place) {
            log::error!(error:%; "there is no data folder");
        }
    }
    if let Err(error) = folders(place) {
        log::error!(error:%; "the data folder can't be used");
    }
}

/// Opens the partition and mounts it over the tmpfs.
pub fn unlock(passphrase: &Passphrase, place: &Place) -> Result<(), HelperError> {
    if is_mounted(place) {
        return Err(refused("the data partition is open", "nothing needs to be done"));
    }
    if !place.at(MAPPED).exists() {
        let partition = place.at(PARTITION);
        let partition = partition.to_string_lossy();
        let arguments = ["open", "--type", "luks2", "--key-file", "-", &partition, "data"];
        let program = Program::new("cryptsetup", &arguments).input(passphrase.expose().as_bytes()).within(SLOW);
        let ended = program.run(place)?;
        if ended.status.code() == Some(WRONG_PASSPHRASE) {
            return Err(refused(
                "these words do not open the data partition",
                "enter the recovery key that was confirmed last on this machine",
            ));
        }
        if !ended.status.success() {
            return Err(program.ended_badly(&ended));
        }
    }
    mount_data(place)?;
    folders(place)?;
    match fs::remove_file(place.at(LOCKED)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(HelperError::failed(format!("{LOCKED} can't be removed: {error}"), "restart the box"))
        }
        _ => Ok(()),
    }
}

/// Binds the partition to this TPM, this firmware's policy key and this boot.
pub fn seal(passphrase: &Passphrase, place: &Place) -> Result<(), HelperError> {
    // To what somebody has appended to the command line nothing may be sealed: it would open for him from now on.
    match pcr(12, place) {
        Some(pcr) if is_zero(&pcr) => {}
        _ => {
            return Err(refused(
                "PCR 12 is not zero: the kernel command line was changed",
                "start without the added command line, then unlock again",
            ));
        }
    }
    let partition = place.at(PARTITION);
    let (key, signature) =
        (place.at("/usr/share/postern/policy-public.pem"), place.at("/run/systemd/tpm2-pcr-signature.json"));
    let key = format!("--tpm2-public-key={}", key.display());
    let signature = format!("--tpm2-signature={}", signature.display());
    let arguments = [
        "--wipe-slot=tpm2",
        "--tpm2-device=auto",
        &key,
        "--tpm2-public-key-pcrs=11",
        "--tpm2-pcrs=7+12",
        &signature,
        &partition.to_string_lossy(),
    ];
    let program = Program::new("systemd-cryptenroll", &arguments).variable("PASSWORD", passphrase.expose());
    program.within(SLOW).succeed(place).map(drop)
}

/// Lets the passphrase open the partition, and no earlier one.
pub fn enrol_recovery(passphrase: &Passphrase, place: &Place) -> Result<(), HelperError> {
    let partition = place.at(PARTITION);
    let arguments = ["--unlock-tpm2-device=auto", "--password", "--wipe-slot=password", &partition.to_string_lossy()];
    let program = Program::new("systemd-cryptenroll", &arguments).variable("NEWPASSWORD", passphrase.expose());
    program.within(SLOW).succeed(place).map(drop)
}

fn refused(what: &str, remedy: &str) -> HelperError {
    HelperError::new(ErrorKind::Refused, what, remedy)
}

/// Whether what is mounted last at `/data` is the data partition (proc_pid_mountinfo(5)).
fn is_mounted(place: &Place) -> bool {
    let mounts = fs::read_to_string(place.at("/proc/self/mountinfo")).unwrap_or_default();
    is_ours(&mounts)
}

fn is_ours(mounts: &str) -> bool {
    let mut at_data = mounts.lines().filter(|line| line.split(' ').nth(4) == Some(FOLDER));
    let source = |line: &str| line.split_once(" - ")?.1.split(' ').nth(1).map(|source| source == MAPPED);
    at_data.next_back().and_then(source).unwrap_or(false)
}

/// Why it is not open, as far as can be told without its key. Tries what may have failed by chance.
fn why_locked(place: &Place) -> Option<String> {
    let reason = if place.at(MAPPED).exists() {
        match mount_data(place) {
            Ok(()) => return None,
            Err(error) => error.to_string(),
        }
    } else if !place.at("/dev/tpmrm0").exists() {
        "this machine has no TPM, or its firmware hides it; switch the TPM on in the firmware's setup and start again"
            .to_owned()
    } else if !place.at(PARTITION).exists() {
        "there is no data partition on this disk; start again, and replace the disk if it is missing then too"
            .to_owned()
    } else if !has_header(&place.at(PARTITION)) {
        "the data partition is damaged: it has no key slots any more; replace the disk, or make the box as new by a \
         factory reset"
            .to_owned()
    } else if !place.at("/run/systemd/tpm2-pcr-signature.json").exists() {
        "this image has no signatures for the TPM; start the other slot, or enter the recovery key".to_owned()
    } else if pcr(12, place).is_some_and(|pcr| !is_zero(&pcr)) {
        "PCR 12 is not zero: the kernel command line was changed; start without the added command line, or enter the \
         recovery key"
            .to_owned()
    } else {
        "the TPM does not open the data partition: Secure Boot was changed, the firmware is not the vendor's, or this \
         is another TPM; enter the recovery key"
            .to_owned()
    };
    Some(reason)
}

/// A LUKS2 header's magic, first or second copy's (LUKS2 On-Disk Format, §2.1).
fn has_header(partition: &Path) -> bool {
    let mut magic = [0; 6];
    let read = fs::File::open(partition).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == *b"LUKS\xba\xbe"
}

/// A PCR of the SHA-256 bank in hexadecimal digits, as the kernel tells it.
fn pcr(number: u8, place: &Place) -> Option<String> {
    let file = place.at("/sys/class/tpm/tpm0/pcr-sha256").join(number.to_string());
    fs::read_to_string(file).ok().map(|text| text.trim().to_owned())
}

fn is_zero(pcr: &str) -> bool {
    pcr.len() == 64 && pcr.bytes().all(|digit| digit == b'0')
}

fn mount_data(place: &Place) -> Result<(), HelperError> {
    let (device, target) = (place.at(MAPPED), place.at(FOLDER));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
    mount(Some(&device), &target, Some("ext4"), flags, None::<&str>).map_err(|error| {
        HelperError::failed(
            format!("the file system of the data partition can't be mounted: {error}"),
            "restart the box; if it comes back, replace the disk or make the box as new by a factory reset",
        )
    })
}

/// A folder in memory, so that the daemon has where to stand; what is written there ends with this boot.
fn stand_in(reason: &str, place: &Place) -> Result<(), HelperError> {
    let failed = |error: &dyn std::fmt::Display| {
        HelperError::failed(format!("{FOLDER} can't be made: {error}"), "restart the box")
    };
    replace(&place.at(LOCKED), format!("{reason}\n").as_bytes()).map_err(|error| failed(&error))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), &place.at(FOLDER), Some("tmpfs"), flags, Some("size=64m,mode=0755"))
        .map_err(|error| failed(&error))
}

/// The folders of those who write there. Names that this system does not have are root's.
fn folders(place: &Place) -> Result<(), HelperError> {
    let user = User::from_name("postern").ok().flatten();
    let (uid, gid) = user.map_or((Uid::from_raw(0), Gid::from_raw(0)), |user| (user.uid, user.gid));
    let journal = Group::from_name("systemd-journal").ok().flatten().map_or(Gid::from_raw(0), |group| group.gid);
    let root = Uid::from_raw(0);
    for (name, uid, gid, mode) in
        [("postern", uid, gid, 0o700), ("journal", root, journal, 0o2755), ("update", uid, gid, 0o755)]
    {
        let folder = place.at(FOLDER).join(name);
        let made = fs::create_dir_all(&folder)
            .and_then(|()| chown(&folder, Some(uid.as_raw()), Some(gid.as_raw())))
            .and_then(|()| fs::set_permissions(&folder, fs::Permissions::from_mode(mode)));
        made.map_err(|error| {
            HelperError::failed(
                format!("{} can't be made: {error}", folder.display()),
                "restart the box; replace the disk if it comes back",
            )
        })?;
    }
    Ok(())
}
