//! A disk that cuts the power.
//!
//! Job: show what a crash may leave at every point of a workload. Place: in the place of the real disk, in tests.
//! Invariants: a write is durable after a sync of its file, a name after a sync of its folder, and nothing before that;
//! of what is not durable any subset survives, in any order, torn at 512 bytes; a failed sync makes nothing durable, and
//! no later sync makes up for it. The same seed gives the same state. A crash of the process leaves nothing behind.

use super::{Disk, DiskFile, Folder};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{Hash, Hasher},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What a disk writes whole.
const SECTOR: usize = 512;

type FileId = u64;
type Names = BTreeMap<(Folder, String), FileId>;

/// What was done, in order.
#[derive(Clone)]
enum Operation {
    Create(Folder, String, FileId),
    Rename(Folder, String, String),
    Unlink(Folder, String),
    SyncFolder(Folder),
    Write(FileId, u64, Vec<u8>),
    /// Grow with zeros, or cut off.
    Resize(FileId, u64),
    Sync(FileId),
    /// A sync that failed: what was not durable never will be for certain.
    FailedSync(FileId),
}

/// What is called before each operation, with the number of operations done.
type Observer = Box<dyn FnMut(u64) + Send>;

#[derive(Default)]
struct State {
    names: Names,
    files: HashMap<FileId, Vec<u8>>,
    next: FileId,
    journal: Vec<Operation>,
    /// Names and bytes that were durable before the journal began.
    start: (Names, HashMap<FileId, Vec<u8>>),
    /// Calls of any kind so far.
    calls: u64,
    fail: Option<(u64, io::ErrorKind)>,
    capacity: Option<u64>,
    /// Sectors that are lost: by file, numbers from its start.
    lost: HashSet<(FileId, u64)>,
    observer: Option<Observer>,
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

impl SimulatedDisk {
    /// An empty disk without end.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bounds the bytes of all files together.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Calls so far, reads included.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// Lets one call fail: the `nth` from the start, counted as [`SimulatedDisk::calls`] counts. A write that fails may
    /// have written its first half.
    pub fn fail_call(&self, nth: u64, kind: io::ErrorKind) {
        self.lock().fail = Some((nth, kind));
    }

    /// Operations so far that change the disk or make a change durable.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().journal.len() as u64
    }

    /// Calls `observer` before each further operation, with the number of operations done. It must not use the disk.
    pub fn observe(&self, observer: impl FnMut(u64) + Send + 'static) {
        self.lock().observer = Some(Box::new(observer));
    }

    /// Turns a bit over, behind everybody's back.
    ///
    /// # Errors
    /// There is no such byte.
    pub fn flip(&self, folder: Folder, name: &str, offset: usize) -> io::Result<()> {
        let mut state = self.lock();
        let id = state.id(folder, name)?;
        let file = state.files.get_mut(&id).ok_or(io::ErrorKind::NotFound)?;
        *file.get_mut(offset).ok_or(io::ErrorKind::UnexpectedEof)? ^= 1;
        Ok(())
    }

    /// Loses the sector with this byte: reading any of it is `EIO` until it is written anew.
    ///
    /// # Errors
    /// There is no such file.
    pub fn lose_sector(&self, folder: Folder, name: &str, offset: u64) -> io::Result<()> {
        let mut state = self.lock();
        let id = state.id(folder, name)?;
        state.lost.insert((id, offset / SECTOR as u64));
        Ok(())
    }

