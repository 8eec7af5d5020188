//! What the raw disk holds after mail has passed, and after a factory reset.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking and says how long it took")]

use boot::{
    machine::tool,
    prepared::{BOOT, Prepared, Stage},
    search,
    surroundings::{postern, postern_json, wait_until},
};
use lab::{
    mails::{Part, message, message_id},
    planted::Planted,
    scene::{CONFIDENTIAL, SENDER},
    sink::Fault,
    smtp::Client,
};
use std::{fs, time::Duration};

const BODY: &str = "the Zürich folder, 88231, of a body";
const SUBJECT: &str = "a subject about 77402-Genève";
const ATTACHMENT: &str = "the Straße sheet, 55190, attached";
const REMOTE: &str = "planted.recipient.64417@partner.example";

#[test]
#[ignore = "ten minutes: make boot-test"]
fn nothing_planted_is_on_the_disk_and_a_reset_box_cannot_open_what_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let Prepared { mut machine, around, recovery, image, .. } = Prepared::at(Stage::SetUp, folder.path()).unwrap();
    machine.power_on().unwrap();
    machine.wait_for_greeting(BOOT).unwrap();
    wait_until(&machine, &["status"], BOOT, |status| status["queue"].is_object()).unwrap();

    // One that has passed, one that waits, one that is confidential.
    let mail = |extra: &str| {
        let id = message_id();
        let parts =
            [Part::text(&format!("{BODY} {extra}")), Part::attachment("s.txt", "text/plain", ATTACHMENT.into())];
        (id.clone(), message(SENDER, &[REMOTE], SUBJECT, &id, &parts))
    };
    let send = |mail: &[u8]| Client::connect(machine.smtp()).unwrap().send(SENDER, &[REMOTE], mail).unwrap();
    let before = around.lab.cloud_messages().unwrap().len();
    let (passed, text) = mail("");
    send(&text);
    send(&mail(CONFIDENTIAL).1);
    around.wait_until_relayed(&[passed]).unwrap();
    around.wait_until_secured(before + 1).unwrap();
    around.next_hop_is(Fault::Unavailable);
    send(&mail("").1);
    let settings = postern(&machine, &["settings", "show"], "").unwrap();
    assert!(settings.contains("clinic.example"), "{settings}");
    let _ = machine.agent().run(&["postern", "power", "off"], "", Duration::from_secs(5));
    machine.wait_until_off(BOOT).unwrap();

    let secrets = [
        BODY,
        SUBJECT,
        ATTACHMENT,
        REMOTE,
        SENDER,
        CONFIDENTIAL,
        recovery.as_str(),
        "-----BEGIN PRIVATE KEY-----",
        "message_accepted",
    ];
    // A locked box must know its name and its addresses: these stand in the plain area, until the reset.
    let name = [Planted::new("postern.clinic.example"), Planted::new("10.0.2.15/24")];
    let planted: Vec<_> = secrets.iter().map(|text| Planted::new(text)).collect();
    // The search sees what is there: this stands on every boot partition.
    let shown = Planted::new("rauc.slot=postern-a");
    let found = search::find(&machine.raw_disk().unwrap(), &[shown]).unwrap();
    assert!(found[0].is_some(), "the search is blind");
    let found = search::find(&machine.file("disk.raw"), &planted).unwrap();
    assert_eq!(visible(&secrets, &found), [""; 0], "before the reset");
    assert!(search::find(&machine.file("disk.raw"), &name).unwrap()[0].is_some(), "the plain area is not where it was");

    let old = folder.path().join("old");
    machine.keep(&old).unwrap();
    let data = machine.partition("data").unwrap_or_else(|error| panic!("{error}"));
    machine.power_on().unwrap();
    machine.wait_for_greeting(BOOT).unwrap();
    wait_until(&machine, &["status"], BOOT, |status| status["queue"].is_object()).unwrap();
    let mark = machine.serial().mark();
    let _ = machine.agent().run(&["postern", "factory-reset", "--yes-erase-everything"], "", Duration::from_secs(30));
    // The first screen of a new box.
    machine.serial().wait_for(mark, &["BdsDxe"], BOOT).unwrap();
    machine.serial().wait_for_screen(&["Enter set up"], BOOT).unwrap();
    let status = postern_json(&machine, &["status"], "").unwrap();
    assert_eq!(status["settings_revision"], 0, "{status}");
    let _ = machine.agent().run(&["postern", "power", "off"], "", Duration::from_secs(5));
    machine.wait_until_off(BOOT).unwrap();
    let found = search::find(&machine.raw_disk().unwrap(), &planted).unwrap();
    assert_eq!(visible(&secrets, &found), [""; 0], "after the reset");
    assert_eq!(search::find(&machine.file("disk.raw"), &name).unwrap(), [None, None], "after the reset");
    println!("none of {} planted texts is on the disk, before the reset and after it", secrets.len());
    // Of the old ciphertext nothing is left either: the first block of each old mebibyte is another or empty.
    let former = former_blocks(&old, &machine, data.start, data.length);
    assert_eq!(former, 0, "blocks of the old partition are still there");
    fs::remove_file(machine.file("disk.raw")).unwrap();

    // Somebody kept a copy of the disk. The box has another storage key since.
    machine.exchange_disk(&old).unwrap();
    machine.power_on().unwrap();
    machine.agent().wait(BOOT).unwrap();
    let status = wait_until(&machine, &["status"], BOOT, |status| status["starting"] != true).unwrap();
    assert!(status["locked"]["what"].to_string().contains("the TPM does not open the data partition"), "{status}");
    drop(image);
}

/// Those of `secrets` that were found, with where.
fn visible(secrets: &[&str], found: &[Option<String>]) -> Vec<String> {
    let pairs = secrets.iter().zip(found);
    pairs.filter_map(|(secret, place)| place.as_ref().map(|place| format!("{secret:?} {place}"))).collect()
}

/// How many mebibytes of the former data partition begin as they did, where they were no zeros.
fn former_blocks(old: &std::path::Path, machine: &boot::machine::Machine, start: u64, length: u64) -> usize {
    use std::os::unix::fs::FileExt;
    let before = machine.file("before.raw");
    let (from, to) = (old.join("disk.qcow2"), before.clone());
    tool("qemu-img", &["convert", "-O", "raw", from.to_str().unwrap(), to.to_str().unwrap()]).unwrap();
    let (before_file, after) = (fs::File::open(&before).unwrap(), fs::File::open(machine.file("disk.raw")).unwrap());
    let (mut left, mut right) = ([0; 4096], [0; 4096]);
    let mut same = 0;
    // What was not yet written when the disk ends is a hole in both.
    for at in (start..start + length - 4096).step_by(1 << 20) {
        before_file.read_exact_at(&mut left, at).unwrap();
        after.read_exact_at(&mut right, at).unwrap();
        same += usize::from(left == right && left.iter().any(|octet| *octet != 0));
    }
    fs::remove_file(before).unwrap();
    same
}
