//! When to try again, and when to stop.
//!
//! Job: turn the outcomes of one attempt into what the spool records: the next time, or a permanent failure once the
//! message is too old. Place: between relay or cloud and the spool's settle. Invariants: a deferral becomes permanent
//! only when it is both old enough and was tried often enough, so that neither a box that was off for a week nor a
//! clock that jumped returns mail after one attempt. A crash leaves nothing behind.

use jiff::{SignedDuration, Timestamp};
use mail::{EnhancedCode, Outcome, RecipientOutcome, Reply};
use std::time::Duration;

/// Attempts that every message gets, whatever its age.
const MIN_ATTEMPTS: u32 = 4;
/// Waits vary by this share to either side, so that what failed together does not come back together.
const JITTER: f64 = 0.2;

/// What to do after an attempt that deferred someone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Due again then.
    At(Timestamp),
    /// Too old: a permanent failure.
    GiveUp,
}

/// What the spool is to record of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The outcomes, deferrals made permanent where the message is given up.
    pub outcomes: Vec<RecipientOutcome>,
    /// When those who are still deferred are due again; `None` where nobody is.
    pub retry_at: Option<Timestamp>,
}

/// Exponential backoff with jitter (RFC 5321 §4.5.4.1).
#[derive(Clone, Debug)]
pub struct Retry {
    settings: settings::Retry,
}

impl Retry {
    /// Backoff as `[retry]` sets it.
    #[must_use]
    pub fn new(settings: settings::Retry) -> Self {
        Self { settings }
    }

    /// After the `attempts`-th failed attempt (1 is the first) on a message accepted `age` ago.
    #[must_use]
    pub fn next(&self, attempts: u32, age: Duration, now: Timestamp) -> Decision {
        self.decide(attempts, age, now, random_unit())
    }

    /// What the spool is to record after the `attempts`-th attempt: deferrals of a message that is given up become
    /// failures, and `retry_at` is set if anyone is left to wait for. `not_before` is the destination's own wish (a
    /// suspension, `Retry-After`).
    #[must_use]
    pub fn settle(
        &self,
        attempts: u32,
        accepted: Timestamp,
        now: Timestamp,
        mut outcomes: Vec<RecipientOutcome>,
        not_before: Option<Timestamp>,
    ) -> Settled {
        if !outcomes.iter().any(|o| matches!(o.outcome, Outcome::Deferred(_))) {
            return Settled { outcomes, retry_at: None };
        }
        // A clock that was set back makes the age negative: then the message is new.
        let age = Duration::try_from(now.duration_since(accepted)).unwrap_or_default();
        match self.next(attempts, age, now) {
            Decision::At(at) => Settled { outcomes, retry_at: Some(not_before.map_or(at, |wish| wish.max(at))) },
            Decision::GiveUp => {
                for entry in &mut outcomes {
                    if let Outcome::Deferred(last) = &entry.outcome {
                        entry.outcome = Outcome::Failed(gave_up(age, last));
                    }
                }
                Settled { outcomes, retry_at: None }
            }
        }
    }

    fn decide(&self, attempts: u32, age: Duration, now: Timestamp, random: f64) -> Decision {
        if age >= self.settings.give_up && attempts >= MIN_ATTEMPTS {
            return Decision::GiveUp;
        }
        let doubled = self.settings.first.saturating_mul(1u32 << attempts.saturating_sub(1).min(20));
        let wait = doubled.min(self.settings.longest).mul_f64(1.0 - JITTER + 2.0 * JITTER * random);
        // A timestamp cannot run past the year 9999; a clock that is so wrong gets its mail tried at once.
        let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
        Decision::At(now.checked_add(wait).unwrap_or(now))
    }
}

fn gave_up(age: Duration, last: &Reply) -> Reply {
    let hours = age.as_secs() / 3600;
    Reply::new(550, EnhancedCode(5, 4, 7), format!("not delivered within {hours} hours; the last answer was: {last}"))
}

