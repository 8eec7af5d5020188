//! What depends on the settings.
//!
//! Job: hold policy, routes and clients of the revision in force, and swap them whole. Place: read once by each message
//! on its way in and out. Invariants: a message sees one revision from its judging to its plan. A crash leaves nothing:
//! the revision in force stands in the ledger.

use delivery::{CloudClient, Relay, Retry, Routes};
use policy::Policy;
use settings::Settings;
use std::sync::{Arc, PoisonError, RwLock};

/// Everything made from one settings revision.
pub struct Parts {
    /// The revision's document.
    pub settings: Arc<Settings>,
    /// Its number.
    pub revision: u64,
    /// Rules and detectors.
    pub policy: Policy,
    /// Destinations of recipients.
    pub routes: Routes,
    /// SMTP towards next hops.
    pub relay: Relay,
    /// HTTPS towards the cloud service.
    pub cloud: Arc<CloudClient>,
    /// When to try again.
    pub retry: Retry,
}

/// The revision in force.
pub struct Live(RwLock<Arc<Parts>>);

impl Live {
    /// Begins with `parts`.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(RwLock::new(Arc::new(parts)))
    }

    /// The parts in force now; they stay whole while the caller holds them.
    #[must_use]
    pub fn parts(&self) -> Arc<Parts> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes `parts` into force.
    pub fn replace(&self, parts: Parts) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(parts);
    }
}
