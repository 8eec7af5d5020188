//! The syntax of single values.
//!
//! Job: turn one text into one type, or say in two halves why not. Place: under the sections. Invariants: pure; shows
//! what was written with controls escaped and cut short. A crash leaves nothing behind.

use crate::{
    AddressPattern, HostPort, Network,
    problem::{Halves, halves},
};
use mail::Domain;
use std::net::{IpAddr, SocketAddr};

/// The text in quotes, controls escaped, at most 60 characters.
pub(crate) fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    let more = if text.chars().nth(60).is_some() { "…" } else { "" };
    format!("\"{shown}{more}\"")
}

/// A fully qualified name that may stand in EHLO: ASCII, with a dot, no literal.
pub(crate) fn host_name(text: &str) -> Result<Domain, Halves> {
    let remedy = "write a fully qualified host name, for example \"postern.example.org\"";
    match text.parse::<Domain>() {
        Ok(name) if name.is_literal() => Err(halves(format!("{} is an address, not a name", quoted(text)), remedy)),
        Ok(name) if !text.is_ascii() => {
            Err(halves(format!("{name} is not ASCII"), "write the name as DNS carries it, with xn-- labels"))
        }
        Ok(name) if !text.contains('.') => Err(halves(format!("{name} is not fully qualified"), remedy)),
        Ok(name) => Ok(name),
        Err(_) => Err(halves(format!("{} is not a host name", quoted(text)), remedy)),
    }
}

/// A mail domain.
pub(crate) fn domain(text: &str) -> Result<Domain, Halves> {
    match text.parse::<Domain>() {
        Ok(name) if !name.is_literal() => Ok(name),
        _ => Err(halves(format!("{} is not a domain", quoted(text)), "write a domain, for example \"example.org\"")),
    }
}

/// `address:port` of a listener.
pub(crate) fn listener(text: &str) -> Result<SocketAddr, Halves> {
    text.parse().map_err(|_| {
        halves(
            format!("{} is not an address with a port", quoted(text)),
            "write for example \"0.0.0.0:25\" or \"[::]:25\"; names are not allowed here",
        )
    })
}

/// A block in CIDR notation, or one address.
pub(crate) fn network(text: &str) -> Result<Network, Halves> {
    let not_a_block = || {
        halves(format!("{} is not a network", quoted(text)), "write for example \"192.0.2.0/24\" or \"2001:db8::/32\"")
    };
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| not_a_block())?;
    let width: u8 = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => width,
        Some(p) if !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) => p.parse().map_err(|_| not_a_block())?,
        Some(_) => return Err(not_a_block()),
    };
    if prefix > width {
        return Err(halves(format!("a prefix of {prefix} bits is too long"), format!("write /0 to /{width}")));
    }
    if prefix == 0 {
        return Err(halves(
            "this lets everybody hand in mail for any domain: an open relay",
            "list only the addresses of your own mail servers",
        ));
    }
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        let bits = prefix.saturating_sub(96);
        return Err(halves(format!("{text} is an IPv4 address in disguise"), format!("write \"{v4}/{bits}\"")));
    }
    let first = match address {
        IpAddr::V4(a) => IpAddr::V4((a.to_bits() & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)).into()),
        IpAddr::V6(a) => IpAddr::V6((a.to_bits() & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)).into()),
    };
    if first != address {
        return Err(halves(
            format!("{text} has bits set behind its prefix"),
            format!("write \"{first}/{prefix}\" for the whole block, or \"{address}/{width}\" for the one address"),
        ));
    }
    Ok(Network { address, prefix })
}

