//! The relay against real and scripted next hops.

use super::*;
use crate::testing::{Script, deferral, delivered, envelope, failure, free_port, numbered, serve, settings, text_of};
use mail::{BodyType, BytesContent, Domain};
use std::{
    io::{self, Read},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Postfix's smtp-sink; ends with the test.
struct Sink {
    child: Child,
    port: u16,
}

impl Sink {
    fn start(options: &[&str]) -> Self {
        let port = free_port();
        let child = Command::new("/usr/sbin/smtp-sink")
            .args(options)
            .args(["-u", "nobody", &format!("127.0.0.1:{port}"), "100"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(10), "smtp-sink does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, port }
    }

    fn relay(&self) -> Relay {
        relay(self.port, RelayTls::None)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn relay(port: u16, tls: RelayTls) -> Relay {
    let mut settings = settings("127.0.0.1", port);
    settings.relay.tls = tls;
    Relay::new(&settings).unwrap()
}

fn content(text: &str) -> Box<dyn Content> {
    Box::new(BytesContent::new(text.as_bytes().to_vec()))
}

const MAIL: &str = "From: a@corp.example\r\nSubject: x\r\n\r\n.hello\r\n.\r\nbye\r\n";

/// One message to one recipient.
async fn send(relay: &Relay) -> Outcome {
    let envelope = envelope(&["b@example.net"]);
    let mut outcomes = relay.deliver(&Destination::Smarthost, &envelope, &[0], content(MAIL)).await;
    assert_eq!(outcomes.len(), 1);
    outcomes.remove(0).outcome
}

#[tokio::test]
async fn smtp_sink_takes_a_message() {
    let sink = Sink::start(&[]);
    assert!(delivered(&send(&sink.relay()).await));
}

#[tokio::test]
async fn smtp_sink_without_esmtp_or_pipelining_takes_a_message() {
    for option in ["-e", "-p", "-a"] {
        let sink = Sink::start(&[option]);
        let relay = sink.relay();
        for _ in 0..3 {
            assert!(delivered(&send(&relay).await), "{option}");
        }
    }
}

#[tokio::test]
async fn refusals_of_smtp_sink_are_kept_apart_by_class() {
    for command in ["mail", "rcpt", "data", "."] {
        let soft = Sink::start(&["-r", command]);
        assert!(matches!(send(&soft.relay()).await, Outcome::Deferred(reply) if reply.is_transient()), "{command}");
        let hard = Sink::start(&["-f", command]);
        let relay = hard.relay();
        for _ in 0..2 {
            assert!(matches!(send(&relay).await, Outcome::Failed(reply) if reply.is_permanent()), "{command}");
        }
    }
}

#[tokio::test]
async fn smtp_sink_that_hangs_up_defers() {
    for command in ["connect", "ehlo", "mail", "rcpt", "data", "."] {
        let sink = Sink::start(&["-q", command]);
        assert_eq!(deferral(&send(&sink.relay()).await), "4.4.2", "{command}");
    }
}

#[tokio::test]
async fn smtp_sink_that_says_421_defers_with_its_words() {
    for command in ["mail", "rcpt", "data", "."] {
        let sink = Sink::start(&["-Q", command]);
        assert!(matches!(send(&sink.relay()).await, Outcome::Deferred(reply) if reply.code == 421), "{command}");
    }
}

#[tokio::test]
async fn a_thousand_recipients_and_a_large_message_arrive() {
    let sink = Sink::start(&[]);
    let addresses: Vec<String> = (0..1000).map(|n| format!("r{n}@example.net")).collect();
    let envelope = envelope(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
    let all: Vec<u16> = (0..1000).collect();
    let large = format!("Subject: x\r\n\r\n{}", ".line of text\r\n".repeat(20_000));
    let outcomes = sink.relay().deliver(&Destination::Smarthost, &envelope, &all, content(&large)).await;
    assert!(outcomes.iter().map(|o| o.recipient).eq(all));
    assert!(outcomes.iter().all(|o| delivered(&o.outcome)));
}

#[tokio::test]
async fn content_arrives_as_it_is_whatever_its_dots() {
    for body in ["", "x", ".", ".\r\n", "a\r\n.\r\n.\r\nb\r\n", MAIL] {
        let server = serve(vec![numbered(1)]).await;
        let envelope = envelope(&["b@example.net"]);
        let relay = relay(server.port, RelayTls::None);
        let outcomes = relay.deliver(&Destination::Smarthost, &envelope, &[0], content(body)).await;
        assert!(delivered(&outcomes[0].outcome), "{body:?}");
        let heard = server.heard().await;
        let wire = heard[0].split_once("DATA\r\n").unwrap().1;
        let received = format!("\r\n{}", wire.strip_suffix(".\r\n").unwrap()).replace("\r\n.", "\r\n");
        let end = if body.is_empty() || body.ends_with("\r\n") { "" } else { "\r\n" };
        assert_eq!(received, format!("\r\n{body}{end}"));
    }
}

#[tokio::test]
async fn many_messages_share_one_connection() {
    let server = serve(vec![numbered(20)]).await;
    let relay = relay(server.port, RelayTls::None);
    for _ in 0..20 {
        assert!(delivered(&send(&relay).await));
    }
    assert_eq!(server.heard().await[0].matches("EHLO").count(), 1);
}

#[tokio::test]
async fn a_cached_connection_that_was_closed_meanwhile_costs_nothing() {
    let server = serve(vec![numbered(1), numbered(1)]).await;
    let relay = relay(server.port, RelayTls::None);
    assert!(delivered(&send(&relay).await));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(delivered(&send(&relay).await));
    assert_eq!(server.heard().await.len(), 2);
}

#[tokio::test]
async fn a_fresh_connection_that_breaks_is_not_tried_again_at_once() {
    let script: Script = vec![("", "220 hi\r\n"), ("EHLO postern.example\r\n", "250 hi\r\n"), ("MAIL", "")];
    let server = serve(vec![script, numbered(1)]).await;
    assert_eq!(deferral(&send(&relay(server.port, RelayTls::None)).await), "4.4.2");
}

#[tokio::test]
async fn a_next_hop_that_falls_silent_defers() {
    let mut script = numbered(1);
    script.push(("DATA\r\n", "250 ok\r\n"));
    script.push(("never", ""));
    let server = serve(vec![script]).await;
    let relay = relay(server.port, RelayTls::None);
    assert!(delivered(&send(&relay).await));
    // The minutes pass at once: the runtime has nothing else to do.
    tokio::time::pause();
    let outcome = send(&relay).await;
    assert_eq!(deferral(&outcome), "4.4.2");
    assert!(text_of(&outcome).contains("did not answer in time"), "{outcome:?}");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn idle_connections_are_ended_with_quit() {
    let mut script = numbered(1);
    script.push(("QUIT\r\n", "221 bye\r\n"));
    let server = serve(vec![script]).await;
    let relay = relay(server.port, RelayTls::None);
    assert!(delivered(&send(&relay).await));
    relay.close().await;
    assert!(server.heard().await[0].ends_with("QUIT\r\n"));
}

#[tokio::test]
async fn nonsense_defers() {
    for nonsense in ["\0\0\0\0\r\n", "SSH-2.0-OpenSSH\r\n", "999 what\r\n", "220 ok\n"] {
        let script: Script = vec![("", nonsense), ("", "220 hi\r\n")];
        let server = serve(vec![script]).await;
        assert_eq!(deferral(&send(&relay(server.port, RelayTls::None)).await), "4.5.0", "{nonsense:?}");
    }
}

#[tokio::test]
async fn a_refusal_in_the_middle_of_a_large_message_is_heard() {
    let mut script = numbered(1);
    script.truncate(4);
    script.push(("", "552 5.3.4 too much\r\n"));
    let server = serve(vec![script]).await;
    let envelope = envelope(&["b@example.net"]);
    let large = format!("Subject: x\r\n\r\n{}", "text\r\n".repeat(4_000_000));
    let outcomes =
        relay(server.port, RelayTls::None).deliver(&Destination::Smarthost, &envelope, &[0], content(&large)).await;
    // A reset can overtake the refusal; then it is a lost connection. Never is it delivered.
    let outcome = &outcomes[0].outcome;
    assert!(
        matches!(outcome, Outcome::Failed(reply) if reply.code == 552) || deferral(outcome) == "4.4.2",
        "{outcome:?}"
    );
}

#[tokio::test]
async fn nobody_listening_defers_and_suspends_the_destination() {
    let relay = relay(free_port(), RelayTls::None);
    for _ in 0..5 {
        assert_eq!(deferral(&send(&relay).await), "4.4.1");
    }
    let suspensions = relay.suspensions();
    assert_eq!(suspensions.len(), 1);
    assert_eq!(relay.not_before(&Destination::Smarthost), Some(suspensions[0].until));
    let text = text_of(&send(&relay).await);
    assert!(text.contains("not tried until"), "{text}");
    relay.resume(&Destination::Smarthost);
    assert_eq!(relay.suspensions(), []);
    assert!(text_of(&send(&relay).await).contains("no connection to"));
}

#[tokio::test]
async fn a_name_that_does_not_resolve_defers() {
    let relay = Relay::new(&settings("does-not-exist.invalid", 25)).unwrap();
    assert_eq!(deferral(&send(&relay).await), "4.4.3");
}

#[tokio::test]
async fn confidential_mail_and_unknown_routes_never_reach_a_next_hop() {
    let server = serve(vec![numbered(1)]).await;
    let relay = relay(server.port, RelayTls::None);
    let envelope = envelope(&["b@example.net"]);
    for destination in [Destination::Cloud, Destination::Internal("gone.example".into())] {
        let outcomes = relay.deliver(&destination, &envelope, &[0], content(MAIL)).await;
        assert_eq!(deferral(&outcomes[0].outcome), "4.3.5");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn internal_routes_have_their_own_next_hop() {
    let server = serve(vec![numbered(1)]).await;
    let mut settings = settings("127.0.0.1", free_port());
    let domain: Domain = "corp.example".parse().unwrap();
    let hop = HostPort { host: "127.0.0.1".into(), port: server.port };
    settings.internal.push(settings::InternalRoute { domain, server: hop, tls: RelayTls::None });
    let relay = Relay::new(&settings).unwrap();
    let envelope = envelope(&["a@example.net", "b@corp.example"]);
    let destination = Destination::Internal("corp.example".into());
    let outcomes = relay.deliver(&destination, &envelope, &[1], content(MAIL)).await;
    assert!(outcomes[0].recipient == 1 && delivered(&outcomes[0].outcome));
    assert!(server.heard().await[0].contains("RCPT TO:<b@corp.example>\r\nDATA"));
}

#[tokio::test]
async fn eight_bit_content_is_declared_and_refused_where_the_next_hop_lacks_it() {
    let mut envelope = envelope(&["b@example.net"]);
    envelope.body = BodyType::EightBitMime;
    let sink = Sink::start(&["-8"]);
    let relay = sink.relay();
    let outcomes = relay.deliver(&Destination::Smarthost, &envelope, &[0], content("Subject: x\r\n\r\nJörg\r\n")).await;
    assert_eq!(failure(&outcomes[0].outcome), "5.6.3");
    // Declared as 8-bit, but without such an octet: nothing needs converting.
    let outcomes = relay.deliver(&Destination::Smarthost, &envelope, &[0], content(MAIL)).await;
    assert!(delivered(&outcomes[0].outcome));
}

/// Content whose disk fails, or whose octets were changed, behind the first piece.
struct Broken(u8, io::ErrorKind, &'static [u8]);

impl Content for Broken {
    fn len(&self) -> u64 {
        1_000_000
    }

    fn next_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.0 += 1;
        if self.0 == 1 { Ok(Some(self.2.to_vec())) } else { Err(self.1.into()) }
    }

    fn rewind(&mut self) -> io::Result<()> {
        self.0 = 0;
        Ok(())
    }
}

#[tokio::test]
async fn content_that_cannot_be_read_to_its_end_never_gets_a_final_dot() {
    let cases = [
        (io::ErrorKind::InvalidData, &b"Subject: x\r\n"[..], false),
        (io::ErrorKind::Other, b"Subject: x\r\n", true),
        (io::ErrorKind::Other, b"Subject: x\n.\nsmuggled", false),
    ];
    for (kind, first, again) in cases {
        let server = serve(vec![numbered(1)]).await;
        let envelope = envelope(&["b@example.net"]);
        let relay = relay(server.port, RelayTls::None);
        let broken = Box::new(Broken(0, kind, first));
        let outcomes = relay.deliver(&Destination::Smarthost, &envelope, &[0], broken).await;
        match again {
            true => assert_eq!(deferral(&outcomes[0].outcome), "4.3.0"),
            false => assert_eq!(failure(&outcomes[0].outcome), "5.6.0"),
        }
        assert!(server.heard().await[0].ends_with("DATA\r\n"));
    }
}

/// A certificate for `localhost` and its key in a folder, self-signed.
fn certificate(folder: &Path) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
}

/// `openssl s_server` in SMTP's STARTTLS manner is not a mail server: it shows what the handshake comes to, then answers
/// whatever stands on its standard input.
fn openssl(folder: &Path, port: u16, options: &[&str]) -> Child {
    let mut child = Command::new("openssl")
        .args(["s_server", "-quiet", "-accept", &port.to_string()])
        .args(["-cert", "cert.pem", "-key", "key.pem"])
        .args(options)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(started.elapsed() < Duration::from_secs(10) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

/// A next hop with STARTTLS: a script up to the 220, then the octets go to and from `tls_port`.
fn starttls_relay(level: RelayTls, port: u16, ca: Option<&Path>) -> Relay {
    let mut settings = settings("localhost", port);
    settings.relay.tls = level;
    settings.relay.ca = ca.map(|path| settings::Roots::File(path.to_owned()));
    Relay::new(&settings).unwrap()
}

const OFFERS_TLS: [(&str, &str); 3] =
    [("", "220 hi\r\n"), ("EHLO postern.example\r\n", "250-hi\r\n250 STARTTLS\r\n"), ("STARTTLS\r\n", "220 go\r\n")];

#[tokio::test]
async fn a_foreign_certificate_never_gets_mail_where_verified_is_set() {
    let folder = tempfile::tempdir().unwrap();
    certificate(folder.path());
    let other = tempfile::tempdir().unwrap();
    certificate(other.path());
    let port = free_port();
    let mut server = openssl(folder.path(), port, &["-tls1_3"]);
    let front = crate::testing::front(&OFFERS_TLS, port).await;
    let relay = starttls_relay(RelayTls::Verified, front, Some(&other.path().join("cert.pem")));
    let outcome = send(&relay).await;
    assert_eq!(deferral(&outcome), "4.7.5");
    assert!(text_of(&outcome).contains("check its certificate"), "{outcome:?}");
    server.kill().unwrap();
    let mut heard = String::new();
    server.stdout.take().unwrap().read_to_string(&mut heard).unwrap();
    server.wait().unwrap();
    assert!(!heard.contains("MAIL"), "{heard}");
}

#[tokio::test]
async fn an_unknown_certificate_is_taken_where_opportunistic_is_set_and_a_known_one_where_verified_is() {
    for (level, trusted) in [(RelayTls::Opportunistic, false), (RelayTls::Verified, true)] {
        let folder = tempfile::tempdir().unwrap();
        certificate(folder.path());
        let server = crate::testing::serve_tls(
            &OFFERS_TLS,
            &folder.path().join("cert.pem"),
            &folder.path().join("key.pem"),
            numbered(2),
        )
        .await;
        let ca = folder.path().join("cert.pem");
        let relay = starttls_relay(level, server.port, trusted.then_some(ca.as_path()));
        for _ in 0..2 {
            let outcome = send(&relay).await;
            assert!(delivered(&outcome), "{outcome:?}");
        }
        assert_eq!(server.connections(), 1);
    }
}

#[tokio::test]
async fn a_failed_handshake_goes_on_in_plain_only_where_opportunistic_is_set() {
    let mut broken = OFFERS_TLS.to_vec();
    // Behind the client's first TLS record.
    broken.push(("\u{16}\u{3}\u{1}", "this is not a TLS record\r\n"));
    let server = serve(vec![broken.clone(), numbered(1)]).await;
    let outcome = send(&starttls_relay(RelayTls::Opportunistic, server.port, None)).await;
    assert!(delivered(&outcome), "{outcome:?}");

    let folder = tempfile::tempdir().unwrap();
    certificate(folder.path());
    let server = serve(vec![broken, numbered(1)]).await;
    let relay = starttls_relay(RelayTls::Verified, server.port, Some(&folder.path().join("cert.pem")));
    assert_eq!(deferral(&send(&relay).await), "4.7.5");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn starttls_stripped_on_the_way_to_a_verified_destination_defers() {
    let folder = tempfile::tempdir().unwrap();
    certificate(folder.path());
    let server = serve(vec![numbered(1)]).await;
    let relay = starttls_relay(RelayTls::Verified, server.port, Some(&folder.path().join("cert.pem")));
    assert_eq!(deferral(&send(&relay).await), "4.7.4");
    assert!(!server.heard().await[0].contains("MAIL"));
}
