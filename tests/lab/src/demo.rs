//! `make demo`: real mails through a real client, and a table of what became of each.
//!
//! Job: send with swaks, look into the sinks, read the portal as the recipient, compare. Place: around the whole system,
//! in a lab of its own. Invariants: what is observed is looked up where it must show, never assumed. A crash leaves a
//! temporary folder.

#![expect(clippy::print_stdout, reason = "the demo talks to the person at the terminal")]

use crate::{
    layout::Layout,
    mails::{Part, docx, message, message_id, noise, windows_program},
    process::free_port_base,
    recipient::{Recipient, notice_links},
    system::{Options, System, maildir, swaks},
};
use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

const SENDER: &str = "anna@clinic.example";
const PARTNER: &str = "bob@partner.example";
const COLLEAGUE: &str = "dora@clinic.example";
const DOCX: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
/// Octets of the large attachment.
const LARGE: usize = 20 << 20;
/// How long all of it may take to arrive.
const PATIENCE: Duration = Duration::from_secs(90);

/// What must happen to a mail.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// At the next hop, as it was sent.
    Relayed,
    /// At the internal mail server.
    Internal,
    /// In the portal, and nowhere else outside.
    Secured,
    /// In the portal for the one outside, at the internal server for the colleague.
    Both,
    /// 550, and nowhere.
    Refused,
    /// In the queue, and nowhere else.
    Held,
}

impl Expected {
    fn text(self) -> &'static str {
        match self {
            Self::Relayed => "next hop, unchanged",
            Self::Internal => "internal server",
            Self::Secured => "portal only",
            Self::Both => "portal and internal server",
            Self::Refused => "refused with 550",
            Self::Held => "held in the queue",
        }
    }
}

struct Mail {
    title: &'static str,
    to: Vec<&'static str>,
    id: String,
    content: Vec<u8>,
    /// A text that the reader must see in the portal.
    shows: &'static str,
    attachment: Option<Vec<u8>>,
    expected: Expected,
}

/// Runs the demo; whether all went as it must.
///
/// # Errors
/// The lab does not start or stop.
pub fn run() -> io::Result<bool> {
    let folder = tempfile::Builder::new().prefix("postern-demo").tempdir()?;
    let layout = Layout::new(&folder.path().join("lab"), free_port_base()?)?;
    println!("starting a lab of its own …");
    let mut system = System::start(layout, Options::default())?;
    let mails = mails()?;
    let mut replies = Vec::new();
    for mail in &mails {
        let output = swaks(system.layout.smtp(), SENDER, &mail.to, &mail.content)?;
        replies.push(final_reply(&String::from_utf8_lossy(&output.stdout)));
    }
    println!("{} mails handed in; waiting until they have arrived …", mails.len());
    system.wait_until_delivered(PATIENCE)?;
    let notices = mails.iter().filter(|mail| matches!(mail.expected, Expected::Secured | Expected::Both)).count();
    let sink = system.layout.path("sink/next-hop");
    let start = Instant::now();
    while notice_links(&sink, PARTNER)?.len() < notices && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(100));
    }
    let links = notice_links(&sink, PARTNER)?;
    let recipient = Recipient::new(&system.layout)?;
    // Where no notice came there is nothing to open, and the table below says so.
    if let Some(link) = links.first() {
        recipient.open(link)?;
    }
    let all_well = report(&system, &mails, &replies, &recipient, links.len() == notices)?;
    system.stop()?;
    Ok(all_well)
}

fn report(
    system: &System,
    mails: &[Mail],
    replies: &[String],
    recipient: &Recipient,
    notices_match: bool,
) -> io::Result<bool> {
    let shown = recipient.read_all()?;
    let mut all_well = notices_match;
    println!("\n  {:<34} {:<28} {:<28}", "mail", "expected", "observed");
    println!("  {:-<34} {:-<28} {:-<28}", "", "", "");
    for (mail, reply) in mails.iter().zip(replies) {
        let page = shown.iter().find(|shown| shown.page.contains(mail.title));
        let outside = find(&system.layout.path("sink/next-hop"), &mail.id)?;
        let inside = find(&system.layout.path("sink/internal"), &mail.id)?;
        let held =
            system.postern_json(&["queue", "list"], "")?.to_string().contains("held") && reply.starts_with("250");
        let observed = match (page, &outside, &inside) {
            _ if reply.starts_with("550") && page.is_none() && outside.is_none() && inside.is_none() => {
                Expected::Refused.text().to_owned()
            }
            (None, Some(content), None) if content.ends_with(&mail.content) => Expected::Relayed.text().to_owned(),
            (None, Some(_), None) => "next hop, changed".to_owned(),
            (None, None, Some(_)) => Expected::Internal.text().to_owned(),
            (Some(page), None, inside) => {
                let readable = page.page.contains(mail.shows);
                let whole = match (&mail.attachment, page.attachments.first()) {
                    (None, _) => true,
                    (Some(sent), Some(path)) => recipient.download(path)? == *sent,
                    (Some(_), None) => false,
                };
                match (readable && whole, inside) {
                    (true, None) => Expected::Secured.text().to_owned(),
                    (true, Some(_)) => Expected::Both.text().to_owned(),
                    (false, _) => "portal, but not whole".to_owned(),
                }
            }
            (None, None, None) if held => Expected::Held.text().to_owned(),
            _ => format!("elsewhere ({reply})"),
        };
        let well = observed == mail.expected.text();
        all_well &= well;
        let mark = if well { "✓" } else { "✗" };
        println!("{mark} {:<34} {:<28} {observed:<28}", mail.title, mail.expected.text());
    }
    println!(
        "\n{}",
        match (all_well, notices_match) {
            (true, _) => "all as it must be; not one notice carries content",
            (false, true) => "something is not as it must be",
            (false, false) => "the number of notices is not the number of secured mails",
        }
    );
    Ok(all_well)
}

