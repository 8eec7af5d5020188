//! The MACs of records, head and revisions.
//!
//! Job: bind every field of a row, its place and the row before it with HMAC-SHA-256. Place: under append and verify.
//! Invariants: each kind of row has its own label, and every field its length before it, so no two rows and no two
//! kinds give the same input. A crash leaves nothing behind.

use crate::ChainKey;
use aws_lc_rs::hmac;

/// HMAC-SHA-256 over a row.
pub(crate) type Mac = [u8; 32];

/// What stands before the first record.
pub(crate) const GENESIS: Mac = [0; 32];

/// Makes and checks MACs.
pub(crate) struct Sealer(hmac::Key);

/// The fields of one audit record, in the order in which they are bound.
pub(crate) struct RecordFields<'a> {
    pub seq: u64,
    pub micros: i64,
    pub actor: &'a str,
    pub action: &'a str,
    pub subject: &'a str,
    pub detail: &'a str,
    pub previous: &'a [u8],
}

/// The fields of one settings revision.
pub(crate) struct RevisionFields<'a> {
    pub n: u64,
    pub micros: i64,
    pub author: &'a str,
    pub toml: &'a str,
}

impl Sealer {
    pub fn new(key: &ChainKey) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.expose()))
    }

    pub fn record(&self, fields: &RecordFields<'_>) -> Mac {
        self.mac("postern/1/audit-record", |row| {
            row.number(fields.seq).number(fields.micros.cast_unsigned());
            row.text(fields.actor).text(fields.action).text(fields.subject).text(fields.detail);
            row.bytes(fields.previous);
        })
    }

    pub fn head(&self, count: u64, last: &[u8]) -> Mac {
        self.mac("postern/1/audit-head", |row| {
            row.number(count).bytes(last);
        })
    }

    pub fn revision(&self, fields: &RevisionFields<'_>) -> Mac {
        self.mac("postern/1/settings-revision", |row| {
            row.number(fields.n).number(fields.micros.cast_unsigned()).text(fields.author).text(fields.toml);
        })
    }

    fn mac(&self, label: &str, fields: impl FnOnce(&mut Row)) -> Mac {
        let mut row = Row(hmac::Context::with_key(&self.0));
        row.text(label);
        fields(&mut row);
        let tag = row.0.sign();
        let mut mac = Mac::default();
        mac.copy_from_slice(tag.as_ref());
        mac
    }
}

struct Row(hmac::Context);

impl Row {
    fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(&number.to_be_bytes());
        self
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }
}
