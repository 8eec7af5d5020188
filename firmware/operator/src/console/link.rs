//! The console's way to the daemon.
//!
//! Job: hold one connection, send requests over it one by one, and make a new one when it breaks. Place: a thread between
//! the state machine and the socket. Invariants: each request has exactly one answer, in order; a sign-in belongs to the
//! connection, so a new one begins without. A crash leaves nothing behind.

use super::event::Event;
use crate::{
    Fault, Refusal, Request,
    cli::client::{ask, connect},
};
use std::{
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender},
    time::Duration,
};

/// Between two attempts to reach the daemon.
const AGAIN: Duration = Duration::from_secs(1);

/// Serves requests until the console ends.
pub fn run(socket: PathBuf, requests: &Receiver<Request>, events: &Sender<Event>) {
    let mut link: Option<UnixStream> = None;
    let mut told = false;
    loop {
        if link.is_none() {
            match connect(&socket) {
                Ok(stream) => {
                    link = Some(stream);
                    told = false;
                    if events.send(Event::Up).is_err() {
                        return;
                    }
                }
                Err(refusal) if !told => {
                    told = true;
                    if events.send(Event::Down(refusal)).is_err() {
                        return;
                    }
                }
                Err(_) => {}
            }
        }
        let request = match requests.recv_timeout(AGAIN) {
            Ok(request) => request,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let result = match link.as_mut() {
            Some(stream) => ask(stream, request),
            None => Err(Refusal::new(
                Fault::Unreachable,
                "the service does not answer",
                "wait until it is there again, then try once more",
            )),
        };
        let broken = matches!(&result, Err(refusal) if refusal.fault == Fault::Unreachable);
        let lost = result.as_ref().err().filter(|_| broken && link.is_some()).cloned();
        if events.send(Event::Answer(result)).is_err() {
            return;
        }
        if broken {
            link = None;
            if let Some(refusal) = lost
                && events.send(Event::Down(refusal)).is_err()
            {
                return;
            }
        }
    }
}
