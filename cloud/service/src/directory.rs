//! People: accounts, sessions and links.
//!
//! Job: decide who somebody is. Place: in front of every page that shows something. Invariants: an account is opened
//! only through a link that went to its mailbox; passwords are kept as Argon2id and sealed; links and sessions are looked
//! up by a keyed hash of what their holder shows; looking a link up changes nothing; an unknown address costs as much time
//! as a wrong password. A crash leaves an account with its first session, or neither.

use crate::{
    Error,
    database::{now, write},
    keys::ServiceKeys,
    notice::link_hash,
    seal::random,
    tenants::Tenants,
};
use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sqlx::SqlitePool;
use std::sync::Arc;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// Argon2id as OWASP's Password Storage Cheat Sheet has it: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
/// Hashes at once: bounds memory and processor time that strangers can take.
const HASHES_AT_ONCE: usize = 2;
/// A session ends this long after its last request, in seconds.
const SESSION_IDLE: i64 = 30 * 60;
/// And this long after it began.
const SESSION_LIFETIME: i64 = 12 * 3600;
/// How stale the time of the last request may be in the database.
const SEEN_PRECISION: i64 = 60;
/// Shortest password in characters (NIST SP 800-63B asks for 8 at least).
pub const SHORTEST_PASSWORD: usize = 10;
/// Longest password in characters.
pub const LONGEST_PASSWORD: usize = 200;

/// Somebody who is signed in.
#[derive(Clone)]
pub struct Person {
    /// Lookup value of the address.
    pub index: Vec<u8>,
    /// The address.
    pub address: String,
}

/// A link that went to a mailbox.
pub struct Link {
    /// Reference of the message that it tells of.
    pub reference: String,
    /// Who it was sent to.
    pub person: Person,
    /// Whose message it is.
    pub tenant: String,
    /// Whether an account exists for the address.
    pub registered: bool,
    /// Whether it can still be used to register.
    pub expired: bool,
}

#[derive(sqlx::FromRow)]
struct LinkRow {
    reference: String,
    tenant: String,
    address_index: Vec<u8>,
    address_sealed: Vec<u8>,
    link_expires_at: i64,
    registered: bool,
}

/// Why a password can't be set; what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Too short.
    #[error("The password is too short. Choose at least {SHORTEST_PASSWORD} characters.")]
    TooShort,
    /// Too long.
    #[error("The password is too long. Choose at most {LONGEST_PASSWORD} characters.")]
    TooLong,
    /// Contains the mailbox's name.
    #[error("The password contains your e-mail address. Choose another one.")]
    Guessable,
    /// Typed differently twice.
    #[error("The two passwords are not the same. Type them again.")]
    Mismatch,
}

/// Accounts, sessions and links.
pub struct Directory {
    db: SqlitePool,
    keys: Arc<ServiceKeys>,
    tenants: Arc<Tenants>,
    slots: Arc<Semaphore>,
    /// Verified in place of an account that does not exist.
    nobody: String,
}

impl Directory {
    /// The directory of this database.
    ///
    /// # Errors
    /// No randomness.
    pub fn new(db: SqlitePool, keys: Arc<ServiceKeys>, tenants: Arc<Tenants>) -> Result<Self, Error> {
        let nobody = hash(&URL_SAFE_NO_PAD.encode(random::<16>()?))?;
        Ok(Self { db, keys, tenants, slots: Arc::new(Semaphore::new(HASHES_AT_ONCE)), nobody })
    }

    /// What a link's token stands for. Changes nothing, however often a scanner follows it.
    ///
    /// # Errors
    /// The service's own.
    pub async fn link(&self, token: &str) -> Result<Option<Link>, Error> {
        let row: Option<LinkRow> = sqlx::query_as(
            "SELECT r.reference, r.tenant, r.address_index, r.address_sealed, r.link_expires_at, \
             EXISTS (SELECT 1 FROM account a WHERE a.address_index = r.address_index) AS registered \
             FROM recipient r WHERE r.link_hash = ?",
        )
        .bind(link_hash(&self.keys, token))
        .fetch_optional(&self.db)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let keys = self.tenants.keys(&row.tenant).await?;
        let address = keys.records.open(&keys.context("recipient", &row.reference), &row.address_sealed)?;
        Ok(Some(Link {
            reference: row.reference,
            person: Person { index: row.address_index, address: String::from_utf8_lossy(&address).into_owned() },
            tenant: row.tenant,
            registered: row.registered,
            expired: row.link_expires_at <= now(),
        }))
    }

