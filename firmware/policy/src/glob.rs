//! Globs of the settings: `*` any text, `?` any one character.
//!
//! Job: match names and types against what an operator wrote. Place: inside rules. Invariants: compared without case;
//! time is at most pattern × text, whatever both hold. A crash leaves nothing.

/// A glob, ready to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob(Vec<char>);

impl Glob {
    pub(crate) fn new(pattern: &str) -> Self {
        Self(pattern.to_lowercase().chars().collect())
    }

    /// Whether the whole of `text` matches.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.to_lowercase().chars().collect();
        let (mut p, mut t) = (0, 0);
        // Where to go back to: behind the last `*`, and the place in the text that it is tried at.
        let mut star: Option<(usize, usize)> = None;
        while let Some(&c) = text.get(t) {
            match self.0.get(p) {
                Some('*') => {
                    p += 1;
                    star = Some((p, t));
                }
                Some(&wanted) if wanted == '?' || wanted == c => {
                    p += 1;
                    t += 1;
                }
                _ => match star {
                    Some((behind, tried)) => {
                        p = behind;
                        t = tried + 1;
                        star = Some((behind, t));
                    }
                    None => return false,
                },
            }
        }
        self.0.iter().skip(p).all(|&c| c == '*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_stand_for_text() {
        for (pattern, text, expected) in [
            ("*.pdf", "Report.PDF", true),
            ("*.pdf", "report.pdf.exe", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("?", "", false),
            ("r?port*", "Report 2024", true),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxbxxcx", false),
            ("image/*", "image/png", true),
            ("image/*", "text/image", false),
            ("*ß?", "straßE", true),
            ("a*", "a*", true),
        ] {
            assert_eq!(Glob::new(pattern).matches(text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn a_glob_of_many_stars_ends() {
        let text = "a".repeat(5_000);
        assert!(!Glob::new(&format!("{}b", "*a".repeat(200))).matches(&text));
    }
}
