//! Looks for planted text in raw files, in every shape in which it could have been written by mistake.
//!
//! Job: prove that nothing readable is left behind (features K9, threats 24). Place: after the run. Invariants: the
//! searcher is itself tested to see each shape. A crash leaves nothing.

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::read::{DeflateDecoder, ZlibDecoder};
use std::{
    fs, io,
    io::Read,
    path::{Path, PathBuf},
};

/// Inflated octets looked at from one place; a planted text stands near the start of what holds it.
const INFLATE: u64 = 4 << 20;

/// A text, and the shapes that it could have taken.
pub struct Planted {
    shapes: Vec<(&'static str, Vec<u8>)>,
}

impl Planted {
    /// All shapes of `text`, which should hold a non-ASCII letter, so that quoted-printable differs from plain.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let utf16 = |order: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(order).collect::<Vec<u8>>();
        let mut shapes = vec![
            ("plain", text.as_bytes().to_vec()),
            ("UTF-16, little endian", utf16(u16::to_le_bytes)),
            ("UTF-16, big endian", utf16(u16::to_be_bytes)),
            ("quoted-printable", quoted_printable(text)),
            ("hexadecimal", text.bytes().flat_map(|b| format!("{b:02x}").into_bytes()).collect()),
        ];
        for skip in 0..3usize {
            shapes.push(("base64", base64_inside(text.as_bytes(), skip)));
        }
        Self { shapes }
    }

    /// The name of the first shape in `bytes`, also inside what inflates.
    #[must_use]
    pub fn in_bytes(&self, bytes: &[u8]) -> Option<String> {
        self.in_plain(bytes).map(str::to_owned).or_else(|| self.in_inflated(bytes))
    }

    /// All files below `dir` that hold the text, and in which shape.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn below(&self, dir: &Path) -> io::Result<Vec<(PathBuf, String)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let kind = fs::symlink_metadata(&path)?.file_type();
            if kind.is_dir() {
                found.extend(self.below(&path)?);
            } else if kind.is_file()
                && let Some(shape) = self.in_bytes(&fs::read(&path)?)
            {
                found.push((path, shape));
            }
        }
        Ok(found)
    }

    fn in_plain(&self, bytes: &[u8]) -> Option<&'static str> {
        // Line breaks inside base64 and soft breaks in quoted-printable would hide a match.
        let joined: Vec<u8> = bytes.iter().copied().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
        self.shapes.iter().find(|(_, shape)| contains(bytes, shape) || contains(&joined, shape)).map(|(name, _)| *name)
    }

    fn in_inflated(&self, bytes: &[u8]) -> Option<String> {
        for (at, window) in bytes.windows(4).enumerate() {
            let inflated = match window {
                // RFC 1950: deflate with any window and level, no dictionary.
                [cmf, flg, ..]
                    if cmf & 0x0f == 8
                        && cmf >> 4 <= 7
                        && (u16::from(*cmf) << 8 | u16::from(*flg)) % 31 == 0
                        && flg & 0x20 == 0 =>
                {
                    inflate(ZlibDecoder::new(&bytes[at..]))
                }
                b"PK\x03\x04" => {
                    zip_entry(&bytes[at..]).map_or_else(Vec::new, |data| inflate(DeflateDecoder::new(data)))
                }
                [0x1f, 0x8b, 8, 0] => inflate(DeflateDecoder::new(bytes.get(at + 10..).unwrap_or_default())),
                _ => continue,
            };
            if let Some(shape) = self.in_plain(&inflated) {
                return Some(format!("deflated at {at}, {shape}"));
            }
        }
        None
    }
}

/// The data of a local file header (APPNOTE 4.3.7).
fn zip_entry(header: &[u8]) -> Option<&[u8]> {
    let length = |at: usize| Some(usize::from(u16::from_le_bytes([*header.get(at)?, *header.get(at + 1)?])));
    header.get(30 + length(26)? + length(28)?..)
}

fn inflate(reader: impl Read) -> Vec<u8> {
    let mut out = Vec::new();
    // What inflated before an error counts too.
    let _ = reader.take(INFLATE).read_to_end(&mut out);
    out
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(haystack, needle).is_some()
}

fn quoted_printable(text: &str) -> Vec<u8> {
    text.bytes().flat_map(|b| if b.is_ascii() { vec![b] } else { format!("={b:02X}").into_bytes() }).collect()
}

/// The characters that encode `text` alone when `skip` octets stand before it in its group of three.
fn base64_inside(text: &[u8], skip: usize) -> Vec<u8> {
    let padded = [&vec![0; skip], text].concat();
    let encoded = STANDARD.encode(&padded);
    let start = (skip * 8).div_ceil(6);
    let end = padded.len() * 8 / 6;
    encoded.as_bytes()[start..end].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mails::docx;
    use flate2::{
        Compression,
        write::{GzEncoder, ZlibEncoder},
    };

    const TEXT: &str = "Zürich-vault-77123";

    fn packed<W: io::Write>(mut encoder: W, finish: impl Fn(W) -> Vec<u8>) -> Vec<u8> {
        encoder.write_all(format!("some text before, {TEXT}, and behind").as_bytes()).unwrap();
        finish(encoder)
    }

    #[test]
    fn every_shape_is_seen() {
        let planted = Planted::new(TEXT);
        let mut shapes = vec![
            TEXT.as_bytes().to_vec(),
            TEXT.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            TEXT.encode_utf16().flat_map(u16::to_be_bytes).collect(),
            b"Z=C3=BCrich-vault-77123".to_vec(),
            docx(&[TEXT]).unwrap(),
            packed(ZlibEncoder::new(Vec::new(), Compression::best()), |e| e.finish().unwrap()),
            packed(GzEncoder::new(Vec::new(), Compression::best()), |e| e.finish().unwrap()),
        ];
        for before in 0..3 {
            let encoded = STANDARD.encode(format!("{}{TEXT} and more", "x".repeat(before)));
            shapes.push(encoded.as_bytes().chunks(20).flat_map(|line| [line, b"\r\n"].concat()).collect());
        }
        for (index, shape) in shapes.iter().enumerate() {
            let noisy = [&[0x17; 33], shape.as_slice(), &[0x99; 9]].concat();
            assert!(planted.in_bytes(&noisy).is_some(), "shape {index} is not seen");
        }
        assert_eq!(planted.in_bytes(&crate::mails::noise(7, 300_000)), None);
        assert_eq!(planted.in_bytes(b"Zurich-vault-77123"), None);
    }
}
