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

/// The word that a new key asks for where there is nobody yet who could sign in.
pub const NEW_WORD: &str = "NEW";
const NEW_WORD_HINT: &str = "(NEW)";

/// Where the showing stands. Where somebody has signed in, the name stands in what may lead to a new key.
#[derive(Clone, Debug)]
pub enum Recovery {
    /// Before the words are on the screen.
    Before(Option<String>),
    /// The words, to be written down.
    Shown(Secret),
    /// Some of them are asked back.
    Asked { words: Secret, positions: Vec<usize>, fields: Vec<Field>, at: usize },
    /// They were shown before, and nobody remembers: all of them are asked for.
    FromPaper(Field, Option<String>),
    /// Whether a new key is really wanted: by the operator's password, else by a word.
    Renew(Field, Option<String>),
    /// Confirmed.
    Done,
}

impl Recovery {
    /// The question before a new key is made.
    pub fn renewing(operator: Option<String>) -> Self {
        let field = match &operator {
            Some(_) => Field::secret("Your password"),
            None => Field::text("Type the word", NEW_WORD_HINT),
        };
        Self::Renew(field, operator)
    }

    fn from_paper(operator: Option<String>) -> Self {
        Self::FromPaper(Field::text("All 24 words", "(as they stand on the paper)"), operator)
    }

    /// Whether what is drawn should not be read by who comes next.
    pub fn shows_secrets(&self) -> bool {
        matches!(self, Self::Shown(_) | Self::Asked { .. } | Self::FromPaper(..))
    }

    /// Lets go of words and passwords: from the paper, whoever has it can go on.
    pub fn forget(&mut self) {
        let operator = match self {
            Self::Before(_) | Self::Done => return,
            Self::FromPaper(_, operator) | Self::Renew(_, operator) => operator.take(),
            Self::Shown(_) | Self::Asked { .. } => None,
        };
        *self = Self::from_paper(operator);
    }

    /// Whether it holds something that must not stay in memory.
    pub fn holds_secrets(&self) -> bool {
        match self {
            Self::Shown(_) | Self::Asked { .. } => true,
            Self::FromPaper(field, _) | Self::Renew(field, _) => !field.value().is_empty(),
            Self::Before(_) | Self::Done => false,
        }
    }

    /// Back from the question about a new key; whether there was one.
    pub fn back(&mut self) -> bool {
        let Self::Renew(_, operator) = self else { return false };
        *self = Self::from_paper(operator.take());
        true
    }

    /// Takes a key.
    pub fn key(&mut self, key: Key, error: &mut Option<Halves>) -> Vec<Effect> {
        match self {
            Self::Before(_) if key == Key::Enter => vec![Effect::ask(Request::RecoveryShow)],
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
                *error = None;
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
            Self::FromPaper(field, operator) => match key {
                Key::Enter if !field.value().is_empty() => {
                    let words = Secret::new(Zeroizing::new(field.value().to_owned()));
                    vec![Effect::ask(Request::RecoveryConfirm { words })]
                }
                Key::New => {
                    *self = Self::renewing(operator.take());
                    *error = None;
                    Vec::new()
                }
                key => {
                    if field.take(key) {
                        *error = None;
                    }
                    Vec::new()
                }
            },
            Self::Renew(field, operator) => match (key, operator) {
                (Key::Enter, Some(name)) if !field.value().is_empty() => {
                    let password = Secret::new(Zeroizing::new(field.value().to_owned()));
                    vec![Effect::ask(Request::SignIn { name: name.clone(), password })]
                }
                (Key::Enter, None) if field.value() == NEW_WORD => vec![Effect::ask(Request::RecoveryRenew)],
                (Key::Enter, operator) => {
                    let remedy = match operator {
                        Some(_) => "type your password, or go back with Esc".to_owned(),
                        None => format!("type {NEW_WORD} in capital letters, or go back with Esc"),
                    };
                    *error = Some(Halves::new("nothing was done; the present key holds", remedy));
                    Vec::new()
                }
                (key, _) => {
                    if field.take(key) {
                        *error = None;
                    }
                    Vec::new()
                }
            },
            Self::Before(_) | Self::Shown(_) | Self::Done => Vec::new(),
        }
    }

    /// Takes the daemon's answer to one of its requests; what to ask next.
    pub fn answer(&mut self, result: Result<Response, Refusal>, error: &mut Option<Halves>) -> Vec<Effect> {
        match result {
            Ok(Response::Recovery { words }) => (*self, *error) = (Self::Shown(words), None),
            Ok(Response::RecoveryConfirmed) => *self = Self::Done,
            // Whoever makes a new key has just said who it is.
            Ok(Response::SignedIn { .. }) if matches!(self, Self::Renew(..)) => {
                return vec![Effect::ask(Request::RecoveryRenew)];
            }
            Ok(Response::RecoveryRenewed) => {
                let operator = if let Self::Renew(_, operator) = self { operator.take() } else { None };
                (*self, *error) = (Self::Before(operator), None);
                return vec![Effect::ask(Request::RecoveryShow)];
            }
            Err(refusal) => match self {
                Self::Before(operator) if refusal.fault == Fault::Refused => {
                    *self = Self::from_paper(operator.take());
                }
                Self::Renew(field, _) => {
                    field.set("");
                    *error = Some(refusal.into());
                }
                _ => *error = Some(refusal.into()),
            },
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
        return vec![Effect::ask(Request::RecoveryConfirm { words: words.clone() })];
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
        let (mut recovery, mut error) = (Recovery::Before(None), None);
        assert_eq!(recovery.key(Key::Enter, &mut error), [Effect::ask(Request::RecoveryShow)]);
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
        assert_eq!(asked, [Effect::ask(Request::RecoveryConfirm { words })]);
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
    fn words_that_were_shown_before_are_asked_for_whole_or_made_anew_after_a_question() {
        let (mut recovery, mut error) = (Recovery::Before(None), None);
        let shown = Refusal::new(Fault::Refused, "the recovery key was shown already", "confirm it");
        recovery.answer(Err(shown), &mut error);
        assert!(matches!(recovery, Recovery::FromPaper(..)));
        assert!(recovery.key(Key::New, &mut error).is_empty(), "a single key makes no new one");
        assert!(typed(&mut recovery, "", &mut error).is_empty() && error.is_some());
        assert_eq!(typed(&mut recovery, NEW_WORD, &mut error), [Effect::ask(Request::RecoveryRenew)]);
        let next = recovery.answer(Ok(Response::RecoveryRenewed), &mut error);
        assert_eq!(next, [Effect::ask(Request::RecoveryShow)]);
    }

    #[test]
    fn an_operator_makes_a_new_key_with_the_password_only() {
        let (mut recovery, mut error) = (Recovery::renewing(Some("admin".into())), None);
        assert!(typed(&mut recovery, "", &mut error).is_empty() && error.is_some());
        let asked = typed(&mut recovery, "planted", &mut error);
        let password = Secret::new(Zeroizing::new("planted".to_owned()));
        assert_eq!(asked, [Effect::ask(Request::SignIn { name: "admin".into(), password })]);
        recovery.answer(Err(Refusal::new(Fault::Refused, "name or password is wrong", "check")), &mut error);
        assert!(error.is_some() && !recovery.holds_secrets(), "{recovery:?}");
        let signed_in = Response::SignedIn { name: "admin".into(), unrecorded: None };
        assert_eq!(recovery.answer(Ok(signed_in), &mut error), [Effect::ask(Request::RecoveryRenew)]);
        assert!(recovery.back() && matches!(recovery, Recovery::FromPaper(..)));
    }
}
