//! Tenants, their appliances, and enrolment.
//!
//! Job: who may use the API, and under which keys their messages lie. Place: asked at every request of an appliance.
//! Invariants: a code is stored as a keyed hash, is good for one key and expires; an appliance is known by the
//! fingerprint of its certificate, and a revoked one is nobody. A crash leaves a code unused, or used together with the
//! appliance that used it: one transaction writes both.

use crate::{
    Error,
    authority::{Authority, RequestKey},
    database::{now, write},
    keys::{ServiceKeys, TenantKeys, tenant_secret, wrap_tenant_secret},
    seal::{random, random_secret},
};
use sqlx::SqlitePool;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Letters of a code: Crockford's base 32, which has no I, L, O, U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// 20 letters of 5 bits.
const CODE_LETTERS: usize = 20;

/// An appliance, as its certificate names it.
#[derive(Clone)]
pub struct Appliance {
    /// Its name.
    pub id: String,
    /// Whose it is.
    pub tenant: String,
}

/// Tenants and appliances in the database; tenant keys are unwrapped once and kept.
pub struct Tenants {
    db: SqlitePool,
    keys: Arc<ServiceKeys>,
    unwrapped: Mutex<HashMap<String, Arc<TenantKeys>>>,
}

/// What an operator sees of a tenant.
pub struct TenantRow {
    /// The id.
    pub id: String,
    /// The name that notices carry.
    pub name: String,
}

/// What an operator sees of an appliance.
pub struct ApplianceRow {
    /// The id.
    pub id: String,
    /// Whose it is.
    pub tenant: String,
    /// Firmware at enrolment.
    pub software: String,
    /// Seconds since 1970.
    pub enrolled_at: i64,
    /// Whether its certificate is still good.
    pub revoked: bool,
}

/// A successful enrolment.
pub struct Enrolled {
    /// The appliance.
    pub appliance: Appliance,
    /// Its certificate, PEM.
    pub certificate: String,
}

impl Tenants {
    /// Tenants of this database.
    pub fn new(db: SqlitePool, keys: Arc<ServiceKeys>) -> Self {
        Self { db, keys, unwrapped: Mutex::default() }
    }

    /// Adds a tenant with a fresh key.
    ///
    /// # Errors
    /// The id is taken, or id or name can't be used.
    pub async fn add(&self, id: &str, name: &str) -> Result<(), Error> {
        let id_fits = (1..=40).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !id_fits {
            return Err(Error::TenantName(id.to_owned()));
        }
        let name = name.trim();
        if name.is_empty() || name.chars().count() > 100 || name.chars().any(char::is_control) {
            return Err(Error::TenantName(name.to_owned()));
        }
        let secret = random_secret()?;
        let keys = TenantKeys::new(id, &secret)?;
        let sealed = keys.records.seal(&keys.context("tenant-name", ""), name.as_bytes())?;
        let wrapped = wrap_tenant_secret(&self.keys, id, &secret)?;
        let done =
            sqlx::query("INSERT OR IGNORE INTO tenant (id, name_sealed, tenant_key, created_at) VALUES (?, ?, ?, ?)")
                .bind(id)
                .bind(sealed)
                .bind(wrapped)
                .bind(now())
                .execute(&self.db)
                .await?;
        if done.rows_affected() == 1 { Ok(()) } else { Err(Error::TenantExists(id.to_owned())) }
    }

    /// The keys of a tenant.
    ///
    /// # Errors
    /// There is no such tenant, or its key does not open.
    pub async fn keys(&self, tenant: &str) -> Result<Arc<TenantKeys>, Error> {
        let cached = self.unwrapped.lock().unwrap_or_else(PoisonError::into_inner).get(tenant).cloned();
        if let Some(keys) = cached {
            return Ok(keys);
        }
        let row: Option<(Vec<u8>,)> =
            sqlx::query_as("SELECT tenant_key FROM tenant WHERE id = ?").bind(tenant).fetch_optional(&self.db).await?;
        let (wrapped,) = row.ok_or_else(|| Error::UnknownTenant(tenant.to_owned()))?;
        let keys = Arc::new(TenantKeys::new(tenant, &tenant_secret(&self.keys, tenant, &wrapped)?)?);
        self.unwrapped.lock().unwrap_or_else(PoisonError::into_inner).insert(tenant.to_owned(), keys.clone());
        Ok(keys)
    }

