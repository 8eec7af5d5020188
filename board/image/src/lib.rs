//! What makes a root file system, a kernel and a stub into the image of the appliance.
//!
//! Job: verity root, signed kernel images whose measurements are known before they ever run, signatures of those, disk
//! image, update bundle. Place: a tool of the build, outside of the house's levels; board scripts and tests call its binary
//! `postern-image`. Invariants: the same input gives the same bytes (the bundle's signature excepted: it says when it was
//! made); private keys are named to `openssl`, `rauc`, never read. A crash leaves a temporary folder; the output
//! folder changes only when all is made.

pub mod assemble;
pub mod authenticode;
pub mod boot;
pub mod bundle;
mod disk;
pub mod error;
pub mod keys;
pub mod layout;
pub mod measure;
pub mod pe;
pub mod policy;
mod tools;
pub mod uki;
pub mod verity;

pub use error::ImageError;

use aws_lc_rs::digest::{Context, SHA256};

/// SHA-256 over the parts, one behind the other.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut value = [0; 32];
    value.copy_from_slice(context.finish().as_ref());
    value
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
