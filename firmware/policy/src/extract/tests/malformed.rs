//! Messages that parsers read differently (threat 8): every reading is looked at, and the message is malformed.

use super::*;

/// Both: the number is found, and the message does not pass for sound.
fn caught(what: &str, message: &str) {
    let outcome = read(message);
    assert!(outcome.shows(CARD), "{what}: not found in {:?}", outcome.parts);
    assert!(outcome.has(&Condition::Malformed), "{what}: not malformed");
}

#[test]
fn contradicting_headers() {
    let coded = encode(CARD.as_bytes());
    let quoted: String = CARD.bytes().map(|b| format!("={b:02X}")).collect();
    for (what, fields, body) in [
        (
            "two encodings, last counts",
            "Content-Transfer-Encoding: 7bit\r\nContent-Transfer-Encoding: base64\r\n",
            coded.as_str(),
        ),
        (
            "two encodings, first counts",
            "Content-Transfer-Encoding: base64\r\nContent-Transfer-Encoding: 7bit\r\n",
            &coded,
        ),
        (
            "plain text said to be both",
            "Content-Transfer-Encoding: base64\r\nContent-Transfer-Encoding: quoted-printable\r\n",
            &quoted,
        ),
        ("an unknown encoding", "Content-Transfer-Encoding: x-base64\r\n", &coded),
        ("an encoding with a typing error", "Content-Transfer-Encoding: quoted printable=\r\n", &quoted),
        (
            "two types",
            "Content-Type: text/plain\r\nContent-Type: multipart/mixed; boundary=B\r\n",
            "--B\r\nContent-Transfer-Encoding: base64\r\n\r\nNDExMSAxMTExIDExMTEgMTExMQ==\r\n--B--",
        ),
        (
            "two boundaries, last counts",
            "Content-Type: multipart/mixed; boundary=A; boundary=B\r\n",
            "--B\r\nContent-Transfer-Encoding: base64\r\n\r\nNDExMSAxMTExIDExMTEgMTExMQ==\r\n--B--",
        ),
        (
            "a boundary in continuations",
            "Content-Type: multipart/mixed; boundary=A; boundary*0=B; boundary*1=C\r\n",
            "--BC\r\nContent-Transfer-Encoding: base64\r\n\r\nNDExMSAxMTExIDExMTEgMTExMQ==\r\n--BC--",
        ),
        (
            "a boundary with a comment",
            "Content-Type: multipart/mixed; boundary=A(x)\r\n",
            "--A(x)\r\nContent-Transfer-Encoding: base64\r\n\r\nNDExMSAxMTExIDExMTEgMTExMQ==\r\n--A(x)--",
        ),
        (
            "no boundary at all",
            "Content-Type: multipart/mixed\r\n",
            "--guess\r\nContent-Transfer-Encoding: base64\r\n\r\nNDExMSAxMTExIDExMTEgMTExMQ==\r\n--guess--",
        ),
        (
            "an encoded multipart",
            "Content-Type: multipart/mixed; boundary=B\r\nContent-Transfer-Encoding: base64\r\n",
            &encode(format!("--B\r\n\r\n{CARD}\r\n--B--").as_bytes()),
        ),
        (
            "an encoding on a multipart that is not applied",
            "Content-Type: multipart/mixed; boundary=B\r\nContent-Transfer-Encoding: base64\r\n",
            "--B\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n4111 1111 1111 =31111\r\n--B--",
        ),
    ] {
        caught(what, &single(fields, body));
    }
}

#[test]
fn boundaries_that_are_drawn_differently() {
    let part = "Content-Transfer-Encoding: base64\r\n\r\nNDExMSAxMTExIDExMTEgMTExMQ==\r\n";
    for (what, body) in [
        ("no end", format!("--B\r\n{part}")),
        ("parts behind the end", format!("--B\r\n\r\nx\r\n--B--\r\n--B\r\n{part}--B--")),
        ("a delimiter that goes on", format!("--B\r\n\r\nx\r\n--Bogus\r\n{part}--B--")),
        ("an end that goes on", format!("--B--trick\r\n--B\r\n\r\nx\r\n--Bx\r\n{part}\r\n--B--")),
        ("no delimiter", format!("nothing here\r\n{CARD}")),
    ] {
        caught(what, &single("Content-Type: multipart/mixed; boundary=B\r\n", &body));
    }
}

