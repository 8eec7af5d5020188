//! Who may operate the appliance: `[[operators]]`.
//!
//! Job: read names, roles and password hashes, and let settings be shown and given back without the hashes. Place: read
//! by `parse`; the operators' face signs people in by it. Invariants: no password stands here, only its Argon2id hash,
//! whose cost is bounded in both directions; an operator without a hash can't sign in. A crash leaves nothing behind.

use crate::{
    Settings,
    check::quoted,
    problem::{Halves, Problems, halves},
    read::Section,
};
use serde::Serialize;
use std::{collections::BTreeMap, ops::RangeInclusive};
use toml::de::DeTable;

/// Stands for a password that stays as it is.
pub(crate) const UNCHANGED: &str = "unchanged";

/// Characters of a name: it stands in one column of the console.
const LONGEST_NAME: usize = 32;

/// KiB that one check may take: less is guessed too fast, more does not fit beside the mail.
const MEMORY: RangeInclusive<u32> = 8_192..=262_144;

/// Passes over that memory; a sign-in must not take longer than a few seconds.
const PASSES: RangeInclusive<u32> = 1..=10;

/// Lanes.
const LANES: RangeInclusive<u32> = 1..=8;

/// `[[operators]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Operator {
    /// `name`, unique.
    pub name: String,
    /// `role`
    pub role: Role,
    /// `password`: its hash, `$argon2id$v=19$m=…,t=…,p=…$salt$hash`; `None` where the text says `unchanged`: the one in
    /// force stays.
    pub password: Option<String>,
}

/// What an operator may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Administrator,
}

impl Role {
    pub(crate) const WORDS: [(&str, Self); 1] = [("administrator", Self::Administrator)];
}

pub(crate) fn operators(root: &mut Section<'_>, problems: &mut Problems<'_>) -> Vec<Operator> {
    let mut operators = Vec::new();
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let entries = root.item("operators").map(|item| item.entries(problems)).unwrap_or_default();
    for entry in entries {
        let mut section = entry.section(problems);
        let name = section.required("name", problems, "name = \"anna\"").and_then(|item| {
            let name = item.text(problems, name)?;
            if let Some(first) = seen.insert(name.clone(), item.place.path.clone()) {
                problems.add(
                    &item.place,
                    format!("{name} stands already in {first}"),
                    "give each operator a name of their own",
                );
            }
            Some(name)
        });
        let role = section
            .required("role", problems, "role = \"administrator\"")
            .and_then(|item| item.choice(&Role::WORDS, problems));
        let password = section
            .required("password", problems, "password = \"$argon2id$…\", or \"unchanged\"")
            .and_then(|item| item.text(problems, password));
        section.finish(problems);
        if let (Some(name), Some(role), Some(password)) = (name, role, password) {
            operators.push(Operator { name, role, password });
        }
    }
    operators
}

fn name(text: &str) -> Result<String, Halves> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
    if text.len() <= LONGEST_NAME && text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(good) {
        Ok(text.to_owned())
    } else {
        Err(halves(
            format!("{} is not an operator's name", quoted(text)),
            format!(
                "write up to {LONGEST_NAME} lower-case letters, digits, dots and hyphens, a letter first, for example \"anna\""
            ),
        ))
    }
}

/// The value is not shown in the error: it may be a password, written where its hash belongs.
fn password(text: &str) -> Result<Option<String>, Halves> {
    if text == UNCHANGED {
        return Ok(None);
    }
    let remedy = "set the password at the console, or write its hash as `argon2` prints it: \"$argon2id$v=19$m=…\"";
    let mut parts = text.split('$');
    let (Some(""), Some("argon2id"), Some("v=19"), Some(cost), Some(salt), Some(hash), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(halves("this is not the Argon2id hash of a password", remedy));
    };
    let base64 = |text: &str, lengths: RangeInclusive<usize>| {
        lengths.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
    };
    // 8 to 48 bytes of salt (RFC 9106 §3.1 recommends 16), 32 of hash, without padding.
    if !base64(salt, 11..=64) || !base64(hash, 43..=43) {
        return Err(halves("the password's hash is cut off or has foreign characters", remedy));
    }
    let mut costs = cost.split(',').map(|part| part.split_once('='));
    let mut number = |name: &str| {
        costs.next().flatten().filter(|(key, _)| *key == name).and_then(|(_, value)| value.parse::<u32>().ok())
    };
    match (number("m"), number("t"), number("p"), costs.next()) {
        (Some(m), Some(t), Some(p), None) if MEMORY.contains(&m) && PASSES.contains(&t) && LANES.contains(&p) => {
            Ok(Some(text.to_owned()))
        }
        _ => Err(halves(
            "the password's hash is too cheap or too dear to check",
            "make it with m=8192 to 262144 (KiB), t=1 to 10 and p=1 to 8, for example m=19456,t=2,p=1",
        )),
    }
}

