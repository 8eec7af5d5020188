//! What a message consists of.
//!
//! Job: find header facts, body parts and attachments, so that the portal can show a message and fetch one part without
//! reading the rest. Place: made once, when a message is first listed; then kept sealed in its row. Invariants: pure;
//! offsets lie within the message; names are safe to show and to save under. A crash leaves nothing, or a row without a
//! structure, which is made again.

use crate::clean::is_picture_type;
use mail_parser::{Addr, Encoding, HeaderName, Message, MessageParser, MessagePart, MimeHeaders, PartType};
use serde::{Deserialize, Serialize};

/// Longest text or HTML part that is shown; longer ones are offered for download.
const LONGEST_SHOWN: usize = 2 * 1024 * 1024;
/// Attachments that are listed; a message of a million parts still has one page.
const MOST_ATTACHMENTS: usize = 500;
/// Addressees that are listed.
const MOST_ADDRESSEES: usize = 100;
const LONGEST_NAME: usize = 120;
const LONGEST_SUBJECT: usize = 500;

/// The structure of a message.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Structure {
    /// Decoded; empty if there is none.
    pub subject: String,
    /// From.
    pub from: Vec<Person>,
    /// To and Cc.
    pub to: Vec<Person>,
    /// The Date field, seconds since 1970.
    pub date: Option<i64>,
    /// Parts to show, in order.
    pub bodies: Vec<Body>,
    /// Parts to download.
    pub attachments: Vec<Attachment>,
}

/// A display name and an address, either of which may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// As decoded, controls removed.
    pub name: String,
    /// As written.
    pub address: String,
}

impl Person {
    /// The name, or the address where there is none.
    pub fn short(&self) -> &str {
        if self.name.is_empty() { &self.address } else { &self.name }
    }
}

/// A part that is shown: header and body of the part, so that it can be parsed by itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Body {
    /// First octet of the part's header within the message.
    pub start: u64,
    /// Behind the last octet.
    pub end: u64,
}

/// Content-Transfer-Encoding (RFC 2045 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Coding {
    /// 7bit, 8bit, binary.
    Identity,
    /// quoted-printable.
    QuotedPrintable,
    /// base64.
    Base64,
}

/// A part that can be downloaded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attachment {
    /// Safe to show and to save under.
    pub name: String,
    /// The type that the sender claims, lower case, or `application/octet-stream`.
    pub media_type: String,
    /// How it is encoded.
    pub coding: Coding,
    /// First octet of the encoded content within the message.
    pub start: u64,
    /// Behind the last octet.
    pub end: u64,
    /// Decoded length in bytes.
    pub length: u64,
    /// Content-ID without brackets.
    pub content_id: Option<String>,
    /// Whether the HTML shows it in its place, so that it need not be listed.
    #[serde(default)]
    pub inline: bool,
}

impl Structure {
    /// Parses a whole message. Where parts can't be found, or are too many to list, the whole message is an attachment:
    /// nothing that arrived becomes unreachable.
    pub fn parse(octets: &[u8]) -> Self {
        let Some(message) = MessageParser::default().parse(octets) else {
            return Self::unreadable(octets.len() as u64);
        };
        let shown = if message.html_body.is_empty() { &message.text_body } else { &message.html_body };
        let mut bodies = Vec::new();
        let mut attachments = Vec::new();
        for part in shown.iter().filter_map(|id| part(&message, *id)) {
            match &part.body {
                PartType::Text(text) | PartType::Html(text) if text.len() <= LONGEST_SHOWN => {
                    bodies.push(Body { start: part.offset_header.into(), end: part.offset_end.into() });
                }
                PartType::Text(_) | PartType::Html(_) => attachments.push(attachment(part, attachments.len())),
                _ => {}
            }
        }
        for part in message.attachments.iter().filter_map(|id| part(&message, *id)).take(MOST_ATTACHMENTS) {
            let mut attachment = attachment(part, attachments.len());
            attachment.inline = is_picture_type(&attachment.media_type)
                && attachment.content_id.as_ref().is_some_and(|id| shows(&message, shown, id));
            attachments.push(attachment);
        }
        let shown_all = message.attachments.len() <= MOST_ATTACHMENTS;
        if !shown_all || (bodies.is_empty() && attachments.is_empty()) {
            attachments.extend(Self::unreadable(octets.len() as u64).attachments);
        }
        Self {
            subject: one_line(message.subject().unwrap_or_default(), LONGEST_SUBJECT),
            from: people(&message, &[HeaderName::From]),
            to: people(&message, &[HeaderName::To, HeaderName::Cc]),
            date: message.date().map(mail_parser::DateTime::to_timestamp),
            bodies,
            attachments,
        }
    }

    /// A message of `length` bytes that can only be fetched whole.
    pub fn unreadable(length: u64) -> Self {
        let whole = Attachment {
            name: "message.eml".into(),
            media_type: "message/rfc822".into(),
            coding: Coding::Identity,
            start: 0,
            end: length,
            length,
            content_id: None,
            inline: false,
        };
        Self { attachments: vec![whole], ..Self::default() }
    }
}

