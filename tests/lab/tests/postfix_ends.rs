//! A real Postfix hands mail in, another takes it: nothing is lost, doubled or changed (features I9; D1).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use lab::{
    layout::Layout,
    mails::{Part, docx, message, message_id, noise},
    postfix::Postfix,
    process::free_port,
    smtp::Client,
    system::{Options, System, maildir},
};
use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const ORDINARY: usize = 700;
const CONFIDENTIAL: usize = 200;
const INTERNAL: usize = 100;
const PATIENCE: Duration = Duration::from_secs(240);

/// The Message-ID field's value.
fn id_of(message: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(message);
    text.lines().find_map(|line| line.strip_prefix("Message-ID: ")).map(|id| id.trim().to_owned())
}

/// Postfix stores LF line ends.
fn with_lf(message: &[u8]) -> Vec<u8> {
    message.iter().copied().filter(|b| *b != b'\r').collect()
}

fn ordinary(index: usize, id: &str) -> Vec<u8> {
    let subject = format!("report {index}");
    let parts = match index % 5 {
        0 => vec![Part::text("Grüße aus München.\r\n.\r\n..two dots\r\ntrailing space \r\n\r\n")],
        1 => vec![Part::html("<p>The <b>plan</b> for week 14</p>")],
        2 => vec![
            Part::text("see the file"),
            Part::attachment("data.bin", "application/octet-stream", noise(index as u64, 3000)),
        ],
        3 => vec![
            Part::text("see the letter"),
            Part::attachment(
                "letter.docx",
                "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
                docx(&["Dear Sir or Madam", "nothing to see here"]).unwrap(),
            ),
        ],
        _ => vec![Part::text(&"A line of ordinary prose, with order 4711-22 in it.\r\n".repeat(index % 200 + 1))],
    };
    message("anna@clinic.example", &["bob@partner.example"], &subject, id, &parts)
}

fn confidential(index: usize, id: &str) -> Vec<u8> {
    let parts = match index % 3 {
        0 => vec![Part::text("The patient's SSN is 536-22-8145, please file it.")],
        1 => vec![Part::html("<table><tr><td>IBAN</td><td>DE89 3704 0044</td><td>0532 0130 00</td></tr></table>")],
        _ => vec![
            Part::text("card"),
            Part::attachment(
                "card.docx",
                "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
                docx(&["Card number 4111 1111 1111 1111 for the booking"]).unwrap(),
            ),
        ],
    };
    message("anna@clinic.example", &["carol@partner.example"], "file", id, &parts)
}

fn python(script: &str, input: &[u8]) -> Vec<u8> {
    // The interpreter that Debian's python3-dkim belongs to.
    let mut child = Command::new("/usr/bin/python3")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{script}");
    output.stdout
}

fn signed(dir: &Path, message: &[u8]) -> Vec<u8> {
    let key = dir.join("dkim.pem");
    let made = Command::new("openssl").args(["genrsa", "-traditional", "-out"]).arg(&key).arg("2048").output().unwrap();
    assert!(made.status.success());
    let script = format!(
        "import dkim,sys\nm=sys.stdin.buffer.read()\nk=open({key:?},'rb').read()\n\
         sys.stdout.buffer.write(dkim.sign(m,b's1',b'clinic.example',k)+m)"
    );
    python(&script, message)
}

fn signature_holds(dir: &Path, message: &[u8]) -> bool {
    let public = Command::new("openssl")
        .args(["rsa", "-pubout", "-outform", "DER", "-in"])
        .arg(dir.join("dkim.pem"))
        .output()
        .unwrap()
        .stdout;
    let public = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, public);
    let script = format!(
        "import dkim,sys\nm=sys.stdin.buffer.read()\n\
         print(dkim.verify(m,dnsfunc=lambda name,timeout=5: b'v=DKIM1; k=rsa; p={public}'))"
    );
    python(&script, message) == b"True\n"
}

/// What the next hop's mailbox holds, by Message-ID; notices of the cloud service apart.
fn delivered(mailbox: &Path) -> (BTreeMap<String, Vec<Vec<u8>>>, usize) {
    let (mut mails, mut notices) = (BTreeMap::<String, Vec<Vec<u8>>>::new(), 0);
    if mailbox.join("new").exists() {
        for (_, content) in maildir(mailbox).unwrap() {
            match id_of(&content).filter(|id| id.ends_with("@lab.example>")) {
                Some(id) => mails.entry(id).or_default().push(content),
                None => notices += 1,
            }
        }
    }
    (mails, notices)
}

