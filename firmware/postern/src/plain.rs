//! The plain area: what a locked appliance must know to stay up.
//!
//! Job: keep host name, listeners and the box's own address outside the sealed settings, so that a box whose TPM gives
//! nothing away still has its address, greets and answers `451 4.3.0`. Place: written when settings are taken into
//! force; read early in the boot for the network, and by the daemon where the vault is locked. Invariants: nothing
//! confidential; parsed strictly, since anyone with the disk can write it; what it says decides at which address a
//! refusal is given, nothing more. Two stores: a partition of its own behind the helper ([`area`]), or, on a machine
//! without one, a file in the data folder. A crash leaves what was stored before, or after.

pub mod area;
pub mod copies;

use crate::helper::{Client, HelperError, Request, Response};
use mail::Domain;
use serde::{Deserialize, Serialize};
use settings::{Addressing, Settings};
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
/// As many listeners as a box has use for; what settings have beyond it does not answer while the box is locked.
pub const MAX_LISTENERS: usize = 16;

/// Host name, listeners and own address. What a later version adds is left out by this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plain {
    /// `host.name`
    pub host: Domain,
    /// `intake.listen`
    pub listen: Vec<SocketAddr>,
    /// `[network]`, where the settings have one; kept on a partition only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Addressing>,
}

/// Where it is kept.
#[derive(Clone, Debug)]
pub enum Store {
    /// A file in this folder.
    Folder(PathBuf),
    /// The partition, through the helper.
    Partition(Client),
}

impl Store {
    /// Reads it; `None` where the box was never set up.
    ///
    /// # Errors
    /// It can't be read, or is not what we wrote.
    pub async fn load(&self) -> Result<Option<Plain>, StoreError> {
        match self {
            Self::Folder(folder) => Ok(Plain::load(folder)?),
            Self::Partition(helper) => match helper.call(Request::ReadPlain).await? {
                Response::Plain(plain) => Ok(plain),
                _ => Ok(None),
            },
        }
    }

    /// Keeps host name and listeners of `settings`; the address is kept with its taking into force.
    ///
    /// # Errors
    /// The disk would not take it.
    pub async fn keep(&self, settings: &Settings) -> Result<(), StoreError> {
        let host = settings.host.name.clone();
        let listen: Vec<SocketAddr> = settings.intake.listen.iter().copied().take(MAX_LISTENERS).collect();
        match self {
            Self::Folder(folder) => Ok(Plain::store(folder, Plain { host, listen, network: None })?),
            Self::Partition(helper) => Ok(helper.call(Request::StorePlain { host, listen }).await.map(drop)?),
        }
    }
}

/// The plain area can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// As a file.
    #[error("the plain area can't be used: {0}; check the data disk, then apply the settings again")]
    File(#[from] io::Error),
    /// As a partition.
    #[error(transparent)]
    Helper(#[from] HelperError),
}

impl Plain {
    fn file(data: &Path) -> PathBuf {
        data.join("plain.json")
    }

    /// Reads its text; none where it is not ours.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let parsed = serde_json::from_slice::<Self>(text).ok()?;
        let good = parsed.listen.len() <= MAX_LISTENERS && parsed.network.as_ref().is_none_or(|n| n.check().is_ok());
        good.then_some(parsed)
    }

    fn load(data: &Path) -> io::Result<Option<Self>> {
        let path = Self::file(data);
        let length = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let parsed = if length > MAX_BYTES { None } else { Self::parse(&fs::read(&path)?) };
        match parsed {
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
        Self { host, listen: Vec::new(), network: None }
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

    /// Writes it where it differs from what is there.
    fn store(data: &Path, plain: Self) -> io::Result<()> {
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
