//! Whatever is done to the rows of `ledger.db`, the first bad record is named (threats 33).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod common;

use common::Folder;
use ledger::{LedgerError, Tampering};
use serde_json::json;

/// The finding after `statements` were run on ten records, while the ledger is open and after a new start.
#[track_caller]
fn found_after(statements: &str) -> [Option<Tampering>; 2] {
    let folder = Folder::new();
    let ledger = folder.filled();
    folder.tamper(statements);
    let while_open = ledger.verify().unwrap().tampering;
    drop(ledger);
    [while_open, folder.open().verify().unwrap().tampering]
}

#[track_caller]
fn both(statements: &str, expected: &Tampering) {
    for found in found_after(statements) {
        assert_eq!(found.as_ref(), Some(expected), "{statements}");
    }
}

#[test]
fn an_untouched_ledger_is_proven_whole() {
    let folder = Folder::new();
    let report = folder.filled().verify().unwrap();
    assert_eq!((report.proven, report.expected, report.revisions, report.tampering), (10, 10, 2, None));
    let report = folder.open().verify().unwrap();
    assert_eq!((report.proven, report.revisions, report.tampering), (10, 2, None), "after a new start");
}

#[test]
fn an_edited_field_is_named_in_whichever_column() {
    for change in [
        "actor = 'nobody'",
        "action = 'status'",
        "subject = 'message 99'",
        "detail = '{\"n\":99}'",
        "detail = detail || ' '",
        "micros = micros + 1",
        "previous = zeroblob(32)",
        "mac = zeroblob(32)",
        "mac = zeroblob(5)",
        // One field's end moved to the next one's start.
        "actor = 'roo', action = 't' || action",
    ] {
        both(&format!("UPDATE audit SET {change} WHERE seq = 3"), &Tampering::Edited { seq: 3 });
    }
}

#[test]
fn a_record_rewritten_with_its_follower_is_still_named() {
    both(
        "UPDATE audit SET subject = 'x' WHERE seq = 3;
         UPDATE audit SET previous = (SELECT mac FROM audit WHERE seq = 2) WHERE seq = 4;
         DELETE FROM audit WHERE seq = 3;
         UPDATE audit SET seq = seq - 1 WHERE seq > 3;",
        &Tampering::Edited { seq: 3 },
    );
}

#[test]
fn a_deleted_record_is_named() {
    both("DELETE FROM audit WHERE seq = 1", &Tampering::Deleted { seq: 1 });
    both("DELETE FROM audit WHERE seq = 7", &Tampering::Deleted { seq: 7 });
    both("DELETE FROM audit WHERE seq IN (7, 8)", &Tampering::Deleted { seq: 7 });
}

#[test]
fn a_deletion_hidden_by_renumbering_is_named() {
    both(
        "DELETE FROM audit WHERE seq = 4; UPDATE audit SET seq = seq - 1 WHERE seq > 4;",
        &Tampering::Moved { seq: 4, written_as: 5 },
    );
}

#[test]
fn exchanged_records_are_named() {
    both(
        "UPDATE audit SET seq = 1000 WHERE seq = 3; UPDATE audit SET seq = 3 WHERE seq = 8;
         UPDATE audit SET seq = 8 WHERE seq = 1000;",
        &Tampering::Moved { seq: 3, written_as: 8 },
    );
}

#[test]
fn a_doubled_record_is_named() {
    both(
        "DELETE FROM audit WHERE seq = 8;
         INSERT INTO audit SELECT 8, micros, actor, action, subject, detail, previous, mac FROM audit WHERE seq = 2;",
        &Tampering::Doubled { seq: 8, of: 2 },
    );
    both(
        "INSERT INTO audit SELECT 11, micros, actor, action, subject, detail, previous, mac FROM audit WHERE seq = 10;",
        &Tampering::Doubled { seq: 11, of: 10 },
    );
}

#[test]
fn an_inserted_record_is_named() {
    both(
        "INSERT INTO audit SELECT 0, micros, actor, action, subject, detail, previous, zeroblob(32) FROM audit WHERE seq = 2;",
        &Tampering::Inserted { seq: 0 },
    );
    both(
        "INSERT INTO audit SELECT -5, micros, actor, action, subject, detail, previous, mac FROM audit WHERE seq = 2;",
        &Tampering::Inserted { seq: -5 },
    );
}

