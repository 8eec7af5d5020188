//! What stands around the machine: its next hop, its internal mail server, the cloud service.
//!
//! Job: run the lab's peers on loopback and name them as the machine sees them. Place: at both ends of the message's way.
//! Invariants: the machine reaches the host's loopback as [`HOST`] (QEMU's user network), and nothing else. A crash leaves
//! a temporary folder.

use crate::machine::Machine;
use lab::{
    layout::Layout,
    mails::{Part, message, message_id},
    process::free_port_base,
    scene::{RECIPIENT, SENDER, wait_for},
    smtp::Client,
    system::{Options, System, lab_settings},
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

/// The host's loopback, as the machine sees it.
pub const HOST: &str = "10.0.2.2";
/// The machine's own address, to which its mail port is forwarded.
pub const ADDRESS: &str = "10.0.2.15/24";

/// How long a command of the machine may take under emulation.
const PATIENCE: Duration = Duration::from_secs(120);

/// The peers.
pub struct Surroundings {
    /// Sinks and cloud service.
    pub lab: System,
}

impl Surroundings {
    /// Starts them in `folder`.
    ///
    /// # Errors
    /// A part does not start.
    pub fn start(folder: &Path) -> io::Result<Self> {
        let layout = Layout::new(folder, free_port_base()?)?;
        let cloud_arguments = vec!["--name".to_owned(), HOST.to_owned()];
        let options = Options { foreign_appliance: true, cloud_arguments, ..Options::default() };
        Ok(Self { lab: System::start(layout, options)? })
    }

    /// The lab's settings, as they are for a machine of its own.
    ///
    /// # Errors
    /// The cloud's CA can't be read.
    pub fn settings(&self) -> io::Result<String> {
        let layout = &self.lab.layout;
        let ca = fs::read_to_string(layout.path("cloud/ca.pem"))?;
        let settings = lab_settings(layout, false)
            .replace(&format!("\"{}\"", layout.smtp()), "\"0.0.0.0:25\"")
            .replace("127.0.0.0/8", "10.0.2.0/24")
            .replace(&layout.sink().to_string(), &format!("{HOST}:{}", layout.sink().port()))
            .replace(&layout.internal().to_string(), &format!("{HOST}:{}", layout.internal().port()));
        let cloud = layout.cloud_api().port();
        Ok(format!(
            "{settings}\n[cloud]\nurl = \"https://{HOST}:{cloud}\"\nca = \"\"\"\n{ca}\"\"\"\n\n\
             [network]\naddress = \"{ADDRESS}\"\ngateway = \"{HOST}\"\n"
        ))
    }

    /// Sets the machine up through its command line: settings, recovery key, enrolment. The recovery key.
    ///
    /// # Errors
    /// The machine refuses; the error has its words.
    pub fn set_up(&self, machine: &Machine) -> io::Result<String> {
        postern(machine, &["settings", "apply", "-"], &self.settings()?)?;
        let shown = postern_json(machine, &["keys", "recovery", "show"], "")?;
        let words = shown["words"].as_str().ok_or_else(|| io::Error::other("no recovery key was shown"))?.to_owned();
        postern(machine, &["keys", "recovery", "confirm"], &words)?;
        postern(machine, &["enrol"], &self.lab.enrolment_code()?)?;
        Ok(words)
    }

    /// Hands in a mail with `text`; its Message-ID once it has its 250.
    ///
    /// # Errors
    /// It got none.
    pub fn send(&self, machine: &Machine, text: &str) -> io::Result<String> {
        let id = message_id();
        let mail = message(SENDER, &[RECIPIENT], "a subject", &id, &[Part::text(text)]);
        Client::connect(machine.smtp())?.send(SENDER, &[RECIPIENT], &mail)?;
        Ok(id)
    }

    /// The Message-IDs that the next hop has.
    ///
    /// # Errors
    /// Its transcript can't be read.
    pub fn relayed(&self) -> io::Result<BTreeSet<String>> {
        let entries = lab::sink::transcript_of(&self.lab.layout.path("sink/next-hop"))?;
        Ok(entries.into_iter().filter(|entry| entry.file.is_some()).filter_map(|entry| entry.message_id).collect())
    }

    /// Waits until the next hop has all of `ids`.
    ///
    /// # Errors
    /// It never has.
    pub fn wait_until_relayed(&self, ids: &[String]) -> io::Result<()> {
        wait_for("mails do not arrive at the next hop", || {
            let relayed = self.relayed()?;
            Ok(ids.iter().all(|id| relayed.contains(id)))
        })
    }

    /// Waits until the cloud service holds `count` messages.
    ///
    /// # Errors
    /// It never does.
    pub fn wait_until_secured(&self, count: usize) -> io::Result<()> {
        wait_for("confidential mails do not arrive at the cloud", || Ok(self.lab.cloud_messages()?.len() >= count))
    }
}

/// Runs `postern` in the machine; its standard output.
///
/// # Errors
/// It refuses; the error has its words.
pub fn postern(machine: &Machine, arguments: &[&str], input: &str) -> io::Result<String> {
    let ran = machine.agent().run(&[&["postern"], arguments].concat(), input, PATIENCE)?;
    if ran.status == 0 {
        return Ok(ran.stdout);
    }
    Err(io::Error::other(format!("postern {} ended with {}: {}", arguments.join(" "), ran.status, ran.stderr.trim())))
}

/// As [`postern`], with `--json`.
///
/// # Errors
/// As [`postern`], or it printed no JSON.
pub fn postern_json(machine: &Machine, arguments: &[&str], input: &str) -> io::Result<Value> {
    Ok(serde_json::from_str(&postern(machine, &[arguments, &["--json"]].concat(), input)?)?)
}

/// Asks `postern` again and again until what it prints as JSON is as `wanted`.
///
/// # Errors
/// It never is within `patience`; the error has the last answer.
pub fn wait_until(
    machine: &Machine,
    arguments: &[&str],
    patience: Duration,
    wanted: impl Fn(&Value) -> bool,
) -> io::Result<Value> {
    let deadline = Instant::now() + patience;
    loop {
        let answer = postern_json(machine, arguments, "");
        match answer {
            Ok(value) if wanted(&value) => return Ok(value),
            // A machine that starts anew has no daemon yet.
            other if Instant::now() > deadline => {
                return Err(io::Error::other(format!(
                    "postern {arguments:?} never showed what was waited for: {other:?}"
                )));
            }
            _ => std::thread::sleep(Duration::from_millis(500)),
        }
    }
}
