//! Next hops and a cloud service that misbehave: mail waits or is held, and arrives once they are mended (item 8).

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use lab::{
    layout::Layout,
    mails::Part,
    scene::{CONFIDENTIAL, RECIPIENT, Scene, Sent, settings_with, wait_for},
    sink::{Fault, Sink, SinkConfig},
    system::Options,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use serde_json::Value;
use std::{fs, path::Path, time::Duration};

/// The first retry after an hour: what leaves before was asked for by `postern queue retry`.
const PATIENT: [(&str, &str); 2] =
    [("first_seconds = 2", "first_seconds = 3600"), ("longest_seconds = 60", "longest_seconds = 3600")];

/// Where a message stands after its first attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    Waiting,
    Held,
}

/// What a message is after its first attempt, and what the operators read of it.
fn assert_stands(scene: &Scene, sent: &Sent, fault: &str, stands: Stands, says: &str) -> Value {
    let tried = |rows: &[Value]| rows.len() == 1 && rows[0]["attempts"] == 1 && rows[0]["state"] != "delivering";
    let rows = scene.wait_for_rows(sent, &format!("{fault}: no attempt is over"), tried).unwrap();
    let row = rows[0].clone();
    let state = if stands == Stands::Waiting { "waiting" } else { "held" };
    let last = row["last"].as_str().unwrap_or_default();
    assert!(row["state"] == state && last.contains(says), "{fault}: {row}");
    assert_eq!(row["held"]["by"].as_str(), (stands == Stands::Held).then_some("failure"), "{fault}: {row}");
    let shown = scene.system.postern(&["queue", "show", &sent.id], "").unwrap();
    assert!(String::from_utf8(shown.stdout).unwrap().contains(says), "{fault}: what people read");
    row
}

