//! What bytes are, by their first octets, whatever name and type they carry.
//!
//! Job: name the format. Place: in the walk on a decoded prefix, in the reader on the whole. Invariants: looks at 4 KiB
//! at most; names are those of rules (`attachment_type`). A crash leaves nothing.

use super::{charset, pgp};

/// Octets that the sniffer looks at.
pub(super) const PREFIX: usize = 4 << 10;

/// Kind, offset, octets there. Longer and rarer ones first.
const MAGIC: &[(&str, usize, &[u8])] = &[
    ("zip", 0, b"PK\x03\x04"),
    ("zip", 0, b"PK\x05\x06"),
    ("zip", 0, b"PK\x07\x08PK\x03\x04"),
    ("pdf", 0, b"%PDF-"),
    ("ole", 0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
    ("rtf", 0, b"{\\rt"),
    ("tnef", 0, b"\x78\x9f\x3e\x22"),
    ("png", 0, b"\x89PNG\r\n\x1a\n"),
    ("jpeg", 0, b"\xff\xd8\xff"),
    ("gif", 0, b"GIF87a"),
    ("gif", 0, b"GIF89a"),
    ("tiff", 0, b"II*\0"),
    ("tiff", 0, b"MM\0*"),
    ("webp", 8, b"WEBP"),
    ("heic", 4, b"ftyphei"),
    ("heic", 4, b"ftypmif1"),
    ("avif", 4, b"ftypavif"),
    ("mp4", 4, b"ftyp"),
    ("wav", 8, b"WAVE"),
    ("avi", 8, b"AVI "),
    ("mp3", 0, b"ID3"),
    ("ogg", 0, b"OggS"),
    ("flac", 0, b"fLaC"),
    ("webm", 0, b"\x1a\x45\xdf\xa3"),
    ("emf", 40, b" EMF"),
    ("wmf", 0, b"\xd7\xcd\xc6\x9a"),
    ("psd", 0, b"8BPS"),
    ("djvu", 0, b"AT&TFORM"),
    ("rar", 0, b"Rar!\x1a\x07"),
    ("7z", 0, b"7z\xbc\xaf\x27\x1c"),
    ("gzip", 0, b"\x1f\x8b\x08"),
    ("bzip2", 0, b"BZh"),
    ("xz", 0, b"\xfd7zXZ\0"),
    ("zstd", 0, b"\x28\xb5\x2f\xfd"),
    ("lzh", 2, b"-lh"),
    ("arj", 0, b"\x60\xea"),
    ("cab", 0, b"MSCF"),
    ("ace", 7, b"**ACE**"),
    ("tar", 257, b"ustar"),
    ("iso", 0x8001, b"CD001"),
    ("exe", 0, b"MZ"),
    ("elf", 0, b"\x7fELF"),
    ("macho", 0, b"\xcf\xfa\xed\xfe"),
    ("macho", 0, b"\xca\xfe\xba\xbe"),
    ("wasm", 0, b"\0asm"),
    ("lnk", 0, b"L\0\0\0\x01\x14\x02\0"),
    ("chm", 0, b"ITSF"),
    ("pst", 0, b"!BDN"),
    ("sqlite", 0, b"SQLite format 3\0"),
    ("mdb", 4, b"Standard Jet DB"),
    ("mdb", 4, b"Standard ACE DB"),
    ("onenote", 0, b"\xe4\x52\x5c\x7b\x8c\xd8\xa7\x4d"),
    ("age", 0, b"age-encryption.org/v1\n"),
    ("postscript", 0, b"%!PS"),
    ("postscript", 0, b"\xc5\xd0\xd3\xc6"),
    ("wordperfect", 0, b"\xffWPC"),
    ("dwg", 0, b"AC10"),
    ("parquet", 0, b"PAR1"),
    ("font", 0, b"OTTO"),
    ("font", 0, b"\0\x01\0\0\0"),
    ("font", 0, b"wOFF"),
    ("font", 0, b"wOF2"),
    ("bmp", 0, b"BM"),
];

/// The kind of `bytes`: `empty`, `text`, `html`, `xml`, a name from the table, `pgp`, `pkcs7`, `message`, or `unknown`.
pub(super) fn sniff(bytes: &[u8]) -> &'static str {
    let head = bytes.get(..PREFIX).unwrap_or(bytes);
    if head.is_empty() {
        return "empty";
    }
    let hit = MAGIC.iter().find(|(kind, offset, magic)| {
        bytes.get(*offset..).is_some_and(|at| at.starts_with(magic)) && (*kind != "bmp" || is_bitmap(head))
    });
    if let Some((kind, _, magic)) = hit {
        // Words alone are no proof when all else is text ("MZ…", "GIF89a…"), unless the format itself is text.
        let word = magic.iter().all(|b| b.is_ascii_graphic() || *b == b' ') || *kind == "arj";
        if matches!(*kind, "rtf" | "pdf" | "postscript") || !(word && is_text(head)) {
            return kind;
        }
    }
    // PDF readers accept junk before the header (ISO 32000-1, implementation note 13).
    if memchr::memmem::find(head.get(..1024).unwrap_or(head), b"%PDF-").is_some() && !is_text(head) {
        return "pdf";
    }
    if is_pkcs7(head) {
        return "pkcs7";
    }
    if is_pgp(head) {
        return "pgp";
    }
    if is_text(head) { text_kind(head) } else { "unknown" }
}

