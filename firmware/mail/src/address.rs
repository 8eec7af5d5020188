//! Mailboxes, domains and reverse paths (RFC 5321 §4.1.2, RFC 6531 §3.3).

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Octets of a local part, RFC 5321 §4.5.3.1.1.
const MAX_LOCAL: usize = 64;
/// Octets of a domain, RFC 5321 §4.5.3.1.2.
const MAX_DOMAIN: usize = 255;
/// Octets of a path without its angle brackets, RFC 5321 §4.5.3.1.3.
const MAX_MAILBOX: usize = 254;

/// Why a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is no `@` outside quotes.
    #[error("the address has no @; write it as name@domain")]
    NoDomain,
    /// The part before the `@`.
    #[error("the part before the @ is not allowed by RFC 5321; quote it or correct it")]
    BadLocal,
    /// The part behind the `@`.
    #[error("the domain is not a host name or an address literal; correct the part behind the @")]
    BadDomain,
    /// Longer than RFC 5321 §4.5.3.1 allows.
    #[error("the address is longer than 254 octets; RFC 5321 allows no more")]
    TooLong,
}

/// A domain in lower case: host name, internationalised name or address literal in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(String);

impl Domain {
    /// The text, lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `other` or a name below it.
    #[must_use]
    pub fn is_within(&self, other: &Domain) -> bool {
        self.0.strip_suffix(&other.0).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// `[192.0.2.1]` or `[IPv6:…]`.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.0.starts_with('[')
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Domain {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_DOMAIN {
            return Err(AddressError::TooLong);
        }
        let valid = match text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            Some(literal) => is_literal(literal),
            None => text.split('.').all(is_label),
        };
        if valid { Ok(Self(text.to_lowercase())) } else { Err(AddressError::BadDomain) }
    }
}

impl TryFrom<String> for Domain {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> Self {
        domain.0
    }
}

fn is_literal(text: &str) -> bool {
    match text.get(..5).filter(|tag| tag.eq_ignore_ascii_case("ipv6:")) {
        Some(_) => text[5..].parse::<std::net::Ipv6Addr>().is_ok(),
        None => text.parse::<std::net::Ipv4Addr>().is_ok(),
    }
}

/// Letters, digits, hyphens inside; the underscore, which hosts in the field carry, is let through. Beyond ASCII,
/// whatever is alphanumeric may stand in a U-label (RFC 6531 §3.3).
fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= 63
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.chars().all(|c| {
            c == '-'
                || c == '_'
                || if c.is_ascii() { c.is_ascii_alphanumeric() } else { !c.is_control() && !c.is_whitespace() }
        })
}

/// A mailbox: local part and domain. The local part keeps its case (RFC 5321 §2.4).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    local: String,
    domain: Domain,
}

impl Address {
    /// From parts: `local` as it stands on the wire, quotes included.
    ///
    /// # Errors
    /// The local part is not an RFC 5321 `Local-part`, or the whole is too long.
    pub fn new(local: &str, domain: Domain) -> Result<Self, AddressError> {
        if local.len() > MAX_LOCAL || local.len() + 1 + domain.0.len() > MAX_MAILBOX {
            return Err(AddressError::TooLong);
        }
        if !is_local_part(local) {
            return Err(AddressError::BadLocal);
        }
        Ok(Self { local: local.to_owned(), domain })
    }

    /// The local part as on the wire.
    #[must_use]
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The domain.
    #[must_use]
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Whether SMTPUTF8 is not needed to write it.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.local.is_ascii() && self.domain.0.is_ascii()
    }

    /// `a***@example.org`: for log lines at info level, which never carry a full address.
    #[must_use]
    pub fn masked(&self) -> String {
        let first: String = self.local.chars().take(1).collect();
        format!("{first}***@{}", self.domain)
    }
}

fn is_atext(c: char) -> bool {
    !c.is_ascii() && !c.is_control() || c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c)
}

fn is_local_part(local: &str) -> bool {
    match local.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        Some(quoted) if local.len() >= 2 => {
            let mut chars = quoted.chars();
            while let Some(c) = chars.next() {
                let c = if c == '\\' {
                    chars.next()
                } else if c == '"' {
                    None
                } else {
                    Some(c)
                };
                if c.is_none_or(char::is_control) {
                    return false;
                }
            }
            true
        }
        _ => local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext)),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A quoted local part may hold an @, a domain never does.
        let at = text.rfind('@').ok_or(AddressError::NoDomain)?;
        Self::new(&text[..at], text[at + 1..].parse()?)
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

/// MAIL FROM: an address, or `<>` of notices (RFC 5321 §4.5.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ReversePath {
    /// `<>`
    Null,
    /// An address to return notices to.
    Mailbox(Address),
}

impl ReversePath {
    /// The address, if there is one.
    #[must_use]
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Null => None,
            Self::Mailbox(address) => Some(address),
        }
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address().map_or(Ok(()), |address| address.fmt(f))
    }
}

impl FromStr for ReversePath {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() { Ok(Self::Null) } else { text.parse().map(Self::Mailbox) }
    }
}

impl TryFrom<String> for ReversePath {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ReversePath> for String {
    fn from(path: ReversePath) -> Self {
        path.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Result<Address, AddressError> {
        text.parse()
    }

    #[test]
    fn what_rfc_5321_allows_is_taken() {
        for text in [
            "a@b",
            "John.Q+tag@Example.ORG",
            "\"a b\"@example.org",
            "\"a\\\"@b\"@example.org",
            "x@[192.0.2.1]",
            "x@[IPv6:2001:db8::1]",
            "jörg@münchen.example",
        ] {
            assert!(address(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_rfc_5321_forbids_is_refused() {
        for text in [
            "",
            "a",
            "@b",
            "a@",
            "a@b..c",
            ".a@b",
            "a.@b",
            "a b@c",
            "a@b c",
            "a@-b",
            "a@[300.1.1.1]",
            "a@[IPv6:zz]",
            "\"a@b",
            "\"a\"b\"@c",
            "a\r\n@b",
            "\"\"\"@b",
            "a@b\r\nRCPT",
            "a\0@b",
            "<a@b>",
        ] {
            assert!(address(text).is_err(), "{text:?}");
        }
        assert_eq!(address(&format!("{}@b", "a".repeat(65))), Err(AddressError::TooLong));
        assert_eq!(address(&format!("a@{}", "b.".repeat(140))), Err(AddressError::TooLong));
    }

    #[test]
    fn the_domain_is_lower_case_and_the_local_part_keeps_its_case() {
        assert_eq!(address("John@Example.ORG").unwrap().to_string(), "John@example.org");
    }

    #[test]
    fn a_subdomain_is_within_and_a_lookalike_is_not() {
        let base: Domain = "example.org".parse().unwrap();
        for (name, within) in
            [("example.org", true), ("mail.example.org", true), ("badexample.org", false), ("org", false)]
        {
            assert_eq!(name.parse::<Domain>().unwrap().is_within(&base), within, "{name}");
        }
    }

    #[test]
    fn masking_hides_the_local_part() {
        assert_eq!(address("patient.name@example.org").unwrap().masked(), "p***@example.org");
    }
}
