//! Boxes that don't get their keys: an edited command line, a planted credential, another machine's TPM, two disks.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking and says how long it took")]

use boot::{
    agent::BUSYBOX,
    disk::KERNEL,
    machine::Machine,
    operator,
    prepared::{BOOT, Prepared, Stage, is_good},
    surroundings::{postern, postern_json, wait_until},
};
use lab::{planted::Planted, sink::Fault};
use std::fs;

/// Waits in the queue while the box is locked; nobody may read it.
const QUEUED: &str = "the Zürich folder, 88231, waits in the queue";

#[test]
#[ignore = "ten minutes: make boot-test"]
fn an_edited_command_line_gets_no_keys_until_the_recovery_key_is_typed_at_the_console() {
    let folder = tempfile::tempdir().unwrap();
    let Prepared { mut machine, around, recovery, image, .. } = Prepared::at(Stage::SetUp, folder.path()).unwrap();
    let variables = fs::read(machine.file("vars.fd")).unwrap();
    let queued = queue_and_cut(&mut machine, &around);

    // With Secure Boot on, systemd's stub takes no words from outside: somebody with the firmware's setup turns it off.
    let command_line = image.facts().unwrap()["slots"]["a"]["cmdline"].as_str().unwrap().to_owned();
    machine.secure_boot_off().unwrap();
    machine.append_to_boot_entry("postern-a", &format!("{command_line} systemd.debug_shell=ttyS0")).unwrap();
    machine.power_on().unwrap();
    machine.agent().wait(BOOT).unwrap_or_else(|error| panic!("{error}\n{}", machine.serial().text()));
    let line = machine.agent().file("/proc/cmdline").unwrap();
    assert!(line.contains("systemd.debug_shell=ttyS0"), "the firmware handed the words on: {line}");
    is_locked(&machine, &around, "PCR 12 is not zero: the kernel command line was changed");

    let told = operator::unlock(&machine, &recovery).unwrap();
    assert_eq!(told, "Unlocked until the next start", "nothing is sealed to an edited command line");
    mail_flows(&machine, &around, &queued);

    // The board as it was, and the box opens by itself.
    machine.power_cut();
    fs::write(machine.file("vars.fd"), variables).unwrap();
    machine.power_on().unwrap();
    machine.wait_for_greeting(BOOT).unwrap();
    let status = wait_until(&machine, &["status"], BOOT, |status| status["starting"] != true).unwrap();
    assert!(status["locked"].is_null(), "{status}");
}

#[test]
#[ignore = "five minutes: make boot-test"]
fn a_credential_beside_the_kernel_image_gets_no_keys() {
    let folder = tempfile::tempdir().unwrap();
    let Prepared { mut machine, around, recovery, .. } = Prepared::at(Stage::SetUp, folder.path()).unwrap();
    // Whoever has the disk in hands: no signature is asked of a credential, and Secure Boot stays on.
    let path = format!("{KERNEL}.extra.d/systemd.extra-unit.door.service.cred");
    machine.put_boot_file("boot-a", &path, b"[Service]\nExecStart=/usr/lib/postern-development/busybox sh\n").unwrap();
    machine.power_on().unwrap();
    machine.agent().wait(BOOT).unwrap_or_else(|error| panic!("{error}\n{}", machine.serial().text()));
    is_locked(&machine, &around, "PCR 12 is not zero: the kernel command line was changed");
    let units = machine.agent().output(&["systemctl", "list-units", "--all", "--plain", "--no-legend"]).unwrap();
    assert!(!units.contains("door.service"), "{units}");
    operator::unlock(&machine, &recovery).unwrap();
    mail_flows(&machine, &around, &[]);
}

