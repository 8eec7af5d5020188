//! The content of a message while it is sent.
//!
//! Job: give pieces without blocking the runtime for long, and say what the message asks of a next hop. Place: between
//! the spool's content and the connection. Invariants: a small message is read in place, a large one on a thread that
//! may block; at most two pieces are in memory. A crash leaves nothing behind.

use mail::{BodyType, Content, EnhancedCode, Envelope, Outcome, Reply};
use memchr::memmem;
use session::client::NotCanonical;
use std::io;

/// Up to this length the content is in the spool's memory, or one read away.
const SMALL: u64 = 64 * 1024;

/// Why the content could not be sent to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("the stored message cannot be read: {0}; look at the disk's health")]
    Unreadable(io::Error),
    #[error("the stored message is damaged: {0}; look at it with `postern message show`")]
    Damaged(io::Error),
    #[error(transparent)]
    NotCanonical(#[from] NotCanonical),
    #[error("the thread that read the stored message ended early; report this with `postern support`")]
    Thread,
}

impl SourceError {
    /// The disk may recover; damage stays.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Unreadable(_) | Self::Thread => {
                Outcome::Deferred(Reply::new(451, EnhancedCode(4, 3, 0), self.to_string()))
            }
            Self::Damaged(_) | Self::NotCanonical(_) => {
                Outcome::Failed(Reply::new(554, EnhancedCode(5, 6, 0), self.to_string()))
            }
        }
    }
}

impl From<io::Error> for SourceError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::InvalidData { Self::Damaged(error) } else { Self::Unreadable(error) }
    }
}

/// Content being sent.
pub(super) struct Source {
    /// Absent only while a thread reads from it.
    content: Option<Box<dyn Content>>,
    first: Option<Vec<u8>>,
    started: bool,
    /// Octets in all.
    pub(super) size: u64,
    /// There are octets above 127.
    pub(super) eight_bit: bool,
    /// They are in the header, of a message that came with SMTPUTF8.
    pub(super) utf8_header: bool,
}

impl Source {
    /// Reads the first piece. For a small message that shows what it asks for; a large one is believed.
    pub(super) async fn new(content: Box<dyn Content>, envelope: &Envelope) -> Result<Self, SourceError> {
        let size = content.len();
        let mut source =
            Self { content: Some(content), first: None, started: false, size, eight_bit: false, utf8_header: false };
        let first = source.read().await?.unwrap_or_default();
        let ascii = first.is_ascii();
        let whole = first.len() as u64 >= size;
        source.eight_bit = !ascii || (!whole && envelope.body == BodyType::EightBitMime);
        if envelope.smtputf8 && !ascii {
            let end = memmem::find(&first, b"\r\n\r\n").unwrap_or(first.len());
            source.utf8_header = !first.get(..end).unwrap_or_default().is_ascii();
        }
        source.first = Some(first).filter(|first| !first.is_empty());
        Ok(source)
    }

    /// The next piece, `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        self.started = true;
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => self.read().await,
        }
    }

    /// Back to the first octet, for another transaction.
    pub(super) fn rewind(&mut self) -> Result<(), SourceError> {
        if self.started {
            self.content.as_mut().ok_or(SourceError::Thread)?.rewind()?;
            self.first = None;
            self.started = false;
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        let mut content = self.content.take().ok_or(SourceError::Thread)?;
        let (content, piece) = if self.size <= SMALL {
            let piece = content.next_chunk();
            (content, piece)
        } else {
            let read = move || {
                let piece = content.next_chunk();
                (content, piece)
            };
            tokio::task::spawn_blocking(read).await.map_err(|_| SourceError::Thread)?
        };
        self.content = Some(content);
        Ok(piece?)
    }
}
