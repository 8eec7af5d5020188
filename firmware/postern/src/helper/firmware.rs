//! What the firmware does about Secure Boot.
//!
//! Job: read whether the firmware starts signed systems only, write it down for the daemon, and say whether anything may
//! be sealed to this start. Place: asked by `prepare` before the data partition is made, and by whoever seals later.
//! Invariants: without Secure Boot anybody's system could be started with the same measurements, so a released image seals
//! nothing to such a start, and neither does one that can't be told from a released one; an image with development keys
//! does, with an alarm. A crash leaves nothing sealed.

use super::{
    HelperError,
    files::{read, remove, replace},
    paths::{MAY_SEAL, SECURE_BOOT},
    place::Place,
    protocol::ErrorKind,
};
use operator::SecureBoot;
use serde::Deserialize;

/// UEFI 2.10, §3.3: global variables. In efivarfs each begins with four octets of attributes.
const VARIABLES: &str = "/sys/firmware/efi/efivars";
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
const ATTRIBUTES: usize = 4;
/// More than either variable has.
const LONGEST: u64 = 64;
/// What the image says of itself; part of the verified root.
const IMAGE: &str = "/usr/share/postern/image.json";
const LONGEST_IMAGE: u64 = 64 * 1024;

#[derive(Deserialize)]
struct Image {
    development: bool,
}

/// Whether the firmware starts signed systems only; what can't be read counts as no.
pub fn secure_boot(place: &Place) -> SecureBoot {
    match (variable("SetupMode", place), variable("SecureBoot", place)) {
        (Some(1), _) => SecureBoot::SetupMode,
        (_, Some(1)) => SecureBoot::On,
        _ => SecureBoot::Off,
    }
}

fn variable(name: &str, place: &Place) -> Option<u8> {
    let path = place.at(VARIABLES).join(format!("{name}-{GLOBAL}"));
    read(&path, LONGEST).ok()?.get(ATTRIBUTES).copied()
}

/// Whether keys may be sealed to this start.
///
/// # Errors
/// They may not, and what to do.
pub fn may_seal(place: &Place) -> Result<(), HelperError> {
    let what = match secure_boot(place) {
        SecureBoot::On => return Ok(()),
        SecureBoot::SetupMode => "Secure Boot is off: the firmware is in setup mode, and has no keys to check with",
        SecureBoot::Off | SecureBoot::Unknown => "Secure Boot is off: this machine starts anybody's system",
    };
    if is_development(place) {
        return Ok(());
    }
    let remedy = "enrol the image's keys in the firmware's setup, switch Secure Boot on, and start again";
    Err(HelperError::new(ErrorKind::Refused, what, remedy))
}

/// Whether the image is signed with keys that anybody can make.
fn is_development(place: &Place) -> bool {
    let image = read(&place.at(IMAGE), LONGEST_IMAGE).ok();
    image.and_then(|text| serde_json::from_slice::<Image>(&text).ok()).is_some_and(|image| image.development)
}

/// Writes down what the firmware does, and that a data partition may be made, if it may (systemd-repart.service.d).
///
/// # Errors
/// The files can't be written; then none is made.
pub fn tell(place: &Place) -> Result<(), HelperError> {
    let state = match secure_boot(place) {
        SecureBoot::On => "on",
        SecureBoot::SetupMode => "setup_mode",
        SecureBoot::Off | SecureBoot::Unknown => "off",
    };
    let written = replace(&place.at(SECURE_BOOT), state.as_bytes()).and_then(|()| match may_seal(place) {
        Ok(()) => replace(&place.at(MAY_SEAL), b""),
        Err(refusal) => {
            log::error!(event = "not_sealed", refusal:%; "nothing is sealed to this start");
            remove(&place.at(MAY_SEAL))
        }
    });
    written.map_err(|error| {
        HelperError::failed(
            format!("what the firmware does can't be written down: {error}"),
            "restart the box; install the image again if it comes back",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn machine(secure_boot: Option<u8>, setup_mode: Option<u8>, image: &str) -> (tempfile::TempDir, Place) {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path());
        fs::create_dir_all(place.at(VARIABLES)).unwrap();
        for (name, value) in [("SecureBoot", secure_boot), ("SetupMode", setup_mode)] {
            if let Some(value) = value {
                fs::write(place.at(VARIABLES).join(format!("{name}-{GLOBAL}")), [6, 0, 0, 0, value]).unwrap();
            }
        }
        fs::create_dir_all(place.at(IMAGE).parent().unwrap()).unwrap();
        fs::write(place.at(IMAGE), image).unwrap();
        (folder, place)
    }

    #[test]
    fn a_released_image_seals_nothing_while_anybodys_system_could_be_started() {
        for image in ["{\"development\":false}", "", "{}"] {
            for (state, setup) in [(None, None), (Some(0), Some(0)), (Some(0), Some(1)), (Some(1), Some(1))] {
                let (_folder, place) = machine(state, setup, image);
                let refusal = may_seal(&place).unwrap_err();
                assert!(refusal.kind == ErrorKind::Refused && refusal.remedy.contains("enrol"), "{refusal}");
                tell(&place).unwrap();
                assert!(!place.at(MAY_SEAL).exists(), "{state:?} {setup:?}");
                let told = fs::read_to_string(place.at(SECURE_BOOT)).unwrap();
                assert_eq!(told, if setup == Some(1) { "setup_mode" } else { "off" });
            }
            let (_folder, place) = machine(Some(1), Some(0), image);
            tell(&place).unwrap();
            assert!(place.at(MAY_SEAL).exists());
            assert_eq!(fs::read_to_string(place.at(SECURE_BOOT)).unwrap(), "on");
        }
    }

    #[test]
    fn an_image_with_development_keys_seals_and_says_how_it_was_started() {
        let (_folder, place) = machine(Some(0), Some(1), "{\"development\":true}");
        tell(&place).unwrap();
        assert!(place.at(MAY_SEAL).exists());
        assert_eq!(fs::read_to_string(place.at(SECURE_BOOT)).unwrap(), "setup_mode");
    }
}
