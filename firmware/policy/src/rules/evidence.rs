//! What was read of a message, arranged for rules.
//!
//! Job: count distinct matches once, answer the conditions' questions, and write the findings down. Place: between
//! reading and rules. Invariants: findings carry masked samples only; the strongest hundred are kept, and of undecidable
//! parts at least one is among them. A crash leaves nothing.

use crate::{
    extract,
    glob::Glob,
    job::{PartReport, WorkerError},
    judge::Reading,
};
use mail::Finding;
use std::collections::HashMap;

/// Findings that a verdict keeps.
const MAX_FINDINGS: usize = 100;
/// Reasons of undecidability that are written out.
const MAX_REASONS: usize = 5;

/// A message as rules ask for it.
pub(super) struct Evidence<'r> {
    reading: &'r Reading,
    subject: String,
    sensitivity: Option<String>,
    /// Best score and masked sample of each distinct value, by detector.
    values: HashMap<u16, HashMap<u64, (f32, &'r str)>>,
}

impl<'r> Evidence<'r> {
    pub(super) fn new(reading: &'r Reading) -> Self {
        let mut values: HashMap<u16, HashMap<u64, (f32, &'r str)>> = HashMap::new();
        for hit in reading.parts.iter().flat_map(|part| &part.hits) {
            let best = values.entry(hit.detector).or_default().entry(hit.distinct).or_insert((hit.score, &hit.sample));
            if hit.score > best.0 {
                *best = (hit.score, &hit.sample);
            }
        }
        Self {
            reading,
            subject: reading.header.subject.to_lowercase(),
            sensitivity: reading.header.sensitivity.as_ref().map(|s| s.trim().to_lowercase()),
            values,
        }
    }

    pub(super) fn subject(&self) -> &str {
        &self.subject
    }

    pub(super) fn sensitivity(&self) -> Option<&str> {
        self.sensitivity.as_deref()
    }

    /// Whether there is such a field, with this text (lower case) in its body.
    pub(super) fn has_header(&self, name: &str, contains: Option<&str>) -> bool {
        self.reading.header.fields.iter().any(|(field, body)| {
            field.eq_ignore_ascii_case(name) && contains.is_none_or(|text| body.to_lowercase().contains(text))
        })
    }

    /// What a person would call attachments: everything with a name, and everything that is not the message's own text.
    fn attachments(&self) -> impl Iterator<Item = &PartReport> {
        self.reading.parts.iter().filter(|part| {
            part.section != "0" && (part.name.is_some() || !matches!(part.sniffed.as_str(), "text" | "html" | "empty"))
        })
    }

    pub(super) fn has_attachment_name(&self, glob: &Glob) -> bool {
        self.attachments().filter_map(|part| part.name.as_deref()).any(|name| {
            // A name may carry a path, or the path inside an archive.
            glob.matches(name) || name.rsplit(['/', '\\']).next().is_some_and(|last| glob.matches(last))
        })
    }

    pub(super) fn has_attachment_type(&self, glob: &Glob) -> bool {
        self.attachments().any(|part| {
            [part.sniffed.as_str(), extract::media_type(&part.sniffed), part.declared.as_str()]
                .into_iter()
                .any(|kind| !kind.is_empty() && glob.matches(kind))
        })
    }

    /// How many different values the detector found with at least this score.
    pub(super) fn distinct(&self, detector: u16, score: f32) -> usize {
        self.values.get(&detector).map_or(0, |values| values.values().filter(|(s, _)| *s >= score).count())
    }

    /// The masked sample of the best value.
    pub(super) fn sample(&self, detector: u16) -> Option<&str> {
        self.values
            .get(&detector)?
            .values()
            .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(a.1)))
            .map(|(_, sample)| *sample)
    }

    /// The first condition of a part that the glob names, with its place.
    pub(super) fn condition(&self, glob: &Glob) -> Option<String> {
        let slow =
            self.reading.failures.iter().find(|(_, e)| *e == WorkerError::TooSlow && glob.matches("over_budget"));
        let parts =
            self.reading.parts.iter().flat_map(|part| part.conditions.iter().map(move |c| (part, c.to_string())));
        parts
            .filter(|(_, condition)| glob.matches(condition))
            .map(|(part, condition)| format!("part {}: {condition}", shown(&part.section)))
            .next()
            .or_else(|| slow.map(|(section, _)| format!("part {}: over_budget", shown(section))))
    }

    pub(super) fn failures(&self) -> &[(String, WorkerError)] {
        &self.reading.failures
    }

    /// Why the message can't be decided, if so.
    pub(super) fn undecidable(&self) -> Option<String> {
        let parts = self.reading.parts.iter().flat_map(|part| {
            part.conditions.iter().filter(|c| c.is_undecidable()).map(|c| format!("part {}: {c}", shown(&part.section)))
        });
        let failures = self.reading.failures.iter().map(|(section, error)| format!("part {}: {error}", shown(section)));
        let mut reasons: Vec<String> = failures.chain(parts).take(MAX_REASONS).collect();
        reasons.dedup();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// The findings, strongest first.
    pub(super) fn findings(&self, detectors: &[String]) -> Vec<Finding> {
        let mut all = findings(&self.reading.parts, detectors);
        all.sort_by(|a, b| b.score.total_cmp(&a.score));
        all.truncate(MAX_FINDINGS);
        all
    }
}

/// A section for people: what a name inside an archive may hold is cut to what can do no harm.
fn shown(section: &str) -> String {
    section.chars().map(|c| if c.is_control() { ' ' } else { c }).take(60).collect()
}

/// All findings of all parts in their order, conditions before matches.
pub(crate) fn findings(parts: &[PartReport], detectors: &[String]) -> Vec<Finding> {
    let mut out = Vec::new();
    for part in parts {
        for condition in &part.conditions {
            out.push(Finding {
                detector: condition.to_string(),
                part: part.section.clone(),
                offset: 0,
                length: 0,
                // That there is no reader for a picture is certain, and says nothing by itself.
                score: if condition.is_undecidable() { 1.0 } else { 0.0 },
                sample: String::new(),
            });
        }
        for hit in &part.hits {
            out.push(Finding {
                detector: detectors.get(usize::from(hit.detector)).cloned().unwrap_or_default(),
                part: part.section.clone(),
                offset: hit.offset,
                length: hit.length,
                score: hit.score,
                sample: hit.sample.clone(),
            });
        }
    }
    out
}
