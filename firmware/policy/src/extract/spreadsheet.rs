//! Worksheets of OOXML workbooks (ECMA-376 part 1, §18).
//!
//! Job: rows of cell values as a reader sees them: shared and inline strings, numbers by their number format. Place: in
//! workers, under the office reader. Invariants: a reference that leads nowhere is an empty cell. A crash leaves nothing.

use super::{
    Budget, Condition,
    budget::MAX_ENTRY,
    office::Lines,
    xml::{self, Node},
};
use std::collections::HashMap;

/// Octets of the view with headings; beyond them the plain rows have to do.
const MAX_HEADED: usize = 4 << 20;
/// Digits from which on a value gets its heading: shorter ones identify nobody.
const HEADED_DIGITS: usize = 6;

/// What sheets refer to, and what they add up to beside their text.
#[derive(Default)]
pub(super) struct Workbook {
    strings: Vec<String>,
    /// For each string, whether a sheet showed it.
    shown: Vec<bool>,
    masks: Vec<Option<Mask>>,
    /// `heading value` for each longer number, since the word that says what a number is stands above its column.
    pub headed: String,
}

impl Workbook {
    /// Reads the table of shared strings (§18.4).
    pub fn read_strings(&mut self, content: &[u8], budget: &mut Budget) -> Result<(), Condition> {
        let (mut text, mut phonetic) = (String::new(), false);
        let strings = &mut self.strings;
        let result = xml::walk(content, budget, &mut |node| match node {
            Node::Open("si", _) => text.clear(),
            Node::Open("rPh", _) => phonetic = true,
            Node::Close("rPh") => phonetic = false,
            Node::Text(run) if !phonetic => text.push_str(run),
            Node::Close("si") => strings.push(std::mem::take(&mut text)),
            _ => {}
        });
        // What a broken table still held.
        self.strings.push(text);
        self.shown.resize(self.strings.len(), false);
        result
    }

    /// The shared strings that no sheet showed: one may stand where nobody looks for it, or under a reference that is
    /// read in another way.
    pub fn unseen(&self) -> impl Iterator<Item = &str> {
        let unseen = self.strings.iter().zip(&self.shown).filter(|(text, shown)| !**shown && !text.is_empty());
        unseen.map(|(text, _)| text.as_str())
    }

    /// Reads the number formats of cell styles (§18.8).
    pub fn read_styles(&mut self, content: &[u8], budget: &mut Budget) -> Result<(), Condition> {
        let mut codes: HashMap<String, Option<Mask>> = HashMap::new();
        let mut in_cells = false;
        let masks = &mut self.masks;
        xml::walk(content, budget, &mut |node| match node {
            Node::Open("numFmt", element) => {
                if let (Some(id), Some(code)) =
                    (xml::attribute(element, "numFmtId"), xml::attribute(element, "formatCode"))
                {
                    codes.insert(id, Mask::parse(&code));
                }
            }
            Node::Open("cellXfs", _) => in_cells = true,
            Node::Close("cellXfs") => in_cells = false,
            Node::Open("xf", element) if in_cells => {
                let id = xml::attribute(element, "numFmtId").unwrap_or_default();
                masks.push(codes.get(&id).cloned().flatten());
            }
            _ => {}
        })
    }

    /// Appends the rows of a sheet (§18.3) to `lines`, and texts inside formulas to `margin`.
    pub fn read_sheet(
        &mut self,
        content: &[u8],
        budget: &mut Budget,
        lines: &mut Lines,
        margin: &mut String,
    ) -> Result<(), Condition> {
        let mut sheet = Sheet::default();
        let mut other = String::new();
        // A short reference can stand for a long string, a million times.
        let room = budget.bytes_left().min(MAX_ENTRY);
        let (mut made, mut over) = (0u64, false);
        let result = xml::walk(content, budget, &mut |node| match node {
            Node::Open("row", _) => sheet.column = 0,
            Node::Open("c", element) => {
                sheet.cell = Some(Cell {
                    kind: xml::attribute(element, "t").unwrap_or_default(),
                    style: xml::attribute(element, "s").and_then(|style| style.parse().ok()),
                    text: String::new(),
                });
                let place = xml::attribute(element, "r").and_then(|place| column(&place));
                sheet.column = place.unwrap_or(sheet.column + 1);
            }
            Node::Open("f", _) => sheet.in_formula = true,
            Node::Close("f") => {
                sheet.in_formula = false;
                margin.push('\n');
            }
            Node::Text(text) => match &mut sheet.cell {
                Some(_) if sheet.in_formula => margin.push_str(text),
                Some(cell) => cell.text.push_str(text),
                // Headers, footers, prompts of validations.
                None => other.push_str(text),
            },
            Node::Close("c") => {
                if let Some(cell) = sheet.cell.take() {
                    let value = self.value(&cell);
                    made += value.len() as u64;
                    over |= made > room;
                    if !over {
                        sheet.place(&value, &mut self.headed);
                        sheet.row.push(value);
                    }
                }
            }
            Node::Close("row") => {
                lines.text.push_str(&sheet.row.join("\t"));
                lines.line();
                sheet.row.clear();
            }
            Node::Close(_) if sheet.cell.is_none() && !other.trim().is_empty() => {
                lines.text.push_str(other.trim());
                lines.line();
                other.clear();
            }
            _ => {}
        });
        // What a broken sheet still held.
        lines.text.push_str(&sheet.row.join("\t"));
        lines.line();
        if over || !budget.take_bytes(usize::try_from(made.min(room)).unwrap_or(usize::MAX)) {
            return Err(Condition::OverBudget);
        }
        result
    }

