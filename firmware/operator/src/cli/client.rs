//! The near end of the socket.
//!
//! Job: send one request and read its answer. Place: under the commands that ask the daemon. Invariants: the request,
//! which may hold a secret, is zeroized; an answer is bounded. A crash leaves nothing behind.

use crate::{
    Fault, Refusal, Request, Response,
    protocol::{Answer, Call, LONGEST_ANSWER, VERSION},
};
use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};
use zeroize::Zeroizing;

/// Verifying millions of records takes minutes, nothing else does but an installation.
const PATIENCE: Duration = Duration::from_secs(900);

/// Fetching an image over a slow line, and writing it to a slow disk.
pub(crate) const INSTALLATION: Duration = Duration::from_secs(3 * 3600);

/// Bytes set aside for a request, so that a secret in it is not copied as it grows.
const REQUEST: usize = 16 * 1024;

/// Asks the daemon at `socket`.
pub(super) fn call(socket: &Path, request: Request) -> Result<Response, Refusal> {
    ask(&mut connect(socket)?, request)
}

/// Asks the daemon at `socket`, and waits no longer than `patience` for it.
///
/// # Errors
/// What the daemon answers, or that it does not.
pub fn call_within(socket: &Path, request: Request, patience: Duration) -> Result<Response, Refusal> {
    ask_within(&mut connect(socket)?, request, patience)
}

/// A connection to the daemon at `socket`; requests go over it one by one.
pub(crate) fn connect(socket: &Path) -> Result<UnixStream, Refusal> {
    UnixStream::connect(socket).map_err(|error| unreachable_at(socket, &error))
}

/// Sends a request over a connection, and waits for its answer.
fn ask(stream: &mut UnixStream, request: Request) -> Result<Response, Refusal> {
    let patience = if matches!(request, Request::UpdateInstall { .. }) { INSTALLATION } else { PATIENCE };
    ask_within(stream, request, patience)
}

/// As `ask`, for no longer than `patience`; after [`Fault::Unreachable`] the connection is of no use.
pub(crate) fn ask_within(stream: &mut UnixStream, request: Request, patience: Duration) -> Result<Response, Refusal> {
    let answer = exchange(stream, request, patience).map_err(|error| {
        let what = match error.kind() {
            // What a read or write with a deadline says, by platform.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("the daemon did not answer within {} s", patience.as_secs())
            }
            _ => format!("the daemon broke off the conversation: {error}"),
        };
        Refusal::new(Fault::Unreachable, what, "look at its log, and whether it was restarted; then ask again")
    })?;
    if answer.version != VERSION {
        return Err(Refusal::new(
            Fault::Unreachable,
            format!("the daemon speaks version {}, this command version {VERSION}", answer.version),
            "use the `postern` command of the daemon's own version",
        ));
    }
    answer.result
}

fn exchange(stream: &mut UnixStream, request: Request, patience: Duration) -> io::Result<Answer> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let mut line = Zeroizing::new(Vec::with_capacity(REQUEST));
    serde_json::to_writer(&mut *line, &Call { version: VERSION, request })?;
    line.push(b'\n');
    // A daemon that refuses us may have closed its end already; its answer says more than the broken pipe.
    let sent = stream.write_all(&line);
    let mut answer = Zeroizing::new(Vec::new());
    let read = read_line(stream, &mut answer);
    match (sent, read) {
        (_, Ok(read)) if read > 0 => Ok(serde_json::from_slice(&answer)?),
        (Err(error), _) | (Ok(()), Err(error)) => Err(error),
        (Ok(()), Ok(_)) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Reads up to the end of a line, or of what the daemon sends. An answer may be a recovery key, of which nothing is left
/// behind: the buffers are overwritten, also the ones that were outgrown.
fn read_line(stream: &mut UnixStream, answer: &mut Zeroizing<Vec<u8>>) -> io::Result<usize> {
    let mut piece = Zeroizing::new([0; REQUEST]);
    loop {
        let read = match stream.read(&mut *piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let taken = piece.get(..read).unwrap_or_default();
        if answer.capacity() - answer.len() < read {
            let mut wider = Zeroizing::new(Vec::with_capacity(2 * answer.capacity() + REQUEST));
            wider.extend_from_slice(answer);
            *answer = wider;
        }
        answer.extend_from_slice(taken);
        if read == 0 || taken.ends_with(b"\n") {
            return Ok(answer.len());
        }
        if answer.len() as u64 > LONGEST_ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer is longer than any that there is"));
        }
    }
}

fn unreachable_at(socket: &Path, error: &io::Error) -> Refusal {
    let shown = socket.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => Refusal::new(
            Fault::NotAllowed,
            format!("{shown} may not be opened by this user"),
            "ask as root, or as the user that the daemon runs as",
        ),
        _ => Refusal::new(
            Fault::Unreachable,
            format!("no daemon answers on {shown}: {error}"),
            "start it with `postern run`, or name its socket with --socket or POSTERN_SOCKET",
        ),
    }
}
