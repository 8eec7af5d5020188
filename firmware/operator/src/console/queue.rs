//! The queue at the console.
//!
//! Job: show for each next hop what waits and since when, list its messages, and have them tried now. Place: a screen for
//! signed-in operators; the figures are the status's, the rows are asked for. Invariants: lists are bounded; what is tried
//! is what is listed, one by one. A crash leaves some messages tried and some not, which all are anyway when due.

use super::{
    event::{Effect, Key},
    look::{BAD, FAINT, PLAIN, STRONG, Sheet, TURNED, shortened},
    state::{State, Told},
};
use crate::{
    Refusal, Request, Response,
    cli::{
        destination,
        form::{counted, people, size, span},
    },
    view::{DestinationFigures, QueueFigures, QueueRow, StatusReport},
};
use jiff::Timestamp;
use mail::MessageId;
use spool::RowState;
use std::collections::VecDeque;

/// Rows that are asked for: more is looked at elsewhere.
const MOST: usize = 300;

/// Columns of the figures behind a next hop's name.
const FIGURES: usize = 37;

/// Rows of one message.
const ROWS: u16 = 2;

/// What is looked at.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    /// The next hop whose messages are listed; `None`: all next hops.
    pub of: Option<String>,
    rows: Vec<QueueRow>,
    more: bool,
    /// The next hop, and the message, that is chosen.
    lane: usize,
    message: usize,
    /// Whether what comes next is to be tried.
    wanted: bool,
    trying: Option<Trying>,
    pub told: Option<Told>,
}

/// Messages that are made due one by one.
#[derive(Clone, Debug, Default)]
struct Trying {
    left: VecDeque<MessageId>,
    done: u64,
    refused: u64,
    why: Option<Refusal>,
}

/// What a key leads to.
#[derive(Clone, Debug)]
pub enum Step {
    Ask(Request),
    Stay,
    Leave,
}

impl Queue {
    /// The queue, and what to ask for first.
    pub fn open() -> (Self, Request) {
        let queue = Self::default();
        let request = queue.request();
        (queue, request)
    }

    fn request(&self) -> Request {
        let destination = self.of.as_deref().and_then(|of| destination(of).ok());
        Request::QueueList { state: None, destination, limit: MOST }
    }

    /// Takes a key; `status` has the next hops.
    pub fn key(&mut self, key: Key, status: Option<&StatusReport>) -> Step {
        let hops = hops(status);
        let (at, count) = match self.of {
            Some(_) => (&mut self.message, self.rows.len()),
            None => (&mut self.lane, hops.len()),
        };
        let last = count.saturating_sub(1);
        *at = match key {
            Key::Up | Key::BackTab => at.saturating_sub(1),
            Key::Down | Key::Tab => at.saturating_add(1),
            Key::PageUp => at.saturating_sub(8),
            Key::PageDown => at.saturating_add(8),
            Key::Home => 0,
            Key::End => last,
            _ => *at,
        }
        .min(last);
        let at = *at;
        match (key, &self.of) {
            (Key::Esc, None) => return Step::Leave,
            (Key::Esc, Some(_)) => *self = Self { lane: self.lane, ..Self::default() },
            (Key::Enter | Key::Char('r' | 'R'), None) => {
                let Some(hop) = hops.get(at) else { return Step::Stay };
                let wanted = key != Key::Enter;
                *self = Self { of: Some(hop.destination.clone()), lane: at, wanted, ..Self::default() };
            }
            (Key::Char('r' | 'R'), Some(_)) => {
                let ids = self.rows.get(at).map(|row| row.id);
                return self.try_now(ids.into_iter().collect());
            }
            (Key::Char('a' | 'A'), Some(_)) => return self.try_now(self.tried_ids()),
            _ => return Step::Stay,
        }
        Step::Ask(self.request())
    }

    /// What may be tried: an attempt that is under way is one, and what is held waits for more than time.
    fn tried_ids(&self) -> VecDeque<MessageId> {
        let mut ids: VecDeque<MessageId> =
            self.rows.iter().filter(|row| row.state == RowState::Waiting).map(|row| row.id).collect();
        // The deliveries of one message to one next hop stand beside each other.
        let mut before = None;
        ids.retain(|id| before.replace(*id) != Some(*id));
        ids
    }

    fn try_now(&mut self, mut ids: VecDeque<MessageId>) -> Step {
        self.told = None;
        let Some(first) = ids.pop_front() else {
            self.told = Some(Told::bad("There is nothing here that waits for its next attempt."));
            return Step::Stay;
        };
        self.trying = Some(Trying { left: ids, ..Trying::default() });
        Step::Ask(Request::QueueRetry { id: first })
    }

    /// Takes the daemon's answer; what to ask next.
    pub fn answer(&mut self, result: Result<Response, Refusal>) -> Vec<Effect> {
        let Some(trying) = &mut self.trying else {
            match result {
                Ok(Response::Queue(report)) => {
                    (self.rows, self.more) = (report.rows, report.more);
                    self.message = self.message.min(self.rows.len().saturating_sub(1));
                    if std::mem::take(&mut self.wanted)
                        && let Step::Ask(request) = self.try_now(self.tried_ids())
                    {
                        return vec![Effect::ask(request)];
                    }
                }
                Ok(_) => {}
                Err(refusal) => {
                    self.wanted = false;
                    self.told = Some(Told::bad(format!("{}; {}", refusal.what, refusal.remedy)));
                }
            }
            return Vec::new();
        };
        match result {
            Ok(_) => trying.done += 1,
            Err(refusal) => {
                trying.refused += 1;
                trying.why.get_or_insert(refusal);
            }
        }
        if let Some(id) = trying.left.pop_front() {
            return vec![Effect::ask(Request::QueueRetry { id })];
        }
        self.told = Some(trying.told());
        self.trying = None;
        vec![Effect::ask(self.request())]
    }

