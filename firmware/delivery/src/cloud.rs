//! Confidential mail to the cloud service, over HTTPS and nothing else.
//!
//! Job: enrol this appliance, and hand over delivery groups until the service holds them durably (D2, D3, D8). Place:
//! the pipeline calls it with a claim whose destination is the cloud. Invariants: TLS 1.3 with the device identity, to a
//! server whose certificate is checked; delivered means the service's receipt for the digest that was sent; while the
//! service is away, or this appliance is not enrolled, mail waits. A crash leaves nothing behind: the same message and
//! group are put again under the same key, which the service stores once.

mod fault;
mod frame;
mod identity;
mod link;
mod probe;
mod upload;

pub use identity::{Identity, IdentityError};
pub use probe::ProbeError;
/// What an enrolment gave; whoever enrols keeps it. The certificate is of use only with this TPM's key.
pub use wire::EnrolResponse as Enrolment;

use crate::{
    gate::Gate,
    relay::{Suspension, all},
    trust::SetupError,
};
use fault::Fault;
use frame::Frame;
use http::{Method, Uri};
use http_body_util::{BodyExt, Full};
use jiff::Timestamp;
use link::{Body, Endpoint, Links};
use mail::{Content, Destination, EnhancedCode, Envelope, Outcome, RecipientOutcome, Reply};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::sync::{Arc, PoisonError, RwLock};
use wire::{Answer, EnrolRequest, path};

/// Messages under way on one connection, at most.
const REQUESTS: usize = 4;
/// What is told to the service about this firmware.
const SOFTWARE: &str = concat!("postern/", env!("CARGO_PKG_VERSION"));

/// Why an enrolment failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnrolError {
    /// No `[cloud]` in the settings.
    #[error("the settings name no cloud service; add [cloud] with its url")]
    NotConfigured,
    /// The service could not be asked.
    #[error("{0}")]
    Unreachable(String),
    /// The service refuses the code.
    #[error("the cloud service refuses the code: {0}; ask its operator for a new one")]
    Refused(String),
    /// The device key cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// What the service answered is of no use.
    #[error("the cloud service's answer is of no use: {0}; report it to the service's operator")]
    BadAnswer(String),
    /// The certificate is for another key: another TPM, or a new identity.
    #[error("the certificate belongs to another device key than this TPM's; enrol again with `postern enrol`")]
    OtherKey,
}

/// What stands between us and delivering.
enum State {
    NotEnrolled(String),
    Enrolled(Arc<Links>),
}

struct Service {
    endpoint: Endpoint,
    anonymous: Arc<ClientConfig>,
    max_connections: usize,
}

/// The cloud service's client.
pub struct CloudClient {
    service: Option<Service>,
    identity: Arc<dyn Identity>,
    gate: Arc<Gate>,
    state: RwLock<State>,
}

impl CloudClient {
    /// A client for the service in `settings`; with `None` there, and without an enrolment, all mail waits. An enrolment
    /// whose certificate is not for the present device key counts as none. May block on `identity`.
    ///
    /// # Errors
    /// The settings cannot be used: a bad URL, or roots that cannot be read.
    pub fn new(
        settings: Option<&settings::Cloud>,
        identity: Arc<dyn Identity>,
        enrolment: Option<&Enrolment>,
    ) -> Result<Self, SetupError> {
        let max = settings.map_or(1, |cloud| cloud.max_connections);
        let service = match settings {
            Some(cloud) => Some(Service {
                endpoint: endpoint(&cloud.url)?,
                anonymous: identity::anonymous(cloud.ca.as_ref())?,
                max_connections: max,
            }),
            None => None,
        };
        let missing = match &service {
            Some(_) => "no certificate is kept",
            None => "the settings have no [cloud]",
        };
        let state = RwLock::new(State::NotEnrolled(missing.to_owned()));
        let client = Self { service, identity, gate: Gate::new(max.saturating_mul(REQUESTS)), state };
        if let Some(enrolment) = enrolment
            && let Err(error) = client.adopt(enrolment)
        {
            log::error!("the kept enrolment with the cloud service cannot be used: {error}");
            client.set(State::NotEnrolled(error.to_string()));
        }
        Ok(client)
    }

    /// Delivers group number `group` of a message: its `recipients` (indices into the envelope) share one outcome.
    pub async fn deliver(
        &self,
        envelope: &Envelope,
        group: u32,
        recipients: &[u16],
        content: Box<dyn Content>,
    ) -> Vec<RecipientOutcome> {
        let outcome = match self.put(envelope, group, recipients, content).await {
            Ok(receipt) => {
                let text = format!("stored by the cloud service, receipt {receipt}");
                Outcome::Delivered(Reply::new(250, EnhancedCode(2, 0, 0), text))
            }
            Err(outcome) => outcome,
        };
        all(recipients, &outcome)
    }