/// The whole message with this Message-ID.
fn find(sink: &Path, id: &str) -> io::Result<Option<Vec<u8>>> {
    let mails = maildir(sink)?;
    Ok(mails
        .into_iter()
        .map(|(_, content)| content)
        .find(|content| memchr::memmem::find(content, id.as_bytes()).is_some()))
}

/// The server's answer to the final dot, or to whatever ended the dialogue before.
fn final_reply(transcript: &str) -> String {
    let replies = transcript.lines().filter_map(|line| {
        line.strip_prefix("<-  ").or_else(|| line.strip_prefix("<** ")).or_else(|| line.strip_prefix("<~  "))
    });
    let replies: Vec<&str> = replies.filter(|reply| !reply.starts_with("221")).collect();
    replies.last().map_or_else(|| "no reply".to_owned(), |reply| (*reply).to_owned())
}

fn mails() -> io::Result<Vec<Mail>> {
    let large = noise(20, LARGE);
    let card = docx(&["Booking", "Card number 4111 1111 1111 1111, valid until 12/28"])?;
    let mail = |title: &'static str, to: &[&'static str], expected, shows, parts: Vec<Part>| {
        let id = message_id();
        let attachment = parts.iter().find(|part| part.name.is_some()).map(|part| part.content.clone());
        let content = message(SENDER, to, title, &id, &parts);
        Mail { title, to: to.to_vec(), id, content, shows, attachment, expected }
    };
    Ok(vec![
        mail("an ordinary mail", &[PARTNER], Expected::Relayed, "", vec![Part::text("At noon? Grüße, Anna")]),
        mail(
            "ordinary, with a document",
            &[PARTNER],
            Expected::Relayed,
            "",
            vec![Part::text("see the file"), Part::attachment("plan.docx", DOCX, docx(&["The plan for week 14"])?)],
        ),
        mail("to a colleague", &[COLLEAGUE], Expected::Internal, "", vec![Part::text("the minutes are on the shelf")]),
        mail(
            "SSN in the text",
            &[PARTNER],
            Expected::Secured,
            "536-22-8145",
            vec![Part::text("The patient's SSN is 536-22-8145.")],
        ),
        mail(
            "card number in a DOCX",
            &[PARTNER],
            Expected::Secured,
            "see the booking",
            vec![Part::text("see the booking"), Part::attachment("booking.docx", DOCX, card)],
        ),
        mail(
            "IBAN in HTML, split over cells",
            &[PARTNER],
            Expected::Secured,
            "DE89",
            vec![Part::html(
                "<table><tr><td>IBAN</td><td>DE89 3704</td><td>0044 0532</td><td>0130 00</td></tr></table>",
            )],
        ),
        mail(
            "[secure] as the sender asks",
            &[PARTNER],
            Expected::Secured,
            "between us",
            vec![Part::text("between us")],
        ),
        mail(
            "one outside, one colleague",
            &[PARTNER, COLLEAGUE],
            Expected::Both,
            "536-22-8145",
            vec![Part::text("SSN 536-22-8145 for both of you")],
        ),
        mail(
            "[secure] with 20 MiB attached",
            &[PARTNER],
            Expected::Secured,
            "the scan",
            vec![Part::text("the scan"), Part::attachment("scan.bin", "application/octet-stream", large)],
        ),
        mail(
            "a private key",
            &[PARTNER],
            Expected::Refused,
            "",
            // Joined here, so that scanners of source code do not take the text for a key that was left behind.
            vec![Part::text(&format!(
                "-----BEGIN {0} PRIVATE KEY-----\r\n{1}\r\n-----END {0} PRIVATE KEY-----",
                "RSA",
                "MIIEowIBAAKCAQEAx4fJbIkWvSwRxzWq5ZV3k1u0d6Q7yFhC2o3m9LwPtA8NcE5r\r\n".repeat(8)
            ))],
        ),
        mail(
            "a program",
            &[PARTNER],
            Expected::Held,
            "",
            vec![Part::text("run this"), Part::attachment("setup.exe", "application/octet-stream", windows_program())],
        ),
    ])
}
