//! A box that was set up, as it stands there: what runs, what it does with mail, what it does not install.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking and says how long it took")]

use boot::{
    agent::BUSYBOX,
    altered::{Flaw, OLDEST},
    machine::Machine,
    prepared::{BOOT, Prepared, Stage, is_good},
    surroundings::{postern_json, wait_until},
};
use lab::scene::CONFIDENTIAL;
use std::collections::BTreeMap;

/// What runs beside the kernel's own threads, and whose it is. Nothing else may.
const PROGRAMS: [(&str, &str); 15] = [
    ("/usr/lib/systemd/systemd", "PID 1"),
    ("/sbin/init", "PID 1"),
    ("/usr/lib/systemd/systemd-journald", "the journal"),
    ("/usr/lib/systemd/systemd-udevd", "devices"),
    ("(udev-worker)", "devices"),
    ("/usr/lib/systemd/systemd-networkd", "addresses"),
    ("/usr/lib/systemd/systemd-resolved", "names"),
    ("/usr/lib/systemd/systemd-timesyncd", "time"),
    ("/usr/bin/dbus-broker-launch", "the bus"),
    ("dbus-broker", "the bus"),
    ("/usr/bin/rauc", "updates"),
    ("/usr/bin/postern", "the appliance"),
    ("/proc/self/exe", "the appliance's workers, which it starts from itself"),
    ("/usr/bin/postern-development-agent", "this test's window"),
    (BUSYBOX, "this test's look"),
];

#[test]
#[ignore = "five minutes: make boot-test"]
fn a_set_up_box_runs_nothing_else_handles_mail_and_refuses_what_is_below_the_floor() {
    let folder = tempfile::tempdir().unwrap();
    let made = Prepared::at(Stage::SetUp, folder.path()).unwrap();
    let Prepared { mut machine, around, image, next, recovery } = made;
    machine.power_on().unwrap();
    let seconds = machine.wait_for_greeting(BOOT).unwrap();
    println!("{:.1} s from power-on to the greeting", seconds.as_secs_f32());
    wait_until(&machine, &["update", "status"], BOOT, |report| is_good(report, "a")).unwrap();
    nothing_failed(&machine);
    println!("processes: {:?}", processes(&machine));

    // From the host through the box: the relay and the cloud have it.
    let before = around.lab.cloud_messages().unwrap().len();
    let ordinary = around.send(&machine, "see you at noon").unwrap();
    let confidential = around.send(&machine, CONFIDENTIAL).unwrap();
    around.wait_until_relayed(&[ordinary]).unwrap();
    around.wait_until_secured(before + 1).unwrap();
    assert!(!around.relayed().unwrap().contains(&confidential), "confidential mail goes to the cloud alone");

    let old = Flaw::TooOld.bundle(&next).unwrap();
    let made = Prepared { machine, around, image, next, recovery };
    let refused = made.install(&old).unwrap_err().to_string();
    let floor = made.image.facts().unwrap()["floor"].as_str().unwrap().to_owned();
    let words = format!("version {OLDEST} is older than {floor}, the oldest that this box may run");
    assert!(refused.contains(&words) && refused.contains("install a newer one"), "{refused}");
    let report = postern_json(&made.machine, &["update", "status"], "").unwrap();
    assert!(report["update"].is_null() && is_good(&report, "a"), "nothing was touched: {report}");
    nothing_failed(&made.machine);
}

fn nothing_failed(machine: &Machine) {
    let ran = machine.agent().run(&["systemctl", "is-system-running", "--wait"], "", BOOT).unwrap();
    let failed = machine.agent().output(&["systemctl", "--failed", "--no-legend", "--plain"]).unwrap();
    assert_eq!((ran.stdout.trim(), failed.trim()), ("running", ""));
}

/// How many there are of each; every process is a thread of the kernel, or one of [`PROGRAMS`].
fn processes(machine: &Machine) -> BTreeMap<&'static str, usize> {
    let list = machine.agent().output(&[BUSYBOX, "ps", "-o", "pid,ppid,args"]).unwrap();
    let mut counted: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut strangers = Vec::new();
    for line in list.lines().skip(1) {
        let mut words = line.split_whitespace();
        let (Some(pid), Some(parent)) = (words.next(), words.next()) else { continue };
        // Where it calls itself otherwise than its file is called, that name stands in braces before.
        let Some(program) = words.find(|word| !word.starts_with('{')) else { continue };
        // kthreadd and its children.
        if pid == "2" || parent == "2" {
            *counted.entry("the kernel's threads").or_default() += 1;
            continue;
        }
        match PROGRAMS.iter().find(|(name, _)| *name == program || name.rsplit('/').next() == Some(program)) {
            Some((_, whose)) => *counted.entry(whose).or_default() += 1,
            None => strangers.push(line),
        }
    }
    assert!(strangers.is_empty(), "nobody knows these:\n{}", strangers.join("\n"));
    assert!(counted.contains_key("the appliance") && counted.contains_key("PID 1"), "{list}");
    counted
}
