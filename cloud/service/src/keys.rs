//! The key tree of the service: master key → service keys and tenant keys → message keys.
//!
//! Job: load or make the master key, and derive from it what each purpose needs. Place: read once at start. Invariants:
//! the master key lies outside the data folder and is readable by its owner only; a purpose never sees another's key;
//! a tenant's records open under that tenant's key alone. A crash leaves either no key file or a whole one: it is
//! written beside, synced and renamed before anything is sealed under it.

use crate::{
    Error,
    seal::{Index, SealError, Sealer, Secret, random_secret, secret_from},
};
use std::{
    fs,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};
use zeroize::Zeroizing;

/// The root of everything that the service seals.
pub struct Master(Secret);

impl Master {
    /// Reads the key file, or makes one (mode 0600) where there is none.
    ///
    /// # Errors
    /// The file lies inside `data`, is not a key, is open to others, or can't be read or written.
    pub fn load_or_create(path: &Path, data: &Path) -> Result<Self, Error> {
        refuse_inside(path, data)?;
        match fs::read(path) {
            Ok(text) => Self::parse(path, &Zeroizing::new(text)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Self::create(path),
            Err(e) => Err(Error::file(path)(e)),
        }
    }

    fn parse(path: &Path, text: &[u8]) -> Result<Self, Error> {
        let mode = fs::metadata(path).map_err(Error::file(path))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(Error::MasterKeyExposed { path: path.to_owned(), mode });
        }
        let malformed = || Error::MasterKeyMalformed(path.to_owned());
        let digits = text.trim_ascii();
        if digits.len() != 64 {
            return Err(malformed());
        }
        let mut secret: Secret = Box::new(Zeroizing::new([0; 32]));
        for (byte, pair) in secret.iter_mut().zip(digits.chunks(2)) {
            let text = std::str::from_utf8(pair).map_err(|_| malformed())?;
            *byte = u8::from_str_radix(text, 16).map_err(|_| malformed())?;
        }
        Ok(Self(secret))
    }

    fn create(path: &Path) -> Result<Self, Error> {
        let secret = random_secret()?;
        let mut text = Zeroizing::new(String::with_capacity(65));
        for byte in secret.iter() {
            text.push_str(&format!("{byte:02x}"));
        }
        text.push('\n');
        let staged = path.with_extension("new");
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let written = fs::create_dir_all(folder).and_then(|()| {
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staged)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&staged, path)?;
            fs::File::open(folder)?.sync_all()
        });
        written.map_err(Error::file(path))?;
        Ok(Self(secret))
    }

    /// The keys that the service itself uses.
    pub fn service(&self) -> Result<ServiceKeys, SealError> {
        Ok(ServiceKeys {
            authorities: Sealer::derive(&self.0, "postern-cloud/1/authorities")?,
            tenants: Sealer::derive(&self.0, "postern-cloud/1/tenants")?,
            directory: Sealer::derive(&self.0, "postern-cloud/1/directory")?,
            addresses: Index::derive(&self.0, "postern-cloud/1/address-index")?,
            tokens: Index::derive(&self.0, "postern-cloud/1/token-index")?,
            forms: Index::derive(&self.0, "postern-cloud/1/forms")?,
        })
    }
}

/// The key may not be copied together with what it opens.
fn refuse_inside(path: &Path, data: &Path) -> Result<(), Error> {
    let data = data.canonicalize().map_err(Error::file(data))?;
    let absolute = std::path::absolute(path).map_err(Error::file(path))?;
    // The file may not exist yet: the nearest folder that does decides, with links followed.
    let existing = absolute.ancestors().find_map(|ancestor| ancestor.canonicalize().ok());
    if existing.is_some_and(|place| place.starts_with(&data)) {
        return Err(Error::MasterKeyInside(path.to_owned()));
    }
    Ok(())
}

/// One key per purpose.
pub struct ServiceKeys {
    /// Seals the private keys of the service's own CAs.
    pub authorities: Sealer,
    /// Wraps tenant keys.
    pub tenants: Sealer,
    /// Seals accounts, which belong to people and not to a tenant.
    pub directory: Sealer,
    /// Finds a person by address.
    pub addresses: Index,
    /// Finds codes, links and sessions by the secret that their holder shows.
    pub tokens: Index,
    /// Binds a form to the browser that it was shown in.
    pub forms: Index,
}

impl ServiceKeys {
    /// The lookup value of a mailbox, the same for all spellings that [`folded`] makes one.
    pub fn address_index(&self, address: &str) -> Vec<u8> {
        self.addresses.of(folded(address).as_bytes()).to_vec()
    }
}