/// The media type that goes with a sniffed kind, for rules that name `image/*` and the like.
#[must_use]
pub fn media_type(sniffed: &str) -> &'static str {
    match sniffed {
        "text" | "empty" => "text/plain",
        "html" => "text/html",
        "xml" => "text/xml",
        "calendar" => "text/calendar",
        "vcard" => "text/vcard",
        "message" => "message/rfc822",
        "pdf" => "application/pdf",
        "rtf" => "application/rtf",
        "zip" => "application/zip",
        "docx" => "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "xlsx" => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "pptx" => "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        "odt" => "application/vnd.oasis.opendocument.text",
        "ods" => "application/vnd.oasis.opendocument.spreadsheet",
        "odp" => "application/vnd.oasis.opendocument.presentation",
        "doc" => "application/msword",
        "xls" => "application/vnd.ms-excel",
        "ppt" => "application/vnd.ms-powerpoint",
        "msg" => "application/vnd.ms-outlook",
        "ole" => "application/x-ole-storage",
        "tnef" => "application/ms-tnef",
        "png" => "image/png",
        "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "tiff" => "image/tiff",
        "bmp" => "image/bmp",
        "webp" => "image/webp",
        "heic" => "image/heic",
        "avif" => "image/avif",
        "emf" => "image/emf",
        "wmf" => "image/wmf",
        "psd" => "image/vnd.adobe.photoshop",
        "djvu" => "image/vnd.djvu",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "avi" => "video/x-msvideo",
        "mp3" => "audio/mpeg",
        "wav" => "audio/wav",
        "ogg" => "audio/ogg",
        "flac" => "audio/flac",
        "rar" => "application/vnd.rar",
        "7z" => "application/x-7z-compressed",
        "gzip" => "application/gzip",
        "bzip2" => "application/x-bzip2",
        "xz" => "application/x-xz",
        "zstd" => "application/zstd",
        "tar" => "application/x-tar",
        "cab" => "application/vnd.ms-cab-compressed",
        "iso" => "application/x-iso9660-image",
        "exe" => "application/vnd.microsoft.portable-executable",
        "elf" => "application/x-executable",
        "pgp" => "application/pgp-encrypted",
        "pkcs7" => "application/pkcs7-mime",
        "postscript" => "application/postscript",
        "sqlite" => "application/vnd.sqlite3",
        "font" => "font/sfnt",
        _ => "application/octet-stream",
    }
}

/// `BM` is also how some texts begin: the reserved words of the header must be zero.
fn is_bitmap(head: &[u8]) -> bool {
    head.get(6..10) == Some(&[0; 4])
}

