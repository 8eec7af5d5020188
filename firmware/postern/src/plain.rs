//! The plain area: what a locked appliance must know to stay up.
//!
//! Job: keep host name and listener addresses outside the sealed settings, so that a box whose TPM gives nothing away
//! still greets and answers `451 4.3.0`. Place: written when settings are taken into force, read only where the vault
//! is locked. Invariants: nothing confidential; parsed strictly, since anyone with the disk can write it; what it says
//! decides at which loopback or interface address a refusal is given, nothing more. A crash leaves the old file or the
//! new one.

use mail::Domain;
use serde::{Deserialize, Serialize};
use settings::Settings;
use std::{
    fs, io,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// More than enough; a larger file is not ours.
const MAX_BYTES: u64 = 4096;
/// Nothing is delivered without keys.
const UNUSED: Duration = Duration::from_secs(1);
/// As many listeners as a box has use for.
const MAX_LISTENERS: usize = 16;

/// Host name and listeners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plain {
    /// `host.name`
    pub host: Domain,
    /// `intake.listen`
    pub listen: Vec<SocketAddr>,
}

impl Plain {
    fn file(data: &Path) -> PathBuf {
        data.join("plain.json")
    }

    /// Reads it; `None` where the box was never set up.
    ///
    /// # Errors
    /// The file can't be read, or is not what we wrote.
    pub fn load(data: &Path) -> io::Result<Option<Self>> {
        let path = Self::file(data);
        let length = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let parsed = if length > MAX_BYTES { None } else { serde_json::from_slice::<Self>(&fs::read(&path)?).ok() };
        match parsed.filter(|plain| plain.listen.len() <= MAX_LISTENERS) {
            Some(plain) => Ok(Some(plain)),
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{} was not written by Postern; delete it and unlock the keys, which writes it anew",
                    path.display()
                ),
            )),
        }
    }

    /// What stands for it where it can't be read: no listener.
    #[must_use]
    pub fn unknown() -> Self {
        // A constant that is a valid name.
        let host = "localhost".parse().unwrap_or_else(|_| unreachable!("localhost is a host name"));
        Self { host, listen: Vec::new() }
    }

    /// Enough of settings to greet and refuse with.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            host: settings::Host { name: self.host.clone() },
            network: None,
            operators: Vec::new(),
            intake: settings::Intake {
                listen: self.listen.clone(),
                networks: Vec::new(),
                max_message_bytes: 1 << 20,
                max_recipients: 100,
                max_sessions: 100,
                max_sessions_per_client: 20,
                tls: None,
            },
            relay: settings::Relay {
                smarthost: settings::HostPort { host: String::new(), port: 25 },
                tls: settings::RelayTls::default(),
                max_connections: 1,
                ca: None,
            },
            internal: Vec::new(),
            cloud: None,
            retry: settings::Retry { first: UNUSED, longest: UNUSED, give_up: UNUSED },
            spool: settings::Spool { memory_bytes: 0, reserve_bytes: 0, segment_bytes: 0 },
            policy: settings::Policy::default(),
        }
    }

    /// Writes it where it differs from `settings`.
    ///
    /// # Errors
    /// The disk would not take it.
    pub fn store(data: &Path, settings: &Settings) -> io::Result<()> {
        let plain = Self { host: settings.host.name.clone(), listen: settings.intake.listen.clone() };
        if matches!(Self::load(data), Ok(Some(stored)) if stored == plain) {
            return Ok(());
        }
        let path = Self::file(data);
        let new = path.with_extension("new");
        let mut file = fs::File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(&plain)?)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        fs::File::open(data)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strange_file_is_refused_with_what_to_do() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(Plain::load(data.path()).unwrap(), None);
        for text in [
            "",
            "{}",
            "{\"host\":\"a.example\",\"listen\":[\"x\"]}",
            &" ".repeat(5000),
            "{\"host\":\"a\\r\\nb\",\"listen\":[]}",
        ] {
            fs::write(data.path().join("plain.json"), text).unwrap();
            let error = Plain::load(data.path()).unwrap_err().to_string();
            assert!(error.contains("delete it"), "{error}");
        }
    }
}
