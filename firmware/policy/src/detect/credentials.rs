//! Keys, tokens and passwords.
//!
//! Job: tell a secret from the words about secrets. Place: called where a rare literal stands (`-BEGIN`, `sswor`), at
//! digits inside a word (tokens), and at an at sign (links with a password). Invariants: each kind has a form (prefix, alphabet, length), or a label, a mark and a value that nobody
//! would write as prose; at most [`MAX_KEY`] bytes are looked at. A crash leaves nothing.

use std::ops::Range;

/// Bytes of the longest private key, in PEM.
const MAX_KEY: usize = 16 * 1024;
/// Bytes of the longest value behind a label.
const MAX_VALUE: usize = 256;

/// What to look at where a literal stands.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// PEM.
    PrivateKey,
    /// `password: value`.
    Password,
    /// `token = value`: the value has to look random.
    Random,
}

fn alnum(b: u8) -> bool {
    b.is_ascii_alphanumeric()
}

fn upper(b: u8) -> bool {
    b.is_ascii_uppercase() || b.is_ascii_digit()
}

fn url64(b: u8) -> bool {
    alnum(b) || b == b'-' || b == b'_'
}

fn dotted(b: u8) -> bool {
    url64(b) || b == b'.'
}

fn base64(b: u8) -> bool {
    alnum(b) || matches!(b, b'+' | b'/' | b'=')
}

/// The literals. All are rare in prose from their first four bytes on, and few enough for the quickest vector search.
const LITERALS: [(&str, Form); 29] = [
    ("-BEGIN ", Form::PrivateKey),
    ("sswor", Form::Password),
    ("SSWOR", Form::Password),
    ("sswd", Form::Password),
    ("SSWD", Form::Password),
    ("ssphr", Form::Password),
    ("SSPHR", Form::Password),
    ("pwd:", Form::Password),
    ("pwd=", Form::Password),
    ("pwd\"", Form::Password),
    ("pwd ", Form::Password),
    ("PWD:", Form::Password),
    ("PWD=", Form::Password),
    ("PWD ", Form::Password),
    ("ennwor", Form::Password),
    ("ENNWOR", Form::Password),
    ("ntraseña", Form::Password),
    ("t de passe", Form::Password),
    ("ecret", Form::Random),
    ("ECRET", Form::Random),
    ("token", Form::Random),
    ("TOKEN", Form::Random),
    ("pi_key", Form::Random),
    ("PI_KEY", Form::Random),
    ("pi key", Form::Random),
    ("PI key", Form::Random),
    ("pikey", Form::Random),
    ("piKey", Form::Random),
    ("earer ", Form::Random),
];

/// Tokens by their prefix: at least and at most so many of an alphabet behind it.
struct Token {
    prefix: &'static [u8],
    least: usize,
    most: usize,
    alphabet: fn(u8) -> bool,
}

const fn token(prefix: &'static [u8], least: usize, most: usize, alphabet: fn(u8) -> bool) -> Token {
    Token { prefix, least, most, alphabet }
}

const TOKENS: [Token; 21] = [
    token(b"AKIA", 16, 16, upper),
    token(b"ASIA", 16, 16, upper),
    token(b"ghp_", 36, 255, alnum),
    token(b"gho_", 36, 255, alnum),
    token(b"ghu_", 36, 255, alnum),
    token(b"ghs_", 36, 255, alnum),
    token(b"ghr_", 36, 255, alnum),
    token(b"github_pat_", 22, 255, url64),
    token(b"glpat-", 20, 255, dotted),
    token(b"xoxb-", 20, 255, url64),
    token(b"xoxp-", 20, 255, url64),
    token(b"xoxa-", 20, 255, url64),
    token(b"xoxs-", 20, 255, url64),
    token(b"AIza", 35, 35, url64),
    token(b"sk_live_", 16, 255, alnum),
    token(b"rk_live_", 16, 255, alnum),
    token(b"sk-ant-", 20, 255, url64),
    token(b"sk-proj-", 20, 255, url64),
    token(b"SG.", 60, 80, dotted),
    token(b"npm_", 36, 36, alnum),
    token(b"pypi-", 50, 255, url64),
];
/// Bytes of a token before its first digit. One in ten thousand random tokens has none so early.
const MAX_BEFORE_DIGIT: usize = 48;
/// Bytes of the longest token.
const MAX_TOKEN: usize = 4096;

/// The texts to search for; a match's index goes to [`at`].
pub(super) fn literals() -> impl Iterator<Item = &'static str> {
    LITERALS.iter().map(|(text, _)| *text)
}

/// The secret at the literal number `literal` that stands at `start`, and its score.
pub(super) fn at(text: &str, literal: usize, start: usize) -> Option<(Range<usize>, f32)> {
    let &(word, form) = LITERALS.get(literal)?;
    let bytes = text.as_bytes();
    let end = start + word.len();
    match form {
        Form::PrivateKey => private_key(text, start.checked_sub(4)?),
        // The mark behind `pwd` is part of the literal, to tell it from a piece of a word.
        Form::Password => labelled(bytes, start, start + word.trim_end_matches([':', '=', '"', ' ']).len(), false),
        Form::Random => labelled(bytes, start, end, true),
    }
}