/// Whether the HTML among these parts shows the picture with this Content-ID.
fn shows(message: &Message<'_>, parts: &[u32], content_id: &str) -> bool {
    let mut html = parts.iter().filter_map(|id| part(message, *id)).filter_map(|part| match &part.body {
        PartType::Html(html) => Some(html),
        _ => None,
    });
    html.any(|html| html.contains(&format!("cid:{content_id}")))
}

fn part<'a, 'x>(message: &'a Message<'x>, id: u32) -> Option<&'a MessagePart<'x>> {
    message.parts.get(usize::try_from(id).ok()?)
}

fn people(message: &Message<'_>, fields: &[HeaderName<'static>]) -> Vec<Person> {
    let person = |addr: &Addr<'_>| Person {
        name: one_line(addr.name().unwrap_or_default(), LONGEST_NAME),
        address: one_line(addr.address().unwrap_or_default(), 254),
    };
    fields
        .iter()
        .filter_map(|field| message.header(field.clone())?.as_address())
        .flat_map(|list| list.iter().map(person).collect::<Vec<_>>())
        .filter(|person| !person.short().is_empty())
        .take(MOST_ADDRESSEES)
        .collect()
}

fn attachment(part: &MessagePart<'_>, number: usize) -> Attachment {
    let media_type = part
        .content_type()
        .map(|t| format!("{}/{}", t.ctype(), t.subtype().unwrap_or_default()).to_ascii_lowercase())
        .filter(|t| is_media_type(t))
        .unwrap_or_else(|| "application/octet-stream".to_owned());
    let encoded = u64::from(part.offset_end.saturating_sub(part.offset_body));
    let (name, length) = match &part.body {
        PartType::Message(nested) => {
            let subject = file_name(nested.subject().unwrap_or_default());
            let name = if subject.is_empty() { "attached message.eml".to_owned() } else { format!("{subject}.eml") };
            (name, encoded)
        }
        other => (file_name(part.attachment_name().unwrap_or_default()), other.len() as u64),
    };
    Attachment {
        name: if name.is_empty() { format!("attachment-{}{}", number + 1, extension(&media_type)) } else { name },
        media_type,
        coding: match part.encoding {
            Encoding::None => Coding::Identity,
            Encoding::QuotedPrintable => Coding::QuotedPrintable,
            Encoding::Base64 => Coding::Base64,
        },
        start: part.offset_body.into(),
        end: part.offset_end.max(part.offset_body).into(),
        length,
        content_id: part.content_id().map(|id| id.trim_matches(['<', '>']).to_owned()),
        inline: false,
    }
}

/// RFC 6838 §4.2 names only, so that a type can stand in a header field.
fn is_media_type(text: &str) -> bool {
    let token = |t: &str| {
        !t.is_empty() && t.len() <= 127 && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
    };
    text.split_once('/').is_some_and(|(kind, sub)| token(kind) && token(sub))
}

fn extension(media_type: &str) -> &'static str {
    match media_type {
        "text/plain" => ".txt",
        "text/html" => ".html",
        "text/calendar" => ".ics",
        "application/pdf" => ".pdf",
        "image/png" => ".png",
        "image/jpeg" => ".jpg",
        "image/gif" => ".gif",
        _ => ".bin",
    }
}

/// Controls, and characters that turn the direction of writing, can make a name look like another one.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// One line of shown text.
fn one_line(text: &str, longest: usize) -> String {
    let text: String = text.chars().map(|c| if c == '\t' || c == '\n' { ' ' } else { c }).collect();
    text.trim().chars().filter(|c| !is_deceptive(*c)).take(longest).collect()
}

/// The last component of a name, without what a file system or shell gives a meaning to.
fn file_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let clean: String =
        last.chars().filter(|c| !is_deceptive(*c)).map(|c| if "<>:\"|?*".contains(c) { '_' } else { c }).collect();
    let clean = clean.trim().trim_start_matches('.').trim_end_matches(['.', ' ']);
    // The extension says what it is: a long name loses its middle.
    let letters: Vec<char> = clean.chars().collect();
    match letters.len() {
        n if n > LONGEST_NAME => letters[..LONGEST_NAME - 12].iter().chain(&letters[n - 12..]).collect(),
        _ => clean.to_owned(),
    }
}

/// A shown part, decoded.
#[derive(Debug, PartialEq, Eq)]
pub enum Shown {
    /// Plain text.
    Text(String),
    /// HTML as it came; it must be cleaned.
    Html(String),
}

