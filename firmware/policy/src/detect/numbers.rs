//! Numbers with a meaning: social security, cards, bank routing, patients, providers.
//!
//! Job: say which detectors a stretch of digits passes, and how sure its writing alone makes them. Place: after the
//! chains; what passes gets context words next. Invariants: format and checksum decide whether there is a hit at all,
//! the way it is written decides the score; a number that anybody writes without a checksum (nine digits in a row) stays
//! below 0.5 without context. A crash leaves nothing.

use super::{
    Kind,
    chain::{Gap, Number, Shape},
    checksum,
};

/// A hit before context: the detector and the score of the writing.
pub(super) type Scored = (Kind, f32);

/// The score of the writing, where format and checksum hold.
type Detector = fn(&Number) -> Option<f32>;

/// Calls `hit` for every detector that `number` passes.
pub(super) fn detect(number: &Number, hit: &mut impl FnMut(Scored)) {
    if number.is_one_digit() {
        return;
    }
    let all: [(Kind, Detector); 2] = match number.digits().len() {
        9 => [(Kind::UsSsn, ssn), (Kind::UsAba, aba)],
        10 => [(Kind::UkNhs, nhs), (Kind::UsNpi, npi)],
        12..=19 => [(Kind::CreditCard, card), (Kind::CreditCard, |_| None)],
        _ => return,
    };
    for (kind, detector) in all {
        if let Some(score) = detector(number) {
            // A piece of a longer token may be a number all the same, if somebody wrote groups; one bare run is not.
            match (number.embedded, number.shape) {
                (true, Shape::Single) => {}
                (true, _) => hit((kind, score * 0.5)),
                (false, _) => hit((kind, score)),
            }
        }
    }
}

/// The score of groups as people write them, by what parts them.
fn by_gap(number: &Number, dash: f32, space: f32, other: f32) -> f32 {
    match number.shape {
        Shape::Uniform(Gap::Dash) => dash,
        Shape::Uniform(Gap::Space) => space,
        Shape::Uniform(Gap::Dot | Gap::Slash | Gap::Underscore) => space.min(dash),
        _ => other,
    }
}

/// The score of one digit to a group (forms with a box for each digit), which is any row of single digits too.
fn boxed(number: &Number) -> Option<f32> {
    (number.even_groups() == Some(1) && number.shape != Shape::Mixed).then_some(0.2)
}

/// SSA's rules (20 CFR 422.103; since 2011 no meaning in the area): area not 000, 666 or 9xx, group not 00, serial not
/// 0000. Two numbers were printed on sample cards and withdrawn.
fn ssn(number: &Number) -> Option<f32> {
    let &[a, b, c, d, e, f, g, h, i] = number.digits() else { return None };
    let area = u32::from(a) * 100 + u32::from(b) * 10 + u32::from(c);
    let withdrawn = [[0, 7, 8, 0, 5, 1, 1, 2, 0], [2, 1, 9, 0, 9, 9, 9, 9, 9]];
    if matches!(area, 0 | 666 | 900..)
        || [d, e] == [0, 0]
        || [f, g, h, i] == [0; 4]
        || withdrawn.iter().any(|w| w == number.digits())
    {
        return None;
    }
    if number.is_grouped(&[3, 2, 4]) {
        return Some(by_gap(number, 0.6, 0.5, 0.4));
    }
    if number.is_grouped_over_lines(&[3, 2, 4]) {
        return Some(by_gap(number, 0.5, 0.4, 0.3));
    }
    if number.shape == Shape::Single || number.is_grouped_over_lines(&[9]) {
        return Some(0.2);
    }
    boxed(number)
}

/// Prefixes that the Federal Reserve uses: 00–12 banks, 21–32 thrifts, 61–72 electronic, 80 traveller's cheques.
fn aba(number: &Number) -> Option<f32> {
    let digits = number.digits();
    let &[a, b, ..] = digits else { return None };
    if !matches!(a * 10 + b, 0..=12 | 21..=32 | 61..=72 | 80) || !checksum::aba(digits) {
        return None;
    }
    if number.shape == Shape::Single || number.is_grouped_over_lines(&[9]) {
        return Some(0.3);
    }
    if number.is_grouped(&[4, 4, 1]) {
        return Some(by_gap(number, 0.4, 0.3, 0.25));
    }
    if number.is_grouped(&[3, 3, 3]) {
        return Some(0.25);
    }
    boxed(number)
}

fn nhs(number: &Number) -> Option<f32> {
    if !checksum::nhs(number.digits()) {
        return None;
    }
    if number.is_grouped(&[3, 3, 4]) {
        // With dashes and dots it is the way of North American telephone numbers, one of eleven of which pass.
        return Some(by_gap(number, 0.25, 0.4, 0.25));
    }
    if number.shape == Shape::Single || number.is_grouped_over_lines(&[3, 3, 4]) || number.is_grouped_over_lines(&[10])
    {
        return Some(0.25);
    }
    boxed(number)
}

