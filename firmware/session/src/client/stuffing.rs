//! The message's octets as they stand between 354 and the final dot (RFC 5321 §4.5.2).
//!
//! Job: double the dot at the start of lines, and write the end of data. Place: between the spool's content and the
//! socket towards the next hop. Invariants: what goes out has CR and LF only as CR LF, so that no next hop, however
//! lenient, can see an end of data inside a message (CVE-2023-51764/5/6); content that is not so is not sent on. A
//! crash leaves nothing behind: without the final dot the next hop keeps nothing.

use memchr::memchr_iter;

/// The content holds a bare CR or LF, which intake never lets in: it was changed behind our back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored message has a bare CR or LF; look at it with `postern message show`, then delete or re-submit it")]
pub struct NotCanonical;

/// Dot-stuffing of one message, piece by piece.
#[derive(Debug)]
pub struct Stuffing {
    /// The octet before the next piece; LF stands for the start of the first line.
    before: u8,
}

impl Default for Stuffing {
    fn default() -> Self {
        Self::new()
    }
}

impl Stuffing {
    /// At the first octet behind 354.
    #[must_use]
    pub fn new() -> Self {
        Self { before: b'\n' }
    }

    /// The piece as it goes on the wire: itself, unless a line in it starts with a dot.
    ///
    /// # Errors
    /// The content is not canonical; the connection must then be dropped without the final dot.
    pub fn encode(&mut self, piece: Vec<u8>) -> Result<Vec<u8>, NotCanonical> {
        let (Some(&first), Some(&last)) = (piece.first(), piece.last()) else { return Ok(piece) };
        if (self.before == b'\r') != (first == b'\n') {
            return Err(NotCanonical);
        }
        let mut dots = Vec::new();
        if self.before == b'\n' && first == b'.' {
            dots.push(0);
        }
        let mut line_ends = usize::from(last == b'\r');
        for lf in memchr_iter(b'\n', &piece) {
            match lf.checked_sub(1).and_then(|before| piece.get(before)) {
                Some(b'\r') => line_ends += 1,
                // The CR stood at the end of the last piece and was counted there.
                None => {}
                Some(_) => return Err(NotCanonical),
            }
            if piece.get(lf + 1) == Some(&b'.') {
                dots.push(lf + 1);
            }
        }
        // Every LF has its CR; a CR more than that is a bare one.
        if memchr_iter(b'\r', &piece).count() != line_ends {
            return Err(NotCanonical);
        }
        self.before = last;
        Ok(if dots.is_empty() { piece } else { doubled(&piece, &dots) })
    }

    /// Writes the end of data behind the last piece.
    ///
    /// # Errors
    /// The content ends with a bare CR.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<(), NotCanonical> {
        match self.before {
            b'\r' => return Err(NotCanonical),
            b'\n' => {}
            // RFC 5321 §4.1.1.4: the CR LF that ends the last line belongs to the end of data.
            _ => out.extend_from_slice(b"\r\n"),
        }
        out.extend_from_slice(b".\r\n");
        Ok(())
    }
}

fn doubled(piece: &[u8], dots: &[usize]) -> Vec<u8> {
    let mut out = Vec::with_capacity(piece.len() + dots.len() + 5);
    let mut from = 0;
    for &dot in dots {
        out.extend_from_slice(piece.get(from..dot).unwrap_or_default());
        out.push(b'.');
        from = dot;
    }
    out.extend_from_slice(piece.get(from..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(pieces: &[&[u8]]) -> Result<Vec<u8>, NotCanonical> {
        let mut stuffing = Stuffing::new();
        let mut out = Vec::new();
        for piece in pieces {
            out.extend(stuffing.encode(piece.to_vec())?);
        }
        stuffing.finish(&mut out)?;
        Ok(out)
    }

    /// In one piece, and split in two at every place, with empty pieces between.
    fn encode_every_way(content: &[u8]) -> Result<Vec<u8>, NotCanonical> {
        let whole = encode(&[content]);
        for at in 0..=content.len() {
            assert_eq!(encode(&[&content[..at], b"", &content[at..]]), whole, "split at {at}");
        }
        whole
    }

    #[test]
    fn dots_at_line_starts_are_doubled_and_others_are_not() {
        for (content, wire) in [
            (&b""[..], &b".\r\n"[..]),
            (b".", b"..\r\n.\r\n"),
            (b".\r\n", b"..\r\n.\r\n"),
            (b"a.b\r\n", b"a.b\r\n.\r\n"),
            (b"a\r\n.b\r\n..c\r\n\r\n.\r\n", b"a\r\n..b\r\n...c\r\n\r\n..\r\n.\r\n"),
            (b"no line end", b"no line end\r\n.\r\n"),
            (b"\r\n", b"\r\n.\r\n"),
        ] {
            assert_eq!(encode_every_way(content).unwrap(), wire);
        }
    }

    #[test]
    fn smuggled_ends_of_data_are_not_sent() {
        for content in [
            &b"a\n.\nMAIL FROM:<x@y>\r\n"[..],
            b"a\n.\r\n",
            b"a\r\n.\n",
            b"a\r.\r\n",
            b"a\r\r\n.\r\n",
            b"a\r\n.\r",
            b"\n",
            b"\r",
            b"a\r\0\n.\r\n",
        ] {
            assert_eq!(encode_every_way(content), Err(NotCanonical), "{:?}", content.escape_ascii().to_string());
        }
    }

    proptest! {
        #[test]
        fn the_end_of_data_stands_only_at_the_end(pieces in prop::collection::vec(prop::sample::select(
            vec![&b"\r\n"[..], b".", b"a", b"\r\n.", b"text", b"..\r\n"]), 0..40)) {
            let content = pieces.concat();
            let wire = encode(&pieces).unwrap();
            prop_assert_eq!(&wire, &encode(&[&content]).unwrap());
            let body = format!("\r\n{}", String::from_utf8(wire).unwrap());
            prop_assert_eq!(body.find("\r\n.\r\n").unwrap(), body.len() - 5);
            // Undone, it is the content again.
            let mut plain = body[..body.len() - 3].replace("\r\n.", "\r\n");
            if !content.ends_with(b"\r\n") && !content.is_empty() {
                plain.truncate(plain.len() - 2);
            }
            prop_assert_eq!(&plain.as_bytes()[2..], &content[..]);
        }
    }
}