    /// The name that recipients are shown.
    ///
    /// # Errors
    /// As [`Tenants::keys`].
    pub async fn name(&self, tenant: &str) -> Result<String, Error> {
        let keys = self.keys(tenant).await?;
        let (sealed,): (Vec<u8>,) =
            sqlx::query_as("SELECT name_sealed FROM tenant WHERE id = ?").bind(tenant).fetch_one(&self.db).await?;
        let name = keys.records.open(&keys.context("tenant-name", ""), &sealed)?;
        Ok(String::from_utf8_lossy(&name).into_owned())
    }

    /// All tenants, by id.
    ///
    /// # Errors
    /// The database fails.
    pub async fn list(&self) -> Result<Vec<TenantRow>, Error> {
        let ids: Vec<(String,)> = sqlx::query_as("SELECT id FROM tenant ORDER BY id").fetch_all(&self.db).await?;
        let mut rows = Vec::with_capacity(ids.len());
        for (id,) in ids {
            let name = self.name(&id).await?;
            rows.push(TenantRow { id, name });
        }
        Ok(rows)
    }

    /// Issues a one-time enrolment code; only its keyed hash is kept, so this is the only time that it is seen.
    ///
    /// # Errors
    /// There is no such tenant.
    pub async fn issue_code(&self, tenant: &str, valid: Duration) -> Result<String, Error> {
        self.keys(tenant).await?;
        let letters = random::<CODE_LETTERS>()?.map(|byte| char::from(ALPHABET[usize::from(byte & 31)]));
        let code: String = letters.iter().collect();
        let expires = now().saturating_add(i64::try_from(valid.as_secs()).unwrap_or(i64::MAX));
        sqlx::query("INSERT INTO enrolment_code (code_hash, tenant, created_at, expires_at) VALUES (?, ?, ?, ?)")
            .bind(self.code_hash(&code))
            .bind(tenant)
            .bind(now())
            .bind(expires)
            .execute(&self.db)
            .await?;
        let groups: Vec<String> = letters.chunks(4).map(|group| group.iter().collect()).collect();
        Ok(groups.join("-"))
    }

    fn code_hash(&self, code: &str) -> Vec<u8> {
        let letters: String = code
            .chars()
            .filter(|c| !c.is_whitespace() && *c != '-')
            .map(|c| match c.to_ascii_uppercase() {
                // As Crockford reads them.
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            })
            .collect();
        self.keys.tokens.of(format!("code/{letters}").as_bytes()).to_vec()
    }

