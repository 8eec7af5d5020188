//! What is wrong with a settings text.
//!
//! Job: collect every error with its place. Place: used while a text is read. Invariants: an error has two halves and
//! carries no secret. A crash leaves nothing behind.

use serde::{Deserialize, Serialize};
use std::{fmt, ops::Range};

/// One error in a settings text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The key, counted from 0 in lists: `policy.rule[2].when.detect[0].detector`; empty where the text is not TOML.
    pub path: String,
    /// Line in the text, from 1.
    pub line: Option<usize>,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}\n  → {}", self.what, self.remedy)
    }
}

/// Where a value stands: its path, and its bytes in the text.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub path: String,
    pub span: Range<usize>,
}

/// Both halves of an error before its place is known: what is wrong, what to write.
pub(crate) type Halves = (String, String);

/// Both halves from anything that is text.
pub(crate) fn halves(what: impl Into<String>, remedy: impl Into<String>) -> Halves {
    (what.into(), remedy.into())
}

/// The errors found so far.
pub(crate) struct Problems<'t> {
    text: &'t str,
    found: Vec<Problem>,
}

impl<'t> Problems<'t> {
    pub fn new(text: &'t str) -> Self {
        Self { text, found: Vec::new() }
    }

    pub fn add(&mut self, place: &Place, what: impl Into<String>, remedy: impl Into<String>) {
        let line = self.line_of(place.span.start);
        let path = place.path.clone();
        self.found.push(Problem { path, line: Some(line), what: what.into(), remedy: remedy.into() });
    }

    /// The value, or nothing and an error at `place`.
    pub fn keep<T>(&mut self, place: &Place, result: Result<T, Halves>) -> Option<T> {
        result.map_err(|(what, remedy)| self.add(place, what, remedy)).ok()
    }

    pub fn line_of(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().get(..offset).unwrap_or(self.text.as_bytes());
        before.iter().filter(|b| **b == b'\n').count() + 1
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// All errors, in the order of the text.
    pub fn into_sorted(mut self) -> Vec<Problem> {
        self.found.sort_by_key(|problem| problem.line);
        self.found
    }
}

/// Of `known`, the word that `word` most likely was meant to be: at most a third of its letters differ.
pub(crate) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let tolerated = |name: &str| (name.len().max(word.len()) / 3).max(1);
    known
        .into_iter()
        .map(|name| (distance(word, name), name))
        .filter(|(distance, name)| *distance <= tolerated(name))
        .min()
        .map(|(_, name)| name)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b` (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    /// Longer words are cut: they are no typing errors of our keys.
    const LONGEST: usize = 64;
    let a: Vec<char> = a.chars().take(LONGEST).collect();
    let b: Vec<char> = b.chars().take(LONGEST).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut cost = (above[j] + usize::from(x != y)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                cost = cost.min(before[j - 1] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_suggested_and_a_far_one_is_not() {
        let known = ["smarthost", "max_connections", "tls", "ca"];
        for (word, expected) in [
            ("smart_host", Some("smarthost")),
            ("smatrhost", Some("smarthost")),
            ("max_conections", Some("max_connections")),
            ("lts", Some("tls")),
            ("Tls", Some("tls")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }
}
