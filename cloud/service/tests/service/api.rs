//! Storing: once, whole, and only what fits its digest.

use crate::harness::*;
use hyper::{Method, StatusCode};
use std::{path::Path, time::Duration};
use tokio::io::AsyncWriteExt;
use wire::{Progress, Stored, UploadState, header};

const SMALL: &[u8] = b"From: a@clinic.example\r\nSubject: x\r\n\r\nHello\r\n";

fn large(length: usize) -> Vec<u8> {
    let mut message = b"From: a@clinic.example\r\nSubject: large\r\n\r\n".to_vec();
    message.extend((0..length).map(|i| if i % 78 == 77 { b'\n' } else { b'a' + (i % 23) as u8 }));
    message
}

/// Files below a folder, staged ones included.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[tokio::test]
async fn the_same_message_is_stored_once_and_another_under_its_name_refused() {
    let lab = Lab::start().await;
    let appliance = lab.enrolled().await;
    let first = appliance.put(0, &frame(SMALL)).await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text());
    let again = appliance.put(0, &frame(SMALL)).await;
    assert_eq!(again.status, StatusCode::OK);
    assert_eq!(first.json::<Stored>(), again.json::<Stored>());
    let other = appliance.put(0, &frame(b"Subject: y\r\n\r\nother")).await;
    assert_eq!(other.status, StatusCode::CONFLICT, "{}", other.text());
    let group = appliance.put(1, &frame_to(&["b@home.example"], 1, SMALL)).await;
    assert_eq!(group.status, StatusCode::CREATED);
    assert_eq!(lab.sink.wait(2).await.len(), 2);
    assert_eq!(files(&lab.data().join("objects")).len(), 2);
}

