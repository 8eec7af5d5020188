//! kill -9 under load: every mail whose 250 the client saw arrives, and doubles come only where they may (item 3).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use lab::{
    layout::Layout,
    mails::{Part, message, message_id, noise},
    process::free_port_base,
    smtp::Client,
    system::{Options, System},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

const KILLS: usize = 20;
const CLIENTS: usize = 4;

/// The next hop may still read and store what was sent before the kill.
const ON_THE_WIRE: jiff::SignedDuration = jiff::SignedDuration::from_millis(500);

/// What the clients know: message IDs with a 250, and those that were tried without one.
#[derive(Default)]
struct Known {
    acknowledged: BTreeSet<String>,
    unanswered: BTreeSet<String>,
    secured: BTreeSet<String>,
}

/// Sends until told to stop; a message without a 250 is sent again, as a mail server does.
fn send_on(server: SocketAddr, known: &Mutex<Known>, stop: &AtomicBool, seed: u64) {
    let mut connection = None;
    let mut again: Option<(String, bool)> = None;
    let mut count = seed;
    while !stop.load(Ordering::Relaxed) || again.is_some() {
        count += 1;
        let (id, secure) = again.take().unwrap_or_else(|| (message_id(), count.is_multiple_of(12)));
        let text = if secure { "SSN 536-22-8145" } else { "nothing to hide" };
        let mut parts = vec![Part::text(text)];
        if count.is_multiple_of(16) {
            // Larger than what waits in memory: the body spills to its own file.
            parts.push(Part::attachment("data.bin", "application/octet-stream", noise(count, 150_000)));
        }
        let mail = message("anna@clinic.example", &["bob@partner.example"], "load", &id, &parts);
        if connection.is_none() {
            connection = Client::connect(server).ok();
        }
        let Some(client) = &mut connection else {
            std::thread::sleep(Duration::from_millis(20));
            again = Some((id, secure));
            continue;
        };
        let sent = client.send("anna@clinic.example", &["bob@partner.example"], &mail);
        let mut known = known.lock().unwrap();
        if secure {
            known.secured.insert(id.clone());
        }
        match sent {
            Ok(_) => drop(known.acknowledged.insert(id)),
            Err(_) => {
                known.unanswered.insert(id.clone());
                again = Some((id, secure));
                connection = None;
            }
        }
    }
}

#[test]
fn every_acknowledged_mail_survives_twenty_kills() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(&folder.path().join("lab"), free_port_base().unwrap()).unwrap();
    let mut system = System::start(layout, Options::default()).unwrap();
    let server = system.layout.smtp();
    let (known, stop) = (Arc::new(Mutex::new(Known::default())), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..CLIENTS as u64)
        .map(|seed| {
            let (known, stop) = (known.clone(), stop.clone());
            std::thread::spawn(move || send_on(server, &known, &stop, seed * 1_000_000))
        })
        .collect();
    let mut kills = Vec::new();
    for round in 0..KILLS as u64 {
        // Different moments of the work: from in the middle of a start to well under load.
        std::thread::sleep(Duration::from_millis(150 + (round * 137) % 900));
        system.kill_appliance();
        kills.push(jiff::Timestamp::now());
        system.start_appliance().unwrap();
    }
    std::thread::sleep(Duration::from_millis(500));
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    system.wait_until_delivered(Duration::from_secs(120)).unwrap();

    let known = known.lock().unwrap();
    let mut copies: BTreeMap<String, Vec<jiff::Timestamp>> = BTreeMap::new();
    for line in fs::read_to_string(system.layout.path("sink/next-hop/transcript.jsonl")).unwrap().lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        let id = entry["message_id"].as_str().unwrap_or_default().to_owned();
        if id.ends_with("@lab.example>") {
            copies.entry(id).or_default().push(entry["time"].as_str().unwrap().parse().unwrap());
        }
    }
    let stored = system.cloud_messages().unwrap();
    let mut held: BTreeMap<(String, u64), usize> = BTreeMap::new();
    for (id, group) in &stored {
        *held.entry((id.clone(), *group)).or_default() += 1;
    }
    assert!(held.values().all(|count| *count == 1), "the cloud holds a Postern ID twice");

    let ordinary: Vec<_> = known.acknowledged.difference(&known.secured).collect();
    let lost: Vec<_> = ordinary.iter().filter(|id| !copies.contains_key(**id)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let secured = known.acknowledged.intersection(&known.secured).count();
    assert!(stored.len() >= secured, "{} of {secured} secured mails reached the cloud", stored.len());
    assert!(!copies.keys().any(|id| known.secured.contains(id)), "a secured mail went out by SMTP");

    let (mut client_doubles, mut kill_doubles, mut reply_lost) = (0, 0, 0);
    for (id, times) in copies.iter().filter(|(_, times)| times.len() > 1) {
        if known.unanswered.contains(id) {
            client_doubles += 1;
            continue;
        }
        assert_eq!(times.len(), 2, "{id} came more than twice: {times:?}");
        if kills.iter().any(|kill| times[0] <= *kill && *kill <= times[1]) {
            kill_doubles += 1;
        } else if kills.iter().any(|kill| times[0] - ON_THE_WIRE <= *kill && *kill <= times[1]) {
            reply_lost += 1;
        } else {
            panic!("{id} came twice without a reason: {times:?}");
        }
    }
    println!(
        "{KILLS} kills: {} acknowledged ({secured} secured), {} unanswered at first, all arrived; doubles: {client_doubles} \
         sent again by the client, {kill_doubles} killed between the next hop's reply and the settle's sync, {reply_lost} \
         killed with the final dot on the wire, whose reply reached nobody",
        known.acknowledged.len(),
        known.unanswered.len(),
    );
    assert!(known.acknowledged.len() > 200, "too little load to mean anything");
    drop(known);
    system.stop().unwrap();
}
