//! The software TPM: a real TPM 2.0 (swtpm) that has been through a known boot whose measurements are signed.
//!
//! Job: give the appliance and the tests a TPM with PCR values that mean something, and let a test do to it what
//! happens to TPMs. Place: started first of all in the lab; the appliance reaches it by [`SoftTpm::tcti`]. Invariants:
//! after a start PCR 7 and 11 hold exactly the measurements of [`SoftTpm::boot`], PCR 12 is zero; the state folder is
//! kept from run to run, as a real TPM keeps its seeds. A crash leaves swtpm running: its id stands in `swtpm.pid`, and
//! the next start in the same folder ends it first.

mod boot;
mod proxy;

pub use boot::{Boot, PolicyKey};
pub use proxy::Proxy;

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long swtpm may take to open its port, and to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a pair of ports is tried: between finding a free pair and swtpm's bind another process may take one.
const PORT_ATTEMPTS: u32 = 20;
/// More failed authorisations than any TPM allows before its dictionary lockout.
const LOCKOUT_ATTEMPTS: u32 = 64;

/// What can go wrong with the software TPM.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// A file or a process of the lab.
    #[error("{what}: {source}; check that the folder is writable and that swtpm and tpm2-tools are installed")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// swtpm ended or never listened.
    #[error("swtpm does not start; see {log}")]
    NotStarted {
        /// Its log file.
        log: PathBuf,
    },
    /// A tpm2-tools command was refused.
    #[error("{command} failed: {stderr}")]
    Tool {
        /// The command line.
        command: String,
        /// What it printed.
        stderr: String,
    },
    /// The policy key's file holds no RSA key.
    #[error("{path} is no RSA key in PKCS #8; remove it, a new one is made")]
    PolicyKey {
        /// The file.
        path: PathBuf,
    },
}

impl TpmError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Io { what: what.into(), source }
    }
}

/// A running swtpm. Dropping it stops it; the state stays.
#[derive(Debug)]
pub struct SoftTpm {
    folder: PathBuf,
    port: u16,
    child: Option<Child>,
    policy_key: PolicyKey,
    /// What the next (re)start measures. Changing it without [`SoftTpm::sign_boot`] is a boot that nobody signed.
    pub boot: Boot,
}

impl SoftTpm {
    /// Starts a TPM on `folder` (made if missing) through the lab's known boot, signed for security generation 1.
    ///
    /// # Errors
    /// swtpm or tpm2-tools missing or refusing, or the folder not writable.
    pub fn start(folder: &Path) -> Result<Self, TpmError> {
        fs::create_dir_all(folder.join("state")).map_err(TpmError::io(format!("making {}", folder.display())))?;
        let policy_key = PolicyKey::load_or_generate(folder)?;
        let folder = folder.to_owned();
        let mut tpm = Self { folder, port: 0, child: None, policy_key, boot: Boot::default() };
        tpm.sign_boot(&[1])?;
        tpm.end_leftover();
        tpm.power_on()?;
        Ok(tpm)
    }

    /// How a TPM client reaches it, for example `swtpm:host=127.0.0.1,port=2321`. Stays the same over restarts.
    #[must_use]
    pub fn tcti(&self) -> String {
        tcti(self.port)
    }

    /// The data port; the control port is the next one.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// PEM file with the policy key's public part.
    #[must_use]
    pub fn policy_key(&self) -> PathBuf {
        self.folder.join("policy-public.pem")
    }

    /// JSON file with the signed PCR policies.
    #[must_use]
    pub fn policy_signatures(&self) -> PathBuf {
        self.folder.join("policy-signatures.json")
    }

    /// The key that signs the boot.
    #[must_use]
    pub fn signer(&self) -> &PolicyKey {
        &self.policy_key
    }

