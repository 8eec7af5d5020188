//! How the console is drawn on what terminal.
//!
//! Job: write lines, fields and big letters into a screen, and turn it into what a serial terminal shows. Place: under
//! the views. Invariants: text from outside can't command the terminal; without UTF-8 only ASCII leaves; colour only
//! repeats what is said in words. A crash leaves nothing behind.

use super::{
    field::{Field, Halves, Kind},
    state::Told,
};
use crate::cli::table::clean;
use ratatui::{
    buffer::Buffer,
    layout::{Position, Rect},
    style::{Color, Modifier, Style},
};

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// UTF-8, and glyphs beyond ASCII.
    pub unicode: bool,
    pub colour: bool,
}

impl Look {
    /// What the environment says of the terminal: `TERM` and the locale.
    #[must_use]
    pub fn of(term: &str, locale: &str) -> Self {
        let locale = locale.to_ascii_lowercase();
        let utf8 = locale.contains("utf-8") || locale.contains("utf8");
        let old = term.starts_with("vt") || term == "dumb";
        Self { unicode: utf8 && !old, colour: !old }
    }

    /// Leaves only what the terminal can show; each glyph keeps its one column.
    pub fn reduce(self, buffer: &mut Buffer) {
        for cell in &mut buffer.content {
            if !self.unicode && !cell.symbol().is_ascii() {
                let plain = match cell.symbol() {
                    "─" => "-",
                    "█" => "#",
                    "▓" => "#",
                    "░" => ".",
                    "→" => ">",
                    "…" => "~",
                    "•" => "*",
                    "–" | "—" => "-",
                    "’" | "‘" => "'",
                    "“" | "”" => "\"",
                    "≥" => ">",
                    "ä" | "à" | "á" | "â" | "å" => "a",
                    "é" | "è" | "ê" | "ë" => "e",
                    "ö" | "ó" | "ô" | "ø" => "o",
                    "ü" | "ú" | "û" => "u",
                    "ß" => "s",
                    "Ä" | "Å" => "A",
                    "Ö" | "Ø" => "O",
                    "Ü" => "U",
                    _ => "?",
                };
                cell.set_symbol(plain);
            }
            if !self.colour {
                if cell.bg != Color::Reset {
                    cell.modifier.insert(Modifier::REVERSED);
                }
                (cell.fg, cell.bg) = (Color::Reset, Color::Reset);
            }
        }
    }
}

pub const PLAIN: Style = Style::new();
pub const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);
pub const TURNED: Style = Style::new().add_modifier(Modifier::REVERSED);
pub const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
pub const GOOD: Style = Style::new().fg(Color::Green);
pub const FAINT: Style = Style::new().fg(Color::DarkGray);

/// Rows of a long text, such as the words of a recovery key.
const ROWS: usize = 4;

/// Rows of one value on the board: what is longer is looked at elsewhere.
const FACT: usize = 2;

/// Columns of the labels.
pub const LABEL: u16 = 20;

/// A part of the screen that is filled from above.
pub struct Sheet<'b> {
    pub buffer: &'b mut Buffer,
    pub area: Rect,
    y: u16,
    /// Whether all of it is drawn faintly: it may not hold any more.
    pub faded: bool,
    /// Where the cursor is to stand.
    pub cursor: Option<Position>,
}

impl<'b> Sheet<'b> {
    pub fn new(buffer: &'b mut Buffer, area: Rect) -> Self {
        let y = area.y;
        Self { buffer, area, y, faded: false, cursor: None }
    }

    /// Rows that are left.
    pub fn left(&self) -> u16 {
        self.area.bottom().saturating_sub(self.y)
    }

    pub fn gap(&mut self) {
        self.y = self.y.saturating_add(1);
    }

