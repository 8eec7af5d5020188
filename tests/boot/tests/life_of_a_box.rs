//! One box from its first power-on to its second version: the boot test that every change must pass.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking and says how long it took")]

use boot::{
    agent::BUSYBOX,
    image::Image,
    machine::Machine,
    surroundings::{Surroundings, postern, wait_until},
};
use lab::sink::Fault;
use serde_json::Value;
use std::time::{Duration, Instant};

/// From power-on to the agent, on a busy machine under emulation.
const BOOT: Duration = Duration::from_secs(360);
/// Mails that wait while the box updates itself.
const QUEUED: usize = 200;

#[test]
fn a_box_is_set_up_survives_a_power_cut_and_updates_itself() {
    let folder = tempfile::tempdir().unwrap();
    let image = Image::from_environment().unwrap();
    let around = Surroundings::start(&folder.path().join("lab")).unwrap();
    let mut machine = Machine::new(&folder.path().join("machine"), &image).unwrap();
    let begun = Instant::now();
    let step = |what: &str| println!("{:>6.1} s  {what}", begun.elapsed().as_secs_f32());

    machine.power_on().unwrap();
    machine.agent().wait(BOOT).unwrap_or_else(|error| panic!("{error}\n{}", machine.serial().text()));
    step("the first boot is through");
    nothing_failed(&machine);
    measured_as_predicted(&machine, &image);
    machine.serial().wait_for(0, &["DEVELOPMENT"], BOOT).unwrap();
    step("measured as predicted; a development image says so on the console");

    around.set_up(&machine).unwrap();
    machine.wait_for_greeting(BOOT).unwrap();
    let ordinary = around.send(&machine, "see you at noon").unwrap();
    around.send(&machine, "SSN 536-22-8145").unwrap();
    around.wait_until_relayed(&[ordinary]).unwrap();
    around.wait_until_secured(1).unwrap();
    step("set up; mail is relayed and secured");

    machine.power_cut();
    machine.power_on().unwrap();
    let seconds = machine.wait_for_greeting(BOOT).unwrap();
    let after = around.send(&machine, "after the power cut").unwrap();
    around.wait_until_relayed(&[after]).unwrap();
    step(&format!("after a power cut: {:.1} s from power-on to the greeting", seconds.as_secs_f32()));
    machine.agent().wait(BOOT).unwrap();
    measured_as_predicted(&machine, &image);
    wait_until(&machine, &["update", "status"], BOOT, |report| runs_and_is_good(report, 0)).unwrap();
    step("the mail path is healthy, slot a is good");

    // The next hop is away while the box updates itself: what was accepted is kept, and delivered by the new version.
    around.next_hop_is(Fault::Unavailable);
    let queued: Vec<_> = (0..QUEUED).map(|n| around.send(&machine, &format!("waiting, number {n}")).unwrap()).collect();
    let next = image.successor().unwrap();
    around.bring(&machine, &next.file("update.raucb"), "/data/update/update.raucb").unwrap();
    step("mail is queued, the bundle is there");
    postern(&machine, &["update", "install", "/data/update/update.raucb"], "").unwrap();
    step("installed");
    around.reboot(&machine);
    // The slot is good first, and the update done a moment later.
    let done = |report: &Value| runs_and_is_good(report, 1) && report["update"]["state"] == "done";
    wait_until(&machine, &["update", "status"], BOOT, done).unwrap();
    measured_as_predicted(&machine, &next);
    step("the new version runs from slot b, its keys unsealed by themselves, its mail path healthy");
    around.next_hop_is(Fault::None);
    around.wait_until_relayed(&queued).unwrap();
    step("what was queued is delivered");
    nothing_failed(&machine);
    postern(&machine, &["audit", "verify"], "").unwrap();

    machine.press_power_button().unwrap();
    machine.wait_until_off(BOOT).unwrap_or_else(|error| panic!("{error}\n{}", machine.serial().text()));
    step("a press of the power button switched it off");
}

/// Whether the slot with this index runs and has shown that it works.
fn runs_and_is_good(report: &Value, index: usize) -> bool {
    report["slots"][index]["running"] == true && report["slots"][index]["good"] == true
}

/// systemd reports no failed unit.
fn nothing_failed(machine: &Machine) {
    let ran = machine.agent().run(&["systemctl", "is-system-running", "--wait"], "", BOOT).unwrap();
    let failed = machine.agent().run(&["systemctl", "--failed", "--no-legend", "--plain"], "", BOOT).unwrap();
    assert_eq!((ran.stdout.trim(), failed.stdout.trim()), ("running", ""), "{}", machine.serial().text());
}

/// PCR 11 is what the image tool predicted for this slot; Secure Boot and kernel lockdown are on.
fn measured_as_predicted(machine: &Machine, image: &Image) {
    let agent = machine.agent();
    let slot = agent.file("/run/postern-root/slot").unwrap();
    let facts = image.facts().unwrap();
    let predicted = &facts["slots"][slot.trim()]["pcr11"]["sysinit:ready"];
    let measured = agent.file("/sys/class/tpm/tpm0/pcr-sha256/11").unwrap();
    assert_eq!(measured.trim().to_ascii_lowercase(), predicted.as_str().unwrap(), "PCR 11 of slot {slot}");
    let lockdown = agent.file("/sys/kernel/security/lockdown").unwrap();
    assert!(lockdown.contains("[confidentiality]"), "{lockdown}");
    let secure = agent.output(&[
        BUSYBOX,
        "od",
        "-An",
        "-tu1",
        "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
    ]);
    assert_eq!(secure.unwrap().split_whitespace().last(), Some("1"), "Secure Boot is on");
}
