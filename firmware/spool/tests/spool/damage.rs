//! Disks that lose or turn over what they were given: nothing of it costs more than what it hits.

use crate::lab::*;
use jiff::Timestamp;
use mail::MessageId;
use spool::{
    Damage, HeldBy, Recovery, RowState, Spool,
    disk::{Folder, SimulatedDisk},
};
use std::{collections::BTreeSet, path::Path, sync::Arc};

/// Key slots begin here.
const SLOTS: u64 = 4096;

fn start(disk: &SimulatedDisk, folder: &Path) -> (Spool, Recovery) {
    let mut config = config(folder);
    // Both lanes have room for all of a test, so that none of its segments goes.
    config.segment_bytes = 1 << 20;
    Spool::open(config, keys(), Arc::new(disk.clone())).unwrap()
}

/// A spool with these messages, closed.
async fn filled(lengths: &[usize]) -> (SimulatedDisk, tempfile::TempDir, Vec<MessageId>) {
    let (disk, folder) = (SimulatedDisk::new(), shared_memory());
    let (spool, _) = start(&disk, folder.path());
    let mut ids = Vec::new();
    for length in lengths {
        ids.push(accept_one(&spool, *length).await);
    }
    spool.close().await;
    (disk, folder, ids)
}

fn names(disk: &SimulatedDisk, folder: Folder) -> Vec<String> {
    spool::Disk::list(disk, folder).unwrap()
}

/// Name of the segment with the record of `id`, and the record's offset.
fn record_of(disk: &SimulatedDisk, id: MessageId) -> (String, usize) {
    let segments = names(disk, Folder::Segments).into_iter().filter(|name| name.starts_with("segment-"));
    let found = segments.filter_map(|name| {
        let bytes = disk.contents(Folder::Segments, &name).unwrap();
        let at = (0..bytes.len() / 64)
            .map(|n| n * 64)
            .find(|at| bytes[*at..].starts_with(b"PREC") && bytes[at + 16..at + 32] == id.to_bytes());
        Some((name, at?))
    });
    found.into_iter().next().unwrap()
}

fn slot_of(disk: &SimulatedDisk, id: MessageId) -> (String, u64) {
    let (name, _) = record_of(disk, id);
    let bytes = disk.contents(Folder::Segments, &name).unwrap();
    let at = (0..bytes.len() / 128)
        .map(|n| n * 128)
        .find(|at| bytes[*at..].starts_with(b"PKEY") && bytes[at + 16..at + 32] == id.to_bytes());
    (name, at.unwrap() as u64)
}

fn delete_index(folder: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(folder.join(format!("queue.db{suffix}")));
    }
}

async fn sent(spool: &Spool) -> BTreeSet<MessageId> {
    deliver_all(spool).await.into_iter().map(|(id, _)| id).collect()
}

#[tokio::test]
async fn a_flipped_byte_in_a_segment_header_loses_no_message() {
    for lost_sector in [false, true] {
        let (disk, folder, ids) = filled(&[300, 100_000, 300]).await;
        let (segment, _) = record_of(&disk, ids[0]);
        if lost_sector {
            disk.lose_sector(Folder::Segments, &segment, 0).unwrap();
        } else {
            disk.flip(Folder::Segments, &segment, 13).unwrap();
        }
        let (spool, recovery) = start(&disk, folder.path());
        assert!(recovery.set_aside.is_empty(), "{:?}", recovery.set_aside);
        assert_eq!((recovery.messages, recovery.orphans), (3, 0));
        spool.close().await;
        drop(spool);
        // The header was renewed: the next flipped byte finds two copies again.
        disk.flip(Folder::Segments, &segment, 2048).unwrap();
        let (spool, recovery) = start(&disk, folder.path());
        assert!(recovery.set_aside.is_empty(), "{:?}", recovery.set_aside);
        assert_eq!(sent(&spool).await, ids.into_iter().collect());
        spool.close().await;
    }
}

