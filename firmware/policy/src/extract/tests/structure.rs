use super::*;

#[test]
fn a_plain_message_is_section_1_and_its_header_0() {
    let outcome = read(single("Content-Type: text/plain; charset=us-ascii\r\n", "Hello.\r\n"));
    let sections: Vec<&str> = outcome.parts.iter().map(|part| part.section.as_str()).collect();
    assert_eq!(sections, ["0", "1"]);
    assert_eq!(outcome.part("1").text, "Hello.\r\n");
    assert_eq!(outcome.part("1").sniffed, "text");
    assert_eq!(outcome.header.subject, "test");
    assert!(outcome.conditions().is_empty());
}

#[test]
fn a_message_without_mime_fields_is_plain_text() {
    let outcome = read("Subject: x\n\nbody\n");
    assert_eq!(outcome.part("1").text, "body\n");
    assert_eq!(outcome.part("1").declared, "text/plain");
}

#[test]
fn sections_are_numbered_as_imap_does() {
    let inner = "Content-Type: multipart/alternative; boundary=ABC\r\n\r\n--ABC\r\n\r\none\r\n--ABC\r\n\
                 Content-Type: text/html\r\n\r\n<p>two\r\n--ABC--";
    let message = "Content-Type: message/rfc822\r\n\r\nSubject: three\r\nContent-Type: multipart/mixed; boundary=DEF\r\n\r\n\
                   --DEF\r\n\r\nfour\r\n--DEF--";
    let single = "Content-Type: message/rfc822\r\n\r\nSubject: five\r\n\r\nsix";
    let outcome = read(mixed(&[inner, message, single, "\r\nseven"]));
    for (section, text) in [
        ("1.1", "one"),
        ("1.2", "two"),
        ("2.0", "Subject: three\n"),
        ("2.1", "four"),
        ("3.0", "Subject: five\n"),
        ("3.1", "six"),
        ("4", "seven"),
    ] {
        assert_eq!(outcome.part(section).text.trim_start_matches('\n'), text, "{section}");
    }
    assert!(outcome.conditions().is_empty(), "{:?}", outcome.conditions());
}

#[test]
fn names_and_descriptions_are_decoded_and_can_be_searched() {
    for field in [
        "Content-Disposition: attachment; filename=\"4111 1111 1111 1111.txt\"",
        "Content-Disposition: attachment; filename*=utf-8''4111%201111%201111%201111.txt",
        "Content-Disposition: attachment; filename*0=\"4111 1111 \"; filename*1=\"1111 1111.txt\"",
        "Content-Type: text/plain; name=\"=?utf-8?Q?4111_1111_1111_1111=2Etxt?=\"",
    ] {
        let outcome = read(mixed(&[&format!("{field}\r\n\r\nx")]));
        assert_eq!(outcome.part("1").name.as_deref(), Some("4111 1111 1111 1111.txt"), "{field}");
        assert!(outcome.view("1", ViewKind::Label).contains(CARD));
    }
}

#[test]
fn attachments_are_marked_for_workers_and_text_is_not() {
    let message = attached("a.zip", b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    let structure = crate::extract::walk(message.as_bytes(), &mut Budget::unhurried());
    let marks: Vec<(&str, bool)> =
        structure.parts.iter().map(|part| (part.about.section.as_str(), part.about.attachment)).collect();
    assert_eq!(marks, [("1", false), ("2", true)]);
    assert!(matches!(structure.parts[0].body, std::borrow::Cow::Borrowed(_)));
}

#[test]
fn formats_without_a_reader_are_named() {
    for (content, kind) in [
        (&b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj"[..], "pdf"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "png"),
        (b"{\\rtf1\\ansi x}", "rtf"),
        (b"\x78\x9f\x3e\x22\x01\x00", "tnef"),
        (b"Rar!\x1a\x07\x01\0", "rar"),
        (b"7z\xbc\xaf\x27\x1c\0\x04", "7z"),
        (b"\0\x01\x02\x03\x80\x90\xa0", "unknown"),
    ] {
        let outcome = read(attached("file", content));
        assert_eq!(outcome.part("2").sniffed, kind);
        assert_eq!(outcome.part("2").conditions, [Condition::Unread(kind.to_owned())], "{kind}");
    }
}

#[test]
fn encrypted_content_is_named() {
    let pgp = "-----BEGIN PGP MESSAGE-----\r\n\r\nhQEMA\r\n-----END PGP MESSAGE-----\r\n";
    let ole: Vec<u8> = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
        .iter()
        .copied()
        .chain([0; 504])
        .chain("EncryptedPackage".encode_utf16().flat_map(u16::to_le_bytes))
        .collect();
    for (what, message) in [
        ("armour", single("", pgp)),
        ("armour in a text", single("", &format!("See below.\r\n\r\n{pgp}"))),
        ("armour attached", attached("a.asc", pgp.as_bytes())),
        (
            "PGP/MIME",
            single(
                "Content-Type: multipart/encrypted; boundary=x\r\n",
                "--x\r\n\r\nVersion: 1\r\n--x\r\n\r\ny\r\n--x--",
            ),
        ),
        ("OOXML with a password", attached("a.docx", &ole)),
        ("PDF with a password", attached("a.pdf", b"%PDF-1.7\n\x80\x81 trailer << /Encrypt 5 0 R >>")),
    ] {
        assert!(read(message).has(&Condition::Encrypted), "{what}");
    }
}

#[test]
fn a_detached_signature_leaves_no_condition() {
    let signed = "Content-Type: multipart/signed; boundary=s; protocol=\"application/pgp-signature\"\r\n";
    let body = "--s\r\n\r\ntext\r\n--s\r\nContent-Type: application/pgp-signature\r\n\r\n\
                -----BEGIN PGP SIGNATURE-----\r\n\r\niQE\r\n-----END PGP SIGNATURE-----\r\n--s--\r\n";
    assert!(read(single(signed, body)).conditions().is_empty());
}

#[test]
fn a_stored_message_is_read_like_an_attached_one() {
    let outcome = read(attached("mail.eml", b"Subject: 4111 1111 1111 1111\r\n\r\nbody 4111 1111 1111 1111"));
    assert_eq!(outcome.places(CARD).collect::<Vec<_>>(), ["2!0", "2!1"]);
}

#[test]
fn returned_headers_are_decoded_and_read_as_they_stand() {
    let body = "Subject: =?utf-8?Q?4111?= =?utf-8?Q?_1111_1111_1111?=\r\n\r\n5500 0000 0000 0004";
    let outcome = read(single("Content-Type: text/rfc822-headers\r\n", body));
    assert!(outcome.shows(CARD) && outcome.shows("5500 0000 0000 0004"));
}

#[test]
fn a_fragment_of_a_message_is_unread_and_undecidable() {
    let outcome = read(single("Content-Type: message/partial; id=a; number=1; total=2\r\n", CARD));
    assert!(outcome.shows(CARD) && outcome.has(&Condition::Unread("partial".to_owned())));
    assert!(outcome.has(&Condition::Malformed));
}
