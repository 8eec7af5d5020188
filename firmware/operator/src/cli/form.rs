//! How single values are written for people.
//!
//! Job: one form for times, spans, sizes and people. Place: under the printed reports. Invariants: times are UTC; a
//! clock that went back gives no negative span. A crash leaves nothing behind.

use jiff::{Timestamp, tz::TimeZone};
use mail::{Action, Address};

pub(crate) fn action(action: Action) -> &'static str {
    match action {
        Action::Relay => "relay",
        Action::Secure => "secure",
        Action::Hold => "hold",
        Action::Reject => "reject",
    }
}

pub(crate) fn sender(address: &str) -> String {
    if address.is_empty() { "<>".to_owned() } else { address.to_owned() }
}

pub(crate) fn people(addresses: &[Address]) -> String {
    match addresses {
        [] => String::new(),
        [only] => only.to_string(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    }
}

pub(crate) fn time(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// A time of today as `08:15Z`; an earlier one with its day.
pub(crate) fn minute(at: Timestamp, now: Timestamp) -> String {
    let (at, now) = (at.to_zoned(TimeZone::UTC), now.to_zoned(TimeZone::UTC));
    let form = if at.date() == now.date() { "%H:%MZ" } else { "%Y-%m-%d %H:%MZ" };
    at.strftime(form).to_string()
}

/// The time from one moment to another, in its largest unit.
pub(crate) fn span(from: Timestamp, to: Timestamp) -> String {
    let seconds = to.as_second().saturating_sub(from.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

pub(crate) fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let of = |unit: u64| format!("{:.1}", bytes as f64 / unit as f64);
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{} KiB", of(1 << 10)),
        1_048_576..1_073_741_824 => format!("{} MiB", of(1 << 20)),
        _ => format!("{} GiB", of(1 << 30)),
    }
}

/// `1 message`, `2 messages`.
pub(crate) fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_are_read_at_a_glance() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let spans: Vec<String> = [0, 119, 120, 7_200, 200_000].iter().map(|s| span(at(0), at(*s))).collect();
        assert_eq!(spans, ["0 s", "119 s", "2 min", "2 h", "2 d"]);
        assert_eq!(span(at(10), at(0)), "0 s", "a clock that went back");
        let sizes: Vec<String> = [0, 1_023, 1_536, 5 << 20, 3 << 30].iter().map(|b| size(*b)).collect();
        assert_eq!(sizes, ["0 B", "1023 B", "1.5 KiB", "5.0 MiB", "3.0 GiB"]);
        assert_eq!(time(at(0)), "1970-01-01 00:00:00Z");
        assert_eq!(
            (minute(at(61), at(3_600)), minute(at(61), at(90_000))),
            ("00:01Z".into(), "1970-01-01 00:01Z".into())
        );
    }
}
