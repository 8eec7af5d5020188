//! The payload of a message record.
//!
//! Job: bring acceptance and content together as bytes, and back. Place: commit builds it, claims and recovery open it.
//! Invariants: the snapshot is sealed; the content behind it is sealed already when it comes here. A crash leaves
//! nothing behind: this computes.
//!
//! Layout: u32 length of the sealed snapshot ‖ sealed snapshot ‖ sealed content, unless it has a spill file. Plain
//! snapshot: u32 length of the JSON ‖ JSON ‖ prefix.

use crate::{
    Acceptance,
    queue::{ContentPlace, Snapshot},
    record::{HEADER, Header, Kind},
    seal::{MessageKey, Role, Unsealable},
    segment::{Place, Segment},
    view::Damage,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

#[derive(Serialize)]
struct Written<'a> {
    acceptance: &'a Acceptance,
    content: &'a ContentPlace,
}

#[derive(Deserialize)]
struct Stored {
    acceptance: Acceptance,
    content: ContentPlace,
}

/// Seals the snapshot and puts the sealed content behind it.
pub(crate) fn build(
    key: &MessageKey,
    acceptance: Arc<Acceptance>,
    content: ContentPlace,
    inline: &[u8],
) -> Result<(Vec<u8>, Arc<Snapshot>), Unsealable> {
    let mut plain = vec![0; 4];
    serde_json::to_writer(&mut plain, &Written { acceptance: &acceptance, content: &content })
        .map_err(|_| Unsealable)?;
    let json = u32::try_from(plain.len() - 4).map_err(|_| Unsealable)?;
    if let Some(length) = plain.first_chunk_mut::<4>() {
        *length = json.to_le_bytes();
    }
    plain.extend_from_slice(&acceptance.prefix);
    let mut payload = Vec::with_capacity(plain.len() + inline.len() + 64);
    payload.extend_from_slice(&[0; 4]);
    key.seal_piece(Role::Snapshot, 0, &plain, &mut payload)?;
    let sealed = u32::try_from(payload.len() - 4).map_err(|_| Unsealable)?;
    if let Some(length) = payload.first_chunk_mut::<4>() {
        *length = sealed.to_le_bytes();
    }
    let behind = sealed + 4;
    payload.extend_from_slice(inline);
    Ok((payload, Arc::new(Snapshot { acceptance, content, behind })))
}

/// Opens the snapshot at the start of a payload.
pub(crate) fn open(key: &MessageKey, payload: &[u8]) -> Result<Snapshot, Unsealable> {
    let (length, rest) = payload.split_first_chunk::<4>().ok_or(Unsealable)?;
    let sealed = u32::from_le_bytes(*length);
    let plain = key.open_piece(Role::Snapshot, 0, rest.get(..sealed as usize).ok_or(Unsealable)?)?;
    let (length, plain) = plain.split_first_chunk::<4>().ok_or(Unsealable)?;
    let (json, prefix) = plain.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(Unsealable)?;
    let stored: Stored = serde_json::from_slice(json).map_err(|_| Unsealable)?;
    let acceptance = Arc::new(Acceptance { prefix: prefix.to_vec(), ..stored.acceptance });
    Ok(Snapshot { acceptance, content: stored.content, behind: sealed + 4 })
}

/// Reads and opens the snapshot of the message at `place`.
pub(crate) fn read(segment: &Segment, place: Place, key: &MessageKey) -> Result<Snapshot, Damage> {
    let mut head = [0; HEADER + 4];
    segment.file.read_at(u64::from(place.offset), &mut head).map_err(|_| Damage::Record)?;
    let header = head.first_chunk::<HEADER>().and_then(|bytes| Header::decode(&segment.id, bytes));
    let Some((header, _)) = header else { return Err(Damage::Record) };
    if header.kind != Kind::Message || header.message != key.binding.message {
        return Err(Damage::Record);
    }
    let sealed = head.last_chunk::<4>().map_or(0, |length| u32::from_le_bytes(*length));
    if sealed > header.length.saturating_sub(4) {
        return Err(Damage::Snapshot);
    }
    let mut payload = vec![0; sealed as usize + 4];
    segment.file.read_at(u64::from(place.offset) + HEADER as u64, &mut payload).map_err(|_| Damage::Record)?;
    open(key, &payload).map_err(|_| Damage::Snapshot)
}

/// Whether the record at `place` is of message `id`.
pub(crate) fn names(segment: &Segment, place: Place, id: mail::MessageId) -> bool {
    let mut head = [0; HEADER];
    segment.file.read_at(u64::from(place.offset), &mut head).is_ok()
        && Header::decode(&segment.id, &head).is_some_and(|(header, _)| header.message == id)
}
