//! The API that appliances use.
//!
//! Job: map HTTP to enrolment and ingest, in the words of `wire`. Place: behind the API listener. Invariants: but for
//! enrolment, nothing is answered to a client without a certificate that maps to an enrolled appliance, not even whether
//! a path exists; a request runs to its end even when the connection is gone. A crash leaves what ingest leaves.

use crate::{
    Error,
    authority::{Authority, RequestKey, fingerprint},
    event,
    ingest::{Ingest, Key, Piece, PutError, Taken},
    listen::Peer,
    tenants::{Appliance, Tenants},
};
use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Json, Response},
    routing::{get, post},
};
use http_body_util::{BodyExt, Limited};
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use wire::{Digest, EnrolRequest, EnrolResponse, Progress, Refusal, Stored, header, limit};

/// Enrolments at once; a code has 100 bits, so this is only about load.
const ENROLMENTS: usize = 4;
/// How long the body of an enrolment may take to arrive.
const ENROLMENT_BODY: Duration = Duration::from_secs(15);
/// How long an enrolment waits for its turn; each takes milliseconds.
const ENROLMENT_TURN: Duration = Duration::from_secs(5);
/// Uploads at once; each holds a few mebibytes.
const UPLOADS: usize = 64;

/// What the API works with.
pub struct Api {
    /// Tenants and appliances.
    pub tenants: Arc<Tenants>,
    /// Storing.
    pub ingest: Arc<Ingest>,
    /// The CA of appliances.
    pub devices: Authority,
    enrolments: Semaphore,
    uploads: Semaphore,
}

impl Api {
    /// The API on these parts.
    pub fn new(tenants: Arc<Tenants>, ingest: Arc<Ingest>, devices: Authority) -> Self {
        let (enrolments, uploads) = (Semaphore::new(ENROLMENTS), Semaphore::new(UPLOADS));
        Self { tenants, ingest, devices, enrolments, uploads }
    }
}

/// All paths.
pub fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/v1/messages/{id}/{group}", get(state).put(put))
        .fallback(async || refuse(StatusCode::NOT_FOUND, "there is no such path; see version 1 of the API"))
        .layer(middleware::from_fn_with_state(api.clone(), enrolled_only))
        .route(wire::path::ENROL, post(enrol))
        .with_state(api)
}

fn refuse(status: StatusCode, error: impl ToString) -> Response {
    let mut response = (status, Json(Refusal { error: error.to_string() })).into_response();
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        response.headers_mut().insert(header::RETRY_AFTER, axum::http::HeaderValue::from_static("10"));
    }
    response
}

fn fault(error: &Error) -> Response {
    log::error!("a request failed: {error}");
    refuse(StatusCode::SERVICE_UNAVAILABLE, "the service can't store at present; try again later")
}

/// Finds the appliance of the connection's certificate.
async fn enrolled_only(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(certificate) = &peer.certificate else {
        return refuse(StatusCode::UNAUTHORIZED, "no client certificate was shown; enrol first");
    };
    match api.tenants.appliance(&fingerprint(certificate)).await {
        Ok(Some(appliance)) => {
            request.extensions_mut().insert(appliance);
            next.run(request).await
        }
        Ok(None) => refuse(StatusCode::FORBIDDEN, "this certificate is not, or no longer, enrolled; enrol anew"),
        Err(e) => fault(&e),
    }
}

async fn enrol(State(api): State<Arc<Api>>, body: Body) -> Response {
    // First the body, then the slot: who sends half a body holds a connection, and no slot.
    let collected = tokio::time::timeout(ENROLMENT_BODY, Limited::new(body, limit::ENROL).collect());
    let Ok(Ok(body)) = collected.await else {
        return refuse(StatusCode::UNPROCESSABLE_ENTITY, "the enrolment is too long or broke off; send it again");
    };
    let Ok(Ok(_slot)) = tokio::time::timeout(ENROLMENT_TURN, api.enrolments.acquire()).await else {
        return refuse(StatusCode::TOO_MANY_REQUESTS, "others are enrolling; try again later");
    };
    let request: EnrolRequest = match serde_json::from_slice(&body.to_bytes()) {
        Ok(request) => request,
        Err(_) => return refuse(StatusCode::UNPROCESSABLE_ENTITY, "the enrolment is not the JSON of version 1"),
    };
    let key = match RequestKey::verify(&request.csr) {
        Ok(key) => key,
        Err(e) => return refuse(StatusCode::UNPROCESSABLE_ENTITY, e),
    };
    let attestation = match request.attestation.as_ref().map(serde_json::to_vec).transpose() {
        Ok(attestation) => attestation,
        Err(e) => return fault(&e.into()),
    };
    match api.tenants.enrol(&api.devices, &request.code, &key, &request.software, attestation.as_deref()).await {
        Ok(Some(enrolled)) => {
            event::enrolled(&enrolled.appliance.id, &enrolled.appliance.tenant);
            Json(EnrolResponse {
                appliance: enrolled.appliance.id,
                tenant: enrolled.appliance.tenant,
                certificate: enrolled.certificate,
                ca: api.devices.pem.clone(),
            })
            .into_response()
        }
        Ok(None) => refuse(
            StatusCode::FORBIDDEN,
            "the code is unknown, expired or used; ask for a new one (`postern-cloud code issue`)",
        ),
        Err(e) => fault(&e),
    }
}

