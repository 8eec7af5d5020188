//! Taking messages from appliances.
//!
//! Job: receive a frame, whole or in pieces, and store it exactly once per (appliance, message, delivery group). Place:
//! behind `PUT /v1/messages/…`; what it commits, notices and portal find. Invariants: "stored" is said only after every
//! segment is synced and the transaction that names them is committed with synchronous=FULL; the same key with another
//! digest is refused; the digest is computed over what arrived, for pieces over what was stored and opened again;
//! nothing is written unsealed. A crash leaves objects that no row knows (swept at start), or an upload that goes on
//! where its last durable piece ended; never half a message that was acknowledged.

mod rows;

use crate::{
    Error,
    content::{Content, Place},
    database::{now, write},
    event,
    keys::{ServiceKeys, TenantKeys, folded, hex},
    notice::LINK_LIFETIME,
    objects::Objects,
    seal::{SealError, Secret, SegmentSealer, random},
    tenants::{Appliance, Tenants},
};
use aws_lc_rs::digest::{Context, SHA256};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use sqlx::SqlitePool;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
use wire::{Digest, Metadata, UploadState, frame, limit};

/// Pieces that nobody continues are kept this long; the appliance's longest retry interval is an hour.
const UPLOAD_LIFETIME: i64 = 48 * 3600;
/// Uploads in pieces that one appliance may have open.
const OPEN_UPLOADS: i64 = 64;
/// Shortest piece but for the last: bounds the number of objects of a message.
const SHORTEST_PIECE: u64 = 64 * 1024;
/// How long a request waits for another one with the same key, whose connection may be dead already.
const SAME_KEY: Duration = Duration::from_secs(5);
/// How long the service waits for the next bytes of a body.
const BODY_IDLE: Duration = Duration::from_secs(60);

/// What the appliance calls a message for one group of recipients.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Whose.
    pub appliance: String,
    /// Postern ID.
    pub message: String,
    /// Delivery group.
    pub group: u32,
}

/// Position of a piece.
#[derive(Clone, Copy)]
pub struct Piece {
    /// Bytes in front of it.
    pub offset: u64,
    /// Bytes of the whole frame.
    pub length: u64,
}

/// What became of a PUT.
pub enum Taken {
    /// All is stored, just now.
    Created(String),
    /// All was stored before, with the same digest.
    Known(String),
    /// The piece is stored; the next one starts here.
    Progress(u64),
    /// The upload stands elsewhere.
    Elsewhere(u64),
}

