//! Kernel images that the firmware must not start: altered, or without a signature.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking and says how long it took")]

use ::image::pe::Pe;
use boot::{
    disk::KERNEL,
    machine::Machine,
    prepared::{BOOT, Prepared, Stage},
    surroundings::wait_until,
};
use std::time::Duration;

/// Where the certificate table's entry stands behind the PE header: signature and file header (24), and 144 in PE32+.
const CERTIFICATES: usize = 24 + 144;

#[test]
#[ignore = "ten minutes: make boot-test"]
fn an_altered_kernel_image_is_refused_and_the_other_slot_starts_and_without_any_nothing_does() {
    let folder = tempfile::tempdir().unwrap();
    let Prepared { mut machine, around, .. } = Prepared::at(Stage::Updated, folder.path()).unwrap();

    // Slot b is preferred. In its command line, under the signature, one letter becomes another.
    let good = machine.boot_file("boot-b", KERNEL).unwrap();
    let mut altered = good.clone();
    let image = Pe::parse(good).unwrap();
    let section = image.section(".cmdline").unwrap();
    let at = usize::try_from(section.offset).unwrap();
    let line = &mut altered[at..at + usize::try_from(section.size).unwrap()];
    let word = line.windows(5).position(|word| word == b"quiet").unwrap();
    line[word] = b'Q';
    machine.put_boot_file("boot-b", KERNEL, &altered).unwrap();
    let mark = machine.serial().mark();
    machine.power_on().unwrap();
    machine.wait_for_greeting(BOOT).unwrap();
    assert!(machine.serial().since(mark).contains("Access Denied"), "{}", machine.serial().since(mark));
    let report = wait_until(&machine, &["update", "status"], BOOT, |report| runs(report, "a")).unwrap();
    println!("after the altered image: {report}");
    wait_until(&machine, &["status"], BOOT, |status| status["queue"].is_object()).unwrap();
    let sent = around.send(&machine, "by way of the other slot").unwrap();
    around.wait_until_relayed(&[sent]).unwrap();

    // The other slot's image loses its signature: nothing is left that would start.
    machine.power_cut();
    let bare = unsigned(machine.boot_file("boot-a", KERNEL).unwrap());
    machine.put_boot_file("boot-a", KERNEL, &bare).unwrap();
    let mark = machine.serial().mark();
    machine.power_on().unwrap();
    nothing_starts(&mut machine, mark);
}

fn runs(report: &serde_json::Value, slot: &str) -> bool {
    let slots = report["slots"].as_array().into_iter().flatten();
    slots.filter(|of| of["name"] == slot).any(|of| of["running"] == true)
}

/// The image as it was before it was signed.
fn unsigned(mut bytes: Vec<u8>) -> Vec<u8> {
    let header = usize::try_from(u32::from_le_bytes(bytes[0x3c..0x40].try_into().unwrap())).unwrap();
    let entry = header + CERTIFICATES;
    let start = usize::try_from(u32::from_le_bytes(bytes[entry..entry + 4].try_into().unwrap())).unwrap();
    assert!(start > 0, "it was signed");
    bytes.truncate(start);
    bytes[entry..entry + 8].fill(0);
    bytes
}

fn nothing_starts(machine: &mut Machine, mark: usize) {
    // Both entries are tried by name, and the disk itself.
    machine.serial().wait_for(mark, &["Access Denied"], BOOT).unwrap();
    assert!(machine.wait_for_greeting(Duration::from_secs(120)).is_err(), "something greets");
    assert!(machine.agent().wait(Duration::from_secs(1)).is_err(), "something runs");
    let said = machine.serial().since(mark);
    assert!(!said.contains("DEVELOPMENT") && !said.contains("Linux version"), "{said}");
    assert!(said.matches("Access Denied").count() >= 2, "{said}");
}
