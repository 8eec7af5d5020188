//! Planted text is found in no raw file and in no byte that left by SMTP (item 4; features D1, K9).

use lab::{
    layout::Layout,
    mails::{Part, docx, message, message_id, windows_program},
    planted::Planted,
    process::free_port_base,
    recipient::{Recipient, notice_links},
    smtp::Client,
    system::{Options, System, maildir},
};
use std::{fs, time::Duration};

const SECRET: &str = "Zürich-Geheimfach-7714302";
const SUBJECT: &str = "Subjekt-Geheimnis-5510993-ü";
const ORDINARY: &str = "Alltägliche-Nachricht-2288117";
const DOCX: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";

#[test]
fn a_planted_text_is_in_no_file_and_no_confidential_byte_leaves_by_smtp() {
    let folder = tempfile::tempdir().unwrap();
    // What the daemons would write to temporary folders is looked at too.
    let temporary = folder.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    let layout = Layout::new(&folder.path().join("lab"), free_port_base().unwrap()).unwrap();
    let options = Options { temporary: Some(temporary.clone()), ..Options::default() };
    let mut system = System::start(layout, options).unwrap();
    let mut client = Client::connect(system.layout.smtp()).unwrap();
    let secret =
        |parts: &[Part]| message("anna@clinic.example", &["bob@partner.example"], SUBJECT, &message_id(), parts);
    let large = format!("{SECRET} again and again\r\n").repeat(60_000);
    let mails = [
        secret(&[Part::text(&format!("SSN 536-22-8145, {SECRET}"))]),
        secret(&[Part::html(&format!("<p>IBAN DE89370400440532013000</p><b>{SECRET}</b>"))]),
        secret(&[Part::text("SSN 536-22-8145"), Part::attachment("geheim.docx", DOCX, docx(&[SECRET]).unwrap())]),
        // Over what waits in memory, and over what is judged in the daemon.
        secret(&[Part::text("SSN 536-22-8145"), Part::attachment("large.txt", "text/plain", large.into_bytes())]),
    ];
    for mail in &mails {
        client.send("anna@clinic.example", &["bob@partner.example"], mail).unwrap();
    }
    // An ordinary mail shows that the search below is not blind, and that relayed text does not stay either.
    let ordinary =
        message("anna@clinic.example", &["bob@partner.example"], "plain", &message_id(), &[Part::text(ORDINARY)]);
    client.send("anna@clinic.example", &["bob@partner.example"], &ordinary).unwrap();
    // One that stays in the queue: its bytes lie on the disk while the search runs.
    let waiting =
        secret(&[Part::text(SECRET), Part::attachment("setup.exe", "application/octet-stream", windows_program())]);
    client.send("anna@clinic.example", &["bob@partner.example"], &waiting).unwrap();
    system.wait_until_delivered(Duration::from_secs(60)).unwrap();

    let sink = system.layout.path("sink/next-hop");
    let start = std::time::Instant::now();
    while notice_links(&sink, "bob@partner.example").unwrap().len() < mails.len() {
        assert!(start.elapsed() < Duration::from_secs(60), "the notices do not come");
        std::thread::sleep(Duration::from_millis(100));
    }
    // Read it all, so that whatever the portal writes down while it shows a message is on the disk as well.
    let recipient = Recipient::new(&system.layout).unwrap();
    recipient.open(&notice_links(&sink, "bob@partner.example").unwrap()[0]).unwrap();
    let shown = recipient.read_all().unwrap();
    assert_eq!(shown.len(), mails.len());
    assert!(shown.iter().any(|shown| shown.page.contains(SECRET)), "the portal shows the planted text");

    let (secret, subject, relayed) = (Planted::new(SECRET), Planted::new(SUBJECT), Planted::new(ORDINARY));
    let mut seen = false;
    for (file, content) in maildir(&sink).unwrap() {
        assert_eq!(secret.in_bytes(&content), None, "{} left by SMTP", file.display());
        assert_eq!(subject.in_bytes(&content), None, "{} left by SMTP", file.display());
        seen |= relayed.in_bytes(&content).is_some();
    }
    assert!(seen, "the search does not see the ordinary mail at the next hop");
    let look = |system: &System| {
        for text in [&secret, &subject, &relayed] {
            for dir in ["appliance", "cloud", "log", "tpm"] {
                let found = text.below(&system.layout.path(dir)).unwrap();
                assert!(found.is_empty(), "found in {dir}: {found:?}");
            }
            let found = text.below(&temporary).unwrap();
            assert!(found.is_empty(), "found in temporary files: {found:?}");
        }
        let address = Planted::new("bob@partner.example");
        for dir in ["appliance", "cloud", "log"] {
            let found = address.below(&system.layout.path(dir)).unwrap();
            assert!(found.is_empty(), "the recipient's address stands in {dir}: {found:?}");
        }
    };
    look(&system);
    system.stop_appliance().unwrap();
    system.stop_cloud().unwrap();
    look(&system);
    system.stop().unwrap();
}
