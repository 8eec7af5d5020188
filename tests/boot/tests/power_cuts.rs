//! The plug is pulled twenty times under load, at moments that nobody chose.
//!
//! QEMU is killed: what the machine held in memory is gone, what it had written to its disk stays. A write that the machine
//! never asked the disk to keep may survive here and not on a real disk; `firmware/spool` tests that order by itself.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking and says how long it took")]

use boot::{
    machine::Machine,
    prepared::{BOOT, Prepared, Stage},
    surroundings::{postern, postern_json, wait_until},
};
use lab::{
    mails::{Part, message, message_id, noise},
    scene::{CONFIDENTIAL, RECIPIENT, SENDER},
    sink::Fault,
    smtp::Client,
};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, UNIX_EPOCH},
};

const CUTS: usize = 20;
/// Who hands in at the same time.
const CLIENTS: u64 = 3;

/// What got its 250.
#[derive(Default)]
struct Acknowledged {
    /// Message-IDs of what goes to the next hop.
    ordinary: Vec<String>,
    /// Postern IDs of what goes to the cloud.
    confidential: Vec<String>,
}

#[test]
#[ignore = "forty minutes: make boot-test"]
fn after_twenty_power_cuts_under_load_every_acknowledged_message_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let Prepared { mut machine, around, .. } = Prepared::at(Stage::SetUp, folder.path()).unwrap();
    let seed = std::env::var("POSTERN_SEED").ok().and_then(|text| text.parse().ok());
    let mut state: u64 = seed.unwrap_or_else(|| UNIX_EPOCH.elapsed().unwrap().as_secs());
    println!("POSTERN_SEED={state} repeats these moments");
    let mut random = move |most: u64| {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % most
    };
    let before = around.lab.cloud_messages().unwrap().len();
    let mut all = Acknowledged::default();
    for cut in 1..=CUTS {
        machine.power_on().unwrap();
        // One in five while it starts.
        if cut % 5 == 0 {
            let moment = Duration::from_millis(random(40_000));
            thread::sleep(moment);
            machine.power_cut();
            println!("cut {cut:>2}: {:.1} s after power-on", moment.as_secs_f32());
            continue;
        }
        let seconds = machine.wait_for_greeting(BOOT).unwrap();
        // Half of the times the next hop takes nothing, and the queue grows.
        around.next_hop_is(if cut % 2 == 0 { Fault::Unavailable } else { Fault::None });
        let moment = Duration::from_millis(random(20_000));
        let got = load(&mut machine, moment, cut as u64);
        let (ordinary, confidential) = (got.ordinary.len(), got.confidential.len());
        println!(
            "cut {cut:>2}: greeting after {:.1} s, cut {:.1} s later; {ordinary} and {confidential} acknowledged",
            seconds.as_secs_f32(),
            moment.as_secs_f32()
        );
        all.ordinary.extend(got.ordinary);
        all.confidential.extend(got.confidential);
    }
    around.next_hop_is(Fault::None);
    machine.power_on().unwrap();
    machine.wait_for_greeting(BOOT).unwrap();
    wait_until(&machine, &["status"], BOOT, |status| status["queue"].is_object()).unwrap();
    let deadline = Instant::now() + BOOT * 2;
    while !missing(&around, &all).is_empty() && Instant::now() < deadline {
        thread::sleep(Duration::from_secs(3));
    }
    let lost = missing(&around, &all);
    let queue = postern_json(&machine, &["queue", "list", "--limit", "100"], "").unwrap();
    assert!(lost.is_empty(), "{} of them never arrived: {lost:?}; the queue: {queue}", lost.len());
    assert!(all.ordinary.len() > CUTS && !all.confidential.is_empty(), "hardly anything was sent");
    let secured = around.lab.cloud_messages().unwrap().len() - before;
    println!(
        "{} ordinary and {} confidential messages were acknowledged over {CUTS} cuts, all arrived; the cloud has {secured}",
        all.ordinary.len(),
        all.confidential.len()
    );
    let status = postern_json(&machine, &["status"], "").unwrap();
    assert_eq!((&status["queue"]["set_aside"], &status["queue"]["failed"]), (&0.into(), &0.into()), "{status}");
    postern(&machine, &["audit", "verify"], "").unwrap();
}

/// Hands in until `moment` is over, then cuts the power; what got its 250.
fn load(machine: &mut Machine, moment: Duration, salt: u64) -> Acknowledged {
    let (address, off) = (machine.smtp(), AtomicBool::new(false));
    let mut all = Acknowledged::default();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                scope.spawn({
                    let off = &off;
                    move || client(address, off, salt * CLIENTS + n)
                })
            })
            .collect();
        thread::sleep(moment);
        machine.power_cut();
        off.store(true, Ordering::Relaxed);
        for client in clients {
            let got = client.join().unwrap();
            all.ordinary.extend(got.ordinary);
            all.confidential.extend(got.confidential);
        }
    });
    all
}

fn client(address: SocketAddr, off: &AtomicBool, salt: u64) -> Acknowledged {
    let mut got = Acknowledged::default();
    let mut turn = 0;
    while !off.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::connect(address) else { continue };
        while !off.load(Ordering::Relaxed) {
            turn += 1;
            let id = message_id();
            let text = if turn % 4 == 0 { format!("{CONFIDENTIAL}, number {turn}") } else { format!("number {turn}") };
            let attached = noise(salt ^ turn, if turn % 7 == 0 { 300_000 } else { 2_000 });
            let parts = [Part::text(&text), Part::attachment("a.bin", "application/octet-stream", attached)];
            // A connection that broke has no 250, and the message may arrive all the same.
            let Ok(reply) = client.send(SENDER, &[RECIPIENT], &message(SENDER, &[RECIPIENT], "a subject", &id, &parts))
            else {
                break;
            };
            if turn % 4 == 0 {
                got.confidential.push(reply.rsplit(' ').next().unwrap_or_default().to_owned());
            } else {
                got.ordinary.push(id);
            }
        }
    }
    got
}

/// Acknowledged messages that neither next hop nor cloud has.
fn missing(around: &boot::surroundings::Surroundings, all: &Acknowledged) -> Vec<String> {
    let relayed = around.relayed().unwrap();
    let secured: BTreeSet<_> = around.lab.cloud_messages().unwrap().into_iter().map(|(id, _)| id).collect();
    let ordinary = all.ordinary.iter().filter(|id| !relayed.contains(*id));
    ordinary.chain(all.confidential.iter().filter(|id| !secured.contains(*id))).cloned().collect()
}