    /// The bytes of a file, as a reader sees them.
    ///
    /// # Errors
    /// There is no such file.
    pub fn contents(&self, folder: Folder, name: &str) -> io::Result<Vec<u8>> {
        let state = self.lock();
        let id = state.id(folder, name)?;
        state.files.get(&id).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// A number that tells two disks with other names or bytes apart.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let state = self.lock();
        let mut hasher = std::hash::DefaultHasher::new();
        for ((folder, name), id) in &state.names {
            (folder, name, state.files.get(id)).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// A disk with the same files, all of it durable: what an orderly restart finds.
    #[must_use]
    pub fn restarted(&self) -> Self {
        let state = self.lock();
        Self::from_durable(state.names.clone(), state.files.clone(), state.next)
    }

    /// The power goes before operation `at`: what is durable by then, and what may be.
    #[must_use]
    pub fn cut(&self, at: u64) -> Cut {
        let state = self.lock();
        let mut cut = Cut {
            names: state.start.0.clone(),
            files: state.start.1.clone(),
            pending_names: Vec::new(),
            pending: BTreeMap::new(),
            doubtful: BTreeMap::new(),
            next: state.next,
        };
        for operation in state.journal.iter().take(usize::try_from(at).unwrap_or(usize::MAX)) {
            cut.step(operation);
        }
        cut
    }

    fn from_durable(names: Names, files: HashMap<FileId, Vec<u8>>, next: FileId) -> Self {
        let named: HashSet<FileId> = names.values().copied().collect();
        let files: HashMap<_, _> = files.into_iter().filter(|(id, _)| named.contains(id)).collect();
        let start = (names.clone(), files.clone());
        Self { state: Arc::new(Mutex::new(State { names, files, next, start, ..State::default() })) }
    }
}

impl State {
    fn id(&self, folder: Folder, name: &str) -> io::Result<FileId> {
        self.names.get(&(folder, name.to_owned())).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Counts a call; the one that is to fail does.
    fn call(&mut self) -> io::Result<()> {
        let number = self.calls;
        self.calls += 1;
        match self.fail {
            Some((nth, kind)) if nth == number => Err(kind.into()),
            _ => Ok(()),
        }
    }

    fn record(&mut self, operation: Operation) {
        if let Some(observer) = &mut self.observer {
            observer(self.journal.len() as u64);
        }
        self.journal.push(operation);
    }

    fn used(&self) -> u64 {
        let named: HashSet<_> = self.names.values().collect();
        self.files.iter().filter(|(id, _)| named.contains(id)).map(|(_, bytes)| bytes.len() as u64).sum()
    }

    fn grow(&self, id: FileId, to: u64) -> io::Result<()> {
        let now = self.files.get(&id).map_or(0, |bytes| bytes.len() as u64);
        let full = self.capacity.is_some_and(|capacity| self.used() + to.saturating_sub(now) > capacity);
        if full && to > now { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl Disk for SimulatedDisk {
    fn create(&self, folder: Folder, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        state.call()?;
        let key = (folder, name.to_owned());
        if state.names.contains_key(&key) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = state.next;
        state.next += 1;
        state.record(Operation::Create(folder, name.to_owned(), id));
        state.names.insert(key, id);
        state.files.insert(id, Vec::new());
        Ok(Arc::new(SimulatedFile { disk: self.clone(), id }))
    }

    fn open(&self, folder: Folder, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        state.call()?;
        let id = state.id(folder, name)?;
        Ok(Arc::new(SimulatedFile { disk: self.clone(), id }))
    }

    fn rename(&self, folder: Folder, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.call()?;
        let id = state.id(folder, from)?;
        state.record(Operation::Rename(folder, from.to_owned(), to.to_owned()));
        state.names.remove(&(folder, from.to_owned()));
        state.names.insert((folder, to.to_owned()), id);
        Ok(())
    }

    fn unlink(&self, folder: Folder, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.call()?;
        state.id(folder, name)?;
        state.record(Operation::Unlink(folder, name.to_owned()));
        state.names.remove(&(folder, name.to_owned()));
        Ok(())
    }

    fn sync_folder(&self, folder: Folder) -> io::Result<()> {
        let mut state = self.lock();
        state.call()?;
        state.record(Operation::SyncFolder(folder));
        Ok(())
    }

    fn list(&self, folder: Folder) -> io::Result<Vec<String>> {
        let mut state = self.lock();
        state.call()?;
        Ok(state.names.keys().filter(|(of, _)| *of == folder).map(|(_, name)| name.clone()).collect())
    }

    fn free(&self) -> io::Result<u64> {
        let mut state = self.lock();
        state.call()?;
        Ok(state.capacity.map_or(u64::MAX / 2, |capacity| capacity.saturating_sub(state.used())))
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    id: FileId,
}

impl DiskFile for SimulatedFile {
    fn preallocate(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.call()?;
        state.grow(self.id, length)?;
        state.record(Operation::Resize(self.id, length));
        state.record(Operation::Sync(self.id));
        let file = state.files.get_mut(&self.id).ok_or(io::ErrorKind::NotFound)?;
        file.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.lock();
        let called = state.call();
        let bytes = if called.is_ok() { bytes } else { bytes.get(..bytes.len() / 2).unwrap_or_default() };
        state.grow(self.id, offset + bytes.len() as u64)?;
        state.record(Operation::Write(self.id, offset, bytes.to_vec()));
        if !state.lost.is_empty() {
            for sector in sectors_of(offset, bytes.len()) {
                state.lost.remove(&(self.id, sector));
            }
        }
        let file = state.files.get_mut(&self.id).ok_or(io::ErrorKind::NotFound)?;
        put(file, offset, bytes);
        called
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.call()?;
        let file = state.files.get(&self.id).ok_or(io::ErrorKind::NotFound)?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let piece = file.get(from..).and_then(|rest| rest.get(..bytes.len()));
        let piece = piece.ok_or(io::ErrorKind::UnexpectedEof)?;
        if sectors_of(offset, bytes.len()).any(|sector| state.lost.contains(&(self.id, sector))) {
            return Err(nix::errno::Errno::EIO.into());
        }
        bytes.copy_from_slice(piece);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        let called = state.call();
        let failed = called.is_err();
        state.record(if failed { Operation::FailedSync(self.id) } else { Operation::Sync(self.id) });
        called
    }

    fn length(&self) -> io::Result<u64> {
        let mut state = self.disk.lock();
        state.call()?;
        state.files.get(&self.id).map(|bytes| bytes.len() as u64).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.call()?;
        state.record(Operation::Resize(self.id, length));
        let file = state.files.get_mut(&self.id).ok_or(io::ErrorKind::NotFound)?;
        file.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
        Ok(())
    }
}

/// Numbers of the sectors that a piece touches.
fn sectors_of(offset: u64, length: usize) -> std::ops::Range<u64> {
    offset / SECTOR as u64..(offset + length as u64).div_ceil(SECTOR as u64)
}

fn put(file: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    let end = from + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    if let Some(place) = file.get_mut(from..end) {
        place.copy_from_slice(bytes);
    }
}

/// A moment at which the power goes.
pub struct Cut {
    names: Names,
    files: HashMap<FileId, Vec<u8>>,
    pending_names: Vec<Operation>,
    /// By file, what a sync would make durable.
    pending: BTreeMap<FileId, Vec<Operation>>,
    /// By file, what a failed sync left in doubt for ever.
    doubtful: BTreeMap<FileId, Vec<Operation>>,
    next: FileId,
}

impl Cut {
    fn step(&mut self, operation: &Operation) {
        match operation {
            Operation::Create(_, _, id) => {
                self.files.entry(*id).or_default();
                self.pending_names.push(operation.clone());
            }
            Operation::Rename(..) | Operation::Unlink(..) => self.pending_names.push(operation.clone()),
            Operation::SyncFolder(folder) => {
                let (durable, pending): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending_names)
                    .into_iter()
                    .partition(|one| folder_of(one) == Some(*folder));
                self.pending_names = pending;
                for one in durable {
                    name(&mut self.names, &one);
                }
            }
            Operation::Write(id, ..) | Operation::Resize(id, _) => {
                self.pending.entry(*id).or_default().push(operation.clone());
            }
            Operation::Sync(id) => {
                let file = self.files.entry(*id).or_default();
                for one in self.pending.remove(id).unwrap_or_default() {
                    write(file, &one);
                }
            }
            Operation::FailedSync(id) => {
                let pending = self.pending.remove(id).unwrap_or_default();
                self.doubtful.entry(*id).or_default().extend(pending);
            }
        }
    }

    /// Operations whose effect is open.
    #[must_use]
    pub fn open_operations(&self) -> usize {
        let pieces: usize = self.pending.values().chain(self.doubtful.values()).map(Vec::len).sum();
        pieces + self.pending_names.len()
    }

    /// One of the states that may be left. Seed 0: nothing that is open survives; seed 1: all of it does; any other: a
    /// subset of sectors and names, applied in an order of its own.
    #[must_use]
    pub fn state(&self, seed: u64) -> SimulatedDisk {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xd1b5_4a32_d192_ed03);
        let share = random.below(5);
        let survives = move |random: &mut Random| match seed {
            0 => false,
            1 => true,
            _ => random.below(5) <= share,
        };
        let mut names = self.names.clone();
        let mut kept = self.pending_names.clone();
        if seed > 1 {
            random.shuffle(&mut kept);
        }
        // A name can only be moved or removed once it is there, whatever order the disk took.
        for one in kept.into_iter().filter(|_| survives(&mut random)) {
            name(&mut names, &one);
        }
        let mut files = self.files.clone();
        for (id, operations) in self.pending.iter().chain(&self.doubtful) {
            let mut pieces: Vec<Operation> = operations.iter().flat_map(sectors).collect();
            if seed > 1 {
                random.shuffle(&mut pieces);
            }
            let file = files.entry(*id).or_default();
            for piece in pieces.into_iter().filter(|_| survives(&mut random)) {
                write(file, &piece);
            }
        }
        SimulatedDisk::from_durable(names, files, self.next)
    }
}

fn folder_of(operation: &Operation) -> Option<Folder> {
    match operation {
        Operation::Create(folder, ..) | Operation::Rename(folder, ..) | Operation::Unlink(folder, _) => Some(*folder),
        _ => None,
    }
}

fn name(names: &mut Names, operation: &Operation) {
    match operation {
        Operation::Create(folder, name, id) => {
            names.insert((*folder, name.clone()), *id);
        }
        Operation::Rename(folder, from, to) => {
            if let Some(id) = names.remove(&(*folder, from.clone())) {
                names.insert((*folder, to.clone()), id);
            }
        }
        Operation::Unlink(folder, name) => {
            names.remove(&(*folder, name.clone()));
        }
        _ => {}
    }
}

fn write(file: &mut Vec<u8>, operation: &Operation) {
    match operation {
        Operation::Write(_, offset, bytes) => put(file, *offset, bytes),
        Operation::Resize(_, length) => file.resize(usize::try_from(*length).unwrap_or(usize::MAX), 0),
        _ => {}
    }
}

/// A write, torn into what the disk writes whole.
fn sectors(operation: &Operation) -> Vec<Operation> {
    let Operation::Write(id, offset, bytes) = operation else { return vec![operation.clone()] };
    let (mut at, mut rest, mut pieces) = (*offset, bytes.as_slice(), Vec::new());
    while !rest.is_empty() {
        let within = SECTOR - usize::try_from(at % SECTOR as u64).unwrap_or(0);
        let (piece, behind) = rest.split_at(within.min(rest.len()));
        pieces.push(Operation::Write(*id, at, piece.to_vec()));
        at += piece.len() as u64;
        rest = behind;
    }
    pieces
}

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            let other = usize::try_from(self.below(at as u64 + 1)).unwrap_or(0);
            list.swap(at, other);
        }
    }
}

#[cfg(test)]
mod tests;