/// The token around the run of digits that starts at `digits`: the end of what was looked at, and the secret. Every
/// random token has a digit, so that no other pass is needed to find them.
pub(super) fn token_at(bytes: &[u8], digits: usize) -> (usize, Option<(Range<usize>, f32)>) {
    let before = bytes.get(digits.saturating_sub(MAX_BEFORE_DIGIT)..digits).unwrap_or_default();
    let start = digits - before.iter().rev().take_while(|&&b| dotted(b)).count();
    let length = run(bytes, start, MAX_TOKEN, dotted);
    let value = bytes.get(start..start + length).unwrap_or_default();
    if value.starts_with(b"eyJ") {
        return (start + length, is_jwt(value).then_some((start..start + length, 0.85)));
    }
    let known = TOKENS.iter().find(|token| value.starts_with(token.prefix)).and_then(|token| {
        let rest = value.get(token.prefix.len()..)?;
        let mut taken = rest.iter().take_while(|&&b| (token.alphabet)(b)).count();
        // A full stop or dash behind it belongs to the sentence.
        while taken > token.least && !rest.get(taken - 1).is_some_and(u8::is_ascii_alphanumeric) {
            taken -= 1;
        }
        let end = start + token.prefix.len() + taken;
        let ends = !bytes.get(end).is_some_and(|&b| alnum(b));
        ((token.least..=token.most).contains(&taken) && ends).then_some((start..end, 0.85))
    });
    (start + length, known)
}

/// `scheme://user:secret@host`, by its at sign.
pub(super) fn url_at(bytes: &[u8], at_sign: usize) -> Option<(Range<usize>, f32)> {
    let before = bytes.get(at_sign.saturating_sub(MAX_VALUE)..at_sign)?;
    let first = at_sign - before.len();
    let colon = memchr::memrchr(b':', before)?;
    let secret = before.get(colon + 1..)?;
    let scheme = memchr::memmem::rfind(before.get(..colon)?, b"://")?;
    let user = before.get(scheme + 3..colon)?;
    let part = |b: &u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'<' | b'>' | b'"' | b'?' | b'#');
    let named = scheme.checked_sub(1).and_then(|i| before.get(i)).is_some_and(u8::is_ascii_alphanumeric);
    (named && secret.len() >= 3 && secret.iter().all(part) && user.iter().all(part) && !is_placeholder(secret))
        .then_some((first + colon + 1..at_sign, 0.7))
}

fn run(bytes: &[u8], from: usize, most: usize, alphabet: fn(u8) -> bool) -> usize {
    bytes.get(from..).unwrap_or_default().iter().take(most).take_while(|&&b| alphabet(b)).count()
}

fn has_digit(bytes: &[u8]) -> bool {
    bytes.iter().any(u8::is_ascii_digit)
}

/// `-----BEGIN … PRIVATE KEY-----` (RFC 7468 §10, §11, and the older and PGP forms) to its end.
fn private_key(text: &str, start: usize) -> Option<(Range<usize>, f32)> {
    let rest = text.get(start..)?;
    let head_end = rest.bytes().take(80).skip(10).position(|b| b == b'-')? + 10;
    let label = rest.get(10..head_end)?;
    if !label.contains("PRIVATE KEY") || !rest.get(head_end..)?.starts_with("-----") {
        return None;
    }
    let body = head_end + 5;
    let bytes = rest.as_bytes();
    let window = bytes.get(body..bytes.len().min(MAX_KEY))?;
    let filled = window.iter().take(200).filter(|b| base64(**b)).count() >= 40;
    match memchr::memmem::find(window, b"-----END") {
        Some(end) => {
            let tail = run(bytes, body + end + 8, 80, |b| b != b'\n' && b != b'\r');
            // The tail may end inside a character; the dashes are ASCII, so stop behind the last of them.
            let tail = bytes.get(body + end + 8..body + end + 8 + tail)?;
            let tail = memchr::memrchr(b'-', tail).map_or(0, |i| i + 1);
            Some((start..start + body + end + 8 + tail, if filled { 0.95 } else { 0.5 }))
        }
        None => Some((start..start + body, if filled { 0.9 } else { 0.4 })),
    }
}

fn is_jwt(value: &[u8]) -> bool {
    let mut pieces = value.split(|&b| b == b'.');
    let (Some(head), Some(body), Some(mark)) = (pieces.next(), pieces.next(), pieces.next()) else { return false };
    head.len() >= 16 && body.starts_with(b"eyJ") && body.len() >= 10 && mark.len() >= 16
}

