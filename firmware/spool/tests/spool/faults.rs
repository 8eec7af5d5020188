//! Disks that fail and fill, processes that are killed.

use crate::lab::*;
use jiff::Timestamp;
use mail::{Destination, MessageId};
use spool::{
    CommitError, Disk, RowState, Spool, StageError,
    disk::{Folder, SimulatedDisk},
};
use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, ErrorKind},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

fn open_on(disk: &SimulatedDisk, folder: &Path) -> Result<Spool, spool::OpenError> {
    let mut config = config(folder);
    config.segment_bytes = 128 << 10;
    config.index_every = Duration::from_millis(5);
    Spool::open(config, keys(), Arc::new(disk.clone())).map(|(spool, _)| spool)
}

/// What the outside was told.
#[derive(Default)]
struct Told {
    accepted: BTreeSet<MessageId>,
    settled: BTreeSet<MessageId>,
    /// Settling was tried; whether it counts is open.
    tried: BTreeSet<MessageId>,
    held: BTreeSet<MessageId>,
}

/// Takes and delivers mail, whatever fails.
async fn workload(spool: &Spool) -> Told {
    let mut told = Told::default();
    for n in 0..8 {
        let id = MessageId::generate();
        let hold = n % 4 == 3;
        let plan = if hold { held(Destination::Cloud, &[0]) } else { to(Destination::Smarthost, &[0]) };
        let length = if n % 4 == 1 { 70_000 } else { 20_000 };
        if try_accept(spool, id, length, vec![plan]).await.is_ok() {
            told.accepted.insert(id);
            if hold {
                told.held.insert(id);
            }
        }
        if n % 2 == 1
            && let Some(claim) = spool.claim(Timestamp::now())
        {
            let id = claim.message();
            told.tried.insert(id);
            let settlement = delivered(&claim);
            if spool.settle(claim, settlement).await.is_ok() {
                told.settled.insert(id);
            }
        }
    }
    // Shredding has its turn, too.
    tokio::time::sleep(Duration::from_millis(if told.settled.is_empty() { 0 } else { 5 })).await;
    told
}

async fn check(spool: &Spool, told: &Told, what: &str) {
    let rows = rows(spool).await;
    let listed: BTreeSet<_> = rows.iter().map(|row| row.id).collect();
    for id in &told.accepted {
        let may_be_gone = told.tried.contains(id);
        assert!(may_be_gone || listed.contains(id), "{what}: an accepted message is lost");
        assert!(!told.settled.contains(id) || !listed.contains(id), "{what}: a settled message came back");
    }
    for row in rows.iter().filter(|row| told.held.contains(&row.id)) {
        assert_eq!(row.state, RowState::Held, "{what}: a held message was released");
    }
}

