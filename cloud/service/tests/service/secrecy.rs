//! What a copy of the data folder, and a notice, give away: nothing.

use crate::harness::*;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::StatusCode;
use std::path::Path;

const PLANTED: &str = "Xylophon-Befund-7731";
const SUBJECT: &str = "Quarzbefund-5512";
const FILE: &str = "Geheimakte-9920";

fn message() -> Vec<u8> {
    format!(
        "From: Dr. Weber <dr.weber@clinic.example>\r\nTo: jane.roe@home.example\r\nSubject: {SUBJECT}\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: text/html\r\n\r\n<p>{PLANTED}</p>\r\n--x\r\n\
         Content-Type: application/pdf; name=\"{FILE}.pdf\"\r\nContent-Transfer-Encoding: base64\r\n\r\n{}\r\n--x--\r\n",
        STANDARD.encode(format!("%PDF {PLANTED} {PLANTED}"))
    )
    .into_bytes()
}

/// A text as it could lie in a file: plain, quoted-printable, UTF-16 either way, base64 at three alignments, hexadecimal.
fn disguises(text: &str) -> Vec<Vec<u8>> {
    let mut out = vec![text.as_bytes().to_vec(), text.to_lowercase().into_bytes()];
    out.push(text.replace('-', "=2D").replace('@', "=40").into_bytes());
    out.push(text.encode_utf16().flat_map(u16::to_le_bytes).collect());
    out.push(text.encode_utf16().flat_map(u16::to_be_bytes).collect());
    out.push(text.bytes().map(|b| format!("{b:02x}")).collect::<String>().into_bytes());
    for shift in 0..3 {
        let padded = [&b"\0\0"[..shift], text.as_bytes()].concat();
        // The ends of the encoding depend on the neighbours.
        let encoded = STANDARD.encode(padded);
        let inner = &encoded[4..encoded.len() - 4];
        out.push(inner.as_bytes().to_vec());
    }
    out
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

fn search(folder: &Path, needles: &[Vec<u8>], searched: &mut usize) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            search(&path, needles, searched);
        } else {
            let bytes = std::fs::read(&path).unwrap();
            *searched += bytes.len();
            for needle in needles {
                assert!(!contains(&bytes, needle), "{path:?} holds {:?}", String::from_utf8_lossy(needle));
            }
        }
    }
}

#[test]
fn the_search_finds_what_is_there() {
    for needle in disguises(PLANTED) {
        let around = [b"before".as_slice(), &needle, b"after"].concat();
        assert!(contains(&around, &needle));
    }
    let encoded = STANDARD.encode(format!("x{PLANTED}y"));
    assert!(disguises(PLANTED).iter().any(|needle| contains(encoded.as_bytes(), needle)));
}

#[tokio::test]
async fn planted_text_and_addresses_are_found_nowhere_in_the_data_folder() {
    let mut lab = Lab::start().await;
    let appliance = lab.enrolled().await;
    let body = frame_to(&["Jane.Roe@home.example"], 0, &message());
    assert_eq!(appliance.put(0, &body).await.status, StatusCode::CREATED);
    // A second one stays half-way: partial uploads are sealed too.
    let mut long = message();
    long.extend(PLANTED.repeat(20_000).into_bytes());
    let partial = frame_to(&["john.doe@home.example"], 1, &long);
    let fields = [
        (wire::header::DIGEST, digest_of(&partial).to_string()),
        (wire::header::UPLOAD_OFFSET, "0".to_owned()),
        (wire::header::UPLOAD_LENGTH, partial.len().to_string()),
    ];
    let path = wire::path::message(ID, 1);
    let reply = appliance.request(hyper::Method::PUT, &path, &fields, partial[..200_000].to_vec()).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.text());

    let mail = lab.sink.wait(1).await[0].clone();
    let mut browser = lab.browser();
    let opened = browser.register(&mail.link(), "correct horse battery").await;
    assert!(browser.get(opened.location()).await.text().contains(PLANTED));
    browser.get(&format!("{}/attachments/0", opened.location())).await;
    browser.get("/inbox").await;

    let token = mail.link().trim_start_matches("/m/").to_owned();
    let session = browser.cookies["__Host-session"].clone();
    let needles: Vec<_> = [
        PLANTED,
        SUBJECT,
        FILE,
        "jane.roe@home.example",
        "Jane.Roe@home",
        "john.doe@home",
        "dr.weber@clinic",
        "home.example",
        "Dr. Weber",
        "correct horse battery",
        "Example Clinic",
        &token,
        &session,
    ]
    .into_iter()
    .flat_map(disguises)
    .collect();
    let mut searched = 0;
    search(&lab.data(), &needles, &mut searched);
    assert!(searched > 250_000, "only {searched} bytes were searched");
    lab.restart().await;
    search(&lab.data(), &needles, &mut searched);
}

#[tokio::test]
async fn a_notice_says_who_sent_and_nothing_else() {
    let lab = Lab::start().await;
    let appliance = lab.enrolled().await;
    let body = frame_to(&["jane.roe@home.example", "Jane.Roe@home.example", "b@home.example"], 0, &message());
    appliance.put(0, &body).await;
    let mails = lab.sink.wait(2).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(lab.sink.mails.lock().unwrap().len(), 2, "one notice a person");

    let mail = mails.iter().find(|m| m.recipient == "jane.roe@home.example").unwrap();
    let parsed = mail_parser::MessageParser::default().parse(&mail.data).unwrap();
    let (text, html) = (parsed.body_text(0).unwrap(), parsed.body_html(0).unwrap());
    assert_eq!(parsed.subject(), Some("Secure message from Example Clinic"));
    assert!(text.contains("Example Clinic") && html.contains("Example Clinic"));
    assert!(mail.data.contains("Auto-Submitted: auto-generated"));
    // Decoded and raw: nothing of the message, and no other mailbox.
    for harm in [PLANTED, SUBJECT, FILE, "dr.weber", "Dr. Weber", "b@home.example"] {
        for view in [mail.data.as_str(), &text, &html] {
            assert!(!view.to_lowercase().contains(&harm.to_lowercase()), "{harm} in {view}");
        }
    }
    // The address stands in the envelope and in To, never in the link or the text.
    assert!(!text.contains('@') && !html.contains('@'), "{text}");
    let token = mail.link().trim_start_matches("/m/").to_owned();
    assert_eq!(token.len(), 43, "256 bits in base64url");
    assert_ne!(mails[0].link(), mails[1].link());
    assert!(text.contains(&format!("https://{}/m/{token}", lab.portal())));
}

#[tokio::test]
async fn another_master_key_opens_nothing_and_is_refused_at_start() {
    let mut lab = Lab::start().await;
    lab.service.take().unwrap().stop().await;
    let mut config = lab.config();
    config.master_key = lab.folder.path().join("other-master");
    let bind = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = postern_cloud::Service::start(config, bind(), bind()).await;
    assert!(matches!(refused, Err(postern_cloud::Error::MasterKeyForeign)));
}
