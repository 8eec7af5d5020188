//! Opening `ledger.db`.
//!
//! Job: make or open the encrypted file so that a returned commit is on stable storage. Place: under every other part
//! of the ledger. Invariants: no page, journal or temporary file of it holds plaintext. A crash leaves the last commit
//! that returned, and no half of a later one.
//!
//! Durability. The journal is a WAL with `synchronous=FULL`: each commit is one write and one fsync of the WAL, and
//! what is torn behind it fails its checksum and is not replayed. A rollback journal would take two or three syncs a
//! commit, and its commit point is the unlinking of a file, which FULL does not sync: after a power loss the old
//! journal could come back and undo a commit that had returned. SQLite syncs the folder when it makes the WAL; the
//! folder entry of the database file itself is synced here.

use crate::{DatabaseKey, LedgerError};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::{
    fmt::Write as _,
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};
use zeroize::Zeroizing;

/// The schema of this version.
const SCHEMA: u32 = 1;

/// How long to wait for another connection's commit; ours take milliseconds, a backup's copy seconds.
const BUSY: Duration = Duration::from_secs(10);

const TABLES: &str = "
    CREATE TABLE audit (
        seq INTEGER PRIMARY KEY,
        micros INTEGER NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        subject TEXT NOT NULL,
        detail TEXT NOT NULL,
        previous BLOB NOT NULL,
        mac BLOB NOT NULL
    ) STRICT;
    CREATE TABLE head (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        count INTEGER NOT NULL,
        last BLOB NOT NULL,
        mac BLOB NOT NULL
    ) STRICT;
    CREATE TABLE revision (
        n INTEGER PRIMARY KEY,
        micros INTEGER NOT NULL,
        author TEXT NOT NULL,
        toml TEXT NOT NULL,
        mac BLOB NOT NULL
    ) STRICT;
";

/// Opens the file for writing, and makes it where it is absent.
pub(crate) fn open_writer(path: &Path, key: &DatabaseKey) -> Result<Connection, LedgerError> {
    let fail = |source: io::Error| LedgerError::Open { path: path.to_owned(), source: source.into() };
    let made = match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(fail(error)),
    };
    let mut connection = connect(path, key, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // The journal mode is kept in the file, the rest belongs to the connection.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Begun at once for writing: of two starts at the same time the second sees the first one's tables.
    let setup = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found: u32 = setup.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match found {
        SCHEMA => {}
        0 => {
            setup.execute_batch(TABLES)?;
            setup.pragma_update(None, "user_version", SCHEMA)?;
        }
        found => return Err(LedgerError::Newer { path: path.to_owned(), found, known: SCHEMA }),
    }
    setup.commit()?;
    if made {
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail)?;
    }
    Ok(connection)
}

/// Opens the file for reading, beside the writer.
pub(crate) fn open_reader(path: &Path, key: &DatabaseKey) -> Result<Connection, LedgerError> {
    let connection = connect(path, key, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn connect(path: &Path, key: &DatabaseKey, access: OpenFlags) -> Result<Connection, LedgerError> {
    let fail = |source: rusqlite::Error| LedgerError::Open { path: path.to_owned(), source: source.into() };
    // The connection has its own lock outside, SQLite's would be a second one.
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(fail)?;
    connection.busy_timeout(BUSY).map_err(fail)?;
    connection.execute_batch(&key_statement(key)).map_err(fail)?;
    connection.execute_batch("PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF;").map_err(fail)?;
    match connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0)) {
        Ok(_) => Ok(connection),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) => {
            Err(LedgerError::WrongKey { path: path.to_owned() })
        }
        Err(error) => Err(fail(error)),
    }
}

/// The raw key: no passphrase derivation, the 256 bits are used as they are.
fn key_statement(key: &DatabaseKey) -> Zeroizing<String> {
    // Room for the whole, so that no grown-out copy of it stays behind in memory.
    let mut statement = Zeroizing::new(String::with_capacity(128));
    statement.push_str("PRAGMA key = \"x'");
    for byte in key.expose() {
        // Writing to a String can't fail.
        let _ = write!(statement, "{byte:02x}");
    }
    statement.push_str("'\";");
    statement
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_commit_is_synced_before_it_returns() {
        let folder = tempfile::tempdir().unwrap();
        let writer = open_writer(&folder.path().join("ledger.db"), &DatabaseKey::from_bytes(&[1; 32])).unwrap();
        let pragma =
            |name| writer.pragma_query_value(None, name, |row| row.get_ref(0).map(|v| format!("{v:?}"))).unwrap();
        assert_eq!(pragma("synchronous"), "Integer(2)", "FULL");
        assert_eq!(writer.pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0)).unwrap(), "wal");
        assert_eq!(pragma("temp_store"), "Integer(2)", "MEMORY");
    }

    #[test]
    fn a_reader_can_not_write() {
        let folder = tempfile::tempdir().unwrap();
        let (path, key) = (folder.path().join("ledger.db"), DatabaseKey::from_bytes(&[1; 32]));
        open_writer(&path, &key).unwrap();
        assert!(open_reader(&path, &key).unwrap().execute("DELETE FROM audit", []).is_err());
    }
}
