//! The binary: commands beside a running service, and kill -9.

use crate::harness::{Appliance, csr, digest_of, frame, p256};
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
    lines: std::sync::mpsc::Receiver<String>,
}

impl Running {
    fn start(data: &Path) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["serve", "--api", "127.0.0.1:0", "--portal", "127.0.0.1:0", "--smtp", "127.0.0.1:1", "--data"])
            .arg(data)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = std::sync::mpsc::channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let mut running = Self { child, api: ([127, 0, 0, 1], 0).into(), lines };
        let ready = running.event("event=ready");
        let api = ready.split("api=").nth(1).unwrap().split(' ').next().unwrap();
        running.api = api.parse().unwrap();
        running
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
    fn lab(&self) -> rustls_pki_types::CertificateDer<'static> {
        use rustls_pki_types::pem::PemObject;
        rustls_pki_types::CertificateDer::from_pem_file(self.data.join("ca.pem")).unwrap()
    }

    fn stranger(&self, address: SocketAddr) -> Appliance {
        Appliance { tls: crate::harness::tls(self.lab(), None), address }
    }

    fn appliance(&self, address: SocketAddr, pem: &str, key: &rcgen::KeyPair) -> Appliance {
        crate::harness::appliance(self.lab(), address, pem, key)
    }
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