/// 0 to 1. Jitter needs no secrecy; where the system has no randomness the middle will do.
fn random_unit() -> f64 {
    let mut bytes = [0u8; 4];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn retry() -> Retry {
        Retry::new(settings::Retry { first: Duration::from_secs(60), longest: HOUR, give_up: 120 * HOUR })
    }

    fn wait(attempts: u32, random: f64) -> i64 {
        match retry().decide(attempts, HOUR, Timestamp::UNIX_EPOCH, random) {
            Decision::At(at) => at.as_second(),
            Decision::GiveUp => panic!("gave up after an hour"),
        }
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        assert_eq!(
            [1, 2, 3, 6, 7, 8, 200, u32::MAX].map(|n| wait(n, 0.5)),
            [60, 120, 240, 1920, 3600, 3600, 3600, 3600]
        );
    }

    #[test]
    fn jitter_spreads_a_wait_by_a_fifth_to_either_side() {
        assert_eq!((wait(1, 0.0), wait(1, 1.0)), (48, 72));
        let drawn: std::collections::HashSet<_> = (0..50).map(|_| random_unit().to_bits()).collect();
        assert!(drawn.len() > 10, "jitter is always the same");
    }

    #[test]
    fn an_old_message_that_was_tried_often_is_given_up() {
        assert_eq!(retry().next(MIN_ATTEMPTS, 120 * HOUR, Timestamp::now()), Decision::GiveUp);
    }

    #[test]
    fn an_old_message_that_was_hardly_tried_is_tried_again() {
        for attempts in 1..MIN_ATTEMPTS {
            assert_ne!(retry().next(attempts, 10_000 * HOUR, Timestamp::now()), Decision::GiveUp);
        }
    }

    #[test]
    fn a_clock_at_the_end_of_time_does_not_panic() {
        assert_eq!(retry().next(1, HOUR, Timestamp::MAX), Decision::At(Timestamp::MAX));
    }

    #[test]
    fn a_message_from_the_future_is_not_given_up() {
        let outcomes = vec![RecipientOutcome { recipient: 0, outcome: Outcome::Deferred(Reply::plain(451, "later")) }];
        let settled = retry().settle(50, Timestamp::MAX, Timestamp::now(), outcomes.clone(), None);
        assert!(settled.outcomes == outcomes && settled.retry_at.is_some());
    }

    #[test]
    fn giving_up_fails_only_the_deferred_and_quotes_the_last_answer() {
        let reply = Reply::new(451, EnhancedCode(4, 4, 1), "connection refused");
        let outcomes = vec![
            RecipientOutcome { recipient: 0, outcome: Outcome::Delivered(Reply::plain(250, "ok")) },
            RecipientOutcome { recipient: 1, outcome: Outcome::Deferred(reply) },
        ];
        let accepted = Timestamp::now() - SignedDuration::from_hours(130);
        let settled = retry().settle(9, accepted, Timestamp::now(), outcomes.clone(), None);
        assert_eq!(settled.retry_at, None);
        assert_eq!(settled.outcomes[0], outcomes[0]);
        let Outcome::Failed(last) = &settled.outcomes[1].outcome else { panic!("{settled:?}") };
        assert!(last.enhanced == Some(EnhancedCode(5, 4, 7)) && last.lines[0].contains("connection refused"));
    }

    #[test]
    fn the_destination_may_ask_for_a_longer_wait_but_not_for_a_shorter_one() {
        let now = Timestamp::UNIX_EPOCH;
        let deferred = vec![RecipientOutcome { recipient: 0, outcome: Outcome::Deferred(Reply::plain(451, "later")) }];
        let at = |wish: i64| {
            let wish = Timestamp::from_second(wish).unwrap();
            retry().settle(1, now, now, deferred.clone(), Some(wish)).retry_at.unwrap().as_second()
        };
        assert_eq!(at(600), 600);
        assert!(at(1) >= 48);
    }
}
