//! The digest header field, `sha-256=:…:` (RFC 9530 §2, a dictionary of RFC 8941).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A SHA-256 value. It is computed by whoever has the bytes; this type only carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

/// The field has no usable `sha-256`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the digest field has no sha-256 of 32 bytes; write it as sha-256=:BASE64: (RFC 9530)")]
pub struct DigestError;

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha-256=:{}:", STANDARD.encode(self.0))
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    /// Other algorithms in the same field are passed over (RFC 9530 §2: a receiver may ignore any it does not want).
    fn from_str(field: &str) -> Result<Self, Self::Err> {
        let text = field
            .split(',')
            .filter_map(|member| member.trim().strip_prefix("sha-256="))
            .find_map(|value| value.strip_prefix(':')?.strip_suffix(':'))
            .ok_or(DigestError)?;
        let bytes = STANDARD.decode(text).map_err(|_| DigestError)?;
        bytes.try_into().map(Self).map_err(|_| DigestError)
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_9530_is_read() {
        // RFC 9530 appendix D: {"hello": "world"} followed by a line feed.
        let field = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:";
        assert_eq!(field.parse::<Digest>().unwrap().to_string(), field);
        assert!(format!("sha-512=:AAAA:, {field}").parse::<Digest>().is_ok());
    }

    #[test]
    fn a_digest_of_another_length_or_form_is_refused() {
        for field in ["", "sha-256", "sha-256=::", "sha-256=:AAAA:", "sha-256=AAAA", "md5=:AAAA:", "sha-256=:*:"] {
            assert_eq!(field.parse::<Digest>(), Err(DigestError), "{field}");
        }
    }
}
