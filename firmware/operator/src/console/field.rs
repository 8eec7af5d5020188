//! Fields that are typed into, and forms of them.
//!
//! Job: keep what is typed, where the cursor stands, and what is wrong with it. Place: under every screen that asks.
//! Invariants: a secret is never drawn; what is typed is zeroized when its field goes; nothing is lost by an error. A
//! crash leaves nothing behind.

use super::event::Key;
use crate::Refusal;
use zeroize::Zeroizing;

/// Characters of one field; a pasted certificate has some two thousand.
const LONGEST: usize = 16 * 1024;

/// What went wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halves {
    pub what: String,
    pub remedy: String,
}

impl Halves {
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

impl From<Refusal> for Halves {
    fn from(refusal: Refusal) -> Self {
        let mut what = refusal.what;
        // Where a problem has no field of its own it is told here.
        if let Some(problem) = refusal.problems.first() {
            what = format!("{}: {}", problem.path, problem.what);
            return Self::new(what, problem.remedy.clone());
        }
        Self::new(what, refusal.remedy)
    }
}

/// How a field is typed into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Seen.
    Text,
    /// Drawn as stars.
    Secret,
    /// One of these, changed with the arrows.
    Choice(&'static [&'static str]),
}

/// One line that is asked for.
#[derive(Clone, Debug)]
pub struct Field {
    pub label: &'static str,
    /// Shown where the field is empty.
    pub example: &'static str,
    pub kind: Kind,
    value: Zeroizing<String>,
    /// In characters.
    cursor: usize,
    pub error: Option<Halves>,
}

impl Field {
    pub fn text(label: &'static str, example: &'static str) -> Self {
        Self::of(label, example, Kind::Text)
    }

    pub fn secret(label: &'static str) -> Self {
        Self::of(label, "", Kind::Secret)
    }

