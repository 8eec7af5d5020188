//! Header fields that the API gives a meaning to, in lower case as HTTP/2 wants them.

/// SHA-256 of the whole frame, `sha-256=:BASE64:` (RFC 9530 §3; [`crate::Digest`] reads and writes it). It is
/// `Repr-Digest` and not `Content-Digest`, because it spans all pieces of a resumable upload, and each of them carries
/// the same value.
pub const DIGEST: &str = "repr-digest";

/// Decimal offset in bytes of this piece within the frame.
pub const UPLOAD_OFFSET: &str = "upload-offset";

/// Decimal length in bytes of the whole frame.
pub const UPLOAD_LENGTH: &str = "upload-length";

/// Seconds to wait (RFC 9110 §10.2.3), with 429 and 503.
pub const RETRY_AFTER: &str = "retry-after";
