//! The data partition.
//!
//! Job: see to it that there is a `/data` in every state: the data partition where the TPM opens it, else a small
//! tmpfs with the reason beside it; open, seal and enrol by a passphrase of the recovery key. Place: `postern helper
//! data` behind the mount and before the daemon; the rest is asked for by the daemon. Invariants: a partition that does
//! not open is never written to; a boot that the TPM would not have opened is not sealed to, nor one without Secure
//! Boot (`firmware`). A crash while sealing can leave no slot for the TPM: the passphrases open, and the next start asks for
//! the recovery key; one while a passphrase is changed leaves the one of before or both. An unlocking that breaks off is
//! done to its end by the next, and until then the box counts as locked.
//!
//! The TPM opens the partition only until the phase "sysinit" is measured, so that no later program can use it for that.
//! What enrols a slot afterwards needs a passphrase: a random one, made while the TPM still answers, stands on the
//! partition itself, where only who has its content already can read it.

use super::{
    HelperError,
    files::{remove, replace},
    firmware,
    paths::{BY_KEY, DATA as PARTITION, LOCKED, TWO_DISKS},
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
    io::{Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, chown},
    path::Path,
    time::Duration,
};
use zeroize::Zeroizing;

const MAPPED: &str = "/dev/mapper/data";
const FOLDER: &str = "/data";
/// The passphrase for enrolling others, on the partition itself.
const OWN_SLOT: &str = "/data/.keyslot";
/// By which systemd's tools test whether a slot would open.
const SIGNATURE: &str = "/run/systemd/tpm2-pcr-signature.json";
/// More than any such passphrase has.
const LONGEST_SLOT: u64 = 256;
/// What cryptsetup(8) ends with where no key slot opens by a passphrase.
const WRONG_PASSPHRASE: i32 = 2;
/// e2fsck(8): up to here all errors were corrected (1), if there were any; 2 asks for a restart where it is the root.
const CORRECTED: i32 = 3;
/// A journal is replayed in seconds; a full check of a large partition takes minutes.
const CHECK: Duration = Duration::from_secs(150);
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
    if reason.is_none()
        && let Err(error) = own_slot(None, place)
    {
        log::error!(error:%; "no recovery key can be enrolled for the data partition");
    }
}