fn npi(number: &Number) -> Option<f32> {
    let digits = number.digits();
    if !matches!(digits, [1 | 2, ..]) || !checksum::npi(digits) {
        return None;
    }
    if number.shape == Shape::Single || number.is_grouped_over_lines(&[10]) {
        return Some(0.3);
    }
    if number.is_grouped(&[3, 3, 4]) || number.is_grouped(&[1, 3, 3, 3]) || number.is_grouped(&[4, 3, 3]) {
        return Some(0.2);
    }
    boxed(number)
}

/// How well a card's first digits and length are known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Range {
    /// A big issuer at its usual length.
    Usual,
    /// Allowed, but rare or no longer issued.
    Rare,
}

/// Issuer ranges (ISO/IEC 7812-1) and lengths.
fn issuer(digits: &[u8]) -> Option<Range> {
    let prefix = |n: usize| digits.iter().take(n).fold(0u32, |value, &d| value * 10 + u32::from(d));
    let length = digits.len();
    let usual = |is: bool| Some(if is { Range::Usual } else { Range::Rare });
    match (prefix(2), prefix(3), prefix(4), prefix(6)) {
        // Visa
        (40..=49, ..) if matches!(length, 13 | 16 | 19) => usual(length == 16),
        // Mastercard
        (51..=55, ..) | (_, _, 2221..=2720, _) if length == 16 => Some(Range::Usual),
        // American Express
        (34 | 37, ..) if length == 15 => Some(Range::Usual),
        // Diners Club
        (36 | 38 | 39, ..) | (_, 300..=305 | 309, ..) if matches!(length, 14 | 16 | 19) => usual(length < 19),
        // Discover, and its share of UnionPay
        (65, ..) | (_, 644..=649, ..) | (_, _, 6011, _) | (_, _, _, 622_126..=622_925)
            if (16..=19).contains(&length) =>
        {
            usual(length == 16)
        }
        // UnionPay
        (62, ..) | (81, ..) if (16..=19).contains(&length) => usual(length == 16),
        // JCB
        (_, _, 3528..=3589, _) if (16..=19).contains(&length) => usual(length == 16),
        // Mir
        (_, _, 2200..=2204, _) if (16..=19).contains(&length) => usual(length == 16),
        // RuPay
        (60 | 82, ..) | (_, 508, ..) | (_, 353 | 356, ..) if length == 16 => Some(Range::Rare),
        // Maestro and its national kin
        (_, _, 5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761..=6763 | 6771, _) => usual(length == 16),
        _ => None,
    }
}

fn card(number: &Number) -> Option<f32> {
    let digits = number.digits();
    let range = issuer(digits)?;
    if !checksum::luhn(digits) {
        return None;
    }
    let usual = range == Range::Usual;
    if number.shape == Shape::Single {
        return Some(if usual { 0.6 } else { 0.35 });
    }
    let printed: &[&[u8]] = match digits.len() {
        14 | 15 => &[&[4, 6, 4], &[4, 6, 5]],
        16 => &[&[4, 4, 4, 4]],
        17 => &[&[4, 4, 4, 4, 1], &[4, 4, 4, 5]],
        18 => &[&[4, 4, 4, 4, 2], &[6, 12]],
        19 => &[&[4, 4, 4, 4, 3], &[6, 13]],
        _ => &[&[4, 4, 4, 1], &[4, 4, 5], &[4, 4, 4]],
    };
    if printed.iter().any(|groups| number.is_grouped(groups)) {
        // Of four columns of four-digit numbers one row in fifty passes: cells and lines need context.
        let strong = match number.shape {
            Shape::Uniform(Gap::Cell) => 0.45,
            Shape::Uniform(Gap::Line | Gap::Comma) => 0.4,
            Shape::Mixed => 0.45,
            _ => 0.8,
        };
        return Some(if usual { strong } else { strong - 0.2 });
    }
    if printed.iter().any(|groups| number.is_grouped_over_lines(groups))
        || number.is_grouped_over_lines(&[digits.len() as u8])
    {
        return Some(if usual { 0.55 } else { 0.35 });
    }
    match (number.even_groups(), number.shape) {
        (_, Shape::Mixed) | (None, Shape::Uniform(Gap::Cell | Gap::Line | Gap::Comma)) => None,
        (Some(1), _) => Some(0.3),
        (Some(2 | 4 | 8), _) => Some(if usual { 0.5 } else { 0.3 }),
        (_, _) => Some(if usual { 0.35 } else { 0.2 }),
    }
}
