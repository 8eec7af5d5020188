//! What stands around the machine: its next hop, its internal mail server, the cloud service.
//!
//! Job: run the lab's peers on loopback and name them as the machine sees them. Place: at both ends of the message's way.
//! Invariants: the machine reaches the host's loopback as [`HOST`] (QEMU's user network), and nothing else. A crash leaves
//! a temporary folder.

use crate::{agent::BUSYBOX, machine::Machine};
use lab::{
    layout::Layout,
    mails::{Part, message, message_id},
    process::free_port_base,
    scene::{RECIPIENT, SENDER, wait_for},
    sink::Fault,
    smtp::Client,
    system::{Options, System, lab_settings},
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    io::{self, BufRead, BufReader, Write},
    net::TcpListener,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// The host's loopback, as the machine sees it.
pub const HOST: &str = "10.0.2.2";
/// The machine's own address, to which its mail port is forwarded.
pub const ADDRESS: &str = "10.0.2.15/24";

/// How long a command of the machine may take under emulation.
const PATIENCE: Duration = Duration::from_secs(300);

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
        Self::on(folder, free_port_base()?)
    }

    /// Starts them in `folder` on the ports from `base`, which a machine that was set up before knows.
    ///
    /// # Errors
    /// A part does not start, or a port is taken.
    pub fn on(folder: &Path, base: u16) -> io::Result<Self> {
        let layout = Layout::new(folder, base)?;
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

    /// Hands in a mail that must get no 250; the reply that it got.
    ///
    /// # Errors
    /// It got its 250.
    pub fn refused(&self, machine: &Machine) -> io::Result<String> {
        let mail = message(SENDER, &[RECIPIENT], "a subject", &message_id(), &[Part::text("not now")]);
        match Client::connect(machine.smtp()).and_then(|mut client| client.send(SENDER, &[RECIPIENT], &mail)) {
            Ok(reply) => Err(io::Error::other(format!("the mail was taken: {reply}"))),
            Err(error) => Ok(error.to_string()),
        }
    }

    /// Has the machine restart. Its answer may be lost with it, so none is waited for.
    pub fn reboot(&self, machine: &Machine) {
        let _ = machine.agent().run(&["postern", "power", "reboot"], "", Duration::from_secs(5));
    }

    /// Stops the cloud service, so that its folder can be copied.
    ///
    /// # Errors
    /// It had to be killed.
    pub fn stop(&mut self) -> io::Result<()> {
        self.lab.stop_cloud()
    }

    /// What the next hop does from now on.
    pub fn next_hop_is(&self, fault: Fault) {
        if let Some(sink) = &self.lab.next_hop {
            sink.set_fault(fault);
        }
    }

    /// Puts a file of the host into the machine, as a stick in the hands of an operator would.
    ///
    /// # Errors
    /// The file can't be read, or the machine would not take it.
    pub fn bring(&self, machine: &Machine, file: &Path, place: &str) -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{HOST}:{}/", listener.local_addr()?.port());
        let mut content = fs::File::open(file)?;
        let server = thread::spawn(move || -> io::Result<()> {
            let (mut client, _) = listener.accept()?;
            let mut request = BufReader::new(client.try_clone()?);
            let mut line = String::new();
            while request.read_line(&mut line)? > 0 && line != "\r\n" {
                line.clear();
            }
            write!(client, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", content.metadata()?.len())?;
            io::copy(&mut content, &mut client).map(drop)
        });
        let ran = machine.agent().run(&[BUSYBOX, "wget", "-q", "-O", place, &url], "", PATIENCE)?;
        if ran.status != 0 {
            return Err(io::Error::other(format!("the file can't be brought to {place}: {}", ran.stderr)));
        }
        server.join().map_err(|_| io::Error::other("the file could not be served"))?
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