/// Opens the partition, mounts it over the tmpfs, and has the journal go on there. Each step is left out where it is done
/// already, so that asking again ends what broke off.
pub fn unlock(passphrase: &Passphrase, place: &Place) -> Result<(), HelperError> {
    let mounted = is_mounted(place);
    if !mounted && !place.at(MAPPED).exists() {
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
    let in_run = |error: std::io::Error| {
        HelperError::failed(
            format!("the state of the data partition can't be written down: {error}"),
            "restart the box",
        )
    };
    // Before anything that could break off: until it is sealed anew, the next start asks again.
    replace(&place.at(BY_KEY), b"").map_err(in_run)?;
    if !mounted {
        mount_data(place)?;
    }
    folders(place)?;
    if let Err(error) = own_slot(Some(passphrase), place) {
        log::error!(error:%; "no recovery key can be enrolled for the data partition");
    }
    remove(&place.at(LOCKED)).map_err(in_run)?;
    keep_journal(place);
    Ok(())
}

/// What a start with an open partition does by itself (board/common/README.md, step 6). The box is open without it.
fn keep_journal(place: &Place) {
    let steps = [("systemctl", &["start", "var-log-journal.mount"][..]), ("journalctl", &["--flush"])];
    for (program, arguments) in steps {
        if let Err(error) = Program::new(program, arguments).succeed(place) {
            log::error!(error:%; "the journal stays in memory until the next start");
            return;
        }
    }
}

/// Binds the partition to this TPM, this firmware's policy key and this boot.
pub fn seal(passphrase: &Passphrase, place: &Place) -> Result<(), HelperError> {
    firmware::may_seal(place)?;
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
    // The tool would test the new slot by the signature, which is for a moment that is over: without it, it does not.
    let (signature, aside) = (place.at(SIGNATURE), place.at(SIGNATURE).with_extension("aside"));
    let moved = fs::rename(&signature, &aside).is_ok();
    let key = format!("--tpm2-public-key={}", place.at("/usr/share/postern/policy-public.pem").display());
    let secrets = [("PASSWORD", passphrase.expose())];
    let arguments = ["--tpm2-device=auto", &key, "--tpm2-public-key-pcrs=11", "--tpm2-pcrs=7+12"];
    // By itself, before: the tool adds nothing beside a slot with the same policy, be it another TPM's. A power cut between
    // leaves the passphrases, one of which was just given.
    let sealed = enroll(&["--wipe-slot=tpm2"], &secrets, place).and_then(|_| enroll(&arguments, &secrets, place));
    if moved && let Err(error) = fs::rename(&aside, &signature) {
        log::warn!(error:%; "the signature is back only after the next start");
    }
    sealed?;
    remove(&place.at(BY_KEY)).map_err(|error| {
        HelperError::failed(format!("{BY_KEY} can't be removed: {error}"), "restart the box, which is sealed to it now")
    })
}

/// Lets the passphrase open the partition, and no earlier one.
pub fn enrol_recovery(passphrase: &Passphrase, place: &Place) -> Result<(), HelperError> {
    let mut own = Zeroizing::new(String::new());
    let read = fs::File::open(place.at(OWN_SLOT)).and_then(|file| file.take(LONGEST_SLOT).read_to_string(&mut own));
    read.map_err(|error| {
        HelperError::failed(
            format!("the data partition's own passphrase can't be read: {error}"),
            "restart the box, which makes it anew, then confirm the recovery key again",
        )
    })?;
    let arguments = ["--password", "--wipe-slot=password"];
    let secrets = [("PASSWORD", own.trim_end()), ("NEWPASSWORD", passphrase.expose())];
    enroll(&arguments, &secrets, place).map(drop)
}

/// Makes the random passphrase where there is none yet: by the TPM early in the boot, else by `passphrase`.
fn own_slot(passphrase: Option<&Passphrase>, place: &Place) -> Result<(), HelperError> {
    let path = place.at(OWN_SLOT);
    if path.exists() {
        return Ok(());
    }
    let made = Zeroizing::new(match passphrase {
        Some(passphrase) => {
            enroll(&["--recovery-key", "--wipe-slot=recovery"], &[("PASSWORD", passphrase.expose())], place)?
        }
        None => enroll(&["--recovery-key", "--wipe-slot=recovery", "--unlock-tpm2-device=auto"], &[], place)?,
    });
    let write = || {
        let new = path.with_extension("new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(made.trim().as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        fs::File::open(place.at(FOLDER))?.sync_all()
    };
    write().map_err(|error| {
        HelperError::failed(format!("{OWN_SLOT} can't be written: {error}"), "check the data disk and its free space")
    })
}

/// systemd-cryptenroll(1) on the partition; gives what it prints, which is a new passphrase or nothing.
fn enroll(arguments: &[&str], secrets: &[(&'static str, &str)], place: &Place) -> Result<String, HelperError> {
    let partition = place.at(PARTITION);
    let partition = partition.to_string_lossy();
    let arguments: Vec<&str> = arguments.iter().copied().chain([&*partition]).collect();
    let program = secrets.iter().fold(Program::new("systemd-cryptenroll", &arguments), |program, (name, secret)| {
        program.variable(name, secret)
    });
    program.within(SLOW).succeed(place)
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
    if let Ok(reason) = fs::read_to_string(place.at(TWO_DISKS)) {
        return Some(reason.trim().to_owned());
    }
    let reason = if place.at(MAPPED).exists() {
        match mount_data(place) {
            Ok(()) => return None,
            Err(error) => error.to_string(),
        }
    } else if !place.at("/dev/tpmrm0").exists() {
        "this machine has no TPM, or its firmware hides it; switch the TPM on in the firmware's setup and start again"
            .to_owned()
    } else if !place.at(PARTITION).exists()
        && let Err(refusal) = firmware::may_seal(place)
    {
        refusal.to_string()
    } else if !place.at(PARTITION).exists() {
        "there is no data partition on this disk; start again, and replace the disk if it is missing then too"
            .to_owned()
    } else if !has_header(&place.at(PARTITION)) {
        "the data partition is damaged: it has no key slots any more; replace the disk, or make the box as new by a \
         factory reset"
            .to_owned()
    } else if !place.at(SIGNATURE).exists() {
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

/// As data.mount does: checked before, and read-only from the first error on.
fn mount_data(place: &Place) -> Result<(), HelperError> {
    let (device, target) = (place.at(MAPPED), place.at(FOLDER));
    check(&device, place);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
    mount(Some(&device), &target, Some("ext4"), flags, Some("errors=remount-ro")).map_err(|error| {
        HelperError::failed(
            format!("the file system of the data partition can't be mounted: {error}"),
            "restart the box; if it comes back, replace the disk or make the box as new by a factory reset",
        )
    })
}

/// Makes good what a power cut left. What it can't is mounted all the same, as at every start: the file system goes
/// read-only where it meets it.
fn check(device: &Path, place: &Place) {
    let device = device.to_string_lossy();
    let program = Program::new("e2fsck", &["-p", &device]).within(CHECK);
    match program.run(place) {
        Ok(ended) if ended.status.code().is_some_and(|code| code <= CORRECTED) => {}
        Ok(ended) => log::error!(error:% = program.ended_badly(&ended); "the data partition has errors"),
        Err(error) => log::error!(error:%; "the data partition is not checked"),
    }
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
        [("postern", uid, gid, 0o700), ("journal", root, journal, 0o2755), ("update", root, Gid::from_raw(0), 0o755)]
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
