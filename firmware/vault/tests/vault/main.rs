//! The vault as a whole against a real TPM 2.0.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of a test fail by panicking")]

mod appliance;
mod faults;
mod identity;
