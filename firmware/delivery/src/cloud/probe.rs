//! Whether the cloud service could take confidential mail, without giving it any.
//!
//! Job: ask the service, as this appliance, for the state of a message that it does not have. Place: beside deliveries,
//! for the health check. Invariants: a connection of its own whose handshake the device key signs, never a resumed one;
//! the request changes nothing at the service and tells nobody; neither waits for a suspension nor causes one. A crash
//! leaves nothing behind.

use super::{CloudClient, fault::Fault, upload};
use http::Method;
use mail::MessageId;
use wire::{Answer, UploadState, path};

/// Why the service could not be asked; tells what lies with this appliance from what does not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// No `[cloud]`, no enrolment, or one that this device key can't use.
    #[error("{0}")]
    NotEnrolled(String),
    /// The service, or the network before it, does not answer, or not now.
    #[error("{0}")]
    Away(String),
    /// TLS or the device identity does not work.
    #[error("{0}")]
    Identity(String),
}

impl From<Fault> for ProbeError {
    fn from(fault: Fault) -> Self {
        let text = fault.to_string();
        match fault {
            Fault::NotEnrolled(_) => Self::NotEnrolled(text),
            Fault::Foreign(_) | Fault::Certificate(_) | Fault::Key(_) => Self::Identity(text),
            // Whatever answers there does not speak TLS or HTTP as agreed: not our key's doing.
            Fault::Nonsense(_)
            | Fault::Name(_)
            | Fault::Unreachable(_)
            | Fault::Lost(_)
            | Fault::Silent(_)
            | Fault::Later { .. }
            | Fault::Refused { .. }
            | Fault::TooLong
            | Fault::Unreadable(_)
            | Fault::Damaged(_) => Self::Away(text),
        }
    }
}

impl CloudClient {
    /// Asks the service for the state of message `id`, which it must not have, over a new connection.
    ///
    /// # Errors
    /// See [`ProbeError`].
    pub async fn probe(&self, id: MessageId) -> Result<(), ProbeError> {
        let links = self.links()?.alone();
        let path = path::message(&id.to_string(), 0);
        let response = links.request(&path, 0, |request| request.method(Method::GET).body(upload::empty())).await?;
        match Answer::of_status(response.status().as_u16()) {
            Answer::Stored => match upload::json::<UploadState>(&response)? {
                UploadState::Absent => Ok(()),
                UploadState::Partial { .. } | UploadState::Stored { .. } => {
                    Err(Fault::Nonsense("it claims to have a message that was never sent".to_owned()).into())
                }
            },
            answer => Err(upload::refusal(answer, &response).into()),
        }
    }
}