/// `host:port`, the host a name, an IPv4 address or an IPv6 address in brackets.
pub(crate) fn host_port(text: &str) -> Result<HostPort, Halves> {
    let remedy = "write \"host:port\", for example \"mx.example.org:25\", \"192.0.2.1:25\" or \"[2001:db8::1]:25\"";
    let wrong = |what: &str| halves(format!("{} {what}", quoted(text)), remedy);
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
        Some((v6, port)) => (
            v6.parse::<std::net::Ipv6Addr>().map_err(|_| wrong("is not an IPv6 address in brackets"))?.to_string(),
            port,
        ),
        None => {
            let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong("has no port"))?;
            if host.contains(':') {
                return Err(wrong("has an IPv6 address without brackets"));
            }
            let looks_numeric = host.rsplit('.').next().is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()));
            let host = match host.parse::<std::net::Ipv4Addr>() {
                Ok(v4) => v4.to_string(),
                Err(_) if looks_numeric => return Err(wrong("is not an IPv4 address")),
                Err(_) => match host.parse::<Domain>() {
                    Ok(name) if !name.is_literal() && host.is_ascii() => name.to_string(),
                    Ok(name) if !name.is_literal() => return Err(wrong("is not ASCII; DNS carries xn-- labels")),
                    _ => return Err(wrong("has no valid host name")),
                },
            };
            (host, port)
        }
    };
    match port.parse::<u16>() {
        Ok(port) if port > 0 && text.ends_with(&format!(":{port}")) => Ok(HostPort { host, port }),
        _ => Err(wrong("has no port from 1 to 65535")),
    }
}

/// `https://host[:port]`, nothing behind it.
pub(crate) fn cloud_url(text: &str) -> Result<String, Halves> {
    let remedy = "write \"https://host\" or \"https://host:port\", without a path";
    let Some(rest) = text.strip_prefix("https://") else {
        return Err(halves("the URL does not begin with https://", remedy));
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#', '@']) {
        // Not quoted: it may hold a password.
        return Err(halves("the URL has more than a host and a port", remedy));
    }
    let has_port = authority.rsplit_once(':').is_some_and(|(host, _)| !host.starts_with('[') || host.ends_with(']'));
    let whole = if has_port { authority.to_owned() } else { format!("{authority}:443") };
    host_port(&whole)
        .map(|_| format!("https://{}", authority.to_ascii_lowercase()))
        .map_err(|_| halves("the URL names no host that could be reached", remedy))
}

/// `*`, `@domain` or a mailbox.
pub(crate) fn address_pattern(text: &str) -> Result<AddressPattern, Halves> {
    let remedy = "write an address, \"@example.org\" for a domain and all below it, or \"*\" for any address";
    match text.strip_prefix('@') {
        _ if text == "*" => Ok(AddressPattern::Any),
        Some(name) => name
            .parse()
            .map(AddressPattern::Within)
            .map_err(|_| halves(format!("{} is not a domain", quoted(text)), remedy)),
        None => text
            .parse()
            .map(AddressPattern::Exact)
            .map_err(|_| halves(format!("{} is not an address", quoted(text)), remedy)),
    }
}

/// A field name (RFC 5322 §3.6.8: printable ASCII but the colon).
pub(crate) fn field_name(text: &str) -> Result<String, Halves> {
    /// A name, its colon and some of its body must fit in one line of 998 (RFC 5322 §2.1.1).
    const LONGEST: usize = 76;
    if !text.is_empty() && text.len() <= LONGEST && text.bytes().all(|b| b.is_ascii_graphic() && b != b':') {
        Ok(text.to_owned())
    } else {
        Err(halves(
            format!("{} is not the name of a header field", quoted(text)),
            "write letters, digits and hyphens, without the colon, for example \"X-Classification\"",
        ))
    }
}

