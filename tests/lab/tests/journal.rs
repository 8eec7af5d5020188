//! Under journald: records arrive with their fields, and without what no log may hold.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use lab::{
    mails::Part,
    planted::Planted,
    scene::{CONFIDENTIAL, RECIPIENT, SENDER, Scene, in_own_mounts, settings_with, wait_for},
    sink::Fault,
    system::Options,
};
use std::{
    collections::BTreeMap,
    io,
    os::unix::net::UnixDatagram,
    path::Path,
    sync::{Arc, Mutex},
};

/// A journal's socket of the test's own, and everything that was sent to it.
struct Journal {
    datagrams: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Journal {
    fn listen(folder: &Path) -> Self {
        let socket = UnixDatagram::bind(folder.join("socket")).unwrap();
        let datagrams = Arc::new(Mutex::new(Vec::new()));
        let kept = datagrams.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            while let Ok(length) = socket.recv(&mut buffer) {
                kept.lock().unwrap().push(buffer[..length].to_vec());
            }
        });
        Self { datagrams }
    }

    fn raw(&self) -> Vec<u8> {
        self.datagrams.lock().unwrap().concat()
    }

    fn records(&self) -> Vec<BTreeMap<String, String>> {
        self.datagrams.lock().unwrap().iter().map(|datagram| fields(datagram)).collect()
    }

    /// The record of an event about a message.
    fn event(&self, name: &str, id: &str) -> BTreeMap<String, String> {
        let is = |record: &BTreeMap<String, String>| {
            record.get("EVENT").is_some_and(|event| event == name) && record.get("ID").is_some_and(|of| of == id)
        };
        let mut found = None;
        wait_for(&format!("no {name} arrives in the journal"), || {
            found = self.records().into_iter().find(is);
            Ok(found.is_some())
        })
        .unwrap();
        found.unwrap_or_else(|| panic!("no {name}"))
    }
}

/// The fields of a record in the journal's native protocol: `KEY=value`, or `KEY`, a length and the value.
fn fields(mut datagram: &[u8]) -> BTreeMap<String, String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut fields = BTreeMap::new();
    while let Some(end) = datagram.iter().position(|byte| *byte == b'\n') {
        let (line, rest) = (&datagram[..end], &datagram[end + 1..]);
        datagram = match line.iter().position(|byte| *byte == b'=') {
            Some(equals) => {
                fields.insert(text(&line[..equals]), text(&line[equals + 1..]));
                rest
            }
            None => {
                let (length, rest) = rest.split_first_chunk::<8>().unwrap();
                let (value, rest) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
                fields.insert(text(line), text(value));
                rest.strip_prefix(b"\n").unwrap()
            }
        };
    }
    assert!(datagram.is_empty(), "a record that ends in the middle");
    fields
}

#[test]
fn under_journald_records_have_fields_and_neither_content_nor_addresses() {
    const PLANTED: &str = "Zürich-vault-77123";
    let journal_folder = tempfile::tempdir().unwrap();
    let journal = Journal::listen(journal_folder.path());
    let mut scene = Scene::start(|layout| -> io::Result<Options> {
        // As systemd starts a service: its socket in its place, and the name of standard error in the environment.
        let script = "mount -t tmpfs tmpfs /run\n\
                      mkdir -p /run/systemd/journal\n\
                      mount --bind \"$1\" /run/systemd/journal\n\
                      export JOURNAL_STREAM=\"$(stat --dereference --format %d:%i /proc/self/fd/2)\"";
        let patient =
            [("first_seconds = 2", "first_seconds = 3600"), ("longest_seconds = 60", "longest_seconds = 3600")];
        Ok(Options {
            appliance_through: in_own_mounts(script, journal_folder.path()),
            settings: Some(settings_with(layout, false, &patient)?),
            no_cloud: true,
            ..Options::default()
        })
    })
    .unwrap();

    let text = format!("{PLANTED} and 4111 1111 1111 1111 on file\r\n");
    let attached = || Part::attachment(&format!("{PLANTED}.txt"), "text/plain; charset=utf-8", text.clone().into());
    let ordinary = scene.send(&[RECIPIENT], &[Part::text(PLANTED)]).unwrap();
    let secured = scene.send(&[RECIPIENT], &[Part::text(CONFIDENTIAL), attached()]).unwrap();
    scene.wait_until_done(&ordinary).unwrap();
    let accepted = journal.event("accepted", &ordinary.id);
    let expected = [
        ("PRIORITY", "5"),
        ("SYSLOG_IDENTIFIER", "postern"),
        ("MESSAGE", "accepted"),
        ("TARGET", "postern::pipeline"),
        ("SENDER", "a***@clinic.example"),
        ("RECIPIENTS", "1"),
    ];
    for (key, value) in expected {
        assert_eq!(accepted.get(key).map(String::as_str), Some(value), "{key} of {accepted:?}");
    }
    assert_eq!(journal.event("relayed", &ordinary.id)["DESTINATION"], "smarthost");
    assert_eq!(journal.event("judged", &secured.id)["ACTION"], "secure");
    assert_eq!(journal.event("deferred", &secured.id)["PRIORITY"], "4", "no cloud: a warning");
    scene.system.next_hop.as_ref().unwrap().set_fault(Fault::RefuseRecipients);
    let refused = scene.say(PLANTED).unwrap();
    assert_eq!(journal.event("failed", &refused.id)["PRIORITY"], "3", "an error");
    scene.system.stop_appliance().unwrap();
    wait_for("the end is not in the journal", || {
        Ok(journal.records().iter().any(|record| record.get("MESSAGE").is_some_and(|text| text == "stopped")))
    })
    .unwrap();

    let raw = journal.raw();
    for secret in [PLANTED, "4111 1111 1111 1111", CONFIDENTIAL, "a subject", SENDER, RECIPIENT] {
        assert_eq!(Planted::new(secret).in_bytes(&raw), None, "{secret} is in the journal");
    }
    let log = scene.log().unwrap();
    assert!(!log.contains("accepted") && !log.contains("ready"), "lines go to the journal alone: {log}");
    scene.system.stop().unwrap();
}
