//! Worker processes: where attachments and large messages are taken apart.
//!
//! Job: run [`policy::Job`]s in processes of this same binary that can do nothing but compute, so that a parser which
//! fails or loops harms one message only, and one that is taken over can lie about few messages and reach nothing else
//! (threat 17). Place: beside `policy.judge`, which asks for a worker whenever it meets a format that is not text.
//! Invariants: octets reach a worker through its socket pair only, never a disk; a worker that failed is replaced, never
//! reused; one that did 50 jobs, or rests after any, is replaced too; three deaths of one job end it. A crash of the
//! daemon takes its workers along; nothing is left behind.
//!
//! ```text
//! judge ─▶ Pool::run ─▶ socket pair ─▶ `postern worker`: sandbox, then Setup │ job, octets ─▶ Runner ─▶ reply
//! ```

mod pool;
mod process;
mod protocol;
mod sandbox;

pub use pool::Pool;
pub use process::main;
