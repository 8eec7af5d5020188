//! What a returned append means, and what the file gives away.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod common;

use common::{DB, Folder, keys};
use ledger::{ChainKey, DatabaseKey, Ledger, LedgerError, LedgerKeys};
use serde_json::json;
use std::fs;

/// Copies the files behind the ledger's back, as a power cut leaves them; `wal_bytes` is where the WAL's end is torn.
fn as_a_crash_leaves_it(from: &Folder, wal_bytes: Option<usize>) -> Folder {
    let to = Folder::new();
    fs::copy(from.file(), to.file()).unwrap();
    let wal = fs::read(from.path().join("ledger.db-wal")).unwrap_or_default();
    let kept = wal_bytes.unwrap_or(wal.len()).min(wal.len());
    fs::write(to.path().join("ledger.db-wal"), &wal[..kept]).unwrap();
    to
}

fn wal_len(folder: &Folder) -> usize {
    fs::metadata(folder.path().join("ledger.db-wal")).map_or(0, |m| usize::try_from(m.len()).unwrap())
}

#[test]
fn a_record_is_in_the_file_when_append_returns() {
    let folder = Folder::new();
    let ledger = folder.open();
    for n in 1..=20 {
        assert_eq!(ledger.append("root", "test", "x", &json!(n)).unwrap(), n);
        let crashed = as_a_crash_leaves_it(&folder, None);
        let after = crashed.open();
        assert_eq!(after.head(), ledger.head());
        assert_eq!(after.verify().unwrap().tampering, None);
    }
}

#[test]
fn a_torn_end_leaves_a_whole_chain_with_every_record_before_it() {
    let folder = Folder::new();
    let ledger = folder.open();
    let mut ends = Vec::new();
    for n in 1..=6 {
        ledger.append("root", "test", "x", &json!({ "n": n })).unwrap();
        ends.push(wal_len(&folder));
    }
    let states = (ends[0]..=ends[5]).step_by(512);
    for cut in states {
        let whole = ends.iter().filter(|end| **end <= cut).count() as u64;
        let crashed = as_a_crash_leaves_it(&folder, Some(cut));
        let after = crashed.open();
        assert_eq!(after.head().count, whole, "{cut} of {} bytes", ends[5]);
        assert_eq!(after.verify().unwrap().tampering, None, "{cut} bytes");
        assert_eq!(after.append("root", "test", "y", &json!(null)).unwrap(), whole + 1);
    }
}

#[test]
fn a_revision_and_its_audit_record_stand_or_fall_together() {
    let folder = Folder::new();
    let ledger = folder.open();
    ledger.append("root", "test", "x", &json!(null)).unwrap();
    let before = wal_len(&folder);
    ledger.commit_revision("root", "a = 1", &json!([])).unwrap();
    for cut in (before..=wal_len(&folder)).step_by(512) {
        let crashed = as_a_crash_leaves_it(&folder, Some(cut));
        let report = crashed.open().verify().unwrap();
        assert_eq!(report.tampering, None, "{cut}");
        assert_eq!(report.proven, 1 + report.revisions, "{cut}");
    }
}

#[test]
fn appends_of_many_threads_give_one_chain() {
    let folder = Folder::new();
    let ledger = folder.open();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let ledger = ledger.clone();
            scope.spawn(move || {
                for n in 0..25 {
                    ledger.append("root", "test", &format!("{thread}"), &json!(n)).unwrap();
                    if n % 10 == 0 {
                        assert_eq!(ledger.verify().unwrap().tampering, None);
                    }
                }
            });
        }
    });
    let report = ledger.verify().unwrap();
    assert_eq!((report.proven, report.tampering), (100, None));
}

#[test]
fn records_and_revisions_are_read_as_they_were_written() {
    let folder = Folder::new();
    let ledger = folder.filled();
    let records = ledger.records(8, 10).unwrap();
    assert_eq!(records.iter().map(|r| r.seq).collect::<Vec<_>>(), [9, 10]);
    assert_eq!(records[0].detail, json!({ "n": 9 }));
    assert_eq!(ledger.latest(2).unwrap().iter().map(|r| r.seq).collect::<Vec<_>>(), [10, 9]);
    assert_eq!(ledger.about("message 9", 5).unwrap()[0].action, "queue.delete");
    let current = ledger.current_revision().unwrap().unwrap();
    assert_eq!((current.info.n, current.toml.as_str()), (2, "# two"));
    assert_eq!(ledger.revisions().unwrap().iter().map(|r| r.n).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(ledger.revision(3).unwrap(), None);
}

#[test]
fn no_byte_of_a_record_stands_in_plain_in_any_file() {
    let folder = Folder::new();
    let ledger = folder.open();
    ledger.append("root", "planted-needle-action", "planted-needle-subject", &json!("planted-needle-detail")).unwrap();
    ledger.commit_revision("root", "# planted-needle-toml", &json!([])).unwrap();
    let mut files = 0;
    for entry in fs::read_dir(folder.path()).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(14).any(|w| w == b"planted-needle"));
        assert!(!bytes.windows(6).any(|w| w == b"SQLite"), "a database header in plain");
        files += usize::from(!bytes.is_empty());
    }
    assert!(files >= 2, "the database and its WAL");
}

#[test]
fn another_key_is_told_from_a_broken_file_path_and_a_later_schema() {
    let folder = Folder::new();
    drop(folder.filled());
    let other = LedgerKeys { db: DatabaseKey::from_bytes(&[9; 32]), mac: ChainKey::from_bytes(&common::MAC) };
    assert!(matches!(Ledger::open(&folder.file(), other), Err(LedgerError::WrongKey { .. })));
    assert!(matches!(Ledger::open(&folder.path().join("none/ledger.db"), keys()), Err(LedgerError::Open { .. })));
    folder.tamper("PRAGMA user_version = 2");
    let newer = Ledger::open(&folder.file(), keys());
    assert!(matches!(newer, Err(LedgerError::Newer { found: 2, known: 1, .. })), "{newer:?}");
}

#[test]
fn a_foreign_chain_key_does_not_pass() {
    let folder = Folder::new();
    drop(folder.filled());
    let other = LedgerKeys { db: DatabaseKey::from_bytes(&DB), mac: ChainKey::from_bytes(&[9; 32]) };
    let ledger = Ledger::open(&folder.file(), other).unwrap();
    assert!(ledger.verify().unwrap().tampering.is_some());
}

#[test]
fn the_file_is_readable_by_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    drop(folder.open());
    assert_eq!(fs::metadata(folder.file()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_field_over_its_bound_is_refused_and_nothing_is_recorded() {
    let folder = Folder::new();
    let ledger = folder.open();
    let refused = ledger.append("root", "test", &"x".repeat(2000), &json!(null));
    assert!(matches!(refused, Err(LedgerError::TooLong { field: "subject", .. })), "{refused:?}");
    let refused = ledger.append("root", "test", "x", &json!("y".repeat(300_000)));
    assert!(matches!(refused, Err(LedgerError::TooLong { field: "detail", .. })), "{refused:?}");
    assert_eq!((ledger.head().count, ledger.verify().unwrap().tampering), (0, None));
}
