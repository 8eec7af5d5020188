//! Text as a browser lets it flow.
//!
//! Job: collapse white space, end lines at blocks, put cells on a row. Place: under the HTML reader. Invariants: only
//! white space is ever dropped. A crash leaves nothing.

use super::entities;

/// Text under way, with white space collapsed.
#[derive(Clone, Debug, Default)]
pub(super) struct Output {
    pub text: String,
    space: bool,
}

impl Output {
    fn at_start(&self) -> bool {
        matches!(self.text.as_bytes().last(), None | Some(b'\n' | b'\t'))
    }

    /// Appends a run of text between tags.
    pub fn push(&mut self, run: &str, preformatted: bool) {
        if preformatted {
            return entities::decode_into(run, &mut self.text);
        }
        let mut rest = run;
        while !rest.is_empty() {
            let words = rest.trim_ascii_start();
            self.space |= words.len() < rest.len();
            if words.is_empty() {
                break;
            }
            if self.space && !self.at_start() {
                self.text.push(' ');
            }
            self.space = false;
            let (line, tail) = words.split_at(end_of_words(words.as_bytes()));
            entities::decode_into(line, &mut self.text);
            rest = tail;
        }
    }

    /// Ends the line, if one has begun.
    pub fn line(&mut self) {
        self.space = false;
        if !self.at_start() {
            self.text.push('\n');
        }
    }

    /// Starts a cell on the row of the one before, whatever blocks stood in that.
    pub fn cell(&mut self) {
        self.space = false;
        let length = self.text.trim_end_matches('\n').len();
        if length > 0 {
            self.text.truncate(length);
            self.text.push('\t');
        }
    }
}

/// Octets up to white space that must be collapsed: anything but a single blank.
fn end_of_words(text: &[u8]) -> usize {
    let mut blank = false;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'\n' | b'\r' | b'\t' | 0x0c => return at - usize::from(blank),
            b' ' if blank => return at - 1,
            b' ' => blank = true,
            _ => blank = false,
        }
    }
    text.len() - usize::from(blank)
}