    pub fn choice(label: &'static str, choices: &'static [&'static str]) -> Self {
        let mut field = Self::of(label, "", Kind::Choice(choices));
        field.set(choices.first().copied().unwrap_or_default());
        field
    }

    fn of(label: &'static str, example: &'static str, kind: Kind) -> Self {
        Self { label, example, kind, value: Zeroizing::default(), cursor: 0, error: None }
    }

    pub fn set(&mut self, value: &str) {
        self.value = Zeroizing::new(value.to_owned());
        self.cursor = self.value.chars().count();
    }

    /// What is typed, without the blanks around it; a secret as it is.
    pub fn value(&self) -> &str {
        if self.kind == Kind::Secret { &self.value } else { self.value.trim() }
    }

    /// What is drawn, in at most `most` rows of `width` characters around the cursor, and the cursor's row and column.
    pub fn shown(&self, width: usize, most: usize) -> (Vec<Zeroizing<String>>, (usize, usize)) {
        let count = self.value.chars().count();
        let (width, most) = (width.max(1), most.max(1));
        let row = self.cursor / width;
        let first = (row + 1).saturating_sub(most);
        let of_row = |row: usize| {
            let mut text = Zeroizing::new(String::with_capacity(4 * width));
            for c in self.value.chars().skip(row * width).take(width) {
                text.push(match self.kind {
                    Kind::Secret => '*',
                    // A pasted text may have lines.
                    _ if c.is_control() => ' ',
                    _ => c,
                });
            }
            text
        };
        // The cursor may stand behind the last character, on a row of its own.
        let rows = (first..=row.max(count.saturating_sub(1) / width)).take(most).map(of_row).collect();
        (rows, (row - first, self.cursor % width))
    }

    /// Takes a key; whether it was one for a field.
    pub fn take(&mut self, key: Key) -> bool {
        if let Kind::Choice(choices) = self.kind {
            return self.choose(choices, key);
        }
        let count = self.value.chars().count();
        match key {
            Key::Char(c) if count < LONGEST => {
                let at = self.byte(self.cursor);
                // Grown in one step, so that no copy of a secret stays behind.
                let mut grown =
                    Zeroizing::new(String::with_capacity((self.value.len() + 4).next_power_of_two().max(64)));
                let (before, after) = self.value.split_at_checked(at).unwrap_or((&self.value, ""));
                grown.push_str(before);
                grown.push(c);
                grown.push_str(after);
                self.value = grown;
                self.cursor += 1;
            }
            Key::Char(_) => {}
            Key::Backspace if self.cursor > 0 => {
                self.cursor -= 1;
                self.remove();
            }
            Key::Delete if self.cursor < count => self.remove(),
            Key::Left => self.cursor = self.cursor.saturating_sub(1),
            Key::Right => self.cursor = (self.cursor + 1).min(count),
            Key::Home => self.cursor = 0,
            Key::End => self.cursor = count,
            Key::ClearLine => self.set(""),
            Key::Backspace | Key::Delete => {}
            _ => return false,
        }
        self.error = None;
        true
    }

    fn choose(&mut self, choices: &[&str], key: Key) -> bool {
        let at = choices.iter().position(|choice| *choice == self.value.as_str()).unwrap_or(0);
        let to = match key {
            Key::Left => at.checked_sub(1).unwrap_or(choices.len().saturating_sub(1)),
            Key::Right | Key::Char(' ') => (at + 1) % choices.len().max(1),
            _ => return false,
        };
        self.set(choices.get(to).copied().unwrap_or_default());
        self.error = None;
        true
    }

    fn byte(&self, at: usize) -> usize {
        self.value.char_indices().nth(at).map_or(self.value.len(), |(byte, _)| byte)
    }

    fn remove(&mut self) {
        let at = self.byte(self.cursor);
        if at < self.value.len() {
            self.value.remove(at);
        }
    }
}

/// Moves among `count` fields.
pub fn next(at: usize, count: usize, key: Key) -> usize {
    match key {
        Key::Up | Key::BackTab => at.checked_sub(1).unwrap_or(count.saturating_sub(1)),
        _ if at + 1 < count => at + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_moving_and_deleting_work_on_characters() {
        let mut field = Field::text("Name", "");
        "grün".chars().for_each(|c| assert!(field.take(Key::Char(c))));
        field.take(Key::Left);
        field.take(Key::Backspace);
        field.take(Key::Char('a'));
        field.take(Key::Home);
        field.take(Key::Delete);
        assert_eq!(field.value(), "ran");
        let shown = |field: &Field, width, most| {
            let (rows, cursor) = field.shown(width, most);
            (rows.iter().map(|row| row.to_string()).collect::<Vec<_>>().join("|"), cursor)
        };
        assert_eq!(shown(&field, 10, 1), ("ran".into(), (0, 0)));
        field.take(Key::End);
        assert_eq!(shown(&field, 2, 1), ("n".into(), (0, 1)), "the cursor stays in sight");
        assert_eq!(shown(&field, 2, 4), ("ra|n".into(), (1, 1)));
        field.take(Key::ClearLine);
        assert_eq!(field.value(), "");
        assert!(!field.take(Key::Enter));
    }

    #[test]
    fn a_secret_is_never_drawn_and_an_error_goes_with_the_next_key() {
        let mut field = Field::secret("Password");
        field.set(" planted ");
        assert_eq!(field.shown(40, 1).0.first().map(|row| row.as_str()), Some("*********"));
        assert_eq!(field.value(), " planted ", "blanks belong to a password");
        field.error = Some(Halves::new("a", "b"));
        field.take(Key::Char('x'));
        assert!(field.error.is_none());
    }

    #[test]
    fn a_choice_is_changed_with_the_arrows_and_goes_round() {
        let mut field = Field::choice("Address", &["DHCP", "fixed"]);
        assert!(field.take(Key::Right) && field.value() == "fixed");
        assert!(field.take(Key::Char(' ')) && field.value() == "DHCP");
        assert!(field.take(Key::Left) && field.value() == "fixed");
        assert!(!field.take(Key::Char('x')));
    }
}
