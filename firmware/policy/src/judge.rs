//! From a message to its verdict.
//!
//! Job: read a message, here or in workers, and let the rules decide. Place: called by `postern::pipeline` between stage
//! and commit. Invariants: text and HTML of a message up to [`IN_PROCESS`] are read here, attachments and larger messages
//! in workers; what can't be read, for whatever reason, is undecidable and never simply ordinary. A crash leaves nothing
//! behind: no reply was given, so the client sends the message again.

use crate::{
    detect::{Detectors, PatternError, PatternSource},
    extract,
    job::{HeaderReport, Job, JobHeader, JobKind, JobReport, Octets, PartReport, WorkerError, Workers, examine},
    rules::{RuleSet, UnknownDetector},
};
use mail::{Address, Domain, Envelope, ReversePath, Verdict};
use std::{
    io::{Cursor, Read, SeekFrom},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

/// Bytes of the largest message that is read in the daemon's own process.
pub const IN_PROCESS: u64 = 1 << 20;

/// What rules must know of a message besides its octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// MAIL FROM.
    pub sender: ReversePath,
    /// RCPT TO; the verdict has an entry for each.
    pub recipients: Vec<Address>,
    /// Octets of the message as it came in.
    pub size: u64,
}

impl Facts {
    /// The facts of an envelope and its `size` octets of content.
    #[must_use]
    pub fn of(envelope: &Envelope, size: u64) -> Self {
        Self { sender: envelope.sender.clone(), recipients: envelope.recipients.clone(), size }
    }
}

/// Why settings can't be made into a policy. `settings::parse` finds all of these before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A rule.
    #[error(transparent)]
    Detector(#[from] UnknownDetector),
}

/// The compiled policy of one settings revision; shared between threads.
#[derive(Debug)]
pub struct Policy {
    detectors: Detectors,
    patterns: Vec<PatternSource>,
    rules: RuleSet,
}

/// All that was read of a message.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    pub(crate) header: HeaderReport,
    pub(crate) parts: Vec<PartReport>,
    /// Pieces that could not be read, and why.
    pub(crate) failures: Vec<(String, WorkerError)>,
}

impl Policy {
    /// Compiles the policy of the settings; `internal` says which recipients are the organisation's own.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn compile(policy: &settings::Policy, internal: &[settings::InternalRoute]) -> Result<Self, Vec<PolicyError>> {
        let patterns: Vec<PatternSource> = policy.patterns.iter().map(PatternSource::from).collect();
        let detectors =
            Detectors::new(&patterns).map_err(|e| e.into_iter().map(PolicyError::from).collect::<Vec<_>>())?;
        let domains: Vec<Domain> = internal.iter().map(|route| route.domain.clone()).collect();
        let rules = RuleSet::compile(policy, detectors.names(), domains)
            .map_err(|e| e.into_iter().map(PolicyError::from).collect::<Vec<_>>())?;
        Ok(Self { detectors, patterns, rules })
    }

    /// The detectors, the organisation's own among them.
    #[must_use]
    pub fn detectors(&self) -> &Detectors {
        &self.detectors
    }

    /// Judges a message. Blocks, at most until the deadline and a little; never fails: what goes wrong makes the message
    /// undecidable.
    pub fn judge(&self, facts: &Facts, source: &mut dyn Octets, workers: &dyn Workers, deadline: Instant) -> Verdict {
        let reading = self.read(source, workers, deadline);
        self.rules.decide(facts, &reading, self.detectors.names())
    }

    pub(crate) fn read(&self, source: &mut dyn Octets, workers: &dyn Workers, deadline: Instant) -> Reading {
        let mut reading = Reading::default();
        let unreadable = |e: std::io::Error| WorkerError::Unreadable(e.to_string());
        let length = match source.seek(SeekFrom::End(0)).and_then(|length| source.rewind().map(|()| length)) {
            Ok(length) => length,
            Err(error) => {
                reading.fail("message", unreadable(error));
                return reading;
            }
        };
        if length > IN_PROCESS {
            let header = JobHeader { kind: JobKind::Message, length, patterns: self.patterns.clone() };
            let done = workers.run(Job { header, content: source, deadline });
            reading.add("message", done);
            return reading;
        }
        let mut message = Vec::with_capacity(length as usize);
        if let Err(error) = source.take(IN_PROCESS).read_to_end(&mut message) {
            reading.fail("message", unreadable(error));
            return reading;
        }
        // A defect in a reader must not take other messages down with it.
        let whole = catch_unwind(AssertUnwindSafe(|| self.read_here(&message, &mut reading, workers, deadline)));
        if whole.is_err() {
            reading.fail("message", WorkerError::Defect);
        }
        reading
    }

    fn read_here(&self, message: &[u8], reading: &mut Reading, workers: &dyn Workers, deadline: Instant) {
        let mut budget = extract::Budget::until(deadline);
        let structure = extract::walk(message, &mut budget);
        reading.parts.push(examine(&structure.header.part(), &self.detectors, deadline));
        for part in &structure.parts {
            if part.about.attachment {
                let header = JobHeader {
                    kind: JobKind::Part(part.about.clone()),
                    length: part.body.len() as u64,
                    patterns: self.patterns.clone(),
                };
                let done = workers.run(Job { header, content: &mut Cursor::new(&*part.body), deadline });
                let fatal = matches!(done, Err(WorkerError::KilledThreeTimes));
                reading.add(&part.about.section, done);
                if fatal {
                    break;
                }
            } else {
                extract::read(&part.about, &part.body, &mut budget, &mut |part| {
                    reading.parts.push(examine(&part, &self.detectors, deadline));
                });
            }
        }
        reading.header = structure.header.into();
    }
}

impl Reading {
    fn add(&mut self, section: &str, done: Result<JobReport, WorkerError>) {
        match done {
            Ok(report) => {
                if let Some(header) = report.header {
                    self.header = header;
                }
                self.parts.extend(report.parts);
            }
            Err(error) => self.fail(section, error),
        }
    }

    fn fail(&mut self, section: &str, error: WorkerError) {
        self.failures.push((section.to_owned(), error));
    }
}
