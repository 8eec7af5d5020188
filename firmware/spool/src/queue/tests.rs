use super::*;
use crate::Group;
use jiff::SignedDuration;

const WINDOW: usize = 2;

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn hours(hours: i64) -> Timestamp {
    now() + SignedDuration::from_hours(hours)
}

fn id(number: u8) -> MessageId {
    MessageId::from_bytes([number; 16])
}

/// A message as the index gives it, with one group.
fn indexed(due: Timestamp) -> Message {
    let group = Group {
        number: 0,
        destination: Destination::Smarthost,
        recipients: vec![0],
        attempts: 1,
        due,
        held: None,
        last: None,
    };
    Message {
        place: Place { segment: 1, offset: 8192, slot: 0, length: 100 },
        lane: 0,
        key: None,
        snapshot: None,
        groups: vec![GroupEntry { group, busy: false }],
        next_group: 1,
        facts: 0,
        next_fact: 0,
        pending: 0,
        size: 100,
        spill: None,
        events: Vec::new(),
        segments: vec![1],
        stored: true,
        dirty: false,
        flushing: false,
        kept: 0,
        finished: false,
    }
}

fn queue(dues: &[i64]) -> Queue {
    let queue = Queue::new(WINDOW);
    let mut state = queue.lock();
    for (number, due) in (1..).zip(dues) {
        state.count_indexed(Destination::Smarthost, None, 1);
        state.adopt(id(number), indexed(hours(*due)));
    }
    // What the index has been asked for is here.
    for line in state.lines.values_mut() {
        line.beyond = None;
    }
    drop(state);
    queue
}

fn take(state: &mut State) -> Option<MessageId> {
    state.take(now(), |_| true).0.map(|taken| taken.id)
}

#[test]
fn after_a_clock_was_set_back_mail_put_off_before_is_due_at_once() {
    for ahead in [37, 24 * 29, 24 * 400] {
        let queue = queue(&[ahead]);
        let mut state = queue.lock();
        assert_eq!(state.next_due(now(), |_| true), Some(now()), "{ahead} hours ahead");
        assert_eq!(take(&mut state), Some(id(1)), "{ahead} hours ahead");
    }
    // The longest wait that settings allow is kept.
    let queue = queue(&[28]);
    assert_eq!(take(&mut queue.lock()), None);
    assert_eq!(queue.lock().next_due(now(), |_| true), Some(hours(28)));
}

#[test]
fn after_a_clock_was_set_back_mail_behind_a_deferred_one_does_not_starve() {
    let queue = queue(&[2, 100]);
    let mut state = queue.lock();
    assert_eq!(state.next_due(now(), |_| true), Some(now()));
    assert_eq!(take(&mut state), Some(id(2)));
    assert_eq!(take(&mut state), None);
    assert_eq!(state.next_due(now(), |_| true), Some(hours(2)), "nobody is woken for nothing");
}

#[test]
fn after_a_clock_was_set_back_the_index_is_asked_for_mail_put_off_before() {
    let queue = queue(&[2]);
    let mut state = queue.lock();
    let key = (hours(100), id(7), 0);
    state.lines.get_mut(&Destination::Smarthost).unwrap().outside(key);
    assert_eq!(state.next_due(now(), |_| true), Some(now()));
    let (taken, refill) = state.take(now(), |_| true);
    assert!(taken.is_none());
    assert_eq!(refill, [Destination::Smarthost]);
    // Into a full window it would not get, so asking would go on without an end.
    let line = state.lines.get_mut(&Destination::Smarthost).unwrap();
    line.refilling = false;
    line.offer((hours(3), id(8), 0));
    assert!(state.take(now(), |_| true).1.is_empty());
    assert_eq!(state.next_due(now(), |_| true), Some(hours(2)));
}

#[test]
fn a_message_that_loses_its_place_in_the_window_leaves_the_memory() {
    let queue = queue(&[5, 6, 7, 4, 3, 2]);
    let mut state = queue.lock();
    let kept: HashSet<_> = state.messages.keys().copied().collect();
    // The third found no place; whoever brought it in evicts it.
    assert_eq!(kept, HashSet::from([id(3), id(5), id(6)]));
    state.evict([id(3)]);
    assert_eq!(state.messages.len(), WINDOW);
    // A group that is given back to a full window.
    assert_eq!(state.take(hours(2), |_| true).0.map(|taken| taken.id), Some(id(6)));
    state.adopt(id(7), indexed(hours(1)));
    assert_eq!(state.messages.len(), WINDOW + 1, "one of them is being delivered");
    state.give_back(id(6), 0);
    assert_eq!(state.messages.keys().copied().collect::<HashSet<_>>(), HashSet::from([id(6), id(7)]));
}

#[test]
fn a_changed_message_stays_in_memory_until_the_index_has_it() {
    let queue = queue(&[5]);
    let mut state = queue.lock();
    state.change(id(1), |message| message.dirty = true);
    state.adopt(id(2), indexed(hours(2)));
    state.adopt(id(3), indexed(hours(3)));
    assert!(state.messages.contains_key(&id(1)), "its row says less than it does");
}
