//! Nothing that can be sent makes the reader panic, and what is plain is always found.

use super::{archives::zip_of, *};
use proptest::prelude::*;

/// Pieces of which hostile messages are made.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let known: Vec<&'static [u8]> = vec![
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b"--B",
        b"--B--",
        b"\r\n--B\r\n",
        b"--",
        b"Content-Type: ",
        b"Content-Transfer-Encoding: ",
        b"Content-Disposition: attachment; filename=",
        b"Subject: ",
        b"multipart/mixed; boundary=B",
        b"multipart/mixed",
        b"message/rfc822",
        b"text/html",
        b"text/plain; charset=utf-7",
        b"text/plain; charset=utf-16",
        b"base64",
        b"quoted-printable",
        b"x-uuencode",
        b"boundary*0=B; boundary*1=C",
        b"=?utf-8?Q?=34?=",
        b"=?utf-8?B?NDEx",
        b"=",
        b"=3",
        b"NDExMQ==",
        b"begin 644 a.txt\r\n",
        b"end\r\n",
        b"<table><tr><td>",
        b"<!--",
        b"-->",
        b"<style>.a{display:none}",
        b"</style>",
        b"<b class='a' hidden>",
        b"&#x34;",
        b"&nbsp",
        b"<",
        b">",
        b"\"",
        b"'",
        b"(",
        b")",
        b";",
        b"PK\x03\x04",
        b"PK\x01\x02",
        b"PK\x05\x06",
        b"%PDF-",
        b"\x30\x80",
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02",
        b"\xff\xfe",
        b"\0",
        b"\x1f\x8b\x08",
        b"4111 1111 1111 1111",
        b"\xc3",
    ];
    prop_oneof![
        6 => proptest::sample::select(known).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_message_makes_it_panic(pieces in proptest::collection::vec(piece(), 0..60)) {
        read(pieces.concat());
    }

    #[test]
    fn no_attachment_makes_it_panic(pieces in proptest::collection::vec(piece(), 0..30), name in "[a-z]{1,3}\\.(eml|html|csv|zip|ics)") {
        read(attached(&name, &pieces.concat()));
    }

    #[test]
    fn no_damaged_archive_makes_it_panic(at in 0usize..2000, value: u8, cut in 0usize..2000) {
        let sheet = "<worksheet><row><c r='A1' t='s'><v>0</v></c></row></worksheet>";
        let mut archive = zip_of(&[
            ("[Content_Types].xml", b"<a/>"),
            ("xl/sharedStrings.xml", b"<sst><si><t>4111</t></si></sst>"),
            ("xl/worksheets/sheet1.xml", sheet.as_bytes()),
        ]);
        let length = archive.len();
        archive[at % length] = value;
        read(attached("a.xlsx", &archive));
        archive.truncate(cut % length);
        read(attached("a.xlsx", &archive));
    }

    #[test]
    fn a_number_in_plain_text_is_found_wherever_it_stands(before in "[a-z \r\n]{0,200}", after in "[a-z \r\n]{0,200}") {
        let body = format!("{before}{CARD}{after}");
        prop_assert!(read(single("", &body)).shows(CARD));
        let coded = encode(body.as_bytes());
        prop_assert!(read(single("Content-Transfer-Encoding: base64\r\n", &coded)).shows(CARD));
    }

    #[test]
    fn base64_decodes_what_was_encoded(bytes in proptest::collection::vec(any::<u8>(), 0..300), width in 1usize..80) {
        let coded: Vec<u8> = encode(&bytes).as_bytes().chunks(width).flat_map(|line| [line, b"\r\n"].concat()).collect();
        let decoded = crate::extract::transfer::base64(&coded);
        prop_assert_eq!(decoded.bytes, bytes);
        prop_assert!(!decoded.junk);
    }
}
