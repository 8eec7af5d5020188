//! Paths of the API; the version is the first segment.

/// `POST`: a code and a CSR against a client certificate.
pub const ENROL: &str = "/v1/enrol";

/// `PUT` and `GET`: one delivery group of one message. `id` is the Postern ID (26 characters of Crockford's base 32),
/// `group` the number of the delivery within the message; together with the appliance they are the key under which the
/// service stores exactly once.
#[must_use]
pub fn message(id: &str, group: u32) -> String {
    format!("/v1/messages/{id}/{group}")
}