#[test]
fn whatever_disk_call_fails_receipts_stay_true() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let calls = {
        let (disk, folder) = (SimulatedDisk::new(), shared_memory());
        runtime.block_on(async {
            let spool = open_on(&disk, folder.path()).unwrap();
            workload(&spool).await;
            spool.close().await;
        });
        disk.calls()
    };
    let (mut failed_opens, mut refused) = (0, 0);
    for nth in 0..calls {
        let (disk, folder) = (SimulatedDisk::new(), shared_memory());
        disk.fail_call(nth, ErrorKind::Other);
        let what = format!("call {nth} of {calls} failed");
        runtime.block_on(async {
            let Ok(spool) = open_on(&disk, folder.path()) else {
                failed_opens += 1;
                let spool = open_on(&disk, folder.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
                accept_one(&spool, 100).await;
                return spool.close().await;
            };
            let told = workload(&spool).await;
            refused += u32::from(told.accepted.len() < 8);
            // One call fails; where it was not one of the workload's, it is one of these.
            let mut goes_on = 0;
            for _ in 0..3 {
                let plan = vec![to(Destination::Smarthost, &[0])];
                goes_on += u32::from(try_accept(&spool, MessageId::generate(), 100, plan).await.is_ok());
            }
            assert!(goes_on >= 2, "{what}: nothing is taken any more");
            check(&spool, &told, &what).await;
            spool.close().await;
            drop(spool);
            for (state, kind) in [(disk.restarted(), "restart"), (disk.cut(disk.operations()).state(0), "power cut")] {
                for index in ["intact", "absent"] {
                    let copy = shared_memory();
                    if index == "intact" {
                        copy_index(folder.path(), copy.path());
                    }
                    let what = format!("{what}, {kind}, index {index}");
                    let spool = open_on(&state, copy.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
                    check(&spool, &told, &what).await;
                    spool.close().await;
                }
            }
        });
    }
    println!("{calls} disk calls failed in turn: {failed_opens} starts refused, {refused} runs refused a message");
    assert!(failed_opens > 0 && refused > 0, "the failures were met");
}

fn copy_index(from: &Path, to: &Path) {
    for suffix in ["", "-wal"] {
        let name = format!("queue.db{suffix}");
        if from.join(&name).exists() {
            std::fs::copy(from.join(&name), to.join(&name)).unwrap();
        }
    }
}

#[tokio::test]
async fn a_failed_sync_gives_no_receipt_and_is_not_asked_again() {
    let (disk, folder) = (SimulatedDisk::new(), shared_memory());
    let spool = open_on(&disk, folder.path()).unwrap();
    let before = accept_one(&spool, 100).await;
    // Free room is asked for twice; then the log and the slots are written, and the next call is the sync.
    let mut refused = None;
    for ahead in 0..12 {
        disk.fail_call(disk.calls() + ahead, ErrorKind::Other);
        let id = MessageId::generate();
        match try_accept(&spool, id, 100, vec![to(Destination::Smarthost, &[0])]).await {
            Err(CommitError::Disk(_)) => {
                refused = Some(id);
                assert_eq!(CommitError::Disk(ErrorKind::Other.into()).reply().code, 451);
            }
            Err(CommitError::Refused(StageError::Disk(_))) | Ok(_) => {}
            Err(other) => panic!("{other}"),
        }
    }
    disk.fail_call(u64::MAX, ErrorKind::Other);
    let refused = refused.unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(spool.stats().unrecorded, 0, "that it was never accepted is on the disk by now");
    let after = accept_one(&spool, 100).await;
    assert!(spool.stats().disk_errors > 0);
    spool.close().await;
    drop(spool);
    // Even where the failed writes reached the disk in the end, the message was withdrawn.
    for seed in 0..32 {
        let state = disk.cut(disk.operations()).state(seed);
        let copy = shared_memory();
        let spool = open_on(&state, copy.path()).unwrap();
        let listed: BTreeSet<_> = rows(&spool).await.iter().map(|row| row.id).collect();
        assert!(listed.contains(&before) && listed.contains(&after), "seed {seed}");
        assert!(!listed.contains(&refused), "seed {seed}: a message without a receipt came back");
        spool.close().await;
    }
}

#[tokio::test]
async fn a_full_disk_refuses_mail_settles_the_rest_and_recovers() {
    let (disk, folder) = (SimulatedDisk::new(), shared_memory());
    disk.set_capacity(Some(1 << 20));
    let mut config = config(folder.path());
    config.segment_bytes = 128 << 10;
    config.reserve_bytes = 256 << 10;
    let (spool, _) = Spool::open(config.clone(), keys(), Arc::new(disk.clone())).unwrap();
    let mut accepted = BTreeSet::new();
    let mut answers = BTreeSet::new();
    for n in 0..200 {
        let id = MessageId::generate();
        let length = if n % 5 == 0 { 80_000 } else { 10_000 };
        match try_accept(&spool, id, length, vec![to(Destination::Smarthost, &[0])]).await {
            Ok(_) => {
                accepted.insert(id);
            }
            Err(error) => {
                answers.insert(error.reply().code);
            }
        }
    }
    assert!(accepted.len() > 10 && accepted.len() < 120, "{}", accepted.len());
    assert_eq!(answers, BTreeSet::from([452]), "a full disk is told as such");
    assert!(disk.free().unwrap() >= 128 << 10, "the reserve is not used up by messages");
    // Each is deferred many times: the facts have room all the same.
    for _ in 0..10 {
        let claims: Vec<_> = std::iter::from_fn(|| spool.claim(Timestamp::now())).collect();
        assert_eq!(claims.len(), accepted.len());
        for claim in claims {
            let settlement = outcomes(&claim, |_| mail::Outcome::Deferred(reply(451)));
            spool.settle(claim, settlement).await.unwrap();
        }
    }
    spool.close().await;
    drop(spool);
    let (spool, _) = Spool::open(config, keys(), Arc::new(disk.restarted())).unwrap();
    let sent: BTreeSet<_> = deliver_all(&spool).await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(sent, accepted);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    accept_one(&spool, 10_000).await;
    spool.close().await;
}

#[tokio::test]
async fn a_disk_that_is_full_of_other_things_takes_no_mail() {
    let (disk, folder) = (SimulatedDisk::new(), shared_memory());
    let mut config = config(folder.path());
    config.reserve_bytes = 1 << 20;
    let (spool, _) = Spool::open(config, keys(), Arc::new(disk.clone())).unwrap();
    spool.available().unwrap();
    let file = disk.create(Folder::Aside, "other").unwrap();
    disk.set_capacity(Some(6 << 20));
    file.preallocate(disk.free().unwrap() - (1 << 19)).unwrap();
    let refused = spool.available().unwrap_err();
    assert!(matches!(refused, StageError::Full));
    assert_eq!(refused.reply().enhanced.unwrap().to_string(), "4.3.1");
    spool.close().await;
    assert!(matches!(spool.available(), Err(StageError::Closed)));
}

/// The body of the killed process: takes mail and says what it gave receipts for.
#[test]
#[ignore = "run by the test below, in a process of its own"]
fn killed_process() {
    let Ok(folder) = std::env::var("SPOOL_KILLED") else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (spool, _) = open(Path::new(&folder));
        for session in 0..8 {
            let spool = spool.clone();
            tokio::spawn(async move {
                for n in 0..120_usize {
                    let length = if n % 7 == session % 7 { 80_000 } else { 3_000 };
                    let id = accept_one(&spool, length).await;
                    println!("accepted {id}");
                }
            });
        }
        let mut kept = Vec::new();
        loop {
            spool.due().await;
            while let Some(claim) = spool.claim(Timestamp::now()) {
                let (id, settlement) = (claim.message(), delivered(&claim));
                if !id.to_bytes()[15].is_multiple_of(2) {
                    kept.push(claim);
                } else if spool.settle(claim, settlement).await.is_ok() {
                    println!("settled {id}");
                }
            }
        }
    });
}

