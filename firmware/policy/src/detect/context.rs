//! Words near a candidate.
//!
//! Job: say which detectors the words around a candidate speak for. Place: after format and checksum, so it is asked
//! rarely. Invariants: words raise a score and never lower it; a label that names something else (`order no.`, `phone`)
//! and stands nearer keeps a farther word from raising it; what is looked at is bounded. A crash leaves nothing.

use super::{Kind, table::Columns};
use aho_corasick::{AhoCorasick, AhoCorasickKind, BuildError, MatchKind};

/// Bytes before a candidate that are looked at: a label, a sentence, a line of a form.
const BEFORE: usize = 120;
/// Bytes behind it, at most to the end of its line.
const AFTER: usize = 40;
/// Labels nearer to each other than this speak together: `SSN / Tax ID`.
const TOGETHER: usize = 8;
/// A label this near before the number names it; what stands behind the number then names something else.
const NAMED: usize = 32;

/// What share of the distance to 1 a label closes.
const STRONG: f32 = 0.625;
/// The same for a word that merely fits.
const WEAK: f32 = 0.2;

/// A set of detectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kinds(u16);

impl Kinds {
    const fn of(kind: Kind) -> Self {
        Self(1 << kind as u16)
    }

    fn has(self, kind: Kind) -> bool {
        self.0 & Self::of(kind).0 != 0
    }

    fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// What a word says.
#[derive(Clone, Copy, Debug)]
enum Says {
    /// A label of this detector.
    Label(Kind),
    /// It fits to this detector.
    Fits(Kind),
    /// A label of something else.
    Other,
}

/// Labels, words that fit, by detector.
const WORDS: [(Kind, &[&str], &[&str]); 6] = [
    (
        Kind::UsSsn,
        &[
            "ssn",
            "ss#",
            "ss #",
            "ss no",
            "social security",
            "social sec",
            "social-security",
            "soc sec",
            "soc. sec",
            "ssno",
            "itin",
            "taxpayer id",
            "taxpayer identification",
            "tax id",
            "seguro social",
            "ssa",
            "w-2",
            "w2",
            "w-9",
            "w9",
        ],
        &[
            "social",
            "tax",
            "payroll",
            "employee",
            "dob",
            "date of birth",
            "born",
            "benefits",
            "identity",
            "spouse",
            "dependent",
        ],
    ),
    (
        Kind::CreditCard,
        &[
            "credit card",
            "creditcard",
            "credit-card",
            "debit card",
            "card number",
            "card no",
            "card #",
            "card:",
            "cardnumber",
            "card_number",
            "cc number",
            "cc#",
            "cc no",
            "ccnum",
            "visa",
            "mastercard",
            "master card",
            "amex",
            "american express",
            "maestro",
            "diners",
            "jcb",
            "unionpay",
            "cardholder",
            "card holder",
            "cvv",
            "cvv2",
            "cvc",
            "kreditkarte",
            "kreditkartennummer",
            "carte de crédit",
            "carte bancaire",
            "carte bleue",
            "tarjeta",
            "carta di credito",
            "creditkaart",
            "信用卡",
            "卡号",
            "カード番号",
        ],
        &[
            "card",
            "cards",
            "payment",
            "expires",
            "expiry",
            "expiration",
            "exp",
            "exp date",
            "valid thru",
            "charge",
            "billing",
            "cc",
        ],
    ),
    (
        Kind::Iban,
        &["iban", "bank account", "account number", "kontonummer", "bankverbindung", "rib", "bic", "swift"],
        &["account", "bank", "konto", "compte", "transfer", "wire", "remit", "überweisung", "sepa"],
    ),
    (
        Kind::UsAba,
        &[
            "aba",
            "aba#",
            "routing",
            "routing number",
            "routing no",
            "routing #",
            "rtn",
            "transit number",
            "transit no",
            "routing/transit",
            "ach",
            "wire transfer",
            "fedwire",
            "micr",
        ],
        &["bank", "account", "checking", "savings", "deposit", "wire", "transfer", "acct"],
    ),
    (
        Kind::UkNhs,
        &["nhs", "nhs number", "nhs no", "nhs-number", "nhs#", "nhsno", "chi number", "national health service"],
        &["patient", "gp", "hospital", "surgery", "clinic", "ward", "referral", "medical", "health", "doctor", "dob"],
    ),
    (
        Kind::UsNpi,
        &["npi", "npi#", "npi no", "national provider", "provider id", "provider identifier", "provider number"],
        &["provider", "physician", "prescriber", "practice", "clinic", "medicare", "medicaid", "cms", "doctor"],
    ),
];

/// Labels of numbers that are nobody's secret.
const OTHERS: [&str; 80] = [
    "order no",
    "order number",
    "order #",
    "order id",
    "order:",
    "orders",
    "phone",
    "telephone",
    "tel",
    "tel.",
    "fax",
    "mobile",
    "cell",
    "cell phone",
    "call",
    "dial",
    "whatsapp",
    "sms",
    "ext",
    "extension",
    "hotline",
    "toll free",
    "toll-free",
    "invoice",
    "invoice no",
    "inv no",
    "tracking",
    "tracking number",
    "shipment",
    "waybill",
    "awb",
    "fedex",
    "ups",
    "dhl",
    "usps",
    "parcel",
    "ticket",
    "ticket #",
    "case no",
    "case number",
    "case #",
    "case id",
    "ref",
    "ref.",
    "reference",
    "reference number",
    "ref no",
    "confirmation",
    "confirmation code",
    "booking",
    "sku",
    "serial",
    "serial number",
    "s/n",
    "isbn",
    "issn",
    "ean",
    "upc",
    "gtin",
    "imei",
    "part number",
    "part no",
    "model",
    "item",
    "item no",
    "po number",
    "po #",
    "po:",
    "p.o.",
    "quote no",
    "job no",
    "build",
    "commit",
    "version",
    "zip",
    "postcode",
    "timestamp",
    "meeting id",
    "passcode",
    "webinar id",
];

/// The words, ready to be searched.
#[derive(Debug)]
pub(super) struct Words {
    automaton: AhoCorasick,
    says: Vec<Says>,
}

/// What the words around one candidate say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Context {
    labels: Kinds,
    fits: Kinds,
}

