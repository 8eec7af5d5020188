//! The console's way to the daemon.
//!
//! Job: hold one connection, send requests over it one by one, and make a new one when it breaks. Place: a thread for each
//! lane, between the state machine and the socket. Invariants: each request has exactly one answer, in order; a sign-in
//! belongs to the connection, so a new one begins without. A crash leaves nothing behind.

use super::event::{Event, Lane};
use crate::{
    Fault, Refusal, Request,
    cli::client::{ask, connect},
};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};
use std::{
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender},
    time::Duration,
};

/// Between two attempts to reach the daemon.
const AGAIN: Duration = Duration::from_secs(1);

/// Serves the requests of `lane` until the console ends. A new connection is
/// told, since a sign-in went with the old one; the lane that looks also tells when the daemon is not there.
pub fn run(lane: Lane, socket: PathBuf, requests: &Receiver<Request>, events: &Sender<Event>) {
    let _ = serve(lane, &socket, requests, events);
}

/// `None`: the console is gone.
fn serve(lane: Lane, socket: &Path, requests: &Receiver<Request>, events: &Sender<Event>) -> Option<()> {
    let mut link: Option<UnixStream> = None;
    let mut told = false;
    loop {
        if link.is_none() && lane == Lane::Look {
            match connect(socket) {
                Ok(stream) => {
                    (link, told) = (Some(stream), false);
                    events.send(Event::Up).ok()?;
                }
                Err(refusal) if !told => {
                    told = true;
                    events.send(Event::Down(refusal)).ok()?;
                }
                Err(_) => {}
            }
        }
        let request = match requests.recv_timeout(AGAIN) {
            Ok(request) => request,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return None,
        };
        // The daemon closes a silent connection, and its restart closes all: what is asked now must not be lost for it.
        if !link.as_ref().is_some_and(is_open) {
            link = connect(socket).ok();
            if link.is_some() {
                events.send(Event::Up).ok()?;
            }
        }
        let result = match link.as_mut() {
            Some(stream) => ask(stream, request),
            None => Err(Refusal::new(
                Fault::Unreachable,
                "the service does not answer",
                "wait until it is there again, then try once more",
            )),
        };
        let broken = result.as_ref().err().filter(|refusal| refusal.fault == Fault::Unreachable).cloned();
        events.send(Event::Answer(lane, result)).ok()?;
        if let Some(refusal) = broken {
            link = None;
            if lane == Lane::Look && !told {
                told = true;
                events.send(Event::Down(refusal)).ok()?;
            }
        }
    }
}

/// Whether the far end is still there; it says nothing unasked.
fn is_open(stream: &UnixStream) -> bool {
    let mut byte = [0];
    recv(stream.as_raw_fd(), &mut byte, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) == Err(Errno::EAGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_the_daemon_closed_is_noticed_before_anything_is_asked() {
        let (near, far) = UnixStream::pair().unwrap();
        assert!(is_open(&near));
        drop(far);
        assert!(!is_open(&near));
    }
}
