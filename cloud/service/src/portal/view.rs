//! Pages as templates; everything that stands in `{{ }}` is escaped.

use super::Problem;
use crate::{clean::CleanHtml, structure::Person};
use askama::Template;
use axum::{
    http::StatusCode,
    response::{Html, IntoResponse, Response},
};

/// `signin.html`
#[derive(Template)]
#[template(path = "signin.html")]
pub struct SignIn {
    /// Form token.
    pub form: String,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// `link.html`
#[derive(Template)]
#[template(path = "link.html")]
pub struct Link {
    /// Sending organisation.
    pub organisation: String,
    /// The mailbox, for its owner to recognise only.
    pub masked: String,
    /// Whether a password is chosen or asked for.
    pub registered: bool,
    /// The link's token.
    pub token: String,
    /// Form token.
    pub form: String,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// Shortest password.
    pub shortest: usize,
}

/// A line of the inbox.
pub struct Row {
    /// In URLs.
    pub reference: String,
    /// Who wrote.
    pub from: String,
    /// What about.
    pub subject: String,
    /// Sending organisation.
    pub organisation: String,
    /// For people.
    pub date: String,
    /// For machines.
    pub date_full: String,
    /// How many.
    pub attachments: usize,
    /// Not opened yet.
    pub unread: bool,
}

/// `inbox.html`
#[derive(Template)]
#[template(path = "inbox.html")]
pub struct Inbox {
    /// Whose.
    pub address: String,
    /// Form token.
    pub form: String,
    /// This page's messages.
    pub rows: Vec<Row>,
    /// Number of the page with newer ones.
    pub newer: Option<i64>,
    /// Number of the page with older ones.
    pub older: Option<i64>,
}

/// An attachment's line.
pub struct AttachmentView {
    /// In URLs.
    pub number: usize,
    /// File name.
    pub name: String,
    /// For people.
    pub size: String,
}

/// A shown part.
pub enum BodyView {
    /// Escaped by the template.
    Text(String),
    /// Cleaned.
    Html(CleanHtml),
}

/// `message.html`
#[derive(Template)]
#[template(path = "message.html")]
pub struct Message {
    /// Whose.
    pub address: String,
    /// Form token.
    pub form: String,
    /// In URLs.
    pub reference: String,
    /// What about.
    pub subject: String,
    /// Authors.
    pub from: Vec<Person>,
    /// Addressees.
    pub to: Vec<Person>,
    /// For people.
    pub date: String,
    /// For machines.
    pub date_full: String,
    /// Sending organisation.
    pub organisation: String,
    /// Files.
    pub attachments: Vec<AttachmentView>,
    /// Things of other servers that were left out.
    pub blocked: usize,
    /// Text.
    pub bodies: Vec<BodyView>,
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage {
    title: &'static str,
    text: &'static str,
}

/// A page, or the service's own problem if the template fails.
pub fn page(status: StatusCode, template: &impl Template) -> Result<Response, Problem> {
    let html = template.render().map_err(|e| {
        log::error!("a template failed: {e}");
        Problem::NotFound
    })?;
    Ok((status, Html(html)).into_response())
}

/// The page of a problem.
pub fn problem(status: StatusCode, title: &'static str, text: &'static str) -> Response {
    match (ProblemPage { title, text }).render() {
        Ok(html) => (status, Html(html)).into_response(),
        Err(_) => (status, text).into_response(),
    }
}

/// `21 November 2025, 17:55 UTC`
pub fn long_date(second: i64) -> (String, String) {
    let time = jiff::Timestamp::from_second(second).unwrap_or_default();
    (time.strftime("%-d %B %Y, %H:%M UTC").to_string(), time.to_string())
}

/// `21 Nov 2025`
pub fn short_date(second: i64) -> String {
    jiff::Timestamp::from_second(second).unwrap_or_default().strftime("%-d %b %Y").to_string()
}

/// `20.5 MB`
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{} KB", bytes.div_ceil(1_000)),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

/// `j•••@example.net`: whoever holds the link knows the mailbox; anyone else should not learn it.
pub fn masked(address: &str) -> String {
    let (local, domain) = address.rsplit_once('@').unwrap_or((address, ""));
    format!("{}•••@{domain}", local.chars().take(1).collect::<String>())
}
