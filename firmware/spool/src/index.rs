//! `queue.db`: the queue as a table, derived from the segments.
//!
//! Job: find what is due and what an operator asks for without having millions of messages in memory. Place: beside the
//! lanes; nothing that a sender waits for waits for it. Invariants: the watermark of a lane is never ahead of the rows,
//! so replaying from it repeats at worst, and facts are numbered, so repeating changes nothing; every page is encrypted
//! (SQLCipher, key from the vault), temporary tables stay in memory. A crash leaves an older state of it, or none: the
//! next start replays from the segments.

mod rows;
mod thread;
mod verify;

pub(crate) use rows::{MessageRow, RowWrite};
pub(crate) use thread::{Kept, Request, Requests, Worker, flush};
pub(crate) use verify::verify;

use crate::{
    HeldBy, IndexError,
    queue::{Key, Message, Position},
};
use mail::{Destination, MessageId};
use rusqlite::{Connection, OptionalExtension, params};
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use vault::purpose::QueueIndex;
use zeroize::Zeroizing;

/// Changes with the tables; an index of another format is rebuilt.
const FORMAT: i64 = 1;

const TABLES: &str = "
    CREATE TABLE watermark (lane INTEGER PRIMARY KEY, segment INTEGER NOT NULL, offset INTEGER NOT NULL);
    CREATE TABLE message (
        id BLOB PRIMARY KEY, lane INTEGER NOT NULL, segment INTEGER NOT NULL, offset INTEGER NOT NULL,
        slot INTEGER NOT NULL, length INTEGER NOT NULL, size INTEGER NOT NULL, spill TEXT,
        sender TEXT NOT NULL, recipients TEXT NOT NULL, accepted INTEGER NOT NULL,
        facts INTEGER NOT NULL, next_group INTEGER NOT NULL, events TEXT NOT NULL, segments TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE delivery (
        id BLOB NOT NULL, number INTEGER NOT NULL, destination TEXT NOT NULL, recipients TEXT NOT NULL,
        attempts INTEGER NOT NULL, due INTEGER NOT NULL, held_by TEXT, held_why TEXT, last TEXT,
        PRIMARY KEY (id, number)
    ) WITHOUT ROWID;
    CREATE INDEX delivery_due ON delivery (destination, due, id, number) WHERE held_by IS NULL;
";

/// An open index.
pub(crate) struct Index {
    pub connection: Connection,
}

/// How a file was found.
pub(crate) enum Opened {
    Usable(Index),
    Absent,
    Unusable,
}

impl Index {
    /// Opens an existing index.
    pub fn open(path: &Path, key: &vault::Key<QueueIndex>) -> Opened {
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Opened::Absent,
            _ => {}
        }
        let opened = Self::connect(path, key).and_then(|index| {
            let format: i64 = index.connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            if format == FORMAT { Ok(index) } else { Err(IndexError::Shape("format")) }
        });
        match opened {
            Ok(index) => Opened::Usable(index),
            Err(error) => {
                log::warn!("{} can't be used ({error}); it is rebuilt from the segments", path.display());
                Opened::Unusable
            }
        }
    }

    /// Makes a new index; a file that is there is moved out of the way.
    pub fn create(path: &Path, key: &vault::Key<QueueIndex>) -> Result<Self, IndexError> {
        set_away(path)?;
        let index = Self::connect(path, key)?;
        index.connection.execute_batch(&format!("BEGIN; {TABLES} PRAGMA user_version = {FORMAT}; COMMIT;"))?;
        Ok(index)
    }

    /// A connection with the key and the settings that every connection needs.
    pub fn connect(path: &Path, key: &vault::Key<QueueIndex>) -> Result<Self, IndexError> {
        let connection = Connection::open(path)?;
        // SQLCipher would write its own lines to standard error; what matters of them comes as an error.
        connection.execute_batch("PRAGMA cipher_log_level = NONE;")?;
        connection.execute_batch(&pragma_key(key))?;
        connection.execute_batch(
            "PRAGMA temp_store = MEMORY; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             PRAGMA cache_size = -4096; PRAGMA busy_timeout = 5000;",
        )?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(Self { connection })
    }

    pub fn watermarks(&self) -> Result<[Position; 2], IndexError> {
        let mut watermarks = [Position::default(); 2];
        let mut statement = self.connection.prepare("SELECT lane, segment, offset FROM watermark")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let lane: u8 = row.get(0)?;
            let watermark = watermarks.get_mut(usize::from(lane)).ok_or(IndexError::Shape("lane"))?;
            *watermark = Position { segment: row.get(1)?, offset: row.get(2)? };
        }
        Ok(watermarks)
    }

    /// Writes states and watermarks in one transaction.
    pub fn write(&mut self, writes: &[RowWrite], watermarks: [Position; 2]) -> Result<(), IndexError> {
        let transaction = self.connection.transaction()?;
        for write in writes {
            write.write(&transaction)?;
        }
        for (lane, watermark) in (0u8..).zip(&watermarks) {
            transaction.prepare_cached("INSERT OR REPLACE INTO watermark VALUES (?1, ?2, ?3)")?.execute(params![
                lane,
                watermark.segment,
                watermark.offset
            ])?;
        }
        transaction.commit()?;
        Ok(())
    }

    pub fn contains(&self, id: MessageId) -> Result<bool, IndexError> {
        let mut statement = self.connection.prepare_cached("SELECT 1 FROM message WHERE id = ?1")?;
        Ok(statement.exists([id.to_bytes()])?)
    }

    /// The name of the spill file of a message.
    pub fn spill_of(&self, id: MessageId) -> Result<Option<String>, IndexError> {
        let mut statement = self.connection.prepare_cached("SELECT spill FROM message WHERE id = ?1")?;
        Ok(statement.query_row([id.to_bytes()], |row| row.get(0)).optional()?.flatten())
    }

    /// A message with its groups, as the queue holds it.
    pub fn load(&self, id: MessageId) -> Result<Option<Message>, IndexError> {
        rows::load(&self.connection, id)
    }

    /// Waiting groups of a destination from `from` on, in the order of delivery.
    pub fn waiting(&self, destination: &Destination, from: Key, limit: u32) -> Result<Vec<Key>, IndexError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT due, id, number FROM delivery
             WHERE held_by IS NULL AND destination = ?1 AND (due, id, number) >= (?2, ?3, ?4)
             ORDER BY due, id, number LIMIT ?5",
        )?;
        let (due, id, number) = from;
        let found = statement.query_map(
            params![rows::text(destination)?, due.as_microsecond(), id.to_bytes(), number, limit],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, [u8; 16]>(1)?, row.get::<_, u32>(2)?)),
        )?;
        found
            .map(|row| {
                let (due, id, number) = row?;
                Ok((rows::time(due)?, MessageId::from_bytes(id), number))
            })
            .collect()
    }

    /// How many groups there are, by destination and hold.
    pub fn counts(&self) -> Result<Vec<(Destination, Option<HeldBy>, u64)>, IndexError> {
        let mut statement =
            self.connection.prepare("SELECT destination, held_by, count(*) FROM delivery GROUP BY 1, 2")?;
        let mut rows = statement.query([])?;
        let mut counts = Vec::new();
        while let Some(row) = rows.next()? {
            let held = row.get::<_, Option<String>>(1)?.map(|by| rows::parsed(&by, "held_by")).transpose()?;
            counts.push((rows::parsed(&row.get::<_, String>(0)?, "destination")?, held, rows::count(row.get(2)?)?));
        }
        Ok(counts)
    }

    /// Calls `each` with what recovery has to know of every message.
    pub fn each_message(&self, mut each: impl FnMut(MessageRow)) -> Result<(), IndexError> {
        let mut statement = self.connection.prepare("SELECT id, segment, offset, slot, segments FROM message")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            each(MessageRow {
                id: MessageId::from_bytes(row.get(0)?),
                segment: row.get(1)?,
                offset: row.get(2)?,
                slot: row.get(3)?,
                segments: rows::parsed(&row.get::<_, String>(4)?, "segments")?,
            });
        }
        Ok(())
    }

    /// Removes rows of messages that the segments no longer have.
    pub fn forget(&mut self, ids: &[MessageId]) -> Result<(), IndexError> {
        let transaction = self.connection.transaction()?;
        for id in ids {
            rows::delete(&transaction, *id)?;
        }
        transaction.commit()?;
        Ok(())
    }
}

/// Hands SQLCipher the raw key, so that it derives none by passphrase.
fn pragma_key(key: &vault::Key<QueueIndex>) -> Zeroizing<String> {
    let mut pragma = Zeroizing::new(String::with_capacity(96));
    pragma.push_str("PRAGMA key = \"x'");
    for byte in key.expose() {
        for nibble in [byte >> 4, byte & 15] {
            pragma.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    pragma.push_str("'\";");
    pragma
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Moves a useless index to `queue.db.broken` and removes what SQLite kept beside it.
fn set_away(path: &Path) -> Result<(), IndexError> {
    let ignore_missing = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    ignore_missing(fs::rename(path, beside(path, ".broken")))?;
    ignore_missing(fs::remove_file(beside(path, "-wal")))?;
    ignore_missing(fs::remove_file(beside(path, "-shm")))?;
    Ok(())
}

/// Removes an index that was made for comparison.
pub(crate) fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        // What can't be removed is removed by the next comparison; it is encrypted like the index itself.
        let _ = fs::remove_file(beside(path, suffix));
    }
}
