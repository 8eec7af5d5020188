//! Office documents: OOXML (ECMA-376) and OpenDocument.
//!
//! Job: one text of all the XML parts of a document, runs joined within a paragraph; what else is packed in it goes its
//! own way as an archive entry. Place: in workers, fed by the archive reader entry by entry. Invariants: the text is no
//! longer than the unpacked XML. A crash leaves nothing.

use super::{
    Budget, Condition, Part, View, ViewKind, cells, entities,
    read::Item,
    spreadsheet::Workbook,
    xml::{self, Node},
};
use std::borrow::Cow;

/// A document under way.
pub(super) struct Document {
    kind: &'static str,
    lines: Twofold,
    /// Link targets, formulas.
    margin: String,
    workbook: Workbook,
    conditions: Vec<Condition>,
}

/// Whether an entry is XML, and so part of the document's own text.
pub(super) fn is_xml(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [".xml", ".rels", ".vml"].iter().any(|extension| name.ends_with(extension))
}

impl Document {
    /// By the names of its entries; `None` for other archives.
    pub fn of(names: &[String]) -> Option<Self> {
        let has = |part: &str| names.iter().any(|name| name.trim_start_matches('/').eq_ignore_ascii_case(part));
        let within = |folder: &str| {
            names.iter().any(|name| name.trim_start_matches('/').to_ascii_lowercase().starts_with(folder))
        };
        let kind = if has("[Content_Types].xml") && within("word/") {
            "docx"
        } else if has("[Content_Types].xml") && within("xl/") {
            // The binary workbook has parts that are not XML: each of them is unread.
            if has("xl/workbook.bin") { "xlsb" } else { "xlsx" }
        } else if has("[Content_Types].xml") && within("ppt/") {
            "pptx"
        } else if has("content.xml") && has("META-INF/manifest.xml") {
            "odt"
        } else {
            return None;
        };
        let workbook = Workbook::default();
        Some(Self { kind, lines: Twofold::default(), margin: String::new(), workbook, conditions: Vec::new() })
    }

    /// What rules call it.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Entries that others refer to, to be handed to [`Self::prepare`] first.
    pub fn first(&self, names: &[String]) -> Vec<usize> {
        let referred = |name: &str| match self.kind {
            "xlsx" => is_shared_strings(name) || is_styles(name),
            "odt" => name == "mimetype",
            _ => false,
        };
        names.iter().enumerate().filter(|(_, name)| referred(name)).map(|(at, _)| at).collect()
    }

    /// Takes an entry that others refer to.
    pub fn prepare(&mut self, name: &str, content: &[u8], budget: &mut Budget) {
        if name == "mimetype" {
            self.kind = match content {
                b"application/vnd.oasis.opendocument.spreadsheet" => "ods",
                b"application/vnd.oasis.opendocument.presentation" => "odp",
                _ => self.kind,
            };
            return;
        }
        let result = if is_styles(name) {
            self.workbook.read_styles(content, budget)
        } else {
            self.workbook.read_strings(content, budget)
        };
        self.note(result);
    }

    /// Takes an XML entry.
    pub fn add(&mut self, name: &str, content: &[u8], budget: &mut Budget) {
        let name = name.to_ascii_lowercase();
        let result = if name.ends_with(".rels") {
            self.links(content, budget)
        } else if self.kind == "xlsx" && (is_shared_strings(&name) || is_styles(&name)) {
            Ok(())
        } else if self.kind == "xlsx" && name.contains("sheets/") {
            let (lines, margin) = (&mut self.lines.all, &mut self.margin);
            self.workbook.read_sheet(content, budget, lines, margin)
        } else {
            let paragraphs = name.starts_with("word/")
                || name.starts_with("ppt/")
                || self.kind.starts_with("od") && name != "meta.xml";
            let encrypted =
                name == "meta-inf/manifest.xml" && memchr::memmem::find(content, b":encryption-data").is_some();
            if encrypted {
                self.note(Err(Condition::Encrypted));
            }
            words(content, paragraphs, budget, &mut self.lines)
        };
        self.note(result);
        self.lines.each(Lines::line);
    }

    fn note(&mut self, result: Result<(), Condition>) {
        if let Err(condition) = result
            && !self.conditions.contains(&condition)
        {
            self.conditions.push(condition);
        }
    }

