//! The Received field.
//!
//! Job: write the trace field of a message (RFC 5321 §4.4, protocol names of RFC 3848 and RFC 6531 §4.3). Place: called
//! by the pipeline before the message is judged and stored. Invariants: every value in it was checked when the envelope
//! was made, so no client can inject a line; `for` stands only with one recipient, so that no blind copy is told to the
//! others; lines stay under 998 octets. A crash leaves nothing behind.

use jiff::tz::TimeZone;
use mail::{Domain, Envelope};
use std::net::IpAddr;

/// The whole field with its final CR LF; `host` is our own name.
#[must_use]
pub fn received_header(envelope: &Envelope, host: &Domain) -> Vec<u8> {
    let client = &envelope.client;
    let address = match client.ip.to_canonical() {
        IpAddr::V4(ip) => format!("[{ip}]"),
        IpAddr::V6(ip) => format!("[IPv6:{ip}]"),
    };
    let protocol = match (envelope.smtputf8, client.esmtp, client.tls.is_some()) {
        (true, _, false) => "UTF8SMTP",
        (true, _, true) => "UTF8SMTPS",
        (false, false, _) => "SMTP",
        (false, true, false) => "ESMTP",
        (false, true, true) => "ESMTPS",
    };
    let mut field = format!("Received: from {} ({address})\r\n", client.helo);
    if let Some(tls) = &client.tls {
        field.push_str(&format!("\t(using {tls})\r\n"));
    }
    field.push_str(&format!("\tby {host} with {protocol} id {}", envelope.id));
    if let [recipient] = envelope.recipients.as_slice() {
        field.push_str(&format!("\r\n\tfor <{recipient}>"));
    }
    let date = envelope.received.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S %z");
    field.push_str(&format!(";\r\n\t{date}\r\n"));
    field.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail::{BodyType, Client, MessageId, ReversePath};

    fn envelope(recipients: &[&str], tls: Option<&str>) -> Envelope {
        Envelope {
            id: MessageId::from_bytes([0; 16]),
            sender: ReversePath::Null,
            recipients: recipients.iter().map(|r| r.parse().unwrap()).collect(),
            body: BodyType::SevenBit,
            smtputf8: false,
            client: Client {
                ip: "192.0.2.7".parse().unwrap(),
                helo: "client.example".into(),
                esmtp: true,
                tls: tls.map(str::to_owned),
            },
            received: jiff::Timestamp::from_second(1_700_000_000).unwrap(),
        }
    }

    fn text(envelope: &Envelope) -> String {
        String::from_utf8(received_header(envelope, &"mx.example".parse().unwrap())).unwrap()
    }

    #[test]
    fn one_recipient_is_named() {
        assert_eq!(
            text(&envelope(&["a@b.example"], Some("TLSv1.3 TLS13_AES_256_GCM_SHA384"))),
            "Received: from client.example ([192.0.2.7])\r\n\t(using TLSv1.3 TLS13_AES_256_GCM_SHA384)\r\n\
             \tby mx.example with ESMTPS id 00000000000000000000000000\r\n\tfor <a@b.example>;\r\n\
             \tTue, 14 Nov 2023 22:13:20 +0000\r\n"
        );
    }

    #[test]
    fn several_recipients_are_not_told_of_each_other() {
        let field = text(&envelope(&["a@b.example", "blind@b.example"], None));
        assert!(!field.contains("b.example>") && !field.contains("for"), "{field}");
        assert!(field.contains("with ESMTP id"), "{field}");
    }

    #[test]
    fn protocol_names_follow_rfc_3848_and_rfc_6531() {
        let mut it = envelope(&["a@b"], None);
        it.client.esmtp = false;
        assert!(text(&it).contains("with SMTP id"));
        it.client.esmtp = true;
        it.smtputf8 = true;
        assert!(text(&it).contains("with UTF8SMTP id"));
        it.client.tls = Some("TLSv1.2".into());
        assert!(text(&it).contains("with UTF8SMTPS id"));
        it.client.ip = "::ffff:192.0.2.9".parse().unwrap();
        assert!(text(&it).contains("([192.0.2.9])"));
        it.client.ip = "2001:db8::1".parse().unwrap();
        assert!(text(&it).contains("([IPv6:2001:db8::1])"));
    }
}
