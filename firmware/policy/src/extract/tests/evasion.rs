//! Each trick by its name (features P10, threat 13).

use super::*;

fn html(body: &str) -> Outcome {
    read(single("Content-Type: text/html; charset=utf-8\r\n", body))
}

#[test]
fn in_every_transfer_encoding() {
    for (encoding, body) in [
        ("7bit", CARD.to_owned()),
        ("8bit", format!("ä {CARD}")),
        ("binary", CARD.to_owned()),
        ("BASE64 (of course)", encode(CARD.as_bytes())),
        ("base64", encode(CARD.as_bytes()).chars().flat_map(|c| [c, '\n']).collect()),
        ("Quoted-Printable", CARD.bytes().map(|b| format!("={b:02X}")).collect()),
        ("quoted-printable", "4111 11=\r\n11 1111= \r\n 1111".to_owned()),
        ("x-uuencode", format!("begin 644 a.txt\r\n{}\r\n`\r\nend\r\n", uuencode(CARD.as_bytes()))),
    ] {
        let outcome = read(single(&format!("Content-Transfer-Encoding: {encoding}\r\n"), &body));
        assert!(outcome.shows(CARD), "{encoding}: {:?}", outcome.parts);
    }
}

fn uuencode(bytes: &[u8]) -> String {
    let digit = |value: usize| char::from(0x20 + (value & 63) as u8);
    let mut line = digit(bytes.len()).to_string();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().chain([&0, &0]).take(3).fold(0usize, |word, b| word << 8 | usize::from(*b));
        line.extend([18, 12, 6, 0].map(|shift| digit(word >> shift)));
    }
    line
}

#[test]
fn uuencoded_in_the_middle_of_a_text() {
    let body = format!("Hello,\r\nbegin 644 a.txt\r\n{}\r\n`\r\nend\r\nbye\r\n", uuencode(CARD.as_bytes()));
    assert_eq!(read(single("", &body)).places(CARD).collect::<Vec<_>>(), ["1!a.txt"]);
}

#[test]
fn in_charsets_that_hide_ascii() {
    let wide = |big: bool| -> Vec<u8> {
        CARD.encode_utf16().flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
    };
    for (charset, body) in [
        ("utf-16le", wide(false)),
        ("utf-16be", wide(true)),
        ("us-ascii", wide(false)),
        ("utf-32le", CARD.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect()),
        ("utf-32", CARD.chars().flat_map(|c| u32::from(c).to_be_bytes()).collect()),
        ("ibm037", CARD.bytes().map(|b| if b == b' ' { 0x40 } else { 0xf0 + (b - b'0') }).collect()),
        ("utf-7", b"+ADQ-111 1111 +ADEAMQAxADE- 1111".to_vec()),
    ] {
        let fields = format!("Content-Type: text/plain; charset={charset}\r\nContent-Transfer-Encoding: base64\r\n");
        assert!(read(single(&fields, &encode(&body))).shows(CARD), "{charset}");
    }
}

#[test]
fn html_with_a_charset_of_its_own() {
    let body = "<html><head><meta charset=\"utf-7\"></head>+ADQAMQAxADE- 1111 1111 1111</html>";
    assert!(html(body).shows(CARD));
    assert!(read(single("Content-Type: text/html\r\n", body)).shows(CARD));
}

#[test]
fn split_by_inline_tags() {
    for body in [
        "4111 <b>1111</b> 11<i>11</i> 1<span class=x>1</span>11",
        "4111 1111 <font size=1>1111</font> 11<wbr>11",
        "4111 1111<!-- x --> 1111 11<!---->11",
        "4111 1111 1111 11<a href=\"x\" title='>'>11</a>",
        "4111 1111 1111 11<o:p></o:p>11",
        "4111 1111 1111\r\n 1111",
        "4111\n1111&#32;1111\t 1111",
    ] {
        assert!(html(body).shows(CARD), "{body}: {:?}", html(body).part("1").text);
    }
}

#[test]
fn written_in_entities() {
    let decimal: String = CARD.bytes().map(|b| format!("&#{b};")).collect();
    let hex: String = CARD.bytes().map(|b| format!("&#x{b:x}")).collect();
    let padded: String = CARD.bytes().map(|b| format!("&#000{b};")).collect();
    for body in [decimal, hex, padded] {
        assert!(html(&body).shows(CARD), "{body}");
    }
}

#[test]
fn in_hidden_markup() {
    for body in [
        "<div style=\"display:none\">4111 1111 1111 1111</div>",
        "<p hidden>4111 1111 1111 1111</p>",
        "<!-- 4111 1111 1111 1111 -->",
        "<!--[if mso]><p>4111 <b>1111</b> 1111 1111</p><![endif]-->",
        "<![if !mso]>4111 1111 1111 1111<![endif]>",
        "<img alt=\"4111 1111 1111 1111\">",
        "<input value='4111 1111 1111 1111'>",
        "<a href='tel:4111%201111%201111%201111'>x</a>",
        "<style>p:before { content: \"4111 1111 1111 1111\" }</style>",
        "<iframe srcdoc=\"&lt;p&gt;4111 1111 &lt;b&gt;1111&lt;/b&gt; 1111\"></iframe>",
        "<noscript>4111 1111 1111 1111</noscript>",
        "<template>4111 1111 1111 1111</template>",
        "<![CDATA[4111 1111 1111 1111]]>",
        "<textarea>4111 1111 1111 1111</textarea>",
        "<title>4111 1111 1111 1111</title>",
    ] {
        assert!(html(body).shows(CARD), "{body}");
    }
}

