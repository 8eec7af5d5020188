//! The rules against a firmware that does what UEFI says: BootNext once, else the first of the order that starts.

use super::*;
use Slot::{A, B};
use proptest::prelude::*;

/// A machine: its record, its firmware, and which slots die before they can say a word.
#[derive(Clone, Debug)]
struct Machine {
    record: Record,
    order: Vec<Slot>,
    next: Option<Slot>,
}

/// How a start ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// In a panic or a hang before user space.
    Early,
    /// Behind `prepare`, before anything is healthy.
    Unhealthy,
    /// After a health check that passed.
    Healthy,
}

impl Machine {
    /// New, and started for the first time.
    fn new() -> Self {
        let mut machine = Self { record: Record::first(A, true), order: Vec::new(), next: None };
        machine.prepared(A);
        machine
    }

    fn arrange(&mut self, wanted: Wanted) {
        (self.order, self.next) = (wanted.order, wanted.next);
    }

    fn prepared(&mut self, running: Slot) {
        let start = Start { running, version: Some(running.letter()), entries_lost: false, now: Timestamp::UNIX_EPOCH };
        let (record, wanted) = self.record.clone().at_start(&start);
        self.record = record;
        self.arrange(wanted);
    }

    fn healthy(&mut self, running: Slot) {
        let (record, wanted) = self.record.clone().healthy(running);
        self.record = record;
        if let Some(wanted) = wanted {
            self.arrange(wanted);
        }
    }

    /// The slot that the firmware starts now.
    fn power_on(&mut self) -> Slot {
        self.next.take().or_else(|| self.order.first().copied()).unwrap()
    }

    /// One start, of which `life` says how a slot ends; the slot.
    fn start(&mut self, life: impl Fn(Slot) -> Life) -> Slot {
        let slot = self.power_on();
        match life(slot) {
            Life::Early => {}
            Life::Unhealthy => self.prepared(slot),
            Life::Healthy => {
                self.prepared(slot);
                self.healthy(slot);
            }
        }
        slot
    }

    /// An installation over `running`, with what RAUC does to the firmware.
    fn install(&mut self, running: Slot) {
        self.record = self.record.clone().installing(running);
        if self.next == Some(running.other()) {
            self.next = None;
        }
        self.order.retain(|slot| *slot == running);
        self.record = self.record.clone().installed(Some("new"));
        self.next = Some(running.other());
    }
}

fn starts(machine: &mut Machine, number: usize, life: impl Fn(Slot) -> Life) -> Vec<Slot> {
    (0..number).map(|_| machine.start(&life)).collect()
}

#[test]
fn a_good_box_starts_its_preferred_slot_for_ever() {
    let mut machine = Machine::new();
    machine.healthy(A);
    assert_eq!((machine.order.clone(), machine.next), (vec![B, A], Some(A)));
    assert_eq!(starts(&mut machine, 20, |_| Life::Healthy), [A; 20]);
    assert_eq!(machine.record.fallback, None);
}

#[test]
fn a_good_slot_that_panics_yields_to_the_other_and_is_tried_at_the_next_restarts() {
    let mut machine = Machine::new();
    machine.healthy(A);
    let life = |slot| if slot == A { Life::Early } else { Life::Healthy };
    // Each restart of b is a try of a, until three are used up.
    assert_eq!(starts(&mut machine, 9, life), [A, B, A, B, A, B, B, B, B]);
    let fallback = machine.record.fallback.clone().unwrap();
    assert!(fallback.reason.what.starts_with("slot a (version a) did not start: "), "{fallback:?}");
    assert_eq!(fallback.reason.remedy, "install a version that works");
}

#[test]
fn a_slot_that_never_becomes_healthy_has_three_starts() {
    let mut machine = Machine::new();
    machine.healthy(A);
    let life = |slot| if slot == A { Life::Unhealthy } else { Life::Healthy };
    assert_eq!(starts(&mut machine, 6, life), [A, A, A, B, B, B]);
    let what = machine.record.fallback.clone().unwrap().reason.what;
    assert_eq!(what, "slot a (version a) was started 3 times and did not become healthy");
    // Also on a new box, whose first start is one of them.
    assert_eq!(starts(&mut Machine::new(), 4, life), [A, A, B, B]);
}

