//! The daemon's side: the pool.
//!
//! Job: keep workers ready, give each job one, replace those that die. Place: what `build()` hands to the judge as
//! [`policy::Workers`]. Invariants: one job a worker at a time; a job has its deadline, also while it waits; a worker that
//! died, was too slow or grew large never gets another job; one that was used gets few more, and none after a rest. A
//! crash leaves nothing: workers end with the daemon.

use super::protocol::{self, Order, Ready, Reply, Setup};
use policy::{Job, JobReport, WorkerError, Workers};
use std::{
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

/// Address space of a worker: a message of 100 MiB, decoded, and one unpacked entry beside it, twice over.
const MEMORY: u64 = 1 << 30;
/// Jobs that may wait for a worker; the judge's own queue keeps it shorter.
const MAX_WAITING: usize = 256;
/// Deaths after which a job is given up.
const MAX_DEATHS: u32 = 3;
/// Jobs after which a worker is replaced. A worker that one message took over could lie about those after it, and its
/// own reports are no sign of that, so the number alone bounds them. A start costs 8 to 22 ms of processor time: half a
/// millisecond a job at most.
const MAX_JOBS: u32 = 50;
/// Idle time after which a used worker is replaced: where there is little to do, hardly any message meets a worker that
/// saw another one, and the starts cost each place in the pool 2 % of a processor at most.
const REST: Duration = Duration::from_secs(1);
/// Octets handed over at once.
const PIECE: usize = 64 << 10;
/// A worker that is not ready by then never will be.
const START: Duration = Duration::from_secs(10);
/// Wait before a worker that did not start is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How workers are started.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program, called with the one argument `worker`.
    pub program: PathBuf,
    /// Address space of each, in bytes.
    pub memory: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self { program: PathBuf::from("/proc/self/exe"), memory: MEMORY }
    }
}

/// Workers, ready or at work.
pub struct Pool {
    shared: Arc<Shared>,
    nursery: Sender<()>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Worker>,
    waiting: usize,
    closed: bool,
}

impl State {
    /// The idle worker with the fewest jobs behind it, taken out.
    fn least_used(&mut self) -> Option<Worker> {
        let (at, _) = self.idle.iter().enumerate().min_by_key(|(_, worker)| worker.jobs)?;
        Some(self.idle.swap_remove(at))
    }

    /// Where the worker stands that was used and has rested.
    fn rested(&self) -> Option<usize> {
        self.idle.iter().position(|worker| worker.jobs > 0 && worker.idle_since.elapsed() >= REST)
    }
}

impl Pool {
    /// Starts `count` workers of this binary.
    ///
    /// # Errors
    /// The first one can't be started or can't close its sandbox.
    pub fn start(count: usize) -> io::Result<Self> {
        Self::start_as(count, Plan::default())
    }

    /// Starts `count` workers by `plan`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_as(count: usize, plan: Plan) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (nursery, wanted) = mpsc::channel();
        let (first, started) = mpsc::channel();
        let theirs = shared.clone();
        // Workers end when the thread that started them does (PR_SET_PDEATHSIG counts threads), so one thread that lives
        // as long as the pool starts them all.
        thread::Builder::new().name("worker nursery".to_owned()).spawn(move || {
            let _ = first.send(Worker::start(&plan).map(|worker| {
                let landlock = worker.landlock.clone();
                theirs.add(worker);
                landlock
            }));
            nurse(&theirs, &plan, &wanted);
        })?;
        let landlock = started.recv().map_err(io::Error::other)??;
        if landlock != "full" {
            log::warn!(landlock:%; "this kernel's Landlock does not cover all; workers rely on their system call filter");
        }
        log::info!(count, landlock:%; "judging processes are ready");
        for _ in 1..count {
            let _ = nursery.send(());
        }
        Ok(Self { shared, nursery })
    }

    /// An idle worker, waited for until `deadline`.
    fn take(&self, deadline: Instant) -> Result<Worker, WorkerError> {
        let mut state = self.shared.lock();
        if state.waiting >= MAX_WAITING {
            return Err(WorkerError::Unavailable("too many jobs wait".to_owned()));
        }
        state.waiting += 1;
        let taken = loop {
            match state.least_used() {
                Some(mut worker) => {
                    if !worker.has_ended() {
                        break Ok(worker);
                    }
                    // Nobody used it: no message's fault.
                    self.replace(worker, "ended idle");
                }
                None => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break Err(WorkerError::TooSlow);
                    }
                    let woken = self.shared.changed.wait_timeout(state, left);
                    state = woken.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        };
        state.waiting -= 1;
        taken
    }

    /// Ends a worker and has another one started.
    fn replace(&self, worker: Worker, why: &str) {
        let pid = worker.child.id();
        let status = worker.end();
        log::debug!(pid, status:%; "judging process replaced: {why}");
        let _ = self.nursery.send(());
    }
}

