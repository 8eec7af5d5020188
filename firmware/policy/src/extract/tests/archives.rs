use super::*;
use std::io::{Cursor, Write};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// A zip of these files, deflated.
pub(super) fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    zip_by(CompressionMethod::Deflated, files)
}

fn zip_by(method: CompressionMethod, files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        writer.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn read_zip(archive: &[u8]) -> Outcome {
    read(attached("a.zip", archive))
}

#[test]
fn entries_are_sections_behind_an_exclamation_mark() {
    let inner = zip_of(&[("deep/b.html", format!("<p>{CARD}").as_bytes())]);
    let outcome = read_zip(&zip_of(&[("a.txt", CARD.as_bytes()), ("inner.zip", &inner)]));
    assert_eq!(outcome.places(CARD).collect::<Vec<_>>(), ["2!a.txt", "2!inner.zip!deep/b.html"]);
    assert_eq!(outcome.part("2").sniffed, "zip");
    assert!(outcome.conditions().is_empty(), "{:?}", outcome.conditions());
}

#[test]
fn stored_entries_and_names_are_read() {
    let outcome = read_zip(&zip_by(CompressionMethod::Stored, &[("4111 1111 1111 1111.txt", b"x")]));
    assert!(outcome.shows(CARD));
}

#[test]
fn a_zip_behind_a_picture_is_found() {
    let mut picture = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    picture.extend(zip_of(&[("a.txt", CARD.as_bytes())]));
    assert!(read(attached("a.png", &picture)).shows(CARD));
}

#[test]
fn names_that_point_elsewhere_are_only_text() {
    for name in ["../../etc/cron.d/x", "/etc/passwd", "C:\\Windows\\x", "$(reboot)`id`;|", "a\nb\0c"] {
        let outcome = read_zip(&zip_of(&[(name, CARD.as_bytes())]));
        let section = outcome.places(CARD).next().unwrap_or_default().to_owned();
        assert!(section.starts_with("2!") && !section.contains(char::is_control), "{section:?}");
    }
}

/// Sets flag bit 0 in the local header and the directory: what an encrypting program would write.
fn encrypt_flags(archive: &mut [u8]) {
    for (signature, at) in [(b"PK\x03\x04", 6), (b"PK\x01\x02", 8)] {
        let found = memchr::memmem::find(archive, signature).unwrap();
        archive[found + at] |= 1;
    }
}

#[test]
fn an_entry_with_a_password_is_encrypted_and_its_neighbours_are_read() {
    let mut archive = zip_of(&[("secret.txt", b"xxxxxxxxxxxxxxxxxxxxx"), ("open.txt", CARD.as_bytes())]);
    encrypt_flags(&mut archive);
    let outcome = read_zip(&archive);
    assert_eq!(outcome.part("2!secret.txt").conditions, [Condition::Encrypted]);
    assert!(outcome.shows(CARD));
}

#[test]
fn a_method_without_a_reader_is_named() {
    let mut archive = zip_of(&[("a.txt", b"xxxxxxxxxxxxxxxx")]);
    for (signature, at) in [(b"PK\x03\x04", 8), (b"PK\x01\x02", 10)] {
        let found = memchr::memmem::find(&archive, signature).unwrap();
        archive[found + at] = 14;
    }
    assert_eq!(read_zip(&archive).part("2!a.txt").conditions, [Condition::Unread("lzma".to_owned())]);
}

#[test]
fn damage_is_malformed_and_what_came_before_is_read() {
    let text = format!("{CARD}\n{}", (0..2000).map(|i| format!("line {i} {}\n", i * 7919)).collect::<String>());
    let mut archive = zip_of(&[("a.txt", text.as_bytes())]);
    let middle = archive.len() / 2;
    archive[middle] ^= 0xff;
    let outcome = read_zip(&archive);
    assert!(outcome.has(&Condition::Malformed) && outcome.shows(CARD));
    let cut = &zip_of(&[("a.txt", text.as_bytes())])[..200];
    assert!(read_zip(cut).has(&Condition::Malformed));
}

#[test]
fn entries_that_only_one_directory_knows_are_malformed() {
    let hidden = zip_by(CompressionMethod::Stored, &[("hidden.txt", CARD.as_bytes())]);
    let end = memchr::memmem::find(&hidden, b"PK\x01\x02").unwrap();
    let mut archive = hidden[..end].to_vec();
    archive.extend(zip_of(&[("a.txt", b"nothing to see")]));
    assert!(read_zip(&archive).has(&Condition::Malformed));
}

#[test]
fn names_that_differ_between_both_directories_are_malformed() {
    let mut archive = zip_of(&[("a.txt", b"x")]);
    let local = memchr::memmem::find(&archive, b"a.txt").unwrap();
    archive[local] = b'b';
    assert!(read_zip(&archive).has(&Condition::Malformed));
}

#[test]
fn a_flat_bomb_ends_at_the_ratio() {
    let zeros = vec![b'0'; 40 << 20];
    let outcome = read_zip(&zip_of(&[("zeros.txt", &zeros)]));
    assert!(outcome.part("2").conditions.contains(&Condition::OverBudget));
    let made: usize = outcome.parts.iter().map(|part| part.text.len()).sum();
    assert!(made < 16 << 20, "{made}");
}

#[test]
fn overlapping_entries_end_at_the_ratio() {
    // One packed block that many directory entries point to, as in zbsm.zip.
    let zeros = vec![b'0'; 2 << 20];
    let one = zip_of(&[("0000.txt", &zeros)]);
    let start = memchr::memmem::find(&one, b"PK\x01\x02").unwrap();
    let end = memchr::memmem::find(&one, b"PK\x05\x06").unwrap();
    let entry = &one[start..end];
    let mut archive = one[..start].to_vec();
    for number in 0..200u32 {
        let mut copy = entry.to_vec();
        copy[46..50].copy_from_slice(format!("{number:04}").as_bytes());
        archive.extend(copy);
    }
    let size = (archive.len() - start) as u32;
    let mut tail = one[end..].to_vec();
    for at in [8, 10] {
        tail[at..at + 2].copy_from_slice(&200u16.to_le_bytes());
    }
    tail[12..16].copy_from_slice(&size.to_le_bytes());
    archive.extend(tail);
    let outcome = read_zip(&archive);
    assert!(outcome.has(&Condition::Malformed) && outcome.has(&Condition::OverBudget));
    let made: usize = outcome.parts.iter().map(|part| part.text.len()).sum();
    assert!(made < 32 << 20, "{made}");
}

#[test]
fn nested_bombs_end_at_the_depth() {
    let mut archive = zip_of(&[("a.txt", CARD.as_bytes())]);
    for _ in 0..40 {
        archive = zip_of(&[("a.zip", &archive)]);
    }
    let outcome = read_zip(&archive);
    assert!(outcome.has(&Condition::OverBudget));
    assert!(outcome.parts.len() < 50);
}

#[test]
fn a_directory_that_claims_millions_of_entries_is_over_budget() {
    let mut archive = zip_of(&[("a.txt", b"x")]);
    let end = memchr::memmem::find(&archive, b"PK\x05\x06").unwrap();
    archive[end + 8..end + 12].copy_from_slice(&[0xfe, 0xff, 0xfe, 0xff]);
    assert_eq!(read_zip(&archive).part("2").conditions, [Condition::OverBudget]);
}

#[test]
fn gzip_files_are_read() {
    let mut writer = flate2::GzBuilder::new().filename("a.txt").write(Vec::new(), flate2::Compression::default());
    writer.write_all(CARD.as_bytes()).unwrap();
    let outcome = read(attached("a.gz", &writer.finish().unwrap()));
    assert_eq!(outcome.places(CARD).collect::<Vec<_>>(), ["2!a.txt"]);
}
