//! The harness of the boot tests: a whole machine in QEMU, with UEFI Secure Boot and a TPM.
//!
//! Job: start an image as a box would start it, look at it over its serial console, its mail port and (development
//! images only) its agent, and do to it what happens to boxes: power cuts, flipped bytes, other disks, other TPMs. Place:
//! around the whole image; the surrogate and the Buildroot image alike. Invariants: software emulation only; everything
//! listens on loopback or on sockets in the machine's folder; what was started is stopped. A crash of a test leaves a
//! temporary folder.

pub mod agent;
pub mod altered;
pub mod disk;
pub mod firmware;
pub mod image;
pub mod machine;
pub mod operator;
pub mod prepared;
pub mod screen;
pub mod search;
pub mod serial;
pub mod snapshot;
pub mod surroundings;
