//! Header fields of every answer, and the check of the host name.

use super::{Portal, Problem};
use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use std::{sync::Arc, time::Duration};

/// A form is a few hundred bytes, and its password waits for a free hash at most.
const FORM_PATIENCE: Duration = Duration::from_secs(30);

/// Nothing runs, nothing is fetched from elsewhere, nobody frames the page.
pub const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; \
    frame-ancestors 'none'";
/// The page of a message shows cleaned HTML with inline style attributes and pictures that came along.
pub const MESSAGE_POLICY: &str = "default-src 'none'; style-src 'self'; style-src-attr 'unsafe-inline'; \
    img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// What is downloaded never becomes a page of this origin.
pub const FILE_POLICY: &str = "default-src 'none'; sandbox; frame-ancestors 'none'";

const ALWAYS: [(HeaderName, &str); 7] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // Not `no-referrer`: with it browsers send `Origin: null` even with our own forms (Fetch, "append a request Origin").
    (header::REFERRER_POLICY, "same-origin"),
    (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
];

/// Refuses other host names, and dresses what the pages answer.
pub async fn guard(State(portal): State<Arc<Portal>>, request: Request, next: Next) -> Response {
    let own = host(&request).is_some_and(|host| portal.origin.strip_prefix("https://") == Some(host));
    let is_form = request.method() == Method::POST;
    // Health is asked by address, and says nothing about anybody.
    let mut response = if own || request.uri().path() == "/healthz" {
        let answer = next.run(request);
        if is_form {
            tokio::time::timeout(FORM_PATIENCE, answer).await.unwrap_or_else(|_| Problem::Form.into_response())
        } else {
            answer.await
        }
    } else {
        (StatusCode::MISDIRECTED_REQUEST, "This is not the address of the portal.\n").into_response()
    };
    // Rejections of the framework are plain text; the visitor gets a page.
    if response.status().is_client_error() && is_plain(&response) && own {
        response = match response.status() {
            StatusCode::METHOD_NOT_ALLOWED => Problem::Method,
            StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => Problem::NotFound,
            _ => Problem::Form,
        }
        .into_response();
    }
    let headers = response.headers_mut();
    for (name, value) in ALWAYS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(POLICY));
    response
}

fn is_plain(response: &Response) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"))
}

/// HTTP/2 has it in the URI, HTTP/1.1 in the header field; where both stand, they must agree.
fn host(request: &Request) -> Option<&str> {
    let field = request.headers().get(header::HOST).map(|h| h.to_str().unwrap_or_default());
    match (request.uri().authority().map(axum::http::uri::Authority::as_str), field) {
        (Some(uri), Some(field)) => (uri == field).then_some(uri),
        (uri, field) => uri.or(field),
    }
}
