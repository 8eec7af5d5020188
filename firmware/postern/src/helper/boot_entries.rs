//! The firmware's boot entries, one for each slot.
//!
//! Job: make the entries `postern-a` and `postern-b` where they are missing. Place: a step of `prepare`; updates then move
//! them, and a trial of a new slot is one start of its entry. Invariants: an entry that is there is left as it is, also
//! where an update took it out of the order; others' entries keep their order among themselves. A crash leaves an entry
//! outside of the order, which starts nothing, and is added by no later run: the fallback path `\EFI\BOOT` of each
//! partition starts the box all the same.

use super::{
    HelperError,
    paths::{BOOT_A, BOOT_B},
    place::Place,
    program::Program,
};
use std::fs;

const TOOL: &str = "efibootmgr";
/// The firmware's fallback path, so that a disk starts in a machine without our entries too.
const LOADER: &str = r"\EFI\BOOT\BOOTX64.EFI";

/// One of the two systems on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// `a`
    A,
    /// `b`
    B,
}

impl Slot {
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

    /// The slot that `postern.slot=` on a kernel command line names.
    #[must_use]
    pub fn of(command_line: &str) -> Option<Self> {
        let mut named = command_line.split_ascii_whitespace().filter_map(|word| word.strip_prefix("postern.slot="));
        match named.next_back()? {
            "a" => Some(Self::A),
            "b" => Some(Self::B),
            _ => None,
        }
    }

