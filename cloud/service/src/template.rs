//! Notice templates with a closed set of variables.
//!
//! Job: make sure by machine that a notice can only ever say what it may: who sent, where to read, until when. Place:
//! compiled at start, rendered for each notice. Invariants: a template with any other variable does not compile; values
//! are escaped for the format they go to. A crash leaves nothing.

use std::fmt::Write;

/// What a template may name. There is deliberately nothing here about subject, text, attachments or addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variable {
    Organisation,
    Link,
    Expires,
}

/// The values.
pub struct Values<'a> {
    /// Name of the sending organisation.
    pub organisation: &'a str,
    /// Link to the portal.
    pub link: &'a str,
    /// Until when the link can be used.
    pub expires: &'a str,
}

/// A template that can't be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Not one of the allowed names.
    #[error("the notice template names {0:?}; it may name organisation, link and expires only")]
    Unknown(String),
    /// `{{` without `}}`.
    #[error("the notice template has an open {{{{; close it with }}}}")]
    Open,
}

/// Whether values are escaped for HTML.
#[derive(Clone, Copy)]
pub enum Format {
    /// `text/plain`, header fields.
    Text,
    /// `text/html`.
    Html,
}

#[derive(Debug)]
enum Piece {
    Text(String),
    Value(Variable),
}

/// A compiled template.
#[derive(Debug)]
pub struct Template(Vec<Piece>);

impl Template {
    /// Compiles `text`; variables stand as `{{name}}`.
    ///
    /// # Errors
    /// An unknown variable, or an unclosed one.
    pub fn compile(mut text: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        while let Some((before, rest)) = text.split_once("{{") {
            let (name, after) = rest.split_once("}}").ok_or(TemplateError::Open)?;
            let variable = match name.trim() {
                "organisation" => Variable::Organisation,
                "link" => Variable::Link,
                "expires" => Variable::Expires,
                other => return Err(TemplateError::Unknown(other.chars().take(60).collect())),
            };
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(Piece::Value(variable));
            text = after;
        }
        pieces.push(Piece::Text(text.to_owned()));
        Ok(Self(pieces))
    }

    /// The text with its values. Values are not looked at for variables again.
    pub fn render(&self, format: Format, values: &Values<'_>) -> String {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Value(variable) => {
                    let value = match variable {
                        Variable::Organisation => values.organisation,
                        Variable::Link => values.link,
                        Variable::Expires => values.expires,
                    };
                    match format {
                        Format::Text => out.extend(value.chars().filter(|c| !c.is_control())),
                        Format::Html => escape(value, &mut out),
                    }
                }
            }
        }
        out
    }
}

fn escape(value: &str, out: &mut String) {
    for c in value.chars().filter(|c| !c.is_control()) {
        match c {
            '&' | '<' | '>' | '"' | '\'' => {
                // Writing to a String does not fail.
                let _ = write!(out, "&#{};", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: Values<'_> =
        Values { organisation: "A <b> & {{link}}\r\nBcc: x", link: "https://x/m/1", expires: "May" };

    #[test]
    fn a_template_that_would_tell_more_is_refused() {
        for name in ["subject", "recipient", "address", "text", "attachment", "sender", "Organisation", "", "link.x"] {
            let error = Template::compile(&format!("Hello {{{{{name}}}}}")).unwrap_err();
            assert_eq!(error, TemplateError::Unknown(name.to_owned()));
        }
        assert_eq!(Template::compile("{{link").unwrap_err(), TemplateError::Open);
    }

    #[test]
    fn values_are_escaped_and_not_read_as_a_template() {
        let template = Template::compile("{{ organisation }}|{{link}}").unwrap();
        let html = template.render(Format::Html, &VALUES);
        assert_eq!(html, "A &#60;b&#62; &#38; {{link}}Bcc: x|https://x/m/1");
        assert_eq!(template.render(Format::Text, &VALUES), "A <b> & {{link}}Bcc: x|https://x/m/1");
    }
}
