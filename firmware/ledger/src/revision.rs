//! Settings revisions.
//!
//! Job: keep every settings text that was ever in force, with its author, sealed. Place: read at a start to build the
//! stages, written by `settings apply`. Invariants: a revision and the audit record that announces it are committed
//! together; a revision whose MAC does not fit is never handed out. A crash leaves the old revision or the new one.

use crate::{
    Ledger, LedgerError,
    chain::{append_to, time_of, to_sql},
    seal::{RevisionFields, Sealer},
};
use aws_lc_rs::digest;
use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The action of the record that announces a revision; its subject is `revision N`.
pub(crate) const COMMITTED: &str = "settings.commit";

/// One settings text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Number, time, author and digest.
    pub info: RevisionInfo,
    /// The text as it was applied, comments included.
    pub toml: String,
}

/// A revision without its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionInfo {
    /// From 1.
    pub n: u64,
    /// When it was recorded.
    pub time: Timestamp,
    /// Who applied it.
    pub author: String,
    /// SHA-256 of the text, hexadecimal.
    pub digest: String,
}

impl Ledger {
    /// Records `toml` as the newest revision, with an audit record that carries its digest and `changes`.
    ///
    /// # Errors
    /// The disk failed: then neither is recorded.
    pub fn commit_revision(&self, author: &str, toml: &str, changes: &Value) -> Result<RevisionInfo, LedgerError> {
        self.write(|transaction, sealer, head| {
            let newest: i64 =
                transaction.query_row("SELECT coalesce(max(n), 0) FROM revision", [], |row| row.get(0))?;
            let n = u64::try_from(newest).unwrap_or(0) + 1;
            let micros = Timestamp::now().as_microsecond();
            let mac = sealer.revision(&RevisionFields { n, micros, author, toml });
            transaction.prepare_cached("INSERT INTO revision VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
                to_sql(n),
                micros,
                author,
                toml,
                mac
            ])?;
            let info = RevisionInfo { n, time: time_of(micros), author: author.to_owned(), digest: digest_of(toml) };
            let detail = json!({ "digest": info.digest, "changes": changes });
            append_to(transaction, sealer, head, author, COMMITTED, &subject_of(n), &detail)?;
            Ok(info)
        })
    }

    /// The revision in force: the newest.
    ///
    /// # Errors
    /// The disk failed, or the revision is not as it was recorded.
    pub fn current_revision(&self) -> Result<Option<Revision>, LedgerError> {
        self.one("SELECT n, micros, author, toml, mac FROM revision ORDER BY n DESC LIMIT 1", [])
    }

    /// Revision `n`.
    ///
    /// # Errors
    /// As [`Ledger::current_revision`].
    pub fn revision(&self, n: u64) -> Result<Option<Revision>, LedgerError> {
        self.one("SELECT n, micros, author, toml, mac FROM revision WHERE n = ?1", [to_sql(n)])
    }

    /// All revisions without their texts, newest first.
    ///
    /// # Errors
    /// The disk failed.
    pub fn revisions(&self) -> Result<Vec<RevisionInfo>, LedgerError> {
        let reader = self.reader();
        let mut statement =
            reader.prepare_cached("SELECT n, micros, author, toml, mac FROM revision ORDER BY n DESC")?;
        let rows = statement.query_map([], |row| StoredRevision::read(row).map(|stored| stored.revision().info))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn one(&self, query: &str, parameters: impl rusqlite::Params) -> Result<Option<Revision>, LedgerError> {
        let stored = self.reader().prepare_cached(query)?.query_row(parameters, StoredRevision::read).optional()?;
        match stored {
            Some(stored) if !stored.is_genuine(self.sealer()) => Err(LedgerError::RevisionChanged { n: stored.n }),
            stored => Ok(stored.map(StoredRevision::revision)),
        }
    }
}

pub(crate) struct StoredRevision {
    pub n: u64,
    micros: i64,
    author: String,
    toml: String,
    mac: Vec<u8>,
}

impl StoredRevision {
    pub fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            n: u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0),
            micros: row.get(1)?,
            author: row.get(2)?,
            toml: row.get(3)?,
            mac: row.get(4)?,
        })
    }

    pub fn is_genuine(&self, sealer: &Sealer) -> bool {
        let Self { n, micros, author, toml, mac } = self;
        sealer.revision(&RevisionFields { n: *n, micros: *micros, author, toml }).as_slice() == mac
    }

    pub fn digest(&self) -> String {
        digest_of(&self.toml)
    }

    fn revision(self) -> Revision {
        let digest = self.digest();
        let info = RevisionInfo { n: self.n, time: time_of(self.micros), author: self.author, digest };
        Revision { info, toml: self.toml }
    }
}

pub(crate) fn subject_of(n: u64) -> String {
    format!("revision {n}")
}

fn digest_of(toml: &str) -> String {
    use std::fmt::Write;
    digest::digest(&digest::SHA256, toml.as_bytes()).as_ref().iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String can't fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
