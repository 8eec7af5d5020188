//! The words that all stages share.
//!
//! Job: name what travels through Postern (addresses, envelopes, replies, verdicts, destinations, outcomes) once, so
//! that no two stages describe it differently. Place: below every other crate. Invariants: no I/O, no clock, no
//! policy; an [`Address`] that exists is valid by RFC 5321 §4.1.2 (with RFC 6531 §3.3). A crash leaves nothing behind.

mod address;
mod content;
mod envelope;
mod message_id;
mod outcome;
mod reply;
mod verdict;

pub use address::{Address, AddressError, Domain, ReversePath};
pub use content::{BytesContent, Content};
pub use envelope::{BodyType, Client, Envelope};
pub use message_id::MessageId;
pub use outcome::{Destination, Outcome, PROBE_DOMAIN, RecipientOutcome};
pub use reply::{EnhancedCode, Reply};
pub use verdict::{Action, Finding, RecipientVerdict, RuleMatch, Tag, Verdict};