impl Workers for Pool {
    fn run(&self, job: Job<'_>) -> Result<JobReport, WorkerError> {
        let Job { header, content, deadline } = job;
        for death in 1..=MAX_DEATHS {
            let mut worker = self.take(deadline)?;
            content.rewind().map_err(|error| WorkerError::Unreadable(error.to_string()))?;
            let left = deadline.saturating_duration_since(Instant::now());
            let order = Order { header: header.clone(), millis: left.as_millis().try_into().unwrap_or(u64::MAX) };
            match worker.perform(&order, content, deadline) {
                Ok(reply) => {
                    worker.jobs += 1;
                    if reply.grown || worker.jobs >= MAX_JOBS {
                        self.replace(worker, "used up");
                    } else {
                        self.shared.add(worker);
                    }
                    return reply.outcome.map_err(WorkerError::Patterns);
                }
                Err(Fault::Content(error)) => {
                    self.replace(worker, "left in the middle of a job");
                    return Err(WorkerError::Unreadable(error.to_string()));
                }
                Err(Fault::Deadline) => {
                    self.replace(worker, "too slow");
                    return Err(WorkerError::TooSlow);
                }
                Err(Fault::Died(error)) => {
                    log::warn!(pid = worker.child.id(), death, error:%; "a judging process died of its job");
                    self.replace(worker, "died");
                }
            }
        }
        Err(WorkerError::KilledThreeTimes)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let idle = {
            let mut state = self.shared.lock();
            state.closed = true;
            std::mem::take(&mut state.idle)
        };
        for worker in idle {
            worker.end();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, mut worker: Worker) {
        worker.idle_since = Instant::now();
        let mut state = self.lock();
        if state.closed {
            drop(state);
            worker.end();
        } else {
            state.idle.push(worker);
            self.changed.notify_one();
        }
    }
}

/// Starts a worker for each wish, and in the place of each that was used and rests, until the pool is gone.
fn nurse(shared: &Shared, plan: &Plan, wanted: &Receiver<()>) {
    loop {
        match wanted.recv_timeout(REST) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => {
                relieve(shared, plan);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
        loop {
            if shared.lock().closed {
                return;
            }
            match Worker::start(plan) {
                Ok(worker) => break shared.add(worker),
                Err(error) => {
                    log::error!(error:%; "a judging process can't be started; tried again in a second");
                    thread::sleep(RETRY);
                }
            }
        }
    }
}

/// Puts fresh workers in the place of those that were used and rest. The pool is never without the one it had: a worker
/// that does not start leaves all as it was.
fn relieve(shared: &Shared, plan: &Plan) {
    while shared.lock().rested().is_some() {
        let fresh = match Worker::start(plan) {
            Ok(fresh) => fresh,
            Err(error) => {
                log::warn!(error:%; "no fresh judging process can be started; used ones stay");
                return;
            }
        };
        let mut state = shared.lock();
        let rested = if state.closed { None } else { state.rested() };
        // What has gone back to work in the meantime keeps its place.
        let spare = match rested.and_then(|at| state.idle.get_mut(at)) {
            Some(place) => std::mem::replace(place, fresh),
            None => fresh,
        };
        drop(state);
        spare.end();
    }
}

/// Why a worker has no reply.
enum Fault {
    /// The source failed, not the worker.
    Content(io::Error),
    Deadline,
    Died(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // What a socket with a timeout says when it passes.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Deadline,
            _ => Self::Died(error),
        }
    }
}

struct Worker {
    child: Child,
    stream: UnixStream,
    jobs: u32,
    idle_since: Instant,
    landlock: String,
}

impl Worker {
    fn start(plan: &Plan) -> io::Result<Self> {
        let (stream, theirs) = UnixStream::pair()?;
        let child = Command::new(&plan.program)
            .arg("worker")
            // Nothing of the daemon's surroundings, its credentials folder for one.
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?)))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .stderr(Stdio::inherit())
            .spawn()?;
        let mut worker = Self { child, stream, jobs: 0, idle_since: Instant::now(), landlock: String::new() };
        match worker.greet(plan) {
            Ok(Ready { landlock }) => {
                worker.landlock = landlock;
                Ok(worker)
            }
            Err(error) => {
                let status = worker.end();
                Err(io::Error::new(error.kind(), format!("it is not ready: {error}; {status}")))
            }
        }
    }

    fn greet(&mut self, plan: &Plan) -> io::Result<Ready> {
        let mut stream = Timed { stream: &self.stream, deadline: Instant::now() + START };
        protocol::send(&mut stream, &Setup { memory: plan.memory })?;
        protocol::receive(&mut stream)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Hands the job over and waits for its reply.
    fn perform(&mut self, order: &Order, content: &mut dyn policy::Octets, deadline: Instant) -> Result<Reply, Fault> {
        let mut stream = Timed { stream: &self.stream, deadline };
        protocol::send(&mut stream, order)?;
        let mut left = order.header.length;
        let mut piece = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
        while left > 0 {
            let length = piece.len().min(usize::try_from(left).unwrap_or(PIECE));
            let piece = piece.get_mut(..length).unwrap_or_default();
            content.read_exact(piece).map_err(Fault::Content)?;
            stream.write_all(piece)?;
            left -= length as u64;
        }
        let closed = || Fault::Died(io::ErrorKind::UnexpectedEof.into());
        protocol::receive(&mut stream)?.ok_or_else(closed)
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills and reaps; what it ended with.
    fn end(mut self) -> String {
        let _ = self.child.kill();
        match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }
}

/// The stream with one deadline over many reads and writes.
struct Timed<'a> {
    stream: &'a UnixStream,
    deadline: Instant,
}

impl Timed<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        (&mut self.stream).read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        (&mut self.stream).write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