    /// Opens the account of a link's mailbox and signs in. `None` where somebody was faster.
    ///
    /// # Errors
    /// The service's own.
    pub async fn register(&self, link: &Link, password: Zeroizing<String>) -> Result<Option<String>, Error> {
        let hash = self.run(move || hash(&password)).await?;
        let index = &link.person.index;
        let sealed_address = self.keys.directory.seal("account/address", link.person.address.as_bytes())?;
        let sealed_password = self.keys.directory.seal(&password_context(index), hash.as_bytes())?;
        let mut tx = write(&self.db).await?;
        let done = sqlx::query(
            "INSERT OR IGNORE INTO account (address_index, address_sealed, password_sealed, created_at) \
             VALUES (?, ?, ?, ?)",
        )
        .bind(index)
        .bind(sealed_address)
        .bind(sealed_password)
        .bind(now())
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(None);
        }
        let token = self.open_session(&mut tx, index).await?;
        tx.commit().await?;
        Ok(Some(token))
    }

    /// Signs in with address and password; `None` for a wrong one of either.
    ///
    /// # Errors
    /// The service's own.
    pub async fn sign_in(&self, index: &[u8], password: Zeroizing<String>) -> Result<Option<String>, Error> {
        let row: Option<(Vec<u8>,)> = sqlx::query_as("SELECT password_sealed FROM account WHERE address_index = ?")
            .bind(index)
            .fetch_optional(&self.db)
            .await?;
        let (known, hash) = match row {
            Some((sealed,)) => (true, self.keys.directory.open(&password_context(index), &sealed)?),
            None => (false, self.nobody.clone().into_bytes()),
        };
        let hash = String::from_utf8_lossy(&hash).into_owned();
        let fits = self.run(move || Ok(verify(&hash, &password))).await?;
        if !(fits && known) {
            return Ok(None);
        }
        let mut tx = write(&self.db).await?;
        let token = self.open_session(&mut tx, index).await?;
        tx.commit().await?;
        Ok(Some(token))
    }

    /// The lookup value of an address as somebody typed it.
    pub fn index(&self, address: &str) -> Vec<u8> {
        self.keys.address_index(address.trim_ascii())
    }

    async fn open_session(&self, tx: &mut sqlx::Transaction<'_, sqlx::Sqlite>, index: &[u8]) -> Result<String, Error> {
        let token = URL_SAFE_NO_PAD.encode(random::<32>()?);
        sqlx::query("INSERT INTO session (token_hash, address_index, created_at, seen_at) VALUES (?, ?, ?, ?)")
            .bind(self.session_hash(&token))
            .bind(index)
            .bind(now())
            .bind(now())
            .execute(&mut **tx)
            .await?;
        Ok(token)
    }

    fn session_hash(&self, token: &str) -> Vec<u8> {
        self.keys.tokens.of(format!("session/{token}").as_bytes()).to_vec()
    }

    /// Who a session belongs to, if it has not ended.
    ///
    /// # Errors
    /// The service's own.
    pub async fn person(&self, token: &str) -> Result<Option<Person>, Error> {
        let hash = self.session_hash(token);
        let now = now();
        let row: Option<(Vec<u8>, Vec<u8>, i64)> = sqlx::query_as(
            "SELECT a.address_index, a.address_sealed, s.seen_at FROM session s \
             JOIN account a ON a.address_index = s.address_index \
             WHERE s.token_hash = ? AND s.seen_at > ? AND s.created_at > ?",
        )
        .bind(&hash)
        .bind(now - SESSION_IDLE)
        .bind(now - SESSION_LIFETIME)
        .fetch_optional(&self.db)
        .await?;
        let Some((index, sealed, seen)) = row else { return Ok(None) };
        if now - seen >= SEEN_PRECISION {
            sqlx::query("UPDATE session SET seen_at = ? WHERE token_hash = ?")
                .bind(now)
                .bind(&hash)
                .execute(&self.db)
                .await?;
        }
        let address = self.keys.directory.open("account/address", &sealed)?;
        Ok(Some(Person { index, address: String::from_utf8_lossy(&address).into_owned() }))
    }

    /// Ends a session.
    ///
    /// # Errors
    /// The service's own.
    pub async fn sign_out(&self, token: &str) -> Result<(), Error> {
        sqlx::query("DELETE FROM session WHERE token_hash = ?")
            .bind(self.session_hash(token))
            .execute(&self.db)
            .await?;
        Ok(())
    }

    /// Forgets sessions that have ended.
    ///
    /// # Errors
    /// The service's own.
    pub async fn expire(&self) -> Result<(), Error> {
        sqlx::query("DELETE FROM session WHERE seen_at <= ? OR created_at <= ?")
            .bind(now() - SESSION_IDLE)
            .bind(now() - SESSION_LIFETIME)
            .execute(&self.db)
            .await?;
        Ok(())
    }

    /// Runs a hash apart from the runtime's workers, a few at once.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let slot = self.slots.clone().acquire_owned().await.map_err(|_| crate::seal::SealError::Cipher)?;
        let done = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            work()
        });
        done.await.map_err(|_| crate::seal::SealError::Cipher)?
    }
}

