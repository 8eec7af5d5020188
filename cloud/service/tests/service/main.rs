//! The service as its clients meet it: real listeners, real TLS, a real folder.

// A test that can't go on says so by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]

mod api;
mod browser;
mod enrolment;
mod harness;
mod portal;
mod process;
mod secrecy;
