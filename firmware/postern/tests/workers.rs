//! Worker processes, the real ones: what they can do, and what becomes of a job when they can't.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

// The pool, compiled into this test so that it can be given its own limits; the processes are `postern worker`.
#[expect(dead_code, reason = "the daemon's entry, which takes no limits")]
#[path = "../src/worker/pool.rs"]
mod pool;
#[path = "../src/worker/protocol.rs"]
mod protocol;
#[path = "../src/worker/sandbox.rs"]
mod sandbox;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use policy::{Job, JobHeader, JobKind, JobReport, WorkerError, Workers, extract::About};
use pool::{Plan, Pool};
use std::{
    collections::HashMap,
    fs,
    io::{Cursor, Read, Seek, SeekFrom},
    os::unix::process::ExitStatusExt,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

const CARD: &str = "Card number 4111 1111 1111 1111";

/// Children are told apart by their parent only, so one pool at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pool(count: usize, memory: u64) -> Pool {
    let pool = Pool::start_as(count, Plan { program: env!("CARGO_BIN_EXE_postern").into(), memory }).unwrap();
    let start = Instant::now();
    let is_closed =
        |pid: &Pid| fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|s| s.contains("Seccomp:\t2"));
    while children().iter().filter(|pid| is_closed(pid)).count() < count {
        assert!(start.elapsed() < Duration::from_secs(10), "workers do not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    pool
}

/// Processes started by this one that still run.
fn children() -> Vec<Pid> {
    let own = std::process::id().to_string();
    let stat = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("stat")).ok();
    let parse = |stat: String| {
        let (pid, rest) = stat.split_once(' ')?;
        let mut fields = rest.rsplit_once(')')?.1.split_ascii_whitespace();
        let (state, parent) = (fields.next()?, fields.next()?);
        (parent == own && state != "Z").then(|| Pid::from_raw(pid.parse().unwrap()))
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(stat).filter_map(parse).collect()
}

fn header(length: u64) -> JobHeader {
    let about = About { section: "2".into(), declared: "text/plain".into(), attachment: true, ..About::default() };
    JobHeader { kind: JobKind::Part(about), length, patterns: Vec::new() }
}

fn run(pool: &Pool, text: &str, limit: Duration) -> Result<JobReport, WorkerError> {
    let mut content = Cursor::new(text.as_bytes().to_vec());
    pool.run(Job { header: header(text.len() as u64), content: &mut content, deadline: Instant::now() + limit })
}

/// Content that sends a signal to the only worker whenever its last octet is asked for, a number of times.
struct Striking {
    content: Cursor<Vec<u8>>,
    signal: Signal,
    times: usize,
}

impl Read for Striking {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let last = self.content.position() + buffer.len() as u64 >= self.content.get_ref().len() as u64;
        if last && self.times > 0 {
            self.times -= 1;
            kill(children()[0], self.signal).unwrap();
            // The death must be seen before the last octet is sent.
            std::thread::sleep(Duration::from_millis(50));
        }
        self.content.read(buffer)
    }
}

impl Seek for Striking {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.content.seek(to)
    }
}

fn strike(pool: &Pool, signal: Signal, times: usize, limit: Duration) -> Result<JobReport, WorkerError> {
    let text = format!("{CARD}\n{}", "filler ".repeat(100_000));
    let length = text.len() as u64;
    let mut content = Striking { content: Cursor::new(text.into_bytes()), signal, times };
    pool.run(Job { header: header(length), content: &mut content, deadline: Instant::now() + limit })
}

const AMPLE: Duration = Duration::from_secs(30);
const MEMORY: u64 = 1 << 30;

#[test]
fn a_job_is_done_by_a_worker() {
    let _alone = alone();
    let pool = pool(2, MEMORY);
    for _ in 0..5 {
        let report = run(&pool, CARD, AMPLE).unwrap();
        assert_eq!(report.parts.len(), 1);
        assert_eq!(report.parts[0].hits.len(), 1);
    }
}

