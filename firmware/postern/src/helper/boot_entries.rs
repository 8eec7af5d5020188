//! The firmware's boot entries, one for each slot.
//!
//! Job: make the entries `postern-a` and `postern-b` where they are missing, and put them into the order that the record
//! of starts wants ([`super::starts`]). Place: under `prepare` and the health check's good word; nobody else changes them
//! but RAUC, which takes the slot that it writes out of the order and asks for one start of it afterwards. Invariants:
//! ours stand first, so that a generic entry of the disk never starts a slot that was given up; others' entries keep
//! their order among themselves; what is as wanted is not written again, for the firmware's memory wears out. BootNext is
//! set before the order and taken back after it: a crash between leaves a start of the slot that is wanted.

use super::{HelperError, disk::disk_of, place::Place, program::Program, slot::Slot};

const TOOL: &str = "efibootmgr";
/// The firmware's fallback path, so that a disk starts in a machine without our entries too.
const LOADER: &str = r"\EFI\BOOT\BOOTX64.EFI";

/// What the firmware is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Ours in BootOrder, first to last; what is not named is not started by itself.
    pub order: Vec<Slot>,
    /// BootNext: the slot of the next start alone.
    pub next: Option<Slot>,
}

/// What the firmware has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// Number and label of each.
    labels: Vec<(String, String)>,
    order: Vec<String>,
    next: Option<String>,
}

impl Entries {
    /// Reads them.
    ///
    /// # Errors
    /// The firmware has no variables, or the tool is missing.
    pub fn read(place: &Place) -> Result<Self, HelperError> {
        Program::new(TOOL, &[]).succeed(place).map(|listing| Self::parse(&listing))
    }

    /// Makes what is missing, outside of the order; whether something was.
    ///
    /// # Errors
    /// The firmware would not take one.
    pub fn complete(self, place: &Place) -> Result<(Self, bool), HelperError> {
        let missing: Vec<Slot> = Slot::BOTH.into_iter().filter(|slot| self.of(*slot).is_none()).collect();
        if missing.is_empty() {
            return Ok((self, false));
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
        let now = Self::read(place)?;
        // Firmware is known that says yes and keeps nothing.
        match missing.iter().find(|slot| now.of(**slot).is_none()) {
            None => Ok((now, true)),
            Some(slot) => Err(HelperError::failed(
                format!("the firmware did not keep the boot entry {}", slot.label()),
                "look for a write protection of boot entries in the firmware's setup",
            )),
        }
    }

    /// The slot whose one start is asked for and has not been.
    #[must_use]
    pub fn next(&self) -> Option<Slot> {
        self.next.as_deref().and_then(|number| self.slot(number))
    }

    /// Ours, in the firmware's order.
    #[must_use]
    pub fn order(&self) -> Vec<Slot> {
        self.order.iter().filter_map(|number| self.slot(number)).collect()
    }

    /// The slot that the firmware starts next, as far as it is one of ours.
    #[must_use]
    pub fn starts_next(&self) -> Option<Slot> {
        self.next().or_else(|| self.order().first().copied())
    }

    /// Has the firmware do what is wanted.
    ///
    /// # Errors
    /// It would not.
    pub fn arrange(&self, wanted: &Wanted, place: &Place) -> Result<(), HelperError> {
        if let Some(slot) = wanted.next
            && self.next() != Some(slot)
        {
            let number = self.of(slot).unwrap_or_default();
            Program::new(TOOL, &["--quiet", "--bootnext", number]).succeed(place)?;
        }
        let order = self.order_with(&wanted.order);
        if order != self.order {
            Program::new(TOOL, &["--quiet", "--bootorder", &order.join(",")]).succeed(place)?;
        }
        match self.next() {
            Some(_) if wanted.next.is_none() => self.forget_next(place),
            _ => Ok(()),
        }
    }

    /// Takes back that a slot is started next.
    ///
    /// # Errors
    /// The firmware would not.
    pub fn forget_next(&self, place: &Place) -> Result<(), HelperError> {
        Program::new(TOOL, &["--quiet", "--delete-bootnext"]).succeed(place).map(drop)
    }

    /// efibootmgr(8): `BootNext: 0001`, `BootOrder: 0001,0000` and lines `Boot0001* LABEL`, in newer versions with a tab
    /// and the path.
    fn parse(listing: &str) -> Self {
        let mut entries = Self::default();
        for line in listing.lines() {
            if let Some(order) = line.strip_prefix("BootOrder: ") {
                entries.order = order.split(',').map(|number| number.trim().to_owned()).collect();
            } else if let Some(next) = line.strip_prefix("BootNext: ") {
                entries.next = Some(next.trim().to_owned());
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

    fn slot(&self, number: &str) -> Option<Slot> {
        let label = &self.labels.iter().find(|(of, _)| of == number)?.1;
        Slot::BOTH.into_iter().find(|slot| slot.label() == label)
    }

    /// `ours` first, then all that are not ours.
    fn order_with(&self, ours: &[Slot]) -> Vec<String> {
        let first = ours.iter().filter_map(|slot| self.of(*slot)).map(ToOwned::to_owned);
        first.chain(self.order.iter().filter(|number| self.slot(number).is_none()).cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEWER: &str = "BootNext: 0004\nBootCurrent: 0002\nTimeout: 0 seconds\nBootOrder: 0000,0004,0001,0002\n\
        Boot0000* UiApp\tFvVol(7cb8bdc9)/FvFile(462caa21)\nBoot0001* UEFI Misc Device\tPciRoot(0x0)\n\
        Boot0002* EFI Internal Shell\tFvVol(7c)\nBoot0003* postern-a\tHD(1,GPT,504f5354)/\\EFI\\BOOT\\BOOTX64.EFI\n\
        Boot0004* postern-b\tHD(2,GPT,504f5354)/\\EFI\\BOOT\\BOOTX64.EFI\nMirroredPercentageAbove4G: 0.00\n";

    #[test]
    fn both_forms_of_the_tools_listing_are_read() {
        let newer = Entries::parse(NEWER);
        assert_eq!((newer.of(Slot::B), newer.next(), newer.order()), (Some("0004"), Some(Slot::B), vec![Slot::B]));
        let older = Entries::parse("BootOrder: 0003\nBoot0003* postern-a\nBoot0004  postern-b\n");
        assert_eq!((older.of(Slot::A), older.of(Slot::B)), (Some("0003"), Some("0004")));
        assert_eq!((older.next(), older.starts_next()), (None, Some(Slot::A)));
        assert_eq!(Entries::parse("No BootOrder is set; firmware will attempt recovery\n"), Entries::default());
    }

    #[test]
    fn ours_stand_first_and_those_of_others_stay_in_their_order() {
        let entries = Entries::parse(NEWER);
        assert_eq!(entries.order_with(&[Slot::B, Slot::A]).join(","), "0004,0003,0000,0001,0002");
        // What is not wanted is not started, also not by what the firmware has made of the disk itself.
        assert_eq!(entries.order_with(&[Slot::A]).join(","), "0003,0000,0001,0002");
    }
}
