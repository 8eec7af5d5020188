//! One part read: transfer encoding, format, charset.
//!
//! Job: from the octets of a part to its text, in every plausible reading. Place: after the walk, in process for text,
//! in a worker for the rest. Invariants: every part that goes in comes out at least once, with a text or a condition.
//! A crash leaves nothing.

use super::{
    About, Budget, Condition, Encoding, Part, View, ViewKind, archive,
    budget::MAX_DEPTH,
    cells, charset, cms, control,
    header::{self, Header},
    html, mime, ole, pgp, sniff, transfer,
};
use std::borrow::Cow;

/// Extensions of what text editors open.
const TEXT_NAMES: [&str; 10] = ["txt", "text", "csv", "tsv", "tab", "log", "md", "json", "xml", "ini"];
/// Characters of a path inside an archive that are kept.
const MAX_PATH: usize = 255;

/// A file somewhere in the message: a part, or an entry of an archive.
#[derive(Clone, Debug, Default)]
pub(super) struct Item {
    pub section: String,
    pub declared: String,
    pub name: Option<String>,
    pub description: Option<String>,
    pub charsets: Vec<String>,
    pub conditions: Vec<Condition>,
    pub depth: u32,
    /// Whether readers of binary formats may run: they do so in workers only.
    pub in_worker: bool,
}

impl Item {
    /// A file inside this one.
    pub fn inside(&self, path: &str) -> Self {
        // A path is shown in tables and logs.
        let shown: String = path.chars().take(MAX_PATH).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        Self {
            section: format!("{}!{shown}", self.section),
            name: Some(shown),
            depth: self.depth + 1,
            in_worker: self.in_worker,
            ..Self::default()
        }
    }

    pub fn note(&mut self, condition: Condition) {
        if !self.conditions.contains(&condition) {
            self.conditions.push(condition);
        }
    }

    /// Hands the part out. Name and description are content too, as a view.
    pub fn emit(self, sniffed: &'static str, text: Cow<'_, str>, mut views: Vec<View>, sink: &mut dyn FnMut(Part<'_>)) {
        let label: Vec<&str> = [&self.name, &self.description].into_iter().flatten().map(String::as_str).collect();
        if !label.is_empty() {
            views.push(View { kind: ViewKind::Label, text: label.join("\n") });
        }
        // Clients leave control octets out, show them, or take them for blanks: the text is read with and without them.
        let reading = |(kind, text): (ViewKind, &str)| control::without(text).map(|text| View { kind, text });
        let texts = std::iter::once((ViewKind::Reading, &*text));
        let clean: Vec<View> =
            texts.chain(views.iter().map(|view| (view.kind, view.text.as_str()))).filter_map(reading).collect();
        views.extend(clean);
        let Self { section, declared, name, conditions, .. } = self;
        sink(Part { section, declared, name, sniffed, text, views, conditions });
    }

    /// Hands out a part of which nothing could be read.
    pub fn emit_unread(mut self, sniffed: &'static str, condition: Condition, sink: &mut dyn FnMut(Part<'_>)) {
        self.note(condition);
        self.emit(sniffed, Cow::Borrowed(""), Vec::new(), sink);
    }
}

