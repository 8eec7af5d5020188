//! Finding what was changed behind our back.
//!
//! Job: walk the chain and name the first record that is not as it was written, and how. Place: `postern audit verify`.
//! Invariants: reads one snapshot; takes nothing that it reads for granted but the keys. A crash leaves nothing behind.

use crate::{
    Head, Ledger, LedgerError,
    chain::{HEAD_LOST, stored_head, to_sql},
    revision::{COMMITTED, StoredRevision, subject_of},
    seal::{GENESIS, Mac, RecordFields, Sealer},
};
use rusqlite::{Connection, OptionalExtension, Row, types::ValueRef};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// What verifying found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Records whose place, content and link are proven, from the first on.
    pub proven: u64,
    /// Records that the head counts.
    pub expected: u64,
    /// Settings revisions that are proven.
    pub revisions: u64,
    /// The first thing that is wrong; `None`: all is as it was written.
    pub tampering: Option<Tampering>,
}

/// How the ledger was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Tampering {
    /// A field of the record is not as it was written.
    #[error("audit record {seq} was edited")]
    Edited {
        /// Its number.
        seq: u64,
    },
    /// The record is gone, those behind it are there.
    #[error("audit record {seq} was deleted")]
    Deleted {
        /// Its number.
        seq: u64,
    },
    /// Another genuine record stands in its place.
    #[error("audit record {seq} was written as record {written_as}: records were reordered or renumbered")]
    Moved {
        /// The number it has now.
        seq: u64,
        /// The number it was written with.
        written_as: u64,
    },
    /// It is a copy of another record.
    #[error("audit record {seq} is a copy of record {of}")]
    Doubled {
        /// The number it has now.
        seq: u64,
        /// The number of the original.
        of: u64,
    },
    /// It is genuine by itself, but the record before it is another than when it was written.
    #[error(
        "audit record {seq} does not follow record {before}, though both are genuine: one comes from another copy of the ledger"
    )]
    Unlinked {
        /// Its number.
        seq: u64,
        /// The number before.
        before: u64,
    },
    /// There is a record that nobody wrote at this place.
    #[error("audit record {seq} was inserted from outside")]
    Inserted {
        /// Its number, as it stands; may be below 1.
        seq: i64,
    },
    /// Records at the end are gone.
    #[error("the audit chain ends with record {last}, and its head counts {expected}: the end was cut off")]
    Cut {
        /// The last record there is.
        last: u64,
        /// What the head counts.
        expected: u64,
    },
    /// The head is gone or not ours.
    #[error("the head of the audit chain is missing or forged; records behind {last} may have been cut off")]
    HeadForged {
        /// The last record there is.
        last: u64,
    },
    /// The head was found missing or forged at an earlier start.
    #[error(
        "before record {seq} the head of the audit chain was missing or forged; records at that place may have been cut off"
    )]
    HeadLost {
        /// The record that notes it.
        seq: u64,
    },
    /// The file is older than what the running daemon wrote.
    #[error("ledger.db was exchanged while the daemon runs: it ends with record {last}, we wrote {expected}")]
    RolledBack {
        /// What the file's head counts.
        last: u64,
        /// What we wrote.
        expected: u64,
    },
    /// A settings revision is not as it was written.
    #[error("settings revision {n} was edited")]
    RevisionEdited {
        /// Its number.
        n: u64,
    },
    /// A settings revision is gone.
    #[error("settings revision {n} was deleted")]
    RevisionDeleted {
        /// Its number.
        n: u64,
    },
    /// The audit chain knows nothing of this revision.
    #[error("settings revision {n} was inserted from outside")]
    RevisionInserted {
        /// Its number.
        n: u64,
    },
}

impl Ledger {
    /// Checks every record, the head and all settings revisions. Takes some four seconds for a million records; appending
    /// goes on meanwhile.
    ///
    /// # Errors
    /// The disk failed, or SQLCipher found a page that it did not write.
    pub fn verify(&self) -> Result<Report, LedgerError> {
        let sealer = self.sealer();
        self.snapshot(|transaction, head| {
            let mut walk = Walk { sealer, proven: 0, last: GENESIS, announced: BTreeMap::new(), head_lost: None };
            let tampering = match walk.chain(transaction)? {
                Some(tampering) => Some(tampering),
                None => walk.end(transaction, head)?,
            };
            let mut report = Report { proven: walk.proven, expected: head.count, revisions: 0, tampering };
            if report.tampering.is_none() {
                report.tampering = walk.revisions(transaction, &mut report.revisions)?;
            }
            // Known since an earlier start: whatever is wrong today comes first.
            report.tampering = report.tampering.or(walk.head_lost);
            Ok(report)
        })
    }
}

struct Walk<'s> {
    sealer: &'s Sealer,
    proven: u64,
    last: Mac,
    /// Digests of the revisions that proven records announce.
    announced: BTreeMap<String, Option<String>>,
    head_lost: Option<Tampering>,
}

/// A row as it stands, whatever types somebody put into it.
struct StoredRecord {
    seq: i64,
    micros: i64,
    actor: String,
    action: String,
    subject: String,
    detail: String,
    previous: Vec<u8>,
    mac: Vec<u8>,
}

