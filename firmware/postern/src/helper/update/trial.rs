//! What an update's record says after a start.
//!
//! Job: from the record, the slot that runs and what the last run left behind, say where the update stands now. Place:
//! called once in every boot, before the daemon. Invariants: pure; a new image counts as tried only when it runs, and as
//! fallen back only when the old one runs after it could have; an update that ended stays as it is. A crash leaves
//! nothing behind.
//!
//! | record     | the old slot runs | the new slot runs, not good | the new slot runs, good |
//! | ---------- | ----------------- | --------------------------- | ----------------------- |
//! | installing | failed            | trial                       | trial                   |
//! | installed  | fell back         | trial                       | trial                   |
//! | trial      | fell back         | trial                       | done                    |
//! | others     | as it was         | as it was                   | as it was               |
//!
//! In the boot that wrote the record nothing is concluded. "Good" is what the record of starts says
//! ([`crate::helper::starts`]); where it says so of the new slot while the old one runs, a trial has been passed.

use jiff::Timestamp;
use operator::update::{Reason, Update, UpdateState};

/// What is found at a start.
#[derive(Clone, Debug)]
pub struct Boot<'a> {
    /// The slot that runs.
    pub slot: &'a str,
    /// Whether it has shown that it works.
    pub good: bool,
    /// Whether the other one has.
    pub other_good: bool,
    /// The kernel's boot ID.
    pub id: &'a str,
    /// What a trial wrote down before it gave up.
    pub last_words: Option<&'a str>,
    /// The message of a panic in the run before.
    pub panic: Option<&'a str>,
    /// Now.
    pub now: Timestamp,
}

/// The record after this start.
#[must_use]
pub fn at_boot(update: Update, boot: &Boot<'_>) -> Update {
    use UpdateState::{Done, Failed, FellBack, Installed, Installing, Trial};
    if update.boot == boot.id {
        return update;
    }
    let (old, new) = (boot.slot == update.from.slot, boot.slot == update.to.slot);
    let (state, reason) = match update.state {
        Installing if old => (Failed, Some(cut_short())),
        // It was kept; only the record was not written any more.
        Trial if old && boot.other_good => (Done, None),
        Installed | Trial if old => (FellBack, Some(why(&update, boot))),
        Installing | Installed if new => (Trial, None),
        Trial if new && boot.good => (Done, None),
        _ => return update,
    };
    Update { state, reason, since: boot.now, boot: boot.id.to_owned(), acknowledged: false, ..update }
}

fn cut_short() -> Reason {
    Reason {
        what: "the installation was cut short by a restart or a power cut; the image that runs was not touched"
            .to_owned(),
        remedy: "install the update again".to_owned(),
    }
}

