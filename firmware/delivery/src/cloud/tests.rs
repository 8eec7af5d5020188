//! The cloud client against a service with real TLS, and against services that misbehave.

mod service;

use super::*;
use crate::testing::{deferral, delivered, envelope, failure, free_port, text_of};
use http_body_util::Full;
use mail::BytesContent;
use service::{CODE, Ca, LARGE, Manner, Service, SoftIdentity, Store, refuse, start};
use std::{
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

/// An enrolled client of a service that behaves.
struct Pair {
    service: Service,
    client: CloudClient,
    identity: Arc<SoftIdentity>,
    enrolment: Enrolment,
}

impl Pair {
    async fn new(manner: Manner) -> Self {
        Self::with(manner, Duration::ZERO).await
    }

    async fn with(manner: Manner, signature_takes: Duration) -> Self {
        let service = start(manner).await;
        let identity = SoftIdentity::new(signature_takes);
        let client = client(&service.url, &service.server_ca, &identity, None);
        let enrolment = client.enrol(CODE).await.unwrap();
        client.adopt(&enrolment).unwrap();
        Self { service, client, identity, enrolment }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.service.store)
    }

    /// Answers the next requests with these.
    fn can(&self, answers: impl IntoIterator<Item = http::Response<Full<bytes::Bytes>>>) {
        self.store().canned = answers.into_iter().map(Some).collect();
    }
}

fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    store.lock().unwrap()
}

fn client(url: &str, ca: &Ca, identity: &Arc<SoftIdentity>, enrolment: Option<&Enrolment>) -> CloudClient {
    let file = ca.file();
    let settings = settings::Cloud {
        url: url.to_owned(),
        ca: Some(settings::Roots::File(file.path().to_owned())),
        max_connections: 4,
    };
    CloudClient::new(Some(&settings), Arc::clone(identity) as Arc<dyn Identity>, enrolment).unwrap()
}

fn content(octets: &[u8]) -> Box<dyn Content> {
    Box::new(BytesContent::new(octets.to_vec()))
}

async fn put(client: &CloudClient, envelope: &Envelope, octets: &[u8]) -> Outcome {
    let all: Vec<u16> = (0..envelope.recipients.len() as u16).collect();
    let outcomes = client.deliver(envelope, 0, &all, content(octets)).await;
    assert!(outcomes.iter().map(|o| o.recipient).eq(all));
    outcomes[0].outcome.clone()
}

async fn send(client: &CloudClient) -> Outcome {
    put(client, &envelope(&["b@example.net"]), b"Subject: x\r\n\r\nsecret\r\n").await
}

#[tokio::test]
async fn a_message_is_stored_whole_and_twice_only_once() {
    let pair = Pair::new(Manner::default()).await;
    let envelope = envelope(&["b@example.net", "c@example.net"]);
    for _ in 0..2 {
        let outcome = put(&pair.client, &envelope, b"Subject: x\r\n\r\nsecret\r\n").await;
        assert!(delivered(&outcome) && text_of(&outcome).contains("receipt r"), "{outcome:?}");
    }
    let store = pair.store();
    let frames = store.frames();
    assert_eq!(frames.len(), 1);
    assert_eq!(*frames[0].0, path::message(&envelope.id.to_string(), 0));
    let (metadata, offset) = wire::frame::parse(frames[0].1).unwrap().unwrap();
    assert_eq!(metadata.recipients, ["b@example.net", "c@example.net"]);
    assert_eq!(&frames[0].1[offset..], b"Subject: x\r\n\r\nsecret\r\n");
    // One connection for both, beside the enrolment's.
    assert_eq!(store.connections, 2);
}

#[tokio::test]
async fn other_content_under_the_same_key_fails_for_good() {
    let pair = Pair::new(Manner::default()).await;
    let envelope = envelope(&["b@example.net"]);
    assert!(delivered(&put(&pair.client, &envelope, b"one\r\n").await));
    assert_eq!(failure(&put(&pair.client, &envelope, b"two\r\n").await), "5.6.0");
}