/// DER of a CMS ContentInfo: SEQUENCE, then an OID below 1.2.840.113549.1.7 (RFC 5652 §3) or .1.9.16.1 (RFC 5083).
fn is_pkcs7(head: &[u8]) -> bool {
    const TYPES: [&[u8]; 2] = [b"\x2a\x86\x48\x86\xf7\x0d\x01\x07", b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01"];
    let start = head.get(1..24).filter(|_| head.first() == Some(&0x30));
    start.is_some_and(|start| TYPES.iter().any(|oid| memchr::memmem::find(start, oid).is_some()))
}

/// ASCII armour of encrypted data (RFC 9580 §6.2), or packets of that kind.
fn is_pgp(head: &[u8]) -> bool {
    head.trim_ascii_start().starts_with(b"-----BEGIN PGP MESSAGE") || pgp::is_encrypted(head) && !is_text(head)
}

/// Whether it reads as text in some charset: nearly no control characters, or UTF-16.
pub(super) fn is_text(head: &[u8]) -> bool {
    if encoding_rs::Encoding::for_bom(head).is_some()
        || charset::looks_wide(head).is_some_and(|big| wide_is_text(head, big))
    {
        return true;
    }
    // Without branches, and without checks of the sums below: sixteen octets at a time.
    let blank = |b: u8| (b == b'\t') | (b == b'\n') | (b == b'\r') | (b == 0x0c) | (b == 0x1b) | (b == 0x08);
    let control = |b: u8| (b < 0x20) & !blank(b) | (b == 0x7f);
    count(head, control) * 64 <= head.len() && high_is_text(head)
}

/// Octets that `is` holds for, in sums that fit one octet.
fn count(head: &[u8], is: impl Fn(u8) -> bool) -> usize {
    head.chunks(128).map(|chunk| usize::from(chunk.iter().fold(0u8, |sum, b| sum.wrapping_add(u8::from(is(*b)))))).sum()
}

/// Octets above ASCII are text when they are UTF-8, or rarer than letters, or come in runs as in East Asian charsets.
fn high_is_text(head: &[u8]) -> bool {
    match std::str::from_utf8(head) {
        Ok(_) => true,
        Err(broken) if broken.error_len().is_none() => true,
        Err(_) => count(head, |b| b >= 0x80) * 8 < head.len() * 7 || head.len() < 64,
    }
}

/// UTF-16, or UTF-32, which looks like it with a zero between all characters.
fn wide_is_text(head: &[u8], big_endian: bool) -> bool {
    let quads = head.as_chunks::<4>().0;
    let character = |quad: &[u8; 4]| {
        let code = if big_endian { u32::from_be_bytes(*quad) } else { u32::from_le_bytes(*quad) };
        code < 0x1_0000 && char::from_u32(code).is_some_and(|c| !c.is_control() || c.is_whitespace())
    };
    if !quads.is_empty() && quads.iter().all(character) {
        return true;
    }
    let control = |unit: &[u8; 2]| {
        let unit = if big_endian { u16::from_be_bytes(*unit) } else { u16::from_le_bytes(*unit) };
        unit < 0x20 && !matches!(unit, 9 | 10 | 13)
    };
    let units = head.as_chunks::<2>().0;
    units.iter().filter(|u| control(u)).count() * 64 <= units.len()
}

fn text_kind(head: &[u8]) -> &'static str {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let starts = |tag: &str| head.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag.as_bytes()));
    const HTML: [&str; 9] = ["<!doctype html", "<html", "<head", "<body", "<table", "<div", "<p>", "<style", "<meta"];
    if HTML.iter().any(|tag| starts(tag)) {
        "html"
    } else if starts("<?xml") {
        let html = memchr::memmem::find(head.get(..512).unwrap_or(head), b"<html").is_some();
        if html { "html" } else { "xml" }
    } else if starts("BEGIN:VCALENDAR") {
        "calendar"
    } else if starts("BEGIN:VCARD") {
        "vcard"
    } else {
        "text"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_their_first_octets() {
        for (bytes, kind) in [
            (&b"PK\x03\x04\x14\0"[..], "zip"),
            (b"%PDF-1.7\n%\xe2\xe3", "pdf"),
            (b"\x89PNG\r\n\x1a\n\0\0", "png"),
            (b"\x30\x80\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03\0\0\0", "unknown"),
            (b"\x30\x80\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03\0\0\0\0\0\0\0\0\0\0\0\0\0", "pkcs7"),
            (b"-----BEGIN PGP MESSAGE-----\n", "pgp"),
            (b"{\\rtf1 x}", "rtf"),
            (b"MZ\x90\0\x03\0\0\0\x04", "exe"),
            (b"MZ is a kind of executable, and this is a text about it", "text"),
            (b"BM stands for the British Museum, said the guide", "text"),
            (b"hello", "text"),
            (b"gr\xfc\xdfe", "text"),
            (b" \r\n<!DOCTYPE HTML><p>", "html"),
            (b"<?xml version='1.0'?><a/>", "xml"),
            (b"BEGIN:VCARD\r\n", "vcard"),
            (b"\xff\xfe4\x001\x00", "text"),
            (b"\0\x01\x02\x03\x04\x05\x06\x07", "unknown"),
            (b"", "empty"),
        ] {
            assert_eq!(sniff(bytes), kind, "{bytes:?}");
        }
    }

    #[test]
    fn kinds_have_media_types() {
        assert_eq!(media_type("png"), "image/png");
        assert_eq!(media_type("unknown"), "application/octet-stream");
    }
}
