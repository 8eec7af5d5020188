//! The one pass.
//!
//! Job: walk over a folded text once, in blocks, and hand each candidate to its detectors. Place: between folding and
//! context. Invariants: digits and literals of a block are looked for while it lies in the nearest cache; chains and
//! literals that cross a border of blocks are whole; the deadline is asked for at each block. A crash leaves nothing.

use super::{
    Detectors, Kind,
    chain::{self, Chain, Number},
    credentials,
    fold::Folded,
    iban, numbers, runs,
    sink::Sink,
    table::Columns,
};
use aho_corasick::{
    AhoCorasick, BuildError, Span,
    packed::{self, Searcher},
};
use std::{ops::Range, time::Instant};

/// Bytes of a block: with its folded neighbour it fits the nearest cache.
const BLOCK: usize = 16 * 1024;

/// The rare literals, searched with vectors where the processor has them.
#[derive(Debug)]
pub(super) struct Literals {
    vectored: Option<Searcher>,
    plain: AhoCorasick,
    longest: usize,
}

impl Literals {
    pub(super) fn new() -> Result<Self, BuildError> {
        let plain =
            AhoCorasick::builder().match_kind(aho_corasick::MatchKind::LeftmostFirst).build(credentials::literals())?;
        let vectored = packed::Config::new().builder().extend(credentials::literals()).build();
        Ok(Self { vectored, plain, longest: credentials::literals().map(str::len).max().unwrap_or(0) })
    }

    /// Calls `found` with index and start of each literal that starts in `from..to`.
    fn for_each(&self, bytes: &[u8], from: usize, to: usize, mut found: impl FnMut(usize, usize)) {
        let end = (to + self.longest - 1).min(bytes.len());
        let mut at = from;
        while at < to {
            let span = Span { start: at, end };
            let next = match &self.vectored {
                Some(searcher) => searcher.find_in(bytes, span),
                None => self.plain.find(aho_corasick::Input::new(bytes).span(span)),
            };
            let Some(m) = next.filter(|m| m.start() < to) else { return };
            found(m.pattern().as_usize(), m.start());
            at = m.start() + 1;
        }
    }
}

/// What the pass carries with it.
struct Pass<'d, 't, 's, 'h> {
    detectors: &'d Detectors,
    folded: &'t Folded<'t>,
    sink: &'s mut Sink<'h>,
    chain: Chain,
    /// End of the last run.
    last: usize,
    /// End of the last IBAN in the folded text: its digits are no other number's.
    iban_end: usize,
    /// End of the last word with digits that was looked at.
    token_end: usize,
    columns: Columns,
}

/// Runs all built-in detectors; false where the deadline passed first.
pub(super) fn scan(detectors: &Detectors, folded: &Folded<'_>, deadline: Instant, sink: &mut Sink<'_>) -> bool {
    let bytes = folded.text.as_bytes();
    let mut pass = Pass {
        detectors,
        folded,
        sink,
        chain: Chain::default(),
        last: 0,
        iban_end: 0,
        token_end: 0,
        columns: Columns::default(),
    };
    let mut from = 0;
    while from < bytes.len() {
        if Instant::now() >= deadline {
            return false;
        }
        // A run of digits that crosses the border belongs to this block.
        let mut to = (from + BLOCK).min(bytes.len());
        while bytes.get(to).is_some_and(u8::is_ascii_digit) {
            to += 1;
        }
        runs::for_each_run(bytes.get(from..to).unwrap_or_default(), |start, end| pass.run(from + start, from + end));
        detectors.literals.for_each(bytes, from, to, |literal, start| pass.literal(literal, start));
        for at_sign in memchr::memchr_iter(b'@', bytes.get(from..to).unwrap_or_default()) {
            pass.secret(credentials::url_at(bytes, from + at_sign));
        }
        from = to;
    }
    pass.flush(false);
    true
}

