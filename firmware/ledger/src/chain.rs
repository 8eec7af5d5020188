//! Appending to the audit chain.
//!
//! Job: give each record its number, its link to the one before and its MAC, and move the head, in one transaction.
//! Place: under everything that acts. Invariants: numbers are 1, 2, 3, …; the head in memory is the last one that was
//! committed. A crash leaves the chain with or without the record, never the record without the head.

use crate::{
    LedgerError, LedgerKeys, database,
    seal::{GENESIS, Mac, RecordFields, Sealer},
};
use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Bytes of actor, action and subject: names and ids, no texts.
const LONGEST_NAME: usize = 1024;
/// Bytes of the detail: changes of a large policy fit.
const LONGEST_DETAIL: usize = 256 * 1024;

/// The action of the record that is written when the head was found missing or forged at a start. The chain goes on
/// behind it, and the verifier names it for good.
pub(crate) const HEAD_LOST: &str = "ledger.head_lost";

/// `ledger.db`, open. Cheap to clone. All methods block for a disk access: call them where that is allowed.
#[derive(Clone)]
pub struct Ledger(Arc<Shared>);

struct Shared {
    sealer: Sealer,
    writer: Mutex<Writer>,
    /// A connection of its own, so that verifying a long chain does not keep anybody from appending.
    reader: Mutex<Connection>,
}

pub(crate) struct Writer {
    connection: Connection,
    head: Head,
}

/// The end of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Records in the chain; the last one's number.
    pub count: u64,
    /// MAC of the last record.
    pub last: [u8; 32],
}

/// One line of the audit chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// From 1, without gaps.
    pub seq: u64,
    /// When it was appended, by this machine's clock, to the microsecond. Order is by `seq`: clocks go back.
    pub time: Timestamp,
    /// Who acted.
    pub actor: String,
    /// What was done, for example `queue.release`.
    pub action: String,
    /// To what: a message's ID, `revision 7`.
    pub subject: String,
    /// More about it.
    pub detail: Value,
}

impl Ledger {
    /// Opens the ledger at `path`, and makes it where there is none.
    ///
    /// # Errors
    /// The file can't be opened, is under another key, or was written by a later version.
    pub fn open(path: &Path, keys: LedgerKeys) -> Result<Self, LedgerError> {
        let mut connection = database::open_writer(path, &keys.db)?;
        let reader = database::open_reader(path, &keys.db)?;
        let sealer = Sealer::new(&keys.mac);
        let head = settle_head(&mut connection, &sealer)?;
        let writer = Mutex::new(Writer { connection, head });
        Ok(Self(Arc::new(Shared { sealer, writer, reader: Mutex::new(reader) })))
    }

    /// Appends a record and returns its number once it is on stable storage.
    ///
    /// # Errors
    /// A field is too long, or the disk failed: then nothing is recorded.
    pub fn append(&self, actor: &str, action: &str, subject: &str, detail: &Value) -> Result<u64, LedgerError> {
        self.write(|transaction, sealer, head| append_to(transaction, sealer, head, actor, action, subject, detail))
    }

    /// Up to `limit` records, those behind number `after`, oldest first.
    ///
    /// # Errors
    /// The disk failed.
    pub fn records(&self, after: u64, limit: usize) -> Result<Vec<Record>, LedgerError> {
        let reader = self.reader();
        let mut statement = reader.prepare_cached(
            "SELECT seq, micros, actor, action, subject, detail FROM audit WHERE seq > ?1 ORDER BY seq LIMIT ?2",
        )?;
        let rows = statement.query_map(params![to_sql(after), i64::try_from(limit).unwrap_or(i64::MAX)], record)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The last `limit` records, newest first.
    ///
    /// # Errors
    /// The disk failed.
    pub fn latest(&self, limit: usize) -> Result<Vec<Record>, LedgerError> {
        let reader = self.reader();
        let mut statement = reader.prepare_cached(
            "SELECT seq, micros, actor, action, subject, detail FROM audit ORDER BY seq DESC LIMIT ?1",
        )?;
        let rows = statement.query_map([i64::try_from(limit).unwrap_or(i64::MAX)], record)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The records about `subject`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// The disk failed.
    pub fn about(&self, subject: &str, limit: usize) -> Result<Vec<Record>, LedgerError> {
        let reader = self.reader();
        let mut statement = reader.prepare_cached(
            "SELECT seq, micros, actor, action, subject, detail FROM audit WHERE subject = ?1 ORDER BY seq LIMIT ?2",
        )?;
        let rows = statement.query_map(params![subject, i64::try_from(limit).unwrap_or(i64::MAX)], record)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The end of the chain, for an anchor outside of the file.
    #[must_use]
    pub fn head(&self) -> Head {
        self.writer().head
    }

    pub(crate) fn sealer(&self) -> &Sealer {
        &self.0.sealer
    }

    /// Runs `work` in one transaction; the head in memory moves only when it is committed.
    pub(crate) fn write<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>, &Sealer, &mut Head) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let mut writer = self.writer();
        let Writer { connection, head } = &mut *writer;
        let mut moved = *head;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = work(&transaction, &self.0.sealer, &mut moved)?;
        transaction.commit()?;
        *head = moved;
        Ok(value)
    }

    /// A snapshot for reading, and the head as it is in that snapshot.
    pub(crate) fn snapshot<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>, Head) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let mut reader = self.reader();
        let transaction = reader.transaction()?;
        let head = {
            // The first read fixes the snapshot; no append may fall between it and the copy of the head.
            let writer = self.writer();
            transaction.query_row("SELECT count(*) FROM head", [], |row| row.get::<_, i64>(0))?;
            writer.head
        };
        work(&transaction, head)
    }

    pub(crate) fn reader(&self) -> MutexGuard<'_, Connection> {
        // A panic of another holder can't leave a statement half done: SQLite rolls back what was not committed.
        self.0.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.0.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("head", &self.writer().head.count).finish_non_exhaustive()
    }
}

