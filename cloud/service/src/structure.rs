//! What a message consists of.
//!
//! Job: find header facts, body parts and attachments, so that the portal can show a message and fetch one part without
//! reading the rest. Place: made once, when a message is first listed; then kept sealed in its row. Invariants: pure;
//! offsets lie within the message; names are safe to show and to save under. A crash leaves nothing, or a row without a
//! structure, which is made again.

use crate::clean::is_picture_type;
use mail_parser::{Addr, Encoding, HeaderName, Message, MessageParser, MessagePart, MimeHeaders, PartType};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Most text and HTML that a page shows, decoded, all parts together; what is beyond is offered for download.
const LONGEST_SHOWN: usize = 2 * 1024 * 1024;
/// The same as it came: quoted-printable takes three octets for one, and no coding needs more.
const LONGEST_ENCODED: u64 = 3 * LONGEST_SHOWN as u64;
/// Parts that a page shows.
const MOST_SHOWN: usize = 20;
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
    /// How often parsing began and has not ended; 0 once it has.
    #[serde(default)]
    pub unfinished: u8,
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
        let flat = flattened(octets);
        let parser = MessageParser::default();
        let (Some(header), Some(message)) = (parser.parse_headers(octets), parser.parse(flat.as_ref())) else {
            return Self::unreadable(octets.len() as u64);
        };
        let page = Page::of(&message);
        let listed = page.beyond.len() + message.attachments.len();
        let mut attachments = Vec::new();
        let others = message.attachments.iter().filter_map(|id| part(&message, *id));
        for part in page.beyond.iter().copied().chain(others).take(MOST_ATTACHMENTS) {
            let mut attachment = attachment(part, attachments.len());
            attachment.inline = is_picture_type(&attachment.media_type)
                && attachment.content_id.as_ref().is_some_and(|id| page.shows(id));
            attachments.push(attachment);
        }
        if listed > MOST_ATTACHMENTS || (page.shown.is_empty() && attachments.is_empty()) {
            attachments.extend(Self::unreadable(octets.len() as u64).attachments);
        }
        Self {
            subject: one_line(header.subject().unwrap_or_default(), LONGEST_SUBJECT),
            from: people(&header, &[HeaderName::From]),
            to: people(&header, &[HeaderName::To, HeaderName::Cc]),
            date: header.date().map(mail_parser::DateTime::to_timestamp),
            bodies: page.shown.iter().map(|part| part_body(part)).collect(),
            attachments,
            unfinished: 0,
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

/// The text and HTML parts of a message, as far as one page holds them.
struct Page<'a, 'x> {
    shown: Vec<&'a MessagePart<'x>>,
    beyond: Vec<&'a MessagePart<'x>>,
}

impl<'a, 'x> Page<'a, 'x> {
    fn of(message: &'a Message<'x>) -> Self {
        let parts = if message.html_body.is_empty() { &message.text_body } else { &message.html_body };
        let (mut room, mut encoded_room) = (LONGEST_SHOWN, LONGEST_ENCODED);
        let mut page = Self { shown: Vec::new(), beyond: Vec::new() };
        for part in parts.iter().filter_map(|id| part(message, *id)) {
            let (PartType::Text(text) | PartType::Html(text)) = &part.body else { continue };
            let Body { start, end } = part_body(part);
            let encoded = end.saturating_sub(start);
            if page.shown.len() < MOST_SHOWN && text.len() <= room && encoded <= encoded_room {
                room -= text.len();
                encoded_room -= encoded;
                page.shown.push(part);
            } else {
                page.beyond.push(part);
            }
        }
        page
    }

    /// Whether the HTML shows the picture with this Content-ID.
    fn shows(&self, content_id: &str) -> bool {
        let name = format!("cid:{content_id}");
        self.shown.iter().any(|part| matches!(&part.body, PartType::Html(html) if html.contains(&name)))
    }
}

fn part_body(part: &MessagePart<'_>) -> Body {
    Body { start: part.offset_header.into(), end: part.offset_end.into() }
}

/// Stands for the first letter of a subtype in [`flattened`] octets; no type can hold it.
const MARK: u8 = 0x1a;

/// The octets, of the same length, with the types of nested messages made unknown. The parser would open those at any
/// depth, and then walk through them by recursion: a mail of 3 MB ends the process (stack overflow). Unknown types are
/// left closed, which is all that a page needs.
fn flattened(octets: &[u8]) -> Cow<'_, [u8]> {
    let mut flat = Cow::Borrowed(octets);
    for (at, _) in octets.iter().enumerate().filter(|(_, octet)| b"rRgGdD".contains(octet)) {
        let (before, rest) = octets.split_at(at);
        if is_nesting(before, rest)
            && let Some(octet) = flat.to_mut().get_mut(at)
        {
            *octet = MARK;
        }
    }
    flat
}

