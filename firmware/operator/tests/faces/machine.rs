//! The machine below: network, power, clock, factory reset.

use crate::bench::Bench;
use operator::machine::MachineAct;

#[tokio::test]
async fn the_network_is_shown_as_configured_and_as_it_is() {
    let bench = Bench::start();
    let text = bench.ask(&["network", "show"], "").await.good();
    assert!(text.contains("left as it is") && text.contains("192.0.2.10"), "{text}");
    bench.lock();
    bench.ask(&["network", "show"], "").await.good();
}

#[tokio::test]
async fn a_factory_reset_is_refused_unless_it_is_said_once_more() {
    let bench = Bench::start();
    let refused = bench.ask(&["factory-reset"], "").await.refused();
    assert!(refused.contains("--yes-erase-everything"), "{refused}");
    assert_eq!(bench.acts(), []);
    bench.ask(&["factory-reset", "--yes-erase-everything"], "").await.good();
    assert_eq!(bench.acts(), [MachineAct::FactoryReset]);
    assert_eq!(bench.recorded(), [("factory_reset".to_owned(), String::new())]);
}

#[tokio::test]
async fn power_and_time_are_recorded_before_they_are_done_and_where_they_fail() {
    let bench = Bench::start();
    bench.ask(&["power", "reboot"], "").await.good();
    bench.ask(&["power", "off"], "").await.refused();
    bench.ask(&["set-time", "2026-02-03T04:05:06Z"], "").await.good();
    let at = "2026-02-03T04:05:06Z".parse().unwrap();
    assert_eq!(bench.acts(), [MachineAct::Reboot, MachineAct::SetTime { at }]);
    let actions: Vec<String> = bench.recorded().into_iter().map(|(action, _)| action).collect();
    assert_eq!(actions, ["power.reboot", "power.off", "power.off.refused", "time.set"]);
}

#[tokio::test]
async fn a_locked_box_can_be_restarted_and_made_as_new() {
    let bench = Bench::start();
    bench.lock();
    bench.ask(&["power", "reboot"], "").await.good();
    bench.ask(&["factory-reset", "--yes-erase-everything"], "").await.good();
    assert_eq!(bench.acts(), [MachineAct::Reboot, MachineAct::FactoryReset]);
}

#[tokio::test]
async fn a_box_whose_ledger_takes_nothing_can_be_restarted_and_made_as_new_and_says_so() {
    let bench = Bench::start();
    bench.break_ledger();
    for act in [&["power", "reboot"][..], &["factory-reset", "--yes-erase-everything"]] {
        let text = bench.ask(act, "").await.good();
        assert!(text.contains("not in the ledger"), "{text}");
    }
    let answer = bench.ask(&["--json", "power", "reboot"], "").await.json();
    assert!(answer["unrecorded"]["remedy"].is_string(), "{answer}");
    bench.ask(&["power", "off"], "").await.refused();
    assert_eq!(bench.acts(), [MachineAct::Reboot, MachineAct::FactoryReset, MachineAct::Reboot]);
    // What must leave a trail does not happen without it.
    bench.ask(&["set-time", "2026-02-03T04:05:06Z"], "").await.refused();
    bench.ask(&["keys", "recovery", "show"], "").await.refused();
    assert_eq!(bench.acts().len(), 3);
}

#[tokio::test]
async fn a_daemon_that_starts_is_neither_locked_nor_open_and_can_be_restarted() {
    let bench = Bench::start();
    bench.begin();
    let text = bench.ask(&["status"], "").await.good();
    assert!(text.contains("starting") && !text.contains("LOCKED") && !text.contains("recovery key"), "{text}");
    let refused = bench.ask(&["keys", "status"], "").await.refused();
    assert!(refused.contains("starting"), "{refused}");
    bench.ask(&["update", "install", "/data/update/a.raucb"], "").await.refused();
    bench.ask(&["power", "reboot"], "").await.good();
    assert_eq!(bench.acts(), [MachineAct::Reboot]);
}