#[test]
fn behind_markup_that_never_ends() {
    for body in [
        "<style> 4111 1111 1111 1111",
        "<script> 4111 1111 1111 1111",
        "<!-- 4111 1111 1111 1111",
        "<a title=\"> 4111 1111 1111 1111",
        "<b 4111 <b>4111 1111 1111 1111",
    ] {
        assert!(html(body).shows(CARD), "{body}");
    }
}

#[test]
fn hidden_junk_inside_a_visible_number() {
    for body in [
        "4111 <span style=\"display: none\">x9</span>1111 1111 1111",
        "4111 1111<span style='font-size:0px'>9</span> 1111 1111",
        "<style>.q, #z { display:none }</style>4111 1111 1<b class='a q'>9</b>111 1111",
        "<style>#z{visibility:hidden}</style>4111 1111 1<b id=z>9</b>111 1111",
        "4111 1111 1111 1<span hidden>9<span>9</span>9</span>111",
    ] {
        assert!(html(body).view("1", ViewKind::Visible).contains(CARD), "{body}");
    }
}

#[test]
fn split_over_cells() {
    for body in [
        "<table><tr><td>4111</td><td>1111</td><td>1111</td><td>1111</td></tr></table>",
        "<table><tr><td><p>4111 11</p></td> <td><p>11 1111</p></td><td>1111</td></tr></table>",
        "<table><tr><td>4<td>1<td>1<td>1<td>1<td>1<td>1<td>1<td>1<td>1<td>1<td>1<td>1<td>1<td>1<td>1</table>",
        "<div style='float:left'>4111</div><div style='float:left'>1111</div><div style='float:left'>11111111</div>",
        "<div><div style='display:inline-block'>41111111</div><div style='display: inline'>11111111</div></div>",
    ] {
        let digits: String = html(body).view("1", ViewKind::Joined).chars().filter(|c| *c != ' ').collect();
        assert!(digits.contains("4111111111111111"), "{body}: {:?}", html(body).parts);
    }
}

#[test]
fn an_iban_split_over_cells() {
    let body = "<table><tr><th>IBAN</th></tr><tr><td>DE89</td><td>3704</td><td>0044</td><td>0532</td><td>0130</td><td>00</td></tr></table>";
    let outcome = html(body);
    let joined = outcome.view("1", ViewKind::Joined);
    assert!(joined.contains("IBAN") && joined.contains("DE89370400440532013000"), "{joined}");
}

#[test]
fn in_a_csv_file_one_group_a_column() {
    let outcome = read(attached("cards.csv", b"name;a;b;c;d\nAnna;4111;1111;1111;1111\n"));
    assert!(outcome.view("2", ViewKind::Joined).contains("4111111111111111"));
}

#[test]
fn folded_into_a_calendar_entry() {
    let body = "BEGIN:VCALENDAR\r\nDESCRIPTION:4111 1111\r\n  1111 11\r\n 11\r\nEND:VCALENDAR\r\n";
    assert!(read(single("Content-Type: text/calendar\r\n", body)).shows(CARD));
}

#[test]
fn in_encoded_words_of_the_header() {
    for subject in [
        "=?utf-8?Q?4111_1111?= =?utf-8?Q?_1111_1111?=",
        "=?utf-8?B?NDExMSAxMTExIDExMTEgMTExMQ==?=",
        "=?x-unknown?Q?4111=201111=201111=201111?=",
        "4111\r\n 1111\r\n 1111\r\n 1111",
    ] {
        let outcome = read(format!("Subject: {subject}\r\n\r\nx"));
        assert_eq!(outcome.places(CARD).collect::<Vec<_>>(), ["0"], "{subject}");
    }
}

#[test]
fn under_a_false_type_or_name() {
    let archive = archives::zip_of(&[("a.txt", CARD.as_bytes())]);
    for (kind, name) in [("image/png", "a.png"), ("text/plain", "a.txt"), ("application/x-made-up", "x")] {
        let part = format!(
            "Content-Type: {kind}; name={name}\r\nContent-Transfer-Encoding: base64\r\n\r\n{}",
            encode(&archive)
        );
        assert!(read(mixed(&[&part])).shows(CARD), "{kind}");
    }
}

#[test]
fn html_as_plain_text_is_read_both_ways() {
    let body = "<html><p>4111 <b>1111</b> 1111 1111</p><script>5500 0000 0000 0004</script></html>";
    let outcome = read(single("Content-Type: text/plain\r\n", body));
    assert!(outcome.shows(CARD) && outcome.shows("5500 0000 0000 0004"));
}
