//! HTML to text, as any client could come to show it.
//!
//! Job: text with inline tags removed, blocks on lines, cells behind tabs; beside it what stands in comments and
//! attributes, and the text without hidden elements. Place: under every part that is HTML. Invariants: one pass, linear
//! in the source; what a browser would drop for a broken tag is kept. A crash leaves nothing.

use super::{
    View, ViewKind, cells,
    css::{self, HiddenNames},
    entities,
    flow::Output,
};

/// HTML, read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Html {
    pub text: String,
    pub views: Vec<View>,
}

impl Html {
    /// All of it as views.
    pub fn into_views(self) -> impl Iterator<Item = View> {
        self.views.into_iter().chain(std::iter::once(View { kind: ViewKind::Reading, text: self.text }))
    }
}

/// Comments inside comments' own markup are not followed further.
const MAX_NESTED: u32 = 2;

/// Reads HTML.
pub(super) fn extract(source: &str) -> Html {
    let mut reader = Reader::default();
    reader.run(source);
    let Reader { main, visible, margin, .. } = reader;
    let mut views: Vec<View> = cells::joined(&main.text).into_iter().collect();
    if let Some(visible) = visible {
        views.extend(cells::joined(&visible.text));
        views.push(View { kind: ViewKind::Visible, text: visible.text });
    }
    if !margin.is_empty() {
        views.push(View { kind: ViewKind::Margin, text: margin });
    }
    Html { text: main.text, views }
}

/// The charset that a `meta` element in the first octets names.
pub(super) fn meta_charset(bytes: &[u8]) -> Option<String> {
    let head = bytes.get(..2048).unwrap_or(bytes).to_ascii_lowercase();
    let at = memchr::memmem::find(&head, b"charset=")?;
    let value = head.get(at + 8..)?;
    let value = value.strip_prefix(b"\"").or_else(|| value.strip_prefix(b"'")).unwrap_or(value);
    let length = value.iter().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b':')).count();
    let label = value.get(..length).filter(|label| !label.is_empty())?;
    Some(String::from_utf8_lossy(label).into_owned())
}

#[derive(Debug, Default)]
struct Reader {
    main: Output,
    /// Made when the first hidden element comes.
    visible: Option<Output>,
    margin: String,
    /// The hidden element that is open, and how many of its name are open inside.
    hidden: Option<(String, u32)>,
    hidden_names: HiddenNames,
    preformatted: bool,
    /// Cells since the row began.
    cells: u32,
    /// Markup inside comments and attributes around this.
    nested: u32,
    /// Ends that do not come any more: without this memory, openings without an end would be quadratic.
    missing: Vec<&'static str>,
}

impl Reader {
    fn run(&mut self, source: &str) {
        let mut rest = source;
        loop {
            let at = memchr::memchr(b'<', rest.as_bytes()).unwrap_or(rest.len());
            let (run, markup) = rest.split_at(at);
            self.text(run);
            if markup.is_empty() {
                return;
            }
            rest = self.markup(markup);
        }
    }

    fn text(&mut self, run: &str) {
        if run.is_empty() {
            return;
        }
        self.main.push(run, self.preformatted);
        if let (Some(visible), None) = (&mut self.visible, &self.hidden) {
            visible.push(run, self.preformatted);
        }
    }