    /// One line at column `x`, cut where the sheet ends.
    pub fn put(&mut self, x: u16, text: &str, style: Style) {
        if self.left() > 0 && x < self.area.width {
            let room = usize::from(self.area.width - x);
            let style = if self.faded && style != BAD { FAINT } else { style };
            self.buffer.set_stringn(self.area.x + x, self.y, clean(text), room, style);
        }
    }

    pub fn line(&mut self, text: &str, style: Style) {
        self.put(0, text, style);
        self.gap();
    }

    /// A text over as many lines as it takes.
    pub fn text(&mut self, x: u16, text: &str, style: Style) {
        for line in wrapped(&clean(text), usize::from(self.area.width.saturating_sub(x))) {
            self.put(x, &line, style);
            self.gap();
        }
    }

    /// A value with its label, in at most [`FACT`] rows.
    pub fn fact(&mut self, label: &str, value: &str, style: Style) {
        self.put(0, label, FAINT);
        let x = LABEL - 6;
        let mut lines = wrapped(&clean(value), usize::from(self.area.width.saturating_sub(x)));
        if lines.len() > FACT {
            lines.truncate(FACT);
            if let Some(last) = lines.last_mut() {
                *last = shortened(&format!("{last} …"), usize::from(self.area.width.saturating_sub(x)));
            }
        }
        for line in lines {
            self.put(x, &line, style);
            self.gap();
        }
    }

    /// A result.
    pub fn told(&mut self, told: &Told) {
        self.text(0, &told.text, if told.good { GOOD } else { BAD });
    }

    /// What happened, and what to do, at column `x`.
    pub fn halves(&mut self, x: u16, halves: &Halves) {
        self.put(x, "!", BAD);
        self.text(x + 2, &halves.what, BAD);
        self.put(x, "→", PLAIN);
        self.text(x + 2, &halves.remedy, PLAIN);
    }

    /// A field with its label, and below it what is wrong with it.
    pub fn field(&mut self, label: &str, field: &Field, focused: bool) {
        let width = self.area.width.saturating_sub(LABEL + 1).min(58);
        self.put(0, label, if focused { STRONG } else { PLAIN });
        if let Kind::Choice(choices) = field.kind {
            let mut x = LABEL;
            for choice in choices {
                let chosen = field.value() == *choice;
                let mark = if chosen { "(*) " } else { "( ) " };
                let style = if chosen && focused { TURNED } else { PLAIN };
                self.put(x, &format!("{mark}{choice}"), style);
                x += u16::try_from(choice.len()).unwrap_or(0) + 7;
            }
            self.gap();
        } else {
            self.input(field, focused, width);
        }
        if let Some(error) = &field.error {
            self.halves(LABEL, error);
        } else if focused && field.value().is_empty() && !field.example.is_empty() {
            // A hint stands in brackets.
            let example = if field.example.starts_with('(') { "" } else { "for example " };
            self.line_at(LABEL, &format!("{example}{}", field.example), FAINT);
        }
    }

    /// The rows that are typed into.
    fn input(&mut self, field: &Field, focused: bool, width: u16) {
        let style = if focused { TURNED } else { Style::new().add_modifier(Modifier::UNDERLINED) };
        let (rows, (row, column)) = field.shown(usize::from(width), ROWS);
        for (index, text) in rows.iter().enumerate() {
            // The blanks apart, so that no copy is made of what may be words of a recovery key.
            let blanks = usize::from(width).saturating_sub(text.chars().count());
            self.put(LABEL, text, style);
            self.put(LABEL + width.saturating_sub(u16::try_from(blanks).unwrap_or(0)), &" ".repeat(blanks), style);
            if focused && index == row && self.left() > 0 {
                let x = self.area.x + LABEL + u16::try_from(column).unwrap_or(0);
                self.cursor = Some(Position::new(x.min(self.area.right().saturating_sub(1)), self.y));
            }
            self.gap();
        }
    }

    fn line_at(&mut self, x: u16, text: &str, style: Style) {
        self.put(x, text, style);
        self.gap();
    }

