//! One flipped byte in the root of the slot that runs: the kernel stops at once, and the other slot takes over.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking and says how long it took")]

use boot::{
    agent::BUSYBOX,
    machine::Machine,
    prepared::{BOOT, Prepared, Stage},
    surroundings::{Surroundings, postern, postern_json, wait_until},
};
use lab::sink::Fault;
use serde_json::Value;
use std::{fs, os::unix::fs::FileExt, path::Path, process::Command, time::Duration};

/// The compressor's options stand behind the super block, before all files.
const FILES: u64 = 4096;

#[test]
#[ignore = "eight minutes: make boot-test"]
fn a_byte_that_every_start_reads_stops_the_slot_and_the_other_one_runs() {
    let folder = tempfile::tempdir().unwrap();
    let Prepared { mut machine, around, .. } = Prepared::at(Stage::Updated, folder.path()).unwrap();
    // In the super block: what the mount reads.
    machine.flip("root-b", 40).unwrap();
    let mark = machine.serial().mark();
    machine.power_on().unwrap();
    let seconds = machine.wait_for_greeting(BOOT * 2).unwrap();
    println!("{:.1} s from power-on to the greeting of the other slot", seconds.as_secs_f32());
    assert!(machine.serial().since(mark).matches("BdsDxe: starting").count() >= 2, "the first start ended early");
    the_other_slot_says_why(&machine, &around);
}

#[test]
#[ignore = "ten minutes: make boot-test"]
fn a_byte_that_is_read_later_stops_the_box_then_and_the_other_slot_runs() {
    let folder = tempfile::tempdir().unwrap();
    let Prepared { mut machine, around, next, .. } = Prepared::at(Stage::Updated, folder.path()).unwrap();
    let path = seldom_read(&next.file("root.img"));
    let at = first_octet(&next.file("root.img"), &path, folder.path());
    println!("{path} begins at {at}");
    machine.flip("root-b", at + 100).unwrap();
    machine.power_on().unwrap();
    machine.wait_for_greeting(BOOT).unwrap();
    let report = wait_until(&machine, &["update", "status"], BOOT, |report| runs(report, "b")).unwrap();
    assert!(report["slots"].is_array(), "{report}");
    around.next_hop_is(Fault::Unavailable);
    wait_until(&machine, &["status"], BOOT, |status| status["queue"].is_object()).unwrap();
    let queued = around.send(&machine, "before the byte is read").unwrap();
    let mark = machine.serial().mark();
    let _ = machine.agent().run(&[BUSYBOX, "cat", &format!("/{path}")], "", Duration::from_secs(3));
    machine.serial().wait_for(mark, &["BdsDxe: starting"], BOOT).unwrap();
    machine.wait_for_greeting(BOOT * 2).unwrap();
    the_other_slot_says_why(&machine, &around);
    around.next_hop_is(Fault::None);
    around.wait_until_relayed(&[queued]).unwrap();
}

/// Slot a runs, tells what became of b in its report and as an alarm, and mail flows.
fn the_other_slot_says_why(machine: &Machine, around: &Surroundings) {
    let report = wait_until(machine, &["update", "status"], BOOT * 2, |report| runs(report, "a")).unwrap();
    let said = postern(machine, &["update", "status"], "").unwrap();
    assert!(said.contains("is corrupted"), "{said}\n{report}");
    let status = wait_until(machine, &["status"], BOOT, |status| status["queue"].is_object()).unwrap();
    assert!(status["facts"]["alarms"].to_string().contains("is corrupted"), "{status}");
    let fault = Fault::None;
    around.next_hop_is(fault);
    let sent = around.send(machine, "by way of the other slot").unwrap();
    around.wait_until_relayed(&[sent]).unwrap();
    postern_json(machine, &["update", "status"], "").unwrap();
}

fn runs(report: &Value, slot: &str) -> bool {
    let slots = report["slots"].as_array().into_iter().flatten();
    slots.filter(|of| of["name"] == slot).any(|of| of["running"] == true)
}

/// A file of the root that no start of a set-up box reads, and that is large enough to have blocks of its own.
fn seldom_read(root: &Path) -> String {
    let list = Command::new("unsquashfs").args(["-llc"]).arg(root).output().unwrap();
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let path = |line: &str| Some(line.split_whitespace().last()?.split_once('/')?.1.to_owned());
    let wanted = ["libdb-5", "libnftables.so", "libreadline.so"];
    let found = list.lines().filter(|line| line.starts_with('-')).filter_map(path).find(|path| {
        let name = path.rsplit('/').next().unwrap_or_default();
        wanted.iter().any(|wanted| name.starts_with(wanted))
    });
    assert!(found.is_some(), "the root has none of {wanted:?}");
    found.unwrap()
}

/// Where the blocks of `path` begin in the squashfs: as far as all before can be zeros and it is read all the same.
fn first_octet(root: &Path, path: &str, folder: &Path) -> u64 {
    let copy = folder.join("root.copy");
    fs::copy(root, &copy).unwrap();
    let original = fs::read(root).unwrap();
    let file = fs::File::options().write(true).open(&copy).unwrap();
    let read = || Command::new("unsquashfs").arg("-cat").arg(&copy).arg(path).output().unwrap();
    let whole = read().stdout;
    assert!(whole.len() > 256 << 10, "{path} has no blocks of its own");
    // The tables, which the super block names, begin behind all files.
    let tables = u64::from_le_bytes(original[64..72].try_into().unwrap());
    let (mut readable, mut broken) = (FILES, tables);
    while broken - readable > 64 {
        let middle = u64::midpoint(readable, broken);
        let (from, to) = (usize::try_from(readable).unwrap(), usize::try_from(middle).unwrap());
        file.write_all_at(&vec![0; to - from], readable).unwrap();
        if read().stdout == whole {
            readable = middle;
        } else {
            file.write_all_at(&original[from..to], readable).unwrap();
            broken = middle;
        }
    }
    fs::remove_file(copy).unwrap();
    broken
}