#[test]
fn a_slot_that_is_not_well_is_still_better_than_one_that_does_not_come_up() {
    let mut machine = Machine::new();
    machine.healthy(A);
    let life = |slot| if slot == A { Life::Unhealthy } else { Life::Early };
    assert_eq!(starts(&mut machine, 8, life), [A, A, A, B, A, B, A, B]);
    assert_eq!(machine.order, [A, B], "whatever happens now, a comes up");
}

#[test]
fn one_bad_start_is_made_good_by_the_next_restart() {
    let mut machine = Machine::new();
    machine.healthy(A);
    assert_eq!(machine.start(|_| Life::Early), A);
    assert_eq!(machine.start(|_| Life::Healthy), B);
    let (record, wanted) = machine.record.clone().acknowledged(B);
    assert!(record.fallback.as_ref().unwrap().acknowledged && wanted.is_none(), "it is armed already");
    machine.record = record;
    assert_eq!(starts(&mut machine, 3, |_| Life::Healthy), [A, A, A]);
    assert_eq!(machine.record.fallback, None);
}

#[test]
fn who_takes_note_of_a_fallback_gets_one_more_try() {
    let mut machine = Machine::new();
    machine.healthy(A);
    let life = |slot| if slot == A { Life::Early } else { Life::Healthy };
    starts(&mut machine, 9, life);
    let (record, wanted) = machine.record.clone().acknowledged(B);
    machine.record = record;
    machine.arrange(wanted.unwrap());
    assert_eq!(starts(&mut machine, 4, life), [A, B, B, B]);
    assert!(!machine.record.fallback.as_ref().unwrap().acknowledged, "it fell again");
    let (record, wanted) = machine.record.clone().acknowledged(B);
    machine.record = record;
    machine.arrange(wanted.unwrap());
    assert_eq!(starts(&mut machine, 3, |_| Life::Healthy), [A, A, A]);
}

#[test]
fn a_new_slot_is_tried_once_and_any_death_falls_back() {
    for death in [Life::Early, Life::Unhealthy] {
        let mut machine = Machine::new();
        machine.healthy(A);
        machine.install(A);
        assert_eq!((machine.order.clone(), machine.next), (vec![A], Some(B)));
        let life = |slot| if slot == B { death } else { Life::Healthy };
        assert_eq!(starts(&mut machine, 4, life), [B, A, A, A]);
        assert!(!machine.record.is_good(B) && machine.record.is_good(A));
        assert_eq!((machine.order.clone(), machine.next), (vec![A], None), "there is nothing to fall to");
    }
}

#[test]
fn a_new_slot_that_is_healthy_is_preferred_and_the_old_one_is_its_dead_man() {
    let mut machine = Machine::new();
    machine.healthy(A);
    machine.install(A);
    assert_eq!(machine.start(|_| Life::Healthy), B);
    assert_eq!((machine.order.clone(), machine.next), (vec![A, B], Some(B)));
    assert_eq!(starts(&mut machine, 3, |_| Life::Healthy), [B, B, B]);
    assert_eq!(starts(&mut machine, 3, |slot| if slot == B { Life::Early } else { Life::Healthy }), [B, A, B]);
}

#[test]
fn a_health_check_of_the_old_slot_does_not_take_a_waiting_update_its_start() {
    let mut machine = Machine::new();
    machine.install(A);
    machine.healthy(A);
    assert_eq!(machine.next, Some(B));
    assert_eq!(machine.start(|_| Life::Healthy), B);
}

#[test]
fn over_a_slot_that_fell_an_update_is_tried_and_the_one_that_runs_is_what_it_falls_to() {
    let mut machine = Machine::new();
    machine.healthy(A);
    let life = |slot| if slot == A { Life::Early } else { Life::Healthy };
    assert_eq!(starts(&mut machine, 2, life), [A, B]);
    machine.install(B);
    assert_eq!((machine.order.clone(), machine.next), (vec![B], Some(A)));
    assert_eq!(starts(&mut machine, 3, life), [A, B, B], "it was no better");
    machine.install(B);
    assert_eq!(starts(&mut machine, 2, |_| Life::Healthy), [A, A]);
}

