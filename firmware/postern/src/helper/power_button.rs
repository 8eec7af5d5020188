//! The power button.
//!
//! Job: a short press ends the box in good order. Place: one process for each button that the firmware describes, started
//! by udev when the kernel has found it; there is no logind on this system. Invariants: nothing is read but events of the
//! one device that is named, and they lead to one act. A crash leaves a button that does nothing until systemd has started
//! the process again; holding the button for some seconds is the firmware's matter and always works.

use super::{place::Place, power};
use std::{fs::File, io, io::Read, path::Path};

/// `struct input_event` of the kernel's evdev on a 64-bit machine (`linux/input.h`): two longs of time, type, code, value.
const EVENT: usize = 24;
/// EV_KEY and KEY_POWER in `linux/input-event-codes.h`, with the value of a press.
const PRESSED: [u8; 8] = [1, 0, 116, 0, 1, 0, 0, 0];

/// Switches the box off once the button is pressed; waits for that for ever.
///
/// # Errors
/// The device can't be read, or is gone.
pub fn watch(device: &Path, place: &Place) -> io::Result<()> {
    let mut events = File::open(device)?;
    let mut event = [0; EVENT];
    loop {
        events.read_exact(&mut event)?;
        if event.ends_with(&PRESSED) {
            log::info!(event = "power_button"; "the power button was pressed; the appliance switches off");
            if let Err(error) = power::power_off(place) {
                log::error!(error:%; "the appliance can't be switched off; press again, or hold the button");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    fn event(kind: u8, code: u8, value: u8) -> [u8; EVENT] {
        let mut event = [7; EVENT];
        event[16..].copy_from_slice(&[kind, 0, code, 0, value, 0, 0, 0]);
        event
    }

    #[test]
    fn a_press_of_the_button_alone_switches_off() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("usr/bin")).unwrap();
        let systemctl = folder.path().join("usr/bin/systemctl");
        fs::write(&systemctl, format!("#!/bin/sh\necho \"$@\" >>{}/called\n", folder.path().display())).unwrap();
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
        let (place, device) = (Place::new(folder.path()), folder.path().join("event0"));

        // Its release, another key, the end of a report; then the end of the device.
        fs::write(&device, [event(1, 116, 0), event(1, 30, 1), event(0, 0, 0)].concat()).unwrap();
        assert_eq!(watch(&device, &place).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(!folder.path().join("called").exists());

        fs::write(&device, [event(1, 30, 1), event(1, 116, 1), event(1, 116, 0)].concat()).unwrap();
        assert_eq!(watch(&device, &place).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(fs::read_to_string(folder.path().join("called")).unwrap(), "--no-block poweroff\n");
    }
}
