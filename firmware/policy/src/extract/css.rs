//! As much of style sheets as decides what of an HTML text is seen, and where.
//!
//! Job: tell hidden elements, and blocks that stand side by side. Place: under the HTML reader. Invariants: only adds
//! views; what is judged hidden by mistake is still in the text. A crash leaves nothing.

/// Names of one document that its sheets hide; more are not remembered.
const MAX_NAMES: usize = 256;

/// What declarations do to an element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// Taken out of sight.
    pub hidden: bool,
    /// Put beside its neighbours, like a cell.
    pub beside: bool,
}

/// The effect of the declarations of a `style` attribute or a rule.
pub(super) fn effect(declarations: &str) -> Effect {
    let mut effect = Effect::default();
    for declaration in declarations.split(';') {
        let Some((property, value)) = declaration.split_once(':') else { continue };
        let (property, value) = (property.trim_ascii(), value.trim_ascii());
        let named = |name: &str| property.eq_ignore_ascii_case(name);
        let begins = |word: &str| value.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
        match property.len() {
            5 if named("width") => effect.hidden |= is_zero(value),
            5 if named("float") => effect.beside |= begins("left") || begins("right"),
            6 if named("height") => effect.hidden |= is_zero(value),
            7 if named("display") => {
                effect.hidden |= begins("none");
                effect.beside |= begins("inline") || begins("table-cell");
            }
            7 if named("opacity") => effect.hidden |= is_zero(value),
            8 if named("mso-hide") => effect.hidden |= begins("all"),
            9 if named("font-size") => effect.hidden |= is_zero(value),
            10 if named("visibility") => effect.hidden |= begins("hidden") || begins("collapse"),
            10 if named("max-height") => effect.hidden |= is_zero(value),
            _ => {}
        }
    }
    effect
}

/// `0`, `0px`, `.0em`, but not `0.5`.
fn is_zero(value: &str) -> bool {
    let digits = value.trim_start_matches(['0', '.']);
    digits.len() < value.len() && !digits.starts_with(|c: char| c.is_ascii_digit())
}

/// Classes and ids that style sheets hide.
#[derive(Debug, Default)]
pub(super) struct HiddenNames(Vec<String>);

impl HiddenNames {
    /// Takes a style sheet; hands rules that generate text to `generated`.
    pub fn read(&mut self, sheet: &str, mut generated: impl FnMut(&str)) {
        for rule in sheet.split('}') {
            let Some((selectors, body)) = rule.rsplit_once('{') else { continue };
            if body.contains("content") {
                generated(rule);
            }
            if !effect(body).hidden {
                continue;
            }
            for selector in selectors.split(',').map(str::trim) {
                // Only what names the element itself: `.q`, `span.q`, `#z`.
                let name = selector.get(selector.find(['.', '#']).unwrap_or(selector.len())..).unwrap_or_default();
                if name.len() > 1 && !name.contains([' ', ':', '>', '[']) && self.0.len() < MAX_NAMES {
                    self.0.push(name.to_owned());
                }
            }
        }
    }

    /// Whether one of the classes is hidden.
    pub fn hide_class(&self, classes: &str) -> bool {
        !self.0.is_empty() && classes.split_ascii_whitespace().any(|class| self.hide('.', class))
    }

    /// Whether the id is hidden.
    pub fn hide_id(&self, id: &str) -> bool {
        self.hide('#', id)
    }

    fn hide(&self, mark: char, name: &str) -> bool {
        self.0.iter().any(|hidden| hidden.strip_prefix(mark) == Some(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_is_told_from_shown() {
        for style in [
            "display:none",
            "color:red; DISPLAY : none !important",
            "visibility:hidden",
            "font-size:0",
            "font-size: 0px",
            "opacity:0.0",
            "mso-hide:all",
            "max-height:0;overflow:hidden",
        ] {
            assert!(effect(style).hidden, "{style}");
        }
        for style in ["", "display:block", "font-size:0.5em", "opacity:.9", "line-height:0", "max-width:0", "margin:0"]
        {
            assert!(!effect(style).hidden, "{style}");
        }
    }

    #[test]
    fn names_hidden_by_a_sheet_are_known() {
        let mut names = HiddenNames::default();
        names.read("p{color:red} .q, b.r , #z{display:none} .s:hover{display:none} .t{width:100%}", |_| ());
        assert!(names.hide_class("a q") && names.hide_class("r") && names.hide_id("z"));
        assert!(!names.hide_class("p s t z") && !names.hide_id("q"));
    }
}