#[test]
fn workers_are_sandboxed_before_their_first_job() {
    let _alone = alone();
    let _pool = pool(2, MEMORY);
    for child in children() {
        let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap();
        for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "Threads:\t1"] {
            assert!(status.contains(line), "{line} not in {status}");
        }
        let limits = fs::read_to_string(format!("/proc/{child}/limits")).unwrap();
        let limit = |name: &str| {
            let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
            line[name.len()..].split_ascii_whitespace().next().unwrap().to_owned()
        };
        assert_eq!(limit("Max address space"), MEMORY.to_string());
        for (name, value) in
            [("Max open files", "3"), ("Max core file size", "0"), ("Max file size", "0"), ("Max processes", "0")]
        {
            assert_eq!(limit(name), value, "{name}");
        }
    }
}

/// Runs in a process of its own, started by the next test with the name of what to try.
#[test]
fn probe() {
    let Ok(what) = std::env::var("POSTERN_TEST_PROBE") else { return };
    let statm = fs::File::open("/proc/self/statm").unwrap();
    sandbox::close(4 << 30, &statm).unwrap();
    match what.as_str() {
        "nothing" => std::process::exit(7),
        "open" => drop(fs::File::open("/etc/hostname")),
        "write" => drop(fs::write("/tmp/postern-probe", "x")),
        "socket" => drop(std::net::UdpSocket::bind("127.0.0.1:0")),
        "connect" => drop(std::os::unix::net::UnixStream::connect("/run/x")),
        "execute" => drop(Command::new("/bin/true").status()),
        "thread" => drop(std::thread::Builder::new().spawn(|| ())),
        "signal" => drop(kill(Pid::from_raw(1), None)),
        other => panic!("{other}"),
    }
    std::process::exit(8);
}

#[test]
fn the_sandbox_forbids_files_sockets_and_processes() {
    let _alone = alone();
    let probe = |what: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "probe", "--nocapture"]).env("POSTERN_TEST_PROBE", what);
        command.output().unwrap().status
    };
    assert_eq!(probe("nothing").code(), Some(7));
    for what in ["open", "write", "socket", "connect", "execute", "thread", "signal"] {
        assert_eq!(probe(what).signal(), Some(Signal::SIGSYS as i32), "{what}");
    }
}

#[test]
fn a_job_survives_two_deaths_of_its_worker() {
    let _alone = alone();
    let pool = pool(1, MEMORY);
    let report = strike(&pool, Signal::SIGKILL, 2, AMPLE).unwrap();
    assert_eq!(report.parts[0].hits.len(), 1);
}

#[test]
fn three_deaths_end_a_job_and_the_next_one_is_done() {
    let _alone = alone();
    let pool = pool(1, MEMORY);
    assert_eq!(strike(&pool, Signal::SIGKILL, 3, AMPLE), Err(WorkerError::KilledThreeTimes));
    assert!(run(&pool, CARD, AMPLE).is_ok());
}

#[test]
fn a_job_that_needs_too_much_memory_kills_three_workers_and_nobody_else() {
    let _alone = alone();
    let pool = pool(2, 256 << 20);
    let text = "x".repeat(300 << 20);
    assert_eq!(run(&pool, &text, AMPLE), Err(WorkerError::KilledThreeTimes));
    assert!(run(&pool, CARD, AMPLE).is_ok());
}

#[test]
fn a_worker_that_stands_still_ends_at_the_deadline() {
    let _alone = alone();
    let pool = pool(1, MEMORY);
    let start = Instant::now();
    assert_eq!(strike(&pool, Signal::SIGSTOP, 1, Duration::from_millis(500)), Err(WorkerError::TooSlow));
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(run(&pool, CARD, AMPLE).is_ok());
}

#[test]
fn a_job_waits_for_a_worker_no_longer_than_its_deadline() {
    let _alone = alone();
    let pool = pool(1, MEMORY);
    std::thread::scope(|scope| {
        scope.spawn(|| strike(&pool, Signal::SIGSTOP, 1, Duration::from_secs(2)));
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(run(&pool, CARD, Duration::from_millis(200)), Err(WorkerError::TooSlow));
    });
}

#[test]
fn a_worker_that_ended_idle_is_no_fault_of_the_next_message() {
    let _alone = alone();
    let pool = pool(2, MEMORY);
    for _ in 0..5 {
        children().into_iter().for_each(|child| kill(child, Signal::SIGKILL).unwrap());
        assert!(run(&pool, CARD, AMPLE).is_ok());
    }
}