/// `password: value`, `"password" = "value"`, `password is value`, the value behind a line end or in the next cell.
fn labelled(bytes: &[u8], start: usize, end: usize, random: bool) -> Option<(Range<usize>, f32)> {
    let rest = bytes.get(end..)?;
    let mut at = run(rest, 0, 24, |b| alnum(b) || matches!(b, b'_' | b'-' | b' '));
    // ` is ` and the value have been taken for the label: go back to the verb.
    let mut verb = false;
    let label = rest.get(..at)?;
    for word in [&b" is "[..], b" was ", b" ist ", b" est ", b" es "] {
        if let Some(found) = memchr::memmem::find(label, word) {
            at = found + word.len();
            verb = true;
        }
    }
    if !verb && !is_label(label) {
        return None;
    }
    let bearer = bytes.get(start..end) == Some(b"earer ");
    let mut marked = verb || bearer;
    let mut line_end = false;
    if bearer {
        at = 0;
    }
    loop {
        match rest.get(at) {
            // A link behind the word, not a value.
            Some(b':') if rest.get(at + 1) == Some(&b'/') => return None,
            Some(b':' | b'=') => marked = true,
            Some(b'\t' | b'|') => marked = true,
            Some(b'\r') => {}
            Some(b'\n') if !line_end && marked => line_end = true,
            Some(b' ' | b'"' | b'\'' | b'`' | b'>' | b'*' | b')' | b']') => {}
            Some(_) if marked => break,
            _ => return None,
        }
        at += 1;
        if at > 40 {
            return None;
        }
    }
    let value_at = end + at;
    let length = run(bytes, value_at, MAX_VALUE, |b| {
        !b.is_ascii_whitespace() && !b.is_ascii_control() && !matches!(b, b'"' | b'\'' | b'`' | b'<' | b'>' | b'|')
    });
    let value = bytes.get(value_at..value_at + length)?;
    let trimmed = value.iter().rposition(|b| !matches!(b, b',' | b';' | b'.' | b')')).map_or(0, |i| i + 1);
    let value = value.get(..trimmed)?;
    if value.len() < 4 || is_placeholder(value) {
        return None;
    }
    let score = if random { randomness(value)? } else { password(value, verb || line_end)? };
    Some((value_at..value_at + trimmed, score))
}

/// Whether what stands between the word and its mark leaves it a label: `secret access key`, `password for ann`, but not
/// `password protected list`.
fn is_label(rest: &[u8]) -> bool {
    const GO_ON: [&[u8]; 11] =
        [b"for", b"to", b"of", b"access", b"key", b"keys", b"id", b"value", b"phrase", b"hash", b"code"];
    let mut words = rest.split(|&b| b == b' ');
    // The rest of the word itself.
    words.next();
    words.find(|word| !word.is_empty()).is_none_or(|word| GO_ON.iter().any(|known| word.eq_ignore_ascii_case(known)))
}

/// Values that stand for a value.
fn is_placeholder(value: &[u8]) -> bool {
    const STARTS: [&[u8]; 7] = [b"http:", b"https:", b"www.", b"mailto:", b"your", b"example", b"cid:"];
    let starts = |s: &&[u8]| value.get(..s.len()).is_some_and(|v| v.eq_ignore_ascii_case(s));
    STARTS.iter().any(starts)
        || matches!(value.first(), Some(b'$' | b'{' | b'[' | b'%'))
            && value.iter().any(|b| matches!(b, b'}' | b']' | b'%' | b'{'))
        || value.iter().all(|b| matches!(b, b'*' | b'x' | b'X' | b'.' | b'-' | b'_' | b'#' | b'?'))
        || !value.iter().any(u8::is_ascii_alphanumeric)
}

/// Kinds of characters: lower case, upper case, digits, marks.
fn classes(value: &[u8]) -> usize {
    let has = |is: fn(&u8) -> bool| usize::from(value.iter().any(is));
    has(u8::is_ascii_lowercase) + has(u8::is_ascii_uppercase) + has(u8::is_ascii_digit) + has(u8::is_ascii_punctuation)
}

/// A word of a language is a password only where it is marked as a value, and then not surely.
fn password(value: &[u8], loosely_marked: bool) -> Option<f32> {
    let letters_only = value.iter().all(|b| b.is_ascii_alphabetic() || !b.is_ascii());
    let hyphened = value.iter().all(|b| b.is_ascii_alphabetic() || *b == b'-' || *b == b'\'');
    match (letters_only || hyphened, loosely_marked) {
        (true, true) => None,
        (true, false) => Some(0.3),
        (false, _) if classes(value) >= 3 || value.len() >= 8 && classes(value) >= 2 => Some(0.75),
        (false, false) => Some(0.6),
        (false, true) if has_digit(value) && value.len() >= 6 => Some(0.5),
        (false, true) => Some(0.3),
    }
}

/// A value that no one made up: long, letters and digits mixed, digits in more than one place.
fn randomness(value: &[u8]) -> Option<f32> {
    let fits = value.iter().all(|&b| base64(b) || url64(b) || matches!(b, b'.' | b'~'));
    let digits = value.iter().filter(|b| b.is_ascii_digit()).count();
    let letters = value.iter().filter(|b| b.is_ascii_alphabetic()).count();
    if !fits || value.len() < 16 || digits < 2 || letters < 4 {
        return None;
    }
    let changes = value.windows(2).filter(|w| matches!(w, [a, b] if a.is_ascii_digit() != b.is_ascii_digit())).count();
    Some(if changes >= 4 { 0.7 } else { 0.4 })
}
