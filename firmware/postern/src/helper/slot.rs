//! The two slots.
//!
//! Job: name them as the kernel's command line, the partitions and the firmware's boot entries do. Place: under all of
//! the helper that tells one system on the disk from the other. Invariants: there are two. A crash leaves nothing behind.

use super::paths::{BOOT_A, BOOT_B};
use serde::{Deserialize, Serialize};

/// One of the two systems on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// `a`
    A,
    /// `b`
    B,
}

impl Slot {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// As the kernel command line and the partitions name it.
    #[must_use]
    pub fn letter(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// The one that does not run when this one does.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// The slot of this letter.
    #[must_use]
    pub fn named(letter: &str) -> Option<Self> {
        Self::BOTH.into_iter().find(|slot| slot.letter() == letter)
    }

    /// The slot that `postern.slot=` on a kernel command line names.
    #[must_use]
    pub fn of(command_line: &str) -> Option<Self> {
        let mut named = command_line.split_ascii_whitespace().filter_map(|word| word.strip_prefix("postern.slot="));
        Self::named(named.next_back()?)
    }

    /// Its boot entry, as RAUC's configuration names it too.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::A => "postern-a",
            Self::B => "postern-b",
        }
    }

    /// The link that udev makes for its boot partition.
    #[must_use]
    pub fn boot_partition(self) -> &'static str {
        match self {
            Self::A => BOOT_A,
            Self::B => BOOT_B,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_and_b_are_slots() {
        assert_eq!(Slot::of("root=/dev/dm-0 postern.slot=b quiet"), Some(Slot::B));
        assert_eq!(Slot::of("rauc.slot=postern-a postern.slot=a"), Some(Slot::A));
        for none in ["", "postern.slot=", "postern.slot=c", "xpostern.slot=a", "postern.slot=a/../b"] {
            assert_eq!(Slot::of(none), None, "{none}");
        }
    }
}
