//! Digit runs that may be one number.
//!
//! Job: join runs that only separators part into chains, and say of each stretch of a chain how it is written. Place:
//! second half of the one pass, on the few runs that digits make. Invariants: a chain is bounded in memory; a stretch
//! begins and ends where a run does, so no number is cut out of a longer one. A crash leaves nothing.

/// Bytes between two runs of one number: ` - ` and a line end with a quote mark fit.
const MAX_GAP: usize = 6;
/// Digits of the longest number that is looked for (cards: ISO/IEC 7812-1).
pub(super) const MAX_DIGITS: usize = 19;
/// Runs of one chain that are looked at together; a longer chain is cut with an overlap of [`MAX_DIGITS`] runs.
pub(super) const MAX_RUNS: usize = 512;

/// How two runs are parted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gap {
    Space,
    Dash,
    Dot,
    Slash,
    Underscore,
    /// Tab, bar or several spaces: the border of two cells.
    Cell,
    /// A line end, with nothing but white space and quote marks around it.
    Line,
    Comma,
    /// Several kinds, or brackets.
    Mixed,
}

/// Two runs of one number, or not.
pub(super) fn gap(bytes: &[u8]) -> Option<Gap> {
    if bytes.len() > MAX_GAP {
        return None;
    }
    // `6789. 5`: the end of a sentence.
    if let [b'.', b' ' | b'\r' | b'\n', ..] = bytes {
        return None;
    }
    let (mut mark, mut line, mut cell) = (None, false, false);
    for &b in bytes {
        let kind = match b {
            // A control octet is shown as nothing, a box or a blank.
            b' ' | 0..=8 | 0x0e..=0x1f | 0x7f => continue,
            b'\n' | b'\r' | 0x0b | 0x0c => {
                line = true;
                continue;
            }
            b'\t' | b'|' => {
                cell = true;
                continue;
            }
            b'>' if line => continue,
            b'-' => Gap::Dash,
            b'.' => Gap::Dot,
            b'/' => Gap::Slash,
            b'_' => Gap::Underscore,
            b',' => Gap::Comma,
            b'(' | b')' | b'*' | b'+' => Gap::Mixed,
            _ => return None,
        };
        mark = Some(match mark {
            None => kind,
            Some(_) => Gap::Mixed,
        });
    }
    Some(match (mark, line, cell) {
        (Some(kind), _, _) => kind,
        (None, true, _) => Gap::Line,
        (None, false, true) => Gap::Cell,
        // Columns of plain text.
        (None, false, false) if bytes.len() > 2 => Gap::Cell,
        (None, false, false) => Gap::Space,
    })
}

/// How the runs of a stretch are parted from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One run.
    Single,
    /// One kind of gap, line ends aside.
    Uniform(Gap),
    /// Several kinds.
    Mixed,
}

/// A stretch of a chain, written out.
#[derive(Clone, Debug)]
pub(super) struct Number {
    /// Where it starts in the folded text.
    pub(super) start: usize,
    /// Where it ends.
    pub(super) end: usize,
    digits: [u8; MAX_DIGITS],
    len: usize,
    groups: [u8; MAX_DIGITS],
    group_count: usize,
    /// Group lengths with what is parted by line ends alone taken together.
    glued: [u8; MAX_DIGITS],
    glued_count: usize,
    /// How it is written.
    pub(super) shape: Shape,
    /// Whether all gaps are one byte.
    tight: bool,
    /// Whether its neighbours look like more of the same token, so that it is a piece of something else.
    pub(super) embedded: bool,
}

impl Number {
    /// 0–9 each.
    pub(super) fn digits(&self) -> &[u8] {
        self.digits.get(..self.len).unwrap_or_default()
    }

    /// Whether it is grouped like this; by line ends too.
    pub(super) fn is_grouped(&self, lengths: &[u8]) -> bool {
        self.groups.get(..self.group_count) == Some(lengths)
    }

