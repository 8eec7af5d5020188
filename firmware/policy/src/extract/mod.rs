//! What a message contains: its header facts and the text of all its parts.
//!
//! Job: turn the octets of an RFC 5322 message into text that detectors can read, the way any mail client could come to
//! show it. Place: the first half of `policy.judge`; text parts in process, all else in workers. Invariants: no I/O, no
//! clock but the deadline, bounded memory and time whatever the input ([`Budget`]); what is not read leaves a
//! [`Condition`], never silence. A crash leaves nothing behind: the message is judged again, or held.
//!
//! ```text
//! walk(message) ─▶ Structure { header, parts: [PartRef] } ─▶ read(about, body) ─▶ Part, Part, …
//!                  borrowed slices, nothing decoded           in process or in a worker
//! ```
//!
//! Where a message can be read in more than one way (threat 8), each reading is a part or a [`View`] of its own, and the
//! section carries [`Condition::Malformed`].

mod archive;
mod budget;
mod cells;
mod charset;
mod cms;
mod control;
mod css;
mod entities;
mod entity;
mod flow;
mod header;
mod html;
mod mime;
mod office;
mod ole;
mod params;
mod pgp;
mod read;
mod sniff;
mod spreadsheet;
mod transfer;
mod xml;

pub use budget::Budget;
pub use header::{Field, Header};
pub use sniff::media_type;

use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt};

/// Why a part was not, or not safely, read (features P8).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Condition {
    /// Nobody without a key or password can read it.
    Encrypted,
    /// It breaks its own format, or can be read in contradicting ways.
    Malformed,
    /// It would need more depth, parts, bytes or time than a [`Budget`] grants.
    OverBudget,
    /// There is no reader for this format, by its sniffed type: `pdf`, `png`, ….
    Unread(String),
}

impl Condition {
    /// Whether the part counts as undecidable, and so as confidential (architecture §6, fail closed).
    #[must_use]
    pub fn is_undecidable(&self) -> bool {
        !matches!(self, Self::Unread(_))
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encrypted => f.write_str("encrypted"),
            Self::Malformed => f.write_str("malformed"),
            Self::OverBudget => f.write_str("over_budget"),
            Self::Unread(kind) => write!(f, "unread:{kind}"),
        }
    }
}

/// How a [`View`] came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ViewKind {
    /// Rows in which digits run on from one cell into the next, written without the border. Holds those rows only; a
    /// lone number found here deserves less trust than one found in the text.
    Joined,
    /// Another way in which a client could decode the same octets, or the text without control octets.
    Reading,
    /// HTML without the elements that a browser hides, so that hidden junk does not split a visible number.
    Visible,
    /// Numbers of a table, each behind the heading of its column.
    Headed,
    /// What a reader sees beside the text: comments, attributes, `alt` and `title`.
    Margin,
    /// The file name and description of the part.
    Label,
}

/// Another text of the same part; detectors run on it as on the part's own text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// How it came about.
    pub kind: ViewKind,
    /// The text.
    pub text: String,
}

/// A part, read. Several parts can carry one section: each is a plausible reading of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// IMAP section number (RFC 3501 §6.4.5) such as `1.2`, then `!path` for each archive on the way; `0` is the header.
    pub section: String,
    /// The declared media type in lower case, without parameters; empty inside archives.
    pub declared: String,
    /// The file name, decoded (RFC 2231, RFC 2047), with its path if it has one. Never to be used on a file system.
    pub name: Option<String>,
    /// What the bytes are: `text`, `html`, `pdf`, `zip`, `docx`, `exe`, `unknown`, …; see [`media_type`].
    pub sniffed: &'static str,
    /// The extracted text, empty where there is none. Cells are separated by tabs, blocks and rows by line ends.
    pub text: Cow<'a, str>,
    /// Further texts of the part, beside `text`.
    pub views: Vec<View>,
    /// Why the text may not be the whole truth; each once.
    pub conditions: Vec<Condition>,
}

impl Part<'_> {
    /// The same part without borrowing from the message.
    #[must_use]
    pub fn into_owned(self) -> Part<'static> {
        let Self { section, declared, name, sniffed, text, views, conditions } = self;
        Part { section, declared, name, sniffed, text: Cow::Owned(text.into_owned()), views, conditions }
    }
}

/// Content-Transfer-Encoding (RFC 2045 §6), as far as bytes change by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    /// `7bit`, `8bit`, `binary`.
    #[default]
    Identity,
    /// `base64`
    Base64,
    /// `quoted-printable`
    QuotedPrintable,
    /// `x-uuencode` and its other names.
    Uuencode,
}

/// What the walk knows of a part without having decoded it: all that a worker needs besides the body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// As [`Part::section`]; `TEXT` for what stands between the parts of the outermost multipart.
    pub section: String,
    /// As [`Part::declared`].
    pub declared: String,
    /// As [`Part::name`].
    pub name: Option<String>,
    /// Content-Description, decoded, and further file names where the header gives several, one a line.
    pub description: Option<String>,
    /// The `charset` parameter in lower case; more than one where the header contradicts itself.
    pub charsets: Vec<String>,
    /// How the body is encoded; more than one where the header contradicts itself.
    pub encodings: Vec<Encoding>,
    /// What the walk already holds against it.
    pub conditions: Vec<Condition>,
    /// Containers around it.
    pub depth: u32,
    /// Whether the body is a header, that of an attached message, and has to be decoded as one.
    pub is_header: bool,
    /// Whether a worker has to read it: everything but plain text and HTML.
    pub attachment: bool,
}

/// A part found by [`walk`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartRef<'m> {
    /// Its description, small and serialisable.
    pub about: About,
    /// Its body, still encoded; borrowed from the message unless an outer container had to be decoded.
    pub body: Cow<'m, [u8]>,
}

/// A message taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Structure<'m> {
    /// The header of the message itself; headers of attached messages are parts.
    pub header: Header,
    /// All parts in the order in which they stand.
    pub parts: Vec<PartRef<'m>>,
}

/// Takes a whole message apart without decoding attachments. Accepts CR LF and bare LF line ends. Never fails: what can't
/// be understood is a part with a condition.
#[must_use]
pub fn walk<'m>(message: &'m [u8], budget: &mut Budget) -> Structure<'m> {
    mime::walk(message, budget)
}

/// Reads one part and hands all that is in it to `sink`, one [`Part`] after the other (itself first, then what is inside
/// it). Only one part's text is in memory at a time.
pub fn read(about: &About, body: &[u8], budget: &mut Budget, sink: &mut dyn FnMut(Part<'_>)) {
    read::read(about, body, budget, sink);
}

/// [`walk`], then [`read`] of everything, the header (section `0`) first: what a worker does with a large message, and
/// the command line with any.
pub fn read_message(message: &[u8], budget: &mut Budget, sink: &mut dyn FnMut(Part<'_>)) -> Header {
    let structure = walk(message, budget);
    sink(structure.header.part());
    for part in &structure.parts {
        read(&part.about, &part.body, budget, sink);
    }
    structure.header
}

#[cfg(test)]
mod tests;
