//! The cloud service that appliances forward confidential mail to.
//!
//! Job: enrol appliances, take their messages, keep them sealed, tell recipients by a stub, and let them read over HTTPS.
//! Place: the far end of a confidential message's way. Invariants: no plaintext of a message, and no address, reaches a
//! disk or a log; what was acknowledged survives a crash; one tenant's keys open nothing of another's. A crash leaves
//! sealed objects and a database at its last commit; the next start removes what no row knows.
//!
//! ```text
//! appliance ──PUT, mTLS──▶ api ─▶ ingest ─▶ objects + database ─▶ notice ──SMTP stub──▶ recipient's mailbox
//!                                                  ▲                                          │
//!                                    inbox ◀── portal ◀──────── HTTPS, link ◀─────────────────┘
//! ```

mod api;
mod authority;
mod clean;
mod content;
mod database;
mod decode;
mod directory;
mod error;
mod event;
mod inbox;
mod ingest;
mod keys;
mod listen;
mod notice;
mod objects;
mod portal;
mod seal;
mod service;
mod structure;
mod template;
mod tenants;

pub use error::Error;
pub use notice::{Smtp, SmtpTls, TemplateError};
pub use seal::SealError;
pub use service::{Admin, Config, Service};
pub use tenants::{ApplianceRow, TenantRow, Tenants};
