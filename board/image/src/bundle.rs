//! The update bundle: root and both boot partitions, signed for RAUC.
//!
//! Job: manifest and `rauc bundle`. Place: the last file that `assemble` makes. Invariants: format `verity`, so that a box checks
//! block by block what it reads; a box takes the variant of `boot` for the slot that it writes, since a kernel image names
//! the root partition of its slot. The signature says when it was made: two bundles of the same image differ in it alone.

use crate::{ImageError, assemble::Identity, keys::Keys, tools::Tool};
use std::{fs, path::Path};

/// What boxes with this board answer to; RAUC refuses every other bundle. `board` as in `image.json`, such as `rack-x86`.
#[must_use]
pub fn compatible(board: &str) -> String {
    format!("postern-{board}")
}

/// Makes `update.raucb` in `folder`, where `root.img`, `boot-a.vfat`, `boot-b.vfat` lie.
///
/// # Errors
/// `rauc` refuses.
pub fn write(folder: &Path, keys: &Keys, identity: &Identity, date: u64) -> Result<(), ImageError> {
    let content = folder.join("bundle");
    fs::create_dir_all(&content).map_err(ImageError::io("making the bundle's folder"))?;
    for (from, to) in [("root.img", "root.img"), ("boot-a.vfat", "boot-a.img"), ("boot-b.vfat", "boot-b.img")] {
        fs::hard_link(folder.join(from), content.join(to)).map_err(ImageError::io(format!("linking {from}")))?;
    }
    let compatible = compatible(&identity.board);
    let manifest = format!(
        "[update]\ncompatible={compatible}\nversion={}\n\n[bundle]\nformat=verity\n\n\
         [image.rootfs]\nfilename=root.img\n\n[image.boot.a]\nfilename=boot-a.img\n\n[image.boot.b]\nfilename=boot-b.img\n",
        identity.version
    );
    fs::write(content.join("manifest.raucm"), manifest).map_err(ImageError::io("writing the bundle's manifest"))?;
    // RAUC checks what it has signed as a box will: with the same authority, for the same purpose.
    let authority = keys.certificate_path("rauc-ca");
    let authority = fs::canonicalize(&authority).map_err(ImageError::io("looking for rauc-ca.crt"))?;
    let system = folder.join("system.conf");
    let text = format!(
        "[system]\ncompatible={compatible}\nbootloader=noop\n\n[keyring]\npath={}\ncheck-purpose=codesign\n",
        authority.display()
    );
    fs::write(&system, text).map_err(ImageError::io("writing RAUC's configuration"))?;
    Tool::new("rauc", "rauc")
        .dated(date)
        .arg("--conf")
        .arg(&system)
        .args(["bundle", "--cert"])
        .arg(keys.certificate_path("rauc"))
        .args(["--key", &keys.private("rauc")?])
        .arg(&content)
        .arg(folder.join("update.raucb"))
        .run()?;
    fs::remove_dir_all(&content).map_err(ImageError::io("removing the bundle's folder"))
}
