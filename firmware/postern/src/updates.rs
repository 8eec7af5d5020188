//! Updates of the image, as the daemon's part.
//!
//! Job: fetch what is to be installed, hand it to root's helper, and raise the alarm of an update that did not stay.
//! Place: behind the operators' requests; the helper installs (`helper::update`). Invariants: what is fetched is bounded
//! and lies in a folder of the daemon's own; nothing fetched is believed here, the helper checks its signature. A crash
//! leaves a part of a bundle, which the next download replaces.

use crate::{
    daemon::Daemon,
    helper::{Request, Response, paths::GOOD, update::record},
};
use aws_lc_rs::digest::{Context, SHA256};
use delivery::Download;
use operator::{Alarm, Fault, Refusal, update::UpdateReport};
use settings::Roots;
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

/// Octets of a bundle: both kernel images and a root of 256 MiB.
const LARGEST: u64 = 512 << 20;
/// Reading, checking and writing it on a slow disk.
const INSTALLATION: Duration = Duration::from_secs(25 * 60);
/// RAUC's service may have to be started first.
const STATUS: Duration = Duration::from_secs(180);

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
    let path = if fetched { fetch(daemon, &source).await? } else { PathBuf::from(&source) };
    let checked = match sha256 {
        Some(wanted) => matches(path.clone(), wanted).await,
        None => Ok(()),
    };
    let installed = match checked {
        Ok(()) => {
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
    if daemon.helper.is_none() || Path::new(GOOD).exists() {
        return Ok(());
    }
    Err(Refusal::new(
        Fault::Refused,
        "this image is on trial, and the one before it could not read new settings",
        "wait a few minutes until it has shown that it works; `postern update status` says so",
    ))
}

/// What operators must look at until they have.
#[must_use]
pub fn alarm() -> Option<Alarm> {
    let update = record::read(Path::new(record::FILE))?;
    let reason = update.alarm()?;
    let remedy = format!("{}; then `postern update acknowledge`", reason.remedy);
    Some(Alarm { what: format!("the last update did not stay: {}", reason.what), remedy, since: update.since })
}

async fn fetch(daemon: &Daemon, url: &str) -> Result<PathBuf, Refusal> {
    let folder = daemon.arguments.data.join("update");
    fs::create_dir_all(&folder).map_err(|error| {
        Refusal::new(Fault::Failed, format!("{} can't be made: {error}", folder.display()), "check the data partition")
    })?;
    let path = folder.join("fetched.raucb");
    let download = Download { url: url.to_owned(), roots: roots(daemon, url), most: LARGEST };
    let fetched = download.to(&path).await.map_err(|error| Refusal::of(Fault::Failed, &error))?;
    log::info!(event = "update_fetched", length = fetched.length, sha256 = fetched.sha256.as_str(); "a bundle was fetched");
    Ok(path)
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