    fn label(self) -> &'static str {
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

/// Makes what is missing.
///
/// # Errors
/// The firmware has no variables, or would not take one.
pub fn ensure(running: Slot, place: &Place) -> Result<(), HelperError> {
    let before = Entries::read(place)?;
    let missing: Vec<Slot> = [Slot::A, Slot::B].into_iter().filter(|slot| before.of(*slot).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for slot in &missing {
        let (disk, number) = disk_of(slot.boot_partition(), place)?;
        let arguments = [
            "--quiet",
            "--create-only",
            "--disk",
            &disk,
            "--part",
            &number,
            "--label",
            slot.label(),
            "--loader",
            LOADER,
        ];
        Program::new(TOOL, &arguments).succeed(place)?;
        log::info!(event = "boot_entry", slot = slot.letter(); "a boot entry was made");
    }
    let now = Entries::read(place)?;
    let order = now.order_with(&missing, running).join(",");
    Program::new(TOOL, &["--quiet", "--bootorder", &order]).succeed(place).map(drop)
}

/// The disk that a partition is on, and its number there.
///
/// # Errors
/// There is no such partition.
pub fn disk_of(partition: &str, place: &Place) -> Result<(String, String), HelperError> {
    let missing = |error: std::io::Error| {
        HelperError::failed(
            format!("{partition} can't be found: {error}"),
            "check the disk, and install the image again",
        )
    };
    let device = fs::canonicalize(place.at(partition)).map_err(missing)?;
    let name = device.file_name().unwrap_or_default();
    let block = fs::canonicalize(place.at("/sys/class/block").join(name)).map_err(missing)?;
    let number = fs::read_to_string(block.join("partition")).map_err(missing)?.trim().to_owned();
    let disk = block.parent().and_then(|disk| disk.file_name()).unwrap_or_default().to_string_lossy().into_owned();
    Ok((format!("/dev/{disk}"), number))
}

/// What the firmware has.
#[derive(Debug, Default, PartialEq, Eq)]
struct Entries {
    /// Number and label of each.
    labels: Vec<(String, String)>,
    order: Vec<String>,
}

impl Entries {
    fn read(place: &Place) -> Result<Self, HelperError> {
        Program::new(TOOL, &[]).succeed(place).map(|listing| Self::parse(&listing))
    }

    /// efibootmgr(8): `BootOrder: 0001,0000` and lines `Boot0001* LABEL`, in newer versions with a tab and the path.
    fn parse(listing: &str) -> Self {
        let mut entries = Self::default();
        for line in listing.lines() {
            if let Some(order) = line.strip_prefix("BootOrder: ") {
                entries.order = order.split(',').map(|number| number.trim().to_owned()).collect();
            } else if let Some((number, rest)) = line.strip_prefix("Boot").and_then(|rest| rest.split_at_checked(4))
                && number.bytes().all(|byte| byte.is_ascii_hexdigit())
                && let Some(label) = rest.strip_prefix("* ").or_else(|| rest.strip_prefix("  "))
            {
                let label = label.split('\t').next().unwrap_or_default().trim_end();
                entries.labels.push((number.to_owned(), label.to_owned()));
            }
        }
        entries
    }

    fn of(&self, slot: Slot) -> Option<&str> {
        let found = self.labels.iter().find(|(_, label)| label == slot.label());
        found.map(|(number, _)| number.as_str())
    }

    /// The order with the entries `made` in it: behind ours where one of ours stands already, since an update has put it
    /// there; else first of all, the running slot before the other.
    fn order_with(&self, made: &[Slot], running: Slot) -> Vec<String> {
        let ours = [running, running.other()];
        let number = |slot: &Slot| self.of(*slot).map(ToOwned::to_owned);
        let made: Vec<String> = ours.iter().filter(|slot| made.contains(slot)).filter_map(number).collect();
        let mut order: Vec<String> = self.order.iter().filter(|number| !made.contains(number)).cloned().collect();
        let standing: Vec<String> = ours.iter().filter_map(number).collect();
        let place = order.iter().rposition(|number| standing.contains(number)).map_or(0, |last| last + 1);
        order.splice(place..place, made);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEWER: &str = "BootCurrent: 0002\nTimeout: 0 seconds\nBootOrder: 0000,0001,0002\n\
        Boot0000* UiApp\tFvVol(7cb8bdc9)/FvFile(462caa21)\nBoot0001* UEFI Misc Device\tPciRoot(0x0)\n\
        Boot0002* EFI Internal Shell\tFvVol(7c)\nBoot0003* postern-a\tHD(1,GPT,504f5354)/\\EFI\\BOOT\\BOOTX64.EFI\n\
        Boot0004* postern-b\tHD(2,GPT,504f5354)/\\EFI\\BOOT\\BOOTX64.EFI\nMirroredPercentageAbove4G: 0.00\n";

    fn order(entries: &Entries, made: &[Slot], running: Slot) -> String {
        entries.order_with(made, running).join(",")
    }

    #[test]
    fn both_forms_of_the_tools_listing_are_read() {
        let newer = Entries::parse(NEWER);
        assert_eq!(newer.of(Slot::B), Some("0004"));
        let older = Entries::parse("BootOrder: 0003\nBoot0003* postern-a\nBoot0004  postern-b\n");
        assert_eq!((older.of(Slot::A), older.of(Slot::B)), (Some("0003"), Some("0004")));
        assert_eq!(Entries::parse("No BootOrder is set; firmware will attempt recovery\n"), Entries::default());
    }

    #[test]
    fn on_a_new_machine_the_running_slot_is_first() {
        let entries = Entries::parse(NEWER);
        assert_eq!(order(&entries, &[Slot::A, Slot::B], Slot::A), "0003,0004,0000,0001,0002");
        assert_eq!(order(&entries, &[Slot::A, Slot::B], Slot::B), "0004,0003,0000,0001,0002");
    }

    #[test]
    fn an_order_that_an_update_made_is_kept() {
        let mut entries = Entries::parse(NEWER);
        entries.order = vec!["0004".into(), "0000".into()];
        assert_eq!(order(&entries, &[Slot::A], Slot::A), "0004,0003,0000");
        // Taken out as bad: it is there, so it was not made now, and stays out.
        assert_eq!(order(&entries, &[], Slot::B), "0004,0000");
    }

    #[test]
    fn only_a_and_b_are_slots() {
        assert_eq!(Slot::of("root=/dev/dm-0 postern.slot=b quiet"), Some(Slot::B));
        assert_eq!(Slot::of("rauc.slot=postern-a postern.slot=a"), Some(Slot::A));
        for none in ["", "postern.slot=", "postern.slot=c", "xpostern.slot=a", "postern.slot=a/../b"] {
            assert_eq!(Slot::of(none), None, "{none}");
        }
    }
}
