//! What differs between two settings.
//!
//! Job: name each change by the path that an operator would edit, so that it can be read before it is applied and in
//! the audit chain afterwards. Place: `settings apply`. Invariants: rules, patterns and internal domains are followed
//! by their names, so an inserted rule is one change and not a shift of all that follow; their order counts. A crash
//! leaves nothing behind.

use crate::Settings;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};
use toml::{Table, Value};

/// One difference. Values stand as in TOML.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `relay.smarthost`, or `policy.rule["Card numbers"].action`: named entries by their name.
    pub path: String,
    /// The value before; `None` where it is new.
    pub from: Option<String>,
    /// The value after; `None` where it is gone.
    pub to: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(f, "{}: {from} → {to}", self.path),
            (None, Some(to)) => write!(f, "{}: new: {to}", self.path),
            (Some(from), None) => write!(f, "{}: removed: {from}", self.path),
            (None, None) => f.write_str(&self.path),
        }
    }
}

/// The lists whose entries have names: path, and the key that names an entry.
const NAMED: [(&str, &str); 4] =
    [("operators", "name"), ("internal", "domain"), ("policy.pattern", "name"), ("policy.rule", "name")];

/// All that `b` has different from `a`, by path; empty where both mean the same.
#[must_use]
pub fn diff(a: &Settings, b: &Settings) -> Vec<Change> {
    let (a, b) = (Flat::of(a), Flat::of(b));
    let mut changes = Vec::new();
    for (path, from) in &a.values {
        let to = b.values.get(path);
        if to != Some(from) {
            changes.push(Change { path: path.clone(), from: Some(from.clone()), to: to.cloned() });
        }
    }
    for (path, to) in b.values.iter().filter(|(path, _)| !a.values.contains_key(*path)) {
        changes.push(Change { path: path.clone(), from: None, to: Some(to.clone()) });
    }
    for (path, before) in &a.order {
        let after = b.order.get(path).map(Vec::as_slice).unwrap_or_default();
        // What came or went shows above; here only whether those that stayed changed places.
        let stayed = |of: &[String], other: &[String]| -> Vec<String> {
            of.iter().filter(|name| other.contains(name)).cloned().collect()
        };
        let (from, to) = (stayed(before, after), stayed(after, before));
        if from != to {
            changes.push(Change { path: path.clone(), from: Some(from.join(", ")), to: Some(to.join(", ")) });
        }
    }
    changes.sort_by(|x, y| x.path.cmp(&y.path));
    changes.iter_mut().filter(|change| is_secret(&change.path)).for_each(Change::hide);
    changes
}

/// Operators' password hashes; that one changed is told, and nothing else of it.
fn is_secret(path: &str) -> bool {
    path.starts_with("operators[") && path.ends_with("].password")
}

impl Change {
    fn hide(&mut self) {
        for value in [&mut self.from, &mut self.to].into_iter().flatten() {
            *value = "(hidden)".to_owned();
        }
    }
}

/// Every value by its path, and the order of named entries. An entry that is new or gone as a whole shows in each of
/// its keys.
#[derive(Default)]
struct Flat {
    values: BTreeMap<String, String>,
    order: BTreeMap<String, Vec<String>>,
}

impl Flat {
    fn of(settings: &Settings) -> Self {
        let mut flat = Self::default();
        // What we render ourselves is TOML.
        let table: Table = toml::from_str(&settings.to_toml()).unwrap_or_default();
        flat.walk("", &table);
        flat
    }

    fn walk(&mut self, prefix: &str, table: &Table) {
        for (key, value) in table {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            let named = NAMED.iter().find(|(list, _)| *list == path).map(|(_, name)| *name);
            match (value, named) {
                (Value::Array(entries), Some(name)) => self.walk_named(&path, name, entries),
                (Value::Table(table), _) => self.walk(&path, table),
                _ => {
                    self.values.insert(path, value.to_string());
                }
            }
        }
    }

    fn walk_named(&mut self, path: &str, key: &str, entries: &[Value]) {
        let mut order = Vec::new();
        for table in entries.iter().filter_map(Value::as_table) {
            let name = table.get(key).map(ToString::to_string).unwrap_or_default();
            self.walk(&format!("{path}[{name}]"), table);
            order.push(name);
        }
        self.order.insert(path.to_owned(), order);
    }
}
