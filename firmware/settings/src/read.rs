//! Reading typed values out of a TOML tree.
//!
//! Job: give each value with its place, and find keys that nobody asked for. Place: under the sections. Invariants: a
//! wrong value is reported once and reading goes on; a key that no section asked for is an error. A crash leaves
//! nothing behind.

use crate::{
    model::Roots,
    problem::{Halves, Place, Problems, nearest},
};
use std::{ops::RangeInclusive, path::PathBuf, str::FromStr};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// How a certificate in PEM begins (RFC 7468 §5).
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// A table of the text, of which keys are asked for one by one.
pub(crate) struct Section<'t> {
    place: Place,
    /// `None` where the table is absent or is no table: then nothing is in it.
    table: Option<&'t DeTable<'t>>,
    asked: Vec<&'static str>,
}

/// A value of the text.
#[derive(Clone)]
pub(crate) struct Item<'t> {
    pub place: Place,
    value: &'t DeValue<'t>,
}

impl<'t> Section<'t> {
    pub fn root(tree: &'t Spanned<DeTable<'t>>) -> Self {
        Self { place: Place { path: String::new(), span: 0..0 }, table: Some(tree.get_ref()), asked: Vec::new() }
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The value of `key`, which is thereby known.
    pub fn item(&mut self, key: &'static str) -> Option<Item<'t>> {
        self.asked.push(key);
        let value = self.table?.get(key)?;
        let path = if self.place.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place.path) };
        Some(Item { place: Place { path, span: value.span() }, value: value.get_ref() })
    }

    /// The value of `key`; an error where it is absent. `example` is what to write.
    pub fn required(&mut self, key: &'static str, problems: &mut Problems<'_>, example: &str) -> Option<Item<'t>> {
        let item = self.item(key);
        if item.is_none() && self.table.is_some() {
            let section = Some(&self.place.path).filter(|path| !path.is_empty() && !path.contains('['));
            let within = section.map(|path| format!(" in [{path}]")).unwrap_or_default();
            problems.add(&self.place, format!("{key} is missing"), format!("write {example}{within}"));
        }
        item
    }

    /// The table `key`; an empty one where it is absent.
    pub fn section(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Section<'t> {
        match self.item(key) {
            Some(item) => item.section(problems),
            None => {
                let path =
                    if self.place.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place.path) };
                Section { place: Place { path, span: self.place.span.clone() }, table: None, asked: Vec::new() }
            }
        }
    }

    /// A whole number within `range`, or `default`.
    pub fn integer(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        default: u64,
        why: &str,
        problems: &mut Problems<'_>,
    ) -> u64 {
        self.item(key).and_then(|item| item.integer(range, why, problems)).unwrap_or(default)
    }

    /// An absolute path of a file.
    /// Certificates of others: a file, or the text itself.
    pub fn roots(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Option<Roots> {
        self.item(key).and_then(|item| item.roots(problems))
    }

    /// Reports every key that was not asked for.
    pub fn finish(self, problems: &mut Problems<'_>) {
        for (key, value) in self.table.into_iter().flatten() {
            let name: &str = key.get_ref();
            if self.asked.contains(&name) {
                continue;
            }
            let shown: String = name.chars().take(60).flat_map(char::escape_debug).collect();
            let path = if self.place.path.is_empty() { shown.clone() } else { format!("{}.{shown}", self.place.path) };
            let remedy = match nearest(name, self.asked.iter().copied()) {
                Some(near) => format!("write {near}, if that is meant"),
                None => format!("remove it; known here: {}", self.asked.join(", ")),
            };
            let start = if key.span().is_empty() { value.span() } else { key.span() };
            problems.add(&Place { path, span: start }, format!("there is no setting {shown}"), remedy);
        }
    }
}

impl<'t> Item<'t> {
    fn wrong_type(&self, wanted: &str, problems: &mut Problems<'_>) {
        problems.add(&self.place, format!("this is {}", article(self.value.type_str())), format!("write {wanted}"));
    }

    pub fn section(self, problems: &mut Problems<'_>) -> Section<'t> {
        let table = self.value.as_table();
        if table.is_none() {
            self.wrong_type(&format!("a table, [{}] and its keys below it", self.place.path), problems);
        }
        Section { place: self.place, table, asked: Vec::new() }
    }

    pub fn string(&self, problems: &mut Problems<'_>) -> Option<&'t str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.wrong_type("a text in quotes", problems);
        }
        text
    }

    pub fn boolean(&self, problems: &mut Problems<'_>) -> Option<bool> {
        let value = self.value.as_bool();
        if value.is_none() {
            self.wrong_type("true or false, without quotes", problems);
        }
        value
    }

