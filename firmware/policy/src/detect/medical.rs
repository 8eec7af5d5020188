//! A person beside a health term (features P3).
//!
//! Job: find where a text says something of somebody's health: an identifier of a person, and a term of medicine within
//! [`NEAR_WORDS`] words. Place: called for social security and NHS numbers that were found, and for digits behind a label
//! such as `MRN` or `date of birth`. Invariants: neither an identifier alone nor a term alone is a hit. A crash leaves
//! nothing.

use super::{
    chain::{Chain, Gap},
    context::is_word,
};
use aho_corasick::{AhoCorasick, AhoCorasickKind, BuildError, MatchKind};
use std::ops::Range;

/// Words between identifier and term.
const NEAR_WORDS: usize = 30;
/// Bytes in which they are looked for.
const NEAR_BYTES: usize = 300;
/// Bytes before a number in which its label stands.
const LABEL: usize = 40;

/// Labels of patients' numbers.
const ID_LABELS: [&str; 33] = [
    "mrn",
    "medical record",
    "medical record number",
    "medical record no",
    "medical rec",
    "record number",
    "patient id",
    "patient no",
    "patient number",
    "patient #",
    "patient identifier",
    "chart number",
    "chart no",
    "chart #",
    "hospital number",
    "hospital no",
    "hospital id",
    "member id",
    "member number",
    "subscriber id",
    "insurance id",
    "insurance number",
    "health insurance",
    "policy number",
    "policy no",
    "medicare number",
    "medicare no",
    "medicaid id",
    "health card",
    "hicn",
    "mbi",
    "claim number",
    "encounter",
];
/// Labels of a birthday.
const BIRTH_LABELS: [&str; 12] = [
    "dob",
    "d.o.b",
    "date of birth",
    "birth date",
    "birthdate",
    "born",
    "born on",
    "birthday",
    "geburtsdatum",
    "geb",
    "date de naissance",
    "fecha de nacimiento",
];

/// Terms that say what somebody has or takes.
const STRONG: [&str; 118] = [
    "diagnosis",
    "diagnosed",
    "diagnoses",
    "diagnostic",
    "prognosis",
    "icd-10",
    "icd10",
    "icd-9",
    "cpt code",
    "biopsy",
    "oncology",
    "cancer",
    "carcinoma",
    "tumor",
    "tumour",
    "leukemia",
    "leukaemia",
    "lymphoma",
    "melanoma",
    "metastatic",
    "chemotherapy",
    "radiotherapy",
    "dialysis",
    "diabetes",
    "diabetic",
    "insulin",
    "metformin",
    "hypertension",
    "hypertensive",
    "asthma",
    "copd",
    "pneumonia",
    "tuberculosis",
    "hepatitis",
    "hiv",
    "aids",
    "antiretroviral",
    "herpes",
    "syphilis",
    "gonorrhea",
    "chlamydia",
    "std",
    "covid",
    "covid-19",
    "influenza",
    "sepsis",
    "mrsa",
    "epilepsy",
    "seizure",
    "stroke",
    "myocardial",
    "infarction",
    "angina",
    "arrhythmia",
    "cardiac",
    "cardiology",
    "coronary",
    "cardiomyopathy",
    "cirrhosis",
    "renal failure",
    "kidney disease",
    "crohn",
    "colitis",
    "arthritis",
    "osteoporosis",
    "fibromyalgia",
    "lupus",
    "multiple sclerosis",
    "parkinson",
    "alzheimer",
    "dementia",
    "schizophrenia",
    "bipolar",
    "depression",
    "depressive",
    "anxiety disorder",
    "ptsd",
    "autism",
    "adhd",
    "psychiatric",
    "psychiatry",
    "psychotherapy",
    "suicidal",
    "addiction",
    "substance abuse",
    "alcoholism",
    "methadone",
    "opioid",
    "oxycodone",
    "fentanyl",
    "morphine",
    "warfarin",
    "heparin",
    "lisinopril",
    "atorvastatin",
    "amoxicillin",
    "prednisone",
    "sertraline",
    "fluoxetine",
    "gabapentin",
    "levothyroxine",
    "albuterol",
    "prescription",
    "prescribed",
    "medication",
    "medications",
    "dosage",
    "pregnancy",
    "pregnant",
    "miscarriage",
    "abortion",
    "infertility",
    "ivf",
    "blood test",
    "blood pressure",
    "lab results",
    "test results",
    "hba1c",
];
/// Terms of the trade; with a patient's number or two together they say enough.
const WEAK: [&str; 44] = [
    "patient",
    "hospital",
    "clinic",
    "clinical",
    "physician",
    "doctor",
    "nurse",
    "surgery",
    "surgical",
    "surgeon",
    "treatment",
    "therapy",
    "therapist",
    "symptom",
    "symptoms",
    "discharge summary",
    "admitted",
    "admission",
    "inpatient",
    "outpatient",
    "referral",
    "radiology",
    "x-ray",
    "mri",
    "ct scan",
    "ultrasound",
    "ecg",
    "ekg",
    "vaccination",
    "vaccine",
    "immunization",
    "allergy",
    "allergies",
    "allergic",
    "pathology",
    "specimen",
    "pharmacy",
    "dose",
    "medical history",
    "health record",
    "medical condition",
    "chronic",
    "acute",
    "icu",
];

