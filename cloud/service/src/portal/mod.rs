//! The portal: where recipients read.
//!
//! Job: link → register or sign in → inbox → message → attachments, over HTTPS. Place: the last stage of a confidential
//! message. Invariants: no page shows anything of a message without a session of its recipient; following a link changes
//! nothing; every POST carries a token bound to its browser; every answer carries the headers of [`headers`]; requests
//! for another host name are refused (DNS rebinding). A crash leaves sessions and accounts as last committed.

mod form;
mod headers;
mod letters;
mod limits;
mod signin;
mod view;

use crate::{
    Error,
    directory::{Directory, Person},
    inbox::Inbox,
    keys::ServiceKeys,
    tenants::Tenants,
};
use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header},
    middleware,
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use std::sync::Arc;

/// Longest form in bytes: an address, two passwords and a token fit many times over.
const LONGEST_FORM: usize = 16 * 1024;

/// Messages that are decoded and cleaned at once; each takes some tens of mebibytes.
const PAGES_AT_ONCE: usize = 2;

/// What the portal's pages are made from.
pub struct Portal {
    directory: Directory,
    inbox: Inbox,
    tenants: Arc<Tenants>,
    keys: Arc<ServiceKeys>,
    db: sqlx::SqlitePool,
    /// `https://host[:port]`.
    origin: String,
    limits: limits::Limits,
    pages: Arc<tokio::sync::Semaphore>,
}

impl Portal {
    /// The portal at `origin`.
    pub fn new(
        db: sqlx::SqlitePool,
        directory: Directory,
        inbox: Inbox,
        tenants: Arc<Tenants>,
        keys: Arc<ServiceKeys>,
        origin: String,
    ) -> Self {
        Self {
            directory,
            inbox,
            tenants,
            keys,
            db,
            origin,
            limits: limits::Limits::default(),
            pages: Arc::new(tokio::sync::Semaphore::new(PAGES_AT_ONCE)),
        }
    }

    /// Forgets sessions that have ended.
    ///
    /// # Errors
    /// The service's own.
    pub async fn expire(&self) -> Result<(), Error> {
        self.directory.expire().await
    }
}

/// All pages.
pub fn router(portal: Arc<Portal>) -> Router {
    Router::new()
        .route("/", get(start))
        .route("/signin", get(signin::page).post(signin::sign_in))
        .route("/signout", post(signin::sign_out))
        .route("/m/{token}", get(signin::link))
        .route("/m/{token}/register", post(signin::register))
        .route("/m/{token}/signin", post(signin::sign_in_by_link))
        .route("/inbox", get(letters::inbox))
        .route("/messages/{reference}", get(letters::message))
        .route("/messages/{reference}/attachments/{number}", get(letters::attachment))
        .route("/messages/{reference}/images/{number}", get(letters::image))
        .route("/static/portal.css", get(stylesheet))
        .route("/static/icon.svg", get(icon))
        .route("/healthz", get(health))
        .fallback(async || Problem::NotFound)
        .method_not_allowed_fallback(async || Problem::Method)
        .layer(DefaultBodyLimit::max(LONGEST_FORM))
        .layer(middleware::from_fn_with_state(portal.clone(), headers::guard))
        .with_state(portal)
}

async fn start(State(portal): State<Arc<Portal>>, headers: HeaderMap) -> Result<Response, Problem> {
    let signed_in = portal.session(&headers).await?.is_some();
    Ok(Redirect::to(if signed_in { "/inbox" } else { "/signin" }).into_response())
}

async fn stylesheet() -> impl IntoResponse {
    let headers = [(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, "public, max-age=3600")];
    (headers, include_str!("../../static/portal.css"))
}

async fn icon() -> impl IntoResponse {
    let headers = [(header::CONTENT_TYPE, "image/svg+xml"), (header::CACHE_CONTROL, "public, max-age=86400")];
    (headers, include_str!("../../static/icon.svg"))
}

async fn health(State(portal): State<Arc<Portal>>) -> Response {
    match sqlx::query("SELECT 1").execute(&portal.db).await {
        Ok(_) => "ok\n".into_response(),
        Err(e) => {
            log::error!("not healthy: {e}");
            (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n").into_response()
        }
    }
}

/// What can go wrong for a visitor; each has a page.
#[derive(Debug)]
pub enum Problem {
    /// No such page, message or attachment, or not this person's: the two look alike.
    NotFound,
    /// The link is unknown.
    UnknownLink,
    /// The link is too old to register with.
    ExpiredLink,
    /// The form is not from this browser's page, or too old.
    Form,
    /// Too many attempts.
    TooMany,
    /// The method does not fit.
    Method,
    /// Nobody is signed in: leads to the sign-in page.
    SignedOut,
    /// The service's own fault.
    Service(Error),
}

impl<E: Into<Error>> From<E> for Problem {
    fn from(e: E) -> Self {
        Self::Service(e.into())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, title, text) = match self {
            Self::SignedOut => return Redirect::to("/signin").into_response(),
            Self::NotFound => (StatusCode::NOT_FOUND, "Not found", "There is nothing here, or it was not sent to you."),
            Self::UnknownLink => (
                StatusCode::NOT_FOUND,
                "This link is not valid",
                "It may have been cut off. Copy the whole address from the notice into your browser.",
            ),
            Self::ExpiredLink => (
                StatusCode::GONE,
                "This link has expired",
                "Ask the sender to send the message again; a new notice will reach you.",
            ),
            Self::Form => (
                StatusCode::FORBIDDEN,
                "This form can't be used any more",
                "The page was open for too long, or came from elsewhere. Go back, reload it and try again.",
            ),
            Self::TooMany => (
                StatusCode::TOO_MANY_REQUESTS,
                "Too many attempts",
                "For your protection, signing in is paused. Try again in a quarter of an hour.",
            ),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "Not possible", "This page can't be used like that."),
            Self::Service(e) => {
                log::error!("a page failed: {e}");
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "Something went wrong",
                    "This is not your fault, and no message is lost. Try again in some minutes.",
                )
            }
        };
        view::problem(status, title, text)
    }
}

impl Portal {
    /// The signed-in person and the session's token.
    async fn session(&self, headers: &HeaderMap) -> Result<Option<(Person, String)>, Problem> {
        let Some(token) = form::cookie(headers, form::SESSION) else { return Ok(None) };
        Ok(self.directory.person(token).await?.map(|person| (person, token.to_owned())))
    }

    /// As [`Portal::session`], for pages that need one.
    async fn signed_in(&self, headers: &HeaderMap) -> Result<(Person, String), Problem> {
        self.session(headers).await?.ok_or(Problem::SignedOut)
    }
}
