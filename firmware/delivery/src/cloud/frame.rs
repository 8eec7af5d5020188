//! The frame of one delivery group, as it goes to the cloud service.
//!
//! Job: metadata and message as one run of octets that can be read from any offset, with its digest. Place: between the
//! spool's content and the request bodies. Invariants: the same group gives the same octets at every attempt, or the
//! service would see another message under the same key; at most one piece of the content is in memory. A crash leaves
//! nothing behind.

use super::fault::Fault;
use bytes::{Buf, Bytes};
use hyper::body::Frame as HttpFrame;
use mail::{Content, Envelope};
use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};
use wire::{Digest, FrameError, Metadata, frame, limit};

struct Reader {
    prefix: Bytes,
    content: Box<dyn Content>,
    /// Offset in the frame of the first octet of `rest`.
    at: u64,
    rest: Bytes,
    /// Our own fault, for which the body broke off.
    failure: Option<io::Error>,
}

/// A frame that is read in order, from any offset.
#[derive(Clone)]
pub(super) struct Frame {
    reader: Arc<Mutex<Reader>>,
    pub(super) length: u64,
}

impl Frame {
    pub(super) fn new(
        envelope: &Envelope,
        group: u32,
        recipients: &[u16],
        content: Box<dyn Content>,
    ) -> Result<Self, Fault> {
        let addresses = recipients.iter().filter_map(|&index| envelope.recipients.get(usize::from(index)));
        let recipients: Vec<String> = addresses.map(ToString::to_string).collect();
        let metadata = Metadata {
            id: envelope.id.to_string(),
            group,
            sender: envelope.sender.to_string(),
            recipients,
            accepted_at: envelope.received.to_string(),
            smtputf8: envelope.smtputf8,
        };
        let prefix = match frame::prefix(&metadata) {
            Ok(prefix) => Bytes::from(prefix),
            Err(FrameError::TooLong(_)) => return Err(Fault::TooLong),
            Err(error @ FrameError::Metadata(_)) => return Err(Fault::Damaged(error.to_string())),
        };
        let length = prefix.len() as u64 + content.len();
        if length > limit::FRAME {
            return Err(Fault::TooLong);
        }
        let reader = Reader { rest: prefix.clone(), prefix, content, at: 0, failure: None };
        Ok(Self { reader: Arc::new(Mutex::new(reader)), length })
    }

    /// SHA-256 over the whole. Blocks: it reads the message to its end.
    pub(super) fn digest(&self) -> Result<Digest, Fault> {
        let mut reader = self.reader();
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        let hashed = (|| {
            reader.seek(0)?;
            while let Some(octets) = reader.read(usize::MAX)? {
                context.update(&octets);
            }
            Ok(reader.at)
        })();
        match hashed {
            Ok(length) if length == self.length => {}
            Ok(length) => return Err(Fault::Damaged(format!("it has {length} octets instead of {}", self.length))),
            Err(error) => return Err(Fault::stored(&error)),
        }
        let digest = context.finish();
        digest.as_ref().try_into().map(Digest).map_err(|_| Fault::Damaged("its digest has a wrong length".to_owned()))
    }

    /// The body of a request: `length` octets from `offset`.
    pub(super) fn piece(&self, offset: u64, length: u64) -> Piece {
        Piece { frame: self.clone(), offset, left: length }
    }

    /// Why the last body broke off, if it was our own disk.
    pub(super) fn failure(&self) -> Option<Fault> {
        self.reader().failure.take().map(|error| Fault::stored(&error))
    }

    fn reader(&self) -> MutexGuard<'_, Reader> {
        // A reader that panicked half-way gives a wrong digest, which the service refuses.
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
    fn seek(&mut self, offset: u64) -> io::Result<()> {
        if offset < self.at {
            self.content.rewind()?;
            self.rest = self.prefix.clone();
            self.at = 0;
        }
        while self.at < offset {
            let skip = usize::try_from(offset - self.at).unwrap_or(usize::MAX);
            if self.read(skip)?.is_none() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    fn read(&mut self, most: usize) -> io::Result<Option<Bytes>> {
        if !self.rest.has_remaining() {
            match self.content.next_chunk()? {
                Some(piece) => self.rest = Bytes::from(piece),
                None => return Ok(None),
            }
        }
        let octets = self.rest.split_to(most.min(self.rest.len()));
        self.at += octets.len() as u64;
        Ok(Some(octets))
    }
}

/// A part of a frame as a request body. It is polled on the connection's own thread, where reading may block.
pub(super) struct Piece {
    frame: Frame,
    offset: u64,
    left: u64,
}

impl hyper::body::Body for Piece {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<HttpFrame<Bytes>>>> {
        let piece = self.get_mut();
        if piece.left == 0 {
            return Poll::Ready(None);
        }
        let mut reader = piece.frame.reader();
        let most = usize::try_from(piece.left).unwrap_or(usize::MAX);
        let read = reader.seek(piece.offset).and_then(|()| reader.read(most));
        let octets = match read {
            Ok(Some(octets)) => octets,
            Ok(None) => {
                reader.failure = Some(io::Error::new(io::ErrorKind::InvalidData, "it ends too early"));
                return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
            }
            Err(error) => {
                let kind = error.kind();
                reader.failure = Some(error);
                return Poll::Ready(Some(Err(kind.into())));
            }
        };
        drop(reader);
        piece.offset += octets.len() as u64;
        piece.left -= octets.len() as u64;
        Poll::Ready(Some(Ok(HttpFrame::data(octets))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::envelope;
    use http_body_util::BodyExt;
    use mail::BytesContent;

    fn message() -> Vec<u8> {
        (0..300_000u32).flat_map(|n| [b'a' + (n % 26) as u8]).collect()
    }

    fn frame() -> Frame {
        let envelope = envelope(&["a@example.net", "b@example.net"]);
        Frame::new(&envelope, 3, &[1], Box::new(BytesContent::new(message()))).unwrap()
    }

    #[tokio::test]
    async fn pieces_from_any_offset_in_any_order_join_to_what_the_digest_is_of() {
        let frame = frame();
        let digest = frame.digest().unwrap();
        let mut joined = vec![0; frame.length as usize];
        let cuts = [0, 1, 7, 70_000, 131_072, frame.length - 1, frame.length];
        for pair in cuts.windows(2).rev() {
            let body = frame.piece(pair[0], pair[1] - pair[0]).collect().await.unwrap().to_bytes();
            joined[pair[0] as usize..pair[1] as usize].copy_from_slice(&body);
        }
        let whole = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &joined);
        assert_eq!(whole.as_ref(), digest.0);
        let (metadata, offset) = frame::parse(&joined).unwrap().unwrap();
        assert_eq!((metadata.group, metadata.recipients), (3, vec!["b@example.net".to_owned()]));
        assert_eq!(&joined[offset..], message());
    }

    #[test]
    fn the_same_group_gives_the_same_digest_at_every_attempt() {
        let envelope = envelope(&["a@example.net"]);
        let digest = || {
            let content = Box::new(BytesContent::new(message()));
            Frame::new(&envelope, 0, &[0], content).unwrap().digest().unwrap()
        };
        assert_eq!(digest(), digest());
    }
}