impl StoredRecord {
    /// `None` where a column has a type that we never write.
    fn read(row: &Row<'_>) -> rusqlite::Result<Result<Self, i64>> {
        let integer = |i| match row.get_ref(i)? {
            ValueRef::Integer(number) => Ok::<_, rusqlite::Error>(Some(number)),
            _ => Ok(None),
        };
        let text = |i| match row.get_ref(i)? {
            ValueRef::Text(text) => Ok::<_, rusqlite::Error>(String::from_utf8(text.to_vec()).ok()),
            _ => Ok(None),
        };
        let blob = |i| match row.get_ref(i)? {
            ValueRef::Blob(bytes) => Ok::<_, rusqlite::Error>(Some(bytes.to_vec())),
            _ => Ok(None),
        };
        let seq = integer(0)?.unwrap_or(0);
        let (Some(micros), Some(actor), Some(action), Some(subject), Some(detail), Some(previous), Some(mac)) =
            (integer(1)?, text(2)?, text(3)?, text(4)?, text(5)?, blob(6)?, blob(7)?)
        else {
            return Ok(Err(seq));
        };
        Ok(Ok(Self { seq, micros, actor, action, subject, detail, previous, mac }))
    }

    /// Whether every field is as it was written under number `seq`.
    fn is_genuine_as(&self, seq: u64, sealer: &Sealer) -> bool {
        let Self { micros, actor, action, subject, detail, previous, .. } = self;
        let fields = RecordFields { seq, micros: *micros, actor, action, subject, detail, previous };
        sealer.record(&fields).as_slice() == self.mac
    }
}

impl Walk<'_> {
    /// Checks record after record; what is wrong first.
    fn chain(&mut self, connection: &Connection) -> Result<Option<Tampering>, LedgerError> {
        let mut statement = connection
            .prepare("SELECT seq, micros, actor, action, subject, detail, previous, mac FROM audit ORDER BY seq")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let record = match StoredRecord::read(row)? {
                Ok(record) => record,
                Err(seq) => return Ok(Some(Tampering::Edited { seq: u64::try_from(seq).unwrap_or(0) })),
            };
            let expected = self.proven + 1;
            let seq = match u64::try_from(record.seq) {
                Ok(seq) if seq >= expected => seq,
                _ => return Ok(Some(Tampering::Inserted { seq: record.seq })),
            };
            if !record.is_genuine_as(seq, self.sealer) {
                return Ok(Some(self.explain(connection, &record, seq, expected)?));
            }
            if seq > expected {
                return Ok(Some(Tampering::Deleted { seq: expected }));
            }
            if record.previous != self.last {
                return Ok(Some(Tampering::Unlinked { seq, before: seq - 1 }));
            }
            if record.action == HEAD_LOST {
                self.head_lost.get_or_insert(Tampering::HeadLost { seq });
            }
            if record.action == COMMITTED {
                let detail: Value = serde_json::from_str(&record.detail).unwrap_or_default();
                let digest = detail.get("digest").and_then(Value::as_str).map(str::to_owned);
                self.announced.insert(record.subject.clone(), digest);
            }
            self.proven = seq;
            self.last = Mac::try_from(record.mac).unwrap_or(GENESIS);
        }
        Ok(None)
    }

    /// Why the record at `seq` is not genuine there.
    fn explain(
        &self,
        connection: &Connection,
        record: &StoredRecord,
        seq: u64,
        expected: u64,
    ) -> Result<Tampering, LedgerError> {
        let twin: Option<i64> = connection
            .query_row("SELECT seq FROM audit WHERE mac = ?1 AND seq <> ?2 LIMIT 1", (&record.mac, record.seq), |row| {
                row.get(0)
            })
            .optional()?;
        if let Some(of) = twin.and_then(|of| u64::try_from(of).ok()) {
            return Ok(Tampering::Doubled { seq, of });
        }
        let count: i64 = connection.query_row("SELECT max(seq) FROM audit", [], |row| row.get(0))?;
        // Written with another number? One MAC a candidate, and this is done once.
        let last = u64::try_from(count).unwrap_or(0).saturating_add(1).min(seq.saturating_add(1_000_000));
        if let Some(written_as) = (1..=last).find(|n| *n != seq && record.is_genuine_as(*n, self.sealer)) {
            return Ok(Tampering::Moved { seq, written_as });
        }
        Ok(if seq > expected { Tampering::Deleted { seq: expected } } else { Tampering::Edited { seq } })
    }

    /// Holds the end of the chain against the head in the file and the one in memory.
    fn end(&self, connection: &Connection, ours: Head) -> Result<Option<Tampering>, LedgerError> {
        let Some(stored) = stored_head(connection, self.sealer)? else {
            return Ok(Some(Tampering::HeadForged { last: self.proven }));
        };
        let last = self.proven;
        Ok(if last < stored.count {
            Some(Tampering::Cut { last, expected: stored.count })
        } else if stored != ours {
            Some(Tampering::RolledBack { last: stored.count, expected: ours.count })
        } else if last > stored.count {
            Some(Tampering::Inserted { seq: to_sql(stored.count + 1) })
        } else if self.last != stored.last {
            Some(Tampering::Edited { seq: last })
        } else {
            None
        })
    }

    /// Holds the revisions against the records that announce them.
    fn revisions(&mut self, connection: &Connection, proven: &mut u64) -> Result<Option<Tampering>, LedgerError> {
        let mut statement = connection.prepare("SELECT n, micros, author, toml, mac FROM revision ORDER BY n")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let revision = StoredRevision::read(row)?;
            let n = revision.n;
            let Some(digest) = self.announced.remove(&subject_of(n)) else {
                return Ok(Some(Tampering::RevisionInserted { n }));
            };
            if !revision.is_genuine(self.sealer) || digest != Some(revision.digest()) {
                return Ok(Some(Tampering::RevisionEdited { n }));
            }
            *proven += 1;
        }
        let missing = self.announced.keys().filter_map(|subject| subject.rsplit(' ').next()?.parse().ok()).min();
        Ok(missing.map(|n| Tampering::RevisionDeleted { n }))
    }
}
