//! Power and time.
//!
//! Job: start anew, switch off, set the clock. Place: asked by an operator through the daemon. Invariants: systemd does
//! both, so that everything is stopped in its order. A crash leaves the box running.

use super::{HelperError, place::Place, program::Program, protocol::ErrorKind};
use jiff::{Timestamp, tz::TimeZone};

const SYSTEMCTL: &str = "systemctl";

/// The first moment that the clock may be set to: no certificate of this image is valid before.
const EARLIEST: i64 = 1_735_689_600;
/// The last: the year 2100, far behind every certificate and before counters of 32 bits end.
const LATEST: i64 = 4_102_444_800;

/// Begins a restart.
pub fn reboot(place: &Place) -> Result<(), HelperError> {
    Program::new(SYSTEMCTL, &["--no-block", "reboot"]).succeed(place).map(drop)
}

/// Begins switching off.
pub fn power_off(place: &Place) -> Result<(), HelperError> {
    Program::new(SYSTEMCTL, &["--no-block", "poweroff"]).succeed(place).map(drop)
}

/// Sets the clock of the system and of the board. Time servers, where they answer, correct it again.
pub fn set_time(at: Timestamp, place: &Place) -> Result<(), HelperError> {
    if !(EARLIEST..LATEST).contains(&at.as_second()) {
        return Err(HelperError::new(
            ErrorKind::Refused,
            format!("{at} is not a time that can be now"),
            "give a time from 2025 to 2099",
        ));
    }
    // timedated refuses while the time service runs, and alone knows how the board's clock is kept.
    Program::new(SYSTEMCTL, &["stop", "systemd-timesyncd.service"]).succeed(place)?;
    let text = at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    let set = Program::new("timedatectl", &["--no-ask-password", "set-time", &text]).succeed(place);
    Program::new(SYSTEMCTL, &["--no-block", "start", "systemd-timesyncd.service"]).succeed(place)?;
    set.map(drop)
}
