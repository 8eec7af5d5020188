//! The mails of the demo and of the end-to-end tests, as a mail program would write them.
//!
//! Job: make whole RFC 5322 messages. Place: at the start of the message's way. Invariants: CR LF line ends; each
//! carries a Message-ID of its own. A crash leaves nothing behind.

use base64::{Engine, engine::general_purpose::STANDARD};
use std::{
    fmt::Write as _,
    io::{self, Cursor, Write as _},
    sync::atomic::{AtomicU64, Ordering},
};
use zip::{ZipWriter, write::SimpleFileOptions};

/// One body part below the header.
pub struct Part {
    /// Value of Content-Type.
    pub content_type: String,
    /// File name, for attachments.
    pub name: Option<String>,
    /// The decoded octets.
    pub content: Vec<u8>,
}

impl Part {
    /// Text that stands in the message as it is.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self { content_type: "text/plain; charset=utf-8".into(), name: None, content: text.into() }
    }

    /// HTML.
    #[must_use]
    pub fn html(html: &str) -> Self {
        Self { content_type: "text/html; charset=utf-8".into(), name: None, content: html.into() }
    }

    /// An attachment.
    #[must_use]
    pub fn attachment(name: &str, content_type: &str, content: Vec<u8>) -> Self {
        Self { content_type: content_type.into(), name: Some(name.into()), content }
    }
}

/// A fresh Message-ID, unique on this machine.
#[must_use]
pub fn message_id() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let now = jiff::Timestamp::now().as_nanosecond();
    format!("<{now}.{}.{}@lab.example>", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// A message; one part stands alone, several become multipart/mixed.
#[must_use]
pub fn message(from: &str, to: &[&str], subject: &str, message_id: &str, parts: &[Part]) -> Vec<u8> {
    let date =
        jiff::fmt::rfc2822::to_string(&jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC)).unwrap_or_default();
    let mut head = format!(
        "From: {from}\r\nTo: {}\r\nSubject: {subject}\r\nDate: {date}\r\nMessage-ID: {message_id}\r\nMIME-Version: 1.0\r\n",
        to.join(", ")
    );
    let mut out = Vec::new();
    if let [part] = parts {
        push_fields(&mut head, part);
        out.extend_from_slice(head.as_bytes());
        push_body(&mut out, part);
        return out;
    }
    let boundary = "=_lab_boundary_";
    let _ = write!(head, "Content-Type: multipart/mixed; boundary=\"{boundary}\"\r\n\r\n");
    out.extend_from_slice(head.as_bytes());
    for part in parts {
        let mut fields = format!("--{boundary}\r\n");
        push_fields(&mut fields, part);
        out.extend_from_slice(fields.as_bytes());
        push_body(&mut out, part);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    out
}

fn push_fields(head: &mut String, part: &Part) {
    let _ = write!(head, "Content-Type: {}", part.content_type);
    match &part.name {
        Some(name) => {
            let _ = write!(
                head,
                "; name=\"{name}\"\r\nContent-Disposition: attachment; filename=\"{name}\"\r\nContent-Transfer-Encoding: base64\r\n\r\n"
            );
        }
        None => head.push_str("\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"),
    }
}

fn push_body(out: &mut Vec<u8>, part: &Part) {
    if part.name.is_some() {
        for line in STANDARD.encode(&part.content).as_bytes().chunks(76) {
            out.extend_from_slice(line);
            out.extend_from_slice(b"\r\n");
        }
    } else {
        out.extend_from_slice(&part.content);
        if !part.content.ends_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// A DOCX with one run of text a word, as word processors split them.
///
/// # Errors
/// Never in practice: the archive is written to memory.
pub fn docx(paragraphs: &[&str]) -> io::Result<Vec<u8>> {
    let mut body = String::new();
    for paragraph in paragraphs {
        body.push_str("<w:p>");
        for run in paragraph.split_inclusive(' ') {
            let _ = write!(body, "<w:r><w:t xml:space=\"preserve\">{run}</w:t></w:r>");
        }
        body.push_str("</w:p>");
    }
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in [
        (
            "[Content_Types].xml",
            "<?xml version=\"1.0\"?><Types xmlns=\"http://schemas.openxmlformats.org/package/2006/content-types\"><Default Extension=\"rels\" ContentType=\"application/vnd.openxmlformats-package.relationships+xml\"/><Override PartName=\"/word/document.xml\" ContentType=\"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml\"/></Types>".to_owned(),
        ),
        (
            "_rels/.rels",
            "<?xml version=\"1.0\"?><Relationships xmlns=\"http://schemas.openxmlformats.org/package/2006/relationships\"><Relationship Id=\"r1\" Type=\"http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument\" Target=\"word/document.xml\"/></Relationships>".to_owned(),
        ),
        (
            "word/document.xml",
            format!("<?xml version=\"1.0\"?><w:document xmlns:w=\"http://schemas.openxmlformats.org/wordprocessingml/2006/main\"><w:body>{body}</w:body></w:document>"),
        ),
    ] {
        zip.start_file(name, SimpleFileOptions::default()).map_err(io::Error::other)?;
        zip.write_all(text.as_bytes())?;
    }
    Ok(zip.finish().map_err(io::Error::other)?.into_inner())
}

/// `length` octets that do not compress, the same for the same seed.
#[must_use]
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        // xorshift64 (Marsaglia 2003)
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

/// The head of a Windows program, as sniffers know it: `MZ` and a pointer to `PE`.
#[must_use]
pub fn windows_program() -> Vec<u8> {
    let mut program = vec![0u8; 512];
    program[..2].copy_from_slice(b"MZ");
    program[0x3c] = 0x80;
    program[0x80..0x84].copy_from_slice(b"PE\0\0");
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_part_stands_alone_and_two_are_bounded() {
        let one = message("a@b", &["c@d"], "s", "<1@x>", &[Part::text("hello")]);
        assert!(one.ends_with(b"\r\n\r\nhello\r\n"));
        let two = message(
            "a@b",
            &["c@d"],
            "s",
            "<1@x>",
            &[Part::text("x"), Part::attachment("f.bin", "application/octet-stream", noise(1, 100))],
        );
        assert!(two.ends_with(b"--=_lab_boundary_--\r\n"));
        assert!(!two.windows(2).any(|w| w[1] == b'\n' && w[0] != b'\r'));
    }
}