impl Settings {
    /// The same without what only the appliance itself needs to know: operators' passwords read `unchanged`.
    #[must_use]
    pub fn without_secrets(&self) -> Self {
        let mut shown = self.clone();
        shown.operators.iter_mut().for_each(|operator| operator.password = None);
        shown
    }
}

/// The text with the hashes that are in force where it says `unchanged` of an operator who is; all else stays as it is,
/// also what is no settings text.
#[must_use]
pub fn with_passwords_of(in_force: &Settings, text: String) -> String {
    let (tree, errors) = DeTable::parse_recoverable(&text);
    if !errors.is_empty() {
        return text;
    }
    let word =
        |table: &DeTable<'_>, key: &str| table.get(key).and_then(|value| value.get_ref().as_str().map(str::to_owned));
    let mut places = Vec::new();
    let entries = tree.get_ref().get("operators").and_then(|value| value.get_ref().as_array());
    for table in entries.into_iter().flatten().filter_map(|entry| entry.get_ref().as_table()) {
        let of_this_name = word(table, "name").and_then(|name| in_force.operators.iter().find(|o| o.name == name));
        let Some(hash) = of_this_name.and_then(|operator| operator.password.as_ref()) else { continue };
        if let Some(value) = table.get("password").filter(|value| value.get_ref().as_str() == Some(UNCHANGED)) {
            places.push((value.span(), toml::Value::String(hash.clone()).to_string()));
        }
    }
    drop(tree);
    let mut text = text;
    places.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
    for (span, hash) in places {
        if text.get(span.clone()).is_some() {
            text.replace_range(span, &hash);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    #[test]
    fn only_bounded_argon2id_hashes_are_taken_and_none_is_quoted_in_an_error() {
        assert_eq!(password(HASH).unwrap().as_deref(), Some(HASH));
        assert_eq!(password(UNCHANGED).unwrap(), None);
        for (from, to) in [
            ("argon2id", "argon2i"),
            ("19456", "1024"),
            ("19456", "9999999"),
            ("t=2", "t=200"),
            ("p=1", "p=0"),
            ("$c29", "$?"),
            ("AAA", ""),
        ] {
            let text = HASH.replacen(from, to, 1);
            let (what, remedy) = password(&text).unwrap_err();
            assert!(!what.contains("AAAA") && !remedy.contains("AAAA"), "{text}: {what}");
        }
        for text in ["", "secret@", "$argon2id$", "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l$AAAA$x"] {
            assert!(password(text).is_err(), "{text}");
        }
    }

    #[test]
    fn settings_shown_without_passwords_can_be_given_back_with_their_comments() {
        let text = format!(
            "host.name = 'postern.example.org'\nintake.networks = ['192.0.2.10']\nrelay.smarthost = 'mx.example.net:25'\n\
             [[operators]]\nname = 'anna'\nrole = 'administrator'\npassword = '{HASH}'\n"
        );
        let in_force = crate::parse(&text).unwrap();
        let shown = in_force.without_secrets().to_toml();
        assert!(!shown.contains("argon2id") && shown.contains("password = \"unchanged\""), "{shown}");
        let added = "# kept\n[[operators]]\nname = 'bert'\nrole = 'administrator'\npassword = 'unchanged'\n";
        let back = with_passwords_of(&in_force, format!("{shown}{added}"));
        let parsed = crate::parse(&back).unwrap();
        assert_eq!(parsed.operators[0], in_force.operators[0], "{back}");
        assert_eq!(parsed.operators[1].password, None, "nobody's hash is taken for a new name");
        assert!(back.contains("# kept"), "{back}");
        assert_eq!(with_passwords_of(&in_force, "no TOML [".into()), "no TOML [");
    }
}
