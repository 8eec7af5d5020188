//! A real Postfix with a configuration of its own, beside whatever Postfix the machine runs.
//!
//! Job: stand in for the organisation's mail server, for the next hop, and for the peer of the benchmark. Place: at both
//! ends of the message's way. Invariants: listens on 127.0.0.1 only; everything it writes is below its own folder. A
//! crash of the lab ends Postfix (its master gets the signal), the folder stays.

use crate::process::{Process, wait_for_port};
use nix::{
    sys::signal::Signal,
    unistd::{Group, User, chown},
};
use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// Services of `master.cf` without chroot, as Debian names them.
const MASTER: &str = "\
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
";

/// A running Postfix.
pub struct Postfix {
    process: Process,
    dir: PathBuf,
    address: SocketAddr,
}

impl Postfix {
    /// Starts Postfix in `dir`, listening on `address`, with these lines of `main.cf` besides the ones that make it
    /// stand alone.
    ///
    /// # Errors
    /// Not run as root, Postfix isn't installed, or it does not come up; the log is `dir/log`.
    pub fn start(dir: &Path, address: SocketAddr, settings: &[(&str, &str)]) -> io::Result<Self> {
        let user = User::from_name("postfix")?.ok_or_else(|| missing("user postfix"))?;
        let postdrop = Group::from_name("postdrop")?.ok_or_else(|| missing("group postdrop"))?;
        for folder in ["etc", "queue", "data"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        // Postfix's own processes run as other users and must be able to come here.
        for ancestor in dir.ancestors().filter(|a| a.starts_with(std::env::temp_dir()) && *a != std::env::temp_dir()) {
            fs::set_permissions(ancestor, fs::Permissions::from_mode(0o755))?;
        }
        chown(&dir.join("data"), Some(user.uid), Some(user.gid))?;
        let mut main = format!(
            "compatibility_level = 3.6\nqueue_directory = {0}/queue\ndata_directory = {0}/data\nmaillog_file = /dev/stdout\n\
             mail_owner = postfix\nsetgid_group = {1}\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\n\
             smtp_bind_address = 127.0.0.1\nmynetworks = 127.0.0.0/8\nmydestination =\nalias_maps =\nalias_database =\n\
             local_recipient_maps =\nsmtpd_recipient_restrictions = permit_mynetworks, reject\nbiff = no\n\
             smtp_dns_support_level = disabled\nsmtpd_peername_lookup = no\nlocal_transport = error:no local mail\n",
            dir.display(),
            postdrop.name,
        );
        for (name, value) in settings {
            main.push_str(&format!("{name} = {value}\n"));
        }
        fs::write(dir.join("etc/main.cf"), main)?;
        fs::write(dir.join("etc/master.cf"), format!("{address} inet n - n - - smtpd\n{MASTER}"))?;
        let mut command = Command::new("/usr/sbin/postfix");
        command.arg("-c").arg(dir.join("etc")).arg("start-fg");
        let mut process = Process::start("postfix", command, &dir.join("log"))?;
        wait_for_port(&mut process, address, Duration::from_secs(20))?;
        Ok(Self { process, dir: dir.to_owned(), address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The process group's leader, for accounting.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Messages that wait in its queue.
    ///
    /// # Errors
    /// `postqueue` could not be run.
    pub fn queued(&self) -> io::Result<usize> {
        let mut count = 0;
        for folder in ["incoming", "active", "deferred", "maildrop"] {
            count += files_below(&self.dir.join("queue").join(folder))?;
        }
        Ok(count)
    }

    /// Sends what waits at once.
    ///
    /// # Errors
    /// `postqueue` could not be run.
    pub fn flush(&self) -> io::Result<()> {
        Command::new("/usr/sbin/postqueue").arg("-c").arg(self.dir.join("etc")).arg("-f").status().map(drop)
    }

    /// Stops it.
    ///
    /// # Errors
    /// It had to be killed.
    pub fn stop(&mut self) -> io::Result<()> {
        let status = Command::new("/usr/sbin/postfix").arg("-c").arg(self.dir.join("etc")).arg("stop").output()?;
        if !status.status.success() {
            self.process.signal(Signal::SIGTERM)?;
        }
        self.process.stop(Duration::from_secs(10)).map(drop)
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

fn missing(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{what} is missing; run `make setup`, which installs Postfix"))
}

fn files_below(dir: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // A file that Postfix has just moved on is counted where it is next.
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => count += files_below(&entry.path())?,
            Ok(_) => count += 1,
            Err(_) => {}
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::free_port;

    #[test]
    fn a_postfix_of_our_own_takes_mail_and_stops() {
        let dir = tempfile::tempdir().unwrap();
        let address = free_port().unwrap();
        let mut postfix = Postfix::start(dir.path(), address, &[("default_transport", "discard")]).unwrap();
        let sent = Command::new("smtp-source")
            .args(["-m", "20", "-s", "2", "-f", "a@one.example", "-t", "b@two.example", &address.to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
        postfix.stop().unwrap();
        let log = fs::read_to_string(dir.path().join("log")).unwrap();
        assert_eq!(log.matches("status=sent").count(), 20, "{log}");
    }
}
