//! The sink's Maildir and its transcript.
//!
//! Job: keep each message as one file, exactly as it came, and say in one line what happened to it. Place: behind the
//! final dot. Invariants: a file in `new/` is whole (written in `tmp/`, then renamed). A crash leaves at most a file in
//! `tmp/` and a cut last line.

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

pub(super) const TRANSCRIPT: &str = "transcript.jsonl";

/// One transaction that reached its final dot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When the final dot had come.
    pub time: jiff::Timestamp,
    /// The client's address and port.
    pub peer: String,
    /// The argument of EHLO or HELO.
    pub ehlo: String,
    /// Whether it came through TLS.
    pub tls: bool,
    /// MAIL FROM without brackets.
    pub from: String,
    /// RCPT TO without brackets, accepted ones only.
    pub to: Vec<String>,
    /// Length in octets.
    pub octets: u64,
    /// SHA-256 of the octets, hexadecimal.
    pub sha256: String,
    /// The Message-ID field's body, if there is one.
    pub message_id: Option<String>,
    /// File name in `new/`; `None` where the message was refused or thrown away.
    pub file: Option<String>,
    /// The final reply; `None` where the connection was dropped instead, or could not take the reply.
    pub reply: Option<String>,
}

/// An open Maildir.
pub(super) struct Store {
    dir: PathBuf,
    transcript: Mutex<File>,
    next: AtomicU64,
}

impl Store {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        for folder in ["tmp", "new", "cur"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        let transcript = OpenOptions::new().create(true).append(true).open(dir.join(TRANSCRIPT))?;
        Ok(Self { dir: dir.to_owned(), transcript: Mutex::new(transcript), next: AtomicU64::new(0) })
    }

    /// Writes the message; its file name in `new/`.
    pub(super) fn keep(&self, message: &[u8]) -> io::Result<String> {
        let now = jiff::Timestamp::now();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}.P{}Q{number}.sink", now.as_microsecond(), std::process::id());
        let tmp = self.dir.join("tmp").join(&name);
        fs::write(&tmp, message)?;
        fs::rename(&tmp, self.dir.join("new").join(&name))?;
        Ok(name)
    }

    pub(super) fn record(&self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        self.transcript.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)
    }

    pub(super) fn transcript(&self) -> io::Result<Vec<Entry>> {
        read_transcript(&self.dir.join(TRANSCRIPT))
    }
}

pub(super) fn read_transcript(path: &Path) -> io::Result<Vec<Entry>> {
    fs::read_to_string(path)?.lines().map(|line| serde_json::from_str(line).map_err(io::Error::from)).collect()
}

/// Hexadecimal SHA-256.
pub(super) fn sha256(octets: &[u8]) -> String {
    digest(&SHA256, octets).as_ref().iter().map(|octet| format!("{octet:02x}")).collect()
}

/// The body of the first Message-ID field, unfolded.
pub(super) fn message_id(message: &[u8]) -> Option<String> {
    let header = memchr::memmem::find(message, b"\r\n\r\n").map_or(message, |end| &message[..end]);
    let header = String::from_utf8_lossy(header).replace("\r\n ", " ").replace("\r\n\t", " ");
    header.lines().find_map(|line| {
        let (name, body) = line.split_once(':')?;
        name.trim_end().eq_ignore_ascii_case("message-id").then(|| body.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_id_is_found_folded_and_not_in_the_body() {
        assert_eq!(message_id(b"A: b\r\nMESSAGE-ID:\r\n <x@y>\r\n\r\nbody"), Some("<x@y>".to_owned()));
        assert_eq!(message_id(b"A: b\r\n\r\nMessage-ID: <x@y>\r\n"), None);
    }
}