/// What a label makes of the digits behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Identifier {
    Number,
    Birth,
}

/// Labels and terms, ready to be searched.
#[derive(Debug)]
pub(super) struct Medicine {
    labels: AhoCorasick,
    terms: AhoCorasick,
}

impl Medicine {
    pub(super) fn new() -> Result<Self, BuildError> {
        let build = |words: Vec<&str>, kind| {
            AhoCorasick::builder()
                .ascii_case_insensitive(true)
                .match_kind(MatchKind::LeftmostLongest)
                .kind(Some(kind))
                .build(words)
        };
        Ok(Self {
            labels: build(ID_LABELS.iter().chain(&BIRTH_LABELS).copied().collect(), AhoCorasickKind::DFA)?,
            terms: build(STRONG.iter().chain(&WEAK).copied().collect(), AhoCorasickKind::DFA)?,
        })
    }

    /// An identifier of a person that the chain starts with, by its label, and the score with the terms near it.
    pub(super) fn labelled(&self, bytes: &[u8], chain: &Chain) -> Option<(Range<usize>, f32)> {
        let &[(start, first_end, _), ref rest @ ..] = chain.runs() else { return None };
        let dated = matches!(rest, [(_, _, Some(Gap::Slash | Gap::Dash | Gap::Dot)), (_, _, Some(_)), ..]);
        if first_end - start < 5 && !dated && !matches!(rest, [(_, _, Some(Gap::Dash)), ..]) {
            return None;
        }
        let window = bytes.get(start.saturating_sub(LABEL)..start)?;
        // The nearest label names the number, if nothing but marks and the smallest words stand between.
        let found = self.labels.find_iter(window).filter(|m| is_word(window, m.start(), m.end())).last()?;
        let between = window.get(found.end()..)?;
        if between.len() > 16 || between.iter().filter(|b| b.is_ascii_alphabetic()).count() > 6 {
            return None;
        }
        let identifier =
            if found.pattern().as_usize() < ID_LABELS.len() { Identifier::Number } else { Identifier::Birth };
        let end = match identifier {
            Identifier::Number => {
                // `MRN 123-456-7` is one number, `MRN 1234567 12/03/2024` is not.
                let mut end = first_end;
                for &(from, to, gap) in rest {
                    if gap != Some(Gap::Dash) || from - end != 1 {
                        break;
                    }
                    end = to;
                }
                let digits = bytes.get(start..end)?.iter().filter(|b| b.is_ascii_digit()).count();
                if !(5..=14).contains(&digits) {
                    return None;
                }
                end
            }
            Identifier::Birth => {
                let &[(_, second_end, Some(a)), (_, third_end, Some(b)), ..] = rest else { return None };
                let short = second_end > first_end && first_end - start <= 4 && third_end - start <= 12;
                if !dated || a != b || !short {
                    return None;
                }
                third_end
            }
        };
        let base = if identifier == Identifier::Number { 0.6 } else { 0.5 };
        Some((start..end, self.near(bytes, start, end, base)?))
    }

    /// The score of a person's identifier at `start..end` by the terms around it; `base` says how surely it is one.
    pub(super) fn near(&self, bytes: &[u8], start: usize, end: usize, base: f32) -> Option<f32> {
        let behind = bytes.get(end..end.saturating_add(NEAR_BYTES).min(bytes.len()))?;
        let before = bytes.get(start.saturating_sub(NEAR_BYTES)..start)?;
        let mut seen = [0u32; 2];
        let mut last = [usize::MAX; 2];
        let mut count = |window: &[u8]| {
            for term in self.terms.find_iter(window).filter(|m| is_word(window, m.start(), m.end())) {
                let weak = usize::from(term.pattern().as_usize() >= STRONG.len());
                // The same term again adds nothing.
                if let (Some(seen), Some(last)) = (seen.get_mut(weak), last.get_mut(weak))
                    && *last != term.pattern().as_usize()
                {
                    *last = term.pattern().as_usize();
                    *seen += 1;
                }
            }
        };
        count(words(behind));
        count(last_words(before));
        let [strong, weak] = seen;
        match (strong, weak) {
            (0, 0) => None,
            (0, 1) => Some(base - 0.15),
            (0, _) => Some(base),
            (1, 0) => Some(base + 0.05),
            _ => Some((base + 0.1 * (strong + weak).min(3) as f32).min(0.95)),
        }
    }
}

/// The start of `window`, up to [`NEAR_WORDS`] words.
fn words(window: &[u8]) -> &[u8] {
    let mut count = 0;
    let mut inside = false;
    let end = window.iter().position(|b| {
        let space = b.is_ascii_whitespace();
        count += usize::from(inside && space);
        inside = !space;
        count >= NEAR_WORDS
    });
    window.get(..end.unwrap_or(window.len())).unwrap_or(window)
}

/// The end of `window`, down to [`NEAR_WORDS`] words.
fn last_words(window: &[u8]) -> &[u8] {
    let mut count = 0;
    let mut inside = false;
    let start = window.iter().rposition(|b| {
        let space = b.is_ascii_whitespace();
        count += usize::from(inside && space);
        inside = !space;
        count >= NEAR_WORDS
    });
    window.get(start.unwrap_or(0)..).unwrap_or(window)
}