impl<'t> Pass<'_, 't, '_, '_> {
    fn bytes(&self) -> &'t [u8] {
        self.folded.text.as_bytes()
    }

    /// The next run of digits.
    #[inline]
    fn run(&mut self, start: usize, end: usize) {
        let gap = if self.chain.len() == 0 { None } else { self.bytes().get(self.last..start).and_then(chain::gap) };
        if gap.is_none() {
            self.flush(false);
            self.chain.clear();
        } else if self.chain.len() >= chain::MAX_RUNS {
            self.flush(true);
            self.chain.keep_tail();
        }
        self.chain.push(start, end, gap);
        self.last = end;
        if end - start >= 2 {
            self.iban(start);
        }
        if start >= self.token_end
            && matches!(
                self.bytes().get(..start),
                Some([.., b'a'..=b'z', b'-'] | [.., b'a'..=b'z' | b'A'..=b'Z' | b'_'])
            )
        {
            self.token(start);
        }
    }

    fn iban(&mut self, digits: usize) {
        let Some(found) = iban::at(self.bytes(), digits) else { return };
        let context = self.detectors.words.around(self.bytes(), found.start, found.end, &mut self.columns);
        let (start, end) = self.folded.original(found.start, found.end);
        let score = context.raise(Kind::Iban, found.score);
        self.sink.built_in(Kind::Iban, start, end, score, context.speaks_for(Kind::Iban), &found.characters);
        self.iban_end = found.end;
    }

    /// Looks at the chain; `open` where it goes on.
    fn flush(&mut self, open: bool) {
        let digits = self.chain.digits();
        if digits < 5 {
            return;
        }
        let chain = std::mem::take(&mut self.chain);
        if digits >= 9 {
            for first in chain.starts(open) {
                self.numbers_from(&chain, first);
            }
        }
        if chain.is_from_the_start() {
            self.patient(&chain);
        }
        self.chain = chain;
    }

    /// All numbers that start with the run `first`.
    fn numbers_from(&mut self, chain: &Chain, first: usize) {
        let mut total = 0;
        let mut card: Option<(Number, f32)> = None;
        for (last, &(start, end, _)) in chain.runs().iter().enumerate().skip(first) {
            total += end - start;
            if total > chain::MAX_DIGITS {
                break;
            }
            if total < 9 || start < self.iban_end {
                continue;
            }
            let Some(number) = chain.number(self.bytes(), first, last) else { break };
            let mut found = [None; 2];
            let mut slots = found.iter_mut();
            numbers::detect(&number, &mut |scored| {
                if let Some(slot) = slots.next() {
                    *slot = Some(scored);
                }
            });
            for (kind, score) in found.into_iter().flatten() {
                // Card numbers of several lengths can start here (an expiry date, a security code behind them); the best
                // writing is meant, the longest of equals.
                if kind != Kind::CreditCard {
                    self.number(&number, kind, score);
                } else if card.as_ref().is_none_or(|(_, best)| score >= *best) {
                    card = Some((number.clone(), score));
                }
            }
        }
        if let Some((number, score)) = card {
            self.number(&number, Kind::CreditCard, score);
        }
    }

    fn number(&mut self, number: &Number, kind: Kind, score: f32) {
        let (start, end) = self.folded.original(number.start, number.end);
        if self.sink.covered(start, end, &[Kind::CreditCard, Kind::Iban]) {
            return;
        }
        let bytes = self.bytes();
        let context = self.detectors.words.around(bytes, number.start, number.end, &mut self.columns);
        let score = context.raise(kind, score);
        self.sink.built_in(kind, start, end, score, context.speaks_for(kind), number.digits());
        if matches!(kind, Kind::UsSsn | Kind::UkNhs)
            && score >= 0.4
            && let Some(medical) = self.detectors.medicine.near(bytes, number.start, number.end, score.min(0.6))
        {
            self.sink.built_in(Kind::Medical, start, end, medical, true, number.digits());
        }
    }

    /// A patient's number or birthday by its label.
    fn patient(&mut self, chain: &Chain) {
        let bytes = self.bytes();
        if let Some((range, score)) = self.detectors.medicine.labelled(bytes, chain) {
            let (start, end) = self.folded.original(range.start, range.end);
            if !self.sink.covered(start, end, &[Kind::Medical]) {
                let value: Vec<u8> =
                    bytes.get(range).unwrap_or_default().iter().copied().filter(u8::is_ascii_digit).collect();
                self.sink.built_in(Kind::Medical, start, end, score, true, &value);
            }
        }
    }

    fn literal(&mut self, literal: usize, start: usize) {
        self.secret(credentials::at(&self.folded.text, literal, start));
    }

    /// A token that has its first digit here.
    fn token(&mut self, digits: usize) {
        let (end, secret) = credentials::token_at(self.bytes(), digits);
        self.token_end = end;
        self.secret(secret);
    }

    fn secret(&mut self, secret: Option<(Range<usize>, f32)>) {
        let Some((range, score)) = secret else { return };
        let value = self.bytes().get(range.clone()).unwrap_or_default();
        let (start, end) = self.folded.original(range.start, range.end);
        if !self.sink.covered(start, end, &[Kind::Credentials]) {
            self.sink.built_in(Kind::Credentials, start, end, score, true, value);
        }
    }
}
