//! Whether the firmware starts a slot by itself.
//!
//! Job: read the firmware's boot order. Place: early in a boot, when RAUC's service can't be asked yet. Invariants: reads
//! only; the same rule as RAUC's: a slot is good when an entry with its name stands in BootOrder. A crash leaves nothing
//! behind.

use crate::helper::Place;
use std::{fs, io};

const VARIABLES: &str = "/sys/firmware/efi/efivars";
/// The vendor of UEFI's own variables (UEFI 2.10 §3.3, EFI_GLOBAL_VARIABLE).
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// efivarfs puts a variable's attributes before its value.
const ATTRIBUTES: usize = 4;
/// Attributes and length of the device path of a load option (UEFI 2.10 §3.1.3), before its name.
const OPTION: usize = 6;

/// Whether the slot `a` or `b` stands in the boot order.
///
/// # Errors
/// There are no such variables: not started by UEFI.
pub fn lists(slot: &str, place: &Place) -> io::Result<bool> {
    let read = |name: &str| -> io::Result<Vec<u8>> {
        let mut value = fs::read(place.at(VARIABLES).join(format!("{name}-{GLOBAL}")))?;
        Ok(value.split_off(ATTRIBUTES.min(value.len())))
    };
    let order = read("BootOrder")?;
    let name = format!("postern-{slot}");
    let numbers = order.as_chunks::<2>().0.iter().map(|number| u16::from_le_bytes(*number));
    // An entry that is listed and not there is none; firmware skips it too.
    Ok(numbers.filter_map(|number| read(&format!("Boot{number:04X}")).ok()).any(|option| label(&option) == name))
}

/// The name of a load option.
fn label(option: &[u8]) -> String {
    let units =
        option.get(OPTION..).unwrap_or_default().as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
    char::decode_utf16(units.take_while(|unit| *unit != 0)).map(|c| c.unwrap_or('?')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_good_when_an_entry_of_its_name_is_in_the_order() {
        let root = tempfile::tempdir().unwrap();
        let place = Place::new(root.path());
        assert!(lists("a", &place).is_err());
        fs::create_dir_all(place.at(VARIABLES)).unwrap();
        let write = |name: &str, value: &[u8]| {
            let path = place.at(VARIABLES).join(format!("{name}-{GLOBAL}"));
            fs::write(path, [&[7, 0, 0, 0], value].concat()).unwrap();
        };
        let option = |name: &str| {
            let name: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
            [&[1, 0, 0, 0, 4, 0][..], &name, &[0x7f, 0xff, 4, 0]].concat()
        };
        write("Boot0003", &option("postern-a"));
        write("Boot000A", &option("postern-b"));
        write("Boot0000", &option("UiApp"));
        write("BootOrder", &[0x00, 0x00, 0x03, 0x00, 0x09, 0x00]);
        assert_eq!((lists("a", &place).unwrap(), lists("b", &place).unwrap()), (true, false));
        write("BootOrder", &[0x0a, 0x00, 0x03, 0x00, 0x07]);
        assert_eq!((lists("a", &place).unwrap(), lists("b", &place).unwrap()), (true, true));
        write("Boot000A", &[1, 0]);
        assert!(!lists("b", &place).unwrap());
    }
}
