//! The root file system with its hash tree behind it, both in one partition.
//!
//! Job: squashfs from a folder (or as it was given), dm-verity's tree over it, the table that goes into the command line.
//! Place: first of all in `assemble`. Invariants: salt and UUID follow from the content, so the same root gives the same bytes;
//! the file is a whole number of blocks. A crash leaves a file in the temporary folder.

use crate::{ImageError, hex, sha256, tools::Tool};
use std::{
    fs,
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
};

/// Block of data and of hashes, in bytes.
const BLOCK: u64 = 4096;
/// What device-mapper counts in, in bytes.
const SECTOR: u64 = 512;

/// What dm-verity has to know.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Verity {
    /// Hexadecimal.
    pub root_hash: String,
    /// Hexadecimal.
    pub salt: String,
    /// UUID in the tree's superblock.
    pub uuid: String,
    /// Blocks of data.
    pub data_blocks: u64,
    /// Block of the partition in which the tree begins, behind its superblock.
    pub hash_start: u64,
}

impl Verity {
    /// The target in the form of `dm-mod.create=` (Linux, Documentation/admin-guide/device-mapper/dm-init.rst, verity.rst).
    /// A block that does not fit stops the kernel, which reboots, and the firmware takes the other slot.
    #[must_use]
    pub fn table(&self, partuuid: &str) -> String {
        let Self { root_hash, salt, data_blocks, hash_start, .. } = self;
        let sectors = data_blocks * (BLOCK / SECTOR);
        format!(
            "root,,,ro,0 {sectors} verity 1 PARTUUID={partuuid} PARTUUID={partuuid} {BLOCK} {BLOCK} {data_blocks} \
             {hash_start} sha256 {root_hash} {salt} 1 panic_on_corruption"
        )
    }
}

/// Makes a squashfs of `folder`, every file dated `date`; or copies `folder` if it is a file already.
///
/// # Errors
/// `mksquashfs` refuses, or a file cannot be read or written.
pub fn squashfs(folder: &Path, out: &Path, date: u64) -> Result<(), ImageError> {
    if folder.is_file() {
        let contents = fs::read(folder).map_err(ImageError::io(format!("reading {}", folder.display())))?;
        if !contents.starts_with(b"hsqs") {
            return Err(ImageError::Unusable {
                what: format!("{} is no squashfs", folder.display()),
                advice: "give a folder, or an image of mksquashfs",
            });
        }
        return fs::write(out, contents).map_err(ImageError::io(format!("writing {}", out.display())));
    }
    let date = date.to_string();
    // Extended attributes would be those of the building machine; the root needs none.
    Tool::new("mksquashfs", "squashfs-tools")
        .undated()
        .args([folder, out])
        .args(["-comp", "zstd", "-Xcompression-level", "19", "-b", "256K", "-no-xattrs", "-no-exports"])
        .args(["-noappend", "-no-progress", "-quiet", "-mkfs-time", &date, "-all-time", &date])
        .run()?;
    Ok(())
}

/// A file of a squashfs, by its path without leading slash; `None` if it is not in there.
pub fn file_in(squashfs: &Path, path: &str) -> Option<Vec<u8>> {
    Tool::new("unsquashfs", "squashfs-tools").arg("-cat").arg(squashfs).arg(path).run().ok()
}

/// Pads `image` to whole blocks and appends its hash tree.
///
/// # Errors
/// `veritysetup` refuses, or the file cannot be written.
pub fn append(image: &Path) -> Result<Verity, ImageError> {
    let failed = || ImageError::io(format!("reading {}", image.display()));
    let mut file = fs::OpenOptions::new().read(true).write(true).open(image).map_err(failed())?;
    let mut contents = Vec::new();
    file.read_to_end(&mut contents).map_err(failed())?;
    let length = (contents.len() as u64).next_multiple_of(BLOCK);
    let padding = vec![0; (length - contents.len() as u64) as usize];
    file.seek(SeekFrom::End(0)).and_then(|_| file.write_all(&padding)).map_err(failed())?;
    drop(file);

    let content = sha256(&[&contents, &padding]);
    let salt = hex(&sha256(&[b"postern verity salt", &content]));
    let uuid = uuid(&sha256(&[b"postern verity uuid", &content]));
    let printed = Tool::new("veritysetup", "cryptsetup-bin")
        .args(["format", "--hash", "sha256", "--salt", &salt, "--uuid", &uuid])
        .args(["--data-block-size", "4096", "--hash-block-size", "4096"])
        .arg(format!("--data-blocks={}", length / BLOCK))
        .arg(format!("--hash-offset={length}"))
        .args([image, image])
        .run()?;
    let printed = String::from_utf8_lossy(&printed).into_owned();
    let root_hash = printed.lines().find_map(|line| line.strip_prefix("Root hash:")).map(str::trim);
    let root_hash = root_hash.filter(|hash| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let root_hash = root_hash.ok_or(ImageError::Answer { tool: "veritysetup", wanted: "a root hash" })?.to_owned();
    // The superblock takes the first block behind the data.
    let data_blocks = length / BLOCK;
    Ok(Verity { root_hash, salt, uuid, data_blocks, hash_start: data_blocks + 1 })
}

/// The first 16 octets as a UUID of version 8 (RFC 9562 §5.8).
fn uuid(octets: &[u8; 32]) -> String {
    let mut octets = octets.to_owned();
    octets[6] = octets[6] & 0x0f | 0x80;
    octets[8] = octets[8] & 0x3f | 0x80;
    let text = hex(&octets[..16]);
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}