#[test]
fn a_thousand_mixed_mails_from_postfix_to_postfix_are_counted_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let base = lab::process::free_port_base().unwrap();
    let layout = Layout::new(&folder.path().join("lab"), base).unwrap();
    let mailboxes = folder.path().join("mailboxes");
    fs::create_dir(&mailboxes).unwrap();
    fs::set_permissions(&mailboxes, fs::Permissions::from_mode(0o777)).unwrap();
    let next_hop = Postfix::start(
        &folder.path().join("next-hop"),
        layout.sink(),
        &[
            ("virtual_mailbox_domains", "partner.example"),
            ("virtual_mailbox_base", mailboxes.to_str().unwrap()),
            ("virtual_mailbox_maps", "static:partner/"),
            ("virtual_uid_maps", "static:65534"),
            ("virtual_gid_maps", "static:65534"),
        ],
    )
    .unwrap();
    let mut system = System::start(layout, Options { foreign_next_hop: true, ..Options::default() }).unwrap();
    let organisation = Postfix::start(
        &folder.path().join("organisation"),
        free_port().unwrap(),
        &[("relayhost", &format!("[127.0.0.1]:{}", system.layout.smtp().port()))],
    )
    .unwrap();

    let mut client = Client::connect(organisation.address()).unwrap();
    let mut sent = BTreeMap::new();
    let mut signed_id = None;
    for index in 0..ORDINARY + CONFIDENTIAL + INTERNAL {
        let id = message_id();
        let (to, mail) = if index < ORDINARY {
            let mail = ordinary(index, &id);
            ("bob@partner.example", if index == 0 { signed(folder.path(), &mail) } else { mail })
        } else if index < ORDINARY + CONFIDENTIAL {
            ("carol@partner.example", confidential(index, &id))
        } else {
            ("dora@clinic.example", ordinary(index, &id))
        };
        if index == 0 {
            signed_id = Some(id.clone());
        }
        client.send("anna@clinic.example", &[to], &mail).unwrap();
        if index < ORDINARY {
            sent.insert(id, mail);
        }
    }

    let start = Instant::now();
    let partner = mailboxes.join("partner");
    loop {
        let (mails, notices) = delivered(&partner);
        let arrived: usize = mails.values().map(Vec::len).sum();
        let internal = system.internal.count() as usize;
        if arrived >= ORDINARY && notices >= CONFIDENTIAL && internal >= INTERNAL {
            break;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "arrived: {arrived} ordinary, {notices} notices, {internal} internal; organisation queues {}",
            organisation.queued().unwrap()
        );
        std::thread::sleep(Duration::from_millis(300));
    }
    system.wait_until_delivered(Duration::from_secs(60)).unwrap();

    let (mails, notices) = delivered(&partner);
    assert_eq!(mails.values().map(Vec::len).sum::<usize>(), ORDINARY, "each ordinary mail came once");
    assert_eq!(notices, CONFIDENTIAL, "one notice for each confidential mail");
    assert_eq!(system.internal.count() as usize, INTERNAL);
    for (id, original) in &sent {
        let copies = mails.get(id).unwrap_or_else(|| panic!("{id} did not arrive"));
        let (got, original) = (&copies[0], with_lf(original));
        assert!(got.ends_with(&original), "{id} was changed on its way");
        let added = String::from_utf8_lossy(&got[..got.len() - original.len()]).into_owned();
        for field in added.lines().filter(|line| !line.starts_with([' ', '\t'])) {
            let name = field.split(':').next().unwrap_or_default();
            let known = ["Return-Path", "X-Original-To", "Delivered-To", "Received", "X-Postern-Outside"];
            assert!(known.contains(&name), "{name} was added to {id}");
        }
        assert!(!added.contains("\n\n"), "the header of {id} ends too early");
    }
    let kept = &mails[&signed_id.expect("the first mail was signed")][0];
    let on_the_wire = String::from_utf8_lossy(kept).replace('\n', "\r\n");
    assert!(signature_holds(folder.path(), on_the_wire.as_bytes()), "the DKIM signature is broken");
    assert!(
        !signature_holds(folder.path(), on_the_wire.replace("München", "Munchen").as_bytes()),
        "the check is blind"
    );
    assert_eq!(organisation.queued().unwrap(), 0);
    println!("{ORDINARY} ordinary, {CONFIDENTIAL} confidential, {INTERNAL} internal mails: all counted");
    drop((next_hop, organisation));
    system.stop().unwrap();
}
