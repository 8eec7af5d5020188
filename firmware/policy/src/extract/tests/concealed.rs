//! Content that one octet, one word or one wrong name used to take out of the readers' sight.

use super::{archives::zip_of, *};
use std::io::Write;

const SSN: &str = "SSN 123-45-6789";

fn plain(fields: &str, body: &[u8]) -> Outcome {
    let fields = format!("{fields}Content-Transfer-Encoding: base64\r\n");
    read(single(&fields, &encode(body)))
}

#[test]
fn a_magic_word_at_the_start_of_a_text_switches_no_reader_off() {
    for start in [
        "GIF89a\r\n",
        "OTTO writes:\r\n",
        "THE HEATWAVE\r\n",
        "This is AVI \r\n",
        "How ftyp\r\n",
        "{\\rt\r\n",
        "%!PS\r\n",
        "%PDF-\r\n",
        "PAR1\r\n",
        "8BPS\r\n",
        "MSCF\r\n",
        "OggS ",
        "ID3 ",
        "ITSF ",
        "!BDN ",
        "AT&TFORM ",
        &format!("{:40} EMF\r\n", "x"),
        &format!("{:257}ustar\r\n", "x"),
    ] {
        let body = format!("{start}{SSN}");
        for fields in ["", "Content-Type: text/plain\r\n", "Content-Type: application/octet-stream; name=a.txt\r\n"] {
            assert!(plain(fields, body.as_bytes()).shows(SSN), "{start:?} {fields}");
        }
        assert!(read(attached("notes.csv", body.as_bytes())).shows(SSN), "{start:?} as a file");
    }
}

#[test]
fn a_text_that_begins_like_a_file_is_malformed_and_read() {
    for start in
        [&b"\xff\xd8\xff\xe0\0\x10"[..], b"GIF89a\x01\0\x01\0\0\0\0", b"\x89PNG\r\n\x1a\n\0\0", b"PK\x03\x04\0\0"]
    {
        let body = [start, b"\r\n", SSN.as_bytes()].concat();
        let outcome = plain("Content-Type: text/plain\r\n", &body);
        assert!(outcome.shows(SSN) && outcome.has(&Condition::Malformed), "{start:?}: {:?}", outcome.parts);
        let outcome = read(attached("a.log", &body));
        assert!(outcome.shows(SSN) && outcome.has(&Condition::Malformed), "{start:?}: {:?}", outcome.parts);
    }
}

#[test]
fn files_under_their_own_names_are_no_malformed_texts() {
    let picture =
        b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff!\xf9\x04\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";
    let outcome = read(attached("pixel.gif", picture));
    assert_eq!(outcome.part("2").conditions, [Condition::Unread("gif".to_owned())]);
    let outcome = plain("Content-Type: text/plain; name=pixel.gif\r\n", picture);
    assert!(outcome.has(&Condition::Unread("gif".to_owned())) && !outcome.has(&Condition::Malformed));
    let outcome = plain("Content-Type: text/rtf\r\n", b"{\\rtf1 hello}");
    assert_eq!(outcome.part("1").conditions, [Condition::Unread("rtf".to_owned())]);
}

/// What stands behind the first octets of an encrypted file: nothing that reads as text.
fn sealed(start: &[u8]) -> Vec<u8> {
    let noise = (0..200u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8);
    start.iter().copied().chain(noise).collect()
}

#[test]
fn encrypted_files_of_all_versions_are_known() {
    let key_id = b"\x01\x02\x03\x04\x05\x06\x07\x08";
    for (what, start) in [
        ("GnuPG, Curve25519", [&b"\x84\x5e\x03"[..], key_id, b"\x12"].concat()),
        ("GnuPG, RSA", [&b"\x85\x01\x0c\x03"[..], key_id, b"\x01"].concat()),
        ("OpenPGP.js, RSA", [&b"\xc1\xc0\x4c\x03"[..], key_id, b"\x01"].concat()),
        ("Curve25519, new format", [&b"\xc1\x5e\x03"[..], key_id, b"\x12"].concat()),
        ("new format, five octets", [&b"\xc1\xff\0\0\x01\x0c\x03"[..], key_id, b"\x01"].concat()),
        ("RFC 9580", b"\xc1\x60\x06\x21\x06".to_vec()),
        ("GnuPG, password", b"\x8c\x0d\x04\x09\x03\x08".to_vec()),
        ("password, version 5", b"\xc3\x2e\x05\x09\x02\x03\x08".to_vec()),
        ("password, version 6", b"\xc3\x40\x06\x1e\x09\x02\x14\x04".to_vec()),
        ("no session key", b"\xd2\xc0\x4c\x01".to_vec()),
        ("a marker first", [&b"\xca\x03PGP\xc1\xc0\x4c\x03"[..], key_id, b"\x01"].concat()),
        ("age", b"age-encryption.org/v1\n-> X25519 abc\n--- def\n".to_vec()),
    ] {
        assert!(read(attached("a.bin", &sealed(&start))).has(&Condition::Encrypted), "{what}");
    }
    for (what, start) in
        [("a font", &b"\x84\x5e\x09\x01"[..]), ("a program's data", b"\xc1\x02\x09\x03"), ("noise", b"")]
    {
        assert!(!read(attached("a.bin", &sealed(start))).has(&Condition::Encrypted), "{what}");
    }
}