    /// At `<`. Returns what follows the construct.
    fn markup<'s>(&mut self, markup: &'s str) -> &'s str {
        let inner = markup.get(1..).unwrap_or_default();
        match inner.as_bytes().first() {
            Some(b'!' | b'?') => self.declaration(inner),
            Some(b'/') => {
                let (name, _) = tag_name(inner.get(1..).unwrap_or_default());
                let (_, after) = inner.split_at(memchr::memchr(b'>', inner.as_bytes()).unwrap_or(inner.len()));
                self.end(name);
                after.get(1..).unwrap_or_default()
            }
            Some(letter) if letter.is_ascii_alphabetic() => self.start(inner),
            _ => {
                self.text("<");
                inner
            }
        }
    }

    fn declaration<'s>(&mut self, inner: &'s str) -> &'s str {
        if let Some(comment) = inner.strip_prefix("!--") {
            // Browsers end a comment also at `--!>` and, at once, at `>` and `->`.
            let end = match comment.as_bytes() {
                [b'>', ..] => Some((0, 1)),
                [b'-', b'>', ..] => Some((0, 2)),
                _ => {
                    let usual = self.find_end(comment, "-->").map(|at| (at, 3));
                    let other = self.find_end(comment, "--!>").map(|at| (at, 4));
                    usual.into_iter().chain(other).min()
                }
            };
            // A comment without end hides all the rest in a browser, and nothing in other programs.
            let Some((end, width)) = end else { return comment };
            self.comment(comment.get(..end).unwrap_or_default());
            return comment.get(end + width..).unwrap_or_default();
        }
        if let Some(data) = inner.strip_prefix("![CDATA[") {
            let end = find(data, "]]>").unwrap_or(data.len());
            self.text(data.get(..end).unwrap_or_default());
            return data.get(end + 3..).unwrap_or_default();
        }
        let end = memchr::memchr(b'>', inner.as_bytes()).map_or(inner.len(), |at| at + 1);
        inner.get(end..).unwrap_or_default()
    }

    /// Finds an end of markup, once in vain at most.
    fn find_end(&mut self, text: &str, end: &'static str) -> Option<usize> {
        if self.missing.contains(&end) {
            return None;
        }
        let found = find(text, end);
        if found.is_none() {
            self.missing.push(end);
        }
        found
    }

    /// Mail programs show what stands in conditional comments; source views show all.
    fn comment(&mut self, comment: &str) {
        if comment.trim().is_empty() {
            return;
        }
        let comment = comment.strip_prefix("[if").and_then(|c| Some(c.split_once("]>")?.1)).unwrap_or(comment);
        if comment.contains('<') && self.nested < MAX_NESTED {
            let mut inside = Reader { nested: self.nested + 1, ..Reader::default() };
            inside.run(comment);
            let Reader { main, margin, .. } = inside;
            self.aside(&main.text);
            self.margin.push_str(&margin);
            if let Some(view) = cells::joined(&main.text) {
                self.aside(&view.text);
            }
        } else {
            let mut text = String::new();
            entities::decode_into(comment, &mut text);
            self.aside(&text);
        }
    }

    fn aside(&mut self, text: &str) {
        if !text.trim().is_empty() {
            self.margin.push_str(text.trim());
            self.margin.push('\n');
        }
    }

    /// At the name of a start tag.
    fn start<'s>(&mut self, inner: &'s str) -> &'s str {
        let (name, attributes) = tag_name(inner);
        let mut buffer = [0; 16];
        let name = lower(name, &mut buffer);
        let mut tag = Tag::default();
        let after = self.attributes(name, attributes, &mut tag);
        let raw = ["script", "style"].into_iter().find(|raw| *raw == name);
        if let Some(raw) = raw {
            // Without an end it hides all the rest in a browser only.
            let content = if self.missing.contains(&raw) { None } else { raw_content(raw, after) };
            let Some((content, rest)) = content else {
                self.missing.push(raw);
                return after;
            };
            if raw == "style" {
                let mut generated = Vec::new();
                self.hidden_names.read(content, |rule| generated.push(rule.to_owned()));
                generated.iter().for_each(|rule| self.aside(rule));
            }
            return rest;
        }
        if let Some((hidden, open)) = &mut self.hidden
            && hidden == name
        {
            *open += 1;
        }
        let hides = tag.hidden && !is_void(name);
        if hides && self.hidden.is_none() {
            self.visible.get_or_insert_with(|| self.main.clone());
        }
        self.layout(name, tag.beside);
        if hides && self.hidden.is_none() {
            self.hidden = Some((name.to_owned(), 1));
        }
        if matches!(name, "pre" | "textarea" | "xmp" | "plaintext") {
            self.preformatted = true;
        }
        after
    }

    fn end(&mut self, name: &str) {
        let mut buffer = [0; 16];
        let name = lower(name, &mut buffer);
        let ends = match &mut self.hidden {
            Some((hidden, open)) if hidden == name => {
                *open -= 1;
                *open == 0
            }
            _ => false,
        };
        if ends {
            self.hidden = None;
        }
        if matches!(name, "pre" | "textarea" | "xmp") {
            self.preformatted = false;
        }
        if !matches!(name, "td" | "th" | "br") {
            self.layout(name, false);
        } else if name == "br" {
            self.lines();
        }
    }

    /// Lines and cells that a tag makes.
    fn layout(&mut self, name: &str, beside: bool) {
        match name {
            "td" | "th" => {
                if self.cells > 0 {
                    self.cell();
                } else {
                    self.lines();
                }
                self.cells += 1;
            }
            "tr" => {
                self.lines();
                self.cells = 0;
            }
            "table" => {
                self.lines();
                // Behind an inner table the outer row goes on.
                self.cells = u32::from(self.cells > 0);
            }
            // Blocks that a style puts side by side are cells.
            _ if is_block(name) => {
                if beside {
                    self.cell()
                } else {
                    self.lines()
                }
            }
            _ => {}
        }
    }

    fn lines(&mut self) {
        self.main.line();
        if let (Some(visible), None) = (&mut self.visible, &self.hidden) {
            visible.line();
        }
    }

    fn cell(&mut self) {
        self.main.cell();
        if let (Some(visible), None) = (&mut self.visible, &self.hidden) {
            visible.cell();
        }
    }

    /// Reads attributes up to the end of the tag; returns what follows it. What a reader can come to see goes to the
    /// margin.
    fn attributes<'s>(&mut self, element: &str, text: &'s str, tag: &mut Tag) -> &'s str {
        let mut rest = text;
        loop {
            rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '/');
            if let Some(after) = rest.strip_prefix('>') {
                return after;
            }
            if rest.is_empty() {
                return rest;
            }
            let ends = |b: u8| b.is_ascii_whitespace() || matches!(b, b'>' | b'/' | b'=');
            // A leading `=` belongs to the name (HTML standard §13.2.5.32).
            let length = rest.bytes().skip(1).position(ends).map_or(rest.len(), |at| at + 1);
            let (name, tail) = rest.split_at(length);
            rest = tail.trim_ascii_start();
            let mut value = "";
            if let Some(assigned) = rest.strip_prefix('=') {
                let assigned = assigned.trim_ascii_start();
                (value, rest) = match assigned.as_bytes().first() {
                    Some(quote @ (b'"' | b'\'')) => {
                        let inner = assigned.get(1..).unwrap_or_default();
                        match memchr::memchr(*quote, inner.as_bytes()) {
                            Some(end) => {
                                (inner.get(..end).unwrap_or_default(), inner.get(end + 1..).unwrap_or_default())
                            }
                            // An open quote swallows all the rest in a browser; here the tag ends at its first `>`.
                            None => {
                                let end = memchr::memchr(b'>', inner.as_bytes()).map_or(inner.len(), |at| at + 1);
                                return inner.get(end..).unwrap_or_default();
                            }
                        }
                    }
                    _ => {
                        let end =
                            assigned.find(|c: char| c.is_ascii_whitespace() || c == '>').unwrap_or(assigned.len());
                        assigned.split_at(end)
                    }
                };
            }
            self.attribute(element, name, value, tag);
        }
    }

    fn attribute(&mut self, element: &str, name: &str, value: &str, tag: &mut Tag) {
        let mut buffer = [0; 16];
        match lower(name, &mut buffer) {
            "hidden" => tag.hidden = true,
            "style" => {
                let css::Effect { hidden, beside } = css::effect(value);
                tag.hidden |= hidden;
                tag.beside = beside;
            }
            "class" => tag.hidden |= self.hidden_names.hide_class(value),
            "id" => tag.hidden |= self.hidden_names.hide_id(value),
            "alt" | "title" | "value" | "placeholder" | "label" | "summary" | "content" | "aria-label" | "srcdoc"
                if element != "meta" || !value.contains("charset") =>
            {
                let mut text = String::new();
                entities::decode_into(value, &mut text);
                self.comment(&text);
            }
            "href" => {
                let scheme = |s: &str| value.get(..s.len()).is_some_and(|start| start.eq_ignore_ascii_case(s));
                if ["tel:", "sms:", "mailto:", "callto:"].into_iter().any(scheme) {
                    let mut text = String::new();
                    entities::decode_into(value, &mut text);
                    self.aside(&percent_decoded(&text));
                }
            }
            _ => {}
        }
    }
}

