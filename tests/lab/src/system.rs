//! The whole system, started part by part in the order of need.
//!
//! Job: software TPM, sinks, cloud service, appliance; enrolment and recovery key as an operator would do them. Place:
//! around everything; `make run`, `make demo` and the end-to-end tests start from here. Invariants: parts are reached
//! through command lines and sockets only. A crash leaves the lab folder; the next start continues with it.

use crate::{
    layout::Layout,
    process::{Process, sibling, wait_for_port, wait_until},
    sink::{Sink, SinkConfig},
    tpm::SoftTpm,
};
use std::{
    fs, io,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

/// How long a part may take to start: a debug build on a busy machine is slow.
const START: Duration = Duration::from_secs(60);
/// How long a part may take to stop.
const STOP: Duration = Duration::from_secs(40);
/// The organisation of the lab.
const TENANT: &str = "clinic";

/// What can differ between labs.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Settings instead of the lab's own.
    pub settings: Option<String>,
    /// TCTI string instead of the software TPM's own (a proxy before it).
    pub tcti: Option<String>,
    /// Start no sink at the next hop's port: somebody else stands there.
    pub foreign_next_hop: bool,
    /// Start no appliance: a machine of its own is it.
    pub foreign_appliance: bool,
    /// Start the appliance without settings: somebody sets it up.
    pub no_settings: bool,
    /// Start no cloud service.
    pub no_cloud: bool,
    /// The parts' folder for temporary files.
    pub temporary: Option<PathBuf>,
    /// What the appliance's command line is handed to, for example `unshare --mount`; empty: it runs as it is.
    pub appliance_through: Vec<String>,
    /// The appliance's program instead of the one that was built.
    pub appliance_program: Option<PathBuf>,
    /// More arguments for the cloud service.
    pub cloud_arguments: Vec<String>,
}

impl Options {
    fn set_temporary(&self, command: &mut Command) {
        if let Some(folder) = &self.temporary {
            command.env("TMPDIR", folder).env("SQLITE_TMPDIR", folder);
        }
    }
}

/// A running system.
pub struct System {
    /// Addresses and folders.
    pub layout: Layout,
    /// The software TPM.
    pub tpm: SoftTpm,
    /// The next hop, unless somebody else stands there.
    pub next_hop: Option<Sink>,
    /// The internal mail server.
    pub internal: Sink,
    cloud: Option<Process>,
    appliance: Option<Process>,
    /// What the next start of each part uses.
    pub options: Options,
}

impl System {
    /// Starts all parts and joins appliance and cloud.
    ///
    /// # Errors
    /// A part does not start; the error names its log.
    pub fn start(layout: Layout, options: Options) -> io::Result<Self> {
        let tpm = SoftTpm::start(&layout.path("tpm")).map_err(io::Error::other)?;
        let sink = |address, folder: &str| Sink::start(SinkConfig::new(address, layout.path(folder)));
        let next_hop = if options.foreign_next_hop { None } else { Some(sink(layout.sink(), "sink/next-hop")?) };
        let internal = sink(layout.internal(), "sink/internal")?;
        let mut system = Self { layout, tpm, next_hop, internal, cloud: None, appliance: None, options };
        if !system.options.no_cloud {
            system.start_cloud()?;
        }
        if system.options.foreign_appliance {
            return Ok(system);
        }
        system.start_appliance()?;
        if !system.options.no_cloud {
            system.enrol()?;
        }
        system.keep_recovery_key()?;
        system.write_description()?;
        Ok(system)
    }