/// SQLite's integers are signed; ours stay far below 2^63.
pub(crate) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let detail: String = row.get("detail")?;
    Ok(Record {
        seq: u64::try_from(row.get::<_, i64>("seq")?).unwrap_or(0),
        time: time_of(row.get("micros")?),
        actor: row.get("actor")?,
        action: row.get("action")?,
        subject: row.get("subject")?,
        // Text that is no JSON was not written by us; the verifier names it, here it is shown as it stands.
        detail: serde_json::from_str(&detail).unwrap_or(Value::String(detail)),
    })
}

pub(crate) fn time_of(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or_default()
}

fn bounded(field: &'static str, text: &str, most: usize) -> Result<(), LedgerError> {
    if text.len() > most { Err(LedgerError::TooLong { field, bytes: text.len(), most }) } else { Ok(()) }
}

/// Writes one record behind `head` and moves it.
pub(crate) fn append_to(
    transaction: &Transaction<'_>,
    sealer: &Sealer,
    head: &mut Head,
    actor: &str,
    action: &str,
    subject: &str,
    detail: &Value,
) -> Result<u64, LedgerError> {
    let detail = detail.to_string();
    for (field, text) in [("actor", actor), ("action", action), ("subject", subject)] {
        bounded(field, text, LONGEST_NAME)?;
    }
    bounded("detail", &detail, LONGEST_DETAIL)?;
    let (seq, micros) = (head.count + 1, Timestamp::now().as_microsecond());
    let previous = head.last;
    let fields = RecordFields { seq, micros, actor, action, subject, detail: &detail, previous: &previous };
    let mac = sealer.record(&fields);
    transaction
        .prepare_cached("INSERT INTO audit VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
        .execute(params![to_sql(seq), micros, actor, action, subject, detail, previous, mac])
        .map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::ConstraintViolation) => LedgerError::Occupied { seq },
            _ => error.into(),
        })?;
    *head = Head { count: seq, last: mac };
    store_head(transaction, sealer, *head)?;
    Ok(seq)
}

fn store_head(transaction: &Transaction<'_>, sealer: &Sealer, head: Head) -> Result<(), LedgerError> {
    transaction.prepare_cached("INSERT OR REPLACE INTO head VALUES (1, ?1, ?2, ?3)")?.execute(params![
        to_sql(head.count),
        head.last,
        sealer.head(head.count, &head.last)
    ])?;
    Ok(())
}

/// The head as the file has it; `None` where there is no row, or one that we did not write.
pub(crate) fn stored_head(connection: &Connection, sealer: &Sealer) -> Result<Option<Head>, LedgerError> {
    let row = connection
        .query_row("SELECT count, last, mac FROM head WHERE only = 1", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, Vec<u8>>(2)?))
        })
        .optional()?;
    let genuine = row.and_then(|(count, last, mac)| {
        let head = Head { count: u64::try_from(count).ok()?, last: Mac::try_from(last).ok()? };
        (sealer.head(head.count, &head.last).as_slice() == mac).then_some(head)
    });
    Ok(genuine)
}

/// The head to go on from at a start.
///
/// A head that is missing or forged must not stop the appliance, and must not be forgotten either: the chain goes on
/// behind the last record there is, with a record that says so.
fn settle_head(connection: &mut Connection, sealer: &Sealer) -> Result<Head, LedgerError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if let Some(head) = stored_head(&transaction, sealer)? {
        return Ok(head);
    }
    let newest = transaction
        .query_row("SELECT seq, mac FROM audit ORDER BY seq DESC LIMIT 1", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))
        })
        .optional()?;
    let mut head = match newest {
        Some((seq, mac)) => {
            Head { count: u64::try_from(seq).unwrap_or(0), last: Mac::try_from(mac).unwrap_or(GENESIS) }
        }
        None => Head { count: 0, last: GENESIS },
    };
    let untouched = head.count == 0
        && transaction.query_row("SELECT count(*) FROM head", [], |row| row.get::<_, i64>(0))? == 0
        && transaction.query_row("SELECT count(*) FROM revision", [], |row| row.get::<_, i64>(0))? == 0;
    if untouched {
        store_head(&transaction, sealer, head)?;
    } else {
        log::error!(
            "the head of the audit chain is missing or forged: somebody wrote to ledger.db; run `postern audit verify`"
        );
        let detail = serde_json::json!({ "continued_behind": head.count });
        append_to(&transaction, sealer, &mut head, "postern", HEAD_LOST, "", &detail)?;
    }
    transaction.commit()?;
    Ok(head)
}
