//! The recovery key at the console.
//!
//! Job: show the words once, then ask for some of them, and give the whole back as confirmation. Place: a page of the
//! wizard and a screen of its own. Invariants: the words are in memory from their showing to their confirmation only; a
//! break in between means typing all of them from the paper, or a new key. A crash leaves a key that was shown and not
//! confirmed, which the status says.

use super::{
    event::{Effect, Key},
    field::{Field, Halves, next},
};
use crate::{Fault, Refusal, Request, Response, Secret};
use zeroize::Zeroizing;

/// Words that are asked back.
pub const ASKED: usize = 6;

/// Where the showing stands.
#[derive(Clone, Debug)]
pub enum Recovery {
    /// Before the words are on the screen.
    Before,
    /// The words, to be written down.
    Shown(Secret),
    /// Some of them are asked back.
    Asked { words: Secret, positions: Vec<usize>, fields: Vec<Field>, at: usize },
    /// They were shown before, and nobody remembers: all of them are asked for.
    FromPaper(Field),
    /// Confirmed.
    Done,
}

impl Recovery {
    /// Takes a key.
    pub fn key(&mut self, key: Key, error: &mut Option<Halves>) -> Vec<Effect> {
        match self {
            Self::Before if key == Key::Enter => vec![Effect::Ask(Request::RecoveryShow)],
            Self::Shown(words) if key == Key::Enter => {
                let positions = positions(words.expose());
                let fields = positions.iter().map(|_| Field::text("", "")).collect();
                *self = Self::Asked { words: words.clone(), positions, fields, at: 0 };
                *error = None;
                Vec::new()
            }
            // Back to the words: whoever looks again has them right.
            Self::Asked { words, .. } if key == Key::PageUp => {
                *self = Self::Shown(words.clone());
                Vec::new()
            }
            Self::Asked { words, positions, fields, at } => {
                let last = *at + 1 == fields.len();
                if fields.get_mut(*at).is_some_and(|field| field.take(key)) {
                    *error = None;
                    return Vec::new();
                }
                match key {
                    Key::Enter if last => return check(words, positions, fields, error),
                    Key::Enter | Key::Tab | Key::Down | Key::Up | Key::BackTab => *at = next(*at, fields.len(), key),
                    _ => {}
                }
                Vec::new()
            }
            Self::FromPaper(field) => match key {
                Key::Enter if !field.value().is_empty() => {
                    let words = Secret::new(Zeroizing::new(field.value().to_owned()));
                    vec![Effect::Ask(Request::RecoveryConfirm { words })]
                }
                Key::New => vec![Effect::Ask(Request::RecoveryRenew)],
                key => {
                    if field.take(key) {
                        *error = None;
                    }
                    Vec::new()
                }
            },
            Self::Before | Self::Shown(_) | Self::Done => Vec::new(),
        }
    }

    /// Takes the daemon's answer to one of its requests; what to ask next.
    pub fn answer(&mut self, result: Result<Response, Refusal>, error: &mut Option<Halves>) -> Vec<Effect> {
        match result {
            Ok(Response::Recovery { words }) => *self = Self::Shown(words),
            Ok(Response::RecoveryConfirmed) => *self = Self::Done,
            Ok(Response::RecoveryRenewed) => return vec![Effect::Ask(Request::RecoveryShow)],
            Err(refusal) if refusal.fault == Fault::Refused && matches!(self, Self::Before) => {
                *self = Self::FromPaper(Field::text("All 24 words", "as they stand on the paper"));
            }
            Err(refusal) => *error = Some(refusal.into()),
            Ok(_) => {}
        }
        Vec::new()
    }
}

