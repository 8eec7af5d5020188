//! The console's way to the daemon.
//!
//! Job: hold one connection, send requests over it one by one, and make a new one when it breaks. Place: a thread for each
//! lane, between the state machine and the socket. Invariants: each request has exactly one answer, in order, and within
//! its patience; a sign-in belongs to the connection, so a new one begins without. A crash leaves nothing behind.

use super::event::{Event, Happened, Lane};
use crate::{
    Fault, Refusal, Request,
    cli::client::{INSTALLATION, ask_within, connect},
};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};
use std::{
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender},
    time::Duration,
};

/// Between two looks at a connection that nothing is asked on.
const AGAIN: Duration = Duration::from_secs(1);

/// The status is made from memory, and a row of the index.
const STATUS: Duration = Duration::from_secs(8);

/// RAUC's service may have to be started first.
const SLOTS: Duration = Duration::from_secs(200);

/// What waits for TPM, disk and the cloud, each with a deadline of its own in the daemon.
const ACT: Duration = Duration::from_secs(180);

/// Serves the requests of `lane` until the console ends. That the connection of a sign-in is gone is told.
pub fn run(lane: Lane, socket: PathBuf, requests: &Receiver<Request>, events: &SyncSender<Happened>) {
    let _ = serve(lane, &socket, requests, events);
}

/// `None`: the console is gone.
fn serve(lane: Lane, socket: &Path, requests: &Receiver<Request>, events: &SyncSender<Happened>) -> Option<()> {
    let mut link: Option<UnixStream> = None;
    loop {
        let asked = requests.recv_timeout(AGAIN);
        // The daemon closes a silent connection, and its restart closes all: what is asked now must not be lost for it.
        if link.take_if(|stream| !is_open(stream)).is_some() && lane == Lane::Act {
            events.send(Happened::Event(Event::Lost)).ok()?;
        }
        let request = match asked {
            Ok(request) => request,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return None,
        };
        let patience = patience(&request);
        let result = match link.take().map_or_else(|| connect(socket), Ok) {
            Ok(mut stream) => {
                let result = ask_within(&mut stream, request, patience);
                // What comes after a broken conversation would be the answer to something else.
                if !result.as_ref().is_err_and(|refusal| refusal.fault == Fault::Unreachable) {
                    link = Some(stream);
                } else if lane == Lane::Act {
                    events.send(Happened::Event(Event::Lost)).ok()?;
                }
                result
            }
            Err(refusal) => {
                Err(Refusal { remedy: "wait until it is there again, then try once more".into(), ..refusal })
            }
        };
        events.send(Happened::Event(Event::Answer(lane, result))).ok()?;
        if lane == Lane::Power {
            link = None;
        }
    }
}

fn patience(request: &Request) -> Duration {
    match request {
        Request::Status => STATUS,
        Request::UpdateStatus => SLOTS,
        Request::UpdateInstall { .. } => INSTALLATION,
        _ => ACT,
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
    use std::{os::unix::net::UnixListener, sync::mpsc, thread};

    #[test]
    fn a_connection_that_the_daemon_closed_is_told_before_anything_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let (events, happened) = mpsc::sync_channel(8);
        let (requests, asked) = mpsc::channel();
        let thread = thread::spawn(move || run(Lane::Act, socket, &asked, &events));
        requests.send(Request::KeysStatus).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let refused = crate::protocol::Answer {
            version: crate::protocol::VERSION,
            result: Err(Refusal::new(Fault::Refused, "no", "no")),
        };
        serde_json::to_writer(&mut far, &refused).unwrap();
        std::io::Write::write_all(&mut far, b"\n").unwrap();
        assert!(matches!(happened.recv().unwrap(), Happened::Event(Event::Answer(Lane::Act, Err(_)))));
        drop(far);
        assert!(matches!(happened.recv().unwrap(), Happened::Event(Event::Lost)));
        drop(listener);
        requests.send(Request::KeysStatus).unwrap();
        let Happened::Event(Event::Answer(_, Err(refusal))) = happened.recv().unwrap() else { panic!() };
        assert_eq!(refusal.fault, Fault::Unreachable);
        drop(requests);
        thread.join().unwrap();
    }
}
