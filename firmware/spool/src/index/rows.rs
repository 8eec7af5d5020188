//! The rows of `queue.db`.
//!
//! Job: turn messages into rows and back. Place: inside the index. Invariants: what never changes of a message is
//! written once, with its first row; whatever does not parse is an error and never a default. A crash leaves whole
//! transactions.

use crate::{
    Event, Group, Held, IndexError, Row, RowState,
    queue::{GroupEntry, Message},
    segment::Place,
    view::Filter,
};
use jiff::Timestamp;
use mail::{Address, MessageId};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::HashSet;

/// What recovery has to know of a message.
pub(crate) struct MessageRow {
    pub id: MessageId,
    pub segment: u32,
    pub offset: u32,
    pub slot: u32,
    pub segments: Vec<u32>,
}

/// The state of a message to be written.
pub(crate) struct RowWrite {
    pub id: MessageId,
    /// `None`: the message is finished, its rows go.
    state: Option<Written>,
}

struct Written {
    /// Present with the first row.
    new: Option<New>,
    facts: u64,
    next_group: u32,
    events: String,
    segments: String,
    groups: Vec<Group>,
}

struct New {
    lane: u8,
    place: Place,
    size: u64,
    spill: Option<String>,
    sender: String,
    recipients: String,
    accepted: i64,
}

impl RowWrite {
    /// The state of message `id`; `None` where the queue does not know it.
    pub fn of(id: MessageId, message: &Message) -> Result<Self, IndexError> {
        if message.finished {
            return Ok(Self { id, state: None });
        }
        let new = match (&message.snapshot, message.stored) {
            (_, true) => None,
            (Some(snapshot), false) => {
                let envelope = &snapshot.acceptance.envelope;
                Some(New {
                    lane: message.lane,
                    place: message.place,
                    size: message.size,
                    spill: message.spill.clone(),
                    sender: text(&envelope.sender)?,
                    recipients: text(&envelope.recipients)?,
                    accepted: envelope.received.as_microsecond(),
                })
            }
            (None, false) => return Err(IndexError::Shape("snapshot")),
        };
        let groups = message.groups.iter().map(|entry| entry.group.clone()).collect();
        Ok(Self {
            id,
            state: Some(Written {
                new,
                facts: message.facts,
                next_group: message.next_group,
                events: text(&message.events)?,
                segments: text(&message.segments)?,
                groups,
            }),
        })
    }

    pub fn write(&self, connection: &Connection) -> Result<(), IndexError> {
        let id = self.id.to_bytes();
        let Some(state) = &self.state else { return delete(connection, self.id) };
        match &state.new {
            Some(new) => connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO message VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15)",
                )?
                .execute(params![
                    id,
                    new.lane,
                    new.place.segment,
                    new.place.offset,
                    new.place.slot,
                    new.place.length,
                    signed(new.size),
                    new.spill,
                    new.sender,
                    new.recipients,
                    new.accepted,
                    signed(state.facts),
                    state.next_group,
                    state.events,
                    state.segments
                ])?,
            None => {
                connection.prepare_cached("DELETE FROM delivery WHERE id = ?1")?.execute([id])?;
                connection
                    .prepare_cached(
                        "UPDATE message SET facts = ?2, next_group = ?3, events = ?4, segments = ?5 WHERE id = ?1",
                    )?
                    .execute(params![id, signed(state.facts), state.next_group, state.events, state.segments])?
            }
        };
        let mut insert =
            connection.prepare_cached("INSERT OR REPLACE INTO delivery VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?;
        for group in &state.groups {
            insert.execute(params![
                id,
                group.number,
                text(&group.destination)?,
                text(&group.recipients)?,
                group.attempts,
                group.due.as_microsecond(),
                group.held.as_ref().map(|held| text(&held.by)).transpose()?,
                group.held.as_ref().map(|held| &held.why),
                group.last
            ])?;
        }
        Ok(())
    }
}

pub(super) fn delete(connection: &Connection, id: MessageId) -> Result<(), IndexError> {
    connection.prepare_cached("DELETE FROM message WHERE id = ?1")?.execute([id.to_bytes()])?;
    connection.prepare_cached("DELETE FROM delivery WHERE id = ?1")?.execute([id.to_bytes()])?;
    Ok(())
}