/// The events of a message's life.
fn events(scene: &Scene, sent: &Sent) -> Vec<String> {
    let life = scene.system.postern_json(&["message", "show", &sent.id], "").unwrap();
    life["events"].as_array().unwrap().iter().map(|event| event["what"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn whatever_the_next_hop_does_nothing_is_lost_and_a_retry_delivers() {
    let mut scene = Scene::start(|layout| {
        Ok(Options { settings: Some(settings_with(layout, false, &PATIENT)?), no_cloud: true, ..Options::default() })
    })
    .unwrap();
    let mut expected = Vec::new();
    let set = |scene: &Scene, fault| scene.system.next_hop.as_ref().unwrap().set_fault(fault);
    let faults = [
        (Fault::Unavailable, Stands::Waiting, "421 4.3.2 try again later"),
        (Fault::DeferRecipients, Stands::Waiting, "450 4.2.1 mailbox busy"),
        (Fault::RefuseRecipients, Stands::Held, "550 5.1.1 no such mailbox"),
        (Fault::DeferMessage, Stands::Waiting, "451 4.3.0 not now"),
        (Fault::RefuseMessage, Stands::Held, "554 5.6.0 not this"),
        (
            Fault::DropAfterDot { stored: false },
            Stands::Waiting,
            "after the final dot, before its answer; it may have the message",
        ),
        (
            Fault::DropAfterDot { stored: true },
            Stands::Waiting,
            "after the final dot, before its answer; it may have the message",
        ),
        (
            Fault::Nonsense,
            Stands::Waiting,
            "does not speak SMTP as it should: a line that does not start with a reply code; check what listens there",
        ),
    ];
    for (fault, stands, says) in faults {
        set(&scene, fault);
        let sent = scene.say("ordinary").unwrap();
        assert_stands(&scene, &sent, &format!("{fault:?}"), stands, says);
        set(&scene, Fault::None);
        scene.retry(&sent).unwrap();
        scene.wait_until_done(&sent).unwrap();
        let after: &[&str] = if stands == Stands::Held { &["failed", "held"] } else { &["deferred"] };
        assert_eq!(events(&scene, &sent), [&["accepted"], after, &["retried", "delivered"]].concat(), "{fault:?}");
        // The one case in which nobody can know: at least once means twice here.
        let copies = if fault == (Fault::DropAfterDot { stored: true }) { 2 } else { 1 };
        expected.extend(std::iter::repeat_n(sent.message_id, copies));
    }

    // Two recipients, of whom the second is deferred: the first is not sent to again.
    set(&scene, Fault::DeferEverySecondRecipient);
    let both = scene.send(&[RECIPIENT, "carol@partner.example"], &[Part::text("for two")]).unwrap();
    let row = assert_stands(&scene, &both, "every second", Stands::Waiting, "450 4.2.1 mailbox busy");
    assert_eq!(row["recipients"], serde_json::json!(["carol@partner.example"]));
    set(&scene, Fault::None);
    scene.retry(&both).unwrap();
    scene.wait_until_done(&both).unwrap();
    expected.extend([both.message_id.clone(), both.message_id]);

    set(&scene, Fault::Slow(Duration::from_millis(700)));
    let slow = scene.say("slowly").unwrap();
    scene.wait_until_done(&slow).unwrap();
    expected.push(slow.message_id);

    // Nobody there: several messages in a row suspend the destination, and status says so.
    scene.system.next_hop.take().unwrap().stop();
    let waiting: Vec<Sent> = (0..6).map(|_| scene.say("nobody there").unwrap()).collect();
    for sent in &waiting {
        assert_stands(&scene, sent, "nobody there", Stands::Waiting, "refused");
    }
    let failing = failing(&scene, "smarthost");
    assert!(failing["error"].as_str().unwrap().contains("refused"), "{failing}");
    let address = scene.system.layout.sink();
    let again = Sink::start(SinkConfig::new(address, scene.system.layout.path("sink/next-hop"))).unwrap();
    scene.system.next_hop = Some(again);
    for sent in waiting {
        // An operator's retry does not wait for the suspension to end.
        scene.retry(&sent).unwrap();
        scene.wait_until_done(&sent).unwrap();
        expected.push(sent.message_id);
    }

    let mut arrived = scene.arrived().unwrap();
    arrived.sort();
    expected.sort();
    assert_eq!(arrived, expected);
    scene.system.stop().unwrap();
}

/// What status says of a destination that fails.
fn failing(scene: &Scene, destination: &str) -> Value {
    let mut found = None;
    wait_for(&format!("status does not say that {destination} fails"), || {
        let status = scene.system.postern_json(&["status"], "")?;
        let failing = status["facts"]["failing"].as_array().cloned().unwrap_or_default();
        found = failing.into_iter().find(|failing| failing["destination"] == destination);
        Ok(found.is_some())
    })
    .unwrap();
    found.unwrap_or_else(|| panic!("{destination} does not fail"))
}

/// Writes `NAME.pem` and `NAME.key`: a certificate for 127.0.0.1 that ends with the year.
fn certificate(folder: &Path, name: &str, ca: &Issuer<'_, KeyPair>, until: i32) {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    parameters.not_before = date_time_ymd(2000, 1, 1);
    parameters.not_after = date_time_ymd(until, 12, 31);
    let signed = parameters.signed_by(&key, ca).unwrap();
    fs::write(folder.join(format!("{name}.pem")), signed.pem()).unwrap();
    fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

/// Writes `NAME.pem`: a root certificate.
fn authority(folder: &Path, name: &str) -> Issuer<'static, KeyPair> {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(folder.join(format!("{name}.pem")), parameters.self_signed(&key).unwrap().pem()).unwrap();
    Issuer::new(parameters, key)
}

/// The arguments with which the service shows this certificate.
fn shows(layout: &Layout, name: &str) -> Vec<String> {
    let file = |ending: &str| layout.path(&format!("{name}.{ending}")).display().to_string();
    vec!["--tls-certificate".into(), file("pem"), "--tls-key".into(), file("key")]
}

#[test]
fn while_the_cloud_is_away_or_shows_a_wrong_certificate_confidential_mail_waits_and_ordinary_mail_flows() {
    let mut scene = Scene::start(|layout| {
        let ours = authority(layout.dir(), "our-ca");
        certificate(layout.dir(), "good", &ours, 2090);
        certificate(layout.dir(), "expired", &ours, 2020);
        certificate(layout.dir(), "foreign", &authority(layout.dir(), "their-ca"), 2090);
        let changes = [PATIENT[0], PATIENT[1], ("cloud/ca.pem", "our-ca.pem")];
        let settings = settings_with(layout, true, &changes)?;
        Ok(Options { settings: Some(settings), cloud_arguments: shows(layout, "good"), ..Options::default() })
    })
    .unwrap();
    scene.system.stop_cloud().unwrap();

    let waiting: Vec<Sent> = (0..6).map(|_| scene.say(CONFIDENTIAL).unwrap()).collect();
    let ordinary = scene.say("ordinary").unwrap();
    scene.wait_until_done(&ordinary).unwrap();
    for sent in &waiting {
        let row = assert_stands(&scene, sent, "no cloud", Stands::Waiting, "cloud service cannot be reached");
        assert_eq!(row["destination"], "cloud");
    }
    let error = failing(&scene, "cloud")["error"].as_str().unwrap().to_owned();
    assert!(error.contains("cloud service cannot be reached") && error.contains("; check the network"), "{error}");

    for (name, attempts, says) in
        [("expired", 2, "it has expired"), ("foreign", 3, "not issued by a CA that is trusted here")]
    {
        scene.system.options.cloud_arguments = shows(&scene.system.layout, name);
        scene.system.start_cloud().unwrap();
        scene.retry(&waiting[0]).unwrap();
        let tried =
            |rows: &[Value]| rows.len() == 1 && rows[0]["attempts"] == attempts && rows[0]["state"] == "waiting";
        let rows = scene.wait_for_rows(&waiting[0], &format!("{name}: no attempt is over"), tried).unwrap();
        let last = rows[0]["last"].as_str().unwrap();
        assert!(last.contains("certificate is not accepted") && last.contains(says), "{name}: {last}");
        assert!(last.contains("; check cloud.ca, the clock"), "{name}: {last}");
        assert_eq!(scene.system.cloud_messages().unwrap(), [], "{name}: nothing was handed over");
        scene.system.stop_cloud().unwrap();
    }

    scene.system.options.cloud_arguments = shows(&scene.system.layout, "good");
    scene.system.start_cloud().unwrap();
    for sent in &waiting {
        scene.retry(sent).unwrap();
        scene.wait_until_done(sent).unwrap();
    }
    let mut stored: Vec<String> = scene.system.cloud_messages().unwrap().into_iter().map(|(id, _)| id).collect();
    let mut expected: Vec<String> = waiting.iter().map(|sent| sent.id.clone()).collect();
    stored.sort();
    expected.sort();
    assert_eq!(stored, expected);
    let arrived = scene.arrived().unwrap();
    assert!(!waiting.iter().any(|sent| arrived.contains(&sent.message_id)), "confidential mail went out by SMTP");
    scene.system.stop().unwrap();
}