    async fn put(
        &self,
        envelope: &Envelope,
        group: u32,
        recipients: &[u16],
        content: Box<dyn Content>,
    ) -> Result<String, Outcome> {
        let failed = |fault: Fault| fault.outcome();
        let links = self.links().map_err(failed)?;
        let pass = self.gate.enter().await.map_err(Outcome::Deferred)?;
        let frame = Frame::new(envelope, group, recipients, content).map_err(failed)?;
        let reading = frame.clone();
        let digest = tokio::task::spawn_blocking(move || reading.digest())
            .await
            .unwrap_or_else(|_| Err(Fault::Unreadable("the thread that read it ended early".to_owned())))
            .map_err(failed)?;
        let path = path::message(&envelope.id.to_string(), group);
        match upload::upload(&links, &path, &frame, digest).await {
            Ok(receipt) => {
                pass.succeeded();
                Ok(receipt)
            }
            Err(fault) => {
                let outcome = fault.outcome();
                match (&fault, &outcome) {
                    (Fault::Later { wait: Some(wait), .. }, Outcome::Deferred(reply)) => {
                        self.gate.suspend(*wait, reply)
                    }
                    (fault, Outcome::Deferred(reply)) if fault.is_about_the_service() => {
                        if pass.failed(reply) {
                            log::warn!(destination = "cloud"; "the cloud service is not asked for a while: {reply}");
                        }
                    }
                    _ => pass.succeeded(),
                }
                Err(outcome)
            }
        }
    }

    /// Trades a one-time code and the device key's request for a certificate. The caller keeps the enrolment on stable
    /// storage, then calls [`CloudClient::adopt`]; the same code may be used again until then.
    ///
    /// # Errors
    /// See [`EnrolError`].
    pub async fn enrol(&self, code: &str) -> Result<Enrolment, EnrolError> {
        let service = self.service.as_ref().ok_or(EnrolError::NotConfigured)?;
        let identity = Arc::clone(&self.identity);
        // The TPM signs the request: that may take its time.
        let request = tokio::task::spawn_blocking(move || identity.request())
            .await
            .unwrap_or_else(|_| Err(IdentityError("the device key's thread ended early; try again".to_owned())))?;
        let request = EnrolRequest {
            code: code.trim().to_owned(),
            csr: identity::request_pem(&request),
            attestation: None,
            software: SOFTWARE.to_owned(),
        };
        let body = serde_json::to_vec(&request).map_err(|error| EnrolError::BadAnswer(error.to_string()))?;
        let links = Links::new(service.endpoint.clone(), Arc::clone(&service.anonymous), 1);
        let make = |builder: http::request::Builder| {
            let body = Full::from(body.clone()).map_err(|never| match never {});
            builder.method(Method::POST).header(http::header::CONTENT_TYPE, "application/json").body(Body::new(body))
        };
        let unreachable = |fault: Fault| EnrolError::Unreachable(fault.to_string());
        let response = links.request(path::ENROL, body.len() as u64, make).await.map_err(unreachable)?;
        match Answer::of_status(response.status().as_u16()) {
            Answer::Stored => {
                let enrolment: Enrolment =
                    upload::json(&response).map_err(|fault| EnrolError::BadAnswer(fault.to_string()))?;
                // Refused here rather than kept. Whether it is for our key shows when it is adopted.
                identity::chain(&enrolment.certificate)?;
                Ok(enrolment)
            }
            Answer::Refused | Answer::NotEnrolled => Err(EnrolError::Refused(upload::explanation(&response))),
            answer => Err(unreachable(upload::refusal(answer, &response))),
        }
    }

    /// Delivers with this enrolment from now on. May block on the device key.
    ///
    /// # Errors
    /// The certificate cannot be read, or is not for the present device key.
    pub fn adopt(&self, enrolment: &Enrolment) -> Result<(), EnrolError> {
        let service = self.service.as_ref().ok_or(EnrolError::NotConfigured)?;
        let tls = identity::authenticated(&service.anonymous, self.identity.as_ref(), &enrolment.certificate)?;
        let links = Links::new(service.endpoint.clone(), tls, service.max_connections);
        self.set(State::Enrolled(Arc::new(links)));
        self.gate.resume();
        Ok(())
    }

    /// Why confidential mail waits although the service may be there; `None` once enrolled.
    #[must_use]
    pub fn not_enrolled(&self) -> Option<String> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::NotEnrolled(why) => Some(why.clone()),
            State::Enrolled(_) => None,
        }
    }

    /// Set while the service fails: it is not asked, after failures in a row or because it said when to come back, or has
    /// not been got through to since.
    #[must_use]
    pub fn suspension(&self) -> Option<Suspension> {
        Some(Suspension::of(Destination::Cloud, self.gate.suspension()?))
    }

    /// Until when the service is not asked, past or to come; the retry must not be sooner.
    #[must_use]
    pub fn not_before(&self) -> Option<Timestamp> {
        self.gate.suspension().map(|pause| pause.until)
    }

    /// Asks the service again at once.
    pub fn resume(&self) {
        self.gate.resume();
    }

    fn links(&self) -> Result<Arc<Links>, Fault> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::NotEnrolled(why) => Err(Fault::NotEnrolled(why.clone())),
            State::Enrolled(links) => Ok(Arc::clone(links)),
        }
    }

    fn set(&self, state: State) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

fn endpoint(url: &str) -> Result<Endpoint, SetupError> {
    let bad = || SetupError::Url(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| bad())?;
    let authority = uri.authority().ok_or_else(bad)?;
    if uri.scheme_str() != Some("https") || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(bad());
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host.clone()).map_err(|_| bad())?;
    let port = authority.port_u16().unwrap_or(443);
    Ok(Endpoint { host, port, name, origin: format!("https://{authority}") })
}

#[cfg(test)]
mod tests;