/// Why a PUT was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The same key came with another digest.
    #[error("another message is stored under this id and group; it can't be replaced")]
    Conflict,
    /// The appliance sent what can't be stored.
    #[error("{0}")]
    Invalid(String),
    /// Too long for this service.
    #[error("the frame is longer than {} bytes; larger messages are not taken", limit::FRAME)]
    TooLong,
    /// Another request with this key is at work, or too many uploads are open.
    #[error("{0}")]
    Busy(&'static str),
    /// The body ended early or stalled.
    #[error("the body broke off; send it again")]
    Broken,
    /// The service's own fault.
    #[error(transparent)]
    Service(#[from] Error),
}

macro_rules! service_faults {
    ($($source:ty),*) => { $(impl From<$source> for PutError {
        fn from(e: $source) -> Self { Self::Service(e.into()) }
    })* };
}
service_faults!(sqlx::Error, SealError, serde_json::Error);

/// The sealed state of an upload in pieces.
#[derive(Serialize, Deserialize)]
struct State {
    digest: Digest,
    length: u64,
    segments: Vec<u64>,
}

/// The sealed facts of a stored message.
#[derive(Serialize, Deserialize)]
pub struct Facts {
    /// Of the frame.
    pub digest: Digest,
    /// What the appliance was told.
    pub receipt: String,
    /// Plain bytes of each segment.
    pub segments: Vec<u64>,
    /// First octet of the message within the frame.
    pub offset: u64,
    /// MAIL FROM, empty for `<>`.
    pub sender: String,
    /// When the appliance accepted it, RFC 3339.
    pub accepted_at: String,
    /// Whether the envelope needs SMTPUTF8.
    pub smtputf8: bool,
}

/// An upload as its row says.
struct Upload {
    reference: String,
    secret: Secret,
    wrapped: Vec<u8>,
    state: State,
}

impl Upload {
    fn offset(&self) -> u64 {
        self.state.segments.iter().sum()
    }
}

/// Takes messages in.
pub struct Ingest {
    db: SqlitePool,
    objects: Objects,
    tenants: Arc<Tenants>,
    keys: Arc<ServiceKeys>,
    at_work: Mutex<HashMap<Key, Weak<tokio::sync::Mutex<()>>>>,
    /// Rung after each stored message.
    pub stored: Arc<tokio::sync::Notify>,
}

impl Ingest {
    /// Ingest into this database and store.
    pub fn new(db: SqlitePool, objects: Objects, tenants: Arc<Tenants>, keys: Arc<ServiceKeys>) -> Self {
        Self { db, objects, tenants, keys, at_work: Mutex::default(), stored: Arc::default() }
    }

    /// Where the service stands with a key.
    ///
    /// # Errors
    /// The service's own.
    pub async fn state(&self, appliance: &Appliance, key: &Key) -> Result<UploadState, Error> {
        let keys = self.tenants.keys(&appliance.tenant).await?;
        if let Some(facts) = self.stored_facts(&keys, key).await? {
            return Ok(UploadState::Stored { digest: facts.digest, receipt: facts.receipt });
        }
        Ok(match self.upload(&keys, key).await? {
            Some(upload) => UploadState::Partial {
                offset: upload.offset(),
                length: upload.state.length,
                digest: upload.state.digest,
            },
            None => UploadState::Absent,
        })
    }

    /// Takes a frame, or a piece of one.
    ///
    /// # Errors
    /// See [`PutError`]; nothing is acknowledged then.
    pub async fn put<E>(
        &self,
        appliance: &Appliance,
        key: &Key,
        digest: Digest,
        piece: Option<Piece>,
        body: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<Taken, PutError> {
        let lock = self.lock_of(key);
        let _alone = tokio::time::timeout(SAME_KEY, lock.lock())
            .await
            .map_err(|_| PutError::Busy("another request with this id and group is at work; try again later"))?;
        let keys = self.tenants.keys(&appliance.tenant).await?;
        if let Some(facts) = self.stored_facts(&keys, key).await? {
            return if facts.digest == digest { Ok(Taken::Known(facts.receipt)) } else { Err(PutError::Conflict) };
        }
        match piece {
            None => self.put_whole(&keys, key, digest, body).await,
            Some(piece) => self.put_piece(&keys, key, digest, piece, body).await,
        }
    }

    fn lock_of(&self, key: &Key) -> Arc<tokio::sync::Mutex<()>> {
        let mut table = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = table.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        table.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        table.insert(key.clone(), Arc::downgrade(&lock));
        lock
    }

    async fn put_whole<E>(
        &self,
        keys: &TenantKeys,
        key: &Key,
        digest: Digest,
        body: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<Taken, PutError> {
        let reference = hex(&random::<16>()?);
        let (secret, wrapped) = keys.new_message_key(&reference)?;
        let place = Place::new(keys, &reference, secret);
        let stored = async {
            let written = self.write_segment(&place, 0, limit::FRAME, body).await?;
            if written.digest != digest {
                return Err(PutError::Invalid("the digest does not fit the body; send it again".into()));
            }
            let (metadata, offset) = self.read_metadata(&place, &[written.length], key).await?;
            let facts = facts(digest, vec![written.length], offset, &metadata)?;
            self.commit(keys, key, &reference, &wrapped, facts, metadata).await
        };
        match stored.await {
            Ok(receipt) => Ok(Taken::Created(receipt)),
            Err(e) => {
                self.objects.remove(&place.folder).await?;
                Err(e)
            }
        }
    }

    async fn put_piece<E>(
        &self,
        keys: &TenantKeys,
        key: &Key,
        digest: Digest,
        piece: Piece,
        body: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<Taken, PutError> {
        if piece.length > limit::FRAME {
            return Err(PutError::TooLong);
        }
        if piece.offset >= piece.length {
            return Err(PutError::Invalid("upload-offset is not below upload-length; send what the frame has".into()));
        }
        let mut upload = match self.upload(keys, key).await? {
            Some(upload) if upload.state.digest == digest && upload.state.length == piece.length => upload,
            Some(other) if piece.offset == 0 => {
                self.forget(keys, key, &other.reference).await?;
                self.new_upload(keys, digest, piece.length)?
            }
            Some(_) => return Err(PutError::Invalid("the pieces so far belong to another frame; start at 0".into())),
            None => self.new_upload(keys, digest, piece.length)?,
        };
        if upload.offset() != piece.offset {
            return Ok(Taken::Elsewhere(upload.offset()));
        }
        if upload.state.segments.is_empty() {
            self.refuse_too_many(key).await?;
        }
        let place = Place::new(keys, &upload.reference, upload.secret.clone());
        let number = upload.state.segments.len();
        let written = match self.write_segment(&place, number, piece.length - piece.offset, body).await {
            Ok(written) if written.length >= SHORTEST_PIECE.min(piece.length - piece.offset) => written,
            // An object of a later piece stays under its number, which the next try replaces.
            refused => {
                if number == 0 {
                    self.objects.remove(&place.folder).await?;
                }
                refused?;
                return Err(PutError::Invalid(format!("a piece but the last has at least {SHORTEST_PIECE} bytes")));
            }
        };
        let complete = piece.offset + written.length == piece.length;
        upload.state.segments.push(written.length);
        if !complete {
            self.save(keys, key, &upload).await?;
            return Ok(Taken::Progress(upload.offset()));
        }
        let stored = async {
            if self.digest_of(&place, &upload.state.segments).await? != digest {
                return Err(PutError::Invalid("the digest does not fit the pieces; start again at 0".into()));
            }
            let (metadata, offset) = self.read_metadata(&place, &upload.state.segments, key).await?;
            let facts = facts(digest, upload.state.segments.clone(), offset, &metadata)?;
            self.commit(keys, key, &upload.reference, &upload.wrapped, facts, metadata).await
        };
        match stored.await {
            Ok(receipt) => Ok(Taken::Created(receipt)),
            Err(e @ PutError::Invalid(_)) => {
                self.forget(keys, key, &upload.reference).await?;
                Err(e)
            }
            Err(e) => Err(e),
        }
    }

    /// Receives a body into one sealed object. Returns only once that object is durable.
    async fn write_segment<E>(
        &self,
        place: &Place,
        number: usize,
        longest: u64,
        body: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<Written, PutError> {
        let mut object = self.objects.write(&place.folder, number).await?;
        let received = async {
            let mut sealed = Vec::new();
            let mut sealer = SegmentSealer::new(&place.secret, &place.context(number), &mut sealed)?;
            let mut hash = Context::new(&SHA256);
            let mut length = 0u64;
            let mut body = std::pin::pin!(body);
            loop {
                let next = tokio::time::timeout(BODY_IDLE, body.next()).await.map_err(|_| PutError::Broken)?;
                let Some(bytes) = next else { break };
                let bytes = bytes.map_err(|_| PutError::Broken)?;
                length += bytes.len() as u64;
                if length > longest {
                    return Err(PutError::TooLong);
                }
                hash.update(&bytes);
                sealer.push(&bytes, &mut sealed)?;
                object.append(&mut sealed).await?;
            }
            sealer.finish(&mut sealed)?;
            object.append(&mut sealed).await?;
            Ok(Written { length, digest: digest_from(hash) })
        };
        match received.await {
            Ok(written) => {
                object.finish().await?;
                Ok(written)
            }
            Err(e) => {
                object.abort().await?;
                Err(e)
            }
        }
    }

    async fn digest_of(&self, place: &Place, segments: &[u64]) -> Result<Digest, Error> {
        let content = Content::new(self.objects.clone(), place.clone(), segments.to_vec(), 0);
        let mut hash = Context::new(&SHA256);
        let mut pieces = std::pin::pin!(content.stream(0..content.len()));
        while let Some(piece) = pieces.next().await {
            hash.update(&piece?);
        }
        Ok(digest_from(hash))
    }

    async fn read_metadata(&self, place: &Place, segments: &[u64], key: &Key) -> Result<(Metadata, u64), PutError> {
        let content = Content::new(self.objects.clone(), place.clone(), segments.to_vec(), 0);
        let invalid = |e: frame::FrameError| PutError::Invalid(e.to_string());
        let longest = (frame::LENGTH + limit::METADATA) as u64;
        let mut end = 64 * 1024;
        loop {
            let start = content.read(0..content.len().min(end)).await?;
            if let Some((metadata, offset)) = frame::parse(&start).map_err(invalid)? {
                return Ok((verified(metadata, key)?, offset as u64));
            }
            if end >= content.len().min(longest) {
                return Err(PutError::Invalid("the frame ends inside its metadata; send all of it".into()));
            }
            end = longest;
        }
    }

    /// Writes the one transaction that makes the message exist: row, recipients, links, notices; the upload goes.
    async fn commit(
        &self,
        keys: &TenantKeys,
        key: &Key,
        reference: &str,
        wrapped: &[u8],
        facts: Facts,
        metadata: Metadata,
    ) -> Result<String, PutError> {
        let receipt = facts.receipt.clone();
        let sealed = keys.records.seal(&keys.context("facts", reference), &serde_json::to_vec(&facts)?)?;
        let now = now();
        let mut tx = write(&self.db).await?;
        sqlx::query(
            "INSERT INTO message (reference, tenant, appliance, message, delivery, message_key, facts_sealed, \
             stored_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(reference)
        .bind(&keys.tenant)
        .bind(&key.appliance)
        .bind(&key.message)
        .bind(key.group)
        .bind(wrapped)
        .bind(sealed)
        .bind(now)
        .execute(&mut *tx)
        .await?;
        for address in &metadata.recipients {
            let link = URL_SAFE_NO_PAD.encode(random::<32>()?);
            let (id,): (i64,) = sqlx::query_as(
                "INSERT INTO recipient (reference, tenant, address_index, address_sealed, link_hash, link_expires_at) \
                 VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
            )
            .bind(reference)
            .bind(&keys.tenant)
            .bind(self.keys.address_index(address))
            .bind(keys.records.seal(&keys.context("recipient", reference), address.as_bytes())?)
            .bind(crate::notice::link_hash(&self.keys, &link))
            .bind(now + LINK_LIFETIME)
            .fetch_one(&mut *tx)
            .await?;
            sqlx::query(
                "INSERT INTO notice (recipient, tenant, link_sealed, state, attempts, due_at, created_at) \
                 VALUES (?, ?, ?, 0, 0, ?, ?)",
            )
            .bind(id)
            .bind(&keys.tenant)
            .bind(keys.records.seal(&keys.context("link", reference), link.as_bytes())?)
            .bind(now)
            .bind(now)
            .execute(&mut *tx)
            .await?;
        }
        rows::delete_upload(&mut tx, key).await?;
        tx.commit().await?;
        event::secured(&key.message, key.group, &keys.tenant, metadata.recipients.len());
        self.stored.notify_one();
        Ok(receipt)
    }
}

struct Written {
    length: u64,
    digest: Digest,
}

fn digest_from(hash: Context) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(hash.finish().as_ref());
    Digest(out)
}

fn facts(digest: Digest, segments: Vec<u64>, offset: u64, metadata: &Metadata) -> Result<Facts, SealError> {
    Ok(Facts {
        digest,
        receipt: hex(&random::<16>()?),
        segments,
        offset,
        sender: metadata.sender.clone(),
        accepted_at: metadata.accepted_at.clone(),
        smtputf8: metadata.smtputf8,
    })
}

/// Holds the metadata against the path, and drops recipients that share a lookup value: one person, one notice.
fn verified(mut metadata: Metadata, key: &Key) -> Result<Metadata, PutError> {
    let invalid = |text: &str| PutError::Invalid(text.to_owned());
    if metadata.id != key.message || metadata.group != key.group {
        return Err(invalid("the metadata names another id or group than the path; send the same in both"));
    }
    if metadata.recipients.is_empty() {
        return Err(invalid("the metadata names no recipient; send at least one"));
    }
    if !metadata.recipients.iter().all(|address| is_mailbox(address)) {
        return Err(invalid("a recipient is not a mailbox; send name@domain, at most 254 octets"));
    }
    if !metadata.sender.is_empty() && !is_mailbox(&metadata.sender) {
        return Err(invalid("the sender is not a mailbox; send name@domain or nothing"));
    }
    if metadata.accepted_at.parse::<jiff::Timestamp>().is_err() {
        return Err(invalid("accepted_at is not a time; send RFC 3339 in UTC"));
    }
    let mut seen = HashSet::new();
    metadata.recipients.retain(|address| seen.insert(folded(address)));
    Ok(metadata)
}

/// The appliance checked the grammar; here only what could do harm further on is refused.
pub fn is_mailbox(address: &str) -> bool {
    address.len() <= 254
        && !address.chars().any(char::is_control)
        && address.rsplit_once('@').is_some_and(|(local, domain)| {
            !local.is_empty()
                && !domain.is_empty()
                && !domain.contains(|c: char| c.is_whitespace() || "<>,;\"".contains(c))
        })
}
