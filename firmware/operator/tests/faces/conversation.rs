//! The socket itself: who is heard, what is understood, and how it ends.

use crate::bench::{Bench, SETTINGS, WORDS, run};
use operator::protocol::LONGEST_REQUEST;
use serde_json::Value;
use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixStream as StdStream},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

/// Sends these bytes, ends the sending side, and returns every answer.
async fn exchange(bench: &Bench, bytes: &[u8]) -> Vec<Value> {
    let mut stream = UnixStream::connect(bench.socket()).await.unwrap();
    // The far end may close before it has read all that we have.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    // A far end that closes before it has read all resets the connection, behind its last line.
    let mut answers = Vec::new();
    let _ = stream.read_to_end(&mut answers).await;
    let answers = String::from_utf8(answers).unwrap();
    answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_one_connection_are_answered_in_order() {
    let bench = Bench::start();
    let two = b"{\"version\":1,\"request\":\"status\"}\n{\"version\":1,\"request\":\"keys_status\"}";
    let answers = exchange(&bench, two).await;
    assert_eq!(answers.len(), 2, "{answers:?}");
    assert!(answers[0]["result"]["Ok"]["status"].is_object(), "{answers:?}");
    assert!(answers[1]["result"]["Ok"]["keys"].is_object(), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_gets_a_clear_refusal_and_the_conversation_goes_on() {
    let bench = Bench::start();
    for garbage in [
        &b"hello"[..],
        b"",
        b"{}",
        b"\xff\xfe\x00",
        b"{\"version\":1}",
        b"{\"version\":1,\"request\":\"reboot\"}",
        b"{\"version\":1,\"request\":{\"queue_show\":{\"id\":\"x\"}}}",
        b"{\"version\":1,\"request\":{\"queue_delete\":{\"id\":\"01J00000000000000000000000\",\"force\":true}}}",
        &[b'['; 100_000],
    ] {
        let lines = [garbage, b"\n{\"version\":1,\"request\":\"keys_status\"}\n"].concat();
        let answers = exchange(&bench, &lines).await;
        assert_eq!(answers.len(), 2, "{:?}: {answers:?}", String::from_utf8_lossy(garbage));
        assert_eq!(answers[0]["result"]["Err"]["fault"], "bad_request", "{answers:?}");
        assert!(answers[1]["result"]["Ok"]["keys"].is_object(), "{answers:?}");
    }
    assert_eq!(bench.recorded(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_is_told_which_one_is_spoken() {
    let bench = Bench::start();
    let answers = exchange(&bench, b"{\"version\":9,\"request\":{\"of_the_future\":{}}}\n").await;
    let what = answers[0]["result"]["Err"]["what"].as_str().unwrap();
    assert_eq!(what, "the request has version 9, this daemon speaks version 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_end_is_cut_off_and_told_so() {
    let bench = Bench::start();
    let answers = exchange(&bench, &vec![b'x'; LONGEST_REQUEST + 100_000]).await;
    assert_eq!(answers.len(), 1);
    assert!(answers[0]["result"]["Err"]["what"].as_str().unwrap().contains("longer than"), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_the_largest_size_fit_into_a_request() {
    let bench = Bench::start();
    let padding = "\"\n".repeat((settings::LONGEST_TEXT - SETTINGS.len() - 2) / 2).replace('"', "#");
    let file = bench.file("large.toml", &format!("{}{padding}", SETTINGS));
    assert!(bench.ask(&["settings", "apply", &file], "").await.good().contains("revision 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_a_request_under_way_end_and_sends_idle_faces_away() {
    let mut bench = Bench::start();
    bench.lock();
    bench.answer_slowly(Duration::from_millis(700));
    let mut idle = UnixStream::connect(bench.socket()).await.unwrap();
    let mut asking = UnixStream::connect(bench.socket()).await.unwrap();
    let line = format!("{{\"version\":1,\"request\":{{\"keys_unlock\":{{\"words\":\"{WORDS}\"}}}}}}\n");
    asking.write_all(line.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    bench.stop().await;
    let mut answer = String::new();
    asking.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("unlocked"), "{answer}");
    assert_eq!(idle.read(&mut [0; 10]).await.unwrap(), 0);
    let told = run(&["status", "--socket", bench.socket().to_str().unwrap()], "").refused();
    assert!(told.contains("no daemon answers"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_faces_are_served_and_too_many_are_sent_away() {
    let bench = Bench::start();
    let mut faces = Vec::new();
    for _ in 0..32 {
        let mut face = UnixStream::connect(bench.socket()).await.unwrap();
        face.write_all(b"{\"version\":1,\"request\":\"keys_status\"}\n").await.unwrap();
        assert!(face.read(&mut [0; 64]).await.unwrap() > 0);
        faces.push(face);
    }
    let sent_away = exchange(&bench, b"{\"version\":1,\"request\":\"status\"}\n").await;
    assert!(sent_away[0]["result"]["Err"]["what"].as_str().unwrap().contains("at once"), "{sent_away:?}");
    drop(faces);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let served = exchange(&bench, b"{\"version\":1,\"request\":\"status\"}\n").await;
    assert!(served[0]["result"]["Ok"]["status"].is_object(), "{served:?}");
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_or_a_file_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("operator.sock");
    drop(operator::bind(&path).unwrap());
    let live = operator::bind(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let refused = operator::bind(&path).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::AddrInUse, "{refused}");
    StdStream::connect(&path).unwrap();
    drop(live);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    assert!(operator::bind(&path).is_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}
