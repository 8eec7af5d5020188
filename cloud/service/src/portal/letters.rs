//! Inbox, messages, attachments and pictures. Each needs a session, and asks for this person's messages only.

use super::{Portal, Problem, headers, view};
use crate::{
    clean::{bare_text, clean, is_picture_type, sniff_picture},
    decode::Decoder,
    error::broke_off,
    event,
    inbox::Letter,
    seal::SealError,
    structure::{Attachment, Person, Shown, decode_body},
};
use axum::{
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{Stream, StreamExt};
use serde::Deserialize;
use std::sync::Arc;

/// Longest picture that is shown within a message, decoded.
const LONGEST_PICTURE: u64 = 10_000_000;
/// Octets by which its format is told.
const PICTURE_START: usize = 16;
const NO_SUBJECT: &str = "(no subject)";

/// Query of `/inbox`.
#[derive(Deserialize)]
pub struct Page {
    page: Option<u32>,
}

/// `GET /inbox`
pub async fn inbox(
    State(portal): State<Arc<Portal>>,
    Query(query): Query<Page>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (person, session) = portal.signed_in(&headers).await?;
    let page = i64::from(query.page.unwrap_or(0));
    let (letters, more) = portal.inbox.list(&person, page).await?;
    let template = view::Inbox {
        form: portal.session_token(&session),
        address: person.address,
        rows: letters.iter().map(row).collect(),
        newer: (page > 0).then_some(page - 1),
        older: more.then_some(page + 1),
    };
    view::page(StatusCode::OK, &template)
}

fn row(letter: &Letter) -> view::Row {
    let (_, date_full) = view::long_date(letter.stored_at);
    view::Row {
        reference: letter.reference.clone(),
        from: authors(letter).first().map(|person| person.short().to_owned()).unwrap_or_default(),
        subject: subject(letter),
        organisation: letter.organisation.clone(),
        date: view::short_date(letter.stored_at),
        date_full,
        attachments: listed(letter).count(),
        unread: !letter.read,
    }
}

fn subject(letter: &Letter) -> String {
    let subject = &letter.structure.subject;
    if subject.is_empty() { NO_SUBJECT.to_owned() } else { subject.clone() }
}

/// The message's own authors, or who handed it in where it names none.
fn authors(letter: &Letter) -> Vec<Person> {
    if letter.structure.from.is_empty() {
        vec![Person { name: String::new(), address: letter.sender.clone() }]
    } else {
        letter.structure.from.clone()
    }
}

/// `GET /messages/{reference}`
pub async fn message(
    State(portal): State<Arc<Portal>>,
    Path(reference): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (person, session) = portal.signed_in(&headers).await?;
    let letter = portal.inbox.open(&person, &reference).await?.ok_or(Problem::NotFound)?;
    let (bodies, blocked) = portal.bodies(&letter).await?;
    if portal.inbox.mark_read(&letter).await? {
        event::read(&letter.id, letter.group, &letter.tenant);
    }
    let (date, date_full) = view::long_date(letter.structure.date.unwrap_or(letter.stored_at));
    let template = view::Message {
        address: person.address,
        form: portal.session_token(&session),
        reference,
        subject: subject(&letter),
        from: authors(&letter),
        to: letter.structure.to.clone(),
        date,
        date_full,
        organisation: letter.organisation.clone(),
        attachments: listed(&letter).map(line).collect(),
        blocked,
        bodies,
    };
    let mut response = view::page(StatusCode::OK, &template)?;
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(headers::MESSAGE_POLICY));
    Ok(response)
}

/// The attachments that are listed, with their numbers.
fn listed(letter: &Letter) -> impl Iterator<Item = (usize, &Attachment)> {
    letter.structure.attachments.iter().enumerate().filter(|(_, attachment)| !attachment.inline)
}

fn line((number, attachment): (usize, &Attachment)) -> view::AttachmentView {
    view::AttachmentView { number, name: attachment.name.clone(), size: view::size(attachment.length) }
}

/// `GET /messages/{reference}/attachments/{number}`
pub async fn attachment(
    State(portal): State<Arc<Portal>>,
    Path((reference, number)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (letter, number) = portal.attachment_of(&headers, &reference, &number).await?;
    let attachment = letter.structure.attachments.get(number).ok_or(Problem::NotFound)?;
    event::fetched(&letter.id, letter.group, &letter.tenant, number);
    let body = Body::from_stream(decoded(&letter, attachment));
    let mut response = body.into_response();
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, media_type(attachment));
    fields.insert(header::CONTENT_DISPOSITION, disposition(&attachment.name)?);
    fields.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(headers::FILE_POLICY));
    Ok(response)
}

/// `GET /messages/{reference}/images/{number}`: pictures of four safe formats, by their bytes.
pub async fn image(
    State(portal): State<Arc<Portal>>,
    Path((reference, number)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (letter, number) = portal.attachment_of(&headers, &reference, &number).await?;
    let attachment = letter.structure.attachments.get(number).ok_or(Problem::NotFound)?;
    if !is_picture_type(&attachment.media_type) || attachment.length > LONGEST_PICTURE {
        return Err(Problem::NotFound);
    }
    let mut start = Vec::new();
    let mut pieces = Box::pin(decoded(&letter, attachment));
    while start.len() < PICTURE_START {
        let Some(piece) = pieces.next().await else { break };
        start.extend(piece?);
    }
    let kind = sniff_picture(&start).ok_or(Problem::NotFound)?;
    // The rest as it is read: a picture on its way takes no more memory than a file.
    let all = futures_util::stream::once(async { Ok(start) }).chain(pieces);
    let mut response = Body::from_stream(all).into_response();
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    fields.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(headers::FILE_POLICY));
    Ok(response)
}