/// The key of a request, or why its path is none.
fn key(appliance: &Appliance, id: &str, group: &str) -> Result<Key, Box<Response>> {
    let valid = ulid::Ulid::from_string(id).is_ok_and(|ulid| ulid.to_string() == id);
    let digits = !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit());
    match group.parse() {
        Ok(group) if valid && digits => Ok(Key { appliance: appliance.id.clone(), message: id.to_owned(), group }),
        _ => Err(Box::new(refuse(
            StatusCode::UNPROCESSABLE_ENTITY,
            "the path names no message; write a Postern ID and a group number",
        ))),
    }
}

async fn state(
    State(api): State<Arc<Api>>,
    Extension(appliance): Extension<Appliance>,
    Path((id, group)): Path<(String, String)>,
) -> Response {
    let key = match key(&appliance, &id, &group) {
        Ok(key) => key,
        Err(refusal) => return *refusal,
    };
    match api.ingest.state(&appliance, &key).await {
        Ok(state) => Json(state).into_response(),
        Err(e) => fault(&e),
    }
}

async fn put(
    State(api): State<Arc<Api>>,
    Extension(appliance): Extension<Appliance>,
    Path((id, group)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let key = match key(&appliance, &id, &group) {
        Ok(key) => key,
        Err(refusal) => return *refusal,
    };
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(Ok(digest)) = text(header::DIGEST).map(str::parse::<Digest>) else {
        return refuse(StatusCode::UNPROCESSABLE_ENTITY, wire::DigestError);
    };
    let number = |name: &str| match headers.contains_key(name) {
        false => Ok(None),
        true => text(name).and_then(|t| t.parse::<u64>().ok()).map(Some).ok_or(()),
    };
    let piece = match (number(header::UPLOAD_OFFSET), number(header::UPLOAD_LENGTH)) {
        (Ok(None), Ok(None)) => None,
        (Ok(Some(offset)), Ok(Some(length))) => Some(Piece { offset, length }),
        _ => {
            return refuse(
                StatusCode::UNPROCESSABLE_ENTITY,
                "send upload-offset and upload-length together, as numbers",
            );
        }
    };
    if api.uploads.available_permits() == 0 {
        return refuse(StatusCode::TOO_MANY_REQUESTS, "too many uploads are under way; try again later");
    }
    // A task of its own: when the client goes away, the body ends with an error and ingest cleans up; dropped half-way,
    // it could not.
    let done = tokio::spawn(async move {
        let _slot = api.uploads.acquire().await;
        api.ingest.put(&appliance, &key, digest, piece, body.into_data_stream()).await
    });
    match done.await {
        Ok(Ok(taken)) => answer(taken),
        Ok(Err(e)) => refusal(&e),
        Err(e) => {
            log::error!("an upload broke off: {}", crate::error::broke_off(&e));
            refuse(StatusCode::SERVICE_UNAVAILABLE, "the upload broke off; send it again")
        }
    }
}

fn answer(taken: Taken) -> Response {
    match taken {
        Taken::Created(receipt) => (StatusCode::CREATED, Json(Stored { receipt })).into_response(),
        Taken::Known(receipt) => Json(Stored { receipt }).into_response(),
        Taken::Progress(offset) => (StatusCode::ACCEPTED, Json(Progress { offset })).into_response(),
        Taken::Elsewhere(offset) => (StatusCode::RANGE_NOT_SATISFIABLE, Json(Progress { offset })).into_response(),
    }
}

fn refusal(error: &PutError) -> Response {
    let status = match error {
        PutError::Conflict => StatusCode::CONFLICT,
        PutError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
        PutError::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
        PutError::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
        PutError::Broken => StatusCode::REQUEST_TIMEOUT,
        PutError::Service(e) => return fault(e),
    };
    refuse(status, error)
}
