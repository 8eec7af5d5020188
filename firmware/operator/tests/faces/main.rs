//! The faces of the operator, against a real spool, a real ledger and a real socket.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod bench;
mod conversation;
mod image;
mod machine;
mod offline;
mod operating;
mod sign_in;