    /// Writes the signature file: [`SoftTpm::boot`] signed for each of `generations`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn sign_boot(&self, generations: &[u32]) -> Result<(), TpmError> {
        self.policy_key.write_signatures(&self.policy_signatures(), &self.boot, generations)
    }

    /// Power off and on: PCRs start from zero and are measured anew, the state stays.
    ///
    /// # Errors
    /// As [`SoftTpm::start`].
    pub fn restart(&mut self) -> Result<(), TpmError> {
        self.stop()?;
        self.power_on()
    }

    /// Stops swtpm: the machine has no TPM until [`SoftTpm::restart`].
    ///
    /// # Errors
    /// The process cannot be ended.
    pub fn stop(&mut self) -> Result<(), TpmError> {
        if let Some(mut child) = self.child.take() {
            end(&mut child).map_err(TpmError::io("stopping swtpm"))?;
        }
        Ok(())
    }

    /// Another TPM in the same socket: new seeds, then the same boot.
    ///
    /// # Errors
    /// As [`SoftTpm::start`].
    pub fn replace(&mut self) -> Result<(), TpmError> {
        self.stop()?;
        let state = self.folder.join("state");
        fs::remove_dir_all(&state).map_err(TpmError::io("removing the TPM's state"))?;
        fs::create_dir(&state).map_err(TpmError::io("making the TPM's state folder"))?;
        self.power_on()
    }

    /// Measures `event` into `pcr` (SHA-256 bank), as any software on the machine can.
    ///
    /// # Errors
    /// The TPM refuses.
    pub fn extend(&self, pcr: u32, event: &[u8]) -> Result<(), TpmError> {
        let digest = hex(&boot::sha256(&[event]));
        self.tool("tpm2_pcrextend", &[&format!("{pcr}:sha256={digest}")]).map(drop)
    }

    /// The value of `pcr` in the SHA-256 bank.
    ///
    /// # Errors
    /// The TPM refuses.
    pub fn pcr(&self, pcr: u32) -> Result<[u8; 32], TpmError> {
        let values = self.folder.join("pcr.bin");
        self.tool("tpm2_pcrread", &[&format!("sha256:{pcr}"), "-o", &values.display().to_string()])?;
        let bytes = fs::read(&values).map_err(TpmError::io("reading a PCR value"))?;
        bytes.try_into().map_err(|_| TpmError::NotStarted { log: self.log() })
    }

    /// `TPM2_Clear` by the platform, as a firmware menu does it: the storage seed is new, the endorsement seed stays.
    ///
    /// # Errors
    /// The TPM refuses.
    pub fn clear(&self) -> Result<(), TpmError> {
        self.tool("tpm2_clear", &["-c", "p"]).map(drop)
    }

    /// Fails authorisations of an object of its own until the TPM is in dictionary lockout.
    ///
    /// # Errors
    /// The TPM never locks out.
    pub fn lock_out(&self) -> Result<(), TpmError> {
        let parent = self.folder.join("lockout.ctx").display().to_string();
        let child = self.folder.join("lockout-child").display().to_string();
        self.tool("tpm2_createprimary", &["-C", "o", "-G", "ecc", "-p", "right", "-c", &parent])?;
        // Without a resource manager the tools leave their objects loaded, and swtpm has room for three.
        let flush = || self.tool("tpm2_flushcontext", &["-t"]);
        flush()?;
        let mut last = None;
        for _ in 0..LOCKOUT_ATTEMPTS {
            let wrong = ["-C", &parent, "-P", "wrong", "-u", &format!("{child}.pub"), "-r", &format!("{child}.priv")];
            let outcome = self.tool("tpm2_create", &wrong);
            flush()?;
            match outcome {
                Err(TpmError::Tool { stderr, .. }) if stderr.contains("0x921") => return Ok(()),
                other => last = Some(other),
            }
        }
        last.transpose()?;
        Err(TpmError::Tool { command: "tpm2_create".to_owned(), stderr: "no lockout".to_owned() })
    }

    /// Runs a tpm2-tools command against this TPM; its standard output.
    ///
    /// # Errors
    /// The command is missing or fails.
    pub fn tool(&self, name: &str, arguments: &[&str]) -> Result<String, TpmError> {
        let output = Command::new(name)
            .args(arguments)
            .env("TPM2TOOLS_TCTI", self.tcti())
            .stdin(Stdio::null())
            .output()
            .map_err(TpmError::io(name))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(TpmError::Tool { command: format!("{name} {}", arguments.join(" ")), stderr })
    }

    fn log(&self) -> PathBuf {
        self.folder.join("swtpm.log")
    }

    /// Starts swtpm, on the port of before if there was one, and goes through the boot.
    fn power_on(&mut self) -> Result<(), TpmError> {
        for _ in 0..PORT_ATTEMPTS {
            if self.port == 0 {
                self.port = free_pair().map_err(TpmError::io("looking for two free ports"))?;
            }
            let mut child = self.spawn()?;
            if listens(self.port, &mut child) {
                self.child = Some(child);
                return self.measure_boot();
            }
            end(&mut child).map_err(TpmError::io("stopping swtpm"))?;
            self.port = 0;
        }
        Err(TpmError::NotStarted { log: self.log() })
    }

    fn spawn(&self) -> Result<Child, TpmError> {
        use std::os::unix::process::CommandExt;
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log());
        let log = log.map_err(TpmError::io("opening swtpm.log"))?;
        Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init"])
            .arg("--tpmstate")
            .arg(format!("dir={}", self.folder.join("state").display()))
            .args(["--server", &format!("type=tcp,port={}", self.port)])
            .args(["--ctrl", &format!("type=tcp,port={}", self.port + 1)])
            .arg("--pid")
            .arg(format!("file={}", self.pid_file().display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(TpmError::io("opening swtpm.log"))?)
            .stderr(log)
            .process_group(0) // Ctrl-C at the terminal ends the lab, and the lab ends the TPM last.
            .spawn()
            .map_err(TpmError::io("starting swtpm"))
    }

    fn measure_boot(&self) -> Result<(), TpmError> {
        self.tool("tpm2_startup", &["-c"])?;
        for (pcr, events) in [(7, &self.boot.secure_boot), (11, &self.boot.kernel)] {
            for event in events {
                self.extend(pcr, event.as_bytes())?;
            }
        }
        Ok(())
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.join("swtpm.pid")
    }

    /// Ends the swtpm of a lab that was killed: it still holds the state folder.
    fn end_leftover(&self) {
        let Ok(text) = fs::read_to_string(self.pid_file()) else { return };
        let Ok(pid) = text.trim().parse::<i32>() else { return };
        let state = self.folder.join("state").display().to_string();
        let ours = || fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(&state));
        let deadline = Instant::now() + PATIENCE;
        while ours() && Instant::now() < deadline {
            // The process may be gone by now, which is what is wanted.
            let _gone = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for SoftTpm {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            log::warn!("{error}");
        }
    }
}

