//! The Postern ID of a message: given at intake, kept through spool, cloud and every log line.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A ULID: 48 bits of milliseconds since 1970 and 80 random bits, shown as 26 characters of Crockford's base 32.
///
/// It is unrelated to the `Message-ID` header field, which belongs to the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MessageId(ulid::Ulid);

impl MessageId {
    /// A new ID at the present time.
    #[must_use]
    pub fn generate() -> Self {
        Self(ulid::Ulid::generate())
    }

    /// The 16 bytes, big endian, as they stand in records and associated data.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_bytes()
    }

    /// The inverse of [`MessageId::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(ulid::Ulid::from_bytes(bytes))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text is not 26 characters of Crockford's base 32.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a Postern ID; an ID has 26 letters and digits, as `postern queue list` prints it")]
pub struct MessageIdError(String);

impl FromStr for MessageId {
    type Err = MessageIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        ulid::Ulid::from_string(text).map(Self).map_err(|_| MessageIdError(text.chars().take(40).collect()))
    }
}

impl TryFrom<String> for MessageId {
    type Error = MessageIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MessageId> for String {
    fn from(id: MessageId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_round_trip() {
        let id = MessageId::generate();
        assert_eq!(id.to_string().len(), 26);
        assert_eq!(id.to_string().parse::<MessageId>(), Ok(id));
        assert_eq!(MessageId::from_bytes(id.to_bytes()), id);
    }

    #[test]
    fn nonsense_is_refused_with_what_to_do() {
        let error = "not an id".parse::<MessageId>().unwrap_err().to_string();
        assert!(error.contains("postern queue list"), "{error}");
    }
}