#[tokio::test]
async fn a_killed_process_loses_no_receipt() {
    let folder = tempfile::tempdir().unwrap();
    let mut lost_answers = BTreeSet::new();
    let (mut accepted, mut settled) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..5_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "faults::killed_process", "--ignored", "--nocapture"])
            .env("SPOOL_KILLED", folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(250 + round * 97));
            child.kill().unwrap();
            child.wait().unwrap();
        });
        for line in lines {
            let line = line.unwrap();
            // Only a whole line counts: the kill may cut the last one.
            let Some((what, id)) = line.rsplit_once(' ') else { continue };
            let Ok(id) = id.parse::<MessageId>() else { continue };
            if what.ends_with("accepted") {
                accepted.insert(id);
            } else if what.ends_with("settled") {
                settled.insert(id);
            }
        }
        killer.join().unwrap();
    }
    assert!(accepted.len() > 20 && settled.len() > 5, "{} accepted, {} settled", accepted.len(), settled.len());
    let (spool, _) = open(folder.path());
    let sent: BTreeSet<_> = deliver_all(&spool).await.into_iter().map(|(id, _)| id).collect();
    for id in &settled {
        assert!(!sent.contains(id), "sent again");
    }
    // A settle may have become durable without anyone hearing of it; only even IDs were settled at all.
    for id in accepted.difference(&settled) {
        let unheard = id.to_bytes()[15].is_multiple_of(2);
        assert!(sent.contains(id) || unheard && lost_answers.len() < 6 && lost_answers.insert(*id), "lost");
    }
    println!("5 kills: {} accepted, {} settled before, {} delivered after", accepted.len(), settled.len(), sent.len());
    spool.close().await;
}

/// The body of the process that has a defect: a lane or the index panics.
#[test]
#[ignore = "run by the test below, in a process of its own"]
fn defective_process() {
    let Ok(folder) = std::env::var("SPOOL_DEFECT") else { return };
    let disk = SimulatedDisk::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let spool = open_on(&disk, Path::new(&folder)).unwrap();
        disk.observe(|_| {
            let thread = std::thread::current();
            assert!(!thread.name().is_some_and(|name| name.starts_with("spool-lane")), "the defect");
        });
        let plan = vec![to(Destination::Smarthost, &[0])];
        let _ =
            tokio::time::timeout(Duration::from_secs(5), try_accept(&spool, MessageId::generate(), 100, plan)).await;
    });
}

#[test]
fn a_panic_in_a_lane_ends_the_process_and_not_only_the_lane() {
    use std::os::unix::process::ExitStatusExt;
    let folder = tempfile::tempdir().unwrap();
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::defective_process", "--ignored", "--nocapture"])
        .env("SPOOL_DEFECT", folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(ended.signal(), Some(nix::libc::SIGABRT));
}
