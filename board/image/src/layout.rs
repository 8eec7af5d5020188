//! The disk's layout and the command line, as `board/common` says them.
//!
//! Place: read by `uki` (PARTUUIDs in the command line), `boot`, `disk` and `assemble` (sizes). Invariants: the two files
//! are compiled in, so that an image tool and an image never differ about them; a key that is missing fails the first test.

use crate::ImageError;

const DISK: &str = include_str!("../../common/disk.env");
const CMDLINE: &str = include_str!("../../common/cmdline");

/// A mebibyte, the unit of the partitions' sizes.
pub const MIB: u64 = 1 << 20;

/// One of the two copies of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Partitions boot-a and root-a.
    A,
    /// Partitions boot-b and root-b.
    B,
}

impl Slot {
    /// Both, in the order of the disk.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The letter in names of partitions, files and RAUC's variants.
    #[must_use]
    pub fn letter(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// PARTUUID of the slot's root partition.
    ///
    /// # Errors
    /// `board/common/disk.env` lacks it.
    pub fn root(self) -> Result<&'static str, ImageError> {
        match self {
            Self::A => value("ROOT_A_PARTUUID"),
            Self::B => value("ROOT_B_PARTUUID"),
        }
    }
}

/// The value of a key of `board/common/disk.env`.
///
/// # Errors
/// It is not there.
pub fn value(key: &'static str) -> Result<&'static str, ImageError> {
    DISK.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .ok_or(ImageError::Unusable { what: format!("board/common/disk.env does not set {key}"), advice: "add it" })
}

/// A size of `board/common/disk.env`, in bytes.
///
/// # Errors
/// It is not there or no number.
pub fn bytes(key: &'static str) -> Result<u64, ImageError> {
    let text = value(key)?;
    text.parse().map(|number: u64| number * MIB).map_err(|_| ImageError::Unusable {
        what: format!("board/common/disk.env sets {key} to {text:?}"),
        advice: "give a whole number of mebibytes",
    })
}

/// The arguments that `board/common/cmdline` has for every board and for `board`, in their order.
pub fn arguments(board: &str) -> impl Iterator<Item = &'static str> {
    let lines = CMDLINE.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.filter_map(move |line| match line.split_once(": ") {
        Some((named, argument)) => (named == board).then_some(argument),
        None => Some(line),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_key_of_the_disk_is_set_and_every_partition_is_another() {
        let parts = ["BOOT_A", "BOOT_B", "ROOT_A", "ROOT_B", "PLAIN", "DATA"];
        let uuids: BTreeSet<_> = parts
            .iter()
            .map(|part| DISK.lines().find_map(|line| line.strip_prefix(part)?.strip_prefix("_PARTUUID=")).unwrap())
            .collect();
        assert_eq!(uuids.len(), parts.len());
        for (number, uuid) in uuids.into_iter().enumerate() {
            assert_eq!(uuid, format!("504f5354-4552-4e00-8000-00000000000{}", number + 1));
        }
        for key in ["BOOT_MIB", "ROOT_MIB", "PLAIN_MIB"] {
            assert!(bytes(key).unwrap() >= MIB, "{key}");
        }
        for key in ["DISK_GUID", "TYPE_BOOT", "TYPE_LINUX"] {
            assert_eq!(value(key).unwrap().len(), 36, "{key}");
        }
    }

    #[test]
    fn the_command_line_reboots_on_panic_and_is_one_argument_a_line() {
        let all: Vec<_> = arguments("rack-x86").collect();
        assert!(!all.contains(&"no_timer_check") && arguments("qemu-x86").any(|argument| argument == "no_timer_check"));
        for wanted in ["panic=10", "oops=panic", "bonding.max_bonds=0", "root=/dev/dm-0", "ro", "systemd.gpt_auto=0"] {
            assert!(all.contains(&wanted), "{wanted}");
        }
        assert!(all.iter().all(|argument| !argument.contains([' ', '"', '\t'])));
        assert_eq!(all.iter().rfind(|argument| argument.starts_with("console=")), Some(&"console=ttyS0,115200"));
    }
}
