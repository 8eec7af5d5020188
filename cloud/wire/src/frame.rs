//! The body of a PUT: `u32` big-endian length of the metadata ‖ metadata as JSON ‖ the octets of the message.

use crate::limit;
use serde::{Deserialize, Serialize};

/// Bytes of the length in front.
pub const LENGTH: usize = 4;

/// What travels beside the octets of the message. Nothing stands here that the message or its envelope does not say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Postern ID; the same as in the path.
    pub id: String,
    /// Delivery group; the same as in the path.
    pub group: u32,
    /// MAIL FROM, empty for `<>`.
    pub sender: String,
    /// The recipients of this group, in the envelope's order, without doubles; never empty.
    pub recipients: Vec<String>,
    /// When the appliance accepted the message, RFC 3339 in UTC.
    pub accepted_at: String,
    /// Whether MAIL carried SMTPUTF8 (RFC 6531).
    #[serde(default)]
    pub smtputf8: bool,
}

/// Why a frame can't be written or read. Whoever made the frame is at fault.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`limit::METADATA`].
    #[error("the metadata has {0} bytes, more than {max} are not taken; split the recipients into groups", max = limit::METADATA)]
    TooLong(u64),
    /// Not the JSON of [`Metadata`].
    #[error("the metadata is not valid ({0}); send the fields that version 1 names")]
    Metadata(#[from] serde_json::Error),
}

/// The bytes in front of the message: length and metadata. The frame is this prefix followed by the octets as they are.
///
/// # Errors
/// The metadata is longer than [`limit::METADATA`].
pub fn prefix(metadata: &Metadata) -> Result<Vec<u8>, FrameError> {
    let json = serde_json::to_vec(metadata)?;
    let length = u32::try_from(json.len())
        .ok()
        .filter(|_| json.len() <= limit::METADATA)
        .ok_or(FrameError::TooLong(json.len() as u64))?;
    let mut out = Vec::with_capacity(LENGTH + json.len());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&json);
    Ok(out)
}

/// Reads the prefix from the start of a frame: the metadata and the offset of the message's first octet. `None` means
/// that `start` ends before the metadata does: call again with more.
///
/// # Errors
/// The announced length is over [`limit::METADATA`], or the JSON is not that of [`Metadata`].
pub fn parse(start: &[u8]) -> Result<Option<(Metadata, usize)>, FrameError> {
    let Some((length, rest)) = start.split_first_chunk::<LENGTH>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length);
    let bytes = usize::try_from(length)
        .ok()
        .filter(|bytes| *bytes <= limit::METADATA)
        .ok_or(FrameError::TooLong(length.into()))?;
    match rest.get(..bytes) {
        Some(json) => Ok(Some((serde_json::from_slice(json)?, LENGTH + bytes))),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Metadata {
        Metadata {
            id: "01JD0000000000000000000000".into(),
            group: 2,
            sender: "a@example.org".into(),
            recipients: vec!["b@example.net".into()],
            accepted_at: "2026-01-01T00:00:00Z".into(),
            smtputf8: false,
        }
    }

    #[test]
    fn a_frame_is_read_only_once_the_metadata_is_whole() {
        let mut frame = prefix(&metadata()).unwrap();
        let offset = frame.len();
        frame.extend_from_slice(b"Subject: x\r\n\r\n");
        for end in 0..offset {
            assert!(parse(&frame[..end]).unwrap().is_none(), "{end}");
        }
        assert_eq!(parse(&frame).unwrap(), Some((metadata(), offset)));
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_read() {
        assert!(matches!(parse(&[0xff; 4]), Err(FrameError::TooLong(0xffff_ffff))));
    }

    #[test]
    fn metadata_of_a_later_version_is_read_without_its_new_fields() {
        let json = br#"{"id":"x","group":0,"sender":"","recipients":[],"accepted_at":"","later":{"a":1}}"#;
        let mut frame = u32::try_from(json.len()).unwrap().to_be_bytes().to_vec();
        frame.extend_from_slice(json);
        assert!(parse(&frame).unwrap().is_some());
    }
}
