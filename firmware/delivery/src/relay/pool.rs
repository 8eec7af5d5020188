//! The connections of one next hop.
//!
//! Job: reuse what is open, open what is missing, close what nobody needs. Place: between a delivery and its
//! connection. Invariants: a connection is used by one delivery at a time; a message goes out over a second connection
//! at once only where the first, a reused one, had answered nothing about it. A crash leaves nothing behind.

use super::{
    connection::{Connection, Target},
    source::Source,
};
use crate::{
    gate::{Gate, Pass},
    mask_addresses,
};
use mail::{Outcome, Reply};
use session::client::Transaction;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long an unused connection is kept: long enough for mail that flows, short enough not to sit in the next hop's way.
const IDLE: Duration = Duration::from_secs(5);
/// How long one connection is used, so that a change of the next hop's addresses is seen.
const LIFETIME: Duration = Duration::from_secs(300);

struct Idle {
    connection: Connection,
    since: Instant,
}

#[derive(Default)]
struct Pool {
    /// The one used last stands last and is taken first, so that the others grow old.
    idle: Vec<Idle>,
    /// A task watches their age.
    watched: bool,
}

/// A next hop.
pub(super) struct Hop {
    name: String,
    target: Target,
    gate: Arc<Gate>,
    pool: Mutex<Pool>,
}

impl Hop {
    pub(super) fn new(name: String, target: Target, max_connections: usize) -> Arc<Self> {
        Arc::new(Self { name, target, gate: Gate::new(max_connections), pool: Mutex::default() })
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Sends one transaction; an outcome for each of its recipients.
    pub(super) async fn send(self: &Arc<Self>, transaction: Transaction<'_>, source: &mut Source) -> Vec<Outcome> {
        let deferred = |reply: Reply| vec![Outcome::Deferred(reply); transaction.recipients.len()];
        let pass = match self.gate.enter().await {
            Ok(pass) => pass,
            Err(reply) => return deferred(reply),
        };
        loop {
            if let Err(error) = source.rewind() {
                return vec![error.outcome(); transaction.recipients.len()];
            }
            let (connection, reused) = match self.take() {
                Some(connection) => (connection, true),
                None => match Connection::open(&self.target).await {
                    Ok(connection) => (connection, false),
                    Err(reply) => {
                        self.failed(&pass, &reply);
                        return deferred(reply);
                    }
                },
            };
            let (completed, connection) = connection.send(transaction, source).await;
            match connection {
                Some(connection) => {
                    pass.succeeded();
                    self.put(connection);
                }
                // The next hop closed it while it lay idle. All that lay idle is as old; a fresh one decides.
                None if reused && completed.untouched => continue,
                None => match completed.outcomes.iter().find_map(lost) {
                    Some(reply) => self.failed(&pass, reply),
                    None => pass.succeeded(),
                },
            }
            return completed.outcomes;
        }
    }

    fn failed(&self, pass: &Pass, reply: &Reply) {
        if pass.failed(reply) {
            let why = mask_addresses(&reply.to_string());
            log::warn!(destination = self.name.as_str(); "{} is suspended for a while: {why}", self.name);
        }
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Connection> {
        self.pool().idle.pop().map(|idle| idle.connection)
    }

    fn put(self: &Arc<Self>, connection: Connection) {
        if connection.age() >= LIFETIME {
            tokio::spawn(connection.quit());
            return;
        }
        let mut pool = self.pool();
        pool.idle.push(Idle { connection, since: Instant::now() });
        if !pool.watched {
            pool.watched = true;
            tokio::spawn(Arc::clone(self).watch());
        }
    }

    /// Closes connections that grew old, and ends when none is left.
    async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(IDLE / 2).await;
            let old: Vec<Idle> = {
                let mut pool = self.pool();
                let fresh = pool.idle.iter().position(|idle| idle.since.elapsed() < IDLE).unwrap_or(pool.idle.len());
                pool.idle.drain(..fresh).collect()
            };
            for idle in old {
                idle.connection.quit().await;
            }
            let mut pool = self.pool();
            if pool.idle.is_empty() {
                pool.watched = false;
                return;
            }
        }
    }

    pub(super) async fn close(&self) {
        let idle = std::mem::take(&mut self.pool().idle);
        for idle in idle {
            idle.connection.quit().await;
        }
    }
}

/// Why a connection that is closed now delivered nothing; a message refused for good is no fault of the connection.
fn lost(outcome: &Outcome) -> Option<&Reply> {
    match outcome {
        Outcome::Deferred(reply) => Some(reply),
        Outcome::Delivered(_) | Outcome::Failed(_) => None,
    }
}
