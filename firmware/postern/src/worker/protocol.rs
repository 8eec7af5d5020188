//! What daemon and worker say to each other.
//!
//! Job: frames on a socket pair: a length in four octets, little endian, then JSON; behind a job's frame follow its
//! octets. Place: between pool and process. Invariants: a length is checked before room is made for it, since a worker
//! may have been taken over. A crash leaves a broken frame, which is a dead worker.

use policy::{JobHeader, JobReport};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, Read, Write};

/// The longest frame: a report of ten thousand parts with their findings, or a job with thousands of patterns.
const MAX_FRAME: u32 = 64 << 20;

/// The first frame to a worker.
#[derive(Debug, Serialize, Deserialize)]
pub struct Setup {
    /// Address space that it may use, in bytes.
    pub memory: u64,
}

/// A worker's first frame, sent once its sandbox is closed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ready {
    /// How far this kernel's Landlock goes: `full`, `partial`, `none`.
    pub landlock: String,
}

/// The frame before a job's octets.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// What to do.
    pub header: JobHeader,
    /// Time left, in milliseconds.
    pub millis: u64,
}

/// The frame behind a job.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reply {
    /// What was found, or why the patterns of the settings do not compile.
    pub outcome: Result<JobReport, String>,
    /// Whether the worker has grown so much that a fresh one should take its place.
    pub grown: bool,
}

/// Sends a frame.
pub fn send(stream: &mut impl Write, frame: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(frame)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= MAX_FRAME).ok_or_else(too_long)?;
    stream.write_all(&length.to_le_bytes())?;
    stream.write_all(&body)?;
    stream.flush()
}

/// Receives a frame; `None` when the other end closed before it.
pub fn receive<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match stream.read(&mut length)? {
        0 => return Ok(None),
        read => stream.read_exact(length.get_mut(read..).unwrap_or_default())?,
    }
    let length = u32::from_le_bytes(length);
    if length > MAX_FRAME {
        return Err(too_long());
    }
    let mut body = Vec::new();
    stream.take(length.into()).read_to_end(&mut body)?;
    if body.len() as u64 != u64::from(length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(serde_json::from_slice(&body)?))
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a frame is longer than any can be")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_arrive_as_they_were_sent_and_end_cleanly() {
        let mut wire = Vec::new();
        send(&mut wire, &Setup { memory: 7 }).unwrap();
        let mut stream = wire.as_slice();
        assert_eq!(receive::<Setup>(&mut stream).unwrap().unwrap().memory, 7);
        assert!(receive::<Setup>(&mut stream).unwrap().is_none());
    }

    #[test]
    fn a_frame_that_lies_about_its_length_is_refused() {
        let huge = [0xff; 8];
        assert_eq!(receive::<Setup>(&mut huge.as_slice()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let short = [9, 0, 0, 0, b'{'];
        assert_eq!(receive::<Setup>(&mut short.as_slice()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
