//! A message's way through the spool when nothing breaks.

use crate::lab::*;
use jiff::{SignedDuration, Timestamp};
use mail::{Destination, MessageId, Outcome};
use spool::{EventKind, Filter, HeldBy, OperateError, RowState, Settlement, StageError, Suite};
use std::{
    io::{Read, Seek, SeekFrom},
    time::Duration,
};

#[tokio::test]
async fn what_was_accepted_is_claimed_byte_for_byte_and_gone_when_settled() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, recovery) = open(folder.path());
    assert_eq!(recovery.messages, 0);
    for length in [60, 10_000, 65_535, 65_536, 65_537, 131_072, 700_000] {
        let id = accept_one(&spool, length).await;
        let claim = spool.claim(Timestamp::now()).unwrap();
        assert_eq!((claim.message(), claim.delivery(), claim.attempts()), (id, 0, 0));
        assert_eq!(sent_body(&claim), body(id, length), "{length}");
        assert!(spool.claim(Timestamp::now()).is_none(), "a claimed group is nobody else's");
        let settlement = delivered(&claim);
        spool.settle(claim, settlement).await.unwrap();
        assert!(rows(&spool).await.is_empty());
        let life = spool.life(id).await.unwrap().unwrap();
        assert!(life.groups.is_empty());
        assert!(matches!(life.events.last().unwrap().what, EventKind::Delivered { .. }));
    }
    assert_eq!(std::fs::read_dir(folder.path().join("spill")).unwrap().count(), 0, "spill files go with their message");
    let stats = spool.stats();
    assert_eq!((stats.messages, stats.accepted, stats.finished), (0, 7, 7));
    assert_eq!(stats.memory_used, 0);
    spool.close().await;
}

#[tokio::test]
async fn a_staged_message_reads_and_seeks_like_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    for length in [0, 1, 65_536, 65_537, 300_000] {
        let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        let mut staging = spool.stage(MessageId::generate()).unwrap();
        staging.write(&bytes).unwrap();
        let staged = staging.finish().unwrap();
        assert_eq!(staged.len(), length);
        assert_eq!(read_all(&staged), bytes);
        let mut reader = staged.open();
        reader.seek(SeekFrom::End(-(length.min(5) as i64))).unwrap();
        let mut tail = Vec::new();
        reader.read_to_end(&mut tail).unwrap();
        assert_eq!(tail, bytes[bytes.len() - bytes.len().min(5)..]);
        assert!(reader.seek(SeekFrom::Current(-1_000_000)).is_err());
    }
    assert_eq!(
        std::fs::read_dir(folder.path().join("spill")).unwrap().count(),
        0,
        "what is not committed leaves nothing"
    );
    assert_eq!(spool.stats().memory_used, 0);
}

#[tokio::test]
async fn both_suites_work_and_a_spool_reads_the_other_ones_messages() {
    let folder = tempfile::tempdir().unwrap();
    let mut ids = Vec::new();
    for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
        let mut config = config(folder.path());
        config.suite = suite;
        let (spool, _) = spool::Spool::open(config, keys(), real(folder.path())).unwrap();
        ids.push(accept_one(&spool, 1000).await);
        ids.push(accept_one(&spool, 100_000).await);
        spool.close().await;
    }
    let (spool, _) = open(folder.path());
    let mut sent: Vec<_> = deliver_all(&spool).await.into_iter().map(|(id, _)| id).collect();
    sent.sort();
    ids.sort();
    assert_eq!(sent, ids);
}

#[tokio::test]
async fn a_dropped_claim_gives_its_group_back() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let id = accept_one(&spool, 100).await;
    drop(spool.claim(Timestamp::now()).unwrap());
    tokio::time::timeout(Duration::from_secs(5), spool.due()).await.unwrap();
    assert_eq!(spool.claim(Timestamp::now()).unwrap().message(), id);
}

#[tokio::test]
async fn a_deferred_group_is_due_again_at_its_time_under_the_same_number() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    accept_one(&spool, 100).await;
    let claim = spool.claim(Timestamp::now()).unwrap();
    let later = Timestamp::now() + SignedDuration::from_secs(600);
    let settlement = Settlement { retry_at: Some(later), ..outcomes(&claim, |_| Outcome::Deferred(reply(451))) };
    spool.settle(claim, settlement).await.unwrap();
    assert!(spool.claim(Timestamp::now()).is_none());
    assert!(tokio::time::timeout(Duration::from_millis(50), spool.due()).await.is_err());
    let claim = spool.claim(later).unwrap();
    assert_eq!((claim.delivery(), claim.attempts()), (0, 1));
}