/// Why a new image did not stay: its own words, else the kernel's, else what silence means.
fn why(update: &Update, boot: &Boot<'_>) -> Reason {
    let version = &update.to.version;
    let (what, remedy) = match (boot.last_words, boot.panic) {
        (Some(words), _) => {
            (format!("version {version} gave up: {words}"), "mend what it names, or install another version")
        }
        (None, Some(panic)) => (
            format!("the kernel of version {version} stopped: {panic}"),
            "install the update again, or another version",
        ),
        (None, None) if update.state == UpdateState::Trial => (
            format!(
                "version {version} started and ended without a word: it hung until the watchdog, or the power failed"
            ),
            "install the update again; if it comes back, send the support bundle",
        ),
        (None, None) => (
            format!(
                "version {version} never got as far as a word: the firmware refused its signature, it hung until the \
                 watchdog, or the power failed"
            ),
            "check that it is signed for this box, then install it again",
        ),
    };
    Reason { what, remedy: remedy.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use operator::update::OnSlot;
    use proptest::prelude::*;

    const STATES: [UpdateState; 7] = [
        UpdateState::Installing,
        UpdateState::Installed,
        UpdateState::Trial,
        UpdateState::Done,
        UpdateState::Failed,
        UpdateState::FellBack,
        UpdateState::Unknown,
    ];

    fn update(state: UpdateState) -> Update {
        Update {
            state,
            from: OnSlot { slot: "a".into(), version: "1.0.0".into() },
            to: OnSlot { slot: "b".into(), version: "1.1.0".into() },
            since: Timestamp::UNIX_EPOCH,
            boot: "first".into(),
            reason: None,
            acknowledged: false,
        }
    }

    fn boot(slot: &'static str, good: bool) -> Boot<'static> {
        Boot { slot, good, other_good: false, id: "second", last_words: None, panic: None, now: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn every_case_of_the_table() {
        use UpdateState::*;
        for (state, old, new, new_and_good) in [
            (Installing, Failed, Trial, Trial),
            (Installed, FellBack, Trial, Trial),
            (Trial, FellBack, Trial, Done),
            (Done, Done, Done, Done),
            (Failed, Failed, Failed, Failed),
            (FellBack, FellBack, FellBack, FellBack),
            (Unknown, Unknown, Unknown, Unknown),
        ] {
            for good in [false, true] {
                assert_eq!(at_boot(update(state), &boot("a", good)).state, old, "{state:?}, old slot");
            }
            assert_eq!(at_boot(update(state), &boot("b", false)).state, new, "{state:?}, new slot");
            assert_eq!(at_boot(update(state), &boot("b", true)).state, new_and_good, "{state:?}, new slot, good");
        }
    }

    #[test]
    fn a_trial_that_was_passed_before_the_slot_fell_is_done() {
        let boot = Boot { other_good: true, ..boot("a", true) };
        assert_eq!(at_boot(update(UpdateState::Trial), &boot).state, UpdateState::Done);
        assert_eq!(at_boot(update(UpdateState::Installed), &boot).state, UpdateState::FellBack);
    }

    #[test]
    fn a_fallback_tells_the_trials_own_words_before_a_panic_before_silence() {
        let told = |last_words, panic| {
            let boot = Boot { last_words, panic, ..boot("a", true) };
            at_boot(update(UpdateState::Trial), &boot).reason.unwrap().what
        };
        assert_eq!(told(Some("judge: no worker starts"), Some("x")), "version 1.1.0 gave up: judge: no worker starts");
        assert!(told(None, Some("dm-verity device corrupted")).ends_with("stopped: dm-verity device corrupted"));
        assert!(told(None, None).contains("watchdog"));
        let never = at_boot(update(UpdateState::Installed), &boot("a", true)).reason.unwrap();
        assert!(never.what.contains("refused its signature"), "{never:?}");
    }

    fn any_boot() -> impl Strategy<Value = Boot<'static>> {
        let words = || prop::option::of(Just("words"));
        let slots = prop::sample::select(vec!["a", "b", ""]);
        let ids = prop::sample::select(vec!["first", "second", "third"]);
        let good = (any::<bool>(), any::<bool>());
        (slots, good, ids, words(), words()).prop_map(|(slot, (good, other_good), id, last_words, panic)| Boot {
            slot,
            good,
            other_good,
            id,
            last_words,
            panic,
            now: Timestamp::UNIX_EPOCH,
        })
    }

    proptest! {
        #[test]
        fn whatever_is_found_a_record_stays_true(
            state in prop::sample::select(STATES.to_vec()),
            boots in prop::collection::vec(any_boot(), 1..6),
        ) {
            let mut now = update(state);
            for boot in &boots {
                let before = now.clone();
                now = at_boot(now, boot);
                // Slots and versions are never rewritten; the boot that wrote the record concludes nothing.
                prop_assert_eq!((&now.from, &now.to), (&before.from, &before.to));
                if before.boot == boot.id {
                    prop_assert_eq!(&now, &before);
                }
                // What has ended stays ended.
                if matches!(before.state, UpdateState::Done | UpdateState::Failed | UpdateState::FellBack | UpdateState::Unknown) {
                    prop_assert_eq!(&now, &before);
                }
                if now != before {
                    prop_assert_eq!(now.boot.as_str(), boot.id);
                    // Tried and done on the new slot only; fallen back and failed on the old one only, with a reason.
                    match now.state {
                        UpdateState::Trial => prop_assert_eq!(boot.slot, now.to.slot.as_str()),
                        UpdateState::Done if boot.slot == now.to.slot => prop_assert!(boot.good),
                        UpdateState::Done => prop_assert!(boot.other_good && boot.slot == now.from.slot),
                        UpdateState::FellBack | UpdateState::Failed => {
                            prop_assert!(boot.slot == now.from.slot && now.reason.is_some() && now.alarm().is_some());
                        }
                        other => prop_assert!(false, "{:?} by a boot", other),
                    }
                }
            }
            // Concluding twice is concluding once.
            if let Some(boot) = boots.last() {
                prop_assert_eq!(at_boot(now.clone(), boot), now);
            }
        }
    }
}
