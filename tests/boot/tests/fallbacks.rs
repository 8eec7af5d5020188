//! Updates that must not stay: each falls back, says why, and no accepted mail is lost on the way.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking and says how long it took")]

use boot::{
    agent::BUSYBOX,
    altered::Flaw,
    prepared::{BOOT, Prepared, Stage, is_good},
    surroundings::{postern, postern_json, wait_until},
};
use lab::sink::Fault;
use serde_json::Value;
use std::time::{Duration, Instant};

/// A trial may take five minutes until it is given up, between two starts under emulation.
const TRIAL: Duration = Duration::from_secs(1200);

#[test]
#[ignore = "eight minutes: make boot-test"]
fn an_update_whose_kernel_panics_falls_back_and_says_why() {
    let told = falls_back(Flaw::NoInit);
    assert!(told.starts_with("the kernel of version 0.1.1 stopped: ") && told.contains("init"), "{told}");
}

#[test]
#[ignore = "eight minutes: make boot-test"]
fn an_update_whose_root_is_not_the_one_that_its_kernel_image_names_falls_back_and_says_why() {
    let told = falls_back(Flaw::OtherRoot);
    assert!(told.starts_with("the kernel of version 0.1.1 stopped: ") && told.contains("verity"), "{told}");
}

#[test]
#[ignore = "eight minutes: make boot-test"]
fn an_update_with_a_bad_block_falls_back_and_says_why() {
    let told = falls_back(Flaw::BadBlock);
    assert!(told.starts_with("the kernel of version 0.1.1 stopped: ") && told.contains("is corrupted"), "{told}");
}

#[test]
#[ignore = "ten minutes: make boot-test"]
fn an_update_that_hangs_before_systemd_is_ended_by_the_watchdog_falls_back_and_says_so() {
    let told = falls_back(Flaw::Hangs);
    assert!(told.contains("version 0.1.1 never got as far as a word") && told.contains("watchdog"), "{told}");
}

#[test]
#[ignore = "fifteen minutes: make boot-test"]
fn an_update_whose_daemon_ends_is_given_up_and_says_why() {
    let told = falls_back(Flaw::DaemonEnds);
    assert!(told.starts_with("version 0.1.1 gave up: "), "{told}");
}

#[test]
#[ignore = "fifteen minutes: make boot-test"]
fn an_update_whose_daemon_answers_nobody_is_given_up_and_says_why() {
    let told = falls_back(Flaw::DaemonSilent);
    assert!(told.starts_with("version 0.1.1 gave up: "), "{told}");
}

#[test]
#[ignore = "ten minutes: make boot-test"]
fn a_power_cut_during_the_installation_leaves_the_old_image_and_it_can_be_installed_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut made = healthy_box(folder.path());
    let queued = made.around.send(&made.machine, "before the power cut").unwrap();
    let bundle = made.next.file("update.raucb");
    made.around.bring(&made.machine, &bundle, "/data/update/update.raucb").unwrap();
    // By itself, so that its progress can be watched; nobody waits for its end.
    let command = "postern update install /data/update/update.raucb </dev/null >/dev/null 2>&1 &";
    made.machine.agent().output(&[BUSYBOX, "sh", "-c", command]).unwrap();
    let begun = made.machine.serial().mark();
    let written = wait_until(&made.machine, &["update", "status"], BOOT, |report| {
        report["progress"].as_str().is_some_and(|progress| progress.contains("opying"))
    })
    .unwrap();
    println!("cut while it says {}", written["progress"]);
    std::thread::sleep(Duration::from_millis(700));
    made.machine.power_cut();
    assert!(made.machine.serial().since(begun).len() < 1 << 20);

    made.machine.power_on().unwrap();
    made.machine.wait_for_greeting(BOOT).unwrap();
    let report =
        wait_until(&made.machine, &["update", "status"], BOOT, |report| report["update"]["state"] == "failed").unwrap();
    assert!(runs(&report, "a"), "{report}");
    let what = report["update"]["reason"]["what"].as_str().unwrap();
    assert!(what.contains("the installation was cut short by a restart or a power cut"), "{report}");
    assert_eq!(report["update"]["reason"]["remedy"], "install the update again");
    made.around.next_hop_is(Fault::None);
    made.around.wait_until_relayed(&[queued]).unwrap();

    wait_until(&made.machine, &["update", "status"], BOOT, |report| is_good(report, "a")).unwrap();
    made.install(&bundle).unwrap();
    made.around.reboot(&made.machine);
    wait_until(&made.machine, &["update", "status"], TRIAL, |report| {
        report["update"]["state"] == "done" && is_good(report, "b")
    })
    .unwrap();
    let sent = made.around.send(&made.machine, "by the new version").unwrap();
    made.around.wait_until_relayed(&[sent]).unwrap();
}

/// Installs an update with this flaw, has it tried, and comes back; why it did not stay, in the words of the box.
fn falls_back(flaw: Flaw) -> String {
    let folder = tempfile::tempdir().unwrap();
    let made = healthy_box(folder.path());
    let (machine, around) = (&made.machine, &made.around);
    let bundle = flaw.bundle(&made.next).unwrap();
    let mut queued: Vec<_> = (0..10).map(|n| around.send(machine, &format!("waiting, number {n}")).unwrap()).collect();
    made.install(&bundle).unwrap();
    queued.push(around.send(machine, "behind the installation").unwrap());
    let (mark, begun) = (machine.serial().mark(), Instant::now());
    around.reboot(machine);
    // Two starts of the firmware: that of the new image, and that of the old one.
    while machine.serial().since(mark).matches("BdsDxe: starting").count() < 2 && begun.elapsed() < TRIAL {
        std::thread::sleep(Duration::from_secs(1));
    }
    let report =
        wait_until(machine, &["update", "status"], TRIAL, |report| report["update"]["state"] == "fell_back").unwrap();
    assert!(runs(&report, "a"), "{report}");
    let said = postern(machine, &["update", "status"], "").unwrap();
    let (what, remedy) = (text(&report["update"]["reason"]["what"]), text(&report["update"]["reason"]["remedy"]));
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words(&said).contains(&words(&what)) && !remedy.is_empty(), "people read the same: {said}");
    let status = postern_json(machine, &["status"], "").unwrap();
    assert!(status["facts"]["alarms"].to_string().contains("the last update did not stay"), "{status}");

    // What was accepted before and what comes now.
    wait_until(machine, &["status"], BOOT, |status| status["queue"].is_object()).unwrap();
    queued.push(around.send(machine, "after the fall back").unwrap());
    around.next_hop_is(Fault::None);
    around.wait_until_relayed(&queued).unwrap();
    // Whoever has taken note is not told again.
    postern(machine, &["update", "acknowledge"], "").unwrap();
    let status = postern_json(machine, &["status"], "").unwrap();
    assert!(!status["facts"]["alarms"].to_string().contains("the last update did not stay"), "{status}");
    what
}

/// A box that was set up, runs and is healthy; its next hop is away, so that mail waits.
fn healthy_box(folder: &std::path::Path) -> Prepared {
    let mut made = Prepared::at(Stage::SetUp, folder).unwrap();
    made.machine.power_on().unwrap();
    made.machine.wait_for_greeting(BOOT).unwrap();
    wait_until(&made.machine, &["update", "status"], BOOT, |report| is_good(report, "a")).unwrap();
    made.around.next_hop_is(Fault::Unavailable);
    made
}

fn runs(report: &Value, slot: &str) -> bool {
    let slots = report["slots"].as_array().into_iter().flatten();
    slots.filter(|of| of["name"] == slot).any(|of| of["running"] == true)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