#[tokio::test]
async fn mixed_outcomes_split_a_group_and_a_number_keeps_its_recipients() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let id =
        accept(&spool, 100, vec![to(Destination::Smarthost, &[0, 1, 2]), to(Destination::Cloud, &[3])]).await.message();
    let claim = spool.claim_from(Timestamp::now(), |destination| *destination == Destination::Smarthost).unwrap();
    let settlement = outcomes(&claim, |recipient| match recipient {
        0 => Outcome::Delivered(reply(250)),
        1 => Outcome::Deferred(reply(450)),
        _ => Outcome::Failed(reply(550)),
    });
    spool.settle(claim, settlement).await.unwrap();
    let mut rows = rows(&spool).await;
    rows.sort_by_key(|row| row.group.number);
    let seen: Vec<_> = rows.iter().map(|row| (row.group.number, row.group.recipients.clone(), row.state)).collect();
    assert_eq!(seen, [(1, vec![3], RowState::Waiting), (2, vec![1], RowState::Waiting), (3, vec![2], RowState::Held)]);
    let held = rows[2].group.held.as_ref().unwrap();
    assert_eq!(held.by, HeldBy::Failure);
    assert!(held.why.contains("550"), "{}", held.why);
    assert_eq!(spool.stats().failed, 1, "a failure for good raises the alarm");
    spool.retry(id).await.unwrap();
    assert_eq!(spool.stats().failed, 0);
    let mut sent = deliver_all(&spool).await;
    sent.sort();
    assert_eq!(sent, [(id, 1), (id, 2), (id, 3)]);
    assert_eq!(spool.stats().messages, 0);
}

#[tokio::test]
async fn outcomes_that_do_not_fit_the_claim_are_refused_and_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    accept(&spool, 100, vec![to(Destination::Smarthost, &[0, 1])]).await;
    for wrong in [vec![0], vec![0, 1, 1], vec![0, 7]] {
        let claim = spool.claim(Timestamp::now()).unwrap();
        let mut settlement = delivered(&claim);
        let one = settlement.outcomes[0].clone();
        settlement.outcomes =
            wrong.into_iter().map(|recipient| mail::RecipientOutcome { recipient, ..one.clone() }).collect();
        assert!(matches!(spool.settle(claim, settlement).await, Err(spool::SettleError::Mismatch)));
    }
    assert_eq!(deliver_all(&spool).await.len(), 1);
}

#[tokio::test]
async fn an_acceptance_that_loses_or_doubles_a_recipient_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let smarthost = |recipients: &[u16]| to(Destination::Smarthost, recipients);
    for plan in [vec![smarthost(&[0, 0])], vec![smarthost(&[1])], vec![smarthost(&[])], vec![]] {
        let refused = try_accept(&spool, MessageId::generate(), 100, plan).await;
        assert!(matches!(refused, Err(spool::CommitError::Mismatch(_))));
    }
    let staged = spool.stage(MessageId::generate()).unwrap().finish().unwrap();
    let other = acceptance(MessageId::generate(), vec![smarthost(&[0])]);
    assert!(matches!(spool.commit(staged, other).await, Err(spool::CommitError::Mismatch(_))));
    assert_eq!(spool.stats().accepted, 0);
}

#[tokio::test]
async fn held_mail_waits_for_its_operator() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let id = accept(&spool, 100, vec![held(Destination::Cloud, &[0])]).await.message();
    assert!(spool.claim(Timestamp::now()).is_none());
    assert!(matches!(spool.retry(id).await, Err(OperateError::Nothing(_))), "retry does not release what policy holds");
    spool.release(id).await.unwrap();
    spool.hold(id, "wait").await.unwrap();
    assert!(spool.claim(Timestamp::now()).is_none());
    spool.release(id).await.unwrap();
    assert!(matches!(spool.release(id).await, Err(OperateError::Nothing(_))));
    let claim = spool.claim(Timestamp::now()).unwrap();
    assert_eq!(*claim.destination(), Destination::Cloud);
    assert!(matches!(spool.delete(id).await, Err(OperateError::Busy(_))), "what is being delivered is left alone");
    drop(claim);
    spool.delete(id).await.unwrap();
    assert!(matches!(spool.delete(id).await, Err(OperateError::Unknown(_))));
    assert!(rows(&spool).await.is_empty());
    let events: Vec<_> = spool.life(id).await.unwrap().unwrap().events;
    assert!(matches!(events.last().unwrap().what, EventKind::Deleted));
    assert_eq!(events.len(), 6, "{events:?}");
}

#[tokio::test]
async fn confidential_mail_is_not_re_routed_to_smtp() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let id = accept(&spool, 100, vec![to(Destination::Cloud, &[0])]).await.message();
    assert!(matches!(spool.reroute(id, Destination::Smarthost).await, Err(OperateError::Confidential(_))));
    let id = accept(&spool, 100, vec![to(Destination::Smarthost, &[0])]).await.message();
    spool.reroute(id, Destination::Internal("example.org".into())).await.unwrap();
    let filter = Filter { message: Some(id), ..Filter::default() };
    let row = spool.list(filter, 10).await.unwrap().remove(0);
    assert_eq!((row.group.number, row.group.destination), (1, Destination::Internal("example.org".into())));
}

