//! The rows of ingest: stored messages and open uploads, and what is cleaned of them.

use super::{Facts, Ingest, Key, OPEN_UPLOADS, PutError, State, UPLOAD_LIFETIME, Upload};
use crate::{
    Error,
    database::{now, write},
    keys::{TenantKeys, hex},
    seal::random,
};
use std::collections::HashSet;
use wire::Digest;

impl Ingest {
    pub(super) async fn stored_facts(&self, keys: &TenantKeys, key: &Key) -> Result<Option<Facts>, Error> {
        let row: Option<(String, Vec<u8>)> = sqlx::query_as(
            "SELECT reference, facts_sealed FROM message \
             WHERE appliance = ? AND message = ? AND delivery = ? AND tenant = ?",
        )
        .bind(&key.appliance)
        .bind(&key.message)
        .bind(key.group)
        .bind(&keys.tenant)
        .fetch_optional(&self.db)
        .await?;
        let Some((reference, sealed)) = row else { return Ok(None) };
        Ok(Some(serde_json::from_slice(&keys.records.open(&keys.context("facts", &reference), &sealed)?)?))
    }

    pub(super) async fn upload(&self, keys: &TenantKeys, key: &Key) -> Result<Option<Upload>, Error> {
        let row: Option<(String, Vec<u8>, Vec<u8>)> = sqlx::query_as(
            "SELECT reference, message_key, state_sealed FROM upload \
             WHERE appliance = ? AND message = ? AND delivery = ? AND tenant = ? AND expires_at > ?",
        )
        .bind(&key.appliance)
        .bind(&key.message)
        .bind(key.group)
        .bind(&keys.tenant)
        .bind(now())
        .fetch_optional(&self.db)
        .await?;
        let Some((reference, wrapped, sealed)) = row else { return Ok(None) };
        let state = serde_json::from_slice(&keys.records.open(&keys.context("upload", &reference), &sealed)?)?;
        let secret = keys.message_key(&reference, &wrapped)?;
        Ok(Some(Upload { reference, secret, wrapped, state }))
    }

    pub(super) fn new_upload(&self, keys: &TenantKeys, digest: Digest, length: u64) -> Result<Upload, Error> {
        let reference = hex(&random::<16>()?);
        let (secret, wrapped) = keys.new_message_key(&reference)?;
        Ok(Upload { reference, secret, wrapped, state: State { digest, length, segments: Vec::new() } })
    }

    pub(super) async fn refuse_too_many(&self, key: &Key) -> Result<(), PutError> {
        let (open,): (i64,) = sqlx::query_as("SELECT count(*) FROM upload WHERE appliance = ? AND expires_at > ?")
            .bind(&key.appliance)
            .bind(now())
            .fetch_one(&self.db)
            .await?;
        if open >= OPEN_UPLOADS {
            return Err(PutError::Busy("too many uploads of this appliance are open; finish some first"));
        }
        Ok(())
    }

    pub(super) async fn save(&self, keys: &TenantKeys, key: &Key, upload: &Upload) -> Result<(), Error> {
        let context = keys.context("upload", &upload.reference);
        let sealed = keys.records.seal(&context, &serde_json::to_vec(&upload.state)?)?;
        sqlx::query(
            "INSERT OR REPLACE INTO upload (appliance, message, delivery, tenant, reference, message_key, \
             state_sealed, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&key.appliance)
        .bind(&key.message)
        .bind(key.group)
        .bind(&keys.tenant)
        .bind(&upload.reference)
        .bind(&upload.wrapped)
        .bind(sealed)
        .bind(now() + UPLOAD_LIFETIME)
        .execute(&self.db)
        .await?;
        Ok(())
    }

    /// Row first, objects after: a crash between leaves objects without a row, which the next start sweeps.
    pub(super) async fn forget(&self, keys: &TenantKeys, key: &Key, reference: &str) -> Result<(), Error> {
        let mut tx = write(&self.db).await?;
        delete_upload(&mut tx, key).await?;
        tx.commit().await?;
        self.objects.remove(&keys.place(reference)).await
    }

    /// Forgets uploads that nobody continued.
    ///
    /// # Errors
    /// The service's own.
    pub async fn expire(&self) -> Result<(), Error> {
        let rows: Vec<(String, String, u32, String, String)> =
            sqlx::query_as("SELECT appliance, message, delivery, tenant, reference FROM upload WHERE expires_at <= ?")
                .bind(now())
                .fetch_all(&self.db)
                .await?;
        for (appliance, message, group, tenant, reference) in rows {
            let key = Key { appliance, message, group };
            let lock = self.lock_of(&key);
            let _alone = lock.lock().await;
            let keys = self.tenants.keys(&tenant).await?;
            self.forget(&keys, &key, &reference).await?;
        }
        Ok(())
    }

    /// Removes objects that no row knows. Called once, before the listeners open.
    ///
    /// # Errors
    /// The service's own.
    pub async fn sweep(&self) -> Result<usize, Error> {
        let mut known = HashSet::new();
        let rows: Vec<(String, String, Vec<u8>, bool)> = sqlx::query_as(
            "SELECT tenant, reference, facts_sealed, 1 FROM message \
             UNION ALL SELECT tenant, reference, state_sealed, 0 FROM upload",
        )
        .fetch_all(&self.db)
        .await?;
        for (tenant, reference, sealed, whole) in rows {
            let keys = self.tenants.keys(&tenant).await?;
            let segments = if whole {
                let plain = keys.records.open(&keys.context("facts", &reference), &sealed)?;
                serde_json::from_slice::<Facts>(&plain)?.segments.len()
            } else {
                let plain = keys.records.open(&keys.context("upload", &reference), &sealed)?;
                serde_json::from_slice::<State>(&plain)?.segments.len()
            };
            known.insert((keys.place(&reference), segments));
        }
        self.objects.sweep(&known)
    }
}

pub(super) async fn delete_upload(tx: &mut sqlx::Transaction<'_, sqlx::Sqlite>, key: &Key) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM upload WHERE appliance = ? AND message = ? AND delivery = ?")
        .bind(&key.appliance)
        .bind(&key.message)
        .bind(key.group)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