#[test]
fn a_cut_end_is_named() {
    both("DELETE FROM audit WHERE seq > 8", &Tampering::Cut { last: 8, expected: 10 });
    both("DELETE FROM audit", &Tampering::Cut { last: 0, expected: 10 });
}

#[test]
fn a_forged_head_is_named_and_stays_named() {
    for forged in [
        "DELETE FROM audit WHERE seq > 8; UPDATE head SET count = 8, last = (SELECT mac FROM audit WHERE seq = 8);",
        "DELETE FROM audit WHERE seq > 8; DELETE FROM head;",
        "UPDATE head SET mac = zeroblob(32); DELETE FROM audit WHERE seq > 8;",
    ] {
        let [while_open, after] = found_after(forged);
        assert_eq!(while_open, Some(Tampering::HeadForged { last: 8 }), "{forged}");
        assert_eq!(after, Some(Tampering::HeadLost { seq: 9 }), "{forged}");
    }
}

#[test]
fn a_ledger_emptied_of_everything_but_its_revisions_is_named() {
    let [_, after] = found_after("DELETE FROM audit; DELETE FROM head;");
    assert_eq!(after, Some(Tampering::RevisionInserted { n: 1 }));
}

#[test]
fn a_file_exchanged_for_an_older_one_is_named_while_the_daemon_runs() {
    let folder = Folder::new();
    let ledger = folder.filled();
    // Genuine rows of the past, the head among them: only the memory of the running daemon knows better.
    folder.tamper("CREATE TABLE kept AS SELECT * FROM head;");
    ledger.append("root", "queue.delete", "message 11", &json!({})).unwrap();
    folder.tamper("DELETE FROM audit WHERE seq = 11; INSERT OR REPLACE INTO head SELECT * FROM kept; DROP TABLE kept;");
    let found = ledger.verify().unwrap().tampering;
    assert_eq!(found, Some(Tampering::RolledBack { last: 10, expected: 11 }));
}

#[test]
fn an_append_neither_heals_a_cut_nor_overwrites_a_foreign_record() {
    let folder = Folder::new();
    let ledger = folder.filled();
    folder.tamper("DELETE FROM audit WHERE seq > 8");
    assert_eq!(ledger.append("root", "a", "b", &json!(1)).unwrap(), 11);
    assert_eq!(ledger.verify().unwrap().tampering, Some(Tampering::Deleted { seq: 9 }));

    folder.tamper(
        "INSERT INTO audit SELECT 12, micros, actor, action, subject, detail, previous, mac FROM audit WHERE seq = 2;",
    );
    let refused = ledger.append("root", "a", "b", &json!(1));
    assert!(matches!(refused, Err(LedgerError::Occupied { seq: 12 })), "{refused:?}");
}

#[test]
fn an_edited_settings_revision_is_named_and_never_handed_out() {
    let folder = Folder::new();
    let ledger = folder.filled();
    folder.tamper("UPDATE revision SET toml = '# evil' WHERE n = 2");
    assert_eq!(ledger.verify().unwrap().tampering, Some(Tampering::RevisionEdited { n: 2 }));
    assert!(matches!(ledger.current_revision(), Err(LedgerError::RevisionChanged { n: 2 })));
    assert_eq!(ledger.revision(1).unwrap().unwrap().toml, "# one");
}

#[test]
fn settings_revisions_can_be_neither_deleted_nor_invented_nor_exchanged() {
    both("DELETE FROM revision WHERE n = 1", &Tampering::RevisionDeleted { n: 1 });
    both("DELETE FROM revision WHERE n = 2", &Tampering::RevisionDeleted { n: 2 });
    both(
        "INSERT INTO revision SELECT 3, micros, author, toml, mac FROM revision WHERE n = 1",
        &Tampering::RevisionInserted { n: 3 },
    );
    both(
        "UPDATE revision SET n = 9 WHERE n = 1; UPDATE revision SET n = 1 WHERE n = 2; UPDATE revision SET n = 2 WHERE n = 9;",
        &Tampering::RevisionEdited { n: 1 },
    );
}

#[test]
fn what_is_found_is_told_in_words_that_name_the_record() {
    assert_eq!(Tampering::Edited { seq: 7 }.to_string(), "audit record 7 was edited");
    let json = serde_json::to_value(Tampering::Moved { seq: 3, written_as: 8 }).unwrap();
    assert_eq!(json, json!({ "kind": "moved", "seq": 3, "written_as": 8 }));
}
