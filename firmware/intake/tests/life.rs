//! Limits, deadlines and the stop of the service.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a broken service ends the test")]

mod rig;

use intake::Timeouts;
use rig::{Client, Options, Rig};
use std::{
    io::Write,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

fn quick() -> Timeouts {
    Timeouts {
        command: Duration::from_millis(400),
        content: Duration::from_millis(600),
        grace: Duration::from_millis(900),
        rate: 1000,
        handshake: Duration::from_millis(400),
        write: Duration::from_millis(400),
        drain: Duration::from_millis(700),
    }
}

#[test]
fn sessions_beyond_the_limits_get_421_and_others_go_on() {
    let rig = Rig::start(Options { max_sessions: 3, max_sessions_per_client: 2, ..Options::default() });
    let mut first = Client::connect(rig.address);
    let second = Client::connect(rig.address);
    let mut third = Client::raw(rig.address);
    third.expect("421 4.7.0 ");
    third.expect_closed();
    first.send("QUIT\r\n");
    first.expect("221 ");
    first.expect_closed();
    // The place is free as soon as the session's task has ended, a moment after its last octet.
    let start = Instant::now();
    loop {
        let mut next = Client::raw(rig.address);
        let mut line = String::new();
        std::io::BufRead::read_line(&mut next.0, &mut line).unwrap();
        if line.starts_with("220 ") {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "the place is never given back: {line}");
    }
    drop(second);
}

#[test]
fn a_flood_of_idle_connections_costs_no_more_than_the_limit() {
    let rig = Rig::start(Options { max_sessions: 10, max_sessions_per_client: 10, ..Options::default() });
    let held: Vec<Client> = (0..10).map(|_| Client::connect(rig.address)).collect();
    for _ in 0..500 {
        Client::raw(rig.address).expect("421 ");
    }
    drop(held);
}

#[test]
fn a_client_that_sends_a_command_octet_by_octet_is_cut() {
    let rig = Rig::start(Options { timeouts: quick(), ..Options::default() });
    let mut client = Client::connect(rig.address);
    let start = Instant::now();
    let mut writer = client.0.get_ref().try_clone().unwrap();
    let trickle = std::thread::spawn(move || {
        while writer.write_all(b"N").is_ok() && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    client.expect("421 4.4.2 ");
    assert!(start.elapsed() >= Duration::from_millis(350) && start.elapsed() < Duration::from_secs(3));
    drop(client);
    trickle.join().unwrap();
}

#[test]
fn each_whole_command_gives_new_time() {
    let rig = Rig::start(Options { timeouts: quick(), ..Options::default() });
    let mut client = Client::connect(rig.address);
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(200));
        client.send("NOOP\r\n");
        client.expect("250 ");
    }
}

#[test]
fn a_message_that_trickles_is_cut_and_dropped() {
    let rig = Rig::start(Options { timeouts: quick(), ..Options::default() });
    let mut client = Client::connect(rig.address);
    client.begin();
    let start = Instant::now();
    let mut writer = client.0.get_ref().try_clone().unwrap();
    let trickle = std::thread::spawn(move || {
        while writer.write_all(b"x").is_ok() && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    client.expect("421 4.4.2 ");
    assert!(start.elapsed() >= Duration::from_millis(800) && start.elapsed() < Duration::from_secs(4));
    drop(client);
    trickle.join().unwrap();
    assert_eq!((rig.count(), *rig.stages.staged.lock().unwrap()), (0, 0));
}

#[test]
fn a_message_that_comes_fast_enough_may_take_longer_than_the_grace() {
    let rig = Rig::start(Options { timeouts: quick(), ..Options::default() });
    let mut client = Client::connect(rig.address);
    client.begin();
    for _ in 0..10 {
        client.send(&format!("{}\r\n", "x".repeat(900)));
        std::thread::sleep(Duration::from_millis(150));
    }
    client.send(".\r\n");
    client.expect("250 2.0.0 ");
}

#[test]
fn a_client_that_reads_no_replies_is_cut() {
    let rig = Rig::start(Options { timeouts: quick(), max_sessions: 1, ..Options::default() });
    let client = Client::connect(rig.address);
    let mut writer = client.0.get_ref().try_clone().unwrap();
    writer.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    // 452 costs no error budget, so only the unread replies can end this.
    writer.write_all(b"EHLO a\r\nMAIL FROM:<>\r\n").unwrap();
    let recipients: String = (0..2000).map(|n| format!("RCPT TO:<u{n}@example.net>\r\n")).collect();
    let start = Instant::now();
    while writer.write_all(recipients.as_bytes()).is_ok() {
        assert!(start.elapsed() < Duration::from_secs(20), "a client that reads nothing is served for ever");
    }
}

#[test]
fn a_handshake_that_never_comes_is_cut() {
    let rig = Rig::start(Options { timeouts: quick(), ..Options::default() });
    let mut client = Client::connect(rig.address);
    client.send("EHLO a\r\nSTARTTLS\r\n");
    client.expect("250 ");
    client.expect("220 ");
    let start = Instant::now();
    client.expect_closed();
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[test]
fn plain_text_instead_of_a_handshake_is_no_command() {
    let rig = Rig::start(Options::default());
    let mut client = Client::connect(rig.address);
    client.send("EHLO a\r\nSTARTTLS\r\n");
    client.expect("250 ");
    client.expect("220 ");
    client.send("MAIL FROM:<evil@example.org>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n");
    let mut rest = Vec::new();
    let _reset = std::io::Read::read_to_end(&mut client.0, &mut rest);
    // What may come is a TLS alert (RFC 8446 §6, record type 21), never a reply.
    assert!(rest.is_empty() || rest[0] == 21, "{}", String::from_utf8_lossy(&rest));
    assert_eq!(rig.count(), 0);
}

#[test]
fn a_full_disk_in_the_middle_of_a_message_is_told_after_the_final_dot() {
    let rig = Rig::start(Options::default());
    let mut client = Client::connect(rig.address);
    client.begin();
    client.send("first\r\n");
    rig.stages.full.store(true, Ordering::Relaxed);
    client.send(&"more\r\n".repeat(1000));
    client.send(".\r\n");
    client.expect("452 4.3.1 ");
    rig.stages.full.store(false, Ordering::Relaxed);
    client.begin();
    client.send("again\r\n.\r\n");
    client.expect("250 2.0.0 ");
    assert_eq!((rig.count(), *rig.stages.staged.lock().unwrap()), (1, 0));
}

#[test]
fn a_connection_that_breaks_in_the_middle_leaves_nothing() {
    let rig = Rig::start(Options::default());
    let mut client = Client::connect(rig.address);
    client.begin();
    client.send("half of it\r\n");
    drop(client);
    let start = Instant::now();
    while *rig.stages.staged.lock().unwrap() > 0 {
        assert!(start.elapsed() < Duration::from_secs(5), "the staging is kept");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(rig.count(), 0);
}

#[test]
fn a_stop_says_421_to_idle_sessions_and_lets_a_message_finish() {
    let mut rig = Rig::start(Options::default());
    *rig.stages.commit.lock().unwrap() = Duration::from_millis(300);
    let mut idle = Client::connect(rig.address);
    let mut open = Client::connect(rig.address);
    open.send("EHLO a\r\nMAIL FROM:<>\r\n");
    open.expect("250 ");
    open.expect("250 ");
    let mut receiving = Client::connect(rig.address);
    receiving.begin();
    let mut committing = Client::connect(rig.address);
    committing.begin();
    committing.send("x\r\n.\r\n");
    rig.stop.send_replace(true);
    idle.expect("421 4.3.2 ");
    open.expect("421 4.3.2 ");
    assert!(std::net::TcpStream::connect(rig.address).is_err(), "the port is still open");
    receiving.send("y\r\n.\r\n");
    for client in [&mut receiving, &mut committing] {
        client.expect("250 2.0.0 ");
        client.expect("421 4.3.2 ");
        client.expect_closed();
    }
    rig.stop();
    assert_eq!(rig.count(), 2);
}

#[test]
fn a_stop_does_not_wait_for_ever() {
    let mut rig = Rig::start(Options {
        timeouts: Timeouts { drain: Duration::from_millis(500), ..Timeouts::default() },
        ..Options::default()
    });
    let mut stuck = Client::connect(rig.address);
    stuck.begin();
    *rig.stages.commit.lock().unwrap() = Duration::from_secs(60);
    let mut committing = Client::connect(rig.address);
    committing.begin();
    committing.send("x\r\n.\r\n");
    let mut handshaking = Client::connect(rig.address);
    handshaking.send("EHLO a\r\nSTARTTLS\r\n");
    handshaking.expect("250 ");
    handshaking.expect("220 ");
    let start = Instant::now();
    rig.stop();
    assert!(start.elapsed() >= Duration::from_millis(450) && start.elapsed() < Duration::from_secs(5));
    for client in [&mut stuck, &mut committing, &mut handshaking] {
        client.expect_closed();
    }
    assert_eq!(rig.count(), 0);
}
