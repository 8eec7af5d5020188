//! The queue's index is lost, a stored byte flips, a row is changed by hand (item 5).

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use lab::{
    layout::Layout,
    mails::{Part, message, message_id, windows_program},
    process::free_port_base,
    sink::Fault,
    smtp::Client,
    system::{Options, System},
};
use serde_json::Value;
use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

/// A quarter each: settled, held, deleted, waiting.
const QUARTER: usize = 250;
const PATIENCE: Duration = Duration::from_secs(120);

fn start() -> (tempfile::TempDir, System) {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(&folder.path().join("lab"), free_port_base().unwrap()).unwrap();
    let system = System::start(layout, Options { no_cloud: true, ..Options::default() }).unwrap();
    (folder, system)
}

/// Hands in `count` mails; their Message-IDs.
fn send(system: &System, count: usize, held: bool) -> BTreeSet<String> {
    let mut client = Client::connect(system.layout.smtp()).unwrap();
    (0..count)
        .map(|_| {
            let id = message_id();
            // Long enough that most of a segment is content.
            let mut parts = vec![Part::text(&"nothing to hide\r\n".repeat(1000))];
            if held {
                parts.push(Part::attachment("setup.exe", "application/octet-stream", windows_program()));
            }
            let mail = message("anna@clinic.example", &["bob@partner.example"], "load", &id, &parts);
            client.send("anna@clinic.example", &["bob@partner.example"], &mail).unwrap();
            id
        })
        .collect()
}

fn arrived(system: &System) -> Vec<String> {
    let sink = system.next_hop.as_ref().unwrap();
    let stored = sink.transcript().unwrap().into_iter().filter(|entry| entry.file.is_some());
    stored.filter_map(|entry| entry.message_id).collect()
}

fn rows(system: &System, state: &str) -> Vec<Value> {
    let report = system.postern_json(&["queue", "list", "--state", state, "--limit", "10000"], "").unwrap();
    report["rows"].as_array().unwrap_or_else(|| panic!("no rows in {report}")).clone()
}

#[test]
fn a_lost_index_neither_sends_again_nor_releases_and_the_rest_is_delivered() {
    let (_folder, mut system) = start();
    let settled = send(&system, QUARTER, false);
    system.wait_until_delivered(PATIENCE).unwrap();
    system.next_hop.as_ref().unwrap().set_fault(Fault::DeferMessage);
    let held = send(&system, QUARTER, true);
    let before: BTreeSet<String> = send(&system, QUARTER, false);
    let waiting_rows = rows(&system, "waiting");
    for row in &waiting_rows {
        system.postern(&["queue", "delete", row["id"].as_str().unwrap()], "").unwrap();
    }
    let deleted_by_us = waiting_rows.len();
    let waiting = send(&system, QUARTER, false);
    system.stop_appliance().unwrap();
    for name in ["queue.db", "queue.db-wal", "queue.db-shm"] {
        let _ = fs::remove_file(system.layout.path("appliance/spool").join(name));
    }
    system.next_hop.as_ref().unwrap().set_fault(Fault::None);
    system.start_appliance().unwrap();
    system.wait_until_delivered(PATIENCE).unwrap();

    let arrived = arrived(&system);
    let once: BTreeSet<String> = arrived.iter().cloned().collect();
    assert_eq!(arrived.len(), once.len(), "something came twice");
    assert!(settled.is_subset(&once), "something settled is missing at the sink");
    assert!(waiting.is_subset(&once), "something that waited was not delivered");
    assert!(held.is_disjoint(&once), "something held was released");
    assert_eq!(rows(&system, "held").len(), QUARTER, "all held mail is still held");
    // A delivery that was under way when it was to be deleted is refused to the operator and goes on.
    let deleted_and_sent = before.intersection(&once).count();
    assert!(deleted_and_sent <= QUARTER - deleted_by_us, "{deleted_and_sent} deleted mails were sent");
    println!("{QUARTER} settled, {QUARTER} held, {deleted_by_us} deleted, {QUARTER} waiting: as before the loss");
    system.stop().unwrap();
}

fn segments(system: &System) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![system.layout.path("appliance/spool")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.parent().is_some_and(|parent| parent.ends_with("segments")) {
                files.push(path);
            }
        }
    }
    files
}

#[test]
fn a_flipped_byte_sets_one_message_aside_and_the_rest_flows() {
    let (_folder, mut system) = start();
    system.next_hop.as_ref().unwrap().set_fault(Fault::DeferMessage);
    let all = send(&system, 20, false);
    // All have failed once and wait.
    let mut tries = 0;
    while rows(&system, "waiting").len() < 20 {
        tries += 1;
        assert!(tries < 200, "the mails do not come to wait");
        std::thread::sleep(Duration::from_millis(50));
    }
    system.stop_appliance().unwrap();
    // The middle of the used part of a segment lies in a message's sealed content.
    let mut flipped = false;
    for path in segments(&system) {
        let mut bytes = fs::read(&path).unwrap();
        let used: Vec<usize> = (0..bytes.len()).step_by(512).filter(|at| bytes[*at..*at + 16] != [0; 16]).collect();
        if let Some(at) = used.get(used.len() / 2).filter(|_| !flipped && used.len() > 20) {
            bytes[*at + 8] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            flipped = true;
        }
    }
    assert!(flipped, "no segment holds the messages");
    system.next_hop.as_ref().unwrap().set_fault(Fault::None);
    system.start_appliance().unwrap();
    system.wait_until_delivered(PATIENCE).unwrap();
    let arrived: BTreeSet<String> = arrived(&system).into_iter().collect();
    assert_eq!(all.difference(&arrived).count(), 1, "one message is damaged, nineteen arrive");
    let status = system.postern_json(&["status"], "").unwrap().to_string();
    assert!(status.contains("set_aside") || status.contains("damaged"), "the damage is shown: {status}");
    system.stop().unwrap();
}
