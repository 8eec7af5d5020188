//! Updates of the image, as the daemon's part.
//!
//! Job: fetch what is to be installed, hand it to root's helper, and raise the alarm of an update that did not stay.
//! Place: behind the operators' requests; the helper installs (`helper::update`). Invariants: one download at a time, and
//! never into the reserve of the data partition, which is the queue's; what is fetched lies in a folder of the daemon's
//! own; nothing fetched is believed here, the helper checks its signature. A crash leaves a part of a bundle, which the
//! next start of the daemon removes.

use crate::{
    daemon::Daemon,
    health,
    helper::{
        Request, Response,
        paths::{GOOD, STARTS},
        starts,
        update::record,
    },
};
use aws_lc_rs::digest::{Context, SHA256};
use delivery::{Download, DownloadError};
use jiff::Timestamp;
use operator::{
    Alarm, Fault, Refusal,
    update::{Starts, Update, UpdateReport},
};
use settings::Roots;
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::sync::Mutex;

/// Octets of a bundle: both kernel images and a root of 256 MiB.
const LARGEST: u64 = 512 << 20;
/// Reading, checking and writing it on a slow disk.
const INSTALLATION: Duration = Duration::from_secs(25 * 60);
/// RAUC's service may have to be started first.
const STATUS: Duration = Duration::from_secs(180);
/// Below the data folder: downloads under way.
const FOLDER: &str = "update";
/// What the queue's reserve is where no settings say it.
const RESERVE: u64 = 64 << 20;
/// The right to fetch.
static ONE: Mutex<()> = Mutex::const_new(());

/// Slots, and what became of the last update.
///
/// # Errors
/// There is no helper, or it does not answer.
pub async fn status(daemon: &Daemon) -> Result<UpdateReport, Refusal> {
    match daemon.helper()?.call_within(Request::UpdateStatus, STATUS).await? {
        Response::Update(report) => Ok(report),
        _ => Err(Refusal::new(Fault::Failed, "the helper gave another answer than was asked for", "restart the box")),
    }
}

/// Fetches where `source` is a URL, installs, and begins the restart if `reboot`.
///
/// # Errors
/// Why not; the image that runs was not touched.
pub async fn install(
    daemon: &Daemon,
    source: String,
    sha256: Option<String>,
    reboot: bool,
) -> Result<UpdateReport, Refusal> {
    let helper = daemon.helper()?;
    let fetched = source.starts_with("https://");
    let _one_at_a_time = if fetched { Some(ONE.try_lock().map_err(|_| under_way())?) } else { None };
    let path = if fetched { fetch(daemon, &source).await? } else { PathBuf::from(&source) };
    let checked = match sha256 {
        Some(wanted) => matches(path.clone(), wanted).await,
        None => Ok(()),
    };
    let installed = match checked {
        Ok(()) => {
            health::note_before_update(daemon).await;
            let request = Request::InstallBundle { source: path.display().to_string(), reboot };
            helper.call_within(request, INSTALLATION).await.map_err(Refusal::from)
        }
        Err(refusal) => Err(refusal),
    };
    if fetched {
        // The next download replaces what can't be removed now.
        let _ = fs::remove_file(&path);
    }
    installed?;
    status(daemon).await
}

/// Takes note of why the last update did not stay.
///
/// # Errors
/// There is nothing to take note of.
pub async fn acknowledge(daemon: &Daemon) -> Result<(), Refusal> {
    daemon.helper()?.call(Request::AcknowledgeUpdate).await.map(drop).map_err(Refusal::from)
}

/// Whether settings may be taken into force now. While an image is on trial they may not: the image before, which may run
/// again in a minute, need not know what this one takes.
///
/// # Errors
/// The image that runs is on trial.
pub fn admit_settings(daemon: &Daemon) -> Result<(), Refusal> {
    if daemon.helper.is_none() || !on_trial() {
        return Ok(());
    }
    Err(Refusal::new(
        Fault::Refused,
        "this image is on trial, and the one before it could not read new settings",
        "wait a few minutes until it has shown that it works; `postern update status` says so",
    ))
}

fn under_way() -> Refusal {
    Refusal::new(
        Fault::Refused,
        "a bundle is being fetched or installed already",
        "wait until it has ended; `postern update status` shows how far it is",
    )
}