#[tokio::test]
async fn destinations_take_turns() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    for _ in 0..3 {
        accept(&spool, 100, vec![to(Destination::Smarthost, &[0]), to(Destination::Cloud, &[1])]).await;
    }
    let claims: Vec<_> = (0..6).map(|_| spool.claim(Timestamp::now()).unwrap()).collect();
    for pair in claims.windows(2) {
        assert_ne!(pair[0].destination(), pair[1].destination());
    }
}

#[tokio::test]
async fn the_memory_budget_refuses_with_452_and_frees_itself() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.memory_bytes = 200_000;
    let (spool, _) = spool::Spool::open(config, keys(), real(folder.path())).unwrap();
    let mut stagings = Vec::new();
    let error = loop {
        let mut staging = match spool.stage(MessageId::generate()) {
            Ok(staging) => staging,
            Err(error) => break error,
        };
        if let Err(error) = staging.write(&[b'x'; 60_000]) {
            break error;
        }
        stagings.push(staging);
        assert!(stagings.len() < 10);
    };
    assert!(matches!(error, StageError::Memory));
    assert_eq!((error.reply().code, error.reply().enhanced.unwrap().to_string()), (452, "4.3.1".into()));
    assert!(spool.stats().memory_used <= 200_000);
    drop(stagings);
    assert_eq!(spool.stats().memory_used, 0);
    // A message of any size needs no more than one chunk.
    accept_one(&spool, 2_000_000).await;
    assert_eq!(spool.stats().memory_used, 0);
}

#[tokio::test]
async fn a_queue_longer_than_the_window_is_delivered_whole_and_not_kept_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.window = 16;
    let (spool, _) = spool::Spool::open(config.clone(), keys(), real(folder.path())).unwrap();
    let mut ids = Vec::new();
    for _ in 0..300 {
        ids.push(accept_one(&spool, 100).await);
    }
    spool.drain().await.unwrap();
    assert_eq!(spool.stats().destinations[0].waiting, 300);
    let first: Vec<_> = deliver_all(&spool).await.into_iter().map(|(id, _)| id).collect();
    let mut sorted = first.clone();
    sorted.sort();
    ids.sort();
    assert_eq!(sorted, ids, "each once");
    spool.close().await;
}

#[tokio::test]
async fn finished_segments_are_recycled_and_pinned_ones_stay() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let kept = accept(&spool, 100, vec![held(Destination::Cloud, &[0])]).await.message();
    for _ in 0..60 {
        accept_one(&spool, 40_000).await;
        deliver_all_now(&spool).await;
    }
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let stats = spool.stats();
    assert!(stats.segments <= 5, "{} segments for one message", stats.segments);
    spool.release(kept).await.unwrap();
    let claim = spool.claim(Timestamp::now()).unwrap();
    assert_eq!(sent_body(&claim), body(kept, 100));
}

async fn deliver_all_now(spool: &spool::Spool) {
    while let Some(claim) = spool.claim(Timestamp::now()) {
        let settlement = delivered(&claim);
        spool.settle(claim, settlement).await.unwrap();
    }
}

#[tokio::test]
async fn no_plain_byte_of_a_message_is_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    for length in [500, 200_000] {
        accept(&spool, length, vec![held(Destination::Cloud, &[0])]).await;
        accept_one(&spool, length).await;
    }
    let claim = spool.claim(Timestamp::now()).unwrap();
    let settlement = outcomes(&claim, |_| Outcome::Deferred(reply(450)));
    spool.settle(claim, settlement).await.unwrap();
    spool.drain().await.unwrap();
    assert!(spool.verify_index().await.unwrap().is_empty());
    let mut seen = 0;
    for file in files(folder.path()) {
        let bytes = std::fs::read(&file).unwrap();
        seen += bytes.len();
        let found = bytes.windows(PLANTED.len()).any(|window| window == PLANTED);
        assert!(!found, "{}", file.display());
    }
    assert!(seen > 400_000, "the files were looked at");
    spool.close().await;
}

#[tokio::test]
async fn a_shredded_message_does_not_open_from_the_raw_segment() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let id = accept_one(&spool, 1000).await;
    let slots = |folder: &std::path::Path| {
        let needle = id.to_bytes();
        let mut live = 0;
        for file in files(&folder.join("segments")) {
            let bytes = std::fs::read(file).unwrap();
            live += bytes.chunks(128).filter(|slot| slot.starts_with(b"PKEY") && slot[16..32] == needle).count();
        }
        live
    };
    assert_eq!(slots(folder.path()), 1);
    deliver_all(&spool).await;
    assert_eq!(slots(folder.path()), 0, "the key is overwritten when the last recipient is settled");
    spool.close().await;
}
