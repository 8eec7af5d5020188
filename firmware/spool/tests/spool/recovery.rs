//! Restarts: after a deleted index, a damaged segment, a row changed by hand.

use crate::lab::*;
use jiff::Timestamp;
use mail::{Destination, MessageId, Outcome};
use rusqlite::Connection;
use spool::{Damage, HeldBy, IndexFound, RowChange, RowState, disk::Folder};
use std::{collections::BTreeSet, path::Path};

/// What became of 1,000 messages before the restart.
struct Thousand {
    settled: BTreeSet<MessageId>,
    deleted: BTreeSet<MessageId>,
    held: BTreeSet<MessageId>,
    /// The first of two recipients has it.
    half: BTreeSet<MessageId>,
    waiting: BTreeSet<MessageId>,
}

async fn thousand(spool: &spool::Spool) -> Thousand {
    let mut all = Vec::new();
    for portion in 0..20 {
        let mut commits = tokio::task::JoinSet::new();
        for n in 0..50 {
            let spool = spool.clone();
            commits.spawn(async move {
                let number = portion * 50 + n;
                let plan = if number % 5 == 3 {
                    vec![held(Destination::Cloud, &[0])]
                } else {
                    vec![to(Destination::Smarthost, &[0, 1])]
                };
                let length = if number % 50 == 0 { 70_000 } else { 300 };
                (number, accept(&spool, length, plan).await.message())
            });
        }
        all.extend(commits.join_all().await);
    }
    let of = |class: usize| all.iter().filter(|(n, _)| n % 5 == class).map(|(_, id)| *id).collect::<BTreeSet<_>>();
    let state = Thousand { settled: of(0), deleted: of(1), half: of(2), held: of(3), waiting: of(4) };
    for id in &state.deleted {
        spool.delete(*id).await.unwrap();
    }
    let mut kept = Vec::new();
    while let Some(claim) = spool.claim(Timestamp::now()) {
        let id = claim.message();
        if state.settled.contains(&id) {
            let settlement = delivered(&claim);
            spool.settle(claim, settlement).await.unwrap();
        } else if state.half.contains(&id) && claim.delivery() == 0 {
            let settlement = outcomes(&claim, |recipient| match recipient {
                0 => Outcome::Delivered(reply(250)),
                _ => Outcome::Deferred(reply(451)),
            });
            spool.settle(claim, settlement).await.unwrap();
        } else {
            kept.push(claim);
        }
    }
    state
}

/// Nothing settled is sent again, nothing held released, the rest delivered, to those who do not have it yet.
async fn check(spool: &spool::Spool, state: &Thousand) {
    let list = rows(spool).await;
    let listed: BTreeSet<_> = list.iter().map(|row| row.id).collect();
    let left: BTreeSet<_> = [&state.half, &state.held, &state.waiting].into_iter().flatten().copied().collect();
    assert_eq!(listed, left);
    for row in &list {
        assert_eq!(row.state == RowState::Held, state.held.contains(&row.id));
        if state.half.contains(&row.id) {
            assert_eq!(row.group.recipients, [1], "the first recipient has it");
        }
    }
    assert_eq!(spool.stats().messages, left.len() as u64);
    let sent: Vec<_> = deliver_all(spool).await.into_iter().map(|(id, _)| id).collect();
    let once: BTreeSet<_> = sent.iter().copied().collect();
    assert_eq!(sent.len(), once.len(), "nothing twice");
    let expected: BTreeSet<_> = state.half.union(&state.waiting).copied().collect();
    assert_eq!(once, expected);
}

fn delete_index(folder: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(folder.join(format!("queue.db{suffix}")));
    }
}

#[tokio::test]
async fn a_deleted_index_is_rebuilt_without_sending_or_releasing_anything() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let state = thousand(&spool).await;
    spool.close().await;
    drop(spool);
    delete_index(folder.path());
    let (spool, recovery) = open(folder.path());
    assert_eq!(recovery.index, IndexFound::Absent);
    assert_eq!(recovery.messages, 600);
    assert!(recovery.set_aside.is_empty(), "{:?}", recovery.set_aside);
    check(&spool, &state).await;
    assert!(spool.verify_index().await.unwrap().is_empty());
    spool.close().await;
}

