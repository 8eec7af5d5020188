//! What is confidential in a text.
//!
//! Job: find numbers, keys and passwords that identify people or open doors, and what the organisation's own patterns
//! describe. Place: run on the text of each part that [`crate::extract`] makes. Invariants: one pass over the text finds
//! all candidates (digit runs eight bytes a step, rare literals by vector search), in blocks that stay in the nearest
//! cache; there is no pass per detector, and context is read around what passed only. A hit's offset and length are
//! character borders of the text that was handed in. No input panics. A crash leaves nothing behind.
//!
//! ```text
//! text ─▶ fold (what is not ASCII) ─┬▶ digit runs ─▶ chains ─▶ numbers: shape, checksum ─┬▶ context ─▶ Hit
//!                                   │              └▶ letters before: IBAN               │
//!                                   ├▶ rare literals: keys, tokens, passwords ───────────┤
//!                                   └▶ the organisation's patterns ──────────────────────┘
//! ```
//!
//! Scores: the way a match is written gives the base (a card number in groups of four 0.8, nine bare digits 0.2); a label
//! near it closes 5/8 of the distance to 1, a word that merely fits 1/5. Words never lower a score. What a reader calls by
//! another name (`order no. 123456789`) is not raised by words that stand farther away.

mod candidates;
mod chain;
mod checksum;
mod context;
mod credentials;
mod fold;
mod iban;
mod mask;
mod medical;
mod numbers;
mod pattern;
mod runs;
mod sink;
mod table;

pub use mask::{mask, mask_all};
pub use pattern::{PatternError, PatternSource};

use candidates::Literals;
use context::Words;
use fold::Folded;
use medical::Medicine;
use pattern::UserPattern;
use serde::{Deserialize, Serialize};
use sink::Sink;
use std::time::Instant;

/// The built-in detectors, in the order of `settings::DETECTORS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Kind {
    /// `us_ssn`
    UsSsn,
    /// `credit_card`
    CreditCard,
    /// `iban`
    Iban,
    /// `us_aba`
    UsAba,
    /// `uk_nhs`
    UkNhs,
    /// `us_npi`
    UsNpi,
    /// `medical`
    Medical,
    /// `credentials`
    Credentials,
}

/// A match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hit {
    /// Index into [`Detectors::names`].
    pub detector: u16,
    /// Byte offset in the text.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// 0–1.
    pub score: f32,
    /// Masked.
    pub sample: String,
    /// The same for the same value, however it is written: what `at_least` counts. Good within one build of the program;
    /// never to be stored, since a short number can be found back from it.
    pub distinct: u64,
}

/// How far a text is to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// A reader sees it like this.
    Full,
    /// Put together from pieces: a hit counts where words near it say so, or where chance is ruled out.
    ContextOnly,
}

/// Where hits of a text that was put together stay without context.
const UNTRUSTED: f32 = 0.4;

/// All detectors, ready to run; shared between threads.
#[derive(Debug)]
pub struct Detectors {
    names: Vec<String>,
    literals: Literals,
    words: Words,
    medicine: Medicine,
    patterns: Vec<UserPattern>,
}

impl Detectors {
    /// The built-in detectors and the organisation's own.
    ///
    /// # Errors
    /// Every pattern that can't be used, with the reason.
    pub fn new(patterns: &[PatternSource]) -> Result<Self, Vec<PatternError>> {
        let built_in = |e: &dyn std::fmt::Display| vec![PatternError::BuiltIn(e.to_string())];
        let mut names: Vec<String> = settings::DETECTORS.iter().map(|&name| name.to_owned()).collect();
        let mut compiled = Vec::new();
        let mut errors = Vec::new();
        for source in patterns {
            match UserPattern::compile(source) {
                Ok(pattern) => compiled.push(pattern),
                Err(error) => errors.push(error),
            }
            names.push(source.name.clone());
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            names,
            literals: Literals::new().map_err(|e| built_in(&e))?,
            words: Words::new().map_err(|e| built_in(&e))?,
            medicine: Medicine::new().map_err(|e| built_in(&e))?,
            patterns: compiled,
        })
    }

    /// Names of the detectors, as rules and findings use them.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// All hits in `text`, in the order of the text by detector.
    #[must_use]
    pub fn scan(&self, text: &str) -> Vec<Hit> {
        let mut hits = Vec::new();
        let long = std::time::Duration::from_secs(24 * 3600);
        self.scan_into(text, 0, Trust::Full, Instant::now() + long, &mut hits);
        hits
    }

    /// Adds all hits in `text` to `hits`, `base` added to their offsets. False where the time was not enough; what was
    /// found until then is there.
    pub fn scan_into(&self, text: &str, base: usize, trust: Trust, deadline: Instant, hits: &mut Vec<Hit>) -> bool {
        let folded = Folded::new(text);
        let mut sink = Sink::new(text, base, trust, hits);
        let complete = candidates::scan(self, &folded, deadline, &mut sink);
        let mut in_time = true;
        for (index, pattern) in (settings::DETECTORS.len() as u16..).zip(&self.patterns) {
            in_time &= pattern.scan(text, deadline, |range, score| {
                sink.pattern(index, range.start, range.end, score);
            });
            if folded.changed() {
                in_time &= pattern.scan(&folded.text, deadline, |range, score| {
                    let (start, end) = folded.original(range.start, range.end);
                    sink.pattern(index, start, end, score);
                });
            }
        }
        complete && in_time
    }
}
