//! The spool from outside: what its promise says, shown on real and simulated disks.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails should stop where it fails")]

mod concurrency;
mod damage;
mod faults;
mod flow;
mod lab;
mod power_cut;
mod recovery;