fn password_context(index: &[u8]) -> String {
    format!("account/password/{}", crate::keys::hex(index))
}

fn argon2() -> Result<Argon2<'static>, Error> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).map_err(|_| crate::seal::SealError::Cipher)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash(password: &str) -> Result<String, Error> {
    let cipher = |_| crate::seal::SealError::Cipher;
    let salt = SaltString::encode_b64(&random::<16>()?).map_err(cipher)?;
    Ok(argon2()?.hash_password(password.as_bytes(), &salt).map_err(cipher)?.to_string())
}

fn verify(hash: &str, password: &str) -> bool {
    PasswordHash::new(hash).and_then(|parsed| Argon2::default().verify_password(password.as_bytes(), &parsed)).is_ok()
}

/// Whether a new password will do.
///
/// # Errors
/// Why not, for the person to read.
pub fn check_password(password: &str, again: &str, address: &str) -> Result<(), PasswordError> {
    let length = password.chars().count();
    let local = address.rsplit_once('@').map_or(address, |(local, _)| local).to_lowercase();
    if password != again {
        Err(PasswordError::Mismatch)
    } else if length < SHORTEST_PASSWORD {
        Err(PasswordError::TooShort)
    } else if length > LONGEST_PASSWORD {
        Err(PasswordError::TooLong)
    } else if local.len() >= 4 && password.to_lowercase().contains(&local) {
        Err(PasswordError::Guessable)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_kept_as_argon2id_and_verified() {
        let stored = hash("correct horse").unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert!(verify(&stored, "correct horse"));
        assert!(!verify(&stored, "correct horsf"));
        assert!(!verify("", "") && !verify("$argon2id$", "x"));
    }

    #[test]
    fn a_poor_password_is_refused_with_what_to_do() {
        let check = |password: &str| check_password(password, password, "jane.doe@example.net");
        assert_eq!(check("short"), Err(PasswordError::TooShort));
        assert_eq!(check(&"x".repeat(201)), Err(PasswordError::TooLong));
        assert_eq!(check("Jane.Doe-2025"), Err(PasswordError::Guessable));
        assert_eq!(check_password("one-is-this", "two-is-that", "a@b"), Err(PasswordError::Mismatch));
        assert_eq!(check("correct horse"), Ok(()));
    }
}
