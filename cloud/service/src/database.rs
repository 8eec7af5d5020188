//! The database: where it is and how it is opened.
//!
//! Job: SQLite with the settings that the promises rest on. Place: under every record. Invariants: a commit returns
//! after its bytes are on stable storage (WAL with synchronous=FULL); temporary tables stay in memory, deleted content
//! is overwritten; the admin commands may write while the service runs. A crash leaves the last commit: SQLite rolls
//! the rest back on the next start.

use crate::Error;
use sqlx::{
    SqlSafeStr, SqlitePool,
    migrate::{Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{borrow::Cow, path::Path, time::Duration};

/// How long a writer waits for another: the longest transaction writes a message with a thousand recipients.
const BUSY: Duration = Duration::from_secs(15);
/// Readers at once; there is one writer anyway.
const CONNECTIONS: u32 = 8;

/// Opens `DATA/cloud.db` and brings its schema up to date.
///
/// # Errors
/// The file can't be opened, or was written by a newer version.
pub async fn open(data: &Path) -> Result<SqlitePool, Error> {
    let options = SqliteConnectOptions::new()
        .filename(data.join("cloud.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY)
        .pragma("temp_store", "memory")
        .pragma("secure_delete", "on");
    let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS).connect_with(options).await?;
    let first = Migration::new(
        1,
        Cow::Borrowed("first"),
        MigrationType::Simple,
        include_str!("../migrations/0001_first.sql").into_sql_str(),
        false,
    );
    Migrator::with_migrations(vec![first]).run(&pool).await?;
    Ok(pool)
}

/// Now, in seconds since 1970.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// A transaction that may write: it takes the writer's place at once, so that it never fails half-way for another's.
pub async fn write(pool: &SqlitePool) -> Result<sqlx::Transaction<'static, sqlx::Sqlite>, sqlx::Error> {
    pool.begin_with("BEGIN IMMEDIATE").await
}