    fn value(&mut self, cell: &Cell) -> String {
        match cell.kind.as_str() {
            "s" => {
                let Ok(at) = cell.text.trim().parse::<usize>() else { return String::new() };
                if let Some(shown) = self.shown.get_mut(at) {
                    *shown = true;
                }
                self.strings.get(at).cloned().unwrap_or_default()
            }
            "" | "n" => {
                let digits = written_out(cell.text.trim());
                let mask = cell.style.and_then(|style| self.masks.get(style)).and_then(Option::as_ref);
                match mask {
                    Some(mask) if digits.bytes().all(|b| b.is_ascii_digit()) => mask.apply(&digits),
                    _ => digits,
                }
            }
            _ => cell.text.clone(),
        }
    }
}

#[derive(Default)]
struct Sheet {
    cell: Option<Cell>,
    in_formula: bool,
    row: Vec<String>,
    /// Of the cell under way, from 1.
    column: u32,
    headings: HashMap<u32, String>,
}

impl Sheet {
    /// Takes a word as its column's heading, and writes a number behind its heading.
    fn place(&mut self, value: &str, headed: &mut String) {
        let digits = value.bytes().filter(u8::is_ascii_digit).count();
        if digits >= HEADED_DIGITS {
            if let Some(heading) = self.headings.get(&self.column).filter(|_| headed.len() < MAX_HEADED) {
                for piece in [heading.as_str(), " ", value, "\n"] {
                    headed.push_str(piece);
                }
            }
        } else if digits == 0 && value.len() <= 64 && value.contains(char::is_alphabetic) {
            self.headings.entry(self.column).or_insert_with(|| value.replace(['\r', '\n', '\t'], " "));
        }
    }
}

struct Cell {
    kind: String,
    style: Option<usize>,
    text: String,
}

/// The column of `BC12`, from 1.
fn column(place: &str) -> Option<u32> {
    let letters = place.bytes().take_while(u8::is_ascii_uppercase).take(4);
    let column = letters.fold(0u32, |column, letter| column * 26 + u32::from(letter - b'A') + 1);
    (column > 0).then_some(column)
}

/// A whole number in exponent notation, as Excel writes sixteen digits, written out; anything else as it is.
fn written_out(number: &str) -> String {
    let expanded = || {
        let (mantissa, exponent) = number.split_once(['e', 'E'])?;
        let exponent: usize = exponent.strip_prefix('+').unwrap_or(exponent).parse().ok().filter(|e| *e < 40)?;
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if whole.len() != 1 || !format!("{whole}{fraction}").bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let (kept, rest) = fraction.split_at(fraction.len().min(exponent));
        rest.bytes().all(|b| b == b'0').then(|| format!("{whole}{kept:0<exponent$}"))
    };
    expanded().unwrap_or_else(|| number.to_owned())
}

/// A number format that only sets separators between digits, like `000\-00\-0000` for social security numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mask(Vec<Option<char>>);

impl Mask {
    /// Digits are `None`, separators themselves; formats that do more give no mask.
    fn parse(code: &str) -> Option<Self> {
        let mut places = Vec::new();
        let mut rest = code.split(';').next().unwrap_or_default().chars();
        while let Some(c) = rest.next() {
            match c {
                '0' | '#' | '?' => places.push(None),
                '-' | ' ' | '/' | '(' | ')' => places.push(Some(c)),
                '\\' => places.push(rest.next()),
                '"' => places.extend(rest.by_ref().take_while(|c| *c != '"').map(Some)),
                '[' => while rest.next().is_some_and(|c| c != ']') {},
                '_' | '*' => _ = rest.next(),
                _ => return None,
            }
        }
        let digits = places.iter().filter(|place| place.is_none()).count();
        (digits >= 4 && digits < places.len() && places.len() < 64).then_some(Self(places))
    }

    fn apply(&self, digits: &str) -> String {
        let mut left: Vec<char> = digits.chars().collect();
        let mut out: Vec<char> = Vec::new();
        for place in self.0.iter().rev() {
            out.push(match place {
                Some(separator) => *separator,
                None => left.pop().unwrap_or('0'),
            });
        }
        left.iter().copied().chain(out.into_iter().rev()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_applied_from_the_right() {
        let mask = Mask::parse("000\\-00\\-0000").unwrap();
        assert_eq!(mask.apply("123456789"), "123-45-6789");
        assert_eq!(mask.apply("1120"), "000-00-1120");
        assert_eq!(mask.apply("99123456789"), "99123-45-6789");
        for code in ["0.00", "General", "yyyy-mm-dd", "0000", "#,##0"] {
            assert_eq!(Mask::parse(code), None, "{code}");
        }
    }

    #[test]
    fn exponents_of_whole_numbers_are_written_out() {
        for (number, out) in [
            ("4.111111111111111E+15", "4111111111111111"),
            ("4.11111111111111E+15", "4111111111111110"),
            ("1e3", "1000"),
            ("1.5", "1.5"),
            ("1.234E2", "1.234E2"),
            ("1E-5", "1E-5"),
            ("x", "x"),
        ] {
            assert_eq!(written_out(number), out);
        }
    }

    #[test]
    fn columns_are_counted_from_their_letters() {
        assert_eq!([column("A1"), column("Z9"), column("AA10"), column("7")], [Some(1), Some(26), Some(27), None]);
    }
}
