//! XML, read as a stream of elements and text.
//!
//! Job: well-formed XML without its dangers (threat 11): no external entities, no entity of a document's own, bounded
//! nesting. Place: under the readers of office documents. Invariants: entity references are resolved only if XML itself
//! defines them; what comes before an error has been handed out. A crash leaves nothing.

use super::{Budget, Condition};
use quick_xml::{
    Reader,
    events::{BytesStart, Event},
};
use std::borrow::Cow;

/// Elements inside each other; office documents stay below a hundred.
const MAX_NESTED: u32 = 1024;
/// Events between two looks at the clock.
const STEP: u32 = 4096;

/// A step through a document. Names come without their namespace prefix.
pub(super) enum Node<'a> {
    /// An element begins.
    Open(&'a str, &'a BytesStart<'a>),
    /// Text or CDATA, references resolved.
    Text(&'a str),
    /// An element ends.
    Close(&'a str),
}

/// Decodes and walks `bytes`. The error says why the document was not walked to its end.
pub(super) fn walk(bytes: &[u8], budget: &mut Budget, visit: &mut dyn FnMut(Node<'_>)) -> Result<(), Condition> {
    let text = decoded(bytes);
    let mut reader = Reader::from_str(&text);
    let config = reader.config_mut();
    config.check_end_names = false;
    config.allow_dangling_amp = true;
    let (mut nested, mut steps) = (0u32, 0u32);
    loop {
        steps = steps.wrapping_add(1);
        if steps.is_multiple_of(STEP) && budget.is_expired() {
            return Err(Condition::OverBudget);
        }
        match reader.read_event().map_err(|_| Condition::Malformed)? {
            Event::Start(element) => {
                nested += 1;
                if nested > MAX_NESTED {
                    return Err(Condition::Malformed);
                }
                visit(Node::Open(local(element.name().as_ref()), &element));
            }
            Event::Empty(element) => {
                visit(Node::Open(local(element.name().as_ref()), &element));
                visit(Node::Close(local(element.name().as_ref())));
            }
            Event::End(element) => {
                nested = nested.saturating_sub(1);
                visit(Node::Close(local(element.name().as_ref())));
            }
            Event::Text(text) => visit(Node::Text(&text)),
            Event::CData(data) => visit(Node::Text(&data)),
            Event::GeneralRef(reference) => match resolve(&reference) {
                Some(character) => visit(Node::Text(character.encode_utf8(&mut [0; 4]))),
                None => return Err(Condition::Malformed),
            },
            // No office document has one; with entities in it it is an attack.
            Event::DocType(_) => return Err(Condition::Malformed),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => return Ok(()),
        }
    }
}

/// The value of an attribute by its name without prefix.
pub(super) fn attribute(element: &BytesStart<'_>, name: &str) -> Option<String> {
    let found = element.attributes().flatten().find(|attribute| local(attribute.key.as_ref()) == name)?;
    let mut value = String::new();
    super::entities::decode_into(&found.value, &mut value);
    Some(value)
}

fn decoded(bytes: &[u8]) -> Cow<'_, str> {
    let label = if super::charset::looks_wide(bytes).is_some() { "utf-16" } else { "utf-8" };
    let text = super::charset::decode(bytes, label).text;
    match text.strip_prefix('\u{feff}') {
        Some(rest) => Cow::Owned(rest.to_owned()),
        None => text,
    }
}

fn local(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(_, local)| local)
}

/// The five names of XML 1.0 §4.6, and numbers.
fn resolve(reference: &str) -> Option<char> {
    match reference {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "apos" => Some('\''),
        "quot" => Some('"'),
        _ => {
            let number = reference.strip_prefix('#')?;
            let code = match number.strip_prefix('x') {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(xml: &str) -> (String, Result<(), Condition>) {
        let mut out = String::new();
        let result = walk(xml.as_bytes(), &mut Budget::unhurried(), &mut |node| {
            if let Node::Text(text) = node {
                out.push_str(text);
            }
        });
        (out, result)
    }

    #[test]
    fn references_and_cdata_are_text() {
        assert_eq!(text("<a>4&#49;<b>&#x31;</b><![CDATA[1]]>&amp;</a>"), ("4111&".to_owned(), Ok(())));
    }

    #[test]
    fn a_billion_laughs_is_malformed_before_it_grows() {
        let bomb = "<!DOCTYPE a [<!ENTITY l \"lol\"><!ENTITY m \"&l;&l;&l;\">]><a>&m;</a>";
        assert_eq!(text(bomb), (String::new(), Err(Condition::Malformed)));
    }

    #[test]
    fn external_entities_are_malformed() {
        assert_eq!(text("<!DOCTYPE a SYSTEM \"file:///etc/passwd\"><a/>").1, Err(Condition::Malformed));
        assert_eq!(text("<a>4111&secret;</a>"), ("4111".to_owned(), Err(Condition::Malformed)));
    }

    #[test]
    fn endless_nesting_is_malformed() {
        assert_eq!(text(&"<a>".repeat(100_000)).1, Err(Condition::Malformed));
    }
}