fn check(words: &Secret, positions: &[usize], fields: &mut [Field], error: &mut Option<Halves>) -> Vec<Effect> {
    let all: Vec<&str> = words.expose().split_whitespace().collect();
    let mut wrong = Vec::new();
    for (position, field) in positions.iter().zip(fields) {
        if all.get(*position).is_none_or(|word| !word.eq_ignore_ascii_case(field.value())) {
            wrong.push((position + 1).to_string());
        }
    }
    if wrong.is_empty() {
        return vec![Effect::Ask(Request::RecoveryConfirm { words: words.clone() })];
    }
    *error = Some(Halves::new(
        format!("not the words that were shown: number {}", wrong.join(", ")),
        "compare them with your paper; Page Up shows all words again",
    ));
    Vec::new()
}

/// Which words are asked back: not known before the words are, so that writing down six is not enough.
fn positions(words: &str) -> Vec<usize> {
    let count = words.split_whitespace().count();
    // FNV-1a of random words is random enough to choose by.
    let mut state = words
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut all: Vec<usize> = (0..count).collect();
    let mut chosen = Vec::new();
    while chosen.len() < ASKED.min(count) && !all.is_empty() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let index = usize::try_from(state >> 33).unwrap_or(0) % all.len();
        chosen.push(all.swap_remove(index));
    }
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &str = "abandon ability able about above absent absorb abstract absurd abuse access accident account \
                         accuse achieve acid acoustic acquire across act action actor actress actual";

    fn typed(recovery: &mut Recovery, word: &str, error: &mut Option<Halves>) -> Vec<Effect> {
        word.chars().for_each(|c| drop(recovery.key(Key::Char(c), error)));
        recovery.key(Key::Enter, error)
    }

    #[test]
    fn the_words_are_shown_asked_back_and_given_back_whole() {
        let (mut recovery, mut error) = (Recovery::Before, None);
        assert_eq!(recovery.key(Key::Enter, &mut error), [Effect::Ask(Request::RecoveryShow)]);
        let words = Secret::new(Zeroizing::new(WORDS.to_owned()));
        recovery.answer(Ok(Response::Recovery { words: words.clone() }), &mut error);
        recovery.key(Key::Enter, &mut error);
        let Recovery::Asked { positions, .. } = recovery.clone() else { panic!("{recovery:?}") };
        assert_eq!(positions.len(), ASKED);
        assert!(positions.windows(2).all(|pair| pair[0] < pair[1]), "{positions:?}");
        let all: Vec<&str> = WORDS.split_whitespace().collect();
        let mut asked = Vec::new();
        for position in &positions {
            asked = typed(&mut recovery, all[*position], &mut error);
        }
        assert_eq!(asked, [Effect::Ask(Request::RecoveryConfirm { words })]);
        recovery.answer(Ok(Response::RecoveryConfirmed), &mut error);
        assert!(matches!(recovery, Recovery::Done) && error.is_none());
    }

    #[test]
    fn a_wrong_word_is_named_by_its_number_and_what_is_typed_stays() {
        let mut error = None;
        let mut recovery = Recovery::Shown(Secret::new(Zeroizing::new(WORDS.to_owned())));
        recovery.key(Key::Enter, &mut error);
        for _ in 0..ASKED {
            assert!(typed(&mut recovery, "zebra", &mut error).is_empty());
        }
        assert!(error.as_ref().is_some_and(|error| error.what.contains("number")), "{error:?}");
        let Recovery::Asked { fields, .. } = &recovery else { panic!() };
        assert!(fields.iter().all(|field| field.value() == "zebra"));
    }

    #[test]
    fn words_that_were_shown_before_are_asked_for_whole_or_made_anew() {
        let (mut recovery, mut error) = (Recovery::Before, None);
        let shown = Refusal::new(Fault::Refused, "the recovery key was shown already", "confirm it");
        recovery.answer(Err(shown), &mut error);
        assert!(matches!(recovery, Recovery::FromPaper(_)));
        assert_eq!(recovery.key(Key::New, &mut error), [Effect::Ask(Request::RecoveryRenew)]);
        let next = recovery.answer(Ok(Response::RecoveryRenewed), &mut error);
        assert_eq!(next, [Effect::Ask(Request::RecoveryShow)]);
    }
}
