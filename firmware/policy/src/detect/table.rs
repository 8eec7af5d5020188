//! Columns of tables in text.
//!
//! Job: name the heading of the column that a cell stands in, for sheets, CSV and HTML tables. Place: context of a
//! candidate. Invariants: each line is looked at once while candidates come in order, so that a long sheet costs one
//! sweep; without a table there is no heading. A crash leaves nothing.

/// Lines longer than this are prose.
const MAX_LINE: usize = 1024;

/// Borders of cells; of several beside a candidate the first in this order.
const BORDERS: [u8; 4] = [b'\t', b'|', b';', b','];

/// What is known of the tables at hand, for each kind of border.
#[derive(Debug, Default)]
pub(super) struct Columns {
    /// The line of the last candidate, and where the block of lines with cells that it belongs to starts.
    known: [Option<(usize, usize)>; BORDERS.len()],
}

impl Columns {
    /// The heading of the cell that holds `start..end`, if that is a cell of a table. Candidates must come in order of
    /// their place.
    pub(super) fn header_of<'t>(&mut self, bytes: &'t [u8], start: usize, end: usize) -> Option<&'t [u8]> {
        let behind = bytes.get(end..)?.iter().take(4).find(|b| !matches!(b, b' ' | b'"'));
        let ahead = bytes.get(..start)?.iter().rev().take(4).find(|b| !matches!(b, b' ' | b'"'));
        let kind = BORDERS.iter().position(|border| ahead == Some(border) || behind == Some(border))?;
        let border = *BORDERS.get(kind)?;
        let line = line_before(bytes, start)?;
        let known = self.known.get_mut(kind)?;

        // Up the lines that have cells, to the line of the last candidate at most.
        let mut block = line;
        while block > 0 {
            if let Some((_, first)) = known.filter(|(last, _)| *last == block) {
                block = first;
                break;
            }
            let Some(above) = line_before(bytes, block - 1) else { break };
            if memchr::memchr(border, bytes.get(above..block)?).is_none() {
                break;
            }
            block = above;
        }
        *known = Some((line, block));
        if block == line {
            return None;
        }
        let heading = bytes.get(block..)?;
        let heading = heading.get(..memchr::memchr(b'\n', heading.get(..heading.len().min(MAX_LINE))?)?)?;
        let column = bytes.get(line..start)?.iter().filter(|&&b| b == border).count();
        let cell = heading.split(|&b| b == border).nth(column)?;
        (!cell.iter().any(u8::is_ascii_digit)).then_some(cell)
    }
}

/// Where the line that `at` stands in starts; `None` if it is too long to be a row.
fn line_before(bytes: &[u8], at: usize) -> Option<usize> {
    let from = at.saturating_sub(MAX_LINE);
    match memchr::memrchr(b'\n', bytes.get(from..at)?) {
        Some(end) => Some(from + end + 1),
        None if from == 0 => Some(0),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heading(text: &str, number: &str) -> Option<String> {
        let start = text.find(number).unwrap();
        let cell = Columns::default().header_of(text.as_bytes(), start, start + number.len());
        cell.map(|c| String::from_utf8_lossy(c).trim().to_owned())
    }

    #[test]
    fn a_cell_knows_its_heading() {
        let sheet = "Staff of 2024\nName\tSSN\tPhone\nAnn\t123\t456\nBob\t789\t555\n";
        assert_eq!(heading(sheet, "789").as_deref(), Some("SSN"));
        assert_eq!(heading(sheet, "555").as_deref(), Some("Phone"));
        assert_eq!(heading("name, ssn\nann, 789\n", "789").as_deref(), Some("ssn"));
        assert_eq!(heading("a;b\n\"1\";\"789\"\n", "789").as_deref(), Some("b"));
    }

    #[test]
    fn prose_has_no_heading() {
        assert_eq!(heading("Dear Ann,\nthe number is 789 now\n", "789"), None);
        assert_eq!(heading("789\tfirst line\n", "789"), None);
        assert_eq!(heading("SSN\tx\n\nother block\n1\t789\n", "789"), None);
    }

    #[test]
    fn a_long_sheet_is_read_once() {
        let sheet = format!("ssn\tname\n{}", "123456789\tx\n".repeat(100_000));
        let mut columns = Columns::default();
        let started = std::time::Instant::now();
        for row in 0..100_000 {
            let at = 9 + row * 12;
            assert_eq!(columns.header_of(sheet.as_bytes(), at, at + 9), Some(&b"ssn"[..]));
        }
        assert!(started.elapsed().as_secs() < 5, "quadratic");
    }

    #[test]
    fn rows_without_candidates_are_not_walked_again_and_again() {
        let mut sheet = "a,b\tc\n".repeat(100_000);
        let at = sheet.len();
        sheet.push_str(&"x,123\ty,456\t\n".repeat(10_000));
        let mut columns = Columns::default();
        let started = std::time::Instant::now();
        for row in 0..10_000 {
            columns.header_of(sheet.as_bytes(), at + row * 13 + 2, at + row * 13 + 5);
            columns.header_of(sheet.as_bytes(), at + row * 13 + 8, at + row * 13 + 11);
        }
        assert!(started.elapsed().as_secs() < 5, "quadratic");
    }
}
