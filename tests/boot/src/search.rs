//! Looking for planted text in a whole disk.
//!
//! Job: search a raw disk piece by piece, in every shape that [`lab::planted`] knows. Place: after a machine was switched off.
//! Invariants: pieces overlap by more than any planted text is long; holes are skipped. A crash leaves nothing.

use lab::planted::Planted;
use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

/// Octets looked at together.
const PIECE: usize = 32 << 20;
/// Longer than any shape of any planted text.
const OVERLAP: usize = 1 << 16;

/// Where each of `planted` stands in `disk` and in which shape; `None`: it does not.
///
/// # Errors
/// The disk can't be read.
pub fn find(disk: &Path, planted: &[Planted]) -> io::Result<Vec<Option<String>>> {
    let file = File::open(disk)?;
    let length = file.metadata()?.len();
    let mut found = vec![None; planted.len()];
    let mut piece = vec![0; PIECE + OVERLAP];
    let mut at = 0;
    while at < length {
        let wanted = usize::try_from(length - at).unwrap_or(usize::MAX).min(piece.len());
        let bytes = piece.get_mut(..wanted).unwrap_or_default();
        file.read_exact_at(bytes, at)?;
        if bytes.iter().any(|octet| *octet != 0) {
            for (text, found) in planted.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
                *found = text.in_bytes(bytes).map(|shape| format!("in the {} MiB from {at}: {shape}", PIECE >> 20));
            }
        }
        at += PIECE as u64;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_text_is_found_where_two_pieces_meet_and_nowhere_else() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "Zürich-vault-77123";
        file.as_file().set_len(3 * PIECE as u64).unwrap();
        file.as_file().write_all_at(text.as_bytes(), PIECE as u64 - 5).unwrap();
        let found = find(file.path(), &[Planted::new(text), Planted::new("Zürich-vault-77124")]).unwrap();
        assert!(found[0].as_ref().is_some_and(|place| place.contains("plain")), "{found:?}");
        assert_eq!(found[1], None);
        assert_eq!(fs::metadata(file.path()).unwrap().len(), 3 * PIECE as u64);
    }
}