    /// Whether it is grouped like this once line ends inside groups are taken out.
    pub(super) fn is_grouped_over_lines(&self, lengths: &[u8]) -> bool {
        self.glued_count < self.group_count && self.glued.get(..self.glued_count) == Some(lengths)
    }

    /// Whether all groups but the last have the same length, `1`, `2`, ….
    pub(super) fn even_groups(&self) -> Option<u8> {
        let (&first, rest) = self.groups.get(..self.group_count)?.split_first()?;
        let (&last, inner) = rest.split_last()?;
        (inner.iter().all(|&g| g == first) && last <= first).then_some(first)
    }

    /// Whether all digits are the same.
    pub(super) fn is_one_digit(&self) -> bool {
        self.digits().windows(2).all(|pair| matches!(pair, [a, b] if a == b))
    }
}

/// Runs in the order found, each with the gap before it.
#[derive(Debug, Default)]
pub(super) struct Chain {
    runs: Vec<(usize, usize, Option<Gap>)>,
    digits: usize,
    /// Runs at the start whose numbers have been looked at.
    done: usize,
}

impl Chain {
    pub(super) fn clear(&mut self) {
        self.runs.clear();
        self.digits = 0;
        self.done = 0;
    }

    pub(super) fn push(&mut self, start: usize, end: usize, gap: Option<Gap>) {
        self.digits += end - start;
        self.runs.push((start, end, gap));
    }

    /// Digits of all runs.
    pub(super) fn digits(&self) -> usize {
        self.digits
    }

    /// Number of runs.
    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    /// The runs: start, end, gap before.
    pub(super) fn runs(&self) -> &[(usize, usize, Option<Gap>)] {
        &self.runs
    }

    /// First runs of the numbers to look at now. Where the chain goes on (`open`), those whose numbers may reach beyond its
    /// end are left for later.
    pub(super) fn starts(&self, open: bool) -> std::ops::Range<usize> {
        let end = if open { self.runs.len().saturating_sub(MAX_DIGITS) } else { self.runs.len() };
        self.done..end.max(self.done)
    }

    /// Whether the chain's own first run is still there.
    pub(super) fn is_from_the_start(&self) -> bool {
        self.done == 0
    }

    /// Drops what [`Chain::starts`] named, but for one run, by which the next knows its neighbour.
    pub(super) fn keep_tail(&mut self) {
        let cut = self.runs.len().saturating_sub(MAX_DIGITS + 1);
        self.runs.drain(..cut);
        self.done = usize::from(cut > 0);
        self.digits = self.runs.iter().map(|(start, end, _)| end - start).sum();
    }

    /// The stretch from run `first` to run `last`.
    pub(super) fn number(&self, bytes: &[u8], first: usize, last: usize) -> Option<Number> {
        let runs = self.runs.get(first..=last)?;
        let (&(start, ..), &(_, end, _)) = (runs.first()?, runs.last()?);
        let mut number = Number {
            start,
            end,
            digits: [0; MAX_DIGITS],
            len: 0,
            groups: [0; MAX_DIGITS],
            group_count: 0,
            glued: [0; MAX_DIGITS],
            glued_count: 0,
            shape: Shape::Single,
            tight: true,
            embedded: false,
        };
        let mut previous = start;
        for (n, &(from, to, gap)) in runs.iter().enumerate() {
            let length = u8::try_from(to - from).ok()?;
            for &b in bytes.get(from..to)? {
                *number.digits.get_mut(number.len)? = b - b'0';
                number.len += 1;
            }
            *number.groups.get_mut(n)? = length;
            number.group_count = n + 1;
            if n > 0 && gap == Some(Gap::Line) {
                *number.glued.get_mut(number.glued_count.checked_sub(1)?)? += length;
            } else {
                *number.glued.get_mut(number.glued_count)? = length;
                number.glued_count += 1;
            }
            if n > 0 {
                number.tight &= from - previous == 1;
                number.shape = match (number.shape, gap.unwrap_or(Gap::Mixed)) {
                    (Shape::Single, kind) => Shape::Uniform(kind),
                    // A line may end inside a number, but not inside an amount (`534.09`, and `1616` below).
                    (Shape::Uniform(Gap::Line), kind @ (Gap::Dash | Gap::Space | Gap::Cell)) => Shape::Uniform(kind),
                    (Shape::Uniform(kind @ (Gap::Dash | Gap::Space | Gap::Cell)), Gap::Line) => Shape::Uniform(kind),
                    (Shape::Uniform(kind), other) if kind == other => Shape::Uniform(kind),
                    _ => Shape::Mixed,
                };
            }
            previous = to;
        }
        number.embedded = token_before(bytes, start)
            || token_after(bytes, end)
            || first.checked_sub(1).is_some_and(|left| self.joined(left, left, &number))
            || self.joined(last, last + 1, &number);
        Some(number)
    }

