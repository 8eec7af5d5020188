//! What a terminal on the serial port shows.
//!
//! Job: the screen after so much of the console's output, as lines for tests and as a picture for the README. Place: on
//! top of what `serial` logged. Invariants: the same bytes give the same picture. A crash leaves nothing.

use std::{fmt::Write, num::NonZero};

const ROWS: u16 = 24;
const COLUMNS: u16 = 80;
const TERMINAL: (NonZero<u16>, NonZero<u16>) = (NonZero::new(ROWS).unwrap(), NonZero::new(COLUMNS).unwrap());
/// Of one character in the picture, pixels.
const CELL: (u16, u16) = (9, 18);
/// Between the picture's edge and the first character, pixels.
const EDGE: u16 = 24;

/// A screen of 24 lines by 80.
pub struct Screen(vt100::Parser);

impl Screen {
    /// The screen once a terminal has taken `output`.
    #[must_use]
    pub fn after(output: &[u8]) -> Self {
        let mut terminal = vt100::Parser::new(TERMINAL.0, TERMINAL.1, 0);
        terminal.process(output);
        Self(terminal)
    }

    /// The lines, without what is blank at their ends.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.0.screen().rows(0, COLUMNS).map(|row| row.trim_end().to_owned()).collect()
    }

    /// All of it as one text: what is wrapped over two lines is one, with one blank between words.
    #[must_use]
    pub fn words(&self) -> String {
        self.lines().join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// As a picture in SVG, `label` for those who can't see it.
    #[must_use]
    pub fn picture(&self, label: &str) -> String {
        let (wide, high) = (COLUMNS * CELL.0 + 2 * EDGE, ROWS * CELL.1 + 2 * EDGE);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{wide}\" height=\"{high}\" viewBox=\"0 0 {wide} {high}\" \
             role=\"img\" aria-label=\"{}\">\n<rect width=\"{wide}\" height=\"{high}\" rx=\"14\" fill=\"#2b2f33\"/>\n\
             <rect x=\"10\" y=\"10\" width=\"{}\" height=\"{}\" rx=\"8\" fill=\"#101410\"/>\n\
             <g font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"14.9\">\n",
            escaped(label),
            wide - 20,
            high - 20
        );
        for row in 0..ROWS {
            for run in self.runs(row) {
                let (x, y) = (EDGE + run.from * CELL.0, EDGE + row * CELL.1);
                let width = run.cells * CELL.0;
                if run.inverse {
                    let _ = writeln!(
                        svg,
                        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{}\" fill=\"#c8d0c8\"/>",
                        CELL.1
                    );
                }
                if run.text.trim().is_empty() {
                    continue;
                }
                let colour = match (run.inverse, run.bold) {
                    (true, _) => "#101410",
                    (false, true) => "#f4faf4",
                    (false, false) => "#b4c0b4",
                };
                let _ = writeln!(
                    svg,
                    "<text x=\"{x}\" y=\"{}\" fill=\"{colour}\" xml:space=\"preserve\" textLength=\"{width}\">{}</text>",
                    y + 14,
                    escaped(&run.text)
                );
            }
        }
        svg.push_str("</g>\n</svg>\n");
        svg
    }

    /// One line cut where its looks change.
    fn runs(&self, row: u16) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for column in 0..COLUMNS {
            let Some(cell) = self.0.screen().cell(row, column) else { continue };
            let text = if cell.has_contents() { cell.contents() } else { " " };
            match runs.last_mut() {
                Some(last) if (last.inverse, last.bold) == (cell.inverse(), cell.bold()) => {
                    last.text.push_str(text);
                    last.cells += 1;
                }
                _ => runs.push(Run {
                    from: column,
                    cells: 1,
                    inverse: cell.inverse(),
                    bold: cell.bold(),
                    text: text.to_owned(),
                }),
            }
        }
        runs
    }
}

struct Run {
    from: u16,
    cells: u16,
    inverse: bool,
    bold: bool,
    text: String,
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &[u8] = b"firmware\r\nlines\x1b[2J\x1b[1;1H\x1b[7m Postern \x1b[0m\x1b[3;2HAddress <dhcp> & name";

    #[test]
    fn a_picture_holds_what_a_terminal_shows_and_is_well_formed() {
        let screen = Screen::after(OUTPUT);
        let lines = screen.lines();
        assert_eq!(
            (lines[0].as_str(), lines[1].as_str(), lines[2].as_str()),
            (" Postern", "", " Address <dhcp> & name")
        );
        let picture = screen.picture("a \"screen\"");
        assert!(picture.contains("Address &lt;dhcp&gt; &amp; name"), "{picture}");
        assert!(picture.contains("aria-label=\"a &quot;screen&quot;\""));
        assert_eq!(picture.matches("<text").count(), picture.matches("</text>").count());
        assert_eq!(picture.matches("#c8d0c8").count(), 1, "one run is inverse");
    }
}
