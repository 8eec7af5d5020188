//! How many connections a next hop gets at once, and when it gets none.
//!
//! Job: adaptive concurrency and the circuit breaker of one destination (features I11). Place: every delivery passes
//! before it takes or opens a connection. Invariants: never more passes than `max`; while suspended nobody passes; the
//! first pass after a suspension goes alone. A crash leaves nothing behind: the limit is learned again.

use jiff::{SignedDuration, Timestamp};
use mail::{EnhancedCode, Reply};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Connections at the beginning.
const FIRST_LIMIT: f64 = 5.0;
/// Failures in a row that suspend a destination; fewer may be one bad address of several.
const FAILURES: u32 = 5;
/// The first suspension; each further one in a row doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(15);
/// The longest suspension: the next hop may be back any time.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// The longest wait that a destination can ask for: a wrong number there must not stop mail for days.
const LONGEST_WISH: Duration = Duration::from_secs(3600);

#[derive(Debug)]
struct State {
    limit: f64,
    in_use: usize,
    failures: u32,
    pauses: u32,
    /// When the first of the present failures was.
    since: Option<Timestamp>,
    suspended: Option<Suspended>,
}

/// A destination that is not tried, as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) since: Timestamp,
    pub(crate) until: Timestamp,
    pub(crate) why: Reply,
}

#[derive(Clone, Debug)]
struct Suspended {
    /// On the clock that no one sets.
    until: Instant,
    /// The same for people and for the spool.
    at: Timestamp,
    since: Timestamp,
    why: Reply,
}

impl Suspended {
    fn lasts(&self) -> bool {
        Instant::now() < self.until
    }
}

impl State {
    fn suspend(&mut self, pause: Duration, why: &Reply) {
        let now = Timestamp::now();
        let at = SignedDuration::try_from(pause).ok().and_then(|pause| now.checked_add(pause).ok()).unwrap_or(now);
        let since = *self.since.get_or_insert(now);
        self.suspended = Some(Suspended { until: Instant::now() + pause, at, since, why: why.clone() });
    }

    fn is_suspended(&self) -> bool {
        self.suspended.as_ref().is_some_and(Suspended::lasts)
    }

    fn recovered(&mut self) {
        self.failures = 0;
        self.pauses = 0;
        self.since = None;
    }
}

/// The gate of one destination.
#[derive(Debug)]
pub(crate) struct Gate {
    max: usize,
    state: Mutex<State>,
    changed: Notify,
}

/// A right to use one connection; given back when dropped.
#[derive(Debug)]
pub(crate) struct Pass(Arc<Gate>);

impl Gate {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        let max = max.max(1);
        let limit = FIRST_LIMIT.min(max as f64);
        let state = State { limit, in_use: 0, failures: 0, pauses: 0, since: None, suspended: None };
        Arc::new(Self { max, state: Mutex::new(state), changed: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers only: a panic elsewhere leaves them usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place; while suspended, the reply that defers the message.
    pub(crate) async fn enter(self: &Arc<Self>) -> Result<Pass, Reply> {
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.state();
                if let Some(suspended) = state.suspended.as_ref().filter(|suspended| suspended.lasts()) {
                    return Err(refusal(suspended));
                }
                if state.in_use < (state.limit as usize).max(1) {
                    state.in_use += 1;
                    return Ok(Pass(Arc::clone(self)));
                }
            }
            changed.await;
        }
    }

    /// Until when nothing is tried, since when it fails, and why. Also told when the time is over, until it is known that
    /// the destination works again.
    pub(crate) fn suspension(&self) -> Option<Pause> {
        let state = self.state();
        let suspended = state.suspended.as_ref()?;
        Some(Pause { since: suspended.since, until: suspended.at, why: suspended.why.clone() })
    }

    /// Suspends for as long as the destination itself asked.
    pub(crate) fn suspend(&self, pause: Duration, why: &Reply) {
        self.state().suspend(pause.min(LONGEST_WISH), why);
        self.changed.notify_waiters();
    }

    /// Ends a suspension: an operator knows that the next hop is back.
    pub(crate) fn resume(&self) {
        let mut state = self.state();
        state.suspended = None;
        state.recovered();
        drop(state);
        self.changed.notify_waiters();
    }
}

