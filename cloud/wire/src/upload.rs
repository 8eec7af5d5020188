//! Replies to PUT and GET of a message, and what they mean for the sender.
//!
//! An upload in pieces goes like this: `GET` tells where the service stands; the sender PUTs the piece that starts
//! there, with `upload-offset`, `upload-length` and the digest of the whole frame; 202 says the piece is durable, and
//! where the next one starts; the piece that reaches `upload-length` is answered like a whole PUT. A piece at another
//! offset is answered 416 with the right one. A piece with another digest or length starts over at offset 0 only, and
//! replaces what was there. Pieces that nobody continues expire.

use crate::Digest;
use serde::{Deserialize, Serialize};

/// Body of 201 (stored now) and 200 (the same was stored before): the message is on stable storage, and the appliance
/// may release its copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The service's own name for the stored message; the same every time the same frame is put.
    pub receipt: String,
}

/// Body of 202 and 416.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes of the frame that are on stable storage; the next piece starts here.
    pub offset: u64,
}

/// Body of a GET.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum UploadState {
    /// Nothing is stored under this key.
    Absent,
    /// Some pieces are stored.
    Partial {
        /// Where the next piece starts.
        offset: u64,
        /// `upload-length` of the pieces so far.
        length: u64,
        /// Digest that the pieces so far were sent with.
        digest: Digest,
    },
    /// All is stored.
    Stored {
        /// Digest of the stored frame.
        digest: Digest,
        /// As in [`Stored`].
        receipt: String,
    },
}

/// Body of every refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What happened; what to do. For an operator to read, never to be matched on.
    pub error: String,
}

/// What a status means for whoever sent the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200, 201: the service took durable responsibility.
    Stored,
    /// 202: send the next piece, from [`Progress::offset`].
    Continue,
    /// 416: send again from [`Progress::offset`].
    Reposition,
    /// 409 and other 4xx about this message: the same will be refused again.
    Refused,
    /// 401, 403: this appliance is not, or no longer, enrolled; nothing is wrong with the message. It waits.
    NotEnrolled,
    /// 408, 425, 429, 5xx and whatever has no meaning here: try again later.
    Later,
}

impl Answer {
    /// The meaning of a status in answer to PUT or GET of a message.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        match status {
            200 | 201 => Self::Stored,
            202 => Self::Continue,
            401 | 403 => Self::NotEnrolled,
            416 => Self::Reposition,
            400 | 409 | 411 | 413 | 422 => Self::Refused,
            _ => Self::Later,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_an_upload_names_itself() {
        assert_eq!(serde_json::to_string(&UploadState::Absent).unwrap(), r#"{"state":"absent"}"#);
        let partial = UploadState::Partial { offset: 5, length: 9, digest: Digest([0; 32]) };
        let json = serde_json::to_string(&partial).unwrap();
        assert!(json.starts_with(r#"{"state":"partial","offset":5,"length":9,"digest":"sha-256=:AAAA"#), "{json}");
        assert_eq!(serde_json::from_str::<UploadState>(&json).unwrap(), partial);
    }

    #[test]
    fn a_status_that_nobody_agreed_on_never_loses_mail() {
        for status in [100, 204, 301, 404, 405, 418, 429, 500, 503, 599] {
            assert_eq!(Answer::of_status(status), Answer::Later, "{status}");
        }
        assert_eq!(Answer::of_status(409), Answer::Refused);
    }
}
