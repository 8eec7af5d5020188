//! Who somebody is: links, registration, sign-in, sign-out.

use super::{Portal, Problem, form, limits::Subject, view};
use crate::{
    directory::{Link, SHORTEST_PASSWORD, check_password},
    listen::Peer,
};
use axum::{
    Extension, Form,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;
use std::sync::Arc;
use zeroize::Zeroizing;

/// The same words whether the address is unknown or the password wrong.
const WRONG: &str = "Address and password do not match. Check both and try again.";
const WRONG_PASSWORD: &str = "The password is not right. Try again.";

/// The form of `/signin`.
#[derive(Deserialize)]
pub struct SignInForm {
    form: String,
    address: String,
    password: Zeroizing<String>,
}

/// The form of `/m/{token}/signin`.
#[derive(Deserialize)]
pub struct PasswordForm {
    form: String,
    password: Zeroizing<String>,
}

/// The form of `/m/{token}/register`.
#[derive(Deserialize)]
pub struct RegisterForm {
    form: String,
    password: Zeroizing<String>,
    again: Zeroizing<String>,
}

/// The form of `/signout`.
#[derive(Deserialize)]
pub struct SignOutForm {
    form: String,
}

/// `GET /signin`
pub async fn page(State(portal): State<Arc<Portal>>, headers: HeaderMap) -> Result<Response, Problem> {
    if portal.session(&headers).await?.is_some() {
        return Ok(Redirect::to("/inbox").into_response());
    }
    sign_in_page(&portal, &headers, StatusCode::OK, None)
}

/// `POST /signin`
pub async fn sign_in(
    State(portal): State<Arc<Portal>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Form(form): Form<SignInForm>,
) -> Result<Response, Problem> {
    portal.verify_visit(&headers, &form.form)?;
    let index = portal.directory.index(&form.address);
    match portal.try_password(&peer, &index, form.password).await? {
        Some(session) => begin_session(&session, "/inbox"),
        None => sign_in_page(&portal, &headers, StatusCode::FORBIDDEN, Some(WRONG)),
    }
}

/// `POST /signout`
pub async fn sign_out(
    State(portal): State<Arc<Portal>>,
    headers: HeaderMap,
    Form(form): Form<SignOutForm>,
) -> Result<Response, Problem> {
    let (_, session) = portal.signed_in(&headers).await?;
    portal.verify_session(&headers, &session, &form.form)?;
    portal.directory.sign_out(&session).await?;
    let mut response = Redirect::to("/signin").into_response();
    response.headers_mut().append(header::SET_COOKIE, form::set_cookie(form::SESSION, "")?);
    // The portal leaves nothing in the browser.
    response.headers_mut().insert("clear-site-data", header::HeaderValue::from_static("\"cache\", \"storage\""));
    Ok(response)
}

/// `GET /m/{token}`: shows a form, and changes nothing: scanners follow links too.
pub async fn link(
    State(portal): State<Arc<Portal>>,
    Path(token): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let link = portal.known_link(&token).await?;
    if let Some((person, _)) = portal.session(&headers).await?
        && person.index == link.person.index
    {
        return Ok(Redirect::to(&format!("/messages/{}", link.reference)).into_response());
    }
    link_page(&portal, &headers, StatusCode::OK, &link, token, None).await
}

/// `POST /m/{token}/register`
pub async fn register(
    State(portal): State<Arc<Portal>>,
    Path(token): Path<String>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Form(form): Form<RegisterForm>,
) -> Result<Response, Problem> {
    portal.verify_visit(&headers, &form.form)?;
    let link = portal.known_link(&token).await?;
    if link.registered {
        return link_page(&portal, &headers, StatusCode::CONFLICT, &link, token, None).await;
    }
    if let Err(e) = check_password(&form.password, &form.again, &link.person.address) {
        return link_page(&portal, &headers, StatusCode::UNPROCESSABLE_ENTITY, &link, token, Some(&e.to_string()))
            .await;
    }
    portal.allow_client(&peer)?;
    match portal.directory.register(&link, form.password).await? {
        Some(session) => begin_session(&session, &format!("/messages/{}", link.reference)),
        // Registered meanwhile, with a password that this visitor may not know.
        None => {
            let link = portal.known_link(&token).await?;
            link_page(&portal, &headers, StatusCode::CONFLICT, &link, token, None).await
        }
    }
}

/// `POST /m/{token}/signin`
pub async fn sign_in_by_link(
    State(portal): State<Arc<Portal>>,
    Path(token): Path<String>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Form(form): Form<PasswordForm>,
) -> Result<Response, Problem> {
    portal.verify_visit(&headers, &form.form)?;
    let link = portal.known_link(&token).await?;
    match portal.try_password(&peer, &link.person.index, form.password).await? {
        Some(session) => begin_session(&session, &format!("/messages/{}", link.reference)),
        None => link_page(&portal, &headers, StatusCode::FORBIDDEN, &link, token, Some(WRONG_PASSWORD)).await,
    }
}

impl Portal {
    async fn known_link(&self, token: &str) -> Result<Link, Problem> {
        let link = self.directory.link(token).await?.ok_or(Problem::UnknownLink)?;
        // Who has an account signs in, however old the link.
        if link.expired && !link.registered { Err(Problem::ExpiredLink) } else { Ok(link) }
    }

    fn allow_client(&self, peer: &Peer) -> Result<(), Problem> {
        let client = Subject::Client(self.keys.forms.of(format!("client/{}", peer.network()).as_bytes()));
        if self.limits.allow(client) { Ok(()) } else { Err(Problem::TooMany) }
    }

    async fn try_password(
        &self,
        peer: &Peer,
        index: &[u8],
        password: Zeroizing<String>,
    ) -> Result<Option<String>, Problem> {
        let account = Subject::Account(self.keys.forms.of(index));
        self.allow_client(peer)?;
        if !self.limits.allow(account) {
            return Err(Problem::TooMany);
        }
        let session = self.directory.sign_in(index, password).await?;
        if session.is_some() {
            self.limits.forget(account);
        }
        Ok(session)
    }
}

/// A fresh session cookie (so none that was planted before is used), and away from the form.
fn begin_session(session: &str, to: &str) -> Result<Response, Problem> {
    let mut response = Redirect::to(to).into_response();
    response.headers_mut().append(header::SET_COOKIE, form::set_cookie(form::SESSION, session)?);
    response.headers_mut().append(header::SET_COOKIE, form::set_cookie(form::VISIT, "")?);
    Ok(response)
}

fn sign_in_page(
    portal: &Portal,
    headers: &HeaderMap,
    status: StatusCode,
    error: Option<&str>,
) -> Result<Response, Problem> {
    let visit = form::Visit::of(headers)?;
    let template = view::SignIn { form: portal.visit_token(&visit), error: error.map(str::to_owned) };
    with_visit(view::page(status, &template)?, &visit)
}

async fn link_page(
    portal: &Portal,
    headers: &HeaderMap,
    status: StatusCode,
    link: &Link,
    token: String,
    error: Option<&str>,
) -> Result<Response, Problem> {
    let visit = form::Visit::of(headers)?;
    let template = view::Link {
        organisation: portal.tenants.name(&link.tenant).await?,
        masked: view::masked(&link.person.address),
        registered: link.registered,
        token,
        form: portal.visit_token(&visit),
        error: error.map(str::to_owned),
        shortest: SHORTEST_PASSWORD,
    };
    with_visit(view::page(status, &template)?, &visit)
}

fn with_visit(mut response: Response, visit: &form::Visit) -> Result<Response, Problem> {
    if let Some(cookie) = visit.cookie()? {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}
