//! The disk image, to be written to a box as it is.
//!
//! Job: GPT with the fixed UUIDs, both slots filled with the same system, so that a new box has something to fall back to.
//! Place: behind `boot` and `verity`. Invariants: the layout is that of `board/common/disk.env`; the data partition is not in
//! it, systemd-repart makes it in the rest of the disk at first boot. A crash leaves files in the temporary folder.

use crate::{ImageError, layout, layout::Slot, tools::Tool};
use std::{fmt::Write, fs, path::Path};

/// Makes `disk.img` in `folder`, where `root.img`, `boot-a.vfat`, `boot-b.vfat` lie.
///
/// # Errors
/// `genimage` refuses, or the root does not fit.
pub fn write(folder: &Path) -> Result<(), ImageError> {
    let limit = layout::bytes("ROOT_MIB")?;
    let root = fs::metadata(folder.join("root.img")).map_err(ImageError::io("reading root.img"))?.len();
    if root > limit {
        return Err(ImageError::TooLarge { what: "the root file system", bytes: root, limit });
    }
    let config = folder.join("genimage.cfg");
    fs::write(&config, configuration()?).map_err(ImageError::io("writing genimage's configuration"))?;
    let empty = folder.join("empty");
    let scratch = folder.join("genimage");
    fs::create_dir_all(&empty).map_err(ImageError::io("making a folder for genimage"))?;
    let done = Tool::new("genimage", "genimage")
        .arg("--config")
        .arg(&config)
        .arg("--inputpath")
        .arg(folder)
        .arg("--outputpath")
        .arg(folder)
        .arg("--rootpath")
        .arg(&empty)
        .arg("--tmppath")
        .arg(&scratch)
        .run();
    let cleaned = fs::remove_dir_all(&empty).and_then(|()| fs::remove_file(&config));
    done?;
    cleaned.map_err(ImageError::io("removing genimage's folder"))?;
    if scratch.exists() {
        fs::remove_dir_all(&scratch).map_err(ImageError::io("removing genimage's folder"))?;
    }
    Ok(())
}

fn configuration() -> Result<String, ImageError> {
    let (boot, linux) = (layout::value("TYPE_BOOT")?, layout::value("TYPE_LINUX")?);
    let mut partitions = String::new();
    let mut add = |name: &str, kind: &str, uuid: &str, size: u64, image: Option<&str>| {
        let image = image.map(|file| format!("\n\t\timage = \"{file}\"")).unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = write!(
            partitions,
            "\n\tpartition {name} {{\n\t\tpartition-type-uuid = \"{kind}\"\n\t\tpartition-uuid = \"{uuid}\"\n\t\tsize = {size}{image}\n\t}}"
        );
    };
    let (boot_size, root_size) = (layout::bytes("BOOT_MIB")?, layout::bytes("ROOT_MIB")?);
    add("boot-a", boot, layout::value("BOOT_A_PARTUUID")?, boot_size, Some("boot-a.vfat"));
    add("boot-b", boot, layout::value("BOOT_B_PARTUUID")?, boot_size, Some("boot-b.vfat"));
    add("root-a", linux, Slot::A.root()?, root_size, Some("root.img"));
    add("root-b", linux, Slot::B.root()?, root_size, Some("root.img"));
    add("plain", linux, layout::value("PLAIN_PARTUUID")?, layout::bytes("PLAIN_MIB")?, None);
    let disk = layout::value("DISK_GUID")?;
    Ok(format!(
        "image disk.img {{\n\thdimage {{\n\t\tpartition-table-type = \"gpt\"\n\t\tdisk-uuid = \"{disk}\"\n\t\talign = 1M\n\t}}{partitions}\n}}\n"
    ))
}
