//! What can go wrong in the service, for operators; clients of either listener see less.

use crate::seal::SealError;
use std::{io, net::SocketAddr, path::PathBuf};

/// A failure of the service, in two halves: what happened; what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder of the service can't be used.
    #[error("{} can't be used ({source}); check that it exists and belongs to the user that runs the service", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The master key would travel with every copy of the data.
    #[error("the master key {} lies inside the data folder; give a place outside it with --master-key", .0.display())]
    MasterKeyInside(PathBuf),
    /// The file is not 32 bytes in hexadecimal.
    #[error("{} is not a master key (64 hexadecimal digits); restore it from its backup", .0.display())]
    MasterKeyMalformed(PathBuf),
    /// Everybody may read the key.
    #[error("the master key {} is open to other users (mode {mode:o}); run chmod 600 on it", path.display())]
    MasterKeyExposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The data was sealed under another key.
    #[error("the data folder was sealed under another master key; start with the key that it was made with")]
    MasterKeyForeign,
    /// Two services on one folder.
    #[error("another service runs on {}; stop it first", .0.display())]
    InUse(PathBuf),
    /// A listening address is taken or not ours.
    #[error("can't listen on {address} ({source}); free the port or give another address")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Not an https URL without path.
    #[error("{0:?} is no portal address; write it as https://host or https://host:port")]
    PortalUrl(String),
    /// Not a mailbox.
    #[error("{0:?} is no sender for notices; write it as name@domain")]
    NoticeSender(String),
    /// Certificate or key of the service, or of a CA of its own.
    #[error("the certificate or key can't be used ({0}); give a PEM chain, leaf first, and its PKCS #8 key")]
    Certificate(String),
    /// SQLite.
    #[error("the database failed ({0}); check space and health of the disk")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the database schema can't be brought up to date ({0}); use the version that wrote it, or a newer one")]
    Schema(#[from] sqlx::migrate::MigrateError),
    /// The object store.
    #[error("the object store failed ({0}); check space and health of the disk")]
    Objects(#[from] object_store::Error),
    /// Stored bytes are not those that were sealed.
    #[error("stored data is damaged ({0}); restore it from a backup")]
    Damaged(#[from] SealError),
    /// A sealed record holds something else than was written.
    #[error("a sealed record can't be read ({0}); restore it from a backup")]
    Record(#[from] serde_json::Error),
    /// No such tenant.
    #[error("there is no tenant {0:?}; `postern-cloud tenant list` shows them")]
    UnknownTenant(String),
    /// The tenant exists.
    #[error("there is a tenant {0:?} already; choose another --id")]
    TenantExists(String),
    /// The name or id of a tenant can't be used.
    #[error("{0:?} can't be used; ids have 1 to 40 letters, digits and hyphens, names 1 to 100 characters in one line")]
    TenantName(String),
    /// No such appliance.
    #[error("there is no appliance {0:?}; `postern-cloud appliance list` shows them")]
    UnknownAppliance(String),
    /// A notice template.
    #[error(transparent)]
    Template(#[from] crate::notice::TemplateError),
}

impl Error {
    /// A failed file operation, with its path.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

/// Why a task ended early. Not its own words: a panic's text may quote what the task worked on.
pub(crate) fn broke_off(error: &tokio::task::JoinError) -> &'static str {
    if error.is_panic() { "it panicked; its place stands above" } else { "it was cancelled" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[allow(clippy::panic)]
    async fn the_text_of_a_panic_is_not_told() {
        let error = tokio::spawn(async { panic!("cut in the middle of {:?}", "Befund") }).await.unwrap_err();
        assert!(error.to_string().contains("Befund"), "the library tells it");
        assert!(!broke_off(&error).contains("Befund") && broke_off(&error).contains("panicked"));
    }
}
