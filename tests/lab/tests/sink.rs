//! The sink against real clients and against the faults that it is to play.

#![allow(clippy::unwrap_used, reason = "a sink that fails ends the test")]

use lab::sink::{Fault, Sink, SinkConfig, transcript_of};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Output},
    time::Duration,
};

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn stored(dir: &Path) -> Sink {
    Sink::start(SinkConfig::new(any(), dir.to_owned())).unwrap()
}

/// Sends all lines at once and returns everything that came back until the sink closed.
fn talk(sink: &Sink, octets: &[u8]) -> String {
    let mut stream = TcpStream::connect(sink.addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(octets).unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    String::from_utf8_lossy(&said).into_owned()
}

const MAIL: &[u8] =
    b"EHLO a\r\nMAIL FROM:<f@a>\r\nRCPT TO:<x@b>\r\nRCPT TO:<y@b>\r\nDATA\r\nMessage-ID: <1@a>\r\n\r\n..dot\r\n.\r\nQUIT\r\n";

fn swaks(sink: &Sink, more: &[&str]) -> Output {
    let mut swaks = Command::new("swaks");
    swaks.args(["--server", "127.0.0.1", "--port", &sink.addr().port().to_string()]);
    swaks.args(["--from", "f@a.example", "--to", "t@b.example", "--timeout", "20"]).args(more);
    swaks.output().unwrap()
}

#[test]
fn a_message_is_kept_octet_by_octet_with_its_line_in_the_transcript() {
    let dir = tempfile::tempdir().unwrap();
    let sink = stored(dir.path());
    assert!(talk(&sink, MAIL).contains("250 2.0.0 taken 1\r\n221 "));
    assert_eq!(sink.count(), 1);
    let [entry] = <[_; 1]>::try_from(sink.transcript().unwrap()).unwrap();
    assert_eq!((entry.from.as_str(), entry.ehlo.as_str()), ("f@a", "a"));
    assert_eq!(entry.to, ["x@b", "y@b"]);
    assert_eq!(entry.message_id.as_deref(), Some("<1@a>"));
    let file = std::fs::read(dir.path().join("new").join(entry.file.as_ref().unwrap())).unwrap();
    assert_eq!(file, b"Message-ID: <1@a>\r\n\r\n.dot\r\n");
    sink.stop();
    assert_eq!(transcript_of(dir.path()).unwrap(), [entry]);
}

#[test]
fn a_stopped_sink_frees_its_port_and_the_next_one_continues_the_transcript() {
    let dir = tempfile::tempdir().unwrap();
    let sink = stored(dir.path());
    let address = sink.addr();
    talk(&sink, MAIL);
    sink.stop();
    let sink = Sink::start(SinkConfig::new(address, dir.path().to_owned())).unwrap();
    talk(&sink, MAIL);
    assert_eq!((sink.count(), sink.transcript().unwrap().len()), (1, 2));
}

#[test]
fn recipients_are_deferred_refused_or_halved() {
    let dir = tempfile::tempdir().unwrap();
    let sink = stored(dir.path());
    for (fault, code, taken) in [
        (Fault::DeferRecipients, "450 ", 0),
        (Fault::RefuseRecipients, "550 ", 0),
        (Fault::DeferEverySecondRecipient, "450 ", 1),
    ] {
        sink.set_fault(fault);
        let before = sink.count();
        let mut stream = BufReader::new(TcpStream::connect(sink.addr()).unwrap());
        stream.get_mut().write_all(&MAIL[..MAIL.len() - 6]).unwrap();
        stream.get_mut().write_all(b"RSET\r\nQUIT\r\n").unwrap();
        let said: Vec<String> = stream.lines().map(Result::unwrap).collect();
        assert!(said.iter().any(|line| line.starts_with(code)), "{fault:?}: {said:?}");
        assert_eq!(sink.count() - before, taken, "{fault:?}: {said:?}");
    }
}

#[test]
fn after_the_final_dot_the_message_is_deferred_refused_or_lost_as_set() {
    let dir = tempfile::tempdir().unwrap();
    let sink = stored(dir.path());
    for (fault, reply, kept) in [
        (Fault::DeferMessage, Some("451"), false),
        (Fault::RefuseMessage, Some("554"), false),
        (Fault::DropAfterDot { stored: false }, None, false),
        (Fault::DropAfterDot { stored: true }, None, true),
        (Fault::None, Some("250"), true),
    ] {
        sink.set_fault(fault);
        let said = talk(&sink, MAIL);
        assert_eq!(said.contains("\r\n221 "), reply.is_some(), "{fault:?}: {said}");
        let last = sink.transcript().unwrap().pop().unwrap();
        assert_eq!(last.reply.as_deref().map(|reply| &reply[..3]), reply, "{fault:?}");
        assert_eq!(last.file.is_some(), kept, "{fault:?}");
    }
    assert_eq!(sink.count(), 2);
}

#[test]
fn nonsense_unavailability_and_slowness_are_played() {
    let sink = Sink::start(SinkConfig::counting(any())).unwrap();
    sink.set_fault(Fault::Nonsense);
    assert!(talk(&sink, b"QUIT\r\n").starts_with("<html>"));
    sink.set_fault(Fault::Unavailable);
    assert!(talk(&sink, b"QUIT\r\n").starts_with("421 "));
    sink.set_fault(Fault::Slow(Duration::from_millis(150)));
    let start = std::time::Instant::now();
    assert!(talk(&sink, b"QUIT\r\n").contains("221 "));
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[test]
fn swaks_delivers_plain_and_through_starttls() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::start(SinkConfig { starttls: true, ..SinkConfig::new(any(), dir.path().to_owned()) }).unwrap();
    assert!(sink.certificate().is_some_and(|pem| pem.starts_with("-----BEGIN CERTIFICATE")));
    for more in [&["--helo", "a.example"][..], &["--tls", "--helo", "a.example"]] {
        let output = swaks(&sink, more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    assert_eq!(sink.transcript().unwrap().iter().map(|entry| entry.tls).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn a_thousand_messages_of_smtp_source_are_counted() {
    let sink = Sink::start(SinkConfig::counting(any())).unwrap();
    for reuse in [&["-d"][..], &[]] {
        let before = sink.count();
        let status = Command::new("smtp-source")
            .args(["-s", "20", "-m", "500", "-l", "10240", "-f", "f@a.example", "-t", "t@b.example"])
            .args(reuse)
            .arg(sink.addr().to_string())
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(sink.count() - before, 500);
    }
}