    /// Whether the runs `left` and `left + 1` are pieces of the same token, one of them in `number`, the other not.
    fn joined(&self, left: usize, outside: usize, number: &Number) -> bool {
        let (Some(a), Some(b), Some(other)) = (self.runs.get(left), self.runs.get(left + 1), self.runs.get(outside))
        else {
            return false;
        };
        let Some(gap) = b.2 else { return false };
        let tight = b.0 - a.1 == 1;
        match gap {
            Gap::Line | Gap::Comma | Gap::Mixed => false,
            // What stands beside a number is another number, unless both are even pieces of something longer.
            Gap::Cell | Gap::Space => {
                number.shape == Shape::Uniform(gap)
                    && number.groups.first().is_some_and(|&g| usize::from(g) == other.1 - other.0)
            }
            Gap::Dash | Gap::Dot | Gap::Slash | Gap::Underscore => {
                tight || number.shape == Shape::Uniform(gap) && !number.tight
            }
        }
    }
}

/// Whether what stands before a run makes it part of a longer token: a letter, a money or decimal mark, `a716-`.
fn token_before(bytes: &[u8], start: usize) -> bool {
    let before = bytes.get(..start).unwrap_or_default();
    let Some((&last, rest)) = before.split_last() else { return false };
    match last {
        b if b.is_ascii_alphanumeric() => true,
        b'$' | b'+' | b'%' => true,
        // A word before the mark is a label (`SSN-123…`); a word with digits is more of the same token.
        b'-' | b'.' | b'/' | b'_' => has_digit(rest.iter().rev()),
        _ => before.ends_with("€".as_bytes()) || before.ends_with("£".as_bytes()),
    }
}

/// The same behind a run.
fn token_after(bytes: &[u8], end: usize) -> bool {
    match bytes.get(end..).unwrap_or_default() {
        [b, ..] if b.is_ascii_alphanumeric() => true,
        [b'%' | b'@', ..] => true,
        [b'_' | b'-', rest @ ..] => has_digit(rest.iter()),
        _ => false,
    }
}

/// Whether the word that `bytes` starts with holds a digit.
fn has_digit<'b>(bytes: impl Iterator<Item = &'b u8>) -> bool {
    bytes.take(40).take_while(|b| b.is_ascii_alphanumeric()).any(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_octet_parts_runs_like_a_blank_and_no_number_from_itself() {
        for control in (0..=8u8).chain(0x0e..=0x1f).chain([0x7f]) {
            assert_eq!(gap(&[control]), Some(Gap::Space), "{control:#x}");
            assert_eq!(gap(&[control, b'-']), Some(Gap::Dash), "{control:#x}");
        }
        assert_eq!([gap(b"\x0b"), gap(b"\x0c"), gap(b"\t")], [Some(Gap::Line), Some(Gap::Line), Some(Gap::Cell)]);
        assert_eq!([gap(b"x"), gap(b"\0\0\0\0\0\0\0")], [None, None]);
    }
}