    pub fn keys(&self) -> &'static str {
        match self.of {
            None => "Up/Down choose   Enter its messages   R try them all now   Esc back",
            Some(_) => "Up/Down choose   R try this one now   A try all now   Esc back",
        }
    }

    /// When the oldest message for a next hop was accepted; rows come oldest first.
    fn oldest(&self, destination: &str) -> Option<Timestamp> {
        self.rows.iter().find(|row| row.destination == destination).map(|row| row.accepted)
    }
}

impl Trying {
    fn told(&self) -> Told {
        let done = format!("{} tried now", counted(self.done, "message"));
        match &self.why {
            None => Told::good(format!("{done}.")),
            Some(why) => Told::bad(format!("{done}, {} not: {}; {}", self.refused, why.what, why.remedy)),
        }
    }
}

fn hops(status: Option<&StatusReport>) -> &[DestinationFigures] {
    status.and_then(|status| status.queue.as_ref()).map_or(&[], |figures| figures.destinations.as_slice())
}

pub fn screen(queue: &Queue, state: &State, sheet: &mut Sheet<'_>) {
    let figures = state.status.as_ref().and_then(|status| status.queue.as_ref());
    match (&queue.of, figures) {
        (_, None) => sheet.line("There is no queue while the appliance is closed.", FAINT),
        (None, Some(figures)) => next_hops(queue, figures, state, sheet),
        (Some(of), Some(_)) => messages(queue, of, state, sheet),
    }
    if let Some(told) = &queue.told {
        sheet.gap();
        sheet.told(told);
    }
}

fn next_hops(queue: &Queue, figures: &QueueFigures, state: &State, sheet: &mut Sheet<'_>) {
    let oldest = figures.oldest.map(|oldest| format!(", the oldest for {}", span(oldest, state.now)));
    let oldest = oldest.unwrap_or_default();
    let total = counted(figures.messages, "message");
    sheet.line(&format!("Queue: {total}{oldest}; {} free", size(figures.free_bytes)), STRONG);
    sheet.gap();
    if figures.destinations.is_empty() {
        sheet.line("Nothing waits.", PLAIN);
        return;
    }
    let name_width = usize::from(sheet.area.width).saturating_sub(FIGURES).max(8);
    let row = |name: &str, cells: [&str; 4]| {
        let [waiting, delivering, held, oldest] = cells;
        let name = shortened(name, name_width);
        format!(" {name:<name_width$} {waiting:>8} {delivering:>9} {held:>6} {oldest:>8} ")
    };
    sheet.line(&row("Next hop", ["waiting", "under way", "held", "oldest"]), FAINT);
    let room = usize::from(sheet.left().saturating_sub(5)).max(1);
    let first = (queue.lane + 1).saturating_sub(room);
    for (index, hop) in figures.destinations.iter().enumerate().skip(first).take(room) {
        let oldest = queue.oldest(&hop.destination).map_or("-".to_owned(), |oldest| span(oldest, state.now));
        let cells = [hop.waiting, hop.delivering, hop.held].map(|count| count.to_string());
        let [waiting, delivering, held] = &cells;
        let style = if index == queue.lane { TURNED } else { PLAIN };
        sheet.line(&row(&hop.destination, [waiting, delivering, held, &oldest]), style);
    }
    let chosen = figures.destinations.get(queue.lane);
    let failing = state.status.iter().flat_map(|status| &status.facts.failing);
    if let Some(failing) = chosen.and_then(|hop| failing.into_iter().find(|of| of.destination == hop.destination)) {
        sheet.gap();
        sheet.text(0, &format!("Fails for {}: {}", span(failing.since, state.now), failing.error), BAD);
    }
}

fn messages(queue: &Queue, of: &str, state: &State, sheet: &mut Sheet<'_>) {
    let more = if queue.more { ", more behind them" } else { "" };
    let count = match queue.rows.len() {
        1 => "1 delivery".to_owned(),
        count => format!("{count} deliveries"),
    };
    let name = shortened(of, usize::from(sheet.area.width).saturating_sub(FIGURES));
    sheet.line(&format!("{name}: {count}{more}"), STRONG);
    sheet.gap();
    if let Some(trying) = &queue.trying {
        sheet.line(&format!("{} to try", counted(trying.left.len() as u64 + 1, "message")), PLAIN);
    }
    if queue.rows.is_empty() && !state.waits() {
        sheet.line("Nothing waits for it.", PLAIN);
    }
    let room = usize::from(sheet.left().saturating_sub(4) / ROWS).max(1);
    let first = (queue.message + 1).saturating_sub(room);
    for (index, row) in queue.rows.iter().enumerate().skip(first).take(room) {
        let style = if index == queue.message { TURNED } else { PLAIN };
        let width = usize::from(sheet.area.width);
        let line =
            format!(" {:>7}  {:<22} {}", span(row.accepted, state.now), how(row, state.now), people(&row.recipients));
        sheet.line(&format!("{:<width$}", shortened(&line, width)), style);
        let why = row.held.as_ref().map(|held| held.why.as_str()).or(row.last.as_deref()).unwrap_or("not tried yet");
        sheet.put(10, &shortened(why, width.saturating_sub(10)), FAINT);
        sheet.gap();
    }
}

fn how(row: &QueueRow, now: Timestamp) -> String {
    match row.state {
        RowState::Held => "held".to_owned(),
        RowState::Delivering => "under way".to_owned(),
        RowState::Waiting if row.due <= now => format!("due, {}", counted(row.attempts.into(), "attempt")),
        RowState::Waiting => format!("in {}, {}", span(now, row.due), counted(row.attempts.into(), "attempt")),
    }
}
