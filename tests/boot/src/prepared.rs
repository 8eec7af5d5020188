//! Boxes that were set up before, for the tests that begin with one.
//!
//! Job: set a box up once, update it once, keep both states beside the image, and put them up again for each test with the
//! peers that they know. Place: the beginning of the long tests. Invariants: what is kept belongs to exactly these two images;
//! each test has machine and peers of its own; one at a time, since the kept box knows its peers by their ports. A crash
//! while a state is made leaves it to be made anew.

use crate::{
    image::Image,
    machine::{Machine, text, tool},
    snapshot::{copy_folder, is_kept},
    surroundings::{Surroundings, postern, wait_until},
};
use lab::process::free_port_base;
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// From power-on to whatever a test waits for, on a busy machine under emulation.
pub const BOOT: Duration = Duration::from_secs(900);

/// Which state of the box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Set up and healthy; slot a runs, slot b is empty.
    SetUp,
    /// Updated once: slot b runs, slot a is good as well.
    Updated,
}

/// A box and what stands around it.
pub struct Prepared {
    /// The box, switched off.
    pub machine: Machine,
    /// Its peers.
    pub around: Surroundings,
    /// The words of its recovery key.
    pub recovery: String,
    /// The image of slot a.
    pub image: Image,
    /// The image of slot b, where the box was updated.
    pub next: Image,
}

impl Prepared {
    /// A box at `stage`, in `folder`.
    ///
    /// # Errors
    /// It can't be prepared; the error says at which step.
    pub fn at(stage: Stage, folder: &Path) -> io::Result<Self> {
        let image = Image::from_environment()?;
        let next = image.successor()?;
        let store = store(&image, &next)?;
        let locked = fs::File::create(store.join("lock"))?;
        let held = Flock::lock(locked, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
        if !is_kept(&store.join("set-up")) {
            let first = folder.join("first");
            Self::set_up(&first, &store, &image, &next)?;
            fs::remove_dir_all(first)?;
        }
        if stage == Stage::Updated && !is_kept(&store.join("updated")) {
            let first = folder.join("second");
            Self::update(&first, &store, &image, &next)?;
            fs::remove_dir_all(first)?;
        }
        drop(held);
        Self::open(stage, folder, &store, &image, &next)
    }

    fn open(stage: Stage, folder: &Path, store: &Path, image: &Image, next: &Image) -> io::Result<Self> {
        let kept = store.join(match stage {
            Stage::SetUp => "set-up",
            Stage::Updated => "updated",
        });
        let facts: Value = serde_json::from_slice(&fs::read(kept.join("facts.json"))?)?;
        let base = facts["ports"].as_u64().and_then(|base| u16::try_from(base).ok());
        let base = base.ok_or_else(|| io::Error::other("the kept box does not say its peers' ports"))?;
        copy_folder(&kept.join("lab"), &made(folder)?.join("lab"))?;
        Ok(Self {
            machine: Machine::from_kept(&folder.join("machine"), &kept)?,
            around: Surroundings::on(&folder.join("lab"), base)?,
            recovery: facts["recovery"].as_str().unwrap_or_default().to_owned(),
            image: image.clone(),
            next: next.clone(),
        })
    }

    fn set_up(folder: &Path, store: &Path, image: &Image, next: &Image) -> io::Result<()> {
        let base = free_port_base()?;
        let around = Surroundings::on(&made(folder)?.join("lab"), base)?;
        let mut machine = Machine::new(&folder.join("machine"), image)?;
        machine.power_on()?;
        machine.agent().wait(BOOT)?;
        wait_until(&machine, &["status"], BOOT, |status| status["starting"] != true)?;
        let recovery = around.set_up(&machine)?;
        machine.wait_for_greeting(BOOT)?;
        wait_until(&machine, &["update", "status"], BOOT, |report| is_good(report, "a"))?;
        let facts = json!({ "ports": base, "recovery": recovery });
        let mut made = Self { machine, around, recovery, image: image.clone(), next: next.clone() };
        made.keep(&store.join("set-up"), &facts)
    }

    fn update(folder: &Path, store: &Path, image: &Image, next: &Image) -> io::Result<()> {
        let mut made = Self::open(Stage::SetUp, folder, store, image, next)?;
        let facts: Value = serde_json::from_slice(&fs::read(store.join("set-up/facts.json"))?)?;
        made.machine.power_on()?;
        made.machine.wait_for_greeting(BOOT)?;
        wait_until(&made.machine, &["update", "status"], BOOT, |report| is_good(report, "a"))?;
        made.install(&next.file("update.raucb"))?;
        made.around.reboot(&made.machine);
        wait_until(&made.machine, &["update", "status"], BOOT, |report| {
            report["update"]["state"] == "done" && is_good(report, "b")
        })?;
        made.keep(&store.join("updated"), &facts)
    }

    /// Brings a bundle into the running box and has it installed; what the box said.
    ///
    /// # Errors
    /// It refuses; the error has its words.
    pub fn install(&self, bundle: &Path) -> io::Result<String> {
        const PLACE: &str = "/data/update/update.raucb";
        self.around.bring(&self.machine, bundle, PLACE)?;
        postern(&self.machine, &["update", "install", PLACE], "")
    }

    /// Switches the box off as an operator would, and keeps it with its peers.
    fn keep(&mut self, to: &Path, facts: &Value) -> io::Result<()> {
        let _ = self.machine.agent().run(&["postern", "power", "off"], "", Duration::from_secs(5));
        self.machine.wait_until_off(BOOT)?;
        self.around.stop()?;
        fs::create_dir_all(to)?;
        copy_folder(self.around.lab.layout.dir(), &to.join("lab"))?;
        fs::write(to.join("facts.json"), facts.to_string())?;
        self.machine.keep(to)
    }
}

/// Whether the slot runs and has shown that it works.
#[must_use]
pub fn is_good(report: &Value, slot: &str) -> bool {
    let slots = report["slots"].as_array().into_iter().flatten();
    slots.filter(|of| of["name"] == slot).any(|of| of["running"] == true && of["good"] == true)
}

/// The folder of what is kept for these two images; those of others are removed.
fn store(image: &Image, next: &Image) -> io::Result<PathBuf> {
    let digests =
        [image, next].map(|image| image.facts().map(|facts| facts["files"]["disk.img"]["sha256"].to_string()));
    let [first, second] = digests;
    let digest = ::image::hex(&::image::sha256(&[first?.as_bytes(), second?.as_bytes()]));
    let name = format!("prepared-{}", digest.get(..16).unwrap_or_default());
    let beside = image.file("").join("..").canonicalize()?;
    for entry in fs::read_dir(&beside)? {
        let entry = entry?;
        let other = entry.file_name().to_string_lossy().into_owned();
        if other.starts_with("prepared-") && other != name {
            tool("rm", &["-rf", text(&entry.path())])?;
        }
    }
    made(&beside.join(name))
}

fn made(folder: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    folder.canonicalize()
}
