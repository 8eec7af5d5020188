//! The lab: a whole Postern on one machine.
//!
//! Job: start the real parts (software TPM, appliance, cloud service, mail sinks) on loopback and look at what they did.
//! Place: around the whole system; it uses the binaries as anyone would, through their command lines and sockets.
//! Invariants: nothing listens beyond 127.0.0.1; every part that was started is stopped. A crash leaves the lab folder,
//! with which the next run continues.

pub mod accounting;
pub mod bench;
pub mod demo;
pub mod events;
pub mod layout;
pub mod mails;
pub mod planted;
pub mod postfix;
pub mod process;
pub mod recipient;
pub mod run;
pub mod scene;
pub mod sink;
pub mod smtp;
pub mod system;
pub mod tpm;
