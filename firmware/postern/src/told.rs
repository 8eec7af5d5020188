//! What root says of the machine.
//!
//! Job: read what `postern helper` has written down for the daemon, and make alarms of what is not as it should be. Place:
//! beside the operators' status. Invariants: read anew each time, since some of it changes while the daemon runs; without
//! such a folder (the lab) nothing is known and nothing is wrong; what is missing in it counts as the worse. A crash leaves
//! nothing behind.

use crate::helper::paths::{BY_KEY, MAY_SEAL, SECURE_BOOT};
use operator::SecureBoot;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The kernel's watchdogs.
const WATCHDOGS: &str = "/sys/class/watchdog";

/// Root's folder, where there is one.
#[derive(Clone, Debug)]
pub struct Told(Option<PathBuf>);

impl Told {
    /// What stands in `folder`.
    #[must_use]
    pub fn new(folder: Option<&Path>) -> Self {
        Self(folder.map(Path::to_owned))
    }

    /// The file of this name in it; its path on the box is one of [`crate::helper::paths`].
    fn file(&self, path: &str) -> Option<PathBuf> {
        Some(self.0.as_ref()?.join(Path::new(path).file_name()?))
    }

    fn is_there(&self, path: &str) -> bool {
        self.file(path).is_some_and(|file| file.exists())
    }

    /// Whether the firmware starts signed systems only.
    #[must_use]
    pub fn secure_boot(&self) -> SecureBoot {
        let Some(file) = self.file(SECURE_BOOT) else { return SecureBoot::Unknown };
        match fs::read_to_string(file).as_deref().map(str::trim) {
            Ok("on") => SecureBoot::On,
            Ok("setup_mode") => SecureBoot::SetupMode,
            _ => SecureBoot::Off,
        }
    }

    /// Whether keys may be sealed to this start.
    #[must_use]
    pub fn may_seal(&self) -> bool {
        self.0.is_none() || self.is_there(MAY_SEAL)
    }

    /// Whether the data partition was opened by the recovery key, and not bound to this machine since.
    #[must_use]
    pub fn data_by_key(&self) -> bool {
        self.is_there(BY_KEY)
    }

    /// What is not as it should be, and what to do.
    #[must_use]
    pub fn alarms(&self) -> Vec<(String, &'static str)> {
        let mut alarms = Vec::new();
        let enrol = "enrol the image's keys in the firmware's setup and switch Secure Boot on; the start after that asks for \
                     the recovery key once";
        match self.secure_boot() {
            SecureBoot::On | SecureBoot::Unknown => {}
            SecureBoot::Off => {
                alarms.push(("Secure Boot is off: this machine starts anybody's system".to_owned(), enrol))
            }
            SecureBoot::SetupMode => {
                alarms.push(("Secure Boot is off: the firmware is in setup mode and has no keys".to_owned(), enrol));
            }
        }
        if self.data_by_key() {
            alarms.push((
                "the data partition was opened by the recovery key and is not bound to this machine anew".to_owned(),
                "keep the recovery key at hand: the next start asks for it, and binds it then",
            ));
        }
        if self.0.is_some() && !any(Path::new(WATCHDOGS)) {
            alarms.push((
                "this box has no hardware watchdog; a hang is not ended by itself".to_owned(),
                "switch the watchdog on in the firmware's setup, if it has one; else look after the box yourself",
            ));
        }
        alarms
    }
}

/// Whether anything is in the folder.
fn any(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_root_has_not_said_counts_as_the_worse_and_nothing_is_wrong_in_the_lab() {
        let lab = Told::new(None);
        assert!(lab.may_seal() && !lab.data_by_key() && lab.secure_boot() == SecureBoot::Unknown);
        assert!(lab.alarms().is_empty());
        let folder = tempfile::tempdir().unwrap();
        let told = Told::new(Some(folder.path()));
        assert!(!told.may_seal() && told.secure_boot() == SecureBoot::Off);
        for (text, state) in [("on", SecureBoot::On), ("setup_mode\n", SecureBoot::SetupMode), ("?", SecureBoot::Off)] {
            fs::write(folder.path().join("secure-boot"), text).unwrap();
            assert_eq!(told.secure_boot(), state);
            let alarm = told.alarms().iter().any(|(what, _)| what.starts_with("Secure Boot is off"));
            assert_eq!(alarm, state != SecureBoot::On);
        }
        fs::write(folder.path().join("may-seal"), "").unwrap();
        fs::write(folder.path().join("data-by-key"), "").unwrap();
        assert!(told.may_seal() && told.alarms().iter().any(|(what, _)| what.contains("recovery key")));
    }

    #[test]
    fn a_box_without_a_watchdog_is_one_whose_folder_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!any(folder.path()) && !any(&folder.path().join("none")));
        fs::write(folder.path().join("watchdog0"), "").unwrap();
        assert!(any(folder.path()));
    }
}