/// A mailbox as it is compared: without case, because people type their address as they like; the local part's case
/// (RFC 5321 §2.4) is kept for delivery only. In the local part just ASCII letters fold: Unicode makes letters alike that
/// are different mailboxes (the Kelvin sign and k), and only the server there knows which (RFC 6530 §10.1). In the domain
/// they are the same name (UTS 46 §4).
pub fn folded(address: &str) -> String {
    match address.rsplit_once('@') {
        Some((local, domain)) => format!("{}@{}", local.to_ascii_lowercase(), domain.to_lowercase()),
        None => address.to_ascii_lowercase(),
    }
}

/// The keys of one tenant.
pub struct TenantKeys {
    /// The tenant.
    pub tenant: String,
    /// Seals the tenant's records.
    pub records: Sealer,
    messages: Sealer,
    places: Index,
}

impl TenantKeys {
    /// From the tenant's own secret.
    pub fn new(tenant: &str, secret: &Secret) -> Result<Self, SealError> {
        Ok(Self {
            tenant: tenant.to_owned(),
            records: Sealer::derive(secret, "postern-cloud/1/records")?,
            messages: Sealer::derive(secret, "postern-cloud/1/message-keys")?,
            places: Index::derive(secret, "postern-cloud/1/places")?,
        })
    }

    /// A fresh message key and its wrapped form.
    pub fn new_message_key(&self, reference: &str) -> Result<(Secret, Vec<u8>), SealError> {
        let secret = random_secret()?;
        let wrapped = self.messages.seal(&self.context("key", reference), secret.as_slice())?;
        Ok((secret, wrapped))
    }

    /// Unwraps a message key.
    pub fn message_key(&self, reference: &str, wrapped: &[u8]) -> Result<Secret, SealError> {
        secret_from(self.messages.open(&self.context("key", reference), wrapped)?)
    }

    /// The folder of a message in the object store. It is not stored anywhere: the database alone does not tell which
    /// object belongs to which row.
    pub fn place(&self, reference: &str) -> String {
        hex(&self.places.of(reference.as_bytes())[..20])
    }

    /// Names a record for the seal: kind, tenant, message.
    pub fn context(&self, kind: &str, reference: &str) -> String {
        format!("{kind}/{}/{reference}", self.tenant)
    }
}

/// Unwraps a tenant's secret.
pub fn tenant_secret(keys: &ServiceKeys, tenant: &str, wrapped: &[u8]) -> Result<Secret, SealError> {
    secret_from(keys.tenants.open(&format!("tenant/{tenant}"), wrapped)?)
}

/// Wraps a tenant's secret.
pub fn wrap_tenant_secret(keys: &ServiceKeys, tenant: &str, secret: &Secret) -> Result<Vec<u8>, SealError> {
    keys.tenants.seal(&format!("tenant/{tenant}"), secret.as_slice())
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_key_inside_the_data_folder_is_refused_also_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&data, &link).unwrap();
        for path in [data.join("key"), data.join("a/b/key"), link.join("key")] {
            assert!(matches!(Master::load_or_create(&path, &data), Err(Error::MasterKeyInside(_))), "{path:?}");
        }
        assert!(Master::load_or_create(&folder.path().join("key"), &data).is_ok());
    }

    #[test]
    fn a_made_key_is_private_and_read_back_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        let path = folder.path().join("keys/master");
        let made = Master::load_or_create(&path, &data).unwrap();
        let read = Master::load_or_create(&path, &data).unwrap();
        assert_eq!(made.0, read.0);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Master::load_or_create(&path, &data), Err(Error::MasterKeyExposed { .. })));
    }

    #[test]
    fn a_damaged_key_file_is_refused_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        let path = folder.path().join("key");
        for text in ["", "00", &"g".repeat(64), &"0".repeat(65)] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(Master::load_or_create(&path, &data), Err(Error::MasterKeyMalformed(_))), "{text:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), *text);
        }
    }

    #[test]
    fn mailboxes_that_only_look_alike_do_not_share_an_account() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        let keys = Master::load_or_create(&folder.path().join("key"), &data).unwrap().service().unwrap();
        let index = |address: &str| keys.address_index(address);
        // The Kelvin sign, a dotted capital I, and a blank of another script, each a letter of its own before the @.
        for other in ["\u{212a}im@home.example", "k\u{130}m@home.example", "\u{3000}kim@home.example"] {
            assert_ne!(index("kim@home.example"), index(other), "{other:?}");
        }
        assert_eq!(index("Kim@Home.Example"), index("kim@home.example"));
        assert_eq!(index("kim@B\u{dc}RO.example"), index("kim@b\u{fc}ro.example"));
    }
}
