//! Where hits are gathered.
//!
//! Job: mask, hash and keep hits within bounds. Place: end of all detectors. Invariants: memory is bounded whatever the
//! text holds, and a flood of one kind or one score can't push out another; a value that is repeated a thousand times
//! leaves room for those that are not. A crash leaves nothing.

use super::{Hit, Kind, Trust, UNTRUSTED, mask, mask_all};
use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
};

/// Hits of one detector and one tenth of the score, from which on only new values are kept.
const REPEATS: usize = 1_000;
/// Hits of one detector and one tenth of the score that are kept at all. No rule's threshold is near it.
const MAX_HITS: usize = 20_000;

/// Hits of one text.
pub(super) struct Sink<'a> {
    text: &'a str,
    base: usize,
    trust: Trust,
    hits: &'a mut Vec<Hit>,
    first: usize,
    counts: HashMap<(u16, u8), usize>,
    seen: HashSet<(u16, u8, u64)>,
    /// Matches of patterns by place, so that the text and its folded form do not count twice.
    places: HashSet<(u16, usize, usize)>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(text: &'a str, base: usize, trust: Trust, hits: &'a mut Vec<Hit>) -> Self {
        let first = hits.len();
        Self { text, base, trust, hits, first, counts: HashMap::new(), seen: HashSet::new(), places: HashSet::new() }
    }

    /// A hit of a built-in detector at `start..end` of the original text; `value` is what makes it distinct.
    pub(super) fn built_in(
        &mut self,
        kind: Kind,
        start: usize,
        end: usize,
        score: f32,
        spoken_for: bool,
        value: &[u8],
    ) {
        let score = match self.trust {
            Trust::ContextOnly if !spoken_for => score.min(UNTRUSTED),
            _ => score,
        };
        self.keep(kind as u16, start, end, score, value);
    }

    /// A match of the pattern number `detector`.
    pub(super) fn pattern(&mut self, detector: u16, start: usize, end: usize, score: f32) {
        if self.places.len() < MAX_HITS && !self.places.insert((detector, start, end)) {
            return;
        }
        let value = self.text.get(start..end).unwrap_or_default().to_lowercase();
        self.keep(detector, start, end, score, value.as_bytes());
    }

    /// Whether a hit of another kind already covers `start..end`.
    pub(super) fn covered(&self, start: usize, end: usize, by: &[Kind]) -> bool {
        let (start, end) = ((self.base + start) as u64, (self.base + end) as u64);
        self.hits
            .iter()
            .skip(self.first)
            .rev()
            .take(8)
            .any(|h| h.offset <= start && end <= h.offset + h.length && by.iter().any(|&k| k as u16 == h.detector))
    }

    fn keep(&mut self, detector: u16, start: usize, end: usize, score: f32, value: &[u8]) {
        let Some(slice) = self.text.get(start..end) else { return };
        let score = score.clamp(0.0, 1.0);
        let mut hasher = DefaultHasher::new();
        (detector, value).hash(&mut hasher);
        let distinct = hasher.finish();
        let tenth = (score * 10.0) as u8;
        let count = self.counts.entry((detector, tenth)).or_default();
        if *count >= MAX_HITS {
            return;
        }
        let new = self.seen.insert((detector, tenth, distinct));
        if *count >= REPEATS && !new {
            return;
        }
        *count += 1;
        let secret = detector == Kind::Credentials as u16;
        self.hits.push(Hit {
            detector,
            offset: (self.base + start) as u64,
            length: (end - start) as u64,
            // Two digits are all that a score says.
            score: (score * 100.0).round() / 100.0,
            sample: if secret { mask_all(slice) } else { mask(slice) },
            distinct,
        });
    }
}