    pub fn integer(&self, range: RangeInclusive<u64>, why: &str, problems: &mut Problems<'_>) -> Option<u64> {
        let (low, high) = (range.start(), range.end());
        let Some(number) = self.value.as_integer() else {
            self.wrong_type(&format!("a whole number from {low} to {high}, without quotes"), problems);
            return None;
        };
        let value = u64::from_str_radix(number.as_str(), number.radix()).ok().filter(|n| range.contains(n));
        if value.is_none() {
            let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
            problems.add(&self.place, format!("{number} is out of range"), format!("write {low} to {high}{why}"));
        }
        value
    }

    /// A number with or without a fraction.
    pub fn number(&self, range: RangeInclusive<f64>, problems: &mut Problems<'_>) -> Option<f64> {
        let (low, high) = (range.start(), range.end());
        let text = match self.value {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
            DeValue::Float(number) => number.as_str(),
            _ => {
                self.wrong_type(&format!("a number from {low} to {high}, without quotes"), problems);
                return None;
            }
        };
        let value = text.parse::<f64>().ok().filter(|n| range.contains(n));
        if value.is_none() {
            problems.add(&self.place, format!("{text} is out of range"), format!("write {low} to {high}"));
        }
        value
    }

    /// The entries of a list; a single value that is no list counts as its only entry. An empty list is an error: it
    /// would read like "none" and mean "not given".
    pub fn entries(&self, problems: &mut Problems<'_>) -> Vec<Item<'t>> {
        let Some(array) = self.value.as_array() else { return vec![self.clone()] };
        if array.is_empty() {
            problems.add(
                &self.place,
                "the list is empty",
                "list at least one entry, or remove the key if it is optional",
            );
        }
        let entry = |(i, value): (usize, &'t Spanned<DeValue<'t>>)| Item {
            place: Place { path: format!("{}[{i}]", self.place.path), span: value.span() },
            value: value.get_ref(),
        };
        array.iter().enumerate().map(entry).collect()
    }

    /// As [`Item::entries`], each a text that `check` turns into a value.
    pub fn texts<T>(
        &self,
        problems: &mut Problems<'_>,
        mut check: impl FnMut(&str) -> Result<T, Halves>,
    ) -> Vec<(Place, T)> {
        let mut values = Vec::new();
        for entry in self.entries(problems) {
            if let Some(text) = entry.string(problems)
                && let Some(value) = problems.keep(&entry.place, check(text))
            {
                values.push((entry.place, value));
            }
        }
        values
    }

    /// A text that `check` turns into a value.
    pub fn text<T>(&self, problems: &mut Problems<'_>, check: impl FnOnce(&str) -> Result<T, Halves>) -> Option<T> {
        let text = self.string(problems)?;
        problems.keep(&self.place, check(text))
    }

    /// One of these words.
    pub fn choice<T: Copy>(&self, words: &[(&'static str, T)], problems: &mut Problems<'_>) -> Option<T> {
        let text = self.string(problems)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            problems.add(
                &self.place,
                format!("{} is not known here", crate::check::quoted(text)),
                match nearest(text, known.iter().copied()) {
                    Some(near) => format!("write \"{near}\", if that is meant; possible: {}", known.join(", ")),
                    None => format!("write one of: {}", known.join(", ")),
                },
            );
        }
        found
    }

    fn roots(&self, problems: &mut Problems<'_>) -> Option<Roots> {
        let text = self.value.as_str().unwrap_or_default();
        if text.trim_start().starts_with(CERTIFICATE) {
            return self.text(problems, |text| {
                if text.trim_end().ends_with("-----END CERTIFICATE-----") {
                    Ok(Roots::Text(text.trim().to_owned() + "\n"))
                } else {
                    Err((
                        "the certificate is cut off".into(),
                        "paste it up to and with -----END CERTIFICATE-----".into(),
                    ))
                }
            });
        }
        self.file(problems).map(Roots::File)
    }

    pub fn file(&self, problems: &mut Problems<'_>) -> Option<PathBuf> {
        self.text(problems, |text| {
            let path = PathBuf::from_str(text).unwrap_or_default();
            if path.is_absolute() && !text.chars().any(char::is_control) {
                Ok(path)
            } else {
                Err((
                    format!("{} is not an absolute path", crate::check::quoted(text)),
                    "write the path from / on".into(),
                ))
            }
        })
    }
}

fn article(kind: &str) -> String {
    if kind.starts_with(['a', 'i']) { format!("an {kind}") } else { format!("a {kind}") }
}
