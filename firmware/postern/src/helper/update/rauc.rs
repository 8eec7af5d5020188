//! What RAUC is asked.
//!
//! Job: look at a bundle, install it, say whether an installation is under way. Place: under the helper's update requests;
//! which slot is started when is [`crate::helper::starts`]'. Invariants: RAUC checks the signature, also when a bundle is only looked at; arguments are fixed but for one
//! path, which begins with `/` and so is no option; what it prints is read as JSON and bounded. A crash leaves RAUC's
//! service at work; the other slot is then written or broken, and not marked.

use crate::helper::{HelperError, Place, files, paths::PROGRESS, program::Program};
use serde::Deserialize;
use std::{path::Path, time::Duration};

const RAUC: &str = "rauc";
/// Reading and checking a signature over some hundred megabytes of hashes.
const LOOK: Duration = Duration::from_secs(120);
/// Writing both partitions, on a slow disk.
const INSTALL: Duration = Duration::from_secs(20 * 60);
/// Octets of it that are read; the last line counts.
const LONGEST_PROGRESS: u64 = 256 * 1024;

/// What a bundle says of itself, under a signature that holds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Bundle {
    /// The kind of box that it is for.
    pub compatible: String,
    /// Its version.
    pub version: Option<String>,
}

/// Looks at the bundle at `path`.
///
/// # Errors
/// It is no bundle, or its signature does not hold here.
pub fn look(path: &Path, place: &Place) -> Result<Bundle, HelperError> {
    let path = path.display().to_string();
    let output = Program::new(RAUC, &["info", "--output-format=json", &path]).within(LOOK).succeed(place);
    let output = output.map_err(|error| {
        HelperError::failed(
            format!("the bundle is not accepted: {}", error.what),
            "get the bundle again from where your images come from; a release box takes no development bundles",
        )
    })?;
    // Older versions of RAUC print their log on the same stream.
    let json = output.lines().find(|line| line.starts_with('{')).unwrap_or_default();
    serde_json::from_str(json).map_err(|error| unreadable("about the bundle", &error))
}

/// Installs the bundle at `path` into the slot that does not run, which the next start then tries.
///
/// # Errors
/// RAUC would not, or could not; the running slot is as it was.
pub fn install(path: &Path, place: &Place) -> Result<(), HelperError> {
    let path = path.display().to_string();
    let (arguments, progress) = (["install", path.as_str()], place.at(PROGRESS));
    let done = Program::new(RAUC, &arguments).within(INSTALL).output_to(&progress).succeed(place);
    let _ = files::remove(&progress);
    done.map(drop).map_err(|error| {
        HelperError::failed(
            format!("the bundle was not installed: {}", error.what),
            "look at the log of rauc; the image that runs was not touched",
        )
    })
}

/// The last thing that RAUC said of an installation under way.
#[must_use]
pub fn progress(place: &Place) -> Option<String> {
    let text = files::read(&place.at(PROGRESS), LONGEST_PROGRESS).ok()?;
    let text = String::from_utf8_lossy(&text);
    let line = text.split(['\n', '\r']).map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("beginning");
    Some(line.chars().filter(|c| !c.is_control()).take(200).collect())
}

/// Whether RAUC has nothing under way: while it installs it answers nobody else. What was begun goes on in its service,
/// whatever became of who asked for it.
#[must_use]
pub fn is_idle(place: &Place) -> bool {
    Program::new(RAUC, &["status", "--output-format=json"]).within(LOOK).succeed(place).is_ok()
}

fn unreadable(what: &str, error: &serde_json::Error) -> HelperError {
    HelperError::failed(
        format!("RAUC's answer {what} can't be read (column {})", error.column()),
        "look at the log of rauc; report this with `postern support`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::helper::paths::RUN;
    use std::fs;

    #[test]
    fn the_last_line_is_the_progress() {
        let root = tempfile::tempdir().unwrap();
        let place = Place::new(root.path());
        assert_eq!(progress(&place), None);
        fs::create_dir_all(place.at(RUN)).unwrap();
        fs::write(place.at(PROGRESS), "installing\n  0% Installing\n 40% Copying image\u{1b} to rootfs.1\n\n").unwrap();
        assert_eq!(progress(&place).as_deref(), Some("40% Copying image to rootfs.1"));
    }
}