#[test]
fn a_failed_installation_leaves_nothing_to_try() {
    let mut machine = Machine::new();
    machine.healthy(A);
    machine.record = machine.record.clone().installing(A).installed(None);
    machine.order.retain(|slot| *slot == A);
    assert_eq!(machine.record.trial, None);
    assert_eq!(starts(&mut machine, 3, |_| Life::Healthy), [A, A, A]);
}

#[test]
fn a_record_that_nobody_here_wrote_is_none() {
    let record = Machine::new().record;
    assert!(record.is_plausible());
    assert!(!Record { good: vec![B], ..record.clone() }.is_plausible());
    let versions = BTreeMap::from([(A, "1.0.0\u{1b}[2J".to_owned())]);
    assert!(!Record { versions, ..record.clone() }.is_plausible());
    let mut fallback = record.fell_back(Timestamp::UNIX_EPOCH);
    assert!(Record { fallback: Some(fallback.clone()), ..record.clone() }.is_plausible());
    fallback.reason.what = "x".repeat(LONGEST_TEXT + 1);
    assert!(!Record { fallback: Some(fallback), ..record }.is_plausible());
}

#[test]
fn lost_boot_entries_are_no_fault_of_the_slot() {
    let mut machine = Machine::new();
    machine.healthy(A);
    machine.install(A);
    machine.start(|_| Life::Healthy);
    let start = Start { running: A, version: None, entries_lost: true, now: Timestamp::UNIX_EPOCH };
    let (record, wanted) = machine.record.clone().at_start(&start);
    assert_eq!((record.fallback, wanted.next), (None, Some(B)));
}

fn any_life() -> impl Strategy<Value = Life> {
    prop::sample::select(vec![Life::Early, Life::Unhealthy, Life::Healthy])
}

proptest! {
    /// Whatever dies when, also between the record and the firmware's variables: the firmware has a good slot to start,
    /// and where one of both slots lives, the box comes to rest on it.
    #[test]
    fn a_box_with_one_good_slot_comes_to_run_it(
        past in prop::collection::vec((any_life(), any_life(), 0..6_u8), 0..12),
        lives in prop::sample::select(vec![A, B]),
    ) {
        let mut machine = Machine::new();
        for (a, b, act) in past {
            let slot = machine.start(|slot| if slot == A { a } else { b });
            let runs = (if slot == A { a } else { b }) != Life::Early;
            match act {
                0 if runs && machine.record.is_good(slot) => machine.install(slot),
                1 if runs && machine.record.is_good(slot) => {
                    // The power fails while RAUC writes.
                    machine.record = machine.record.clone().installing(slot);
                    machine.order.retain(|listed| *listed == slot);
                }
                2 if runs => {
                    // The power fails between the record and the firmware.
                    let (record, _) = machine.record.clone().healthy(slot);
                    machine.record = record;
                }
                3 if runs => {
                    let (record, wanted) = machine.record.clone().acknowledged(slot);
                    machine.record = record;
                    wanted.into_iter().for_each(|wanted| machine.arrange(wanted));
                }
                4 => machine.next = None,
                _ => {}
            }
            prop_assert!(machine.record.good.contains(&machine.record.preferred), "{machine:?}");
            prop_assert!(machine.record.granted <= MOST, "{machine:?}");
            prop_assert!(!machine.order.is_empty(), "{machine:?}");
        }
        if !machine.record.good.contains(&lives) || machine.record.trial.is_some() {
            return Ok(());
        }
        // A start that was lost before it was seen, and then the other slot dead: no firmware gets out of that.
        if machine.next.is_none() && machine.order[0] != lives {
            return Ok(());
        }
        // From here on one slot dies early and the other one is well.
        let life = |slot| if slot == lives { Life::Healthy } else { Life::Early };
        let last = starts(&mut machine, 12, life);
        prop_assert!(last[9..].iter().all(|slot| *slot == lives), "{last:?} {machine:?}");
    }
}
