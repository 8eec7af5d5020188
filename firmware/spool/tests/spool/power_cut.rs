//! The power goes at every write, sync and rename, and the disk keeps any part of what was not synced.

use crate::lab::*;
use jiff::{SignedDuration, Timestamp};
use mail::{Destination, MessageId, Outcome};
use spool::{HeldBy, Planned, Settlement, Spool, disk::SimulatedDisk};
use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// States of the unsynced rest that are tried at each cut.
const STATES: u64 = 64;

/// What a message goes through, one step after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Accept {
        spill: bool,
        held: bool,
    },
    Deliver,
    /// The first of two recipients gets it, the second is deferred.
    DeliverHalf,
    Hold,
    Release,
    Delete,
}

/// Numbers of disk operations between which a step was begun and answered.
#[derive(Clone, Copy, Debug)]
struct Done {
    step: Step,
    begun: u64,
    answered: Option<u64>,
}

type Log = BTreeMap<MessageId, Vec<Done>>;

struct Workload {
    disk: SimulatedDisk,
    spool: Spool,
    log: Mutex<Log>,
}

impl Workload {
    async fn step(&self, id: MessageId, step: Step) {
        let begun = self.disk.operations();
        let place = {
            let mut log = self.log.lock().unwrap();
            let steps = log.entry(id).or_default();
            steps.push(Done { step, begun, answered: None });
            steps.len() - 1
        };
        match step {
            Step::Accept { spill, held: hold } => {
                let plan: Vec<Planned> = if hold {
                    vec![held(Destination::Cloud, &[0, 1])]
                } else {
                    vec![to(Destination::Smarthost, &[0, 1])]
                };
                try_accept(&self.spool, id, length(spill), plan).await.unwrap();
            }
            Step::Deliver | Step::DeliverHalf => {
                let mut others = Vec::new();
                let claim = loop {
                    let claim = self.spool.claim(Timestamp::now()).unwrap();
                    if claim.message() == id {
                        break claim;
                    }
                    others.push(claim);
                };
                drop(others);
                let settlement = if step == Step::Deliver {
                    delivered(&claim)
                } else {
                    let later = Timestamp::now() + SignedDuration::from_hours(2);
                    let half = outcomes(&claim, |recipient| match recipient {
                        0 => Outcome::Delivered(reply(250)),
                        _ => Outcome::Deferred(reply(451)),
                    });
                    Settlement { retry_at: Some(later), ..half }
                };
                self.spool.settle(claim, settlement).await.unwrap();
            }
            Step::Hold => self.spool.hold(id, "operator").await.unwrap(),
            Step::Release => self.spool.release(id).await.unwrap(),
            Step::Delete => self.spool.delete(id).await.unwrap(),
        }
        let answered = Some(self.disk.operations());
        self.log.lock().unwrap().get_mut(&id).unwrap()[place].answered = answered;
    }
}

fn length(spill: bool) -> usize {
    if spill { 66_000 } else { 9_000 }
}

/// `queue.db` and its log at one moment.
#[derive(Clone, Default)]
struct IndexFiles {
    database: Option<Vec<u8>>,
    log: Option<Vec<u8>>,
}

impl IndexFiles {
    /// The log first: what is copied of it later than of the database would not fit it.
    fn read(folder: &Path) -> Self {
        let log = std::fs::read(folder.join("queue.db-wal")).ok();
        Self { database: std::fs::read(folder.join("queue.db")).ok(), log }
    }

    fn write(&self, folder: &Path) {
        for (name, bytes) in [("queue.db", &self.database), ("queue.db-wal", &self.log)] {
            if let Some(bytes) = bytes {
                std::fs::write(folder.join(name), bytes).unwrap();
            }
        }
    }
}

