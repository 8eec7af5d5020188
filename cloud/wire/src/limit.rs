//! Bounds that both ends keep.

/// Longest metadata in bytes: 1,000 recipients of 254 octets, escaped, fit several times over.
pub const METADATA: usize = 2 * 1024 * 1024;

/// Longest frame in bytes. The appliance takes 100 MiB unless set otherwise; twice that leaves room.
pub const FRAME: u64 = 256 * 1024 * 1024;

/// Frames longer than this go in pieces, so that a broken connection costs one piece and not the whole.
pub const WHOLE: u64 = 8 * 1024 * 1024;

/// Length of one piece in bytes; only the last may be shorter. A sender that finds the service at another offset starts
/// there with a piece of this length.
pub const PIECE: u64 = 8 * 1024 * 1024;

/// Longest body of an enrolment in bytes.
pub const ENROL: usize = 64 * 1024;