#[test]
fn cms_objects_without_a_reader_count_as_encrypted() {
    // AuthEnvelopedData, CompressedData, DigestedData, an unknown one.
    for oid in [
        &b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01\x17"[..],
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01\x09",
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x05",
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x63",
    ] {
        let object =
            [&b"\x30\x80\x06"[..], &[oid.len() as u8], oid, b"\xa0\x80\x30\x80\x02\x01\0\0\0\0\0\0\0\0\0\0\0"].concat();
        assert!(read(attached("smime.p7m", &object)).has(&Condition::Encrypted), "{oid:?}");
    }
}

#[test]
fn what_is_named_encrypted_and_unknown_counts_as_encrypted() {
    for name in ["a.p7m", "a.gpg", "b.PGP", "secret.age"] {
        assert!(read(attached(name, &sealed(b"\x01"))).has(&Condition::Encrypted), "{name}");
    }
    for declared in ["application/pkcs7-mime", "application/x-pkcs7-mime", "application/pgp-encrypted"] {
        assert!(
            plain(&format!("Content-Type: {declared}\r\n"), &sealed(b"\x01")).has(&Condition::Encrypted),
            "{declared}"
        );
    }
    assert!(!read(attached("a.dat", &sealed(b"\x01"))).has(&Condition::Encrypted));
}

#[test]
fn armour_of_every_kind_is_encrypted() {
    for label in ["PGP MESSAGE", "CMS", "PKCS7", "ENVELOPED DATA", "AGE ENCRYPTED FILE"] {
        let body =
            format!("Hello,\r\n\r\n-----BEGIN {label}-----\r\nMIAGCSqGSIb3DQEHA6CA\r\n-----END {label}-----\r\n");
        assert!(read(single("", &body)).has(&Condition::Encrypted), "{label}");
    }
    for label in ["CERTIFICATE", "PGP SIGNATURE", "PGP PUBLIC KEY BLOCK", "FORWARDED MESSAGE"] {
        let body =
            format!("Hello,\r\n\r\n-----BEGIN {label}-----\r\nMIAGCSqGSIb3DQEHA6CA\r\n-----END {label}-----\r\n");
        assert!(read(single("", &body)).conditions().is_empty(), "{label}");
    }
}

#[test]
fn a_control_octet_inside_a_number_hides_nothing() {
    for control in (0..=8u8).chain(0x0e..=0x1f).chain([0x7f]) {
        let mut body = b"SSN 123".to_vec();
        body.extend([control]);
        body.extend(b"-45-67");
        body.extend([control, control]);
        body.extend(
            b"89, and so on and on and on, as long as a text of one line may be before it ends with its last word. ",
        );
        body.extend(b"The next line is an ordinary one, and there is one more below it.\r\nNothing stands in that one at all.\r\n");
        for fields in ["", "Content-Type: text/plain; charset=iso-8859-1\r\n", "Content-Type: text/html\r\n"] {
            let outcome = plain(fields, &body);
            assert!(outcome.shows(SSN), "{control:#x} {fields}");
            assert!(outcome.conditions().is_empty(), "{control:#x} {fields}: {:?}", outcome.conditions());
        }
        if control != 0 {
            let subject = [b"Subject: ", &body[..18], b"\r\n\r\nx"].concat();
            assert!(read(&subject).shows(SSN), "{control:#x} in the subject");
        }
    }
    assert!(plain("Content-Type: text/html\r\n", b"<p>SSN 123&#1;-45&#x7f;-6789</p>").shows(SSN));
}

#[test]
fn text_without_odd_octets_has_no_second_reading() {
    let body = b"One\ttwo\x0cthree\r\nfour \x0bfive \xc3\xa4\r\n";
    assert!(plain("Content-Type: text/plain; charset=utf-8\r\n", body).part("1").views.is_empty());
}

#[test]
fn utf_16_without_a_mark_under_a_label_of_single_octets_is_read() {
    let number = "SSN \u{661}23";
    for big in [true, false] {
        let bytes: Vec<u8> =
            number.encode_utf16().flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect();
        for label in ["iso-8859-1", "windows-1252", "koi8-r", "shift_jis"] {
            assert!(plain(&format!("Content-Type: text/plain; charset={label}\r\n"), &bytes).shows(number), "{label}");
        }
    }
}

