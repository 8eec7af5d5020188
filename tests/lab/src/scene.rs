//! A system in a folder of its own, and what tests of faults ask it again and again.
//!
//! Job: start, hand in, look at the queue, wait. Place: around the whole system. Invariants: what counts as sent had its
//! 250 read whole; every wait has an end and says what it waited for. A crash leaves a temporary folder behind.

use crate::{
    layout::Layout,
    mails::{Part, message, message_id},
    process::free_port_base,
    smtp::Client,
    system::{Options, System},
};
use serde_json::Value;
use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

/// Who hands in.
pub const SENDER: &str = "anna@clinic.example";
/// Who is to get it.
pub const RECIPIENT: &str = "bob@partner.example";
/// A text that the lab's settings make confidential.
pub const CONFIDENTIAL: &str = "SSN 536-22-8145";

/// How long anything may take on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A message with a 250.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its Postern ID.
    pub id: String,
    /// Its Message-ID.
    pub message_id: String,
}

/// A system and its folder.
pub struct Scene {
    /// The system.
    pub system: System,
    folder: tempfile::TempDir,
}

impl Scene {
    /// Starts a system with options that may depend on its addresses.
    ///
    /// # Errors
    /// As [`System::start`].
    pub fn start(options: impl FnOnce(&Layout) -> io::Result<Options>) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let layout = Layout::new(&folder.path().join("lab"), free_port_base()?)?;
        let options = options(&layout)?;
        Ok(Self { system: System::start(layout, options)?, folder })
    }

    /// The folder above the lab's.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Hands in a message of these parts.
    ///
    /// # Errors
    /// It got no 250; the text is the reply.
    pub fn send(&self, to: &[&str], parts: &[Part]) -> io::Result<Sent> {
        let message_id = message_id();
        let mail = message(SENDER, to, "a subject", &message_id, parts);
        let reply = Client::connect(self.system.layout.smtp())?.send(SENDER, to, &mail)?;
        let id = reply.rsplit(' ').next().unwrap_or_default().to_owned();
        Ok(Sent { id, message_id })
    }

    /// Hands in a text.
    ///
    /// # Errors
    /// As [`Scene::send`].
    pub fn say(&self, text: &str) -> io::Result<Sent> {
        self.send(&[RECIPIENT], &[Part::text(text)])
    }

    /// The queue's rows about a message; none where nothing is left to do.
    ///
    /// # Errors
    /// The appliance does not answer.
    pub fn rows(&self, sent: &Sent) -> io::Result<Vec<Value>> {
        let report = self.system.postern_json(&["queue", "list", "--limit", "10000"], "")?;
        let rows = report["rows"].as_array().cloned().unwrap_or_default();
        Ok(rows.into_iter().filter(|row| row["id"] == sent.id.as_str()).collect())
    }

    /// Waits until the queue's rows about a message satisfy `wanted`.
    ///
    /// # Errors
    /// They never do; the error shows the last ones.
    pub fn wait_for_rows(&self, sent: &Sent, what: &str, wanted: impl Fn(&[Value]) -> bool) -> io::Result<Vec<Value>> {
        let mut rows = Vec::new();
        wait_for(what, || {
            rows = self.rows(sent)?;
            Ok(wanted(&rows))
        })
        .map_err(|error| io::Error::other(format!("{error}; the queue shows {rows:?}")))?;
        Ok(rows)
    }

    /// Waits until nothing is left to do for a message.
    ///
    /// # Errors
    /// As [`Scene::wait_for_rows`].
    pub fn wait_until_done(&self, sent: &Sent) -> io::Result<()> {
        self.wait_for_rows(sent, "the message is not finished", <[Value]>::is_empty).map(drop)
    }

    /// `postern queue retry`, as soon as the message is not under way.
    ///
    /// # Errors
    /// It is always refused.
    pub fn retry(&self, sent: &Sent) -> io::Result<()> {
        wait_for("queue retry is refused", || {
            let done = self.system.postern(&["queue", "retry", &sent.id], "")?.status.success();
            // It may have been delivered by itself meanwhile.
            Ok(done || self.rows(sent)?.is_empty())
        })
    }

    /// The Message-IDs that the next hop has stored, as often as it did.
    ///
    /// # Errors
    /// Its transcript can't be read.
    pub fn arrived(&self) -> io::Result<Vec<String>> {
        let entries = crate::sink::transcript_of(&self.system.layout.path("sink/next-hop"))?;
        Ok(entries.into_iter().filter(|entry| entry.file.is_some()).filter_map(|entry| entry.message_id).collect())
    }

    /// What the appliance has written to standard error so far.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn log(&self) -> io::Result<String> {
        std::fs::read_to_string(self.system.layout.path("log/appliance.log"))
    }
}

/// Polls until `ready`.
///
/// # Errors
/// `what`, when that takes too long; or what `ready` says.
pub fn wait_for(what: &str, mut ready: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let start = Instant::now();
    while !ready()? {
        if start.elapsed() > PATIENCE {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{what} after {} s", PATIENCE.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// What runs a program in a mount namespace of its own, after `script` has mounted there what it needs; `$1` in it is
/// `argument`.
#[must_use]
pub fn in_own_mounts(script: &str, argument: &Path) -> Vec<String> {
    let mut through = vec!["unshare".to_owned(), "--mount".to_owned()];
    if !nix::unistd::Uid::effective().is_root() {
        through.push("--map-root-user".to_owned());
    }
    let script = format!("{script}\nshift\nexec \"$@\"");
    through.extend(["sh".into(), "-ec".into(), script, "sh".into(), argument.display().to_string()]);
    through
}

/// The lab's settings with other texts in some places.
///
/// # Errors
/// A text to be replaced isn't there.
pub fn settings_with(layout: &Layout, with_cloud: bool, changes: &[(&str, &str)]) -> io::Result<String> {
    let mut settings = crate::system::lab_settings(layout, with_cloud);
    for (old, new) in changes {
        if !settings.contains(old) {
            return Err(io::Error::other(format!("the lab's settings have no {old:?}")));
        }
        settings = settings.replace(old, new);
    }
    Ok(settings)
}
