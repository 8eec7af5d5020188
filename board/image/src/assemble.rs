//! All of it, from a root file system to disk image and bundle.
//!
//! Place: called by `main`; reads like the list of what an image is. Invariants: the root is asked what it says of itself, and an
//! image that would say another thing is not made; every file appears in the output folder whole, `image.json` last of all.
//! A crash leaves a temporary folder `.image-…` in the output folder, which may be removed.

use crate::{
    ImageError, authenticode,
    boot::{self, Contents},
    bundle, disk, hex,
    keys::Keys,
    layout::Slot,
    measure, policy, sha256, tools,
    uki::{self, Name, Parts},
    verity::{self, Verity},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

/// Everything that an image is made of.
#[derive(Debug)]
pub struct Order {
    /// Folder, or a squashfs made of it.
    pub rootfs: PathBuf,
    /// bzImage.
    pub kernel: PathBuf,
    /// systemd-stub.
    pub stub: PathBuf,
    /// Early cpio archives.
    pub microcode: Vec<PathBuf>,
    /// What it is signed with.
    pub keys: Keys,
    /// What the image is, and says of itself in the root.
    pub identity: Identity,
    /// Lowest security generation for which signatures are made: what boxes in the field may still be sealed for.
    pub generation_floor: u32,
    /// Behind the command line, for tests.
    pub extra_cmdline: String,
    /// Where the files go.
    pub out: PathBuf,
}

/// `/usr/share/postern/image.json`: what the running system knows of its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Version of the image.
    pub version: String,
    /// Security generation, the policyRef of the vault's signatures.
    pub generation: u32,
    /// Lowest version that may be installed once this one is marked good.
    pub floor: String,
    /// Whether it is signed with development keys.
    pub development: bool,
    /// `rack-x86` or `qemu-x86`.
    pub board: String,
}

/// The output folder's `image.json`.
#[derive(Debug, Serialize)]
struct Image<'a> {
    #[serde(flatten)]
    identity: &'a Identity,
    generation_floor: u32,
    source_date_epoch: u64,
    kernel: &'a str,
    stub: &'a str,
    /// Bytes of what goes in, for comparison between builds.
    parts: BTreeMap<&'static str, u64>,
    verity: &'a Verity,
    slots: BTreeMap<&'static str, SlotImage>,
    files: BTreeMap<String, File>,
}

#[derive(Debug, Serialize)]
struct SlotImage {
    cmdline: String,
    /// Phase path → PCR 11, SHA-256 bank.
    pcr11: BTreeMap<&'static str, String>,
}

#[derive(Debug, Serialize)]
struct File {
    size: u64,
    sha256: String,
}

/// Makes the image.
///
/// # Errors
/// What stands in [`ImageError`].
pub fn assemble(order: &Order) -> Result<(), ImageError> {
    let date = tools::source_date()?;
    let (keys, identity) = (&order.keys, &order.identity);
    let generations = generations(order)?;
    let parts = Parts::read(&order.stub, &order.kernel, &order.microcode)?;

    fs::create_dir_all(&order.out).map_err(ImageError::io(format!("making {}", order.out.display())))?;
    let folder = tempfile::Builder::new().prefix(".image-").tempdir_in(&order.out);
    let folder = folder.map_err(ImageError::io(format!("making a folder in {}", order.out.display())))?;
    let work = folder.path();

    let root = work.join("root.img");
    verity::squashfs(&order.rootfs, &root, date)?;
    check_root(&root, identity, keys)?;
    let squashfs = length(&root)?;
    let verity = verity::append(&root)?;

    let name =
        Name { version: identity.version.clone(), board: identity.board.clone(), development: identity.development };
    let enrolment = keys.enrolment()?;
    let mut slots = BTreeMap::new();
    let mut uki_size = 0;
    for slot in Slot::BOTH {
        let cmdline = uki::cmdline(slot, &verity, &identity.board, &order.extra_cmdline)?;
        let image = parts.build(&name, &cmdline)?;
        let stub_value = measure::sections(&image);
        let signed = authenticode::sign(keys, &image)?;
        let contents = Contents {
            uki: &signed,
            pcr_signature: &policy::for_data(keys, stub_value)?,
            policy_signatures: &policy::for_daemon(keys, stub_value, generations.clone())?,
            enrolment: &enrolment,
        };
        let letter = slot.letter();
        boot::write(slot, &contents, &work.join(format!("boot-{letter}.vfat")), work, date)?;
        fs::write(work.join(format!("uki-{letter}.efi")), &signed).map_err(ImageError::io("writing a kernel image"))?;
        uki_size = signed.len() as u64;
        let pcr11 = measure::PHASES.map(|phase| (phase, hex(&measure::phase(stub_value, phase))));
        slots.insert(letter, SlotImage { cmdline, pcr11: pcr11.into() });
    }
    disk::write(work)?;
    bundle::write(work, keys, identity, date)?;

    let names = ["root.img", "uki-a.efi", "uki-b.efi", "boot-a.vfat", "boot-b.vfat", "disk.img", "update.raucb"];
    let mut files = BTreeMap::new();
    for file in names {
        files.insert(file.to_owned(), describe(&work.join(file))?);
    }
    let (kernel, microcode) = parts.sizes();
    let sizes = [
        ("kernel", kernel),
        ("microcode", microcode),
        ("squashfs", squashfs),
        ("root", length(&root)?),
        ("uki", uki_size),
    ];
    let image = Image {
        identity,
        generation_floor: order.generation_floor,
        source_date_epoch: date,
        kernel: &parts.release,
        stub: &parts.stub_version,
        parts: sizes.into(),
        verity: &verity,
        slots,
        files,
    };
    let mut json = serde_json::to_vec_pretty(&image).unwrap_or_default();
    json.push(b'\n');
    fs::write(work.join("image.json"), json).map_err(ImageError::io("writing image.json"))?;
    publish(work, &order.out, &names)
}

