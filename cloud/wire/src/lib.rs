//! The language between appliance and cloud service, version 1.
//!
//! Job: name the paths, header fields, bodies and status codes of the cloud API once, for both ends. Place: between the
//! appliance's delivery of confidential mail and the service that stores it. Invariants: no I/O, no clock, no hashing;
//! a field that a reader does not know is ignored, a field that version 1 requires never goes away. A crash leaves
//! nothing behind.
//!
//! Everything travels over TLS 1.3, HTTP/2 preferred:
//!
//! | Request | Client certificate | Body | Replies |
//! | --- | --- | --- | --- |
//! | `POST /v1/enrol` | none | [`EnrolRequest`] | 200 [`EnrolResponse`], 403, 422, 429 |
//! | `PUT /v1/messages/{id}/{group}` | required | [`frame`] whole | 201 or 200 [`Stored`], 409, 4xx, 5xx |
//! | the same with `upload-offset`, `upload-length` | required | a piece of the frame | 202 [`Progress`], 201, 200, 416 [`Progress`] |
//! | `GET /v1/messages/{id}/{group}` | required | – | 200 [`UploadState`] |
//!
//! Every refusal carries a [`Refusal`] as JSON. [`Answer::of_status`] says what a status means for the sender.

mod digest;
mod enrol;
pub mod frame;
pub mod header;
pub mod limit;
pub mod path;
mod upload;

pub use digest::{Digest, DigestError};
pub use enrol::{Attestation, EnrolRequest, EnrolResponse};
pub use frame::{FrameError, Metadata};
pub use upload::{Answer, Progress, Refusal, Stored, UploadState};
