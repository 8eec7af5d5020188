//! A boot partition: FAT with the kernel image and, beside it, the signatures of what it measures.
//!
//! Job: `\EFI\BOOT\BOOTX64.EFI` and `/postern/*`; in `/keys` what the firmware's menu needs to enrol Secure Boot. Place: behind `uki`, `policy`; the file is written into the disk image and into
//! the bundle as it is. Invariants: no file of another name, so that the stub finds neither addons nor credentials; nothing in
//! it is trusted but what firmware or TPM verify. A crash leaves a file in the temporary folder.

use crate::{
    ImageError,
    layout::{self, Slot},
    tools::Tool,
};
use std::{
    fs,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

/// What lies in a boot partition.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The signed UKI.
    pub uki: &'a [u8],
    /// For systemd-cryptsetup.
    pub pcr_signature: &'a [u8],
    /// For the vault.
    pub policy_signatures: &'a [u8],
    /// For whoever enrols Secure Boot: public files by name.
    pub enrolment: &'a [(String, Vec<u8>)],
}

/// Writes the file system of `slot` to `out`, everything in it dated `date`; `scratch` is a folder for the files on their way.
///
/// # Errors
/// The files do not fit, or a program refuses.
pub fn write(slot: Slot, contents: &Contents<'_>, out: &Path, scratch: &Path, date: u64) -> Result<(), ImageError> {
    let limit = layout::bytes("BOOT_MIB")?;
    let Contents { uki, pcr_signature, policy_signatures, enrolment } = contents;
    let mut files: Vec<(String, &[u8])> = vec![
        ("::/EFI/BOOT/BOOTX64.EFI".into(), uki),
        ("::/postern/pcr-signature.json".into(), pcr_signature),
        ("::/postern/policy-signatures.json".into(), policy_signatures),
    ];
    files.extend(enrolment.iter().map(|(name, bytes)| (format!("::/keys/{name}"), bytes.as_slice())));
    let bytes = files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    // The tables of the file system itself take less than two mebibytes of 64.
    if bytes > limit - 2 * layout::MIB {
        return Err(ImageError::TooLarge { what: "the boot partition", bytes, limit });
    }
    fs::File::create(out).and_then(|file| file.set_len(limit)).map_err(ImageError::io("making a boot partition"))?;
    let letter = slot.letter().to_uppercase();
    let identity = if slot == Slot::A { "504f000a" } else { "504f000b" };
    Tool::new("mkfs.vfat", "dosfstools")
        .dated(date)
        .args(["--invariant", "-F", "32", "-s", "1", "-i", identity, "-n", &format!("POSTERN-{letter}")])
        .arg(out)
        .run()?;
    mtool("mmd", out, date).args(["::/EFI", "::/EFI/BOOT", "::/postern", "::/keys"]).run()?;
    for (path, bytes) in files {
        let file = scratch.join("file");
        fs::write(&file, bytes).map_err(ImageError::io("writing a file of the boot partition"))?;
        let dated = UNIX_EPOCH + Duration::from_secs(date);
        let open = fs::File::options().write(true).open(&file);
        open.and_then(|file| file.set_modified(dated))
            .map_err(ImageError::io("dating a file of the boot partition"))?;
        mtool("mcopy", out, date).arg("-m").arg(&file).arg(path).run()?;
    }
    Ok(())
}

fn mtool(name: &str, image: &Path, date: u64) -> Tool {
    Tool::new(name, "mtools").dated(date).arg("-i").arg(image)
}