/// Whether a nesting subtype starts here: behind `message/` or `multipart/`, or behind anything that ends like a comment,
/// which may stand between (RFC 5322 §3.2.2).
fn is_nesting(before: &[u8], rest: &[u8]) -> bool {
    let ends_with = |text: &[u8], end: &[u8]| {
        text.len().checked_sub(end.len()).and_then(|at| text.get(at..)).is_some_and(|t| t.eq_ignore_ascii_case(end))
    };
    let nesting: [&[u8]; 3] = [b"rfc822", b"global", b"digest"];
    if !rest.get(..6).is_some_and(|subtype| nesting.iter().any(|n| subtype.eq_ignore_ascii_case(n))) {
        return false;
    }
    match before.trim_ascii_end().split_last() {
        Some((b')', _)) => true,
        Some((b'/', front)) => {
            let front = front.trim_ascii_end();
            front.ends_with(b")") || ends_with(front, b"message") || ends_with(front, b"multipart")
        }
        _ => false,
    }
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
        .map(|t| t.replace("\u{1a}fc822", "rfc822").replace("\u{1a}lobal", "global"))
        .filter(|t| is_media_type(t))
        .unwrap_or_else(|| "application/octet-stream".to_owned());
    let encoded = u64::from(part.offset_end.saturating_sub(part.offset_body));
    let (name, length) = match media_type.as_str() {
        "message/rfc822" | "message/global" => {
            let nested = MessageParser::default().parse_headers(part.contents());
            let subject = file_name(nested.as_ref().and_then(|nested| nested.subject()).unwrap_or_default());
            let name = if subject.is_empty() { "attached message.eml".to_owned() } else { format!("{subject}.eml") };
            (name, if part.encoding == Encoding::None { encoded } else { part.body.len() as u64 })
        }
        _ => (file_name(part.attachment_name().unwrap_or_default()), part.body.len() as u64),
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
    let parser = MessageParser::default();
    let flat = flattened(octets);
    let mut message = parser.parse(flat.as_ref())?;
    // A text may speak of nested messages, and is then parsed as it is, once it is certain that it nests none.
    if matches!(flat, Cow::Owned(_)) && message.parts.len() == 1 {
        let header = parser.parse_headers(octets)?;
        if header.content_type().is_none_or(|kind| kind.ctype() == "text") {
            message = parser.parse(octets)?;
        }
    }
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

    #[test]
    fn messages_nested_without_end_do_not_overflow_the_stack() {
        let nested = "Content-Type: message/rfc822\r\n\r\n".repeat(100_000);
        let spaced = "Content-Type: message / (x) rfc822\r\n\r\n".repeat(100_000);
        let digest = "Content-Type: multipart/digest; boundary=x\r\n\r\n--x\r\n\r\n".repeat(20_000);
        let hidden = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &nested);
        let encoded = format!("Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n{hidden}\r\n");
        for octets in [nested, spaced, digest, encoded] {
            let parsed = std::thread::spawn(move || (Structure::parse(octets.as_bytes()), octets.len() as u64));
            let (structure, length) = parsed.join().unwrap();
            let reached = structure.attachments.iter().map(|a| a.end).chain(structure.bodies.iter().map(|b| b.end));
            assert_eq!(reached.max(), Some(length), "not all of it can be reached");
        }
    }

    #[test]
    fn the_messages_of_a_digest_are_shown_and_nested_ones_named() {
        let octets = "Content-Type: multipart/digest; boundary=x\r\n\r\n--x\r\n\r\nSubject: First\r\n\r\none\r\n--x\r\n\
            Content-Type: Message/RFC822\r\nContent-Transfer-Encoding: base64\r\n\r\n\
            U3ViamVjdDogU2Vjb25kDQoNCnR3bw0K\r\n--x--\r\n";
        let structure = Structure::parse(octets.as_bytes());
        let [body] = structure.bodies.as_slice() else { panic!("{structure:?}") };
        let Some(Shown::Text(text)) = decode_body(&octets.as_bytes()[body.start as usize..body.end as usize]) else {
            panic!("{structure:?}")
        };
        assert!(text.contains("one"), "{text}");
        let [nested] = structure.attachments.as_slice() else { panic!("{structure:?}") };
        assert_eq!(
            (nested.name.as_str(), nested.media_type.as_str(), nested.length),
            ("Second.eml", "message/rfc822", 24)
        );
    }

    #[test]
    fn a_text_about_nested_messages_is_shown_as_it_is() {
        let octets =
            b"Subject: message/rfc822\r\nContent-Type: text/plain\r\n\r\nContent-Type: message/rfc822\r\n\r\nx";
        let structure = Structure::parse(octets);
        assert_eq!(structure.subject, "message/rfc822");
        let body = &structure.bodies[0];
        let shown = decode_body(&octets[body.start as usize..body.end as usize]);
        assert_eq!(shown, Some(Shown::Text("Content-Type: message/rfc822\r\n\r\nx".into())));
    }

    #[test]
    fn a_page_of_many_long_parts_shows_a_bounded_amount() {
        for (parts, text) in [(40, "x".repeat(300_000)), (1_000, "y".to_owned())] {
            let mut octets = String::from("Content-Type: multipart/mixed; boundary=x\r\n\r\n");
            for _ in 0..parts {
                octets += &format!("--x\r\nContent-Type: text/plain\r\n\r\n{text}\r\n");
            }
            let structure = Structure::parse(octets.as_bytes());
            let sum: u64 = structure.bodies.iter().map(|b| b.end - b.start).sum();
            assert!(!structure.bodies.is_empty() && structure.bodies.len() <= 20, "{}", structure.bodies.len());
            assert!(sum <= 3 * LONGEST_SHOWN as u64, "{sum}");
            // What is not shown is listed, or the whole message is.
            let listed = structure.bodies.len() + structure.attachments.len();
            assert!(listed == parts || structure.attachments.iter().any(|a| a.name == "message.eml"), "{listed}");
            assert!(structure.attachments.len() <= MOST_ATTACHMENTS + 1);
        }
    }

    #[test]
    fn a_short_text_in_a_long_encoding_is_not_read_for_the_page() {
        let octets = format!(
            "Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\n{}eA==\r\n",
            "\r\n".repeat(10_000_000)
        );
        let structure = Structure::parse(octets.as_bytes());
        assert!(structure.bodies.is_empty() && structure.attachments.len() == 1, "{:?}", structure.bodies);
    }
}