#[test]
fn a_gzip_as_the_last_part_of_the_budget_is_not_skipped_in_silence() {
    let mut writer = flate2::GzBuilder::new().filename("a.txt").write(Vec::new(), flate2::Compression::default());
    writer.write_all(CARD.as_bytes()).unwrap();
    let packed = writer.finish().unwrap();
    let message = attached("a.gz", &packed);
    let mut seen = false;
    for taken in 0..super::super::budget::MAX_PARTS {
        let mut budget = Budget::unhurried();
        (taken..super::super::budget::MAX_PARTS).for_each(|_| _ = budget.take_part());
        let outcome = read_within(&message, &mut budget);
        if outcome.shows(CARD) {
            seen = true;
            break;
        }
        assert!(outcome.has(&Condition::OverBudget), "{taken} parts left");
    }
    assert!(seen);
}

#[test]
fn a_folder_of_an_archive_that_holds_data_is_malformed_and_read() {
    let outcome = read(attached("a.zip", &renamed(&zip_of(&[("a.txt", SSN.as_bytes())]))));
    assert!(outcome.shows(SSN) && outcome.has(&Condition::Malformed), "{:?}", outcome.parts);
    // An empty folder is a folder, whichever method it claims.
    let outcome = read(attached("a.zip", &renamed(&zip_of(&[("a.txt", b""), ("b.txt", SSN.as_bytes())]))));
    assert!(outcome.shows(SSN) && outcome.conditions().is_empty(), "{:?}", outcome.conditions());
}

/// The archive with its `a.txt` called `a.tx/`.
fn renamed(archive: &[u8]) -> Vec<u8> {
    let mut archive = archive.to_vec();
    while let Some(at) = memchr::memmem::find(&archive, b"a.txt") {
        archive[at + 4] = b'/';
    }
    archive
}

#[test]
fn shared_strings_that_no_known_sheet_shows_are_read() {
    let strings = format!("<sst><si><t>Total</t></si><si><t>{SSN}</t></si><si><t>{CARD}</t></si></sst>");
    let sheet =
        b"<worksheet><sheetData><row><c t=\"s\"><v>0</v></c><c t=\"s\"><v>1</v></c></row></sheetData></worksheet>";
    for name in ["xl/elsewhere.xml", "xl/worksheets/sheet1.xml"] {
        let files: [(&str, &[u8]); 4] = [
            ("[Content_Types].xml", b"<Types/>"),
            ("xl/workbook.xml", b"<workbook/>"),
            (name, sheet),
            ("xl/sharedStrings.xml", strings.as_bytes()),
        ];
        let outcome = read(attached("a.xlsx", &zip_of(&files)));
        assert!(
            outcome.shows(SSN) && outcome.view("2", ViewKind::Margin).contains(CARD),
            "{name}: {:?}",
            outcome.parts
        );
        let times =
            outcome.view("2", ViewKind::Margin).matches(SSN).count() + outcome.part("2").text.matches(SSN).count();
        assert_eq!(times, 1, "{name}");
    }
}

#[test]
fn an_empty_comment_of_three_hyphens_hides_nothing() {
    let outcome = read(single("Content-Type: text/html\r\n", "<p>4111 11<!--->11 1111 1111</p><!-- x -->"));
    assert!(outcome.part("1").text.contains(CARD), "{:?}", outcome.parts);
}

#[test]
fn invisible_references_split_no_number() {
    for name in [
        "ic",
        "InvisibleComma",
        "it",
        "InvisibleTimes",
        "af",
        "ApplyFunction",
        "NegativeThickSpace",
        "NoBreak",
        "DownBreve",
    ] {
        let outcome = read(single("Content-Type: text/html\r\n", &format!("4111 11&{name};11 1111 1111")));
        let seen: String = outcome.part("1").text.chars().filter(|c| c.is_ascii()).collect();
        assert!(seen.contains(CARD), "{name}: {seen}");
    }
    for (name, shown) in [
        ("boxh", "\u{2500}"),
        ("HorizontalLine", "\u{2500}"),
        ("VeryThinSpace", "\u{200a}"),
        ("MediumSpace", "\u{205f}"),
        ("ThickSpace", "\u{205f}\u{200a}"),
        ("UnderBar", "_"),
        ("centerdot", "·"),
    ] {
        let outcome = read(single("Content-Type: text/html\r\n", &format!("123&{name};45")));
        assert!(outcome.shows(&format!("123{shown}45")), "{name}: {:?}", outcome.part("1").text);
    }
    let outcome = read(single("Content-Type: text/html\r\n", "a?b=1&item=2&afar=3&ic=4"));
    assert!(outcome.shows("a?b=1&item=2&afar=3&ic=4"), "{:?}", outcome.part("1").text);
}

#[test]
fn a_fragment_of_a_message_is_malformed() {
    let outcome = read(single("Content-Type: message/partial; id=a; number=1; total=2\r\n", CARD));
    assert!(outcome.shows(CARD) && outcome.has(&Condition::Malformed), "{:?}", outcome.conditions());
    assert!(outcome.has(&Condition::Unread("partial".to_owned())));
}
