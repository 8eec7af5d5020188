//! Cookies and form tokens.
//!
//! A form carries an HMAC of the browser's cookie: of the session where there is one, else of a random cookie that says
//! nothing but "the same browser". Neither can be read or set by another site (`__Host-` prefix, RFC 6265bis §4.1.3.2).

use super::{Portal, Problem};
use crate::seal::random;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::http::{HeaderMap, HeaderValue, header};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// Cookie of a session.
pub const SESSION: &str = "__Host-session";
/// Cookie of a browser without a session.
pub const VISIT: &str = "__Host-visit";

/// A cookie's value, if it could be one of ours.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, value)| *key == name && value.len() == 43 && value.bytes().all(is_base64))
        .map(|(_, value)| value)
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// `Set-Cookie` for a value of ours (base64url, so it needs no quoting).
pub fn set_cookie(name: &str, value: &str) -> Result<HeaderValue, Problem> {
    let lifetime = if value.is_empty() { "; Max-Age=0" } else { "" };
    HeaderValue::from_str(&format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax{lifetime}"))
        .map_err(|_| Problem::Form)
}

/// A browser without a session, which a form is shown to.
pub struct Visit {
    value: String,
    /// Whether the cookie has to be set.
    fresh: bool,
}

impl Visit {
    /// The browser of this request.
    pub fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        match cookie(headers, VISIT) {
            Some(value) => Ok(Self { value: value.to_owned(), fresh: false }),
            None => Ok(Self { value: URL_SAFE_NO_PAD.encode(random::<32>()?), fresh: true }),
        }
    }

    /// The cookie to set, if any.
    pub fn cookie(&self) -> Result<Option<HeaderValue>, Problem> {
        if self.fresh { set_cookie(VISIT, &self.value).map(Some) } else { Ok(None) }
    }
}

impl Portal {
    /// The token of forms shown to a browser without a session.
    pub fn visit_token(&self, visit: &Visit) -> String {
        self.token("visit", &visit.value)
    }

    /// The token of forms shown within a session.
    pub fn session_token(&self, session: &str) -> String {
        self.token("session", session)
    }

    fn token(&self, kind: &str, value: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.keys.forms.of(format!("{kind}/{value}").as_bytes()))
    }

    /// Refuses a form that was not shown to this browser without a session.
    pub fn verify_visit(&self, headers: &HeaderMap, token: &str) -> Result<(), Problem> {
        let value = cookie(headers, VISIT).ok_or(Problem::Form)?;
        self.verify(headers, token, &self.token("visit", value))
    }

    /// Refuses a form that was not shown within this session.
    pub fn verify_session(&self, headers: &HeaderMap, session: &str, token: &str) -> Result<(), Problem> {
        self.verify(headers, token, &self.token("session", session))
    }

    fn verify(&self, headers: &HeaderMap, shown: &str, expected: &str) -> Result<(), Problem> {
        if !self.is_own_page(headers) {
            return Err(Problem::Form);
        }
        verify_slices_are_equal(shown.as_bytes(), expected.as_bytes()).map_err(|_| Problem::Form)
    }

    /// What browsers say about where a request comes from (Fetch Metadata; Origin, RFC 6454 §7).
    fn is_own_page(&self, headers: &HeaderMap) -> bool {
        let origin = headers.get(header::ORIGIN).is_none_or(|o| o.as_bytes() == self.origin.as_bytes());
        let site = headers.get("sec-fetch-site").is_none_or(|s| s == "same-origin");
        origin && site
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_among_others_and_only_in_our_form() {
        let value = "A".repeat(43);
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, format!("x=1; {SESSION}={value}; y=2").parse().unwrap());
        assert_eq!(cookie(&headers, SESSION), Some(value.as_str()));
        assert_eq!(cookie(&headers, VISIT), None);
        for bad in ["", "short", &format!("{}\"", "A".repeat(42)), &"A".repeat(44)] {
            let mut headers = HeaderMap::new();
            headers.append(header::COOKIE, format!("{SESSION}={bad}").parse().unwrap());
            assert_eq!(cookie(&headers, SESSION), None, "{bad}");
        }
    }
}