/// The old `image.json` goes first and the new one comes last: a folder with one in it is whole.
fn publish(work: &Path, out: &Path, names: &[&str]) -> Result<(), ImageError> {
    let failed = |name: &str| ImageError::io(format!("moving {name} to {}", out.display()));
    if out.join("image.json").exists() {
        fs::remove_file(out.join("image.json")).map_err(failed("image.json"))?;
    }
    for name in names.iter().chain(&["image.json"]) {
        fs::rename(work.join(name), out.join(name)).map_err(failed(name))?;
    }
    Ok(())
}

fn generations(order: &Order) -> Result<RangeInclusive<u32>, ImageError> {
    let (floor, own) = (order.generation_floor, order.identity.generation);
    if floor == 0 || floor > own || own - floor > 64 {
        return Err(ImageError::Unusable {
            what: format!("generation {own} with floor {floor}"),
            advice: "generations count from 1, the floor is at most the image's own, and 64 below it at the lowest",
        });
    }
    Ok(floor..=own)
}

/// The root must say the same of itself, and trust the same keys: otherwise no box could unseal, or be updated again.
fn check_root(root: &Path, identity: &Identity, keys: &Keys) -> Result<(), ImageError> {
    let differs = |found: String, wanted: String| ImageError::RootDiffers { found, wanted };
    let path = "usr/share/postern/image.json";
    let said = verity::file_in(root, path).and_then(|bytes| serde_json::from_slice::<Identity>(&bytes).ok());
    if said.as_ref() != Some(identity) {
        let found = said.map_or_else(|| format!("nothing usable in /{path}"), |said| format!("{said:?}"));
        return Err(differs(found, format!("{identity:?}")));
    }
    let (public, _) = keys.policy_public()?;
    let authority = fs::read(keys.certificate_path("rauc-ca")).map_err(ImageError::io("reading rauc-ca.crt"))?;
    for (path, wanted) in [("policy-public.pem", public), ("rauc-ca.pem", authority)] {
        let found = verity::file_in(root, &format!("usr/share/postern/{path}"));
        if found.as_deref().map(<[u8]>::trim_ascii) != Some(wanted.trim_ascii()) {
            return Err(differs(
                format!("another /usr/share/postern/{path}, or none,"),
                "signed with this key".to_owned(),
            ));
        }
    }
    Ok(())
}

fn describe(path: &Path) -> Result<File, ImageError> {
    let bytes = fs::read(path).map_err(ImageError::io(format!("reading {}", path.display())))?;
    Ok(File { size: bytes.len() as u64, sha256: hex(&sha256(&[&bytes])) })
}

fn length(path: &Path) -> Result<u64, ImageError> {
    Ok(fs::metadata(path).map_err(ImageError::io(format!("reading {}", path.display())))?.len())
}
