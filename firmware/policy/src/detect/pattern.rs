//! Detectors of the organisation's own.
//!
//! Job: compile and run the patterns of the settings (features P4). Place: after the built-in detectors, over the text
//! as it stands and, where folding changed it, over the folded text too. Invariants: linear time in each search, compiled
//! size bounded, and a bound on the time of all searches in one text; a pattern that would find nothing everywhere is
//! refused. A crash leaves nothing.

use super::context::is_word;
use aho_corasick::AhoCorasick;
use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use std::{
    ops::Range,
    time::{Duration, Instant},
};

/// Bytes of its lazily built automaton.
const MAX_CACHE: usize = 2 << 20;
/// Bytes of a pattern's text.
const MAX_LENGTH: usize = 8 * 1024;
/// Time of one pattern in one MiB of text. A search is linear, but a pattern can be made to search the rest of the text
/// for each match.
const TIME_PER_MIB: Duration = Duration::from_secs(1);
/// Bytes around a match in which context words count.
const NEAR: usize = 120;
/// What share of the distance to 1 a context word closes.
const RAISE: f32 = 0.5;

/// A pattern as the settings give it; goes to workers with each job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PatternSource {
    /// As in `settings::Pattern`.
    pub name: String,
    /// As in `settings::Pattern`.
    pub regex: String,
    /// As in `settings::Pattern`.
    pub context: Vec<String>,
    /// As in `settings::Pattern`.
    pub score: f32,
}

impl From<&settings::Pattern> for PatternSource {
    fn from(p: &settings::Pattern) -> Self {
        Self { name: p.name.clone(), regex: p.regex.clone(), context: p.context.clone(), score: p.score }
    }
}

/// Why a pattern can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Not a regular expression of the `regex` crate.
    #[error(
        "pattern {name}: {reason}; write it in the syntax of https://docs.rs/regex, which has no look-around and no back-references"
    )]
    Syntax {
        /// The pattern.
        name: String,
        /// The parser's words, on one line.
        reason: String,
    },
    /// Over the size limits.
    #[error("pattern {0} is too large when compiled; shorten its counted repetitions or split it")]
    TooLarge(String),
    /// It matches the empty text.
    #[error("pattern {0} matches the empty text, so it would match everywhere; demand at least one character")]
    MatchesEmpty(String),
    /// Its context words can't be searched.
    #[error("pattern {0} has too many context words; shorten the list")]
    Context(String),
    /// The built-in detectors did not come up.
    #[error("the built-in detectors could not be set up ({0}); this is a defect, please report it")]
    BuiltIn(String),
}

/// A compiled pattern.
#[derive(Debug)]
pub(super) struct UserPattern {
    regex: Regex,
    context: Option<AhoCorasick>,
    score: f32,
}

impl UserPattern {
    pub(super) fn compile(source: &PatternSource) -> Result<Self, PatternError> {
        let name = || source.name.clone();
        if source.regex.len() > MAX_LENGTH {
            return Err(PatternError::TooLarge(name()));
        }
        let regex = RegexBuilder::new(&source.regex)
            .size_limit(settings::PATTERN_SIZE_LIMIT)
            .dfa_size_limit(MAX_CACHE)
            .nest_limit(settings::PATTERN_NEST_LIMIT)
            .build()
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => PatternError::TooLarge(name()),
                other => {
                    let reason = other.to_string();
                    let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                    PatternError::Syntax { name: name(), reason }
                }
            })?;
        if regex.is_match("") {
            return Err(PatternError::MatchesEmpty(name()));
        }
        let words: Vec<&str> = source.context.iter().map(|w| w.trim()).filter(|w| !w.is_empty()).collect();
        let context = (!words.is_empty())
            .then(|| AhoCorasick::builder().ascii_case_insensitive(true).build(words))
            .transpose()
            .map_err(|_| PatternError::Context(name()))?;
        Ok(Self { regex, context, score: source.score.clamp(0.0, 1.0) })
    }

    /// Calls `found` with each match and its score; false where the time was not enough for the whole text.
    pub(super) fn scan(&self, text: &str, deadline: Instant, mut found: impl FnMut(Range<usize>, f32)) -> bool {
        let mib = u32::try_from(text.len() >> 20).unwrap_or(u32::MAX).saturating_add(1);
        let until = Instant::now().checked_add(TIME_PER_MIB.saturating_mul(mib)).map_or(deadline, |t| t.min(deadline));
        for (n, m) in self.regex.find_iter(text).enumerate() {
            if n % 16 == 15 && Instant::now() >= until {
                return false;
            }
            if !m.is_empty() {
                found(m.range(), self.score_of(text.as_bytes(), m.range()));
            }
        }
        Instant::now() < deadline
    }

    fn score_of(&self, bytes: &[u8], range: Range<usize>) -> f32 {
        let near = |window: Option<&[u8]>| {
            let window = window.unwrap_or_default();
            self.context
                .as_ref()
                .is_some_and(|words| words.find_overlapping_iter(window).any(|m| is_word(window, m.start(), m.end())))
        };
        let before = bytes.get(range.start.saturating_sub(NEAR)..range.start);
        let behind = bytes.get(range.end..range.end.saturating_add(NEAR).min(bytes.len()));
        if near(before) || near(behind) { self.score + (1.0 - self.score) * RAISE } else { self.score }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(regex: &str) -> PatternSource {
        PatternSource { name: "staff_id".into(), regex: regex.into(), context: vec!["Staff".into()], score: 0.4 }
    }

    fn scan(regex: &str, text: &str) -> Vec<(Range<usize>, u8)> {
        let mut out = Vec::new();
        let pattern = UserPattern::compile(&source(regex)).unwrap();
        let in_tenths = |score: f32| (score * 10.0).round() as u8;
        assert!(pattern.scan(text, Instant::now() + Duration::from_secs(60), |r, s| out.push((r, in_tenths(s)))));
        out
    }

    #[test]
    fn context_raises_the_score() {
        assert_eq!(scan(r"EMP-\d{4}", "EMP-1234"), [(0..8, 4)]);
        assert_eq!(scan(r"EMP-\d{4}", "staff EMP-1234"), [(6..14, 7)]);
        assert_eq!(scan(r"EMP-\d{4}", "flagstaff EMP-1234"), [(10..18, 4)]);
    }

    #[test]
    fn what_is_not_linear_or_not_bounded_is_refused() {
        for (regex, says) in [
            (r"(a)\1", "back"),
            (r"(?=a)b", "look-around"),
            ("(", "pattern staff_id"),
            (r"[\w]{1000}{1000}", "too large"),
            ("a*", "everywhere"),
            (&"(".repeat(100), "pattern staff_id"),
            (&"a".repeat(10_000), "too large"),
        ] {
            let error = UserPattern::compile(&source(regex)).unwrap_err().to_string();
            assert!(error.contains(says), "{regex:.20}: {error}");
            assert!(error.contains(';'), "two halves: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_pattern_that_stalls_backtracking_engines_is_quick() {
        let started = Instant::now();
        assert!(scan(r"(a+)+$", &format!("{}b", "a".repeat(100_000))).is_empty());
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_pattern_made_to_search_the_rest_again_and_again_is_cut_off() {
        let pattern = UserPattern::compile(&source(r"a.*[^a]z|a")).unwrap();
        let text = "a".repeat(1 << 20);
        let started = Instant::now();
        assert!(!pattern.scan(&text, Instant::now() + Duration::from_secs(60), |_, _| {}));
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}
