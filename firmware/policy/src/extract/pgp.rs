//! Encrypted files by their first octets: OpenPGP packets (RFC 9580 §4.2) and armour of every kind.
//!
//! Job: tell what nobody without a key can read. Place: under the sniffer and the reader of texts. Invariants: looks at
//! the first two packets only; armour is one search. A crash leaves nothing.

/// What stands behind `-----BEGIN ` where the rest is encrypted, or signed so that only a program shows it.
const ARMOUR: [&[u8]; 6] =
    [b"PGP MESSAGE", b"CMS-----", b"PKCS7-----", b"PKCS #7", b"ENVELOPED", b"AGE ENCRYPTED FILE-----"];
const BEGIN: &[u8] = b"-----BEGIN ";

/// Whether armoured encrypted data stands anywhere in a text.
pub(super) fn has_armour(text: &[u8]) -> bool {
    let label = |at: usize| text.get(at + BEGIN.len()..).unwrap_or_default();
    memchr::memmem::find_iter(text, BEGIN).any(|at| ARMOUR.iter().any(|known| label(at).starts_with(known)))
}

/// Whether `head` begins with packets of an encrypted message.
pub(super) fn is_encrypted(head: &[u8]) -> bool {
    let Some((tag, length, body)) = packet(head) else { return false };
    // A marker (§5.8) is to be skipped.
    if tag == 10 && body.starts_with(b"PGP") {
        return packet(body.get(length..).unwrap_or_default()).is_some_and(|(tag, _, body)| begins(tag, body));
    }
    begins(tag, body)
}

/// Whether a packet of this tag, with this body, can only begin an encrypted message.
fn begins(tag: u8, body: &[u8]) -> bool {
    match (tag, body) {
        // Session key for a public key (§5.1): version 3 with key identifier and algorithm, version 2 alike, version 6.
        (1, [2 | 3, _, _, _, _, _, _, _, _, algorithm, ..]) => matches!(algorithm, 1..=40 | 100..=110),
        (1, [6, length, ..]) => matches!(length, 0 | 21 | 33),
        // Session key for a password (§5.3): cipher and way from password to key; or the length of both.
        (3, [4, cipher, way, ..]) => matches!(cipher, 1..=13) && matches!(way, 0..=4 | 100..=110),
        (3, [5, cipher, mode, ..]) => matches!(cipher, 1..=13) && matches!(mode, 1..=3),
        (3, [6, _, cipher, mode, ..]) => matches!(cipher, 1..=13) && matches!(mode, 1..=3),
        // Encrypted data itself (§5.13), and its draft of GnuPG.
        (18, [1, ..]) => true,
        (18, [2, cipher, mode, ..]) | (20, [1, cipher, mode, ..]) => matches!(cipher, 1..=13) && matches!(mode, 1..=3),
        _ => false,
    }
}

/// Tag, length (0 where it is open) and what follows the packet's header, in the old and in the new format.
fn packet(bytes: &[u8]) -> Option<(u8, usize, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    if first & 0x80 == 0 {
        return None;
    }
    let (tag, width) = if first & 0x40 != 0 {
        let width = match rest.first()? {
            0..=191 | 224..=254 => 1,
            192..=223 => 2,
            255 => 5,
        };
        (first & 0x3f, width)
    } else {
        (first >> 2 & 0x0f, [1, 2, 4, 0].get(usize::from(first & 3)).copied()?)
    };
    let (length, body) = rest.split_at_checked(width)?;
    // Only the length of a marker is ever used, and that is one octet.
    let length = if let [length] = length { usize::from(*length) } else { 0 };
    Some((tag, length, body))
}
