//! Paths of MAIL and RCPT.
//!
//! Job: read what stands in the angle brackets (RFC 5321 §4.1.2). Place: under the command parser. Invariants: quotes
//! stay as they stand on the wire; a source route is checked and dropped (RFC 5321 appendix C); what is not wholly
//! understood is refused. A crash leaves nothing behind.
//!
//! smtp-proto takes quotes away, so `"a@b"@c` would become another mailbox; it knows no address literals, and reads
//! `<>` and `<postmaster>` alike. So paths are read here, and smtp-proto reads the rest of the line.

use mail::{Address, Domain};

/// What stands in the brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// `<>`
    Null,
    /// `<postmaster>`, without a domain (RFC 5321 §4.1.1.3).
    Postmaster,
    /// A mailbox, its source route dropped.
    Mailbox(Address),
    /// Not an address.
    Flawed,
}

/// Splits a line into the path and the line without it: `MAIL FROM:<a@b> SIZE=1` into `a@b` and
/// `MAIL FROM:<> SIZE=1`. `None` where no brackets match.
pub(crate) fn take_path(line: &str) -> Option<(Path, String)> {
    let (before, rest) = line.split_once('<')?;
    let close = outside_quotes(rest, '>')?;
    let (inner, after) = rest.split_at_checked(close)?;
    Some((read(inner), format!("{before}<{after}")))
}

fn read(inner: &str) -> Path {
    if inner.is_empty() {
        return Path::Null;
    }
    if inner.eq_ignore_ascii_case("postmaster") {
        return Path::Postmaster;
    }
    let mailbox = match inner.strip_prefix('@') {
        None => Some(inner),
        Some(_) => inner.split_once(':').filter(|(route, _)| is_route(route)).map(|(_, mailbox)| mailbox),
    };
    mailbox.and_then(|mailbox| mailbox.parse().ok()).map_or(Path::Flawed, Path::Mailbox)
}

/// `@one,@two`. A literal with a colon (`@[IPv6:…]`) ends the route too early and is refused with it: nobody routes so.
fn is_route(route: &str) -> bool {
    route.split(',').all(|hop| hop.strip_prefix('@').is_some_and(|domain| domain.parse::<Domain>().is_ok()))
}

/// Where `wanted` stands first outside a quoted string.
fn outside_quotes(text: &str, wanted: char) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if c == wanted && !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(line: &str) -> Option<Path> {
        take_path(line).map(|(path, _)| path)
    }

    fn mailbox(text: &str) -> Option<Path> {
        Some(Path::Mailbox(text.parse().unwrap()))
    }

    #[test]
    fn quotes_stay_and_hide_brackets() {
        assert_eq!(path(r#"RCPT TO:<"a@b>c"@example.org>"#), mailbox(r#""a@b>c"@example.org"#));
        assert_eq!(path(r#"RCPT TO:<"a\"> b"@example.org> X"#), mailbox(r#""a\"> b"@example.org"#));
        assert_eq!(path(r#"RCPT TO:<a@"b@c">"#), Some(Path::Flawed));
        assert_eq!(path(r#"RCPT TO:<"a@example.org>"#), None);
    }

    #[test]
    fn source_routes_are_dropped_and_bad_ones_refused() {
        assert_eq!(path("RCPT TO:<@a.example,@b.example:c@d.example>"), mailbox("c@d.example"));
        for bad in ["<@:a@b>", "<@a@b>", "<@a,b:c@d>", "<@a:@b:c@d>", "<@a:>", "<@a >"] {
            assert_eq!(path(bad), Some(Path::Flawed), "{bad}");
        }
    }

    #[test]
    fn the_null_path_and_postmaster_are_told_apart() {
        assert_eq!(path("MAIL FROM:<>"), Some(Path::Null));
        assert_eq!(path("RCPT TO:<PostMaster>"), Some(Path::Postmaster));
        assert_eq!(path("RCPT TO:<x@[IPv6:2001:db8::1]>"), mailbox("x@[IPv6:2001:db8::1]"));
    }

    #[test]
    fn the_rest_of_the_line_is_kept() {
        let (_, rest) = take_path("MAIL FROM:<a@b> SIZE=10 BODY=8BITMIME").unwrap();
        assert_eq!(rest, "MAIL FROM:<> SIZE=10 BODY=8BITMIME");
    }
}