/// A message whose frame is [`LARGE`] octets long.
fn large(envelope: &Envelope) -> Vec<u8> {
    let empty = Frame::new(envelope, 0, &[0], content(b"")).unwrap().length as usize;
    (0..LARGE - empty).map(|n| b'a' + (n / 1000 % 26) as u8).collect()
}

#[tokio::test]
async fn a_large_message_goes_on_where_a_broken_connection_left_it() {
    let pair = Pair::new(Manner::default()).await;
    let envelope = envelope(&["b@example.net"]);
    let message = large(&envelope);
    pair.store().break_at = Some(12 * 1024 * 1024);
    assert_eq!(deferral(&put(&pair.client, &envelope, &message).await), "4.4.2");
    pair.store().break_at = None;
    pair.store().requests.clear();
    assert!(delivered(&put(&pair.client, &envelope, &message).await));
    let store = pair.store();
    let path = path::message(&envelope.id.to_string(), 0);
    let piece = wire::limit::PIECE;
    assert_eq!(
        store.requests,
        [format!("GET {path} 0"), format!("PUT {path} {piece}"), format!("PUT {path} {}", 2 * piece)]
    );
    assert!(store.frames()[0].1.ends_with(&message));
}

#[tokio::test]
async fn a_large_message_that_is_stored_already_is_not_sent_again() {
    let pair = Pair::new(Manner::default()).await;
    let envelope = envelope(&["b@example.net"]);
    let message = large(&envelope);
    assert!(delivered(&put(&pair.client, &envelope, &message).await));
    pair.store().octets = 0;
    assert!(delivered(&put(&pair.client, &envelope, &message).await));
    assert_eq!(pair.store().octets, 0);
    // Another message of the same length under the same key.
    assert_eq!(failure(&put(&pair.client, &envelope, &vec![b'z'; message.len()]).await), "5.6.0");
}

#[tokio::test]
async fn a_service_that_sends_us_back_and_forth_is_left() {
    let pair = Pair::new(Manner::default()).await;
    let envelope = envelope(&["b@example.net"]);
    for status in [202, 416] {
        let again = move || {
            let body = serde_json::to_vec(&wire::Progress { offset: 0 }).unwrap();
            http::Response::builder().status(status).body(Full::from(body)).unwrap()
        };
        pair.store().canned = std::iter::once(None).chain((0..50).map(|_| Some(again()))).collect();
        assert_eq!(deferral(&put(&pair.client, &envelope, &large(&envelope)).await), "4.5.0", "{status}");
        pair.store().canned.clear();
    }
}

#[tokio::test]
async fn each_refusal_means_what_wire_says() {
    let pair = Pair::new(Manner::default()).await;
    for (status, code) in [(400, "5.6.0"), (409, "5.6.0"), (413, "5.6.0"), (422, "5.6.0")] {
        pair.can([refuse(status)]);
        let outcome = send(&pair.client).await;
        assert_eq!(failure(&outcome), code, "{status}");
        assert!(text_of(&outcome).contains("do something"), "{outcome:?}");
    }
    for (status, code) in [
        (401, "4.7.0"),
        (403, "4.7.0"),
        (404, "4.3.2"),
        (418, "4.3.2"),
        (500, "4.3.2"),
        (502, "4.3.2"),
        (301, "4.3.2"),
        (202, "4.5.0"),
        (416, "4.5.0"),
    ] {
        pair.client.resume();
        pair.can([refuse(status)]);
        assert_eq!(deferral(&send(&pair.client).await), code, "{status}");
    }
    pair.client.resume();
    assert!(delivered(&send(&pair.client).await));
}

#[tokio::test]
async fn success_without_a_receipt_is_no_success() {
    let pair = Pair::new(Manner::default()).await;
    for body in ["", "{}", "<html>", "{\"receipt\":\"\"}", "[]"] {
        for status in [200, 201] {
            pair.client.resume();
            pair.can([http::Response::builder().status(status).body(Full::from(body)).unwrap()]);
            assert_eq!(deferral(&send(&pair.client).await), "4.5.0", "{status} {body}");
        }
    }
    assert_eq!(pair.store().frames().len(), 0);
}