/// Decodes the octets of a [`Body`].
pub fn decode_body(octets: &[u8]) -> Option<Shown> {
    let message = MessageParser::default().parse(octets)?;
    match message.parts.into_iter().next()?.body {
        PartType::Text(text) => Some(Shown::Text(text.into_owned())),
        PartType::Html(text) => Some(Shown::Html(text.into_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIXED: &str = "From: =?utf-8?q?J=C3=B6rg?= <joerg@example.org>\r\nTo: a@example.net, B <b@example.net>\r\n\
        Subject: =?utf-8?b?w5xiZXJzaWNodA==?=\r\nDate: Fri, 21 Nov 2025 10:00:00 +0100\r\nMIME-Version: 1.0\r\n\
        Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: multipart/alternative; boundary=y\r\n\r\n\
        --y\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
        Gr=FC=DFe\r\n--y\r\nContent-Type: text/html\r\n\r\n<p>Hello</p>\r\n--y--\r\n--x\r\n\
        Content-Type: application/pdf; name=\"..\\..\\up/report.pdf\"\r\nContent-Transfer-Encoding: base64\r\n\r\n\
        SGVsbG8=\r\n--x\r\nContent-Type: message/rfc822\r\n\r\nSubject: Inner\r\n\r\ninner text\r\n--x--\r\n";

    #[test]
    fn header_bodies_and_attachments_are_found() {
        let structure = Structure::parse(MIXED.as_bytes());
        assert_eq!(structure.subject, "Übersicht");
        assert_eq!(structure.from, [Person { name: "Jörg".into(), address: "joerg@example.org".into() }]);
        assert_eq!(structure.to.len(), 2);
        assert_eq!(structure.date, Some(1_763_715_600));
        let [body] = structure.bodies.as_slice() else { panic!("{structure:?}") };
        let octets = &MIXED.as_bytes()[body.start as usize..body.end as usize];
        assert_eq!(decode_body(octets), Some(Shown::Html("<p>Hello</p>".into())));
        let names: Vec<_> = structure.attachments.iter().map(|a| (a.name.as_str(), a.length)).collect();
        assert_eq!(names[0], ("report.pdf", 5));
        assert_eq!(names[1].0, "Inner.eml");
        let pdf = &structure.attachments[0];
        assert_eq!(MIXED.as_bytes()[pdf.start as usize..pdf.end as usize].trim_ascii(), b"SGVsbG8=");
    }

    #[test]
    fn a_picture_counts_as_shown_only_where_the_html_names_it() {
        for (html, inline) in [("<img src=\"cid:logo@x\">", true), ("<p>none</p>", false)] {
            let octets = format!(
                "Content-Type: multipart/related; boundary=x\r\n\r\n--x\r\nContent-Type: text/html\r\n\r\n{html}\r\n--x\r\n\
                 Content-Type: image/png\r\nContent-ID: <logo@x>\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n--x--\r\n"
            );
            let structure = Structure::parse(octets.as_bytes());
            assert_eq!(structure.attachments[0].inline, inline, "{html}");
        }
    }

    #[test]
    fn a_plain_message_in_a_foreign_charset_is_shown() {
        let octets = b"Subject: x\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\nGr\xfc\xdfe\r\n";
        let structure = Structure::parse(octets);
        let body = &structure.bodies[0];
        let shown = decode_body(&octets[body.start as usize..body.end as usize]).unwrap();
        assert_eq!(shown, Shown::Text("Grüße\r\n".into()));
        assert!(structure.attachments.is_empty());
    }

    #[test]
    fn names_cannot_leave_the_folder_or_pose_as_others() {
        for (name, safe) in [
            ("../../etc/passwd", "passwd"),
            ("C:\\x\\evil.exe", "evil.exe"),
            ("report\u{202e}fdp.exe", "reportfdp.exe"),
            ("a\r\nSet-Cookie: x", "aSet-Cookie_ x"),
            ("...", ""),
            (".bashrc", "bashrc"),
            ("a\"b.txt", "a_b.txt"),
        ] {
            assert_eq!(file_name(name), safe, "{name:?}");
        }
        let long = file_name(&format!("{}.pdf", "x".repeat(400)));
        assert!(long.ends_with(".pdf") && long.chars().count() == LONGEST_NAME);
    }

    #[test]
    fn nonsense_is_still_there_to_download() {
        for octets in [&b""[..], b"\0\0\0", b"no header at all"] {
            let structure = Structure::parse(octets);
            assert_eq!(structure.attachments.len() + structure.bodies.len(), 1, "{octets:?}");
        }
    }

    #[test]
    fn a_million_parts_make_one_page() {
        let mut octets = b"Content-Type: multipart/mixed; boundary=x\r\n\r\n".to_vec();
        for _ in 0..20_000 {
            octets.extend_from_slice(b"--x\r\nContent-Type: application/x\r\n\r\na\r\n");
        }
        let attachments = Structure::parse(&octets).attachments;
        assert_eq!(attachments.len(), MOST_ATTACHMENTS + 1);
        assert_eq!(attachments[MOST_ATTACHMENTS].name, "message.eml");
    }
}
