//! Real clients: swaks, openssl s_client, and Postfix's smtp-source.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a client that fails ends the test")]

mod rig;

use rig::{Options, Rig};
use std::{
    io::Write,
    process::{Command, Output, Stdio},
    sync::atomic::Ordering,
};

fn swaks(rig: &Rig, more: &[&str]) -> (bool, String) {
    let mut swaks = Command::new("swaks");
    swaks.args(["--server", "127.0.0.1", "--port", &rig.address.port().to_string(), "--helo", "client.example"]);
    swaks.args(["--from", "a@example.org", "--to", "b@example.net", "--timeout", "20"]).args(more);
    let Output { status, stdout, .. } = swaks.output().unwrap();
    (status.success(), String::from_utf8_lossy(&stdout).into_owned())
}

#[test]
fn swaks_hands_in_mail_plain_and_through_starttls() {
    let rig = Rig::start(Options::default());
    for (more, tls) in
        [(&[][..], false), (&["--tls"], true), (&["--pipeline"], false), (&["--tls", "--pipeline"], true)]
    {
        let (done, said) = swaks(&rig, &[&["--header", "Subject: grüße", "--body", ".\n..dots\nlast"], more].concat());
        assert!(done && said.contains("250 2.0.0 queued as "), "{said}");
        let (envelope, content) = rig.stages.messages.lock().unwrap().pop().unwrap();
        let content = String::from_utf8_lossy(&content);
        assert!(content.contains("\r\n\r\n.\r\n..dots\r\nlast\r\n"), "{content}");
        assert_eq!(envelope.client.tls.is_some(), tls);
        assert!(!tls || envelope.client.tls.unwrap().starts_with("TLSv1.3 TLS_"));
        assert_eq!(envelope.client.helo, "client.example");
    }
}

#[test]
fn swaks_is_refused_where_it_must_be() {
    let rig = Rig::start(Options { listed: false, ..Options::default() });
    let (done, said) = swaks(&rig, &[]);
    assert!(!done && said.contains("550 5.7.1 relaying denied"), "{said}");
    let (done, said) = swaks(&rig, &["--to", "postmaster"]);
    assert!(done, "{said}");
    rig.stages.locked.store(true, Ordering::Relaxed);
    let (done, said) = swaks(&rig, &["--to", "postmaster"]);
    assert!(!done && said.contains("451 4.3.0 locked"), "{said}");
}

#[test]
fn where_there_is_no_certificate_there_is_no_starttls() {
    let rig = Rig::start(Options { tls: false, ..Options::default() });
    let (done, said) = swaks(&rig, &["--tls"]);
    assert!(!done && !said.contains("STARTTLS\n<-"), "{said}");
    assert_eq!(rig.count(), 0);
}

#[test]
fn openssl_speaks_tls_1_2_and_1_3_and_sees_the_hosts_certificate() {
    let rig = Rig::start(Options::default());
    for version in ["-tls1_2", "-tls1_3"] {
        let mut openssl = Command::new("openssl")
            .args(["s_client", "-starttls", "smtp", "-quiet", "-verify_quiet", version, "-name", "client.example"])
            .args(["-verify_hostname", "mx.example", "-connect", &rig.address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = openssl.stdin.take().unwrap();
        stdin
            .write_all(b"EHLO client.example\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.net>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n")
            .unwrap();
        let output = openssl.wait_with_output().unwrap();
        drop(stdin);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("250 2.0.0 queued as ") && said.contains("221 2.0.0"), "{version}: {said}");
        assert!(!said.contains("STARTTLS"), "{version}: {said}");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!errors.contains("mismatch"), "{version}: {errors}");
        let (envelope, _) = rig.stages.messages.lock().unwrap().pop().unwrap();
        assert_eq!(envelope.client.tls.unwrap().starts_with("TLSv1.3"), version == "-tls1_3");
    }
}

#[test]
fn smtp_source_delivers_every_message_over_kept_and_new_connections() {
    let rig = Rig::start(Options::default());
    for reuse in [&["-d"][..], &[]] {
        let before = rig.count();
        let output = Command::new("smtp-source")
            .args(["-s", "20", "-m", "1000", "-l", "10240", "-f", "a@example.org", "-t", "b@example.net"])
            .args(reuse)
            .arg(rig.address.to_string())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(rig.count() - before, 1000);
    }
    let messages = rig.stages.messages.lock().unwrap();
    assert!(messages.iter().all(|(_, content)| content.len() > 10_000 && content.ends_with(b"\r\n")));
}

#[test]
fn a_large_message_comes_through_whole() {
    let rig = Rig::start(Options::default());
    let output = Command::new("smtp-source")
        .args(["-s", "4", "-m", "4", "-l", &(20 << 20).to_string(), "-f", "a@example.org", "-t", "b@example.net"])
        .arg(rig.address.to_string())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(rig.stages.messages.lock().unwrap().iter().all(|(_, content)| content.len() > 20 << 20));
    assert_eq!(rig.count(), 4);
}