#[tokio::test]
async fn half_an_answer_and_none_at_all_defer() {
    let pair = Pair::new(Manner::default()).await;
    assert!(delivered(&send(&pair.client).await));
    let half = http::Response::builder().status(201).header("content-length", "1000");
    pair.can([half.body(Full::from("{\"receipt\":\"r\"}")).unwrap()]);
    // What arrives is a broken stream, then it is asked again over a fresh connection; or an empty answer.
    let outcome = send(&pair.client).await;
    let stored = pair.store().frames().len();
    match &outcome {
        Outcome::Delivered(_) => assert_eq!(stored, 2),
        other => assert!(deferral(other) == "4.5.0" && stored == 1, "{other:?}"),
    }

    pair.store().silent = true;
    // The minute passes at once: the runtime has nothing else to do.
    tokio::time::pause();
    assert_eq!(deferral(&send(&pair.client).await), "4.4.2");
    tokio::time::resume();
}

#[tokio::test]
async fn retry_after_is_kept() {
    let pair = Pair::new(Manner::default()).await;
    for status in [429, 503] {
        let mut busy = refuse(status);
        busy.headers_mut().insert("retry-after", http::HeaderValue::from_static("120"));
        pair.can([busy]);
        assert_eq!(deferral(&send(&pair.client).await), "4.3.2");
        let wait = pair.client.not_before().unwrap().duration_since(Timestamp::now());
        assert!((100..=120).contains(&wait.as_secs()), "{wait}");
        let before = pair.store().requests.len();
        assert!(text_of(&send(&pair.client).await).contains("not tried until"));
        assert_eq!(pair.store().requests.len(), before);
        pair.client.resume();
    }
    assert!(delivered(&send(&pair.client).await));
}

#[tokio::test]
async fn while_the_service_is_away_mail_waits_and_it_is_not_hammered() {
    let pair = Pair::new(Manner::default()).await;
    let away = format!("https://localhost:{}", free_port());
    let client = client(&away, &pair.service.server_ca, &pair.identity, Some(&pair.enrolment));
    for _ in 0..5 {
        assert_eq!(deferral(&send(&client).await), "4.4.1");
    }
    assert!(client.suspension().is_some());
    assert!(text_of(&send(&client).await).contains("not tried until"));
}

#[tokio::test]
async fn without_enrolment_or_settings_mail_waits() {
    let service = start(Manner::default()).await;
    let identity = SoftIdentity::new(Duration::ZERO);
    let client = client(&service.url, &service.server_ca, &identity, None);
    let outcome = send(&client).await;
    assert_eq!(deferral(&outcome), "4.7.0");
    assert!(text_of(&outcome).contains("postern enrol"), "{outcome:?}");
    assert!(client.not_enrolled().is_some());
    let unset = CloudClient::new(None, identity, None).unwrap();
    assert_eq!(deferral(&send(&unset).await), "4.7.0");
    assert_eq!(unset.enrol(CODE).await, Err(EnrolError::NotConfigured));
    assert_eq!(lock(&service.store).connections, 0);
}

#[tokio::test]
async fn a_foreign_an_expired_and_a_nameless_certificate_defer_before_a_byte_is_sent() {
    let pair = Pair::new(Manner::default()).await;
    let foreign = client(&pair.service.url, &Ca::new(), &pair.identity, Some(&pair.enrolment));
    let expired = start(Manner { expired: true, ..Manner::default() }).await;
    let late = client(&expired.url, &expired.server_ca, &pair.identity, Some(&pair.enrolment));
    let address = pair.service.url.replace("localhost", "127.0.0.1");
    let nameless = client(&address, &pair.service.server_ca, &pair.identity, Some(&pair.enrolment));
    let before = pair.store().requests.len();
    for client in [foreign, late, nameless] {
        let outcome = send(&client).await;
        assert_eq!(deferral(&outcome), "4.7.5");
        assert!(text_of(&outcome).contains("check cloud.ca"), "{outcome:?}");
    }
    assert_eq!((pair.store().requests.len(), lock(&expired.store).requests.len()), (before, 0));
}