impl Context {
    /// The score of a candidate with this context.
    pub(super) fn raise(self, kind: Kind, score: f32) -> f32 {
        let share = if self.labels.has(kind) {
            STRONG
        } else if self.fits.has(kind) {
            WEAK
        } else {
            0.0
        };
        score + (1.0 - score) * share
    }

    /// Whether any word speaks for `kind`.
    pub(super) fn speaks_for(self, kind: Kind) -> bool {
        self.labels.has(kind) || self.fits.has(kind)
    }
}

impl Words {
    pub(super) fn new() -> Result<Self, BuildError> {
        let mut words: Vec<&str> = Vec::new();
        let mut says = Vec::new();
        for (kind, labels, fits) in WORDS {
            words.extend(labels);
            says.resize(words.len(), Says::Label(kind));
            words.extend(fits);
            says.resize(words.len(), Says::Fits(kind));
        }
        words.extend(OTHERS);
        says.resize(words.len(), Says::Other);
        let automaton = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(AhoCorasickKind::DFA))
            .build(words)?;
        Ok(Self { automaton, says })
    }

    /// The context of the candidate at `start..end` of the folded text.
    pub(super) fn around(&self, bytes: &[u8], start: usize, end: usize, columns: &mut Columns) -> Context {
        if let Some(header) = columns.header_of(bytes, start, end) {
            let context = self.read(header, Place::Before);
            if context.0 != Context::default() || context.1.is_some() {
                return context.0;
            }
        }
        let before = bytes.get(start.saturating_sub(BEFORE)..start).unwrap_or_default();
        let (mut context, nearest) = self.read(before, Place::Before);
        if nearest.is_none_or(|distance| distance > NAMED) {
            let rest = bytes.get(end..).unwrap_or_default();
            let line =
                rest.iter().take(AFTER).position(|b| matches!(b, b'\n' | b'\r')).unwrap_or(AFTER.min(rest.len()));
            let (after, _) = self.read(rest.get(..line).unwrap_or_default(), Place::After);
            context.labels.add(after.labels);
            context.fits.add(after.fits);
        }
        context
    }

    /// Context and the distance of the nearest label.
    fn read(&self, window: &[u8], place: Place) -> (Context, Option<usize>) {
        let mut fits = Kinds::default();
        // Labels in the order of the text: where they stand and what they name.
        let mut labels: Vec<(usize, usize, Kinds)> = Vec::new();
        for found in self.automaton.find_iter(window) {
            if !is_word(window, found.start(), found.end()) {
                continue;
            }
            let label = match self.says.get(found.pattern().as_usize()) {
                Some(Says::Label(kind)) => Kinds::of(*kind),
                Some(Says::Fits(kind)) => {
                    fits.add(Kinds::of(*kind));
                    continue;
                }
                _ => Kinds::default(),
            };
            labels.push((found.start(), found.end(), label));
        }
        if place == Place::Before {
            labels.reverse();
        } else {
            // `021000021 SSN 123…`: that label is the next number's.
            labels.retain(|l| !leads_to_digits(window.get(l.1..).unwrap_or_default()));
        }
        let mut named = Kinds::default();
        let mut edge: Option<(usize, usize)> = None;
        let mut nearest = None;
        for (start, end, kinds) in labels {
            if let Some((from, to)) = edge {
                // Labels of one number have nothing but marks and `or` between them: `SSN / Tax ID`.
                let between = if place == Place::Before { end..from } else { to..start };
                let between = window.get(between).unwrap_or_default();
                if between.len() > TOGETHER || between.iter().filter(|b| b.is_ascii_alphabetic()).count() > 3 {
                    break;
                }
            }
            if edge.is_none() {
                nearest = Some(if place == Place::Before { window.len() - end } else { start });
            }
            named.add(kinds);
            edge = Some((start, end));
        }
        let named_other = nearest.is_some_and(|distance| distance <= NAMED) && named == Kinds::default();
        (Context { labels: named, fits: if named_other { Kinds::default() } else { fits } }, nearest)
    }
}

/// Which side of the candidate a window is on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    After,
}

/// Whether a match is not a piece of a longer word; a plural is.
pub(super) fn is_word(window: &[u8], start: usize, end: usize) -> bool {
    let inside = |at: Option<usize>| at.and_then(|i| window.get(i)).is_some_and(u8::is_ascii_alphanumeric);
    let joins = |a: Option<usize>, b: Option<usize>| inside(a) && inside(b);
    if joins(start.checked_sub(1), Some(start)) {
        return false;
    }
    if !joins(end.checked_sub(1), Some(end)) {
        return true;
    }
    matches!(window.get(end), Some(b's' | b'S')) && !inside(Some(end + 1))
}

fn leads_to_digits(rest: &[u8]) -> bool {
    rest.iter()
        .take(16)
        .find(|b| b.is_ascii_digit() || !(b.is_ascii_punctuation() || b.is_ascii_whitespace()))
        .is_some_and(u8::is_ascii_digit)
}