/// Whether the image that runs has not shown yet that it works.
#[must_use]
pub fn on_trial() -> bool {
    !Path::new(GOOD).exists()
}

/// What operators must look at: until they have, or, of the firmware, until it is mended. `started`: since when the
/// daemon runs.
#[must_use]
pub fn alarms(started: Timestamp) -> Vec<Alarm> {
    all_alarms(record::read(Path::new(record::FILE)), starts::read(Path::new(STARTS)), started)
}

fn all_alarms(update: Option<Update>, starts: Starts, started: Timestamp) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    let acknowledge = |remedy: &str| {
        format!("{remedy}; then take note of it in the console's menu, or with `postern update acknowledge`")
    };
    if let Some(update) = update
        && let Some(reason) = update.alarm()
    {
        let what = format!("the last update did not stay: {}", reason.what);
        alarms.push(Alarm { what, remedy: acknowledge(&reason.remedy), since: update.since });
    }
    if let Some(fallback) = starts.fallback
        && let Some(reason) = fallback.alarm()
    {
        let what = reason.what.clone();
        alarms.push(Alarm { what, remedy: acknowledge(&reason.remedy), since: fallback.since });
    }
    if let Some(firmware) = starts.firmware {
        let what = format!("the box may not fall back to its other slot: {}", firmware.what);
        alarms.push(Alarm { what, remedy: firmware.remedy, since: started });
    }
    alarms
}

/// Removes what downloads of an earlier run have left. Nothing here keeps the daemon from starting.
pub fn remove_unfinished(data: &Path) {
    let left = fs::read_dir(data.join(FOLDER)).into_iter().flatten().flatten();
    for entry in left {
        match fs::remove_file(entry.path()) {
            Ok(()) => log::info!(event = "download_removed"; "a bundle that an earlier run had fetched is removed"),
            Err(error) => log::warn!(error:%; "a bundle that an earlier run had fetched can't be removed"),
        }
    }
}

async fn fetch(daemon: &Daemon, url: &str) -> Result<PathBuf, Refusal> {
    let folder = daemon.arguments.data.join(FOLDER);
    fs::create_dir_all(&folder).map_err(|error| {
        Refusal::new(Fault::Failed, format!("{} can't be made: {error}", folder.display()), "check the data partition")
    })?;
    let path = folder.join("fetched.raucb");
    // What an earlier run left counts as free.
    remove_unfinished(&daemon.arguments.data);
    let room = room(&folder, reserve(daemon))?;
    let download = Download { url: url.to_owned(), roots: roots(daemon, url), most: LARGEST.min(room) };
    let fetched = download.to(&path).await.map_err(|error| match error {
        DownloadError::TooLarge(most) if most < LARGEST => no_room(most),
        error => Refusal::of(Fault::Failed, &error),
    })?;
    log::info!(event = "update_fetched", length = fetched.length, sha256 = fetched.sha256.as_str(); "a bundle was fetched");
    Ok(path)
}

/// Octets that may be fetched into `folder` without touching the reserve.
fn room(folder: &Path, reserve: u64) -> Result<u64, Refusal> {
    let found = nix::sys::statvfs::statvfs(folder).map_err(|error| {
        Refusal::new(Fault::Failed, format!("the free space can't be told: {error}"), "check the data partition")
    })?;
    let free = found.blocks_available().saturating_mul(found.fragment_size());
    match free.saturating_sub(reserve) {
        0 => Err(no_room(0)),
        room => Ok(room),
    }
}

fn no_room(octets: u64) -> Refusal {
    Refusal::new(
        Fault::Refused,
        format!(
            "the data partition has room for {} MiB besides the queue's reserve, and the bundle is larger",
            octets >> 20
        ),
        "let the queue be delivered, or delete from it, then try again",
    )
}

fn reserve(daemon: &Daemon) -> u64 {
    daemon.open().map_or(RESERVE, |open| open.pipeline.live.parts().settings.spool.reserve_bytes)
}

/// The cloud's CA for a file of the cloud's own server; the system's roots for any other.
fn roots(daemon: &Daemon, url: &str) -> Option<Roots> {
    let open = daemon.open().ok()?;
    let parts = open.pipeline.live.parts();
    let cloud = parts.settings.cloud.as_ref()?;
    (host(&cloud.url)? == host(url)?).then(|| cloud.ca.clone()).flatten()
}