#[tokio::test]
async fn older_tls_and_older_http_are_not_spoken() {
    let pair = Pair::new(Manner::default()).await;
    for manner in [Manner { tls12: true, ..Manner::default() }, Manner { http1: true, ..Manner::default() }] {
        let service = start(manner).await;
        let client = client(&service.url, &service.server_ca, &pair.identity, Some(&pair.enrolment));
        let outcome = send(&client).await;
        assert!(matches!(deferral(&outcome).as_str(), "4.5.0" | "4.4.2"), "{outcome:?}");
        assert!(lock(&service.store).requests.is_empty());
    }
}

#[tokio::test]
async fn a_service_that_does_not_know_our_certificate_any_more_defers() {
    let pair = Pair::new(Manner::default()).await;
    let service = start(Manner { foreign_clients: true, ..Manner::default() }).await;
    let client = client(&service.url, &service.server_ca, &pair.identity, Some(&pair.enrolment));
    let outcome = send(&client).await;
    // The alert comes with the first read, or is overtaken by the reset.
    assert!(matches!(deferral(&outcome).as_str(), "4.7.0" | "4.4.2"), "{outcome:?}");
    assert!(lock(&service.store).requests.is_empty());
}

#[tokio::test]
async fn a_wrong_code_is_refused_and_another_keys_certificate_is_not_adopted() {
    let pair = Pair::new(Manner::default()).await;
    assert!(matches!(pair.client.enrol("WRONG").await, Err(EnrolError::Refused(_))));
    let other = SoftIdentity::new(Duration::ZERO);
    let client = client(&pair.service.url, &pair.service.server_ca, &other, Some(&pair.enrolment));
    assert!(client.not_enrolled().unwrap().contains("another device key"));
    assert_eq!(client.adopt(&pair.enrolment), Err(EnrolError::OtherKey));
    // Enrolled anew, it delivers.
    client.adopt(&client.enrol(CODE).await.unwrap()).unwrap();
    assert!(delivered(&send(&client).await));
}

