//! Texts of next hops without the addresses in them.
//!
//! Job: make a reply fit for the log, which never carries a full address. Place: wherever a next hop's words are
//! logged. Invariants: of every mailbox at most the first character of its local part stays. A crash leaves nothing
//! behind.

/// `text` with each `local@` shortened to `l***@`.
#[must_use]
pub fn mask_addresses(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('@') {
        let (before, behind) = rest.split_at(at);
        let start = local_part(before);
        let (kept, local) = before.split_at(start);
        out.push_str(kept);
        out.extend(local.chars().take(1));
        if !local.is_empty() {
            out.push_str("***");
        }
        out.push('@');
        rest = behind.strip_prefix('@').unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// Where the local part at the end of `text` begins: at its opening quote, or behind what cannot be part of it.
fn local_part(text: &str) -> usize {
    if let Some(quoted) = text.strip_suffix('"') {
        return quoted.find('"').unwrap_or(0);
    }
    let foreign = |c: char| c.is_whitespace() || "<>()[],;:\"".contains(c);
    text.rfind(foreign).map_or(0, |at| at + text[at..].chars().next().map_or(1, char::len_utf8))
}

#[cfg(test)]
mod tests {
    use super::mask_addresses;

    #[test]
    fn no_local_part_is_left_whole() {
        for (text, masked) in [
            ("5.1.1 <patient.name@example.org>: unknown", "5.1.1 <p***@example.org>: unknown"),
            ("a@b, jörg+x@c (d@e)", "a***@b, j***@c (d***@e)"),
            ("\"John Q. Public\"@example.org no", "\"***@example.org no"),
            ("mailto:x@y", "mailto:x***@y"),
            ("@ alone and user@", "@ alone and u***@"),
            ("no address", "no address"),
            ("name\u{a0}last@x", "name\u{a0}l***@x"),
        ] {
            assert_eq!(mask_addresses(text), masked);
        }
    }
}