    /// Starts the cloud service.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start_cloud(&mut self) -> io::Result<()> {
        let layout = &self.layout;
        if !layout.path("cloud/cloud.db").exists() {
            self.cloud_tool(&["tenant", "add", "--id", TENANT, "--name", "Example Clinic"])?;
        }
        let mut command = Command::new(sibling("postern-cloud")?);
        command
            .args(["serve", "--data"])
            .arg(layout.path("cloud"))
            .arg("--master-key")
            .arg(layout.path("cloud-master.key"))
            .args(["--api", &layout.cloud_api().to_string(), "--portal", &layout.portal().to_string()])
            .args(["--portal-url", &format!("https://{}", layout.portal())])
            .args(["--smtp", &layout.sink().to_string()])
            .args(&self.options.cloud_arguments);
        self.options.set_temporary(&mut command);
        let mut process = Process::start("cloud service", command, &layout.path("log/cloud.log"))?;
        wait_for_port(&mut process, layout.cloud_api(), START)?;
        wait_for_port(&mut process, layout.portal(), START)?;
        self.cloud = Some(process);
        Ok(())
    }

    /// Stops the cloud service.
    ///
    /// # Errors
    /// It had to be killed.
    pub fn stop_cloud(&mut self) -> io::Result<()> {
        self.cloud.take().map_or(Ok(()), |mut process| process.stop(STOP).map(drop))
    }

    /// Starts the appliance and waits for its greeting.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start_appliance(&mut self) -> io::Result<()> {
        self.spawn_appliance()?;
        let address = self.layout.smtp();
        let process = self.appliance.as_mut().ok_or_else(|| io::Error::other("the appliance is not running"))?;
        wait_for_port(process, address, START)
    }

    /// Starts the appliance without waiting for it.
    ///
    /// # Errors
    /// Its program is not there.
    pub fn spawn_appliance(&mut self) -> io::Result<()> {
        let layout = &self.layout;
        let settings = layout.path("settings.toml");
        if !settings.exists() {
            fs::write(
                &settings,
                self.options.settings.clone().unwrap_or_else(|| lab_settings(layout, !self.options.no_cloud)),
            )?;
        }
        let tcti = self.options.tcti.clone().unwrap_or_else(|| self.tpm.tcti());
        let program = match &self.options.appliance_program {
            Some(program) => program.clone(),
            None => sibling("postern")?,
        };
        let mut command = match self.options.appliance_through.split_first() {
            Some((through, arguments)) => {
                let mut command = Command::new(through);
                command.args(arguments).arg(program);
                command
            }
            None => Command::new(program),
        };
        command
            .args(["run", "--data"])
            .arg(layout.path("appliance"))
            .arg("--socket")
            .arg(layout.socket())
            .args(["--tcti", &tcti, "--policy-key"])
            .arg(self.tpm.policy_key())
            .arg("--policy-signatures")
            .arg(self.tpm.policy_signatures());
        if !self.options.no_settings {
            command.arg("--settings").arg(&settings);
        }
        // The TPM library's own lines repeat what the vault says of each fault.
        command.env("TSS2_LOG", "all+NONE");
        self.options.set_temporary(&mut command);
        self.appliance = Some(Process::start("appliance", command, &layout.path("log/appliance.log"))?);
        Ok(())
    }

    /// The appliance's process.
    #[must_use]
    pub fn appliance(&mut self) -> Option<&mut Process> {
        self.appliance.as_mut()
    }

    /// Stops the appliance as systemd would.
    ///
    /// # Errors
    /// It had to be killed.
    pub fn stop_appliance(&mut self) -> io::Result<()> {
        self.appliance.take().map_or(Ok(()), |mut process| process.stop(STOP).map(drop))
    }

    /// kill -9.
    pub fn kill_appliance(&mut self) {
        if let Some(mut process) = self.appliance.take() {
            process.kill();
        }
    }

    /// Runs `postern` with `arguments` against the appliance; `input` on standard input.
    ///
    /// # Errors
    /// The program can't be started.
    pub fn postern(&self, arguments: &[&str], input: &str) -> io::Result<Output> {
        let mut command = Command::new(sibling("postern")?);
        command.args(arguments).env("POSTERN_SOCKET", self.layout.socket());
        run_with_input(command, input)
    }

    /// As [`System::postern`], with `--json`; the parsed answer.
    ///
    /// # Errors
    /// Exit status other than 0, or an answer that is not JSON.
    pub fn postern_json(&self, arguments: &[&str], input: &str) -> io::Result<serde_json::Value> {
        let output = self.postern(&[arguments, &["--json"]].concat(), input)?;
        succeeded("postern", &output)?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// The recovery key, as the lab's operator has kept it.
    ///
    /// # Errors
    /// It was not kept yet.
    pub fn recovery_key(&self) -> io::Result<String> {
        fs::read_to_string(self.layout.path("recovery-key.txt"))
    }

    /// Waits until nothing is due or under way any more.
    ///
    /// # Errors
    /// The queue is not empty after `patience`.
    pub fn wait_until_delivered(&mut self, patience: Duration) -> io::Result<()> {
        let (socket, program) = (self.layout.socket(), sibling("postern")?);
        let process = self.appliance.as_mut().ok_or_else(|| io::Error::other("the appliance is not running"))?;
        wait_until(process, patience, "the queue is not empty", || queued(&program, &socket).is_ok_and(|n| n == 0))
    }

    /// Joins the cloud service with a one-time code, unless that was done before.
    ///
    /// # Errors
    /// The service or the appliance refuses.
    pub fn enrol(&mut self) -> io::Result<()> {
        let status = self.postern_json(&["status"], "")?;
        if status.to_string().contains("\"not_enrolled\"") {
            succeeded("postern enrol", &self.postern(&["enrol"], &self.enrolment_code()?)?)?;
        }
        Ok(())
    }

    /// A new one-time code of the cloud service.
    ///
    /// # Errors
    /// The service's command line refuses.
    pub fn enrolment_code(&self) -> io::Result<String> {
        self.cloud_tool(&["code", "issue", "--tenant", TENANT])
    }

    /// (Postern ID, delivery group) of every message that the cloud service holds, from its database.
    ///
    /// # Errors
    /// The database can't be read.
    pub fn cloud_messages(&self) -> io::Result<Vec<(String, u64)>> {
        let output = Command::new("sqlite3")
            .arg("-readonly")
            .arg(self.layout.path("cloud/cloud.db"))
            .arg("select message, delivery from message")
            .output()?;
        succeeded("sqlite3", &output)?;
        let rows = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(rows
            .lines()
            .filter_map(|row| row.split_once('|'))
            .filter_map(|(id, group)| Some((id.to_owned(), group.parse().ok()?)))
            .collect())
    }

    /// Shows, confirms and keeps the recovery key, unless that was done before.
    ///
    /// # Errors
    /// It was shown already, or the appliance refuses.
    pub fn keep_recovery_key(&self) -> io::Result<()> {
        let file = self.layout.path("recovery-key.txt");
        if !file.exists() {
            let shown = self.postern_json(&["keys", "recovery", "show"], "")?;
            let words =
                shown["words"].as_str().ok_or_else(|| io::Error::other("no recovery key was shown"))?.to_owned();
            succeeded("postern keys recovery confirm", &self.postern(&["keys", "recovery", "confirm"], &words)?)?;
            fs::write(&file, words)?;
        }
        Ok(())
    }

    fn cloud_tool(&self, arguments: &[&str]) -> io::Result<String> {
        let mut command = Command::new(sibling("postern-cloud")?);
        command
            .args(arguments)
            .arg("--data")
            .arg(self.layout.path("cloud"))
            .arg("--master-key")
            .arg(self.layout.path("cloud-master.key"));
        let output = run_with_input(command, "")?;
        succeeded("postern-cloud", &output)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Writes `lab.json`, once everything answers.
    fn write_description(&self) -> io::Result<()> {
        let layout = &self.layout;
        let description = serde_json::json!({
            "smtp": layout.smtp(),
            "portal": format!("https://{}", layout.portal()),
            "cloud_api": format!("https://{}", layout.cloud_api()),
            "sink": layout.sink(),
            "internal": layout.internal(),
            "socket": layout.socket(),
            "settings": layout.path("settings.toml"),
            "logins": { "recovery_key": layout.path("recovery-key.txt") },
            "pids": {
                "lab": std::process::id(),
                "appliance": self.appliance.as_ref().map(Process::id),
                "cloud": self.cloud.as_ref().map(Process::id),
            },
        });
        let new = layout.path("lab.json.new");
        fs::write(&new, format!("{description:#}\n"))?;
        fs::rename(new, layout.path("lab.json"))
    }

    /// Stops everything, the appliance first, so that what it delivers still finds its peers.
    ///
    /// # Errors
    /// A part had to be killed.
    pub fn stop(mut self) -> io::Result<()> {
        let appliance = self.stop_appliance();
        let cloud = self.stop_cloud();
        self.tpm.stop().map_err(io::Error::other)?;
        let _ = fs::remove_file(self.layout.path("lab.json"));
        appliance.and(cloud)
    }
}

/// Deliveries that wait or are under way; held ones wait for an operator and do not count.
fn queued(program: &Path, socket: &Path) -> io::Result<u64> {
    let output = Command::new(program).args(["status", "--json"]).env("POSTERN_SOCKET", socket).output()?;
    succeeded("postern status", &output)?;
    let status: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let destinations = status.pointer("/queue/destinations").and_then(serde_json::Value::as_array);
    let destinations = destinations.ok_or_else(|| io::Error::other("status shows no queue"))?;
    Ok(destinations.iter().flat_map(|d| [&d["waiting"], &d["delivering"]]).filter_map(serde_json::Value::as_u64).sum())
}

fn run_with_input(mut command: Command, input: &str) -> io::Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read its input may be gone already.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}

