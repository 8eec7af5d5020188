//! The messages of one person.
//!
//! Job: list and open what was sent to an address. Place: between the portal and the stored messages. Invariants: every
//! query names the person, so nobody reaches another's message by guessing a reference; a message is parsed one at a time,
//! and twice at most. A crash leaves a message that is not yet marked as read, or one whose structure says that parsing
//! began: a second crash of the same one is its last, from then on it is offered as a file.

use crate::{
    Error,
    content::{Content, Place},
    database::now,
    directory::Person,
    error::broke_off,
    ingest::Facts,
    keys::TenantKeys,
    objects::Objects,
    seal::SealError,
    structure::Structure,
    tenants::Tenants,
};
use sqlx::SqlitePool;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Messages on one page.
pub const PAGE: i64 = 25;

/// How often parsing a message may begin without ending: once may be a power cut or a stop.
const TRIES: u8 = 2;

/// The messages of people.
pub struct Inbox {
    db: SqlitePool,
    objects: Objects,
    tenants: Arc<Tenants>,
    /// A parser holds a whole message and ¾ of it again: one at a time.
    parser: Arc<Semaphore>,
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
        Self { db, objects, tenants, parser: Arc::new(Semaphore::new(1)) }
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
        let known = row.structure_sealed.map(|sealed| open_structure(&keys, &row.reference, &sealed)).transpose()?;
        let structure = match known {
            Some(structure) if structure.unfinished == 0 => structure,
            _ => self.find_structure(&keys, &row.reference, &content).await?,
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

    /// Parses a message, unless somebody else did while this one waited for the parser.
    async fn find_structure(
        &self,
        keys: &Arc<TenantKeys>,
        reference: &str,
        content: &Content,
    ) -> Result<Structure, Error> {
        let turn = self.parser.clone().acquire_owned().await.map_err(|_| SealError::Cipher)?;
        if let Some(known) = begin(&self.db, keys, reference, content.len()).await? {
            return Ok(known);
        }
        let (db, keys, reference, content) = (self.db.clone(), keys.clone(), reference.to_owned(), content.clone());
        // A task of its own: a reader who goes away meanwhile is no crash, and must not look like one.
        let found = tokio::spawn(async move {
            let _turn = turn;
            let octets = content.read(0..content.len()).await?;
            let parsed = tokio::task::spawn_blocking(move || Structure::parse(&octets)).await;
            let structure = parsed.unwrap_or_else(|e| {
                log::error!("a message could not be parsed and is offered as a file: {}", broke_off(&e));
                Structure::unreadable(content.len())
            });
            save(&db, &keys, &reference, &structure).await?;
            Ok(structure)
        });
        found.await.unwrap_or_else(|e| {
            log::error!("finding the structure of a message broke off: {}", broke_off(&e));
            Err(SealError::Format.into())
        })
    }
}

/// Notes that parsing begins, before anything of the message is touched: should it bring the process down, it does not do
/// so for ever. Where it need not begin, says the structure.
async fn begin(db: &SqlitePool, keys: &TenantKeys, reference: &str, length: u64) -> Result<Option<Structure>, Error> {
    let row: Option<(Option<Vec<u8>>,)> = sqlx::query_as("SELECT structure_sealed FROM message WHERE reference = ?")
        .bind(reference)
        .fetch_optional(db)
        .await?;
    let known = row.and_then(|row| row.0).map(|sealed| open_structure(keys, reference, &sealed)).transpose()?;
    let begun = known.as_ref().map_or(0, |known| known.unfinished);
    if begun >= TRIES {
        log::error!("a message was begun {TRIES} times and never parsed; it is offered as a file");
        let structure = Structure::unreadable(length);
        save(db, keys, reference, &structure).await?;
        return Ok(Some(structure));
    }
    if known.is_some() && begun == 0 {
        return Ok(known);
    }
    let structure = Structure { unfinished: begun + 1, ..Structure::unreadable(length) };
    save(db, keys, reference, &structure).await?;
    Ok(None)
}

fn open_structure(keys: &TenantKeys, reference: &str, sealed: &[u8]) -> Result<Structure, Error> {
    Ok(serde_json::from_slice(&keys.records.open(&keys.context("structure", reference), sealed)?)?)
}

async fn save(db: &SqlitePool, keys: &TenantKeys, reference: &str, structure: &Structure) -> Result<(), Error> {
    let sealed = keys.records.seal(&keys.context("structure", reference), &serde_json::to_vec(structure)?)?;
    sqlx::query("UPDATE message SET structure_sealed = ? WHERE reference = ?")
        .bind(sealed)
        .bind(reference)
        .execute(db)
        .await?;
    Ok(())
}

impl Letter {
    /// The octets of the parts to show, in order; the structure bounds how many they are.
    ///
    /// # Errors
    /// The service's own.
    pub async fn bodies(&self) -> Result<Vec<Vec<u8>>, Error> {
        let mut octets = Vec::with_capacity(self.structure.bodies.len());
        for body in &self.structure.bodies {
            octets.push(self.content.read(body.start..body.end).await?);
        }
        Ok(octets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{database, keys::Master};

    #[tokio::test]
    async fn a_message_that_ends_the_process_twice_is_offered_as_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let service = Master::load_or_create(&folder.path().join("key"), &data).unwrap().service().unwrap();
        let db = database::open(&data).await.unwrap();
        let tenants = Tenants::new(db.clone(), Arc::new(service));
        tenants.add("clinic", "Clinic").await.unwrap();
        let keys = tenants.keys("clinic").await.unwrap();
        sqlx::raw_sql(
            "INSERT INTO appliance (id, tenant, certificate, fingerprint, public_key, not_after, software, enrolled_at) \
             VALUES ('a', 'clinic', '', x'00', x'00', 0, '', 0); \
             INSERT INTO message (reference, tenant, appliance, message, delivery, message_key, facts_sealed, stored_at) \
             VALUES ('bad', 'clinic', 'a', 'm', 0, x'00', x'00', 0), ('good', 'clinic', 'a', 'm', 1, x'00', x'00', 0)",
        )
        .execute(&db)
        .await
        .unwrap();
        // Each time the process ends before the structure is saved.
        assert!(begin(&db, &keys, "bad", 7).await.unwrap().is_none());
        assert!(begin(&db, &keys, "bad", 7).await.unwrap().is_none());
        for _ in 0..2 {
            let offered = begin(&db, &keys, "bad", 7).await.unwrap().unwrap();
            assert_eq!((offered.unfinished, offered.attachments[0].end), (0, 7));
        }
        // One interruption costs nothing.
        assert!(begin(&db, &keys, "good", 7).await.unwrap().is_none());
        assert!(begin(&db, &keys, "good", 7).await.unwrap().is_none());
        save(&db, &keys, "good", &Structure { subject: "Befund".into(), ..Structure::default() }).await.unwrap();
        assert_eq!(begin(&db, &keys, "good", 7).await.unwrap().unwrap().subject, "Befund");
    }
}
