//! Work that is done outside the daemon's own process.
//!
//! Job: describe one piece of judging (an attachment, or a whole message over 1 MiB) so that a sandboxed worker process
//! can do it knowing nothing else, and describe what came of it. Place: between [`crate::Policy::judge`] and postern's
//! pool of workers, which puts [`JobHeader`] and the octets on a pipe, calls [`Runner::run`] at the far end and brings
//! the [`JobReport`] back. Invariants: a report holds masked samples and hashes, never content; a worker that fails is
//! an error, never an empty report. A crash of a worker leaves nothing behind: the pool runs the job again, twice.

use crate::{
    detect::{Detectors, Hit, PatternError, PatternSource, Trust},
    extract,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    io::{Read, Seek},
    time::Instant,
};

/// Octets that can be read more than once: the spool's staged message, a `Cursor` over memory.
pub trait Octets: Read + Seek + Send {}

impl<T: Read + Seek + Send> Octets for T {}

/// What the octets of a job are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobKind {
    /// A whole message as it came in.
    Message,
    /// The still encoded body of one part, as [`extract::walk`] found it.
    Part(extract::About),
}

/// All that a worker must know besides the octets; serialisable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobHeader {
    /// What the octets are.
    pub kind: JobKind,
    /// How many octets follow.
    pub length: u64,
    /// The organisation's own detectors, in the order of the settings.
    pub patterns: Vec<PatternSource>,
}

/// One piece of work.
pub struct Job<'a> {
    /// Goes to the worker first.
    pub header: JobHeader,
    /// The octets, from the start after a rewind; read again where a worker died.
    pub content: &'a mut dyn Octets,
    /// Time to give up: [`WorkerError::TooSlow`].
    pub deadline: Instant,
}

/// What a job found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JobReport {
    /// The message's header as rules see it; only from [`JobKind::Message`].
    pub header: Option<HeaderReport>,
    /// The parts, in the order in which they stand.
    pub parts: Vec<PartReport>,
}

/// What rules need to know of the message's header.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeaderReport {
    /// Decoded; several Subject fields stand on lines of their own.
    pub subject: String,
    /// The Sensitivity field.
    pub sensitivity: Option<String>,
    /// Name and decoded body of each field, in order.
    pub fields: Vec<(String, String)>,
}

impl From<extract::Header> for HeaderReport {
    fn from(header: extract::Header) -> Self {
        Self {
            subject: header.subject,
            sensitivity: header.sensitivity,
            fields: header.fields.into_iter().map(|field| (field.name, field.value)).collect(),
        }
    }
}

/// What rules need to know of one part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PartReport {
    /// IMAP section, then `!path` inside archives; `0` for the header.
    pub section: String,
    /// File name, decoded.
    pub name: Option<String>,
    /// Declared media type, lower case; empty inside archives.
    pub declared: String,
    /// Sniffed type: `pdf`, `docx`, `text`, ….
    pub sniffed: String,
    /// Why the part could not be read to its end.
    pub conditions: Vec<extract::Condition>,
    /// What the detectors found. Offsets count in the part's text, then a line end, then its first view, a line end, its
    /// second view, and so on.
    pub hits: Vec<Hit>,
}

/// Why a job has no report. All of them make the message undecidable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkerError {
    /// Three workers died of this message.
    #[error("three workers died of this content; it is held, look at it before you release it")]
    KilledThreeTimes,
    /// The deadline passed.
    #[error("judging was not done within its time; the message counts as undecidable")]
    TooSlow,
    /// No worker could be had, or the pipe to it failed.
    #[error("no worker could do the job ({0}); see the daemon's log for why workers do not start")]
    Unavailable(String),
    /// The octets could not be read.
    #[error("the content could not be read ({0}); check the spool's disk")]
    Unreadable(String),
    /// A reader or detector of ours panicked.
    #[error("reading it ran into a defect of ours; keep the message and report it")]
    Defect,
    /// The patterns of the job do not compile in the worker.
    #[error("the patterns of the settings could not be compiled ({0}); run `postern check`")]
    Patterns(String),
}

