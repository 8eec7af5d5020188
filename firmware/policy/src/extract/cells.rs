//! Numbers that run on over cells.
//!
//! Job: from text whose cells are separated by tabs, make the view in which a number split over cells is whole. Place:
//! behind every reader of tables (HTML, spreadsheets, documents, CSV). Invariants: only rows with such a border, and the
//! lines just before them for context, are in the view. A crash leaves nothing.

use super::{View, ViewKind};

/// Octets of the lines before a row that are kept as its context: a label or a heading.
const CONTEXT: usize = 160;
/// The longest piece of an account number that stands in one cell.
const MAX_CODE: usize = 12;

/// The joined view of `text`, if there is anything to join.
pub(super) fn joined(text: &str) -> Option<View> {
    memchr::memchr(b'\t', text.as_bytes())?;
    let mut out = String::new();
    let mut shown = 0;
    let mut start = 0usize;
    for line in text.split_inclusive('\n') {
        if memchr::memchr(b'\t', line.as_bytes()).is_some() {
            let digits = row(line, digits_run_on);
            let codes = row(line, code_runs_on).filter(|codes| digits.as_ref() != Some(codes));
            for row in digits.into_iter().chain(codes) {
                let mut context = start.saturating_sub(CONTEXT).max(shown);
                while !text.is_char_boundary(context) {
                    context += 1;
                }
                out.push_str(text.get(context..start).unwrap_or_default());
                if !out.is_empty() && !out.ends_with('\n') {
                    out.push('\n');
                }
                out.push_str(&row);
                out.push('\n');
                shown = start + line.len();
            }
        }
        start += line.len();
    }
    (!out.is_empty()).then_some(View { kind: ViewKind::Joined, text: out })
}

/// The row with the borders removed over which `runs_on` holds; `None` when there are none.
fn row(line: &str, runs_on: fn(&str, &str) -> bool) -> Option<String> {
    let mut cells = line.split('\t').map(str::trim).filter(|cell| !cell.is_empty());
    let mut before = cells.next()?;
    let mut out = before.to_owned();
    let mut joins = false;
    for cell in cells {
        if runs_on(before, cell) {
            joins = true;
        } else {
            out.push('\t');
        }
        out.push_str(cell);
        before = cell;
    }
    joins.then_some(out)
}

fn digits_run_on(left: &str, right: &str) -> bool {
    let separator = |c: char| matches!(c, '-' | '.' | '/' | ' ' | '\u{2010}'..='\u{2015}');
    let last = left.trim_end_matches(separator).chars().next_back();
    let first = right.trim_start_matches(separator).chars().next();
    last.is_some_and(char::is_numeric) && first.is_some_and(char::is_numeric)
}

/// Pieces of numbers with letters in them, as an IBAN: `GB29 | NWBK | 6016 …`.
fn code_runs_on(left: &str, right: &str) -> bool {
    let code =
        |cell: &str| cell.len() <= MAX_CODE && cell.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
    let letter = |c: Option<char>| c.is_some_and(|c| c.is_ascii_uppercase());
    let digits_only = !letter(left.chars().next_back()) && !letter(right.chars().next());
    code(left)
        && code(right)
        && (digits_only || [left, right].iter().any(|cell| cell.contains(|c: char| c.is_ascii_digit())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(source: &str) -> String {
        joined(source).map(|view| view.text).unwrap_or_default()
    }

    #[test]
    fn digits_are_joined_over_cells_and_labels_are_not() {
        assert!(text("Card\t4111 11\t11 1111\t1111\n").contains("Card\t4111 1111 11111111\n"));
        assert!(text("4\t1\t1\t1\n").contains("4111\n"));
        assert!(text("123-\t45-\t\t6789").contains("123-45-6789\n"));
    }

    #[test]
    fn pieces_of_an_iban_are_joined() {
        assert!(text("IBAN:\tGB29\tNWBK\t6016\t1331\t9268\t19\n").contains("IBAN:\tGB29NWBK60161331926819\n"));
    }

    #[test]
    fn the_heading_above_a_row_comes_with_it() {
        assert_eq!(text("Card number\n4111\t1111\n"), "Card number\n41111111\n");
    }

    #[test]
    fn tables_of_words_have_no_view() {
        assert_eq!(joined("Name\tPlace\nAnna\t12 Main St\n"), None);
        assert_eq!(joined("no cells 1 2 3"), None);
    }
}
