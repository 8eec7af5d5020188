//! A ledger in a folder of its own, and the way in that somebody with the database key has.

use ledger::{ChainKey, DatabaseKey, Ledger, LedgerKeys};
use rusqlite::Connection;
use serde_json::json;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub const DB: [u8; 32] = [0x11; 32];
pub const MAC: [u8; 32] = [0x22; 32];

pub fn keys() -> LedgerKeys {
    LedgerKeys { db: DatabaseKey::from_bytes(&DB), mac: ChainKey::from_bytes(&MAC) }
}

pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self) -> PathBuf {
        self.path().join("ledger.db")
    }

    pub fn open(&self) -> Ledger {
        Ledger::open(&self.file(), keys()).unwrap()
    }

    /// A ledger with ten records: 1 to 4, revisions 1 and 2 as 5 and 6, 7 to 10.
    pub fn filled(&self) -> Ledger {
        let ledger = self.open();
        for n in 1..=4 {
            ledger.append("root", "queue.release", &format!("message {n}"), &json!({ "n": n })).unwrap();
        }
        ledger.commit_revision("root", "# one", &json!([])).unwrap();
        ledger.commit_revision("root", "# two", &json!([])).unwrap();
        for n in 7..=10 {
            ledger.append("root", "queue.delete", &format!("message {n}"), &json!({ "n": n })).unwrap();
        }
        ledger
    }

    /// What somebody does who holds the database key, but not the chain's.
    pub fn tamper(&self, statements: &str) {
        let connection = Connection::open(self.file()).unwrap();
        let key: String = DB.iter().map(|b| format!("{b:02x}")).collect();
        connection.execute_batch(&format!("PRAGMA key = \"x'{key}'\";")).unwrap();
        connection.execute_batch(statements).unwrap();
    }
}