/// Whoever can run jobs.
pub trait Workers: Send + Sync {
    /// Runs one job to its end; blocks at most until its deadline.
    ///
    /// # Errors
    /// See [`WorkerError`].
    fn run(&self, job: Job<'_>) -> Result<JobReport, WorkerError>;
}

/// Runs jobs where the caller stands: for the command line and tests, where nobody else's mail is at stake.
#[derive(Clone, Copy, Debug, Default)]
pub struct InProcess;

/// Does jobs one after the other, keeping the compiled detectors between them: what a worker process loops over.
#[derive(Debug, Default)]
pub struct Runner {
    patterns: Vec<PatternSource>,
    detectors: Option<Detectors>,
}

impl Runner {
    /// Reads `octets` and runs all detectors on what is in them.
    ///
    /// # Errors
    /// [`WorkerError::Patterns`] where the header carries patterns that the settings check would have refused.
    pub fn run(&mut self, header: &JobHeader, octets: &[u8], deadline: Instant) -> Result<JobReport, WorkerError> {
        if self.detectors.is_none() || self.patterns != header.patterns {
            let detectors = Detectors::new(&header.patterns).map_err(|e| WorkerError::Patterns(join(&e)))?;
            self.patterns.clone_from(&header.patterns);
            self.detectors = Some(detectors);
        }
        let Some(detectors) = &self.detectors else { return Err(WorkerError::Patterns("none".into())) };
        let mut budget = extract::Budget::until(deadline);
        let mut report = JobReport::default();
        let parts = &mut report.parts;
        let mut sink = |part: extract::Part<'_>| parts.push(examine(&part, detectors, deadline));
        match &header.kind {
            JobKind::Message => report.header = Some(extract::read_message(octets, &mut budget, &mut sink).into()),
            JobKind::Part(about) => extract::read(about, octets, &mut budget, &mut sink),
        }
        Ok(report)
    }
}

fn join(errors: &[PatternError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Runs the detectors over one extracted part and keeps what rules need of it.
pub(crate) fn examine(part: &extract::Part<'_>, detectors: &Detectors, deadline: Instant) -> PartReport {
    let mut conditions = part.conditions.clone();
    let mut hits = Vec::new();
    let mut complete = detectors.scan_into(&part.text, 0, Trust::Full, deadline, &mut hits);
    let mut base = part.text.len() + 1;
    for view in &part.views {
        let known = hits.len();
        // What runs over the border of two cells may be chance; it counts only with context.
        let trust = if view.kind == extract::ViewKind::Joined { Trust::ContextOnly } else { Trust::Full };
        complete &= detectors.scan_into(&view.text, base, trust, deadline, &mut hits);
        drop_repeated(&mut hits, known);
        base += view.text.len() + 1;
    }
    if !complete && !conditions.contains(&extract::Condition::OverBudget) {
        conditions.push(extract::Condition::OverBudget);
    }
    PartReport {
        section: part.section.clone(),
        name: part.name.clone(),
        declared: part.declared.clone(),
        sniffed: part.sniffed.to_owned(),
        conditions,
        hits,
    }
}

/// Drops hits from `known` on whose match is already among those before it, with the better score kept: the same number
/// read a second way is not a second number.
fn drop_repeated(hits: &mut Vec<Hit>, known: usize) {
    if hits.len() == known {
        return;
    }
    let (before, after) = hits.split_at_mut(known);
    let mut first: HashMap<(u16, u64), &mut Hit> = HashMap::with_capacity(before.len());
    for hit in before {
        first.entry((hit.detector, hit.distinct)).or_insert(hit);
    }
    let keep: Vec<bool> = after
        .iter()
        .map(|hit| match first.get_mut(&(hit.detector, hit.distinct)) {
            Some(same) => {
                same.score = same.score.max(hit.score);
                false
            }
            None => true,
        })
        .collect();
    let mut at = 0;
    hits.retain(|_| {
        at += 1;
        at <= known || keep.get(at - 1 - known).copied().unwrap_or(true)
    });
}

impl Workers for InProcess {
    fn run(&self, job: Job<'_>) -> Result<JobReport, WorkerError> {
        let unreadable = |e: std::io::Error| WorkerError::Unreadable(e.to_string());
        job.content.rewind().map_err(unreadable)?;
        let mut octets = Vec::new();
        job.content.take(job.header.length).read_to_end(&mut octets).map_err(unreadable)?;
        if octets.len() as u64 != job.header.length {
            return Err(WorkerError::Unreadable("it ends early".into()));
        }
        Runner::default().run(&job.header, &octets, job.deadline)
    }
}
