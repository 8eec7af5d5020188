//! Zip archives and gzip files, and the office documents that are zip archives.
//!
//! Job: unpack within budgets and hand each entry to its reader. Place: in workers, below [`super::read`]. Invariants:
//! sizes that an archive claims are never believed; entry names are text, never paths of a file system; unpacked bytes
//! are bounded by entry, by archive (ratio) and by message. A crash leaves nothing.

use super::{
    Budget, Condition, Part,
    budget::{MAX_ENTRY, MAX_PARTS, MAX_RATIO, RATIO_FREE},
    office,
    read::{self, Item},
};
use std::{
    borrow::Cow,
    io::{Cursor, Read},
};
use zip::{CompressionMethod, ZipArchive, read::ZipFile};

/// Octets at the end in which the end record of a zip stands: itself, its comment, and the zip64 records before.
const TAIL: usize = 22 + 0xffff + 20 + 56;
/// Octets unpacked between two looks at the budget.
const STEP: usize = 64 << 10;

/// Whether a zip directory ends in the last octets, which is what archive programs look for.
pub(super) fn has_directory(bytes: &[u8]) -> bool {
    let tail = bytes.get(bytes.len().saturating_sub(TAIL)..).unwrap_or(bytes);
    memchr::memmem::find(tail, b"PK\x05\x06").is_some()
}

/// Reads a zip archive and all that is in it.
pub(super) fn zip(mut item: Item, bytes: &[u8], budget: &mut Budget, sink: &mut dyn FnMut(Part<'_>)) {
    if claimed_entries(bytes) > MAX_PARTS as u64 {
        return item.emit_unread("zip", Condition::OverBudget, sink);
    }
    let Ok(mut archive) = ZipArchive::new(Cursor::new(bytes)) else {
        return item.emit_unread("zip", Condition::Malformed, sink);
    };
    // Duplicate names, overlaps, entries that only one of both directories has: programs unpack them differently.
    if archive.validate_header_consistency().is_err() {
        item.note(Condition::Malformed);
    }
    let names: Vec<String> = (0..archive.len()).map(|index| entry_name(&archive, index)).collect();
    let mut unpacker = Unpacker { packed: bytes.len() as u64, unpacked: 0, over: false };
    let mut document = office::Document::of(&names);
    if let Some(document) = &mut document {
        for index in document.first(&names) {
            if let Ok(mut file) = archive.by_index(index) {
                document.prepare(
                    names.get(index).map_or("", String::as_str),
                    &unpacker.unpack(&mut file, &mut item, budget),
                    budget,
                );
            }
        }
    }
    let kind = document.as_ref().map_or_else(|| zip_kind(&names), |document| document.kind());
    for (index, name) in names.iter().enumerate() {
        if unpacker.over {
            break;
        }
        let is_folder = name.ends_with('/');
        if is_folder && holds_nothing(&mut archive, index) {
            continue;
        }
        let mut entry = item.inside(name);
        if is_folder {
            // Some programs make a folder of it, others a file.
            entry.note(Condition::Malformed);
        }
        if !budget.take_part() {
            item.note(Condition::OverBudget);
            break;
        }
        match open(&mut archive, index) {
            Ok(mut file) => {
                let content = unpacker.unpack(&mut file, &mut entry, budget);
                match &mut document {
                    Some(document) if office::is_xml(name) => {
                        entry.conditions.into_iter().for_each(|condition| item.note(condition));
                        document.add(name, &content, budget);
                    }
                    _ => read::file(entry, &content, budget, sink),
                }
            }
            Err(condition) => entry.emit_unread("unknown", condition, sink),
        }
    }
    if unpacker.over {
        item.note(Condition::OverBudget);
    }
    match document {
        Some(document) => document.emit(item, sink),
        None => {
            let comment = String::from_utf8_lossy(archive.comment()).into_owned();
            item.emit(kind, Cow::Owned(comment), Vec::new(), sink);
        }
    }
}

/// Reads a gzip file, which holds one file.
pub(super) fn gzip(mut item: Item, bytes: &[u8], budget: &mut Budget, sink: &mut dyn FnMut(Part<'_>)) {
    let mut decoder = flate2::read::MultiGzDecoder::new(bytes);
    let inner =
        decoder.header().and_then(|header| header.filename()).map(|name| String::from_utf8_lossy(name).into_owned());
    let outer = item.name.as_deref().unwrap_or_default();
    let inner = inner.unwrap_or_else(|| outer.trim_end_matches(".gz").to_owned());
    let mut entry = item.inside(&inner);
    let mut unpacker = Unpacker { packed: bytes.len() as u64, unpacked: 0, over: false };
    let content = unpacker.unpack(&mut decoder, &mut entry, budget);
    if unpacker.over {
        item.note(Condition::OverBudget);
    }
    item.emit("gzip", Cow::Borrowed(""), Vec::new(), sink);
    if !budget.take_part() {
        return entry.emit_unread("unknown", Condition::OverBudget, sink);
    }
    read::file(entry, &content, budget, sink);
}

/// How many entries the end record announces: the reader makes room for that many.
fn claimed_entries(bytes: &[u8]) -> u64 {
    let tail = bytes.get(bytes.len().saturating_sub(TAIL)..).unwrap_or(bytes);
    let number = |signature: &[u8], at: usize, width: usize| {
        memchr::memmem::find_iter(tail, signature)
            .filter_map(|found| tail.get(found + at..found + at + width))
            .map(|octets| octets.iter().rev().fold(0u64, |number, octet| number << 8 | u64::from(*octet)))
            .max()
    };
    let short = number(b"PK\x05\x06", 10, 2).unwrap_or(0);
    if short == 0xffff { number(b"PK\x06\x06", 32, 8).unwrap_or(short) } else { short }
}

fn entry_name(archive: &ZipArchive<Cursor<&[u8]>>, index: usize) -> String {
    match archive.name_for_index(index) {
        Some(Ok(name)) => name.into_owned(),
        _ => format!("entry {index}"),
    }
}

fn zip_kind(names: &[String]) -> &'static str {
    let has = |name: &str| names.iter().any(|known| known == name);
    if has("AndroidManifest.xml") {
        "apk"
    } else if has("META-INF/MANIFEST.MF") {
        "jar"
    } else {
        "zip"
    }
}

/// Whether an entry is as empty as a folder has to be; nothing at all takes two octets to pack (RFC 1951 §3.2.6).
fn holds_nothing(archive: &mut ZipArchive<Cursor<&[u8]>>, index: usize) -> bool {
    archive.by_index_raw(index).is_ok_and(|entry| entry.size() == 0 && entry.compressed_size() <= 2)
}

/// Opens an entry, or says why it stays closed.
fn open<'a, 'b>(
    archive: &'a mut ZipArchive<Cursor<&'b [u8]>>,
    index: usize,
) -> Result<ZipFile<'a, Cursor<&'b [u8]>>, Condition> {
    if let Ok(entry) = archive.by_index_data(index) {
        if entry.encrypted() {
            return Err(Condition::Encrypted);
        }
        if !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
            return Err(Condition::Unread(method_name(entry.compression()).to_owned()));
        }
    }
    archive.by_index(index).map_err(|_| Condition::Malformed)
}