#[tokio::test]
async fn an_index_of_garbage_and_one_under_another_key_are_rebuilt() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let state = thousand(&spool).await;
    spool.close().await;
    drop(spool);
    std::fs::write(folder.path().join("queue.db"), vec![0x5a; 40_960]).unwrap();
    let (spool, recovery) = open(folder.path());
    assert_eq!(recovery.index, IndexFound::Unusable);
    assert!(folder.path().join("queue.db.broken").exists(), "it is kept for whoever wants to know");
    spool.close().await;
    drop(spool);
    delete_index(folder.path());
    Connection::open(folder.path().join("queue.db")).unwrap().execute_batch("CREATE TABLE x (y); VACUUM;").unwrap();
    let (spool, recovery) = open(folder.path());
    assert_eq!(recovery.index, IndexFound::Unusable);
    check(&spool, &state).await;
    spool.close().await;
}

#[tokio::test]
async fn an_older_copy_of_the_index_catches_up() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let early = accept_one(&spool, 100).await;
    let kept = accept(&spool, 100, vec![held(Destination::Cloud, &[0])]).await.message();
    spool.close().await;
    drop(spool);
    let copy = folder.path().join("copy");
    std::fs::copy(folder.path().join("queue.db"), &copy).unwrap();
    let (spool, _) = open(folder.path());
    assert_eq!(deliver_all(&spool).await, [(early, 0)]);
    let state = thousand(&spool).await;
    spool.delete(kept).await.unwrap();
    spool.close().await;
    drop(spool);
    delete_index(folder.path());
    std::fs::rename(copy, folder.path().join("queue.db")).unwrap();
    let (spool, recovery) = open(folder.path());
    assert_eq!(recovery.index, IndexFound::Intact);
    check(&spool, &state).await;
    spool.close().await;
}

#[tokio::test]
async fn an_intact_index_replays_only_the_tail() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let state = thousand(&spool).await;
    spool.close().await;
    drop(spool);
    let (spool, recovery) = open(folder.path());
    assert_eq!(recovery.index, IndexFound::Intact);
    assert!(recovery.replayed <= 2, "{} records were read again", recovery.replayed);
    check(&spool, &state).await;
    spool.close().await;
}

/// Turns a bit over in the payload of the record of `id`; gives the segment file.
fn damage(folder: &Path, id: MessageId, behind_header: usize) {
    for file in files(&folder.join("segments")) {
        let mut bytes = std::fs::read(&file).unwrap();
        let found = (0..bytes.len() / 64)
            .map(|n| n * 64)
            .find(|at| bytes[*at..].starts_with(b"PREC") && bytes[at + 16..at + 32] == id.to_bytes());
        if let Some(at) = found {
            bytes[at + behind_header] ^= 4;
            std::fs::write(&file, bytes).unwrap();
            return;
        }
    }
    panic!("no record of {id}");
}

#[tokio::test]
async fn a_flipped_byte_sets_that_message_aside_and_the_rest_flows() {
    // In the payload, in the header's own fields, and in the last record of the log.
    for (place, victim_at) in [(100, 3), (20, 3), (9, 3), (1, 3), (100, 9), (70, 0)] {
        for with_index in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let (spool, _) = open(folder.path());
            let mut ids = Vec::new();
            for _ in 0..10 {
                ids.push(accept_one(&spool, 400).await);
            }
            spool.close().await;
            drop(spool);
            let victim = ids.remove(victim_at);
            ids.sort();
            damage(folder.path(), victim, place);
            if !with_index {
                delete_index(folder.path());
            }
            let (spool, recovery) = open(folder.path());
            let mut sent: Vec<_> = deliver_all_readable(&spool).await;
            sent.sort();
            assert_eq!(sent, ids, "flipped at {place} of number {victim_at}, index {with_index}");
            let named = recovery.set_aside.iter().any(|found| found.message == Some(victim))
                || rows(&spool).await.iter().any(|row| {
                    row.id == victim && row.group.held.as_ref().is_some_and(|held| held.by == HeldBy::Damage)
                });
            // With the index there, a header whose check sum alone is wrong still leads to good bytes.
            assert!(named, "flipped at {place} of number {victim_at}, index {with_index}");
            if !with_index {
                assert_eq!(spool.set_aside().unwrap()[0].message, Some(victim));
                assert_eq!(spool.stats().set_aside, 1);
            }
            spool.close().await;
        }
    }
}