#[tokio::test]
async fn a_segment_without_any_header_keeps_its_messages_named_held_and_untouched() {
    let (disk, folder, ids) = filled(&[300, 100_000]).await;
    let segments: BTreeSet<_> = ids.iter().map(|id| record_of(&disk, *id).0).collect();
    for segment in &segments {
        disk.flip(Folder::Segments, segment, 13).unwrap();
        disk.flip(Folder::Segments, segment, 2048 + 13).unwrap();
    }
    let before: Vec<_> = segments.iter().map(|name| disk.contents(Folder::Segments, name).unwrap()).collect();
    for round in 0..2 {
        let (spool, recovery) = start(&disk, folder.path());
        assert_eq!((recovery.messages, recovery.orphans), (2, 0), "round {round}");
        for id in &ids {
            let named = recovery.set_aside.iter().any(|found| found.message == Some(*id) && found.acknowledged);
            assert!(named, "{:?}", recovery.set_aside);
        }
        assert_eq!(spool.stats().set_aside, (segments.len() + ids.len()) as u64);
        assert_eq!(spool.set_aside().unwrap().len(), segments.len() + ids.len());
        let rows = rows(&spool).await;
        assert_eq!(rows.len(), 2);
        for row in rows {
            assert_eq!((row.state, row.group.held.unwrap().by), (RowState::Held, HeldBy::Damage));
        }
        assert!(spool.verify_index().await.unwrap().is_empty(), "damage is no tampering");
        // Others go on, in segments of their own.
        let other = accept_one(&spool, 300).await;
        assert_eq!(sent(&spool).await, BTreeSet::from([other]));
        spool.close().await;
    }
    let after: Vec<_> = segments.iter().map(|name| disk.contents(Folder::Segments, name).unwrap()).collect();
    assert!(before == after, "a segment that can't be read was overwritten");
    // Somebody repairs the headers: everything is there.
    for segment in &segments {
        disk.flip(Folder::Segments, segment, 13).unwrap();
    }
    let (spool, recovery) = start(&disk, folder.path());
    assert!(recovery.set_aside.is_empty(), "{:?}", recovery.set_aside);
    for id in &ids {
        spool.release(*id).await.unwrap();
    }
    assert_eq!(sent(&spool).await, ids.into_iter().collect());
    spool.close().await;
}

#[tokio::test]
async fn a_new_segment_never_takes_the_number_of_an_unreadable_one() {
    let (disk, folder, ids) = filled(&[300]).await;
    let (segment, _) = record_of(&disk, ids[0]);
    let segments: Vec<_> = names(&disk, Folder::Segments).into_iter().filter(|n| n.starts_with("segment-")).collect();
    for name in &segments {
        disk.flip(Folder::Segments, name, 0).unwrap();
        disk.flip(Folder::Segments, name, 2048).unwrap();
    }
    delete_index(folder.path());
    let before = disk.contents(Folder::Segments, &segment).unwrap();
    let (spool, _) = start(&disk, folder.path());
    for _ in 0..8 {
        accept_one(&spool, 300).await;
    }
    spool.close().await;
    assert!(disk.contents(Folder::Segments, &segment).unwrap() == before);
}

#[tokio::test]
async fn the_spill_file_of_a_message_without_a_key_at_this_start_stays() {
    let (disk, folder, ids) = filled(&[100_000]).await;
    delete_index(folder.path());
    let mut others = keys();
    let other = vault::Key::from_bytes(zeroize::Zeroizing::new([1; 32]));
    others.epochs = Arc::new(vault::Epochs::fixed(vec![(2, other)]));
    let mut small = config(folder.path());
    small.segment_bytes = 1 << 20;
    let (spool, recovery) = Spool::open(small, others, Arc::new(disk.clone())).unwrap();
    assert_eq!(recovery.set_aside[0].damage, Damage::EpochMissing);
    assert_eq!(recovery.orphans, 0);
    spool.close().await;
    drop(spool);
    let (spool, _) = start(&disk, folder.path());
    assert_eq!(sent(&spool).await, ids.into_iter().collect());
    spool.close().await;
}

