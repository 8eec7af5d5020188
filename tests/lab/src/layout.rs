//! Where the lab's parts live: addresses and folders.
//!
//! Job: one place for the ports and paths of the public contract. Place: around the whole system. Invariants: all
//! addresses are on 127.0.0.1. A crash leaves the folder as it is; the next run continues with it.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// The first of the lab's ports where `LAB_PORT_BASE` is not set.
pub const DEFAULT_PORT_BASE: u16 = 42500;

/// Addresses and folders of one lab.
#[derive(Clone, Debug)]
pub struct Layout {
    dir: PathBuf,
    base: u16,
}

impl Layout {
    /// The lab in `dir` with ports from `base`. Folders are made where they are missing.
    ///
    /// # Errors
    /// A folder could not be made, or the ports would pass 65535.
    pub fn new(dir: &Path, base: u16) -> io::Result<Self> {
        if base > u16::MAX - 10 {
            return Err(io::Error::other(format!(
                "port base {base} leaves no room for ten ports; choose a smaller one"
            )));
        }
        std::fs::create_dir_all(dir)?;
        let layout = Self { dir: dir.canonicalize()?, base };
        for folder in ["appliance", "cloud", "sink/next-hop", "sink/internal", "tpm", "log"] {
            std::fs::create_dir_all(layout.dir.join(folder))?;
        }
        Ok(layout)
    }

    /// The lab of `LAB_DIR` and `LAB_PORT_BASE`, by default `.lab` and 42500.
    ///
    /// # Errors
    /// As [`Layout::new`], or `LAB_PORT_BASE` is not a port.
    pub fn from_environment() -> io::Result<Self> {
        let dir = std::env::var_os("LAB_DIR").map_or_else(|| PathBuf::from(".lab"), PathBuf::from);
        let base = match std::env::var("LAB_PORT_BASE") {
            Ok(text) => text.parse().map_err(|_| {
                io::Error::other(format!("LAB_PORT_BASE={text} is not a port; give a number like 42500"))
            })?,
            Err(_) => DEFAULT_PORT_BASE,
        };
        Self::new(&dir, base)
    }

    fn port(&self, offset: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.base + offset).into()
    }

    /// SMTP intake of the appliance.
    #[must_use]
    pub fn smtp(&self) -> SocketAddr {
        self.port(0)
    }

    /// The cloud's portal (HTTPS).
    #[must_use]
    pub fn portal(&self) -> SocketAddr {
        self.port(3)
    }

    /// The cloud's API (HTTPS, mutual TLS).
    #[must_use]
    pub fn cloud_api(&self) -> SocketAddr {
        self.port(4)
    }

    /// The next hop's sink.
    #[must_use]
    pub fn sink(&self) -> SocketAddr {
        self.port(5)
    }

    /// The internal mail server's sink.
    #[must_use]
    pub fn internal(&self) -> SocketAddr {
        self.port(7)
    }

    /// The lab's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file or folder in it.
    #[must_use]
    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.join(relative)
    }

    /// The appliance's operator socket. A path too long for a Unix socket (107 bytes) goes to the temporary folder.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        let path = self.path("operator.sock");
        if path.as_os_str().len() <= 107 {
            path
        } else {
            std::env::temp_dir().join(format!("postern-{}.sock", self.base))
        }
    }
}