/// Reads a part of the walk.
pub(super) fn read(about: &About, body: &[u8], budget: &mut Budget, sink: &mut dyn FnMut(Part<'_>)) {
    let mut item = Item {
        section: about.section.clone(),
        declared: about.declared.clone(),
        name: about.name.clone(),
        description: about.description.clone(),
        charsets: about.charsets.clone(),
        conditions: about.conditions.clone(),
        depth: about.depth,
        in_worker: about.attachment,
    };
    if budget.is_expired() {
        return item.emit_unread("unknown", Condition::OverBudget, sink);
    }
    if about.is_header {
        let header = Header::decode(&header::split(body));
        header.conditions.into_iter().for_each(|condition| item.note(condition));
        return item.emit("message", Cow::Owned(header.text), Vec::new(), sink);
    }
    let encodings = if about.encodings.is_empty() { &[Encoding::Identity][..] } else { &about.encodings };
    for encoding in encodings {
        encoded(*encoding, item.clone(), body, budget, sink);
    }
}

fn encoded(encoding: Encoding, mut item: Item, body: &[u8], budget: &mut Budget, sink: &mut dyn FnMut(Part<'_>)) {
    if encoding != Encoding::Base64 {
        let bytes = mime::decode(encoding, body);
        charge(&mut item, &bytes, budget);
        return file(item, &bytes, budget, sink);
    }
    let decoded = transfer::base64(body);
    charge(&mut item, &decoded.bytes, budget);
    if decoded.junk {
        item.note(Condition::Malformed);
    }
    // No encoder writes blanks, and no text decodes to octets that are none.
    let garbage = memchr::memchr(b' ', body.trim_ascii()).is_some()
        || item.declared.starts_with("text/") && sniff::sniff(&decoded.bytes) == "unknown";
    if decoded.junk || garbage {
        // A client that gives up on the encoding shows the octets as they are.
        text(item.clone(), "text", body, budget, sink);
    }
    if let Some(bytes) = &decoded.unpadded {
        charge(&mut item, bytes, budget);
        file(item.clone(), bytes, budget, sink);
    }
    file(item, &decoded.bytes, budget, sink);
}

fn charge(item: &mut Item, bytes: &[u8], budget: &mut Budget) {
    if !budget.take_bytes(bytes.len()) {
        item.note(Condition::OverBudget);
    }
}

/// Reads a file by what it is. Its octets are already charged to the budget.
pub(super) fn file(mut item: Item, bytes: &[u8], budget: &mut Budget, sink: &mut dyn FnMut(Part<'_>)) {
    if item.conditions.contains(&Condition::OverBudget) && budget.bytes_left() == 0 || budget.is_expired() {
        return item.emit_unread(sniff::sniff(bytes), Condition::OverBudget, sink);
    }
    let kind = sniff::sniff(bytes);
    if mime::is_in_process(kind) {
        return if is_message(&item, bytes) {
            message(item, bytes, budget, sink)
        } else {
            text(item, kind, bytes, budget, sink)
        };
    }
    if !item.in_worker {
        // The walk saw text here, so its beginning was made to look like it.
        return item.emit_unread(kind, Condition::Malformed, sink);
    }
    if item.depth >= MAX_DEPTH {
        return item.emit_unread(kind, Condition::OverBudget, sink);
    }
    if kind != "unknown" && passes_for_text(&item, kind) {
        // It begins like a file, and is shown as a text: read as both. A name of its own, as in `text/plain;
        // name=a.pdf`, tells all clients the same.
        if !has_extension(&item) || named(&item, &TEXT_NAMES) {
            item.note(Condition::Malformed);
        }
        text(item.clone(), "text", bytes, budget, sink);
    }
    match kind {
        // Its header says what it is: a charset of which too little is ASCII to be known by its octets.
        "unknown" if passes_for_text(&item, kind) => {
            if item.charsets.is_empty() {
                item.note(Condition::Unread(kind.to_owned()));
            }
            text(item, "text", bytes, budget, sink);
        }
        "zip" => archive::zip(item, bytes, budget, sink),
        "gzip" => archive::gzip(item, bytes, budget, sink),
        "pkcs7" => cms::signed_or_encrypted(item, bytes, budget, sink),
        "pgp" | "age" => item.emit_unread(kind, Condition::Encrypted, sink),
        "unknown" if passes_for_encrypted(&item) => item.emit_unread(kind, Condition::Encrypted, sink),
        "ole" => {
            let (kind, condition) = ole::judge(bytes);
            item.emit_unread(kind, condition, sink);
        }
        _ => {
            if kind == "pdf" && memchr::memmem::find(bytes, b"/Encrypt").is_some() {
                item.note(Condition::Encrypted);
            }
            // Archive programs look for the directory at the end, and open a picture with a zip behind it.
            if archive::has_directory(bytes) {
                archive::zip(item.clone(), bytes, budget, sink);
            }
            item.emit_unread(kind, Condition::Unread(kind.to_owned()), sink);
        }
    }
}

fn named(item: &Item, extensions: &[&str]) -> bool {
    extensions.iter().any(|known| extension(item).eq_ignore_ascii_case(known))
}

fn has_extension(item: &Item) -> bool {
    !extension(item).is_empty()
}

fn extension(item: &Item) -> &str {
    let name = item.name.as_deref().unwrap_or_default();
    name.rsplit_once('.').map(|(_, extension)| extension.trim()).unwrap_or_default()
}

/// Whether a client shows it as a text for its type or name, although its octets are `kind`.
fn passes_for_text(item: &Item, kind: &str) -> bool {
    match (kind, item.declared.as_str()) {
        ("rtf", "text/rtf" | "text/richtext") | ("pgp" | "pkcs7" | "age", _) => false,
        (_, declared) => declared.starts_with("text/") || named(item, &TEXT_NAMES),
    }
}

/// Whether it says of itself that it is encrypted.
fn passes_for_encrypted(item: &Item) -> bool {
    matches!(
        item.declared.as_str(),
        "application/pkcs7-mime" | "application/x-pkcs7-mime" | "application/pgp-encrypted" | "application/pgp"
    ) || named(item, &["p7m", "gpg", "pgp", "age"])
}

/// A stored message (`.eml`) or web archive (`.mhtml`) that came as a file.
fn is_message(item: &Item, bytes: &[u8]) -> bool {
    named(item, &["eml", "mht", "mhtml", "nws"]) && memchr::memchr(b':', bytes.get(..128).unwrap_or(bytes)).is_some()
}

fn message(item: Item, bytes: &[u8], budget: &mut Budget, sink: &mut dyn FnMut(Part<'_>)) {
    if item.depth >= MAX_DEPTH {
        return item.emit_unread("message", Condition::OverBudget, sink);
    }
    let parts = mime::walk_attached(bytes, &format!("{}!", item.section), item.depth + 1, budget);
    let in_worker = item.in_worker;
    item.emit("message", Cow::Borrowed(""), Vec::new(), sink);
    for part in parts {
        let about = About { attachment: in_worker, ..part.about };
        read(&about, &part.body, budget, sink);
    }
}

/// Whether two charsets give ASCII the same meaning, so that digits read alike in both.
fn shares_ascii(label: &str) -> bool {
    let wide = |prefix: &str| label.starts_with(prefix);
    !["utf-7", "utf-16", "utf-32", "ucs-", "unicode", "iso-10646", "ibm", "cp037", "cp500", "cp1047", "ebcdic"]
        .into_iter()
        .any(wide)
}

/// Reads text in all its charsets.
fn text(mut item: Item, kind: &'static str, bytes: &[u8], budget: &mut Budget, sink: &mut dyn FnMut(Part<'_>)) {
    let is_html = kind == "html"
        || matches!(item.declared.as_str(), "text/html" | "application/xhtml+xml")
        || named(&item, &["htm", "html", "xhtml"]);
    if pgp::has_armour(bytes) {
        item.note(Condition::Encrypted);
    }
    if archive::has_directory(bytes) {
        item.note(Condition::Malformed);
    }
    if !is_html {
        uuencoded(&item, bytes, budget, sink);
    }
    let mut labels = item.charsets.clone();
    if is_html {
        labels.extend(html::meta_charset(bytes));
    }
    let first = if labels.is_empty() { String::new() } else { labels.remove(0) };
    labels.retain(|label| *label != first && !(shares_ascii(label) && shares_ascii(&first)));
    labels.insert(0, first);
    for label in &labels {
        let decoded = charset::decode(bytes, label);
        let mut views = Vec::new();
        for text in decoded.others {
            views.extend(is_html.then(|| html::extract(&text)).into_iter().flat_map(html::Html::into_views));
            views.push(View { kind: ViewKind::Reading, text });
        }
        if is_html {
            let html = html::extract(&decoded.text);
            views.extend(html.views);
            if item.declared == "text/plain" {
                views.push(View { kind: ViewKind::Reading, text: decoded.text.into_owned() });
            }
            item.clone().emit("html", Cow::Owned(html.text), views, sink);
        } else {
            views.extend(reread(&item, kind, &decoded.text));
            item.clone().emit(kind, decoded.text, views, sink);
        }
    }
}

/// Other ways to look at text of certain kinds.
fn reread(item: &Item, kind: &str, text: &str) -> Vec<View> {
    let reading = |text: String| View { kind: ViewKind::Reading, text };
    match kind {
        // Lines are folded anywhere (RFC 5545 §3.1, RFC 6350 §3.2).
        "calendar" | "vcard" => {
            let unfolded =
                ["\r\n ", "\r\n\t", "\n ", "\n\t"].iter().fold(text.to_owned(), |text, fold| text.replace(fold, ""));
            vec![reading(unfolded)]
        }
        "xml" => html::extract(text).into_views().collect(),
        _ if item.declared == "text/rfc822-headers" => {
            vec![reading(Header::decode(&header::split(text.as_bytes())).text)]
        }
        _ if item.declared == "text/csv" || named(item, &["csv", "tsv", "tab"]) => {
            let cells = text.replace(['"', '\''], "").replace([',', ';', '|'], "\t");
            cells::joined(&cells).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

fn uuencoded(item: &Item, bytes: &[u8], budget: &mut Budget, sink: &mut dyn FnMut(Part<'_>)) {
    let mut rest = bytes;
    while let Some(found) = transfer::uuencoded(rest) {
        rest = found.rest;
        let mut inner = item.inside(&found.name);
        if found.malformed {
            inner.note(Condition::Malformed);
        }
        if !budget.take_part() || inner.depth >= MAX_DEPTH {
            return inner.emit_unread("unknown", Condition::OverBudget, sink);
        }
        charge(&mut inner, &found.bytes, budget);
        file(inner, &found.bytes, budget, sink);
    }
}
