//! Aligned columns.
//!
//! Job: lay out rows for a terminal. Place: under the printed reports. Invariants: text from outside (addresses,
//! replies, file names) can't move the cursor, change colours or reverse the reading direction. A crash leaves nothing
//! behind.

use std::borrow::Cow;

/// Rows under a heading, each column as wide as its widest cell.
pub(super) struct Table {
    indent: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(heading: &[&str]) -> Self {
        let rows =
            if heading.is_empty() { vec![] } else { vec![heading.iter().map(|cell| (*cell).to_owned()).collect()] };
        Self { indent: 0, rows }
    }

    /// Moves the whole to the right.
    pub fn indented(mut self, by: usize) -> Self {
        self.indent = by;
        self
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.iter().map(|cell| clean(cell).into_owned()).collect());
    }

    pub fn lay_out(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widest = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(widest).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = " ".repeat(self.indent);
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.push_str(&" ".repeat(width - cell.chars().count() + 2));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// Replaces what a terminal would act on.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    replaced(text, |c| c.is_control() || turns_text(c))
}

/// As [`clean`], for text of several lines.
pub(super) fn lines(text: &str) -> Cow<'_, str> {
    replaced(text, |c| c.is_control() && c != '\n' || turns_text(c))
}

/// Bidirectional controls (Unicode Annex 9): with them an address can be made to look like another.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn replaced(text: &str, bad: impl Fn(char) -> bool + Copy) -> Cow<'_, str> {
    if text.contains(bad) { Cow::Owned(text.replace(bad, "\u{fffd}")) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_characters_and_lines_have_no_blank_end() {
        let mut table = Table::new(&["ID", "NAME", "X"]).indented(2);
        table.row(["1".into(), "jörg".into(), String::new()]);
        table.row(["22".into(), "b".into(), "y".into()]);
        assert_eq!(table.lay_out(), "  ID  NAME  X\n  1   jörg\n  22  b     y\n");
    }

    #[test]
    fn text_from_outside_can_not_command_the_terminal() {
        for hostile in ["\u{1b}[2J", "a\rb", "a\nb", "\u{9b}31m", "a\u{202e}b", "\u{7f}"] {
            assert!(clean(hostile).contains('\u{fffd}'), "{hostile:?}");
            assert!(!clean(hostile).contains(|c: char| c.is_control()));
        }
        assert_eq!(lines("a\nb\u{1b}"), "a\nb\u{fffd}");
    }
}
