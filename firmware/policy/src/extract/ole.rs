//! OLE compound files (MS-CFB): old Office documents, and encrypted new ones.
//!
//! Job: tell them apart; there is no reader for what is in them. Place: in workers. Invariants: directory names are
//! searched in the whole file, so that no broken chain of sectors hides one. A crash leaves nothing.

use super::Condition;

/// Names of streams, what they make the file, in the order in which they decide.
const STREAMS: [(&str, &str); 8] = [
    ("__substg1.0_", "msg"),
    ("WordDocument", "doc"),
    ("PowerPoint Document", "ppt"),
    ("Workbook", "xls"),
    ("Book", "xls"),
    ("VisioDocument", "vsd"),
    ("VBA_PROJECT", "vba"),
    ("!_StringData", "msi"),
];

/// The kind of a compound file, and why it is not read.
pub(super) fn judge(bytes: &[u8]) -> (&'static str, Condition) {
    // MS-OFFCRYPTO §2.3: the whole document in a stream of this name.
    if has(bytes, "EncryptedPackage") {
        return ("ooxml-encrypted", Condition::Encrypted);
    }
    let kind = STREAMS.iter().find(|(name, _)| has(bytes, name)).map_or("ole", |(_, kind)| kind);
    (kind, Condition::Unread(kind.to_owned()))
}

fn has(bytes: &[u8], name: &str) -> bool {
    let wide: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    memchr::memmem::find(bytes, &wide).is_some()
}
