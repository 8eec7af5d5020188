//! Where a message goes, and how it gets there.
//!
//! Job: give each recipient a destination ([`Routes`]), hand messages to the next hop over SMTP ([`Relay`]) or to the
//! cloud service over HTTPS ([`CloudClient`]), and say when to try again ([`Retry`]). Place: between the spool's claim
//! and its settle. Invariants: an [`mail::Outcome::Delivered`] is only ever the far end's own final word, so whatever
//! is unknown is deferred and the message stays; confidential mail has no way to the SMTP client, since the verdict
//! alone decides the destination. A crash leaves nothing behind: all state here (connections, suspensions) is rebuilt
//! from the first attempt on, and what was under way is claimed again.

pub mod cloud;
mod download;
mod gate;
mod mask;
pub mod relay;
pub mod retry;
pub mod route;
mod trust;

pub use cloud::{CloudClient, EnrolError, Enrolment, Identity, IdentityError, ProbeError};
pub use download::{Download, DownloadError, Downloaded};
pub use mask::mask_addresses;
pub use relay::{Relay, Suspension};
pub use retry::{Decision, Retry, Settled};
pub use route::{Group, Routes};
pub use trust::SetupError;

#[cfg(test)]
mod testing;
