//! The operator's socket.
//!
//! Job: take requests over a Unix socket from whoever may ask, one JSON object a line, and answer each. Place: started
//! early by `build()`, so that a locked appliance can be unlocked. Invariants: what a peer
//! may ask follows from its user, by the kernel's word (SO_PEERCRED), and from its sign-in; a line, a connection's idle time and the
//! number of connections are bounded. A crash leaves a stale socket file, which the next start replaces.

use crate::{
    Appliance, Caller, Fault, Operator, Refusal,
    protocol::{Answer, Call, LONGEST_REQUEST, VERSION},
};
use nix::unistd::{Gid, Group, Uid, User};
use serde::Deserialize;
use std::{
    fs::{self, Permissions},
    future::Future,
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
    pin::pin,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use zeroize::Zeroizing;

/// Connections at once: a console, a web face, and some scripts.
const MOST_CONNECTIONS: usize = 32;

/// A face that says nothing for so long has forgotten us.
const IDLE: Duration = Duration::from_secs(300);

/// How long a stop waits for requests under way; an unlocking may be waiting for the TPM.
const DRAIN: Duration = Duration::from_secs(10);

/// Pause after a failed accept (no file descriptors), so that the loop does not spin.
const PAUSE: Duration = Duration::from_millis(100);

/// The group whose members may open the socket, where it is the daemon's own: the console's user is in it.
const GROUP: &str = "postern";

/// Binds the socket with mode 0600 (0660 where the daemon's group is `postern`), replacing one that nobody listens on
/// any more.
///
/// # Errors
/// Another daemon listens there (`AddrInUse`), something else than a socket is there, or the folder can't be written.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            let what = format!("{} is there and is no socket; move it away", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            let what = format!("another daemon answers on {}; stop it first", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, what));
        }
        Ok(_) | Err(_) => {}
    }
    // Nobody but the owner may connect, not even for a moment: the mode is set before the name is known.
    let mut hidden = path.as_os_str().to_owned();
    hidden.push(".new");
    match fs::remove_file(&hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&hidden)?;
    fs::set_permissions(&hidden, Permissions::from_mode(mode()))?;
    fs::rename(&hidden, path)?;
    Ok(listener)
}

/// Serves operators until `shutdown` is done, then lets requests under way end.
pub async fn serve<A: Appliance>(
    listener: UnixListener,
    operator: Arc<Operator<A>>,
    shutdown: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let (stop, stopping) = tokio::sync::watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::warn!("the operator's socket takes no connection at present: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            connections.spawn(send_away(stream));
            continue;
        };
        let (operator, mut stopping) = (Arc::clone(&operator), stopping.clone());
        connections.spawn(async move {
            let _place = place;
            if let Err(error) = converse(stream, &operator, &mut stopping).await {
                log::debug!("an operator's connection broke: {error}");
            }
        });
    }
    drop(listener);
    let _ = stop.send(true);
    if timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await.is_err() {
        log::warn!("operators' requests were broken off by the stop");
    }
}

/// Beyond the bound nobody is kept waiting.
async fn send_away(mut stream: UnixStream) {
    log::warn!("more than {MOST_CONNECTIONS} operators at once; one was sent away");
    let refusal = Refusal::new(
        Fault::Failed,
        format!("more than {MOST_CONNECTIONS} operators ask at once"),
        "close faces that are not needed, and ask again",
    );
    // A face that does not take the line is gone already.
    let _ = timeout(PAUSE, answer(&mut stream, Err(refusal))).await;
}

fn mode() -> u32 {
    let own = Group::from_gid(Gid::effective()).ok().flatten();
    if own.is_some_and(|group| group.name == GROUP) { 0o660 } else { 0o600 }
}

/// Whether the user `uid` may ask everything of a daemon of the user `own`.
fn may_ask_all(uid: u32, own: u32) -> bool {
    uid == 0 || uid == own
}

/// The name under which a user's acts are recorded.
fn actor(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("{} (uid {uid})", user.name),
        Ok(None) | Err(_) => format!("uid {uid}"),
    }
}