/// The host of an `https` URL, without port.
fn host(url: &str) -> Option<&str> {
    let authority = url.strip_prefix("https://")?.split(['/', '?', '#']).next()?;
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    Some(host).filter(|host| !host.is_empty() && !host.contains('@'))
}

async fn matches(path: PathBuf, wanted: String) -> Result<(), Refusal> {
    let shown = path.display().to_string();
    let digest = tokio::task::spawn_blocking(move || digest(&path)).await.map_err(io::Error::other).flatten();
    let found = digest.map_err(|error| {
        Refusal::new(Fault::Failed, format!("{shown} can't be read: {error}"), "check the bundle's name and its rights")
    })?;
    if found.eq_ignore_ascii_case(wanted.trim()) {
        return Ok(());
    }
    Err(Refusal::new(
        Fault::Refused,
        format!("the bundle's SHA-256 is {found}, not the one that was given"),
        "check that it is the right bundle, and that it came whole",
    ))
}

fn digest(path: &Path) -> io::Result<String> {
    let (mut file, mut digest, mut piece) = (File::open(path)?, Context::new(&SHA256), vec![0; 64 << 10]);
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            break;
        }
        digest.update(piece.get(..read).unwrap_or_default());
    }
    Ok(digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_clouds_own_host_is_the_clouds() {
        assert_eq!(host("https://cloud.example:8443/v1"), Some("cloud.example"));
        assert_eq!(host("https://cloud.example"), Some("cloud.example"));
        assert_eq!(host("https://[2001:db8::1]:443/x"), Some("[2001:db8::1]"));
        for none in ["http://cloud.example", "https://", "https://cloud.example@evil.example/", "/data/update/a"] {
            assert_eq!(host(none), None, "{none}");
        }
    }

    #[test]
    fn a_fallback_and_a_firmware_that_does_not_fall_back_are_alarms() {
        let reason = |what: &str| operator::update::Reason { what: what.into(), remedy: "mend it".into() };
        let fallback = operator::update::Fallback {
            slot: "a".into(),
            version: None,
            since: Timestamp::UNIX_EPOCH,
            reason: reason("slot a did not start"),
            acknowledged: false,
        };
        let mut starts = Starts { fallback: Some(fallback), firmware: Some(reason("it keeps no boot entries")) };
        let told = |starts: &Starts| {
            let alarms = all_alarms(None, starts.clone(), Timestamp::UNIX_EPOCH);
            alarms.into_iter().map(|alarm| alarm.what).collect::<Vec<_>>()
        };
        let firmware = "the box may not fall back to its other slot: it keeps no boot entries";
        assert_eq!(told(&starts), ["slot a did not start", firmware]);
        starts.fallback.as_mut().unwrap().acknowledged = true;
        assert_eq!(told(&starts), [firmware]);
        assert!(told(&Starts::default()).is_empty());
    }

    #[test]
    fn a_download_leaves_the_reserve_and_the_next_start_leaves_no_part_of_it() {
        let data = tempfile::tempdir().unwrap();
        let free = room(data.path(), 0).unwrap();
        assert!(room(data.path(), free / 2).unwrap() <= free - free / 2 + (64 << 20));
        let refused = room(data.path(), u64::MAX).unwrap_err();
        assert_eq!(refused.fault, Fault::Refused);
        fs::create_dir(data.path().join(FOLDER)).unwrap();
        fs::write(data.path().join(FOLDER).join("fetched.raucb"), "half").unwrap();
        remove_unfinished(data.path());
        assert_eq!(fs::read_dir(data.path().join(FOLDER)).unwrap().count(), 0);
        remove_unfinished(&data.path().join("none"));
    }

    #[tokio::test]
    async fn another_digest_than_the_one_given_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle");
        fs::write(&path, "abc").unwrap();
        // FIPS 180-2, appendix B.1.
        let right = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD";
        matches(path.clone(), format!("{right}\n")).await.unwrap();
        let refused = matches(path, right.replace('B', "C")).await.unwrap_err();
        assert_eq!(refused.fault, Fault::Refused);
        assert!(matches(folder.path().join("none"), right.to_owned()).await.is_err());
    }
}
