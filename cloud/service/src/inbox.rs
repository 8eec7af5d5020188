//! The messages of one person.
//!
//! Job: list and open what was sent to an address. Place: between the portal and the stored messages. Invariants: every
//! query names the person, so nobody reaches another's message by guessing a reference; a message is parsed one at a time.
//! A crash leaves at most a message that is not yet marked as read.

use crate::{
    Error,
    content::{Content, Place},
    database::now,
    directory::Person,
    ingest::Facts,
    keys::TenantKeys,
    objects::Objects,
    structure::{Shown, Structure, decode_body},
    tenants::Tenants,
};
use sqlx::SqlitePool;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Messages on one page.
pub const PAGE: i64 = 25;

/// The messages of people.
pub struct Inbox {
    db: SqlitePool,
    objects: Objects,
    tenants: Arc<Tenants>,
    /// A parser holds a whole message and ¾ of it again: one at a time.
    parser: Semaphore,
}

#[derive(sqlx::FromRow)]
struct Row {
    recipient: i64,
    read_at: Option<i64>,
    reference: String,
    tenant: String,
    message: String,
    delivery: u32,
    message_key: Vec<u8>,
    facts_sealed: Vec<u8>,
    structure_sealed: Option<Vec<u8>>,
    stored_at: i64,
}

const COLUMNS: &str = "SELECT r.id AS recipient, r.read_at, m.reference, m.tenant, m.message, m.delivery, \
    m.message_key, m.facts_sealed, m.structure_sealed, m.stored_at \
    FROM recipient r JOIN message m ON m.reference = r.reference WHERE r.address_index = ?";

/// A stored message, opened for one of its recipients.
pub struct Letter {
    /// Reference, as it stands in URLs.
    pub reference: String,
    /// Postern ID.
    pub id: String,
    /// Delivery group.
    pub group: u32,
    /// Whose it is.
    pub tenant: String,
    /// Name of the sending organisation.
    pub organisation: String,
    /// MAIL FROM.
    pub sender: String,
    /// What it consists of.
    pub structure: Structure,
    /// Its octets.
    pub content: Content,
    /// When it was stored, seconds since 1970.
    pub stored_at: i64,
    /// Whether this person has opened it.
    pub read: bool,
    recipient: i64,
}

impl Inbox {
    /// The messages in this database and store.
    pub fn new(db: SqlitePool, objects: Objects, tenants: Arc<Tenants>) -> Self {
        Self { db, objects, tenants, parser: Semaphore::new(1) }
    }

    /// One page of a person's messages, newest first, and whether there are more.
    ///
    /// # Errors
    /// The service's own.
    pub async fn list(&self, person: &Person, page: i64) -> Result<(Vec<Letter>, bool), Error> {
        let sql = format!("{COLUMNS} ORDER BY m.stored_at DESC, r.id DESC LIMIT ? OFFSET ?");
        let mut rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(&person.index)
            .bind(PAGE + 1)
            .bind(page.saturating_mul(PAGE))
            .fetch_all(&self.db)
            .await?;
        let more = rows.len() as i64 > PAGE;
        rows.truncate(PAGE as usize);
        let mut letters = Vec::with_capacity(rows.len());
        for row in rows {
            letters.push(self.letter(row).await?);
        }
        Ok((letters, more))
    }

    /// A person's message; `None` if there is none, or it is somebody else's.
    ///
    /// # Errors
    /// The service's own.
    pub async fn open(&self, person: &Person, reference: &str) -> Result<Option<Letter>, Error> {
        let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{COLUMNS} AND m.reference = ?")))
            .bind(&person.index)
            .bind(reference)
            .fetch_optional(&self.db)
            .await?;
        match row {
            Some(row) => self.letter(row).await.map(Some),
            None => Ok(None),
        }
    }

    /// Marks a message as read; says whether this was the first time.
    ///
    /// # Errors
    /// The service's own.
    pub async fn mark_read(&self, letter: &Letter) -> Result<bool, Error> {
        let done = sqlx::query("UPDATE recipient SET read_at = ? WHERE id = ? AND read_at IS NULL")
            .bind(now())
            .bind(letter.recipient)
            .execute(&self.db)
            .await?;
        Ok(done.rows_affected() == 1)
    }

    async fn letter(&self, row: Row) -> Result<Letter, Error> {
        let keys = self.tenants.keys(&row.tenant).await?;
        let plain = keys.records.open(&keys.context("facts", &row.reference), &row.facts_sealed)?;
        let facts: Facts = serde_json::from_slice(&plain)?;
        let secret = keys.message_key(&row.reference, &row.message_key)?;
        let place = Place::new(&keys, &row.reference, secret);
        let content = Content::new(self.objects.clone(), place, facts.segments, facts.offset);
        let structure = match row.structure_sealed {
            Some(sealed) => {
                serde_json::from_slice(&keys.records.open(&keys.context("structure", &row.reference), &sealed)?)?
            }
            None => self.find_structure(&keys, &row.reference, &content).await?,
        };
        Ok(Letter {
            organisation: self.tenants.name(&row.tenant).await?,
            reference: row.reference,
            id: row.message,
            group: row.delivery,
            tenant: row.tenant,
            sender: facts.sender,
            structure,
            content,
            stored_at: row.stored_at,
            read: row.read_at.is_some(),
            recipient: row.recipient,
        })
    }

    async fn find_structure(&self, keys: &TenantKeys, reference: &str, content: &Content) -> Result<Structure, Error> {
        let _turn = self.parser.acquire().await;
        let octets = content.read(0..content.len()).await?;
        let parsed = tokio::task::spawn_blocking(move || Structure::parse(&octets)).await;
        let structure = match parsed {
            Ok(structure) => structure,
            // The parser gave up on this one: it can still be fetched whole.
            Err(e) => {
                log::error!("a message could not be parsed and is offered as a file: {e}");
                Structure::unreadable(content.len())
            }
        };
        let sealed = keys.records.seal(&keys.context("structure", reference), &serde_json::to_vec(&structure)?)?;
        sqlx::query("UPDATE message SET structure_sealed = ? WHERE reference = ?")
            .bind(sealed)
            .bind(reference)
            .execute(&self.db)
            .await?;
        Ok(structure)
    }
}

impl Letter {
    /// The parts to show, decoded, in order.
    ///
    /// # Errors
    /// The service's own.
    pub async fn bodies(&self) -> Result<Vec<Shown>, Error> {
        let mut shown = Vec::with_capacity(self.structure.bodies.len());
        for body in &self.structure.bodies {
            let octets = self.content.read(body.start..body.end).await?;
            shown.extend(decode_body(&octets));
        }
        Ok(shown)
    }
}