fn tcti(port: u16) -> String {
    format!("swtpm:host=127.0.0.1,port={port}")
}

/// SIGTERM, then SIGKILL where that does not help.
fn end(child: &mut Child) -> io::Result<()> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    if child.try_wait()?.is_none() {
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
    }
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Waits until `port` answers or swtpm has ended.
fn listens(port: u16, child: &mut Child) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
        // Control first: swtpm opens it last, and serves one data connection at a time.
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port + 1)).is_ok() {
            return true;
        }
        thread::sleep(Duration::from_millis(5));
    }
    false
}

/// Two neighbouring ports that are free now: the swtpm TCTI expects the control port behind the data port.
fn free_pair() -> io::Result<u16> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..PORT_ATTEMPTS {
        let data = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = data.local_addr()?.port();
        match port.checked_add(1).map(|next| TcpListener::bind((Ipv4Addr::LOCALHOST, next))) {
            Some(Ok(_)) => return Ok(port),
            Some(Err(error)) => last = error,
            None => {}
        }
    }
    Err(last)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_leaves_the_predicted_values_and_a_restart_measures_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let mut tpm = SoftTpm::start(folder.path()).unwrap();
        let (seven, eleven) = (boot::predict(&tpm.boot.secure_boot), boot::predict(&tpm.boot.kernel));
        assert_eq!((tpm.pcr(7).unwrap(), tpm.pcr(11).unwrap(), tpm.pcr(12).unwrap()), (seven, eleven, [0; 32]));

        tpm.extend(12, b"a command line that was edited").unwrap();
        assert_ne!(tpm.pcr(12).unwrap(), [0; 32]);
        let before = tpm.tcti();
        tpm.restart().unwrap();
        assert_eq!((tpm.pcr(7).unwrap(), tpm.pcr(11).unwrap(), tpm.pcr(12).unwrap()), (seven, eleven, [0; 32]));
        assert_eq!(tpm.tcti(), before);
    }

    #[test]
    fn a_tpm_that_a_killed_lab_left_running_is_ended_by_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = SoftTpm::start(folder.path()).unwrap();
        let mut left = first.child.take().unwrap();
        let mut second = SoftTpm::start(folder.path()).unwrap();
        assert!(!left.wait().unwrap().success() || left.try_wait().unwrap().is_some());
        second.stop().unwrap();
    }

    #[test]
    fn failed_authorisations_lock_the_tpm_out() {
        let folder = tempfile::tempdir().unwrap();
        let tpm = SoftTpm::start(folder.path()).unwrap();
        tpm.lock_out().unwrap();
        assert!(tpm.tool("tpm2_getcap", &["properties-variable"]).unwrap().contains("inLockout:                 1"));
    }
}