#[tokio::test]
async fn a_long_body_is_answered_early_where_its_message_is_known() {
    let lab = Lab::start().await;
    let appliance = lab.enrolled().await;
    let body = frame(&large(7_000_000));
    assert_eq!(appliance.put(0, &body).await.status, StatusCode::CREATED);
    assert_eq!(appliance.put(0, &body).await.status, StatusCode::OK);
    assert_eq!(appliance.put(0, &frame(&large(7_000_001))).await.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn many_puts_of_one_message_at_once_store_it_once() {
    let lab = Lab::start().await;
    let appliance = lab.enrolled().await;
    let body = frame(&large(300_000));
    let replies = futures_util::future::join_all((0..8).map(|_| appliance.put(0, &body))).await;
    let created = replies.iter().filter(|r| r.status == StatusCode::CREATED).count();
    let known = replies.iter().filter(|r| r.status == StatusCode::OK).count();
    assert_eq!((created, known), (1, 7));
    assert_eq!(files(&lab.data().join("objects")).len(), 1);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_leaves_nothing() {
    let lab = Lab::start().await;
    let appliance = lab.enrolled().await;
    let path = wire::path::message(ID, 0);
    let good = frame(SMALL);
    let digest = |bytes: &[u8]| (header::DIGEST, digest_of(bytes).to_string());
    let mut wrong_group = frame_to(&["a@home.example"], 7, SMALL);
    wrong_group.extend_from_slice(b"x");
    let cut = &good[..20];
    let no_recipient = frame_to(&[], 0, SMALL);
    let injected = frame_to(&["a@home.example\r\nBcc: b@c"], 0, SMALL);
    for (fields, body) in [
        (vec![digest(b"something else")], good.as_slice()),
        (vec![], &good),
        (vec![(header::DIGEST, "sha-256=:AAAA:".into())], &good),
        (vec![digest(cut)], cut),
        (vec![digest(b"")], b""),
        (vec![digest(&wrong_group)], &wrong_group),
        (vec![digest(&no_recipient)], &no_recipient),
        (vec![digest(&injected)], &injected),
        (vec![digest(&good), (header::UPLOAD_OFFSET, "0".into())], &good),
        (vec![digest(&good), (header::UPLOAD_OFFSET, "-1".into()), (header::UPLOAD_LENGTH, "x".into())], &good),
        (vec![digest(&good), (header::UPLOAD_OFFSET, "9".into()), (header::UPLOAD_LENGTH, "9".into())], &good),
    ] {
        let reply = appliance.request(Method::PUT, &path, &fields, body.to_vec()).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{fields:?}: {}", reply.text());
        assert!(reply.text().contains("error"), "{}", reply.text());
    }
    let absurd = [digest(&good), (header::UPLOAD_OFFSET, "0".into()), (header::UPLOAD_LENGTH, u64::MAX.to_string())];
    assert_eq!(
        appliance.request(Method::PUT, &path, &absurd, good.clone()).await.status,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    assert_eq!(appliance.state(0).await, UploadState::Absent);
    assert!(files(&lab.data().join("objects")).is_empty());
    assert!(lab.sink.mails.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_path_that_names_no_message_is_refused() {
    let lab = Lab::start().await;
    let appliance = lab.enrolled().await;
    for path in [
        "/v1/messages/..%2f..%2fetc/0",
        "/v1/messages/01JD3Q5Y7ZKX9V2W4T6R8P0M1N/..%2f0",
        "/v1/messages/01JD3Q5Y7ZKX9V2W4T6R8P0M1N/-1",
        "/v1/messages/01JD3Q5Y7ZKX9V2W4T6R8P0M1N/+1",
        "/v1/messages/01JD3Q5Y7ZKX9V2W4T6R8P0M1N/4294967296",
        "/v1/messages/01jd3q5y7zkx9v2w4t6r8p0m1n/0",
        "/v1/messages/x/0",
    ] {
        let reply = appliance.request(Method::GET, path, &[], Vec::new()).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{path}: {}", reply.text());
    }
}

#[tokio::test]
async fn an_upload_in_pieces_goes_on_after_a_restart_at_every_border() {
    let mut lab = Lab::start().await;
    let appliance = lab.enrolled().await;
    let body = frame(&large(700_000));
    let borders = [0, 65_536, 200_000, 531_072, body.len()];
    for pair in borders.windows(2) {
        let (start, end) = (pair[0], pair[1]);
        let state = appliance_at(&lab, &appliance).state(0).await;
        match state {
            UploadState::Absent => assert_eq!(start, 0),
            UploadState::Partial { offset, length, digest } => {
                assert_eq!((offset, length, digest), (start as u64, body.len() as u64, digest_of(&body)));
            }
            UploadState::Stored { .. } => panic!("stored before its end"),
        }
        let reply = appliance_at(&lab, &appliance).piece(&body, start, end).await;
        if end == body.len() {
            assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
        } else {
            assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.text());
            assert_eq!(reply.json::<Progress>().offset, end as u64);
        }
        lab.restart().await;
    }
    let appliance = appliance_at(&lab, &appliance);
    assert!(matches!(appliance.state(0).await, UploadState::Stored { digest, .. } if digest == digest_of(&body)));
    assert_eq!(appliance.put(0, &body).await.status, StatusCode::OK);

    let link = lab.sink.wait(1).await[0].link();
    let mut browser = lab.browser();
    let opened = browser.register(&link, "correct horse battery").await;
    let page = browser.get(opened.location()).await.text();
    let shown = String::from_utf8(large(700_000)).unwrap();
    assert!(page.contains(shown.split("\r\n\r\n").nth(1).unwrap().trim_end()), "the pieces do not join to the message");
}

/// The same certificate, towards the address of the present run (whose server certificate is new).
fn appliance_at(lab: &Lab, appliance: &Appliance) -> Appliance {
    Appliance { tls: appliance.tls.clone(), address: lab.api() }
}

#[tokio::test]
async fn a_piece_at_another_place_is_told_the_right_one() {
    let lab = Lab::start().await;
    let appliance = lab.enrolled().await;
    let body = frame(&large(400_000));
    let early = appliance.piece(&body, 100_000, 200_000).await;
    assert_eq!((early.status, early.json::<Progress>().offset), (StatusCode::RANGE_NOT_SATISFIABLE, 0));
    appliance.piece(&body, 0, 100_000).await;
    for start in [0, 50_000, 200_000] {
        let reply = appliance.piece(&body, start, 300_000).await;
        assert_eq!((reply.status, reply.json::<Progress>().offset), (StatusCode::RANGE_NOT_SATISFIABLE, 100_000));
    }
    let tiny = appliance.piece(&body, 100_000, 100_010).await;
    assert_eq!(tiny.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", tiny.text());
    assert_eq!(appliance.piece(&body, 100_000, body.len()).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn pieces_of_two_frames_never_become_one() {
    let lab = Lab::start().await;
    let appliance = lab.enrolled().await;
    let (first, second) = (frame(&large(300_000)), frame(&large(300_001)));
    appliance.piece(&first, 0, 100_000).await;
    let mixed = appliance.piece(&second, 100_000, 200_000).await;
    assert_eq!(mixed.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", mixed.text());
    // At 0 the new frame takes the old one's place.
    assert_eq!(appliance.piece(&second, 0, 100_000).await.status, StatusCode::ACCEPTED);
    assert_eq!(files(&lab.data().join("objects")).len(), 1);
    assert_eq!(appliance.piece(&second, 100_000, second.len()).await.status, StatusCode::CREATED);

    // The same length, changed bytes under the old digest: found when it is whole, and nothing is kept.
    let mut changed = frame_to(&["jane@home.example"], 0, &large(200_000));
    let honest = digest_of(&changed);
    changed[150_000] ^= 1;
    let path = wire::path::message("01JD3Q5Y7ZKX9V2W4T6R8P0M2P", 0);
    for (offset, end, status) in
        [(0, 100_000, StatusCode::ACCEPTED), (100_000, changed.len(), StatusCode::UNPROCESSABLE_ENTITY)]
    {
        let fields = [
            (header::DIGEST, honest.to_string()),
            (header::UPLOAD_OFFSET, offset.to_string()),
            (header::UPLOAD_LENGTH, changed.len().to_string()),
        ];
        let reply = appliance.request(Method::PUT, &path, &fields, changed[offset..end].to_vec()).await;
        assert_eq!(reply.status, status, "{}", reply.text());
    }
    assert_eq!(files(&lab.data().join("objects")).len(), 2, "only the stored frame's two pieces remain");
}

#[tokio::test]
async fn a_body_that_breaks_off_leaves_nothing_and_can_be_sent_again() {
    let lab = Lab::start().await;
    let appliance = lab.enrolled().await;
    let body = frame(&large(500_000));
    for (sent, offset) in [(0, None), (10, None), (300_000, None), (body.len() - 1, None), (300_000, Some(0))] {
        let mut stream = appliance.open().await.unwrap();
        let pieces: String = offset
            .map(|o: usize| format!("upload-offset: {o}\r\nupload-length: {}\r\n", body.len()))
            .unwrap_or_default();
        let head = format!(
            "PUT {} HTTP/1.1\r\nhost: x\r\n{}: {}\r\n{pieces}content-length: {}\r\n\r\n",
            wire::path::message(ID, 0),
            header::DIGEST,
            digest_of(&body),
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body[..sent]).await.unwrap();
        stream.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(stream);
    }
    // The broken requests hold the name until the service has noticed; this one waits for it.
    let reply = appliance.put(0, &body).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    assert_eq!(files(&lab.data().join("objects")).len(), 1);
    assert_eq!(lab.sink.wait(1).await.len(), 1);
}

#[tokio::test]
async fn leftovers_of_a_crash_are_removed_at_start_and_stored_messages_kept() {
    let mut lab = Lab::start().await;
    let appliance = lab.enrolled().await;
    appliance.put(0, &frame(SMALL)).await;
    let objects = lab.data().join("objects");
    let kept = files(&objects);
    let orphan = objects.join("0123456789abcdef0123456789abcdef01234567");
    std::fs::create_dir(&orphan).unwrap();
    std::fs::write(orphan.join("0"), b"never committed").unwrap();
    std::fs::write(kept[0].with_file_name("0#1"), b"staged").unwrap();
    std::fs::write(kept[0].with_file_name("1"), b"a piece whose row was not written").unwrap();
    lab.restart().await;
    assert_eq!(files(&objects), kept);
    assert_eq!(appliance_at(&lab, &appliance).put(0, &frame(SMALL)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn requests_cannot_be_smuggled_behind_one_another() {
    let lab = Lab::start().await;
    let appliance = lab.enrolled().await;
    let path = wire::path::message(ID, 0);
    for head in [
        format!("PUT {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 5\r\n\r\nabcde"),
        format!(
            "PUT {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\nGET {path} HTTP/1.1\r\n\r\n"
        ),
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "a".repeat(100_000)),
    ] {
        let reply = raw(&appliance, head.as_bytes()).await;
        assert!(reply.starts_with("HTTP/1.1 4"), "{reply}");
        assert_eq!(reply.matches("HTTP/1.1").count(), 1, "{reply}");
    }
}