#[test]
#[ignore = "ten minutes: make boot-test"]
fn with_another_machines_tpm_nothing_is_readable_until_the_recovery_key_seals_it_anew() {
    let folder = tempfile::tempdir().unwrap();
    let Prepared { mut machine, around, recovery, .. } = Prepared::at(Stage::SetUp, folder.path()).unwrap();
    let queued = queue_and_cut(&mut machine, &around);
    machine.new_tpm().unwrap();
    machine.power_on().unwrap();
    machine.agent().wait(BOOT).unwrap_or_else(|error| panic!("{error}\n{}", machine.serial().text()));
    is_locked(&machine, &around, "this is another TPM");
    // Nothing of the partition is there, not even for root.
    let agent = machine.agent();
    let mapped = agent.output(&[BUSYBOX, "ls", "/dev/mapper"]).unwrap();
    assert!(!mapped.split_whitespace().any(|name| name == "data"), "{mapped}");
    let spool = agent.output(&[BUSYBOX, "find", "/data", "-name", "*.seg*"]).unwrap();
    assert_eq!(spool.trim(), "");
    for arguments in [&["queue", "list"][..], &["settings", "show"], &["audit", "verify"]] {
        let refused = postern(&machine, arguments, "").unwrap_err().to_string();
        assert!(refused.contains("locked"), "{refused}");
    }
    let raw = machine.file("disk.raw");
    machine.power_cut();
    machine.raw_disk().unwrap();
    assert_eq!(boot::search::find(&raw, &[Planted::new(QUEUED)]).unwrap(), [None]);
    fs::remove_file(raw).unwrap();

    machine.power_on().unwrap();
    let told = operator::unlock(&machine, &recovery).unwrap();
    assert_eq!(told, "Unlocked and sealed anew");
    mail_flows(&machine, &around, &queued);
    // The new TPM is this box's from now on.
    machine.power_cut();
    machine.power_on().unwrap();
    machine.wait_for_greeting(BOOT).unwrap();
    mail_flows(&machine, &around, &[]);
    wait_until(&machine, &["update", "status"], BOOT, |report| is_good(report, "a")).unwrap();
}

#[test]
#[ignore = "five minutes: make boot-test"]
fn with_a_second_disk_of_ours_nothing_is_opened_until_it_is_unplugged() {
    let folder = tempfile::tempdir().unwrap();
    let Prepared { mut machine, around, image, .. } = Prepared::at(Stage::SetUp, folder.path()).unwrap();
    let queued = queue_and_cut(&mut machine, &around);
    machine.plug_in(&image.file("disk.img")).unwrap();
    machine.power_on().unwrap();
    machine.agent().wait(BOOT).unwrap_or_else(|error| panic!("{error}\n{}", machine.serial().text()));
    let status = wait_until(&machine, &["status"], BOOT, |status| status["starting"] != true).unwrap();
    let (what, remedy) = (status["locked"]["what"].to_string(), status["locked"]["remedy"].to_string());
    assert!(what.contains("two Postern disks in this machine, /dev/vda and /dev/vdb"), "{status}");
    assert!(remedy.contains("take the one out that does not belong here"), "{status}");
    let reply = around.refused(&machine).unwrap();
    assert!(reply.starts_with("451"), "{reply}");
    machine.serial().wait_for_screen(&["two Postern disks"], BOOT).unwrap();

    machine.unplug().unwrap();
    machine.power_on().unwrap();
    machine.wait_for_greeting(BOOT).unwrap();
    mail_flows(&machine, &around, &queued);
}

/// Starts the box, has it accept a mail that waits, and pulls the plug.
fn queue_and_cut(machine: &mut Machine, around: &boot::surroundings::Surroundings) -> Vec<String> {
    machine.power_on().unwrap();
    machine.wait_for_greeting(BOOT).unwrap();
    wait_until(machine, &["status"], BOOT, |status| status["queue"].is_object()).unwrap();
    around.next_hop_is(Fault::Unavailable);
    let queued = vec![around.send(machine, QUEUED).unwrap()];
    machine.power_cut();
    queued
}

/// The daemon and the console say that it is locked, and why; mail is refused for now.
fn is_locked(machine: &Machine, around: &boot::surroundings::Surroundings, reason: &str) {
    let status = wait_until(machine, &["status"], BOOT, |status| status["starting"] != true).unwrap();
    let (what, remedy) = (status["locked"]["what"].to_string(), status["locked"]["remedy"].to_string());
    assert!(what.contains(reason), "{status}");
    assert!(remedy.contains("recovery key"), "{status}");
    let keys = postern_json(machine, &["keys", "status"], "").unwrap();
    assert!(keys["locked"]["what"].to_string().contains(reason), "{keys}");
    let reply = around.refused(machine).unwrap();
    assert!(reply.starts_with("451"), "{reply}");
    let words = reason.split(':').next().unwrap();
    machine.serial().wait_for_screen(&[words], BOOT).unwrap();
}

/// What waited and what comes now arrives.
fn mail_flows(machine: &Machine, around: &boot::surroundings::Surroundings, queued: &[String]) {
    around.next_hop_is(Fault::None);
    wait_until(machine, &["status"], BOOT, |status| status["queue"].is_object()).unwrap();
    let now = around.send(machine, "see you at noon").unwrap();
    around.wait_until_relayed(&[queued, &[now]].concat()).unwrap();
}