async fn converse<A: Appliance>(
    mut stream: UnixStream,
    operator: &Operator<A>,
    stopping: &mut tokio::sync::watch::Receiver<bool>,
) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    // The name is looked up in files; no name service stands behind it on the appliance, but may elsewhere.
    let actor = tokio::task::spawn_blocking(move || actor(uid)).await.map_err(io::Error::other)?;
    let mut caller = Caller::new(actor, may_ask_all(uid, Uid::effective().as_raw()));
    let mut lines = Lines::new();
    loop {
        let line = tokio::select! {
            line = timeout(IDLE, lines.next(&mut stream)) => line,
            _ = stopping.wait_for(|stop| *stop) => return Ok(()),
        };
        let line = match line {
            Err(_idle) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Ok(Ok(Line::End)) => return Ok(()),
            Ok(Ok(Line::TooLong)) => {
                let refusal = Refusal::new(
                    Fault::BadRequest,
                    format!("the request is longer than {LONGEST_REQUEST} bytes"),
                    "shorten it; settings have at most 1 MiB",
                );
                return answer(&mut stream, Err(refusal)).await;
            }
            Ok(Ok(Line::Whole(line))) => line,
        };
        let result = match read_call(&line) {
            Ok(call) => {
                drop(line);
                operator.ask(&mut caller, call.request).await
            }
            Err(refusal) => Err(refusal),
        };
        answer(&mut stream, result).await?;
        if caller.is_exhausted() {
            return Ok(());
        }
    }
}

fn read_call(line: &[u8]) -> Result<Call, Refusal> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let garbage = |error: serde_json::Error| {
        // The text of the error may quote a part of the line, which may be a secret: only its place is told.
        Refusal::new(
            Fault::BadRequest,
            format!("this is not a request (column {})", error.column()),
            "send one JSON object a line, as `postern` does",
        )
    };
    let Versioned { version } = serde_json::from_slice(line).map_err(garbage)?;
    if version != VERSION {
        return Err(Refusal::new(
            Fault::BadRequest,
            format!("the request has version {version}, this daemon speaks version {VERSION}"),
            "use the `postern` command of the daemon's own version",
        ));
    }
    serde_json::from_slice(line).map_err(garbage)
}

async fn answer(stream: &mut UnixStream, result: Result<crate::Response, Refusal>) -> io::Result<()> {
    let mut line = Zeroizing::new(serde_json::to_vec(&Answer { version: VERSION, result })?);
    line.push(b'\n');
    stream.write_all(&line).await
}

/// What stands on the socket next.
enum Line {
    Whole(Zeroizing<Vec<u8>>),
    TooLong,
    End,
}

/// Splits the stream into lines. The bytes may be a recovery key: every buffer that held them is zeroized, also those
/// that were outgrown.
struct Lines {
    buffer: Zeroizing<Vec<u8>>,
}

impl Lines {
    const FIRST: usize = 4096;

    fn new() -> Self {
        Self { buffer: Zeroizing::new(Vec::with_capacity(Self::FIRST)) }
    }

    async fn next(&mut self, stream: &mut UnixStream) -> io::Result<Line> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer.iter().skip(searched).position(|byte| *byte == b'\n') {
                let end = searched + end;
                let mut rest = Zeroizing::new(Vec::with_capacity(Self::FIRST.max(self.buffer.len() - end)));
                rest.extend(self.buffer.iter().skip(end + 1));
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.truncate(end);
                return Ok(Line::Whole(line));
            }
            searched = self.buffer.len();
            if searched > LONGEST_REQUEST {
                return Ok(Line::TooLong);
            }
            if self.buffer.len() == self.buffer.capacity() {
                let mut larger = Zeroizing::new(Vec::with_capacity(self.buffer.capacity() * 2));
                larger.extend_from_slice(&self.buffer);
                self.buffer = larger;
            }
            // Reads into the room that is left, and so never makes the vector grow.
            if stream.read_buf(&mut *self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(Line::End)
                } else {
                    Ok(Line::Whole(std::mem::take(&mut self.buffer)))
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_daemon_itself_may_ask_all_and_nobody_else() {
        assert!(may_ask_all(0, 990) && may_ask_all(990, 990));
        assert!(!may_ask_all(1000, 990) && !may_ask_all(65_534, 0) && !may_ask_all(989, 990));
    }

    #[test]
    fn an_actor_has_name_and_number() {
        assert_eq!(actor(0), "root (uid 0)");
        assert_eq!(actor(4_000_000_000), "uid 4000000000");
    }

    #[test]
    fn an_error_about_a_bad_request_does_not_repeat_it() {
        let line = br#"{"version":1,"request":{"keys_unlock":{"words":["planted"]}}}"#;
        let refusal = read_call(line).unwrap_err();
        assert_eq!(refusal.fault, Fault::BadRequest);
        assert!(!refusal.to_string().contains("planted"), "{refusal}");
    }
}