#[test]
fn text_before_and_behind_the_parts_is_read() {
    for body in [format!("{CARD}\r\n--B\r\n\r\nx\r\n--B--"), format!("--B\r\n\r\nx\r\n--B--\r\n{CARD}")] {
        let outcome = read(single("Content-Type: multipart/mixed; boundary=B\r\n", &body));
        assert_eq!(outcome.places(CARD).collect::<Vec<_>>(), ["TEXT"]);
        assert!(outcome.conditions().is_empty());
    }
}

#[test]
fn boundaries_that_begin_alike_are_sound() {
    let inner = "Content-Type: multipart/alternative; boundary=XYZ-1\r\n\r\n--XYZ-1\r\n\r\none\r\n--XYZ-1--";
    let outcome = read(mixed(&[inner, "\r\ntwo"]));
    assert!(outcome.conditions().is_empty(), "{:?}", outcome.conditions());
    assert_eq!(outcome.part("2").text, "two");
}

#[test]
fn headers_that_end_in_two_places() {
    let coded = encode(CARD.as_bytes());
    for (what, message) in [
        (
            "a line that is no field",
            format!("Subject: x\r\nno field\r\nContent-Transfer-Encoding: base64\r\n\r\n{coded}"),
        ),
        (
            "a line of blanks",
            format!("Subject: x\r\nContent-Transfer-Encoding: base64\r\n \r\n{coded}\r\nX: y\r\n\r\nz"),
        ),
        (
            "a blank line first, field behind",
            format!("Subject: x\r\n \r\nContent-Transfer-Encoding: base64\r\n\r\n{coded}"),
        ),
        ("a body without an empty line", format!("Subject: x\r\n{CARD}")),
    ] {
        let outcome = read(&message);
        assert!(outcome.shows(CARD), "{what}: {:?}", outcome.parts);
        assert!(outcome.has(&Condition::Malformed), "{what}");
    }
}

#[test]
fn base64_with_junk() {
    let coded = encode(CARD.as_bytes());
    let (head, tail) = coded.split_at(7);
    for body in [
        format!("{head}!{tail}"),
        format!("{head}\0{tail}"),
        format!("{}=={}", encode(b"4111 1111 1"), encode(b"111 1111")),
        format!("{coded}\r\n-- \r\nmailing list footer.\r\n"),
        CARD.replace(' ', ".") + &format!(" {CARD}"),
    ] {
        caught(&body, &single("Content-Transfer-Encoding: base64\r\n", &body));
    }
}

#[test]
fn plain_text_said_to_be_base64_is_also_read_plain() {
    let outcome = read(single("Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n", CARD));
    assert!(outcome.shows(CARD));
}

#[test]
fn broken_off_base64_is_read_as_far_as_it_goes() {
    let coded = encode(CARD.as_bytes());
    let outcome = read(single("Content-Transfer-Encoding: base64\r\n", coded.trim_end_matches('=')));
    assert!(outcome.shows(CARD) && outcome.conditions().is_empty());
}

#[test]
fn sound_mail_of_ordinary_programs_has_no_condition() {
    let outlook = "Content-Type: multipart/related;\r\n\tboundary=\"----=_NextPart_000_0001_01DA\";\r\n\ttype=\"multipart/alternative\"\r\n";
    let body = "This is a multipart message in MIME format.\r\n\r\n------=_NextPart_000_0001_01DA\r\n\
                Content-Type: multipart/alternative;\r\n\tboundary=\"----=_NextPart_001_0002_01DA\"\r\n\r\n\r\n\
                ------=_NextPart_001_0002_01DA\r\nContent-Type: text/plain;\r\n\tcharset=\"iso-8859-1\"\r\n\
                Content-Transfer-Encoding: quoted-printable\r\n\r\nGr=FC=DFe\r\n\r\n\
                ------=_NextPart_001_0002_01DA\r\nContent-Type: text/html;\r\n\tcharset=\"iso-8859-1\"\r\n\
                Content-Transfer-Encoding: quoted-printable\r\n\r\n<html><head><META http-equiv=3D\"Content-Type\" \
                content=3D\"text/html; charset=3Dutf-8\"></head><p>Gr=FC=DFe</html>\r\n\
                ------=_NextPart_001_0002_01DA--\r\n\r\n------=_NextPart_000_0001_01DA--\r\n";
    let outcome = read(single(outlook, body));
    assert!(outcome.conditions().is_empty(), "{:?}", outcome.conditions());
    assert_eq!(outcome.part("1.2").text, "Grüße\n");
    assert_eq!(outcome.parts.iter().filter(|part| part.section == "1.2").count(), 1);
}
