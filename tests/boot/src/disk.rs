//! The machine's disk in the hands of somebody with a screwdriver.
//!
//! Job: read and write partitions, flip bytes, replace files on the boot partitions, while the machine is off. Place: between
//! two starts. Invariants: partitions are found by their names in the disk's own table; the image that the disk was made of
//! is never written. A crash leaves a disk of the test's own.

use crate::machine::{Machine, text, tool};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Bytes of a sector.
const SECTOR: u64 = 512;
/// The table of partitions ends before this.
const TABLE: u64 = 1 << 20;
/// The signed kernel image on a boot partition.
pub const KERNEL: &str = "EFI/BOOT/BOOTX64.EFI";

/// Where a partition lies, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// From the disk's start.
    pub start: u64,
    /// Its length.
    pub length: u64,
}

impl Machine {
    /// The partition called `name`.
    ///
    /// # Errors
    /// There is none, or the disk has no such table.
    pub fn partition(&self, name: &str) -> io::Result<Extent> {
        let head = self.file("table");
        self.read_disk(Extent { start: 0, length: TABLE }, &head)?;
        find(&fs::read(head)?, name).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("there is no partition {name} on the machine's disk"))
        })
    }

    /// A partition as a file in the machine's folder.
    ///
    /// # Errors
    /// As [`Machine::partition`].
    pub fn read_partition(&self, name: &str) -> io::Result<PathBuf> {
        let file = self.file(&format!("{name}.part"));
        self.read_disk(self.partition(name)?, &file)?;
        Ok(file)
    }

    /// Writes `file` over a partition.
    ///
    /// # Errors
    /// As [`Machine::partition`].
    pub fn write_partition(&self, name: &str, file: &Path) -> io::Result<()> {
        let extent = self.partition(name)?;
        let command = format!("write -s {} {} {}", text(file), extent.start, fs::metadata(file)?.len());
        self.qemu_io(&command)
    }

    /// Flips the bits of one byte of a partition.
    ///
    /// # Errors
    /// As [`Machine::partition`].
    pub fn flip(&self, name: &str, at: u64) -> io::Result<()> {
        let extent = self.partition(name)?;
        let (sector, within) = (at / SECTOR * SECTOR, usize::try_from(at % SECTOR).map_err(io::Error::other)?);
        let file = self.file("sector");
        self.read_disk(Extent { start: extent.start + sector, length: SECTOR }, &file)?;
        let octet = *fs::read(&file)?.get(within).ok_or_else(|| io::Error::other("the disk ends there"))?;
        self.qemu_io(&format!("write -P {:#x} {} 1", !octet, extent.start + at))
    }

    /// A file of a boot partition.
    ///
    /// # Errors
    /// It isn't there.
    pub fn boot_file(&self, partition: &str, path: &str) -> io::Result<Vec<u8>> {
        let (image, file) = (self.read_partition(partition)?, self.file("boot.file"));
        tool("mcopy", &["-n", "-o", "-i", text(&image), &format!("::/{path}"), text(&file)])?;
        fs::read(file)
    }

    /// Writes a file of a boot partition, in a folder that may be new.
    ///
    /// # Errors
    /// It does not fit.
    pub fn put_boot_file(&self, partition: &str, path: &str, content: &[u8]) -> io::Result<()> {
        let (image, file) = (self.read_partition(partition)?, self.file("boot.file"));
        fs::write(&file, content)?;
        if let Some((folder, _)) = path.rsplit_once('/') {
            // Says so where the folder is there, which is no fault.
            let _ = tool("mmd", &["-D", "s", "-i", text(&image), &format!("::/{folder}")]);
        }
        tool("mcopy", &["-D", "o", "-o", "-i", text(&image), text(&file), &format!("::/{path}")])?;
        self.write_partition(partition, &image)
    }

    /// The whole disk as one raw file with holes, for searching it.
    ///
    /// # Errors
    /// qemu-img refuses.
    pub fn raw_disk(&self) -> io::Result<PathBuf> {
        let raw = self.file("disk.raw");
        tool("qemu-img", &["convert", "-O", "raw", text(&self.file("disk.qcow2")), text(&raw)])?;
        Ok(raw)
    }

    fn read_disk(&self, extent: Extent, to: &Path) -> io::Result<()> {
        let Extent { start, length } = extent;
        let disk = self.file("disk.qcow2");
        let part =
            format!("driver=raw,offset={start},size={length},file.driver=qcow2,file.file.filename={}", text(&disk));
        tool("qemu-img", &["convert", "-O", "raw", "--image-opts", &part, text(to)])
    }

    fn qemu_io(&self, command: &str) -> io::Result<()> {
        tool("qemu-io", &["-f", "qcow2", "-c", command, text(&self.file("disk.qcow2"))])
    }
}

/// The partition called `name` in a GUID partition table (UEFI 2.10 §5.3).
fn find(head: &[u8], name: &str) -> Option<Extent> {
    let number = |at: usize, octets: usize| -> Option<u64> {
        let bytes = head.get(at..at + octets)?;
        Some(bytes.iter().rev().fold(0, |sum, octet| sum << 8 | u64::from(*octet)))
    };
    let header = usize::try_from(SECTOR).ok()?;
    if head.get(header..header + 8)? != b"EFI PART" {
        return None;
    }
    let entries = usize::try_from(number(header + 72, 8)? * SECTOR).ok()?;
    let (count, size) = (number(header + 80, 4)?, usize::try_from(number(header + 84, 4)?).ok()?);
    (0..usize::try_from(count).ok()?).map(|index| entries + index * size).find_map(|entry| {
        let units = head.get(entry + 56..entry + 128)?.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
        let label: String = char::decode_utf16(units.take_while(|unit| *unit != 0)).map(|c| c.unwrap_or('?')).collect();
        let (first, last) = (number(entry + 32, 8)?, number(entry + 40, 8)?);
        (label == name).then_some(Extent { start: first * SECTOR, length: (last + 1 - first) * SECTOR })
    })
}