#[tokio::test]
async fn sessions_resume_so_that_the_tpm_signs_once() {
    let pair = Pair::new(Manner::default()).await;
    pair.store().one_request_a_connection = true;
    let before = pair.store().connections;
    for _ in 0..4 {
        assert!(delivered(&send(&pair.client).await));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!((pair.store().connections - before, pair.identity.signatures()), (4, 1));
}

#[tokio::test]
async fn a_slow_tpm_holds_up_nobody_else() {
    let pair = Pair::with(Manner::default(), Duration::from_secs(1)).await;
    let longest = Arc::new(Mutex::new(Duration::ZERO));
    let watched = Arc::clone(&longest);
    let ticks = tokio::spawn(async move {
        loop {
            let started = Instant::now();
            tokio::time::sleep(Duration::from_millis(5)).await;
            let mut longest = watched.lock().unwrap();
            *longest = longest.max(started.elapsed());
        }
    });
    let started = Instant::now();
    assert!(delivered(&send(&pair.client).await));
    assert!(started.elapsed() >= Duration::from_secs(1));
    ticks.abort();
    let longest = *longest.lock().unwrap();
    assert!(longest < Duration::from_millis(500), "the runtime stood still for {longest:?}");
}

#[tokio::test]
async fn a_tpm_that_does_not_sign_defers_and_says_so() {
    let service = start(Manner::default()).await;
    let client = client(&service.url, &service.server_ca, &SoftIdentity::locked_out(), None);
    client.adopt(&client.enrol(CODE).await.unwrap()).unwrap();
    let outcome = send(&client).await;
    assert_eq!(deferral(&outcome), "4.7.5");
    let text = text_of(&outcome);
    assert!(text.contains("the TPM is locked out") && text.contains("postern keys status"), "{text}");
}

#[tokio::test]
async fn many_messages_at_once_share_the_connections_that_settings_allow() {
    let pair = Arc::new(Pair::new(Manner::default()).await);
    let sending: Vec<_> = (0..60)
        .map(|_| {
            let pair = Arc::clone(&pair);
            tokio::spawn(async move { send(&pair.client).await })
        })
        .collect();
    for sent in sending {
        assert!(delivered(&sent.await.unwrap()));
    }
    assert_eq!(pair.store().frames().len(), 60);
}

/// Reads well once, for the digest, and not again.
struct Decaying {
    inner: BytesContent,
    rewound: bool,
    kind: std::io::ErrorKind,
}

impl Content for Decaying {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn next_chunk(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        if self.rewound { Err(self.kind.into()) } else { self.inner.next_chunk() }
    }

    fn rewind(&mut self) -> std::io::Result<()> {
        self.rewound = true;
        self.inner.rewind()
    }
}

#[tokio::test]
async fn a_disk_that_fails_half_way_is_our_fault_and_not_the_services() {
    let pair = Pair::new(Manner::default()).await;
    for (kind, permanent) in [(std::io::ErrorKind::Other, false), (std::io::ErrorKind::InvalidData, true)] {
        let envelope = envelope(&["b@example.net"]);
        let inner = BytesContent::new(vec![b'x'; 500_000]);
        let content = Box::new(Decaying { inner, rewound: false, kind });
        let outcome = pair.client.deliver(&envelope, 0, &[0], content).await.remove(0).outcome;
        match permanent {
            false => assert_eq!(deferral(&outcome), "4.3.0"),
            true => assert_eq!(failure(&outcome), "5.6.0"),
        }
    }
    assert_eq!(pair.store().frames().len(), 0);
}

#[tokio::test]
async fn a_url_that_names_no_server_is_an_error_of_the_settings() {
    let identity = SoftIdentity::new(Duration::ZERO);
    for url in ["", "cloud.example", "http://cloud.example", "https://", "https://cloud.example/path", "https://a b"] {
        let settings = settings::Cloud { url: url.to_owned(), ca: None, max_connections: 1 };
        let result = CloudClient::new(Some(&settings), Arc::clone(&identity) as Arc<dyn Identity>, None);
        assert!(matches!(result, Err(SetupError::Url(_))), "{url}");
    }
}

#[tokio::test]
async fn a_probe_is_signed_anew_stores_nothing_and_waits_for_no_suspension() {
    let pair = Pair::new(Manner::default()).await;
    assert!(delivered(&send(&pair.client).await));
    let (signatures, requests) = (pair.identity.signatures(), pair.store().requests.len());
    pair.client.gate.suspend(Duration::from_secs(60), &Reply::plain(451, "later"));
    let id = envelope(&["b@example.net"]).id;
    pair.client.probe(id).await.unwrap();
    pair.client.probe(id).await.unwrap();
    assert_eq!(pair.identity.signatures(), signatures + 2);
    assert_eq!(pair.store().requests.len(), requests + 2);
    assert_eq!(pair.store().frames().len(), 1);
    assert!(pair.client.suspension().is_some());
}

#[tokio::test]
async fn a_probe_tells_what_is_ours_from_what_is_the_services() {
    let id = envelope(&["b@example.net"]).id;
    let pair = Pair::new(Manner::default()).await;
    pair.can([refuse(503), refuse(403)]);
    assert!(matches!(pair.client.probe(id).await, Err(ProbeError::Away(_))));
    assert!(matches!(pair.client.probe(id).await, Err(ProbeError::Identity(_))));
    let nobody = client(&format!("https://localhost:{}", free_port()), &Ca::new(), &pair.identity, None);
    assert!(matches!(nobody.probe(id).await, Err(ProbeError::NotEnrolled(_))));
    nobody.adopt(&pair.enrolment).unwrap();
    assert!(matches!(nobody.probe(id).await, Err(ProbeError::Away(_))));
    let stranger = client(&pair.service.url, &Ca::new(), &pair.identity, Some(&pair.enrolment));
    assert!(matches!(stranger.probe(id).await, Err(ProbeError::Identity(_))));
    let locked = client(&pair.service.url, &pair.service.server_ca, &SoftIdentity::locked_out(), None);
    locked.adopt(&locked.enrol(CODE).await.unwrap()).unwrap();
    assert!(matches!(locked.probe(id).await, Err(ProbeError::Identity(_))));
}