/// What matters of a start tag's attributes.
#[derive(Debug, Default)]
struct Tag {
    hidden: bool,
    beside: bool,
}

fn tag_name(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|b| b.is_ascii_whitespace() || matches!(b, b'>' | b'/')).unwrap_or(text.len());
    text.split_at(end)
}

/// `name` in lower case; names longer than any that matters stay as they are.
fn lower<'n>(name: &'n str, buffer: &'n mut [u8; 16]) -> &'n str {
    let Some(place) = buffer.get_mut(..name.len()) else { return name };
    place.copy_from_slice(name.as_bytes());
    place.make_ascii_lowercase();
    std::str::from_utf8(place).unwrap_or(name)
}

/// What stands before the end tag of a raw text element, and what follows that tag.
fn raw_content<'s>(name: &str, text: &'s str) -> Option<(&'s str, &'s str)> {
    let mut from = 0;
    loop {
        let at = from + find(text.get(from..)?, "</")?;
        let tail = text.get(at + 2..)?;
        if tail.get(..name.len()).is_some_and(|end| end.eq_ignore_ascii_case(name)) {
            let close = memchr::memchr(b'>', tail.as_bytes()).map_or(tail.len(), |close| close + 1);
            return Some((text.get(..at)?, tail.get(close..)?));
        }
        from = at + 2;
    }
}

fn find(text: &str, needle: &str) -> Option<usize> {
    memchr::memmem::find(text.as_bytes(), needle.as_bytes())
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.replace('%', "=");
    String::from_utf8_lossy(&super::transfer::quoted_printable(bytes.as_bytes())).into_owned()
}

fn is_void(name: &str) -> bool {
    matches!(
        name,
        "img" | "br" | "hr" | "input" | "meta" | "link" | "col" | "area" | "base" | "wbr" | "embed" | "source"
    )
}

fn is_block(name: &str) -> bool {
    matches!(
        name,
        "address"
            | "article"
            | "aside"
            | "blockquote"
            | "body"
            | "br"
            | "caption"
            | "center"
            | "dd"
            | "details"
            | "div"
            | "dl"
            | "dt"
            | "fieldset"
            | "figcaption"
            | "figure"
            | "footer"
            | "form"
            | "h1"
            | "h2"
            | "h3"
            | "h4"
            | "h5"
            | "h6"
            | "head"
            | "header"
            | "hr"
            | "html"
            | "legend"
            | "li"
            | "main"
            | "nav"
            | "ol"
            | "option"
            | "p"
            | "pre"
            | "section"
            | "summary"
            | "tbody"
            | "textarea"
            | "tfoot"
            | "thead"
            | "title"
            | "ul"
            | "xmp"
    )
}
