//! Putting a frame into the cloud service's hands.
//!
//! Job: PUT a small frame whole, a large one in pieces from where the service stands (`wire` describes the exchange).
//! Place: between the cloud client and its connections. Invariants: success is only the service's own receipt, under
//! 200 or 201, or its word that it stores this very digest; every other way ends in a [`Fault`]. A crash leaves pieces
//! at the service, from which the next attempt goes on.

use super::{
    fault::Fault,
    frame::Frame,
    link::{Body, Links},
};
use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use serde::de::DeserializeOwned;
use std::time::Duration;
use wire::{Answer, Digest, Progress, Refusal, Stored, UploadState, header, limit};

/// How often a service may send us to another offset before it is believed to be confused.
const REPOSITIONS: u32 = 3;
/// Characters of a service's explanation that are kept.
const MAX_TEXT: usize = 300;

/// Sends the frame; the service's receipt.
pub(super) async fn upload(links: &Links, path: &str, frame: &Frame, digest: Digest) -> Result<String, Fault> {
    let upload = Upload { links, path, frame, digest };
    let receipt = if frame.length <= limit::WHOLE { upload.whole().await } else { upload.in_pieces().await };
    // If our own disk broke the body off, the service's view of it does not matter.
    match frame.failure() {
        Some(fault) if receipt.is_err() => Err(fault),
        _ => receipt,
    }
}

struct Upload<'a> {
    links: &'a Links,
    path: &'a str,
    frame: &'a Frame,
    digest: Digest,
}

impl Upload<'_> {
    async fn whole(&self) -> Result<String, Fault> {
        let response = self.put(0, self.frame.length, false).await?;
        match Answer::of_status(response.status().as_u16()) {
            Answer::Stored => receipt(&response),
            Answer::Continue | Answer::Reposition => {
                Err(Fault::Nonsense(format!("{} to a whole message", response.status())))
            }
            answer => Err(refusal(answer, &response)),
        }
    }

    async fn in_pieces(&self) -> Result<String, Fault> {
        let mut offset = match self.state().await? {
            UploadState::Stored { digest, receipt } if digest == self.digest => return Ok(receipt),
            UploadState::Stored { .. } => {
                let text = "another message is stored under the same key".to_owned();
                return Err(Fault::Refused { status: StatusCode::CONFLICT.as_u16(), text });
            }
            UploadState::Partial { offset, length, digest }
                if digest == self.digest && length == self.frame.length && offset < length =>
            {
                offset
            }
            UploadState::Partial { .. } | UploadState::Absent => 0,
        };
        let mut repositions = 0;
        loop {
            let length = limit::PIECE.min(self.frame.length - offset);
            let response = self.put(offset, length, true).await?;
            match Answer::of_status(response.status().as_u16()) {
                Answer::Stored => return receipt(&response),
                Answer::Continue => {
                    let next = json::<Progress>(&response)?.offset;
                    // Only forwards, or a confused service would keep us here for ever.
                    if next <= offset || next >= self.frame.length {
                        return Err(Fault::Nonsense(format!("it wants to go on at {next} after {offset}")));
                    }
                    offset = next;
                }
                Answer::Reposition => {
                    let next = json::<Progress>(&response)?.offset;
                    repositions += 1;
                    if repositions > REPOSITIONS || next >= self.frame.length {
                        return Err(Fault::Nonsense(format!("it wants to go on at {next} again and again")));
                    }
                    offset = next;
                }
                answer => return Err(refusal(answer, &response)),
            }
        }
    }

    async fn put(&self, offset: u64, length: u64, piece: bool) -> Result<Response<Bytes>, Fault> {
        let make = |request: http::request::Builder| {
            let mut request = request
                .method(Method::PUT)
                .header(header::DIGEST, self.digest.to_string())
                .header(http::header::CONTENT_TYPE, "application/octet-stream");
            if piece {
                request =
                    request.header(header::UPLOAD_OFFSET, offset).header(header::UPLOAD_LENGTH, self.frame.length);
            }
            request.body(Body::new(self.frame.piece(offset, length)))
        };
        self.links.request(self.path, length, make).await
    }

    async fn state(&self) -> Result<UploadState, Fault> {
        let response = self.links.request(self.path, 0, |request| request.body(empty())).await?;
        match Answer::of_status(response.status().as_u16()) {
            Answer::Stored => json(&response),
            // Not knowing where it stands is no reason to refuse the message for good.
            Answer::Refused => Err(refusal(Answer::Later, &response)),
            answer => Err(refusal(answer, &response)),
        }
    }
}

pub(super) fn empty() -> Body {
    Body::new(Empty::new().map_err(|never: std::convert::Infallible| match never {}))
}

fn receipt(response: &Response<Bytes>) -> Result<String, Fault> {
    let receipt = json::<Stored>(response)?.receipt;
    if receipt.is_empty() {
        Err(Fault::Nonsense("it stored the message without a receipt".to_owned()))
    } else {
        Ok(clean(&receipt))
    }
}

pub(super) fn json<T: DeserializeOwned>(response: &Response<Bytes>) -> Result<T, Fault> {
    serde_json::from_slice(response.body())
        .map_err(|error| Fault::Nonsense(format!("{} with an answer that cannot be read: {error}", response.status())))
}

/// What a status that is no progress means.
pub(super) fn refusal(answer: Answer, response: &Response<Bytes>) -> Fault {
    let status = response.status().as_u16();
    let text = explanation(response);
    match answer {
        Answer::Refused => Fault::Refused { status, text },
        Answer::NotEnrolled => Fault::Certificate(text),
        Answer::Later | Answer::Stored | Answer::Continue | Answer::Reposition => {
            Fault::Later { status, text, wait: retry_after(response) }
        }
    }
}

pub(super) fn explanation(response: &Response<Bytes>) -> String {
    match serde_json::from_slice::<Refusal>(response.body()) {
        Ok(refusal) => clean(&refusal.error),
        Err(_) => "no explanation".to_owned(),
    }
}

/// Seconds only: the service is ours and sends no date (RFC 9110 §10.2.3).
fn retry_after(response: &Response<Bytes>) -> Option<Duration> {
    response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

fn clean(text: &str) -> String {
    text.chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
