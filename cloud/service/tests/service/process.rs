//! The binary: commands beside a running service, and kill -9.

use crate::harness::{Appliance, Browser, Sink, csr, digest_of, frame, p256};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::StatusCode;
use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};
use wire::UploadState;

const PROGRAM: &str = env!("CARGO_BIN_EXE_postern-cloud");

struct Running {
    child: Child,
    api: SocketAddr,
    portal: SocketAddr,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Running {
    fn start(data: &Path) -> Self {
        // Nothing listens on port 1: notices wait.
        Self::start_with(data, ([127, 0, 0, 1], 1).into())
    }

    fn start_with(data: &Path, smtp: SocketAddr) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["serve", "--api", "127.0.0.1:0", "--portal", "127.0.0.1:0", "--smtp", &smtp.to_string(), "--data"])
            .arg(data)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = std::sync::mpsc::channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let unknown = ([127, 0, 0, 1], 0).into();
        let mut running = Self { child, api: unknown, portal: unknown, lines };
        let ready = running.event("event=ready");
        let field = |name: &str| ready.split(name).nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        (running.api, running.portal) = (field(" api="), field(" portal="));
        running
    }

    /// Most memory that the process has had so far, in KiB.
    fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn event(&self, name: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
            if line.contains(name) {
                return line;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(data: &Path, words: &[&str]) -> (bool, String, String) {
    let out = Command::new(PROGRAM).args(words).arg("--data").arg(data).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    (out.status.success(), text(&out.stdout), text(&out.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_work_beside_the_service_and_a_kill_loses_nothing_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("cloud");
    let mut running = Running::start(&data);
    assert!(command(&data, &["tenant", "add", "--id", "clinic", "--name", "Example Clinic"]).0);
    assert_eq!(command(&data, &["tenant", "list"]).1, "clinic\tExample Clinic");
    let (_, code, _) = command(&data, &["code", "issue", "--tenant", "clinic"]);

    let bodies = || frame(b"Subject: x\r\n\r\nHello\r\n");
    let key = p256();
    let lab = Client { data: &data };
    let reply = lab.stranger(running.api).enrol(&code, &csr(&key)).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    let enrolled: wire::EnrolResponse = reply.json();
    assert!(running.event("event=enrolled").contains(&enrolled.appliance));
    assert!(command(&data, &["appliance", "list"]).1.contains(&enrolled.appliance));

    for round in 0..5 {
        let appliance = lab.appliance(running.api, &enrolled.certificate, &key);
        let reply =
            appliance.put(round, &crate::harness::frame_to(&["jane@home.example"], round, b"x: y\r\n\r\nz")).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
        let line = running.event("event=secured");
        assert!(line.contains(&format!("group={round}")) && !line.contains("jane"), "{line}");
        // Half a body under another name at the moment of the kill.
        let half = bodies();
        let fields = [
            (wire::header::DIGEST, digest_of(&half).to_string()),
            (wire::header::UPLOAD_OFFSET, "0".to_owned()),
            (wire::header::UPLOAD_LENGTH, "100000".to_owned()),
        ];
        let path = wire::path::message(crate::harness::ID, 1000 + round);
        let _ = appliance.try_request(hyper::Method::PUT, &path, &fields, half).await;
        running.child.kill().unwrap();
        running.child.wait().unwrap();
        running = Running::start(&data);
        let appliance = lab.appliance(running.api, &enrolled.certificate, &key);
        for group in 0..=round {
            assert!(matches!(appliance.state(group).await, UploadState::Stored { .. }), "group {group} is lost");
        }
    }

    assert!(command(&data, &["appliance", "revoke", &enrolled.appliance]).0);
    let appliance = lab.appliance(running.api, &enrolled.certificate, &key);
    let path = wire::path::message(crate::harness::ID, 0);
    let reply = appliance.request(hyper::Method::GET, &path, &[], Vec::new()).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
}

struct Client<'a> {
    data: &'a Path,
}

impl Client<'_> {
    fn ca(&self) -> rustls_pki_types::CertificateDer<'static> {
        use rustls_pki_types::pem::PemObject;
        rustls_pki_types::CertificateDer::from_pem_file(self.data.join("ca.pem")).unwrap()
    }

    fn stranger(&self, address: SocketAddr) -> Appliance {
        Appliance { tls: crate::harness::tls(self.ca(), None), address }
    }

    fn appliance(&self, address: SocketAddr, pem: &str, key: &rcgen::KeyPair) -> Appliance {
        crate::harness::appliance(self.ca(), address, pem, key)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attachment_of_twenty_mebibytes_goes_through_in_bounded_memory() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("cloud");
    let sink = Sink::start().await;
    let running = Running::start_with(&data, sink.address);
    assert!(command(&data, &["tenant", "add", "--id", "clinic", "--name", "Example Clinic"]).0);
    let (_, code, _) = command(&data, &["code", "issue", "--tenant", "clinic"]);
    let client = Client { data: &data };
    let key = p256();
    let enrolled: wire::EnrolResponse = client.stranger(running.api).enrol(&code, &csr(&key)).await.json();
    let appliance = client.appliance(running.api, &enrolled.certificate, &key);
    let idle = running.peak_memory();

    let file: Vec<u8> = (0..20 * 1024 * 1024u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut message = b"Subject: scan\r\nContent-Type: application/dicom; name=scan.dcm\r\n\
        Content-Transfer-Encoding: base64\r\n\r\n"
        .to_vec();
    for line in STANDARD.encode(&file).as_bytes().chunks(76) {
        message.extend_from_slice(line);
        message.extend_from_slice(b"\r\n");
    }
    let body = frame(&message);
    let piece = wire::limit::PIECE as usize;
    for start in (0..body.len()).step_by(piece) {
        let end = (start + piece).min(body.len());
        let expected = if end == body.len() { StatusCode::CREATED } else { StatusCode::ACCEPTED };
        assert_eq!(appliance.piece(&body, start, end).await.status, expected);
    }
    let stored = running.peak_memory();
    let mut browser = Browser::new(client.ca(), running.portal);
    let opened = browser.register(&sink.wait(1).await[0].link(), "correct horse battery").await;
    let fetched = browser.get(&format!("{}/attachments/0", opened.location())).await;
    assert!(fetched.body == file, "{} bytes came back", fetched.body.len());
    let first = running.peak_memory();
    for _ in 0..3 {
        browser.get(&format!("{}/attachments/0", opened.location())).await;
    }
    let again = running.peak_memory();
    println!("peak memory in KiB: idle {idle}, stored {stored}, first shown {first}, fetched three times more {again}");
    assert!(stored - idle < 48 * 1024, "storing took {} KiB", stored - idle);
    // Finding the structure holds the message and its decoded part once; fetching holds a piece.
    assert!(first - idle < 112 * 1024, "showing took {} KiB", first - idle);
    assert!(again - first < 8 * 1024, "fetching took {} KiB more", again - first);
}

#[test]
fn mistakes_of_an_operator_are_told_in_two_halves() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("cloud");
    let running = Running::start(&data);
    let inside = data.join("key");
    let inside = inside.to_str().unwrap();
    let taken = running.api.to_string();
    for (words, says) in [
        (vec!["code", "issue", "--tenant", "nobody"], "tenant list"),
        (vec!["appliance", "revoke", "nobody"], "appliance list"),
        (vec!["tenant", "add", "--id", "a b", "--name", "x"], "letters, digits and hyphens"),
        (vec!["tenant", "list", "--master-key", inside], "outside"),
        (vec!["serve", "--api", &taken], "free the port"),
        (vec!["serve", "--api", "127.0.0.1:0", "--portal", "127.0.0.1:0"], "another service runs"),
        (
            vec!["serve", "--api", "127.0.0.1:0", "--portal", "127.0.0.1:0", "--portal-url", "http://x"],
            "another service",
        ),
    ] {
        let (succeeded, out, error) = command(&data, &words);
        assert!(!succeeded, "{words:?}: {out}");
        assert!(error.contains(says), "{words:?}: {error}");
    }
}