/// As `deliver_all`, but a body that does not open drops its claim.
async fn deliver_all_readable(spool: &spool::Spool) -> Vec<MessageId> {
    let mut sent = Vec::new();
    loop {
        let Some(claim) = spool.claim(Timestamp::now()) else {
            if tokio::time::timeout(std::time::Duration::from_millis(150), spool.due()).await.is_err() {
                return sent;
            }
            continue;
        };
        if octets(&claim).is_ok() {
            sent.push(claim.message());
            let settlement = delivered(&claim);
            spool.settle(claim, settlement).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_damaged_key_or_spill_file_holds_its_message_and_nothing_else() {
    for in_spill in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _) = open(folder.path());
        let victim = accept_one(&spool, if in_spill { 100_000 } else { 100 }).await;
        let other = accept_one(&spool, 100).await;
        spool.close().await;
        drop(spool);
        if in_spill {
            let file = files(&folder.path().join("spill")).remove(0);
            let mut bytes = std::fs::read(&file).unwrap();
            bytes[80_000] ^= 1;
            std::fs::write(file, bytes).unwrap();
        } else {
            for file in files(&folder.path().join("segments")) {
                let mut bytes = std::fs::read(&file).unwrap();
                let slot = (0..bytes.len() / 128)
                    .map(|n| n * 128)
                    .find(|at| bytes[*at..].starts_with(b"PKEY") && bytes[at + 16..at + 32] == victim.to_bytes());
                if let Some(at) = slot {
                    bytes[at + 50] ^= 1;
                    std::fs::write(&file, bytes).unwrap();
                }
            }
        }
        let (spool, _) = open(folder.path());
        assert_eq!(deliver_all_readable(&spool).await, [other]);
        let row = rows(&spool).await.remove(0);
        assert_eq!((row.id, row.group.held.unwrap().by), (victim, HeldBy::Damage));
        spool.close().await;
    }
}

#[tokio::test]
async fn a_lost_settle_holds_its_message_instead_of_sending_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let victim = accept(&spool, 100, vec![to(Destination::Smarthost, &[0, 1])]).await.message();
    let claim = spool.claim(Timestamp::now()).unwrap();
    let settlement = outcomes(&claim, |recipient| match recipient {
        0 => Outcome::Delivered(reply(250)),
        _ => Outcome::Deferred(reply(451)),
    });
    spool.settle(claim, settlement).await.unwrap();
    spool.close().await;
    drop(spool);
    // The second record that names it is the settle.
    for file in files(&folder.path().join("segments")) {
        let mut bytes = std::fs::read(&file).unwrap();
        let found = (0..bytes.len() / 64)
            .map(|n| n * 64)
            .filter(|at| bytes[*at..].starts_with(b"PREC") && bytes[at + 16..at + 32] == victim.to_bytes())
            .nth(1);
        if let Some(at) = found {
            bytes[at + 70] ^= 1;
            std::fs::write(&file, bytes).unwrap();
        }
    }
    delete_index(folder.path());
    let (spool, recovery) = open(folder.path());
    assert_eq!(recovery.set_aside[0].damage, Damage::FactLost);
    assert!(deliver_all(&spool).await.is_empty());
    assert_eq!(rows(&spool).await[0].group.held.as_ref().unwrap().by, HeldBy::Damage);
    spool.release(victim).await.unwrap();
    assert_eq!(deliver_all(&spool).await.len(), 1, "an operator who knows better lets it go on");
    spool.close().await;
}

