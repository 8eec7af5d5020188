//! What intake hands messages to, open and locked.
//!
//! Job: bind intake's sockets to [`crate::pipeline::accept`], or answer 451 where there are no keys. Place: the first
//! arrow of a message's way. Invariants: a locked appliance takes no byte of a message. A crash leaves nothing.

use crate::pipeline::{Pipeline, accept};
use intake::Acceptor;
use mail::{EnhancedCode, Envelope, MessageId, Reply};
use spool::{Receipt, Staging};
use std::{convert::Infallible, sync::Arc};

/// Messages go the whole way.
pub struct Open(pub Arc<Pipeline>);

impl Acceptor for Open {
    type Receipt = Receipt;
    type Staging = Staging;

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

/// There are no keys, so there is nothing to keep a message with.
pub struct Locked;

impl Locked {
    fn reply() -> Reply {
        Reply::new(451, EnhancedCode(4, 3, 0), "The mail system is locked; its administrator must unlock it")
    }
}

impl Acceptor for Locked {
    type Receipt = Receipt;
    type Staging = Infallible;

    fn available(&self) -> Result<(), Reply> {
        Err(Self::reply())
    }

    fn begin(&self, _: MessageId) -> Result<Infallible, Reply> {
        Err(Self::reply())
    }

    fn append(&self, staging: &mut Infallible, _: &[u8]) -> Result<(), Reply> {
        match *staging {}
    }

    async fn finish(&self, staging: Infallible, _: Envelope) -> Result<(Receipt, MessageId), Reply> {
        match staging {}
    }
}