impl Pass {
    /// The next hop took or refused a message in good order.
    pub(crate) fn succeeded(&self) {
        let mut state = self.0.state();
        state.recovered();
        // One that was under way before says nothing about a suspension since.
        if !state.is_suspended() {
            state.suspended = None;
        }
        let before = state.limit as usize;
        // One more for each full round of successes.
        state.limit = (state.limit + 1.0 / state.limit).min(self.0.max as f64);
        let grown = state.limit as usize > before;
        drop(state);
        if grown {
            self.0.changed.notify_one();
        }
    }

    /// The connection could not be made, or broke. True if this suspended the destination.
    pub(crate) fn failed(&self, why: &Reply) -> bool {
        let mut state = self.0.state();
        state.limit = (state.limit / 2.0).max(1.0);
        state.failures += 1;
        state.since.get_or_insert_with(Timestamp::now);
        if state.is_suspended() || (state.failures < FAILURES && state.pauses == 0) {
            return false;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << state.pauses.min(8)).min(LONGEST_PAUSE);
        state.pauses += 1;
        state.limit = 1.0;
        state.suspend(pause, why);
        drop(state);
        // Those who wait for a place hear it too.
        self.0.changed.notify_waiters();
        true
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.state().in_use -= 1;
        self.0.changed.notify_one();
    }
}

fn refusal(suspended: &Suspended) -> Reply {
    let text = format!("not tried until {:.0}, since: {}", suspended.at, suspended.why);
    Reply::new(451, EnhancedCode(4, 4, 1), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why() -> Reply {
        Reply::new(451, EnhancedCode(4, 4, 1), "connection refused")
    }

    async fn enters(gate: &Arc<Gate>) -> Option<Pass> {
        tokio::time::timeout(Duration::from_millis(50), gate.enter()).await.ok()?.ok()
    }

    async fn capacity(gate: &Arc<Gate>) -> usize {
        let mut passes = Vec::new();
        while let Some(pass) = enters(gate).await {
            passes.push(pass);
        }
        passes.len()
    }

    #[tokio::test]
    async fn success_raises_concurrency_up_to_the_settings_and_failure_halves_it() {
        let gate = Gate::new(8);
        assert_eq!(capacity(&gate).await, 5);
        for _ in 0..100 {
            enters(&gate).await.unwrap().succeeded();
        }
        assert_eq!(capacity(&gate).await, 8);
        assert!(!enters(&gate).await.unwrap().failed(&why()));
        assert_eq!(capacity(&gate).await, 4);
    }

    #[tokio::test]
    async fn repeated_failures_suspend_and_wake_those_who_wait() {
        let gate = Gate::new(1);
        let pass = enters(&gate).await.unwrap();
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter().await.map(drop) }
        });
        tokio::task::yield_now().await;
        for n in 1..=FAILURES {
            assert_eq!(pass.failed(&why()), n == FAILURES);
        }
        assert!(waiting.await.unwrap().unwrap_err().lines[0].contains("connection refused"));
        assert!(gate.suspension().is_some());
        drop(pass);
        assert!(gate.enter().await.is_err());
        gate.resume();
        assert!(enters(&gate).await.is_some() && gate.suspension().is_none());
    }

    #[tokio::test]
    async fn after_a_suspension_one_goes_alone_and_its_failure_suspends_for_longer() {
        let gate = Gate::new(10);
        let pass = enters(&gate).await.unwrap();
        let before = Timestamp::now();
        let suspended = (0..FAILURES).filter(|_| pass.failed(&why())).count();
        assert_eq!(suspended, 1);
        drop(pass);
        let first = gate.suspension().unwrap();
        assert!(before <= first.since && first.since <= Timestamp::now());
        if let Some(suspended) = &mut gate.state().suspended {
            suspended.until = Instant::now();
        }
        let probe = enters(&gate).await.unwrap();
        assert!(enters(&gate).await.is_none(), "two probes at once");
        assert!(probe.failed(&why()));
        let second = gate.suspension().unwrap();
        assert!(second.until.duration_since(first.until) >= SignedDuration::from_secs(14));
        assert_eq!(second.since, first.since, "it has failed since the first failure");
        if let Some(suspended) = &mut gate.state().suspended {
            suspended.until = Instant::now();
        }
        drop(probe);
        let probe = enters(&gate).await.unwrap();
        assert!(gate.suspension().is_some(), "a failure is told until something gets through");
        probe.succeeded();
        assert!(gate.suspension().is_none());
    }
}