#[tokio::test]
async fn every_row_changed_by_hand_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(accept(&spool, 100, vec![held(Destination::Cloud, &[0])]).await.message());
    }
    spool.close().await;
    drop(spool);
    let (spool, _) = open(folder.path());
    spool.drain().await.unwrap();
    assert!(spool.verify_index().await.unwrap().is_empty());
    let db = Connection::open(folder.path().join("queue.db")).unwrap();
    let hex: String = index_key().expose().iter().map(|byte| format!("{byte:02x}")).collect();
    db.execute_batch(&format!("PRAGMA key = \"x'{hex}'\";")).unwrap();
    let change = |sql: &str, id: MessageId| assert_eq!(db.execute(sql, [id.to_bytes()]).unwrap(), 1, "{sql}");
    change("UPDATE delivery SET destination = '\"Smarthost\"' WHERE id = ?1", ids[0]);
    change("UPDATE delivery SET held_by = NULL WHERE id = ?1", ids[1]);
    change("UPDATE message SET sender = '\"else@example.org\"' WHERE id = ?1", ids[2]);
    change("DELETE FROM delivery WHERE id = ?1", ids[3]);
    change("UPDATE message SET id = x'00112233445566778899aabbccddeeff' WHERE id = ?1", ids[4]);
    let changed = spool.verify_index().await.unwrap();
    let of = |id: MessageId| {
        let mut rows: Vec<_> =
            changed.iter().filter(|row| row.id == id).map(|row| (row.group, row.what.clone())).collect();
        rows.sort_by_key(|(group, _)| *group);
        rows
    };
    assert_eq!(of(ids[0]), [(Some(0), RowChange::Columns(vec!["destination".into()]))]);
    assert_eq!(of(ids[1]), [(Some(0), RowChange::Columns(vec!["held_by".into()]))]);
    assert_eq!(of(ids[2]), [(None, RowChange::Columns(vec!["sender".into()]))]);
    assert_eq!(of(ids[3]), [(Some(0), RowChange::Missing)]);
    assert_eq!(of(ids[4]), [(None, RowChange::Missing)]);
    assert!(of(ids[5]).is_empty());
    assert!(changed.iter().any(|row| row.what == RowChange::Invented));
    assert_eq!(changed.len(), 6);
    spool.close().await;
}

#[tokio::test]
async fn a_row_removed_by_hand_does_not_lose_its_message() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let ids = [accept_one(&spool, 100).await, accept_one(&spool, 100).await];
    spool.close().await;
    drop(spool);
    let db = Connection::open(folder.path().join("queue.db")).unwrap();
    let hex: String = index_key().expose().iter().map(|byte| format!("{byte:02x}")).collect();
    db.execute_batch(&format!("PRAGMA key = \"x'{hex}'\";")).unwrap();
    for table in ["message", "delivery"] {
        db.execute(&format!("DELETE FROM {table} WHERE id = ?1"), [ids[0].to_bytes()]).unwrap();
    }
    drop(db);
    let (spool, _) = open(folder.path());
    let mut sent: Vec<_> = deliver_all(&spool).await.into_iter().map(|(id, _)| id).collect();
    sent.sort();
    let mut ids = ids.to_vec();
    ids.sort();
    assert_eq!(sent, ids);
    spool.close().await;
}

#[tokio::test]
async fn a_message_of_a_missing_epoch_is_named_and_opens_once_the_key_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let id = accept_one(&spool, 100).await;
    spool.close().await;
    drop(spool);
    delete_index(folder.path());
    let mut others = keys();
    let other = vault::Key::from_bytes(zeroize::Zeroizing::new([1; 32]));
    others.epochs = std::sync::Arc::new(vault::Epochs::fixed(vec![(2, other)]));
    let (spool, recovery) = spool::Spool::open(config(folder.path()), others, real(folder.path())).unwrap();
    assert_eq!((recovery.set_aside[0].message, recovery.set_aside[0].damage), (Some(id), Damage::EpochMissing));
    spool.close().await;
    drop(spool);
    let (spool, _) = open(folder.path());
    assert_eq!(deliver_all(&spool).await, [(id, 0)]);
    spool.close().await;
}

#[tokio::test]
async fn a_spill_file_without_a_message_is_removed_and_one_with_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let id = accept_one(&spool, 100_000).await;
    spool.close().await;
    drop(spool);
    let spill = folder.path().join(Folder::Spill.name());
    std::fs::write(spill.join(format!("{}-0123456789abcdef", MessageId::generate())), b"left over").unwrap();
    std::fs::write(spill.join(format!("{id}-0123456789abcdef")), b"of an earlier attempt").unwrap();
    let (spool, recovery) = open(folder.path());
    assert_eq!(recovery.orphans, 2);
    assert_eq!(deliver_all(&spool).await, [(id, 0)]);
    spool.close().await;
}