#[tokio::test]
async fn the_spill_file_of_a_message_that_is_set_aside_stays_with_its_copy() {
    // In the record's payload, and in its key slot.
    for in_slot in [false, true] {
        let (disk, folder, ids) = filled(&[100_000, 300]).await;
        delete_index(folder.path());
        let (segment, at) = if in_slot {
            let (segment, at) = slot_of(&disk, ids[0]);
            (segment, at as usize + 50)
        } else {
            let (segment, at) = record_of(&disk, ids[0]);
            (segment, at + 100)
        };
        disk.flip(Folder::Segments, &segment, at).unwrap();
        // The damage is met at the first start; the copy is all that the later ones know.
        for round in 0..3 {
            let (spool, recovery) = start(&disk, folder.path());
            assert_eq!(recovery.orphans, 0, "round {round}, slot {in_slot}");
            assert_eq!(spool.set_aside().unwrap()[0].message, Some(ids[0]));
            assert_eq!(names(&disk, Folder::Spill).len(), 1, "round {round}, slot {in_slot}");
            spool.close().await;
        }
    }
}

#[tokio::test]
async fn one_lost_sector_keeps_no_daemon_from_starting_and_names_what_it_hit() {
    for (hit_slot, with_index) in [(false, false), (false, true), (true, false), (true, true)] {
        let what = format!("slot {hit_slot}, index {with_index}");
        let (disk, folder, ids) = filled(&[3000, 3000, 3000, 3000, 3000, 3000, 100_000]).await;
        let mut hit: BTreeSet<_> = [ids[2]].into();
        if hit_slot {
            let (segment, at) = slot_of(&disk, ids[2]);
            assert!(at >= SLOTS);
            disk.lose_sector(Folder::Segments, &segment, at).unwrap();
            let sector = at / 512;
            hit = ids
                .iter()
                .copied()
                .filter(|id| {
                    let (other, at) = slot_of(&disk, *id);
                    other == segment && at / 512 == sector
                })
                .collect();
        } else {
            let (segment, at) = record_of(&disk, ids[2]);
            disk.lose_sector(Folder::Segments, &segment, at as u64 + 1024).unwrap();
        }
        if !with_index {
            delete_index(folder.path());
        }
        for round in 0..2 {
            let (spool, recovery) = start(&disk, folder.path());
            assert_eq!(recovery.orphans, 0, "{what}");
            let all: BTreeSet<_> = ids.iter().copied().collect();
            let mut delivered = readable(&spool).await;
            if round == 1 {
                assert!(delivered.is_empty(), "{what}: sent again");
                delivered = all.difference(&hit).copied().collect();
            }
            assert_eq!(delivered, all.difference(&hit).copied().collect(), "{what}");
            let rows = rows(&spool).await;
            for id in &hit {
                let named = recovery.set_aside.iter().any(|found| found.message == Some(*id));
                let held = rows
                    .iter()
                    .any(|row| row.id == *id && row.group.held.as_ref().is_some_and(|held| held.by == HeldBy::Damage));
                // The index knows the message; a body that can't be read shows when it is.
                let waits = with_index && !hit_slot && rows.iter().any(|row| row.id == *id);
                assert!(named || held || waits, "{what}, round {round}: {:?}", recovery.set_aside);
            }
            spool.close().await;
        }
    }
}

/// Delivers what can be read, once through.
async fn readable(spool: &Spool) -> BTreeSet<MessageId> {
    let (mut sent, mut unreadable) = (BTreeSet::new(), Vec::new());
    for _ in 0..100 {
        match spool.claim(Timestamp::now()) {
            Some(claim) if octets(&claim).is_ok() => {
                sent.insert(claim.message());
                let settlement = delivered(&claim);
                spool.settle(claim, settlement).await.unwrap();
            }
            Some(claim) => unreadable.push(claim),
            None => tokio::time::sleep(std::time::Duration::from_millis(2)).await,
        }
    }
    sent
}
