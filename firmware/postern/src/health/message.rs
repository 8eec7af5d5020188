//! The two messages of a health check.
//!
//! Job: write them. Place: handed in over SMTP by [`super::session`]. Invariants: canonical lines, none begins with a dot;
//! the numbers are the ones that card schemes and the IBAN registry publish for tests, and nobody's. A crash leaves
//! nothing behind.

use super::probe::Kind;
use mail::PROBE_DOMAIN;

/// The message of this kind from `sender`.
#[must_use]
pub fn text(kind: Kind, sender: &str) -> String {
    let head = format!(
        "From: <{sender}>\r\nTo: <{}@{PROBE_DOMAIN}>\r\nSubject: Health check\r\nMIME-Version: 1.0\r\n",
        kind.name()
    );
    match kind {
        Kind::Ordinary => format!(
            "{head}Content-Type: text/plain; charset=us-ascii\r\n\r\nA message of the health check, with nothing in it.\r\n"
        ),
        Kind::Confidential => format!(
            "{head}Content-Type: multipart/mixed; boundary=\"probe\"\r\n\r\n\
             --probe\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n\
             Credit card number 4111 1111 1111 1111.\r\n\
             --probe\r\nContent-Type: text/csv; charset=us-ascii\r\n\
             Content-Disposition: attachment; filename=\"probe.csv\"\r\n\r\n\
             name,iban\r\nprobe,DE89 3704 0044 0532 0130 00\r\n\
             --probe--\r\n"
        ),
    }
}
