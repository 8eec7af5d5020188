//! The daemon's end of the helper's socket.
//!
//! Job: send one request to root and read its answer. Place: held by the daemon where it has a helper. Invariants: a
//! deadline over the whole call; the request, which may hold a passphrase, is zeroized; an answer is bounded. A crash
//! leaves a request that the helper carries out all the same.

use super::protocol::{Answer, Call, ErrorKind, HelperError, Request, Response, VERSION};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
};
use zeroize::Zeroizing;

/// The longest act is enrolling a key slot: its key derivation is slow by intent, and the TPM's part takes seconds.
const PATIENCE: Duration = Duration::from_secs(180);

/// Longest answer line in bytes.
const LONGEST_ANSWER: u64 = 64 * 1024;

/// Bytes set aside for a request, so that a passphrase in it is not copied as it grows.
const REQUEST: usize = 4096;

/// A way to root's helper. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the helper at `socket`; nothing is connected before a call.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Asks the helper and waits for its answer, at most three minutes.
    ///
    /// # Errors
    /// What the helper answers, or [`ErrorKind::Unreachable`].
    pub async fn call(&self, request: Request) -> Result<Response, HelperError> {
        self.call_within(request, PATIENCE).await
    }

    /// As [`Client::call`], with another patience.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call_within(&self, request: Request, patience: Duration) -> Result<Response, HelperError> {
        let name = request.name();
        let unreachable = |what: String| {
            HelperError::new(
                ErrorKind::Unreachable,
                format!("the helper did not carry out {name}: {what}"),
                "look at the log of postern-helper, then try again",
            )
        };
        match tokio::time::timeout(patience, self.exchange(request)).await {
            Err(_) => Err(unreachable(format!("no answer in {} s", patience.as_secs()))),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Ok(Ok(answer)) if answer.version != VERSION => {
                Err(unreachable(format!("it speaks version {}, this daemon version {VERSION}", answer.version)))
            }
            Ok(Ok(answer)) => answer.result,
        }
    }

    async fn exchange(&self, request: Request) -> io::Result<Answer> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        let mut line = Zeroizing::new(Vec::with_capacity(REQUEST));
        serde_json::to_writer(&mut *line, &Call { version: VERSION, request })?;
        line.push(b'\n');
        // A helper that refuses us may have closed its end already; its answer says more than the broken pipe.
        let sent = stream.write_all(&line).await;
        let mut answer = Vec::new();
        let read = BufReader::new(stream.take(LONGEST_ANSWER)).read_until(b'\n', &mut answer).await;
        match (sent, read) {
            (_, Ok(read)) if read > 0 => Ok(serde_json::from_slice(&answer)?),
            (Err(error), _) | (Ok(()), Err(error)) => Err(error),
            (Ok(()), Ok(_)) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
