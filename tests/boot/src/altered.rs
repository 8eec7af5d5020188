//! Updates that are signed for this box and don't work.
//!
//! Job: from an image, bundles with one flaw each, signed with the development keys. Place: what the tests of falling back
//! install. Invariants: nothing but the flaw differs from the image that works; a bundle is made once and kept beside the
//! image. A crash leaves a folder without bundle, which is made anew.

use crate::{
    agent::BUSYBOX,
    image::Image,
    machine::{text, tool},
};
use ::image::{
    ImageError,
    assemble::{Identity, Order, assemble},
    bundle,
    keys::Keys,
    verity,
};
use std::{
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// The time that everything in an image has (`board/image`, EARLIEST).
const DATE: u64 = 315_532_800;
/// Older than any floor: a version comes behind what precedes it (Semantic Versioning 2.0.0, §11).
pub const OLDEST: &str = "0.0.0-0";
/// The daemon's unit.
const UNIT: &str = "usr/lib/systemd/system/postern.service";

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The first process is one that is not there: the kernel panics.
    NoInit,
    /// The kernel image, signed as it should be, names another root hash than the root has.
    OtherRoot,
    /// One byte of the root was flipped after its hash tree was made.
    BadBlock,
    /// The first process never does anything.
    Hangs,
    /// The daemon ends as soon as it is started.
    DaemonEnds,
    /// The daemon runs and answers nobody.
    DaemonSilent,
    /// It works, and its version is below the floor.
    TooOld,
}

impl Flaw {
    fn name(self) -> &'static str {
        match self {
            Self::NoInit => "no-init",
            Self::OtherRoot => "other-root",
            Self::BadBlock => "bad-block",
            Self::Hangs => "hangs",
            Self::DaemonEnds => "daemon-ends",
            Self::DaemonSilent => "daemon-silent",
            Self::TooOld => "too-old",
        }
    }

    /// A bundle with this flaw; all else is as in `image`.
    ///
    /// # Errors
    /// It can't be built.
    pub fn bundle(self, image: &Image) -> io::Result<PathBuf> {
        let facts = image.facts()?;
        let digest = facts["files"]["root.img"]["sha256"].as_str().unwrap_or_default().to_owned();
        let beside = image.file("..").canonicalize()?;
        let folder = beside.join(format!("altered-{}-{}", self.name(), digest.get(..16).unwrap_or_default()));
        let made = folder.join("update.raucb");
        if made.exists() {
            return Ok(made);
        }
        // Those of earlier images are of no use any more.
        for entry in fs::read_dir(&beside)? {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.starts_with(&format!("altered-{}-", self.name())) {
                tool("rm", &["-rf", text(&path)])?;
            }
        }
        fs::create_dir_all(&folder)?;
        let work = tempfile::tempdir_in(&folder)?;
        let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../keys/development");
        let keys = Keys::open(&keys).map_err(io::Error::other)?;
        let squashfs = facts["parts"]["squashfs"].as_u64();
        let squashfs = squashfs.ok_or_else(|| io::Error::other("image.json names no size of the squashfs"))?;
        let mut identity: Identity = serde_json::from_value(facts)?;
        match self {
            Self::OtherRoot | Self::BadBlock | Self::TooOld => {
                for part in ["root.img", "boot-a.vfat", "boot-b.vfat"] {
                    fs::copy(image.file(part), work.path().join(part))?;
                }
                self.change_files(work.path(), &mut identity, squashfs)?;
                bundle::write(work.path(), &keys, &identity, DATE).map_err(io::Error::other)?;
            }
            Self::NoInit | Self::Hangs => {
                // The same root without its hash tree, which is made again.
                let root = work.path().join("root.squashfs");
                fs::copy(image.file("root.img"), &root)?;
                fs::File::options().write(true).open(&root)?.set_len(squashfs)?;
                self.assemble(work.path(), &root, keys, identity, &beside).map_err(io::Error::other)?;
            }
            Self::DaemonEnds | Self::DaemonSilent => {
                let root = work.path().join("root");
                tool("unsquashfs", &["-quiet", "-no-progress", "-dest", text(&root), text(&image.file("root.img"))])?;
                self.change_unit(&root)?;
                self.assemble(work.path(), &root, keys, identity, &beside).map_err(io::Error::other)?;
            }
        }
        fs::rename(work.path().join("update.raucb"), &made)?;
        Ok(made)
    }

    fn change_files(self, work: &Path, identity: &mut Identity, squashfs: u64) -> io::Result<()> {
        let path = work.join("root.img");
        let root = fs::File::options().read(true).write(true).open(&path)?;
        match self {
            Self::TooOld => identity.version = OLDEST.to_owned(),
            // What every start reads: the first of the tables.
            Self::BadBlock => flip(&root, tables(&root)?)?,
            // Another root, with a tree that fits; where does not matter.
            _ => {
                flip(&root, tables(&root)? / 2)?;
                root.set_len(squashfs)?;
                verity::append(&path).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    fn change_unit(self, root: &Path) -> io::Result<()> {
        let applet = if self == Self::DaemonEnds { "false" } else { "sleep 1000000" };
        let unit = root.join(UNIT);
        let text = fs::read_to_string(&unit)?;
        let changed: Vec<_> =
            text.lines()
                .map(|line| {
                    if line.starts_with("ExecStart=") {
                        format!("ExecStart={BUSYBOX} {applet}")
                    } else {
                        line.to_owned()
                    }
                })
                .map(|line| if line.starts_with("Type=") { "Type=exec".to_owned() } else { line })
                .collect();
        fs::write(unit, changed.join("\n") + "\n")
    }

    fn assemble(
        self,
        work: &Path,
        root: &Path,
        keys: Keys,
        identity: Identity,
        beside: &Path,
    ) -> Result<(), ImageError> {
        let extra = match self {
            Self::NoInit => "init=/usr/lib/nothing".to_owned(),
            Self::Hangs => format!("init={BUSYBOX} -- sleep 1000000"),
            _ => String::new(),
        };
        assemble(&Order {
            rootfs: root.to_owned(),
            kernel: beside.join("kernel/bzImage"),
            stub: beside.join("linuxx64.efi.stub"),
            microcode: Vec::new(),
            keys,
            identity,
            generation_floor: 1,
            extra_cmdline: extra,
            out: work.to_owned(),
        })
    }
}

/// Where the tables of a squashfs begin (`inode_table_start`): all before are files' blocks.
fn tables(root: &fs::File) -> io::Result<u64> {
    let mut octets = [0; 8];
    root.read_exact_at(&mut octets, 64)?;
    Ok(u64::from_le_bytes(octets))
}

fn flip(file: &fs::File, at: u64) -> io::Result<()> {
    let mut octet = [0];
    file.read_exact_at(&mut octet, at)?;
    file.write_all_at(&[!octet[0]], at)
}