#[test]
fn a_small_job_leaves_its_worker_in_place_and_a_large_one_leaves_no_large_worker() {
    let _alone = alone();
    let pool = pool(1, MEMORY);
    let before = children();
    assert!(run(&pool, CARD, AMPLE).is_ok());
    assert_eq!(children(), before);
    for mebibytes in [6, 24, 3] {
        let line = "<p>4111 1111 1111 1112 is no number of a card, 4111 1111 1111 1111 is one</p>\n";
        let large = format!("<html>{}", line.repeat((mebibytes << 20) / line.len()));
        assert!(run(&pool, &large, AMPLE).is_ok());
        // Whoever comes next is idle, or fresh.
        assert!(run(&pool, CARD, AMPLE).is_ok());
        let memory = fs::read_to_string(format!("/proc/{}/statm", children()[0])).unwrap();
        let pages: Vec<u64> = memory.split_ascii_whitespace().map(|n| n.parse().unwrap()).collect();
        assert!(pages[1] - pages[2] < (16 << 20) / 4096, "after {mebibytes} MiB: {memory}");
    }
}

#[test]
fn a_worker_that_one_message_took_over_judges_few_others() {
    let _alone = alone();
    let pool = pool(1, MEMORY);
    let mut seen: HashMap<Pid, u32> = HashMap::new();
    for _ in 0..120 {
        // Between two workers there may be none, or the new one only.
        let before = children();
        assert!(run(&pool, CARD, AMPLE).is_ok());
        if let [worker] = before[..] {
            *seen.entry(worker).or_default() += 1;
        }
    }
    assert!(seen.len() >= 3 && seen.values().all(|jobs| *jobs <= 51), "{seen:?}");
}

#[test]
fn a_worker_that_was_used_is_replaced_once_it_rests() {
    let _alone = alone();
    let pool = pool(2, MEMORY);
    let before = children();
    assert!(run(&pool, CARD, AMPLE).is_ok());
    let start = Instant::now();
    let kept = || children().iter().filter(|pid| before.contains(pid)).count();
    while kept() == 2 || children().len() != 2 {
        assert!(start.elapsed() < Duration::from_secs(10), "the used worker stays");
        std::thread::sleep(Duration::from_millis(20));
    }
    // The one that never saw a message has no reason to go.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(kept(), 1);
    assert!(run(&pool, CARD, AMPLE).is_ok());
}

#[test]
fn a_fresh_worker_comes_before_a_used_one() {
    let _alone = alone();
    let pool = pool(2, MEMORY);
    let pages = |pid: &Pid| {
        let memory = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
        let pages: Vec<u64> = memory.split_ascii_whitespace().map(|n| n.parse().unwrap()).collect();
        pages[1] - pages[2]
    };
    let fresh: Vec<(Pid, u64)> = children().iter().map(|pid| (*pid, pages(pid))).collect();
    assert!(run(&pool, CARD, AMPLE).is_ok());
    assert!(run(&pool, CARD, AMPLE).is_ok());
    // The tables of the detectors are made for the first job.
    assert!(fresh.iter().all(|(pid, before)| pages(pid) > before + 100), "one of {fresh:?} had both jobs");
}

#[test]
fn a_worker_whose_socket_closes_ends_cleanly_inside_its_sandbox() {
    let _alone = alone();
    let (mut stream, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_postern"))
        .arg("worker")
        .stdin(std::os::fd::OwnedFd::from(theirs.try_clone().unwrap()))
        .stdout(std::os::fd::OwnedFd::from(theirs))
        .spawn()
        .unwrap();
    protocol::send(&mut stream, &protocol::Setup { memory: MEMORY }).unwrap();
    assert!(protocol::receive::<protocol::Ready>(&mut stream).unwrap().is_some());
    drop(stream);
    assert_eq!(child.wait().unwrap().into_raw(), 0);
}

#[test]
fn workers_end_with_their_pool() {
    let _alone = alone();
    drop(pool(3, MEMORY));
    let start = Instant::now();
    while !children().is_empty() {
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", children());
        std::thread::sleep(Duration::from_millis(10));
    }
}
