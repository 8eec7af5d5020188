//! Health and updates through the command line: who may ask, what is recorded, what the exit status says.

use crate::bench::Bench;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn an_unhealthy_appliance_is_told_by_the_exit_status_and_a_check_is_no_act() {
    let bench = Bench::start();
    let told = bench.ask(&["health"], "").await.good();
    assert!(told.starts_with("healthy, checked ") && told.contains("keys"), "{told}");
    bench.lock();
    let ran = bench.ask(&["health", "--wait", "0", "--json"], "").await;
    assert_eq!((ran.status, &ran.json()["checks"][0]["state"]), (1, &json!("failed")), "{ran:?}");
    assert!(bench.recorded().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_is_recorded_with_its_source_and_a_refused_one_as_refused() {
    let bench = Bench::start();
    let install = ["update", "install", "https://updates.example/1.1.0.raucb", "--sha256", "ab", "--reboot"];
    let told = bench.ask(&install, "").await.good();
    assert!(told.contains("installing: https://updates.example/1.1.0.raucb ab true"), "{told}");
    let told = bench.ask(&["update", "install", "/data/update/old.raucb"], "").await.refused();
    assert!(told.contains("older than 0.2.0") && told.contains("→ install a newer one"), "{told}");
    bench.ask(&["update", "acknowledge"], "").await.good();
    assert!(bench.ask(&["update", "status", "--json"], "").await.json()["update"].is_null());
    let acts: Vec<String> = bench.recorded().into_iter().map(|(action, _)| action).collect();
    assert_eq!(acts, ["update.install", "update.install", "update.install.refused", "update.acknowledge"]);
    let detail = &bench.records()[0].detail;
    assert_eq!(*detail, json!({ "source": install[2], "sha256": "ab", "reboot": true }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_appliance_can_be_updated() {
    let bench = Bench::start();
    bench.lock();
    bench.ask(&["update", "install", "/data/update/new.raucb"], "").await.good();
}
