//! The two messages of a health check.
//!
//! Job: write them. Place: handed in over SMTP by [`super::session`]. Invariants: canonical lines, none begins with a dot;
//! the numbers are the ones that card schemes and the IBAN registry publish for tests, and nobody's. A crash leaves
//! nothing behind.

use super::probe::Kind;
use mail::PROBE_DOMAIN;

/// A zip archive with `probe.csv` in it: `name,iban`, `probe,DE89 3704 0044 0532 0130 00`. Text would be read by the daemon
/// itself; an archive is read by a worker.
const ARCHIVE: &str = "\
    UEsDBBQAAAAIAAAAIVwRgniNLQAAAC4AAAAJAAAAcHJvYmUuY3N2y0vMTdXJTErM4+UqKMpPStVx\r\n\
    cbWwVDA2NzBRMDAwARKmxkYKBobGBkAuLxcAUEsBAhQDFAAAAAgAAAAhXBGCeI0tAAAALgAAAAkA\r\n\
    AAAAAAAAAAAAAIABAAAAAHByb2JlLmNzdlBLBQYAAAAAAQABADcAAABUAAAAAAA=";

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
             --probe\r\nContent-Type: application/zip\r\nContent-Transfer-Encoding: base64\r\n\
             Content-Disposition: attachment; filename=\"probe.zip\"\r\n\r\n\
             {ARCHIVE}\r\n\
             --probe--\r\n"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::probe::{IN_ATTACHMENT, IN_TEXT};
    use policy::extract::walk;

    #[test]
    fn the_lines_are_canonical_and_the_archive_is_a_workers() {
        for kind in [Kind::Ordinary, Kind::Confidential] {
            let text = text(kind, "token@probe.postern.invalid");
            assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
            assert!(text.ends_with("\r\n") && text.lines().all(|line| !line.starts_with('.') && line.len() < 998));
        }
        let message = text(Kind::Confidential, "token@probe.postern.invalid");
        let mut budget = policy::extract::Budget::until(std::time::Instant::now() + std::time::Duration::from_secs(60));
        let parts = walk(message.as_bytes(), &mut budget).parts;
        let attachments: Vec<bool> = parts.iter().map(|part| part.about.attachment).collect();
        assert_eq!(attachments, [false, true], "{IN_TEXT} is for the daemon, {IN_ATTACHMENT} for a worker");
    }
}
