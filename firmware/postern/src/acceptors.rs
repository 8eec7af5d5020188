//! What intake hands messages to, open and locked.
//!
//! Job: bind intake's sockets to [`crate::pipeline::accept`], or answer 451 where there are no keys or no settings. Place: the first
//! arrow of a message's way. Invariants: a closed appliance takes no byte of a message. A crash leaves nothing.

use crate::pipeline::{Pipeline, accept};
use intake::Acceptor;
use mail::{EnhancedCode, Envelope, MessageId, Reply};
use spool::{Receipt, Staging};
use std::{convert::Infallible, net::SocketAddr, sync::Arc};

/// Messages go the whole way.
pub struct Open(pub Arc<Pipeline>);

impl Acceptor for Open {
    type Receipt = Receipt;
    type Staging = Staging;

    fn is_ours(&self, from: SocketAddr) -> bool {
        self.0.probes.connects_from(from)
    }

    fn available(&self) -> Result<(), Reply> {
        if !self.0.judging.has_room() {
            return Err(Reply::new(451, EnhancedCode(4, 3, 2), "Too much to do, try again later"));
        }
        self.0.spool.available().map_err(|error| error.reply())
    }

    fn begin(&self, id: MessageId) -> Result<Staging, Reply> {
        self.0.spool.stage(id).map_err(|error| error.reply())
    }

    fn append(&self, staging: &mut Staging, bytes: &[u8]) -> Result<(), Reply> {
        staging.write(bytes).map_err(|error| error.reply())
    }

    async fn finish(&self, staging: Staging, envelope: Envelope) -> Result<(Receipt, MessageId), Reply> {
        accept(&self.0, staging, envelope).await
    }
}

/// There are no keys or no settings, so there is nothing to keep a message with.
#[derive(Clone, Copy, Debug)]
pub enum Closed {
    /// No keys.
    Locked,
    /// No settings yet.
    NotSetUp,
}

impl Closed {
    fn reply(self) -> Reply {
        let text = match self {
            Self::Locked => "The mail system is locked; its administrator must unlock it",
            Self::NotSetUp => "The mail system is not set up yet; its administrator must do so",
        };
        Reply::new(451, EnhancedCode(4, 3, 0), text)
    }
}

impl Acceptor for Closed {
    type Receipt = Receipt;
    type Staging = Infallible;

    fn available(&self) -> Result<(), Reply> {
        Err(self.reply())
    }

    fn begin(&self, _: MessageId) -> Result<Infallible, Reply> {
        Err(self.reply())
    }

    fn append(&self, staging: &mut Infallible, _: &[u8]) -> Result<(), Reply> {
        match *staging {}
    }

    async fn finish(&self, staging: Infallible, _: Envelope) -> Result<(Receipt, MessageId), Reply> {
        match staging {}
    }
}