fn shown(octets: &[Vec<u8>], reference: &str, attachments: &[Attachment]) -> (Vec<view::BodyView>, usize) {
    let mut blocked = 0;
    let bodies = octets.iter().filter_map(|octets| decode_body(octets)).map(|shown| match shown {
        Shown::Text(text) => view::BodyView::Text(text.trim_end().to_owned()),
        Shown::Html(html) => {
            if let Some(text) = bare_text(&html) {
                return view::BodyView::Text(text);
            }
            let (html, left_out) = clean(&html, reference, attachments);
            blocked += left_out;
            view::BodyView::Html(html)
        }
    });
    (bodies.collect(), blocked)
}

impl Portal {
    /// What a message's page shows, and how many pictures it leaves out: decoded and cleaned a few at once, apart from
    /// the runtime's workers. The work goes on when the reader goes away, so it keeps its turn to its end.
    async fn bodies(&self, letter: &Letter) -> Result<(Vec<view::BodyView>, usize), Problem> {
        let turn = self.pages.clone().acquire_owned().await.map_err(|_| SealError::Cipher)?;
        let octets = letter.bodies().await?;
        let (reference, attachments) = (letter.reference.clone(), letter.structure.attachments.clone());
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            shown(&octets, &reference, &attachments)
        });
        done.await.map_err(|e| {
            log::error!("showing a message broke off: {}", broke_off(&e));
            SealError::Format.into()
        })
    }

    /// The number is digits and nothing else: there is no path that it could lead along.
    async fn attachment_of(
        &self,
        headers: &HeaderMap,
        reference: &str,
        number: &str,
    ) -> Result<(Letter, usize), Problem> {
        let (person, _) = self.signed_in(headers).await?;
        let digits = !number.is_empty() && number.len() <= 4 && number.bytes().all(|b| b.is_ascii_digit());
        let number = number.parse().ok().filter(|_| digits).ok_or(Problem::NotFound)?;
        let letter = self.inbox.open(&person, reference).await?.ok_or(Problem::NotFound)?;
        Ok((letter, number))
    }
}

/// The decoded content, piece by piece: an attachment of any length takes half a mebibyte.
fn decoded(
    letter: &Letter,
    attachment: &Attachment,
) -> impl Stream<Item = Result<Vec<u8>, crate::Error>> + Send + 'static {
    let encoded = letter.content.stream(attachment.start..attachment.end);
    let decoder = Decoder::new(attachment.coding);
    futures_util::stream::try_unfold((Box::pin(encoded), Some(decoder)), async |(mut encoded, decoder)| {
        let Some(mut decoder) = decoder else { return Ok(None) };
        Ok(match encoded.next().await {
            Some(piece) => Some((decoder.push(piece?), (encoded, Some(decoder)))),
            None => Some((decoder.finish(), (encoded, None))),
        })
    })
}

/// The sender's claim, unless a browser could run it.
fn media_type(attachment: &Attachment) -> HeaderValue {
    let claimed = attachment.media_type.as_str();
    let harmless = claimed.starts_with("image/") && is_picture_type(claimed)
        || claimed.starts_with("audio/")
        || claimed.starts_with("video/")
        || matches!(
            claimed,
            "application/pdf" | "application/zip" | "application/msword" | "text/plain" | "text/calendar"
        )
        || claimed.starts_with("application/vnd.");
    let value = if harmless && !claimed.contains("xml") || claimed.contains("openxmlformats") { claimed } else { "" };
    match HeaderValue::from_str(value) {
        Ok(value) if !value.is_empty() => value,
        _ => HeaderValue::from_static("application/octet-stream"),
    }
}

/// RFC 6266 §4.1 with an ASCII name for old browsers and RFC 8187 for the real one.
fn disposition(name: &str) -> Result<HeaderValue, Problem> {
    let ascii: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || " .-_()".contains(c) { c } else { '_' }).collect();
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b".-_".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    HeaderValue::from_str(&format!("attachment; filename=\"{ascii}\"; filename*=UTF-8''{encoded}"))
        .map_err(|_| Problem::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::structure::Coding;

    #[test]
    fn a_file_name_cannot_break_out_of_its_field() {
        let value = disposition("a\"; x=\"\r\nSet-Cookie: y Größe.pdf").unwrap();
        let text = value.to_str().unwrap();
        assert!(!text.contains("\r") && text.matches('"').count() == 2, "{text}");
        assert!(text.ends_with("Gr%C3%B6%C3%9Fe.pdf"), "{text}");
    }

    #[test]
    fn what_a_browser_could_run_is_only_a_file() {
        let kind = |claimed: &str| {
            let attachment = Attachment {
                name: String::new(),
                media_type: claimed.into(),
                coding: Coding::Identity,
                start: 0,
                end: 0,
                length: 0,
                content_id: None,
                inline: false,
            };
            media_type(&attachment).to_str().unwrap().to_owned()
        };
        for harmful in ["text/html", "image/svg+xml", "application/xhtml+xml", "text/xml", "application/javascript"] {
            assert_eq!(kind(harmful), "application/octet-stream", "{harmful}");
        }
        assert_eq!(kind("application/pdf"), "application/pdf");
        let docx = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
        assert_eq!(kind(docx), docx);
    }
}