    /// The value behind a label that was put on this line.
    pub fn line_of(&mut self, text: &str, style: Style) {
        self.text(LABEL, text, style);
    }

    /// A word in letters of five rows.
    pub fn big(&mut self, word: &str, style: Style) {
        for row in 0..5 {
            let mut x = 2;
            for c in word.chars() {
                let bits = letter(c).get(row).copied().unwrap_or(0);
                for column in 0..5 {
                    if bits & (0b1_0000 >> column) != 0 {
                        self.put(x + column, "█", style);
                    }
                }
                x += 6;
            }
            self.gap();
        }
    }
}

/// The text in at most `most` characters; what is left out is marked.
pub fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// The letters of the words that are drawn big, as rows of five bits.
fn letter(c: char) -> [u8; 5] {
    match c {
        'L' => [0b10000, 0b10000, 0b10000, 0b10000, 0b11111],
        'O' => [0b01110, 0b10001, 0b10001, 0b10001, 0b01110],
        'C' => [0b01111, 0b10000, 0b10000, 0b10000, 0b01111],
        'K' => [0b10001, 0b10010, 0b11100, 0b10010, 0b10001],
        'E' => [0b11111, 0b10000, 0b11110, 0b10000, 0b11111],
        'D' => [0b11110, 0b10001, 0b10001, 0b10001, 0b11110],
        'N' => [0b10001, 0b11001, 0b10101, 0b10011, 0b10001],
        'T' => [0b11111, 0b00100, 0b00100, 0b00100, 0b00100],
        'S' => [0b01111, 0b10000, 0b01110, 0b00001, 0b11110],
        'U' => [0b10001, 0b10001, 0b10001, 0b10001, 0b01110],
        'A' => [0b01110, 0b10001, 0b11111, 0b10001, 0b10001],
        'G' => [0b01111, 0b10000, 0b10011, 0b10001, 0b01110],
        'I' => [0b01110, 0b00100, 0b00100, 0b00100, 0b01110],
        'R' => [0b11110, 0b10001, 0b11110, 0b10010, 0b10001],
        'P' => [0b11110, 0b10001, 0b11110, 0b10000, 0b10000],
        _ => [0; 5],
    }
}

/// The text in lines of at most `width` characters, broken at blanks where there are any.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(8);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        if !line.is_empty() && line.chars().count() + 1 + word.len() > width {
            lines.push(std::mem::take(&mut line));
        }
        while word.len() > width {
            let rest = word.split_off(width);
            lines.push(word.into_iter().collect());
            word = rest;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_terminal_gets_ascii_without_colour() {
        assert_eq!(Look::of("vt102", "C.UTF-8"), Look { unicode: false, colour: false });
        assert_eq!(Look::of("linux", ""), Look { unicode: false, colour: true });
        assert_eq!(Look::of("linux", "C.UTF-8"), Look { unicode: true, colour: true });
        let mut buffer = Buffer::empty(Rect::new(0, 0, 20, 6));
        let mut sheet = Sheet::new(&mut buffer, Rect::new(0, 0, 20, 6));
        sheet.halves(0, &Halves::new("ärger…", "a\u{1b}[2Jb"));
        sheet.big("LO", BAD);
        Look::of("vt102", "").reduce(&mut buffer);
        let text: String = buffer.content.iter().map(|cell| cell.symbol()).collect();
        assert!(text.is_ascii() && text.contains("arger~"), "{text}");
        assert!(!text.contains('\u{1b}'));
        assert!(buffer.content.iter().all(|cell| cell.fg == Color::Reset));
    }

    #[test]
    fn long_texts_are_broken_at_blanks_and_long_words_anywhere() {
        assert_eq!(wrapped("what happened here and now", 13), ["what happened", "here and now"]);
        assert_eq!(wrapped("abcdefghijkl", 8), ["abcdefgh", "ijkl"]);
        assert_eq!(wrapped("", 8), [""]);
    }
}
