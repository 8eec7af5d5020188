//! What a message contains and what must happen to it.
//!
//! Job: read a message ([`extract`]), find what is confidential in its text ([`detect`]), and combine the rules of the
//! settings into one [`mail::Verdict`] ([`Policy::judge`]). Place: between `spool.stage` and `spool.commit`; the verdict
//! is known before the 250. Invariants: pure (a seekable source in, a verdict out; no files, no network, no clock but
//! the deadline); what cannot be read fails closed; nothing that leaves this crate shows unmasked content. A crash
//! leaves nothing behind: a message that was not judged was not accepted.

pub mod detect;
pub mod extract;
mod glob;
mod job;
mod judge;
mod report;
mod rules;

pub use job::{
    HeaderReport, InProcess, Job, JobHeader, JobKind, JobReport, Octets, PartReport, Runner, WorkerError, Workers,
};
pub use judge::{Facts, IN_PROCESS, Policy, PolicyError};
pub use report::{Explanation, ScanReport, explain, scan};
pub use rules::UnknownDetector;
