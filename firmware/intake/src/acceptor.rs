//! What intake hands messages to.

use mail::{Envelope, MessageId, Reply};
use std::{future::Future, net::SocketAddr};

/// The stages behind the sockets; implemented once, by the pipeline.
///
/// Every error is a reply to the client with a 4xx or 5xx code; any other code is sent as `451 4.3.0`.
pub trait Acceptor: Send + Sync + 'static {
    /// The proof that a message is on stable storage; without one there is no 250.
    type Receipt: Send;
    /// A message that is being received. Dropping it drops the message.
    type Staging: Send;

    /// Whether the appliance itself connects from here, to check its own health. Such a session counts as listed and has
    /// a place beyond all bounds, so that neither settings nor a crowd keep the check from what it checks.
    fn is_ours(&self, from: SocketAddr) -> bool {
        let _ = from;
        false
    }

    /// Asked at every MAIL: whether a message could be taken now.
    ///
    /// # Errors
    /// `451 4.3.0` while locked, `451 4.3.2` while the judge's queue is full, `452 4.3.1` while the disk is.
    fn available(&self) -> Result<(), Reply>;

    /// Asked at DATA.
    ///
    /// # Errors
    /// The reply instead of 354.
    fn begin(&self, id: MessageId) -> Result<Self::Staging, Reply>;

    /// Adds canonical octets: dots unstuffed, CR LF line ends. May block briefly on the disk once the message has grown
    /// beyond 64 KiB.
    ///
    /// # Errors
    /// The reply after the final dot; the message is dropped.
    fn append(&self, staging: &mut Self::Staging, bytes: &[u8]) -> Result<(), Reply>;

    /// Judges the message and makes it durable.
    ///
    /// # Errors
    /// The reply after the final dot.
    fn finish(
        &self,
        staging: Self::Staging,
        envelope: Envelope,
    ) -> impl Future<Output = Result<(Self::Receipt, MessageId), Reply>> + Send;
}