/// Names of packing methods without a reader (APPNOTE 4.4.5).
fn method_name(method: CompressionMethod) -> &'static str {
    const NAMES: [(CompressionMethod, &str); 6] = [
        (CompressionMethod::DEFLATE64, "deflate64"),
        (CompressionMethod::BZIP2, "bzip2"),
        (CompressionMethod::LZMA, "lzma"),
        (CompressionMethod::ZSTD, "zstd"),
        (CompressionMethod::XZ, "xz"),
        (CompressionMethod::PPMD, "ppmd"),
    ];
    NAMES.iter().find(|(known, _)| *known == method).map_or("zip", |(_, name)| name)
}

struct Unpacker {
    packed: u64,
    unpacked: u64,
    over: bool,
}

impl Unpacker {
    /// All of `source`, as far as the budgets go; what stops it is noted.
    fn unpack(&mut self, source: &mut dyn Read, item: &mut Item, budget: &mut Budget) -> Vec<u8> {
        let mut content = Vec::new();
        let mut buffer = vec![0; STEP];
        loop {
            let read = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(_) => {
                    item.note(Condition::Malformed);
                    break;
                }
            };
            self.unpacked += read as u64;
            let bomb = self.unpacked > RATIO_FREE && self.unpacked / MAX_RATIO > self.packed;
            if bomb || !budget.take_bytes(read) || budget.is_expired() {
                self.over = true;
            }
            if self.over || content.len() as u64 + read as u64 > MAX_ENTRY {
                item.note(Condition::OverBudget);
                break;
            }
            content.extend_from_slice(buffer.get(..read).unwrap_or_default());
        }
        content
    }
}
