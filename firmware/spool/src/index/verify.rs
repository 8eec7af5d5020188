//! Holding the index against the segments.
//!
//! Job: name every row of `queue.db` that was changed behind our back. Place: `postern audit verify`. Invariants: what is
//! compared is one moment's index against a second index made from the segments up to that moment; messages that finish
//! meanwhile are no difference. A crash leaves an encrypted file beside the index, removed by the next verification.

use super::Index;
use crate::{
    ChangedRow, IndexError, RowChange,
    queue::Queue,
    replay::{Replay, Span},
    shared::Shared,
    slot::Slot,
    view::Damage,
};
use mail::MessageId;
use rusqlite::{Rows, types::Value};
use std::{collections::HashSet, path::PathBuf, sync::PoisonError};

/// Compares `present`, which sees one moment of the index, with the segments.
pub(crate) fn verify(shared: &Shared, present: &Index) -> Result<Vec<ChangedRow>, IndexError> {
    // Segments stay in place while they are read.
    let _kept = shared.removal.read().unwrap_or_else(PoisonError::into_inner);
    let path = comparison_path(shared);
    super::remove(&path);
    let result = compare(shared, present, &path);
    super::remove(&path);
    result
}

fn comparison_path(shared: &Shared) -> PathBuf {
    let mut name = shared.config.index.as_os_str().to_owned();
    name.push(".verify");
    name.into()
}

fn compare(shared: &Shared, present: &Index, path: &std::path::Path) -> Result<Vec<ChangedRow>, IndexError> {
    let mut expected = Index::create(path, &shared.index_key)?;
    let queue = Queue::new(shared.config.window);
    let segments = shared.all_segments();
    let span = Span { from: Default::default(), until: Some(present.watermarks()?) };
    let replayed =
        Replay { epochs: &shared.epochs, segments: &segments, queue: &queue, index: &mut expected }.run(&span)?;
    let damaged: HashSet<MessageId> = replayed
        .damaged
        .iter()
        .map(|(found, ..)| found)
        // The rows of a segment that can't be read have nothing to be held against.
        .chain(&shared.in_place)
        .filter(|found| found.damage != Damage::FactLost)
        .filter_map(|found| found.message)
        .collect();
    let mut changed = Vec::new();
    for (sql, by_group) in [
        ("SELECT id, 0 AS number, * FROM message ORDER BY 1", false),
        ("SELECT id, number, * FROM delivery ORDER BY 1, 2", true),
    ] {
        merge(present, &expected, sql, by_group, &mut changed)?;
    }
    let mut named = Vec::new();
    for row in changed {
        if !damaged.contains(&row.id) && !finished_meanwhile(shared, present, &row)? {
            named.push(row);
        }
    }
    Ok(named)
}

/// Whether the row is of a message that has been shredded since the moment that is compared.
fn finished_meanwhile(shared: &Shared, present: &Index, row: &ChangedRow) -> Result<bool, IndexError> {
    if row.what != RowChange::Invented {
        return Ok(false);
    }
    let Some(message) = present.load(row.id)? else { return Ok(false) };
    let Some(segment) = shared.segment(message.place.segment) else { return Ok(false) };
    let shredded = matches!(segment.read_slot(message.place.slot)?, Slot::Shredded);
    Ok(shredded && crate::snapshot::names(&segment, message.place, row.id))
}

/// One row: its place in the order, and its columns.
struct Line {
    id: [u8; 16],
    number: u32,
    columns: Vec<Value>,
}

fn next(rows: &mut Rows<'_>, count: usize) -> Result<Option<Line>, IndexError> {
    let Some(row) = rows.next()? else { return Ok(None) };
    let columns = (2..count).map(|column| row.get(column)).collect::<Result<_, _>>()?;
    Ok(Some(Line { id: row.get(0)?, number: row.get(1)?, columns }))
}

fn merge(
    present: &Index,
    expected: &Index,
    sql: &str,
    by_group: bool,
    changed: &mut Vec<ChangedRow>,
) -> Result<(), IndexError> {
    let mut left = present.connection.prepare(sql)?;
    let mut right = expected.connection.prepare(sql)?;
    let names: Vec<String> = left.column_names().into_iter().map(str::to_owned).collect();
    let (mut left, mut right) = (left.query([])?, right.query([])?);
    let (mut is, mut should) = (next(&mut left, names.len())?, next(&mut right, names.len())?);
    loop {
        let order = match (&is, &should) {
            (None, None) => return Ok(()),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(is), Some(should)) => (is.id, is.number).cmp(&(should.id, should.number)),
        };
        let (line, what) = match order {
            std::cmp::Ordering::Less => (is.take(), Some(RowChange::Invented)),
            std::cmp::Ordering::Greater => (should.take(), Some(RowChange::Missing)),
            std::cmp::Ordering::Equal => {
                let differing = differing(&names, is.as_ref(), should.as_ref());
                should = None;
                (is.take(), (!differing.is_empty()).then_some(RowChange::Columns(differing)))
            }
        };
        if let (Some(line), Some(what)) = (line, what) {
            let id = MessageId::from_bytes(line.id);
            changed.push(ChangedRow { id, group: by_group.then_some(line.number), what });
        }
        if order.is_le() {
            is = next(&mut left, names.len())?;
        }
        if order.is_ge() {
            should = next(&mut right, names.len())?;
        }
    }
}

fn differing(names: &[String], is: Option<&Line>, should: Option<&Line>) -> Vec<String> {
    let (Some(is), Some(should)) = (is, should) else { return Vec::new() };
    let names = names.iter().skip(2);
    let pairs = is.columns.iter().zip(&should.columns);
    let held_by_damage = Value::Text("\"Damage\"".into());
    let damaged = is.columns.contains(&held_by_damage);
    names
        .zip(pairs)
        // A hold because of damage is found while reading and not logged; it delays and reveals nothing.
        .filter(|(name, (is, should))| is != should && !(damaged && name.starts_with("held_")))
        .map(|(name, _)| name.clone())
        .collect()
}