/// A message with its groups; key and snapshot are read when they are needed.
pub(super) fn load(connection: &Connection, id: MessageId) -> Result<Option<Message>, IndexError> {
    let mut statement = connection.prepare_cached(
        "SELECT lane, segment, offset, slot, length, size, spill, facts, next_group, events, segments
         FROM message WHERE id = ?1",
    )?;
    let found = statement
        .query_row([id.to_bytes()], |row| {
            let place = Place { segment: row.get(1)?, offset: row.get(2)?, slot: row.get(3)?, length: row.get(4)? };
            let lists: (String, String) = (row.get(9)?, row.get(10)?);
            let facts = row.get::<_, i64>(7)?.unsigned_abs();
            let message = Message {
                place,
                lane: row.get(0)?,
                key: None,
                snapshot: None,
                groups: Vec::new(),
                next_group: row.get(8)?,
                facts,
                next_fact: facts,
                pending: 0,
                size: row.get::<_, i64>(5)?.unsigned_abs(),
                spill: row.get(6)?,
                events: Vec::new(),
                segments: Vec::new(),
                stored: true,
                dirty: false,
                flushing: false,
                kept: 0,
                finished: false,
            };
            Ok((message, lists))
        })
        .optional()?;
    let Some((mut message, (events, segments))) = found else { return Ok(None) };
    message.events = parsed::<Vec<Event>>(&events, "events")?;
    message.segments = parsed(&segments, "segments")?;
    message.groups = groups(connection, id)?.into_iter().map(|group| GroupEntry { group, busy: false }).collect();
    Ok(Some(message))
}

fn groups(connection: &Connection, id: MessageId) -> Result<Vec<Group>, IndexError> {
    let mut statement = connection.prepare_cached(
        "SELECT number, destination, recipients, attempts, due, held_by, held_why, last
         FROM delivery WHERE id = ?1 ORDER BY number",
    )?;
    let mut rows = statement.query([id.to_bytes()])?;
    let mut groups = Vec::new();
    while let Some(row) = rows.next()? {
        groups.push(group(row, 0)?);
    }
    Ok(groups)
}

/// The group in the columns from `at` on.
fn group(row: &rusqlite::Row<'_>, at: usize) -> Result<Group, IndexError> {
    let held = match (row.get::<_, Option<String>>(at + 5)?, row.get::<_, Option<String>>(at + 6)?) {
        (Some(by), why) => Some(Held { by: parsed(&by, "held_by")?, why: why.unwrap_or_default() }),
        (None, _) => None,
    };
    Ok(Group {
        number: row.get(at)?,
        destination: parsed(&row.get::<_, String>(at + 1)?, "destination")?,
        recipients: parsed(&row.get::<_, String>(at + 2)?, "recipients")?,
        attempts: row.get(at + 3)?,
        due: time(row.get(at + 4)?)?,
        held,
        last: row.get(at + 7)?,
    })
}

/// Rows for an operator, oldest message first. The index was flushed just before; who is at work on what stands in the
/// queue only.
pub(super) fn list(
    connection: &Connection,
    delivering: &HashSet<(MessageId, u32)>,
    filter: &Filter,
    limit: usize,
) -> Result<Vec<Row>, IndexError> {
    let mut statement = connection.prepare_cached(
        "SELECT d.number, d.destination, d.recipients, d.attempts, d.due, d.held_by, d.held_why, d.last,
                m.id, m.sender, m.recipients, m.size, m.accepted
         FROM message m JOIN delivery d ON d.id = m.id
         WHERE (?1 IS NULL OR d.destination = ?1) AND (?2 IS NULL OR m.id = ?2)
         ORDER BY m.id, d.number",
    )?;
    let destination = filter.destination.as_ref().map(text).transpose()?;
    let mut rows = statement.query(params![destination, filter.message.map(MessageId::to_bytes)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        if found.len() >= limit {
            break;
        }
        let id = MessageId::from_bytes(row.get(8)?);
        let group = group(row, 0)?;
        let now = match (delivering.contains(&(id, group.number)), &group.held) {
            (true, _) => RowState::Delivering,
            (false, Some(_)) => RowState::Held,
            (false, None) => RowState::Waiting,
        };
        if filter.state.is_some_and(|wanted| wanted != now) {
            continue;
        }
        let all: Vec<Address> = parsed(&row.get::<_, String>(10)?, "recipients")?;
        found.push(Row {
            id,
            state: now,
            sender: parsed(&row.get::<_, String>(9)?, "sender")?,
            recipients: group.recipients.iter().filter_map(|index| all.get(usize::from(*index)).cloned()).collect(),
            group,
            size: count(row.get(11)?)?,
            accepted: time(row.get(12)?)?,
        });
    }
    Ok(found)
}

pub(super) fn text<T: Serialize>(value: &T) -> Result<String, IndexError> {
    serde_json::to_string(value).map_err(|_| IndexError::Shape("value"))
}

pub(super) fn parsed<T: DeserializeOwned>(text: &str, column: &'static str) -> Result<T, IndexError> {
    serde_json::from_str(text).map_err(|_| IndexError::Shape(column))
}

pub(super) fn time(micros: i64) -> Result<Timestamp, IndexError> {
    Timestamp::from_microsecond(micros).map_err(|_| IndexError::Shape("time"))
}

/// SQLite's integers are signed; no size or count comes near the sign.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn count(value: i64) -> Result<u64, IndexError> {
    u64::try_from(value).map_err(|_| IndexError::Shape("count"))
}