/// An error that shows what the program said, unless it exited 0.
///
/// # Errors
/// Any other exit status.
pub fn succeeded(what: &str, output: &Output) -> io::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{what} failed ({}): {}", output.status, said.trim())))
}

/// Sends `message` as it is with swaks; swaks's transcript.
///
/// # Errors
/// swaks can't be started.
pub fn swaks(server: SocketAddr, from: &str, to: &[&str], message: &[u8]) -> io::Result<Output> {
    let file = tempfile::NamedTempFile::new()?;
    // swaks ends the last line itself.
    fs::write(file.path(), message.strip_suffix(b"\r\n").unwrap_or(message))?;
    Command::new("swaks")
        .args(["--server", &server.to_string(), "--from", from, "--to", &to.join(","), "--suppress-data"])
        .args(["--helo", "mail.clinic.example", "--data"])
        .arg(format!("@{}", file.path().display()))
        .output()
}

/// All messages in a Maildir, oldest name first.
///
/// # Errors
/// The folder can't be read.
pub fn maildir(dir: &Path) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir.join("new"))? {
        let path = entry?.path();
        files.push((path.clone(), fs::read(&path)?));
    }
    files.sort();
    Ok(files)
}

/// The settings of a lab: one internal domain, loopback as the listed network, rules that show every action.
#[must_use]
pub fn lab_settings(layout: &Layout, with_cloud: bool) -> String {
    let cloud = format!(
        "[cloud]\nurl = \"https://{}\"\nca = \"{}\"\n",
        layout.cloud_api(),
        layout.path("cloud/ca.pem").display()
    );
    format!(
        include_str!("settings.toml.in"),
        smtp = layout.smtp(),
        sink = layout.sink(),
        internal = layout.internal(),
        cloud = if with_cloud { cloud } else { String::new() },
    )
}
