//! A machine as it stands, kept and put up again.
//!
//! Job: disk, firmware variables and TPM state, copied while the machine is off. Place: around a machine; several tests
//! begin from the same box. Invariants: a kept state is never written again; machines that are put up from it have overlays
//! and copies of their own. A crash leaves a folder without `kept`, which counts as none.

use crate::machine::{Machine, SECOND_DISK, text, tool};
use std::{fs, io, path::Path};

/// There once everything else is.
const KEPT: &str = "kept";

/// Whether a state was kept in `folder`, whole.
#[must_use]
pub fn is_kept(folder: &Path) -> bool {
    folder.join(KEPT).exists()
}

impl Machine {
    /// Keeps the machine's state in `folder`. The machine is switched off.
    ///
    /// # Errors
    /// A file can't be copied.
    pub fn keep(&mut self, folder: &Path) -> io::Result<()> {
        self.power_cut();
        fs::create_dir_all(folder)?;
        let disk = folder.join("disk.qcow2");
        // Without the image below it, which may be built anew.
        tool("qemu-img", &["convert", "-O", "qcow2", text(&self.file("disk.qcow2")), text(&disk)])?;
        fs::copy(self.file("vars.fd"), folder.join("vars.fd"))?;
        copy_folder(&self.file("tpm"), &folder.join("tpm"))?;
        fs::write(folder.join(KEPT), "")
    }

    /// A machine in `folder` in the state that was kept in `kept`.
    ///
    /// # Errors
    /// Nothing was kept there.
    pub fn from_kept(folder: &Path, kept: &Path) -> io::Result<Self> {
        if !is_kept(kept) {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no machine was kept in {}", kept.display())));
        }
        let machine = Self::in_folder(folder)?;
        disk_over(&kept.join("disk.qcow2"), "qcow2", None, &machine.file("disk.qcow2"))?;
        fs::copy(kept.join("vars.fd"), machine.file("vars.fd"))?;
        copy_folder(&kept.join("tpm"), &machine.file("tpm"))?;
        Ok(machine)
    }

    /// Puts the disk of a kept state into this machine, which keeps its board and its TPM.
    ///
    /// # Errors
    /// Nothing was kept there.
    pub fn exchange_disk(&mut self, kept: &Path) -> io::Result<()> {
        self.power_cut();
        disk_over(&kept.join("disk.qcow2"), "qcow2", None, &self.file("disk.qcow2"))
    }

    /// Plugs a disk with this image in beside the machine's own; the machine is switched off.
    ///
    /// # Errors
    /// qemu-img refuses.
    pub fn plug_in(&mut self, image: &Path) -> io::Result<()> {
        self.power_cut();
        disk_over(image, "raw", None, &self.file(SECOND_DISK))
    }

    /// Takes the second disk out; the machine is switched off.
    ///
    /// # Errors
    /// There was none.
    pub fn unplug(&mut self) -> io::Result<()> {
        self.power_cut();
        fs::remove_file(self.file(SECOND_DISK))
    }
}

/// A new disk whose contents are those of `base`, which stays as it is.
pub(crate) fn disk_over(base: &Path, format: &str, size: Option<&str>, disk: &Path) -> io::Result<()> {
    let base = base.canonicalize()?;
    let mut arguments = vec!["create", "-q", "-f", "qcow2", "-F", format, "-b", text(&base), text(disk)];
    arguments.extend(size);
    tool("qemu-img", &arguments)
}

/// Copies a folder with all that is in it; blocks are shared where the file system can.
///
/// # Errors
/// `cp` refuses.
pub fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    tool("cp", &["--archive", "--reflink=auto", text(from), text(to)])
}
