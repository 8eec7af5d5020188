//! Operators' passwords.
//!
//! Job: make, check and estimate them. Place: the console makes the hash that stands in the settings, the daemon checks
//! against it. Invariants: a password is never kept, logged or sent on: the settings have its Argon2id hash only. A
//! crash leaves nothing behind.

use argon2::{
    Argon2, PasswordVerifier,
    password_hash::{PasswordHash, PasswordHasher, SaltString},
};
use std::{fs::File, io::Read};

/// Bytes of a password; more is no person's.
pub(crate) const LONGEST: usize = 256;

/// Characters of a password that a person may choose: with [`crate::access`]'s waits, guessing takes longer than the
/// box lives, and so does a search through the hash on a stolen backup.
pub(crate) const SHORTEST: usize = 12;

/// The hash as it stands in the settings (PHC string, Argon2id with the crate's parameters: 19 MiB, two passes).
/// `None` where the operating system gives no random bytes.
pub(crate) fn hash(password: &str) -> Option<String> {
    let mut random = [0; 16];
    File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut random)).ok()?;
    let salt = SaltString::encode_b64(&random).ok()?;
    Argon2::default().hash_password(password.as_bytes(), &salt).ok().map(|hash| hash.to_string())
}

/// Whether `password` is the one that `hash` was made of. Takes some 50 ms and 19 MiB.
pub(crate) fn is_right(password: &str, hash: &str) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else { return false };
    password.len() <= LONGEST && Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
}

/// How good a password is, for the bar beside its field: 0 (not taken) to 4.
pub(crate) fn strength(password: &str) -> u8 {
    let length = password.chars().count();
    let mut kinds = [false; 4];
    let mut distinct: Vec<char> = Vec::new();
    let mut steps = 0;
    let mut before = None;
    for c in password.chars() {
        let kind = if c.is_lowercase() {
            0
        } else if c.is_uppercase() {
            1
        } else if c.is_numeric() {
            2
        } else {
            3
        };
        if let Some(seen) = kinds.get_mut(kind) {
            *seen = true;
        }
        if !distinct.contains(&c) {
            distinct.push(c);
        }
        // abcd, 4321, aaaa: each character follows from the one before.
        if before.is_some_and(|before: char| u32::from(before).abs_diff(u32::from(c)) <= 1) {
            steps += 1;
        }
        before = Some(c);
    }
    if length < SHORTEST || distinct.len() < 5 || steps * 2 > length {
        return 0;
    }
    let kinds = kinds.iter().filter(|seen| **seen).count();
    match length + 2 * kinds {
        0..16 => 1,
        16..20 => 2,
        20..26 => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_password_is_right() {
        let made = hash("correct horse battery").unwrap();
        assert!(made.starts_with("$argon2id$v=19$"), "{made}");
        assert!(is_right("correct horse battery", &made));
        assert!(!is_right("correct horse batterz", &made) && !is_right("", &made));
        assert!(!is_right("x", "no hash") && !is_right("x", ""));
        assert_ne!(made, hash("correct horse battery").unwrap(), "each has its own salt");
    }

    #[test]
    fn short_and_regular_passwords_are_not_taken() {
        for bad in ["", "short", "aaaaaaaaaaaaaaaa", "abcdefghijklmnop", "1234567890123456", "ababababababab"] {
            assert_eq!(strength(bad), 0, "{bad}");
        }
        assert!(strength("correct horse battery staple") > strength("plumtreefive"));
        assert!(strength("plumtreefive") > 0);
    }
}