/// Takes mail, delivers some, lets operators at it; gives the disk, what was said when, and the index at each moment.
fn run() -> (SimulatedDisk, Log, Vec<IndexFiles>) {
    let (disk, folder) = (SimulatedDisk::new(), shared_memory());
    let indexes: Arc<Mutex<Vec<IndexFiles>>> = Arc::default();
    let (seen, watched) = (Arc::clone(&indexes), folder.path().to_owned());
    disk.observe(move |done| {
        let mut seen = seen.lock().unwrap();
        let now = IndexFiles::read(&watched);
        seen.resize(usize::try_from(done).unwrap() + 1, now);
    });
    let mut config = config(folder.path());
    config.segment_bytes = 128 << 10;
    config.index_every = Duration::from_millis(3);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let log = runtime.block_on(async {
        let (spool, _) = Spool::open(config, keys(), Arc::new(disk.clone())).unwrap();
        let work = Arc::new(Workload { disk: disk.clone(), spool, log: Mutex::default() });
        let accept = |spill, held| Step::Accept { spill, held };
        let scripts: Vec<Vec<Step>> = vec![
            vec![accept(false, false)],
            vec![accept(false, false), Step::Deliver],
            vec![accept(true, false), Step::Deliver],
            vec![accept(false, true)],
            vec![accept(true, true), Step::Release, Step::Deliver],
            vec![accept(false, false), Step::DeliverHalf],
            vec![accept(true, false)],
            vec![accept(false, false), Step::Hold],
            vec![accept(false, false), Step::Hold, Step::Release],
            vec![accept(true, false), Step::Delete],
            vec![accept(false, true), Step::Delete],
            vec![accept(false, false), Step::DeliverHalf, Step::Hold],
        ];
        for round in 0..2 {
            let ids: Vec<_> = scripts.iter().map(|_| MessageId::generate()).collect();
            for place in 0..3 {
                // The first round one by one, the second with batches of several.
                let mut steps = tokio::task::JoinSet::new();
                for (id, script) in ids.iter().zip(&scripts) {
                    let Some(step) = script.get(place).copied() else { continue };
                    let (work, id) = (Arc::clone(&work), *id);
                    let together = round == 1 && !matches!(step, Step::Deliver | Step::DeliverHalf);
                    if together {
                        steps.spawn(async move { work.step(id, step).await });
                    } else {
                        work.step(id, step).await;
                    }
                }
                steps.join_all().await;
            }
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        work.spool.close().await;
        work.log.lock().unwrap().clone()
    });
    let mut indexes = indexes.lock().unwrap().clone();
    indexes.push(IndexFiles::read(folder.path()));
    (disk, log, indexes)
}

/// Opens what a cut left and holds it against what was said before operation `at`.
async fn check(disk: &SimulatedDisk, folder: &Path, log: &Log, at: u64, what: &str) {
    let mut config = config(folder);
    config.segment_bytes = 128 << 10;
    config.index_every = Duration::from_secs(3600);
    let (spool, recovery) =
        Spool::open(config, keys(), Arc::new(disk.clone())).unwrap_or_else(|error| panic!("{what}: {error}"));
    for found in &recovery.set_aside {
        assert!(!found.acknowledged, "{what}: {found:?}");
    }
    assert_eq!(spool.stats().set_aside, 0, "{what}: a false alarm, which never clears");
    let rows = rows(&spool).await;
    for row in &rows {
        let steps = log.get(&row.id).unwrap_or_else(|| panic!("{what}: a message that nobody handed in"));
        assert!(steps[0].begun < at, "{what}: a message from the future");
        assert!(row.group.held.as_ref().is_none_or(|held| held.by != HeldBy::Damage), "{what}: {row:?}");
    }
    for (id, steps) in log {
        let begun = |step: Step| steps.iter().any(|done| done.step == step && done.begun < at);
        let answered =
            |step: Step| steps.iter().any(|done| done.step == step && done.answered.is_some_and(|by| by <= at));
        if !answered(steps[0].step) {
            continue;
        }
        let mine: Vec<_> = rows.iter().filter(|row| row.id == *id).collect();
        if answered(Step::Deliver) || answered(Step::Delete) {
            assert!(mine.is_empty(), "{what}: settled or deleted, and back: {mine:?}");
        }
        if mine.is_empty() {
            assert!(begun(Step::Deliver) || begun(Step::Delete), "{what}: {id} is lost; {steps:?}");
            continue;
        }
        assert_eq!(mine.len(), 1, "{what}");
        let recipients = &mine[0].group.recipients;
        if answered(Step::DeliverHalf) {
            assert_eq!(*recipients, [1], "{what}: the first recipient has it");
        } else if begun(Step::DeliverHalf) {
            assert!(*recipients == [1] || *recipients == [0, 1], "{what}");
        } else {
            assert_eq!(*recipients, [0, 1], "{what}");
        }
        let held_at_first = matches!(steps[0].step, Step::Accept { held: true, .. });
        let must_be_held = held_at_first || answered(Step::Hold);
        if must_be_held && !begun(Step::Release) {
            assert!(mine[0].group.held.is_some(), "{what}: what was held is released");
        }
        if !held_at_first && !begun(Step::Hold) {
            assert!(mine[0].group.held.is_none(), "{what}: held by nobody");
        }
    }
    let waiting: HashSet<_> =
        rows.iter().filter(|row| row.group.held.is_none()).map(|row| (row.id, row.group.number)).collect();
    let mut claims = Vec::new();
    let later = Timestamp::now() + SignedDuration::from_hours(3);
    while claims.len() < waiting.len() {
        match spool.claim(later) {
            Some(claim) => claims.push(claim),
            None => tokio::time::sleep(Duration::from_micros(200)).await,
        }
    }
    for claim in &claims {
        assert!(waiting.contains(&(claim.message(), claim.delivery())), "{what}");
        let spill = matches!(log[&claim.message()][0].step, Step::Accept { spill: true, .. });
        assert_eq!(sent_body(claim), body(claim.message(), length(spill)), "{what}");
    }
    drop(claims);
    spool.close().await;
}

#[test]
fn every_receipt_survives_a_power_cut_at_every_operation() {
    let started = std::time::Instant::now();
    let (disk, log, indexes) = run();
    let cuts = disk.operations();
    let (next, states, distinct, again) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(2, usize::from).min(8);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at > cuts {
                        return;
                    }
                    let cut = disk.cut(at);
                    let mut seen = HashSet::new();
                    for seed in 0..STATES {
                        let variant = ["intact", "absent", "older", "garbage"][(seed % 4) as usize];
                        states.fetch_add(1, Ordering::Relaxed);
                        let state = cut.state(seed);
                        if !seen.insert((state.fingerprint(), variant)) {
                            continue;
                        }
                        distinct.fetch_add(1, Ordering::Relaxed);
                        let folder = shared_memory();
                        let index = match variant {
                            "intact" => indexes.get(at as usize).cloned().unwrap_or_default(),
                            "older" => indexes.get(at as usize / 2).cloned().unwrap_or_default(),
                            "garbage" => IndexFiles { database: Some(vec![seed as u8; 8192]), log: None },
                            _ => IndexFiles::default(),
                        };
                        index.write(folder.path());
                        let what = format!("cut before operation {at} of {cuts}, seed {seed}, index {variant}");
                        runtime.block_on(check(&state, folder.path(), &log, at, &what));
                        // The power goes again while the start is still at work.
                        if seed % 16 == at % 16 {
                            again.fetch_add(1, Ordering::Relaxed);
                            let second = state.operations() * (seed + 1) / (STATES + 1);
                            let state = state.cut(second).state(seed + STATES);
                            let folder = shared_memory();
                            let what = format!("{what}, and again before operation {second}");
                            runtime.block_on(check(&state, folder.path(), &log, at, &what));
                        }
                    }
                }
            });
        }
    });
    let messages = log.len();
    println!(
        "power cuts: {messages} messages, {} cuts, {} states of the unsynced rest ({} distinct ones run, and {} cut again while starting), {:.1} s",
        cuts + 1,
        states.load(Ordering::Relaxed),
        distinct.load(Ordering::Relaxed),
        again.load(Ordering::Relaxed),
        started.elapsed().as_secs_f64()
    );
    assert!(cuts > 100, "the workload is a real one");
    assert_eq!(states.load(Ordering::Relaxed), (cuts + 1) * STATES);
}