    /// Spends a code. `None` where the code is unknown, expired or used with another key: the three look alike.
    ///
    /// # Errors
    /// The database fails.
    pub async fn enrol(
        &self,
        authority: &Authority,
        code: &str,
        key: &RequestKey,
        software: &str,
        attestation: Option<&[u8]>,
    ) -> Result<Option<Enrolled>, Error> {
        let hash = self.code_hash(code);
        let known: Option<(String,)> = sqlx::query_as("SELECT tenant FROM enrolment_code WHERE code_hash = ?")
            .bind(&hash)
            .fetch_optional(&self.db)
            .await?;
        let Some((tenant,)) = known else { return Ok(None) };
        // Before the transaction: inside it nobody asks the pool for a second connection.
        let keys = self.keys(&tenant).await?;
        let mut tx = write(&self.db).await?;
        let row: Option<(Option<String>,)> =
            sqlx::query_as("SELECT appliance FROM enrolment_code WHERE code_hash = ? AND expires_at > ?")
                .bind(&hash)
                .bind(now())
                .fetch_optional(&mut *tx)
                .await?;
        let Some((used_by,)) = row else { return Ok(None) };
        if let Some(id) = used_by {
            // The reply to the first try may have been lost: the same key gets the same certificate, which is no use to
            // anyone else.
            let row: Option<(String,)> = sqlx::query_as(
                "SELECT certificate FROM appliance WHERE id = ? AND public_key = ? AND revoked_at IS NULL",
            )
            .bind(&id)
            .bind(key.hash())
            .fetch_optional(&mut *tx)
            .await?;
            return Ok(row.map(|(certificate,)| Enrolled { appliance: Appliance { id, tenant }, certificate }));
        }
        let id = format!("appliance-{}", crate::keys::hex(&random::<8>()?));
        let issued = authority.issue_device(&id, &tenant, key)?;
        let sealed = match attestation {
            Some(evidence) => Some(keys.records.seal(&keys.context("attestation", &id), evidence)?),
            None => None,
        };
        let software: String = software.chars().filter(|c| !c.is_control()).take(100).collect();
        sqlx::query(
            "INSERT INTO appliance (id, tenant, certificate, fingerprint, public_key, not_after, software, \
             attestation_sealed, enrolled_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&id)
        .bind(&tenant)
        .bind(&issued.pem)
        .bind(&issued.fingerprint)
        .bind(key.hash())
        .bind(issued.not_after)
        .bind(software)
        .bind(sealed)
        .bind(now())
        .execute(&mut *tx)
        .await?;
        sqlx::query("UPDATE enrolment_code SET appliance = ? WHERE code_hash = ?")
            .bind(&id)
            .bind(&hash)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(Some(Enrolled { appliance: Appliance { id, tenant }, certificate: issued.pem }))
    }

    /// The appliance with this certificate; `None` if it is unknown, revoked or past its time. Asked at every request,
    /// because a resumed TLS session does not look at the certificate again.
    ///
    /// # Errors
    /// The database fails.
    pub async fn appliance(&self, fingerprint: &[u8]) -> Result<Option<Appliance>, Error> {
        let row: Option<(String, String)> = sqlx::query_as(
            "SELECT id, tenant FROM appliance WHERE fingerprint = ? AND revoked_at IS NULL AND not_after > ?",
        )
        .bind(fingerprint)
        .bind(now())
        .fetch_optional(&self.db)
        .await?;
        Ok(row.map(|(id, tenant)| Appliance { id, tenant }))
    }

    /// All appliances, in the order of enrolment.
    ///
    /// # Errors
    /// The database fails.
    pub async fn appliances(&self) -> Result<Vec<ApplianceRow>, Error> {
        let rows: Vec<(String, String, String, i64, Option<i64>)> = sqlx::query_as(
            "SELECT id, tenant, software, enrolled_at, revoked_at FROM appliance ORDER BY enrolled_at, id",
        )
        .fetch_all(&self.db)
        .await?;
        let row = |(id, tenant, software, enrolled_at, revoked): (_, _, _, _, Option<i64>)| ApplianceRow {
            id,
            tenant,
            software,
            enrolled_at,
            revoked: revoked.is_some(),
        };
        Ok(rows.into_iter().map(row).collect())
    }

    /// Ends an appliance's access from its next request on.
    ///
    /// # Errors
    /// There is no such appliance, or it is revoked already.
    pub async fn revoke(&self, appliance: &str) -> Result<(), Error> {
        let done = sqlx::query("UPDATE appliance SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL")
            .bind(now())
            .bind(appliance)
            .execute(&self.db)
            .await?;
        if done.rows_affected() == 1 { Ok(()) } else { Err(Error::UnknownAppliance(appliance.to_owned())) }
    }
}