    /// Relations (OPC §9.3): targets that a reader can come to see. Web addresses are full of numbers that mean nothing.
    fn links(&mut self, content: &[u8], budget: &mut Budget) -> Result<(), Condition> {
        let margin = &mut self.margin;
        xml::walk(content, budget, &mut |node| {
            if let Node::Open("Relationship", element) = node
                && let Some(target) = xml::attribute(element, "Target")
                && ["mailto:", "tel:", "sms:"].iter().any(|scheme| target.starts_with(scheme))
            {
                entities::decode_into(&target, margin);
                margin.push('\n');
            }
        })
    }

    /// Hands the document out.
    pub fn emit(self, mut item: Item, sink: &mut dyn FnMut(Part<'_>)) {
        self.conditions.into_iter().for_each(|condition| item.note(condition));
        let Twofold { all, visible, .. } = self.lines;
        let mut views: Vec<View> = cells::joined(&all.text).into_iter().collect();
        let mut margin = self.margin;
        for text in self.workbook.unseen() {
            margin.push_str(text);
            margin.push('\n');
        }
        for (kind, text) in [
            (ViewKind::Visible, visible.map(|lines| lines.text).unwrap_or_default()),
            (ViewKind::Headed, self.workbook.headed),
            (ViewKind::Margin, margin),
        ] {
            if !text.is_empty() {
                views.push(View { kind, text });
            }
        }
        item.emit(self.kind, Cow::Owned(all.text), views, sink);
    }
}

fn is_shared_strings(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with("sharedstrings.xml")
}

fn is_styles(name: &str) -> bool {
    name.eq_ignore_ascii_case("xl/styles.xml")
}

/// Text with cells and lines.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines {
    pub text: String,
}

impl Lines {
    /// Ends the line, if one has begun.
    pub fn line(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push('\n');
        }
    }

    /// Ends a cell; paragraphs in it do not break the row.
    fn cell(&mut self) {
        self.text.truncate(self.text.trim_end_matches('\n').len());
        self.text.push('\t');
    }

    fn row(&mut self) {
        self.text.truncate(self.text.trim_end_matches(['\t', '\n']).len());
        self.line();
    }
}

/// All text, and, once there is hidden text, the text without it.
#[derive(Debug, Default)]
pub(super) struct Twofold {
    all: Lines,
    visible: Option<Lines>,
    hidden: bool,
}

impl Twofold {
    fn push(&mut self, text: &str) {
        if self.hidden {
            self.visible.get_or_insert_with(|| self.all.clone());
        } else if let Some(visible) = &mut self.visible {
            visible.text.push_str(text);
        }
        self.all.text.push_str(text);
    }

    fn each(&mut self, change: fn(&mut Lines)) {
        change(&mut self.all);
        if let Some(visible) = &mut self.visible {
            change(visible);
        }
    }
}

/// Text of paragraphs (WordprocessingML, DrawingML, OpenDocument), or, without `paragraphs`, of any XML: there each
/// element stands on a line.
fn words(content: &[u8], paragraphs: bool, budget: &mut Budget, lines: &mut Twofold) -> Result<(), Condition> {
    let mut tab_stops = false;
    let result = xml::walk(content, budget, &mut |node| match node {
        Node::Open("tabs", _) => tab_stops = true,
        Node::Close("tabs") => tab_stops = false,
        Node::Open("tab", _) if !tab_stops => lines.push("\t"),
        Node::Open("br" | "cr" | "line-break", _) => lines.push("\n"),
        Node::Open("noBreakHyphen", _) => lines.push("-"),
        Node::Open("s", _) if paragraphs => lines.push(" "),
        // A run that Word does not show, unless the property is switched off.
        Node::Open("vanish" | "webHidden", element) => {
            lines.hidden =
                !xml::attribute(element, "val").is_some_and(|val| matches!(val.as_str(), "0" | "false" | "off"));
        }
        Node::Open("delText" | "instrText", _) => lines.hidden = true,
        Node::Close("delText" | "instrText" | "r") => lines.hidden = false,
        Node::Close("tc" | "table-cell") => lines.each(Lines::cell),
        Node::Close("tr" | "table-row") => lines.each(Lines::row),
        Node::Close("p" | "h") => lines.each(Lines::line),
        Node::Close(_) if !paragraphs => lines.each(Lines::line),
        // Indentation of the XML itself.
        Node::Text(text) if text.contains('\n') && text.trim().is_empty() => {}
        Node::Text(text) => lines.push(text),
        _ => {}
    });
    lines.hidden = false;
    result
}