/// A field name that a tag may add: none that mail programs or servers act on.
pub(crate) fn tag_name(text: &str) -> Result<String, Halves> {
    const TAKEN: [&str; 20] = [
        "from",
        "to",
        "cc",
        "bcc",
        "subject",
        "sender",
        "reply-to",
        "date",
        "message-id",
        "in-reply-to",
        "references",
        "received",
        "return-path",
        "mime-version",
        "authentication-results",
        "dkim-signature",
        "domainkey-signature",
        "received-spf",
        "delivered-to",
        "disposition-notification-to",
    ];
    let name = field_name(text)?;
    let lower = name.to_ascii_lowercase();
    if TAKEN.contains(&lower.as_str()) || ["content-", "resent-", "arc-", "list-"].iter().any(|p| lower.starts_with(p))
    {
        return Err(halves(
            format!("{name} has a meaning of its own in mail; a tag must not forge it"),
            "write a name of your own, for example \"X-Classification\"",
        ));
    }
    Ok(name)
}

/// One line of printable ASCII, at most `longest` characters, not only blanks.
pub(crate) fn line(text: &str, longest: usize) -> Result<String, Halves> {
    if let Some(c) = text.chars().find(|c| c.is_control()) {
        return Err(halves(
            format!("the text has a control character ({})", c.escape_default()),
            "write one line without line ends and tabs",
        ));
    }
    if !text.is_ascii() {
        return Err(halves("the text is not ASCII", "write it without accents and other special characters"));
    }
    some_text(text, longest)
}

/// Text that is not only blanks, at most `longest` characters, without controls.
pub(crate) fn some_text(text: &str, longest: usize) -> Result<String, Halves> {
    if text.trim().is_empty() {
        Err(halves("the text is empty", "write at least one character"))
    } else if text.chars().count() > longest {
        Err(halves(format!("the text is longer than {longest} characters"), "shorten it"))
    } else if text.chars().any(char::is_control) {
        Err(halves(format!("{} has control characters", quoted(text)), "write it without them"))
    } else {
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_values_are_taken_in_their_canonical_form() {
        assert_eq!(network("192.0.2.7").unwrap().prefix, 32);
        assert_eq!(network("2001:db8::/32").unwrap().prefix, 32);
        assert_eq!(host_port("[2001:DB8::1]:25").unwrap().host, "2001:db8::1");
        assert_eq!(host_port("MX.Example.org:25").unwrap(), HostPort { host: "mx.example.org".into(), port: 25 });
        assert_eq!(cloud_url("https://Cloud.example/").unwrap(), "https://cloud.example");
        assert_eq!(cloud_url("https://127.0.0.1:42504").unwrap(), "https://127.0.0.1:42504");
        assert_eq!(cloud_url("https://[::1]:8443").unwrap(), "https://[::1]:8443");
        assert_eq!(cloud_url("https://[::1]").unwrap(), "https://[::1]");
    }

    #[test]
    fn bad_values_are_refused() {
        for text in [
            "",
            "0.0.0.0/0",
            "::/0",
            "192.0.2.1/24",
            "192.0.2.0/33",
            "::ffff:192.0.2.0/120",
            "host/8",
            "10.0.0.0/",
            "10.0.0.0/+8",
        ] {
            assert!(network(text).is_err(), "{text}");
        }
        for text in [
            "",
            "host",
            "host:",
            "host:0",
            "host:65536",
            "host:+25",
            ":25",
            "2001:db8::1:25",
            "999.1.1.1:25",
            "a b:25",
            "[::1]25",
            "host:25\n",
        ] {
            assert!(host_port(text).is_err(), "{text}");
        }
        for text in [
            "",
            "http://a.example",
            "https://",
            "https://a/b",
            "https://u:p@a",
            "https://a?b",
            "https://a:x",
            "HTTPS://a",
        ] {
            assert!(cloud_url(text).is_err(), "{text}");
        }
        for text in ["", "Subject", "content-type", "X Y", "X:Y", "X-Ä", "ARC-Seal", "X\r\nY"] {
            assert!(tag_name(text).is_err(), "{text}");
        }
        for text in ["", " ", "a\r\nBcc: b", "a\tb", "ä"] {
            assert!(line(text, 100).is_err(), "{text}");
        }
    }
}
