//! The helper's socket.
//!
//! Job: take one request a connection from the daemon and carry it out. Place: started by systemd with the first
//! connection, ended when nothing is asked any more. Invariants: the kernel says who asks (SO_PEERCRED), and only root and
//! the daemon's user are heard; a line, its time and the number of requests at once are bounded; every request stands in
//! the log with who asked and what came of it, and never with a value. A crash leaves what the request had done; systemd
//! keeps the socket.

use super::{
    dispatch,
    place::Place,
    protocol::{Answer, Call, ErrorKind, HelperError, LONGEST_REQUEST, Response, VERSION},
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{getsockopt, sockopt::PeerCredentials},
};
use serde::Deserialize;
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};
use zeroize::Zeroizing;

/// Root's process is not kept around for requests that come once a month.
const IDLE: Duration = Duration::from_secs(30);

/// The daemon writes its line at once; whoever takes longer is not the daemon.
const PATIENCE: Duration = Duration::from_secs(5);

/// Requests at once: an installation with its progress, and one more of each kind.
const MOST_REQUESTS: usize = 4;

/// Answers until nothing was asked for half a minute.
///
/// # Errors
/// The socket is broken.
pub fn serve(listener: &UnixListener, place: &Place, own: u32) -> io::Result<()> {
    let (under_way, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(()));
    listener.set_nonblocking(true)?;
    loop {
        let timeout = PollTimeout::try_from(IDLE).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], timeout) {
            // Nobody has a connection, not even one whose answer is still being written.
            Ok(0) if Arc::strong_count(&connections) == 1 => return Ok(()),
            Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(false)?;
        if under_way.fetch_add(1, Ordering::SeqCst) >= MOST_REQUESTS {
            under_way.fetch_sub(1, Ordering::SeqCst);
            let busy = HelperError::failed("the helper is busy", "wait until what it does is done, then try again");
            // Whoever does not take the line is gone already.
            let _ = answer(&stream, Err(busy));
            continue;
        }
        let (place, ended, connection) = (place.clone(), Ended(under_way.clone()), connections.clone());
        let work = move || {
            let _connection = connection;
            if let Err(error) = converse(&stream, &place, own, ended) {
                log::warn!(error:%; "a connection to the helper broke");
            }
        };
        thread::Builder::new().name("request".to_owned()).spawn(work)?;
    }
}

/// Counts a request out, also when it panics. Before its answer: whoever has that may ask again at once.
struct Ended(Arc<AtomicUsize>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether the user `uid` may ask a helper whose daemon is the user `own`.
fn may_ask(uid: u32, own: u32) -> bool {
    uid == 0 || uid == own
}

fn converse(stream: &UnixStream, place: &Place, own: u32, ended: Ended) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let peer = getsockopt(stream, PeerCredentials)?;
    let (uid, pid) = (peer.uid(), peer.pid());
    if !may_ask(uid, own) {
        log::warn!(event = "helper_refused", uid, pid; "somebody else than the daemon asked the helper");
        let refusal = HelperError::new(
            ErrorKind::NotAllowed,
            format!("uid {uid} may not ask the helper"),
            "ask the daemon, which asks the helper",
        );
        return answer(stream, Err(refusal));
    }
    let mut line = Zeroizing::new(Vec::with_capacity(LONGEST_REQUEST + 1));
    BufReader::new(stream.take(LONGEST_REQUEST as u64 + 1)).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(());
    }
    let call = match read_call(&line) {
        Ok(call) => call,
        Err(refusal) => {
            log::warn!(event = "helper_refused", uid, pid, what = refusal.what.as_str(); "the helper was asked for nothing that it knows");
            drop(ended);
            return answer(stream, Err(refusal));
        }
    };
    let request = call.request.name();
    log::info!(event = "helper_request", request, uid, pid; "the helper was asked");
    let result = dispatch::carry_out(call.request, place);
    match &result {
        Ok(_) => log::info!(event = "helper_done", request; "the helper has done it"),
        Err(error) => log::error!(event = "helper_failed", request, error:%; "the helper has not done it"),
    }
    drop(ended);
    answer(stream, result)
}

/// Reads a whole line strictly. Errors tell no part of it: it may be a passphrase.
fn read_call(line: &[u8]) -> Result<Call, HelperError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let bad = |what: String| HelperError::new(ErrorKind::BadRequest, what, "use the daemon of this image");
    let line = line.strip_suffix(b"\n").ok_or_else(|| bad("the line is too long or has no end".to_owned()))?;
    let garbage = |error: serde_json::Error| bad(format!("this is not a request (column {})", error.column()));
    let Versioned { version } = serde_json::from_slice(line).map_err(garbage)?;
    if version != VERSION {
        return Err(bad(format!("the request has version {version}, this helper speaks version {VERSION}")));
    }
    serde_json::from_slice(line).map_err(garbage)
}

fn answer(mut stream: &UnixStream, result: Result<Response, HelperError>) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Answer { version: VERSION, result })?;
    line.push(b'\n');
    stream.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_daemon_may_ask_and_nobody_else() {
        assert!(may_ask(0, 990) && may_ask(990, 990));
        assert!(!may_ask(991, 990) && !may_ask(65_534, 990));
    }

    #[test]
    fn who_has_his_answer_may_ask_again_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (listener, place) = (UnixListener::bind(&path).unwrap(), Place::new(folder.path()));
        let own = nix::unistd::Uid::effective().as_raw();
        // Ends with the test's process.
        thread::spawn(move || serve(&listener, &place, own));
        // As many as there is room for; each with one request at a time.
        thread::scope(|scope| {
            for _ in 0..MOST_REQUESTS {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let mut stream = UnixStream::connect(&path).unwrap();
                        stream.write_all(b"{}\n").unwrap();
                        let mut line = String::new();
                        BufReader::new(stream).read_line(&mut line).unwrap();
                        assert!(line.contains("bad_request"), "{line}");
                    }
                });
            }
        });
    }

    #[test]
    fn an_error_about_a_bad_request_does_not_repeat_it() {
        for line in [
            &br#"{"version":1,"request":{"unlock_data":{"passphrase":"planted"}}}"#[..],
            b"{\"version\":1,\"request\":\"planted\"}\n",
            b"{\"version\":2,\"request\":\"planted\"}\n",
            b"planted\n",
            b"\n",
        ] {
            let refusal = read_call(line).unwrap_err();
            assert_eq!(refusal.kind, ErrorKind::BadRequest);
            assert!(!refusal.to_string().contains("planted"), "{refusal}");
        }
    }
}
