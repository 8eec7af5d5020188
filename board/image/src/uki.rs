//! The unified kernel image: systemd's stub with the system's sections behind its own.
//!
//! Job: the command line of a slot, the sections, and what must be true of stub and kernel before they are put together.
//! Place: between `verity` (root hash) and `measure`, `authenticode`. Invariants: no initrd; the section `.sbat` stays the stub's; a
//! stub whose measurements are not known is refused, since nothing could be sealed to what it boots.

use crate::{
    ImageError,
    layout::{self, Slot},
    pe::{self, Flaw, Pe},
    verity::Verity,
};
use std::{
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

/// Versions of systemd-stub whose measurements are those of [`crate::measure`]: read in their sources; what was booted is
/// compared again by the boot tests.
const STUBS: RangeInclusive<u32> = 257..=258;
/// The kernel cuts a longer command line (COMMAND_LINE_SIZE of x86).
const LONGEST_CMDLINE: usize = 2048;

/// Stub, kernel and microcode as they were read, checked.
#[derive(Debug)]
pub struct Parts {
    stub: Pe,
    kernel: Vec<u8>,
    microcode: Vec<u8>,
    /// systemd-stub's version, as it says itself.
    pub stub_version: String,
    /// The kernel's release, as `uname -r` will say.
    pub release: String,
}

/// What the image calls itself in `.osrel`, for boot menus and `bootctl`.
#[derive(Debug, Clone)]
pub struct Name {
    /// Version of the image.
    pub version: String,
    /// Board that it is for.
    pub board: String,
    /// Whether the keys are development keys.
    pub development: bool,
}

impl Parts {
    /// Reads and checks the three; microcode may be several archives, or none.
    ///
    /// # Errors
    /// One can't be read or is not what it has to be.
    pub fn read(stub: &Path, kernel: &Path, microcode: &[PathBuf]) -> Result<Self, ImageError> {
        let image = read_pe(stub)?;
        let stub_version = version(&image).unwrap_or_else(|| "of no version".to_owned());
        let number = stub_version.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok());
        if !number.is_some_and(|number: u32| STUBS.contains(&number)) {
            let known = format!("{} to {}", STUBS.start(), STUBS.end());
            return Err(ImageError::StubVersion { path: stub.to_owned(), found: stub_version, known });
        }
        let bytes = read(kernel)?;
        let release = release(&bytes).map_err(|detail| ImageError::Kernel { path: kernel.to_owned(), detail })?;
        let mut early = Vec::new();
        for path in microcode {
            let archive = read(path)?;
            // "newc" archives, not compressed: the kernel looks into them before it can unpack anything.
            if !archive.starts_with(b"070701") {
                return Err(ImageError::Unusable {
                    what: format!("{} is no uncompressed cpio archive", path.display()),
                    advice: "give kernel/x86/microcode/*.bin in a newc archive",
                });
            }
            early.extend_from_slice(&archive);
            early.resize(early.len().next_multiple_of(4), 0);
        }
        Ok(Self { stub: image, kernel: bytes, microcode: early, stub_version, release })
    }

    /// Sizes of kernel and microcode, in bytes.
    #[must_use]
    pub fn sizes(&self) -> (u64, u64) {
        (self.kernel.len() as u64, self.microcode.len() as u64)
    }

    /// Puts the image together; unsigned.
    ///
    /// # Errors
    /// The stub has no room for the sections.
    pub fn build(&self, name: &Name, cmdline: &str) -> Result<Pe, ImageError> {
        let unusable = |detail| ImageError::Pe { path: "the stub".into(), detail };
        let osrel = name.osrel();
        let mut sections: Vec<(&str, &[u8])> =
            vec![(".osrel", osrel.as_bytes()), (".cmdline", cmdline.as_bytes()), (".uname", self.release.as_bytes())];
        if !self.microcode.is_empty() {
            sections.push((".ucode", &self.microcode));
        }
        sections.push((".linux", &self.kernel));
        let kernel = Pe::parse(self.kernel.clone()).map_err(unusable)?;
        let image = self.stub.append(&sections).map_err(unusable)?;
        // Firmware that enforces it would start the stub, which then could not start the kernel.
        if image.tolerates_nx().map_err(unusable)? && !kernel.tolerates_nx().map_err(unusable)? {
            return image.without_nx().map_err(unusable);
        }
        Ok(image)
    }
}

impl Name {
    fn osrel(&self) -> String {
        let Self { version, board, development } = self;
        let pretty = if *development { format!("Postern {version} DEVELOPMENT") } else { format!("Postern {version}") };
        format!(
            "ID=postern\nNAME=Postern\nPRETTY_NAME=\"{pretty}\"\nVERSION_ID={version}\nIMAGE_ID=postern-{board}\nIMAGE_VERSION={version}\nVARIANT_ID={board}\n"
        )
    }
}

/// The command line of `slot`: the verity table that the kernel itself sets up, which slot this is, then what
/// `board/common/cmdline` says for `board`, then `extra`.
///
/// # Errors
/// It is longer than the kernel reads, or `extra` is not one printable line.
pub fn cmdline(slot: Slot, verity: &Verity, board: &str, extra: &str) -> Result<String, ImageError> {
    let (root, letter) = (slot.root()?, slot.letter());
    let mut words = vec![
        format!("dm-mod.create=\"{}\"", verity.table(root)),
        format!("dm-mod.waitfor=PARTUUID={root}"),
        format!("rauc.slot=postern-{letter}"),
        format!("postern.slot={letter}"),
    ];
    words.extend(layout::arguments(board).map(str::to_owned));
    words.extend((!extra.trim().is_empty()).then(|| extra.trim().to_owned()));
    let line = words.join(" ");
    if line.len() >= LONGEST_CMDLINE || !line.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(ImageError::Unusable {
            what: format!("the command line has {} characters, or some that are not printable", line.len()),
            advice: "keep it below 2048 printable ASCII characters in one line",
        });
    }
    Ok(line)
}

/// Reads a UEFI program.
///
/// # Errors
/// It can't be read or is none.
pub fn read_pe(path: &Path) -> Result<Pe, ImageError> {
    Pe::parse(read(path)?).map_err(|detail| ImageError::Pe { path: path.to_owned(), detail })
}

/// The version in `.sdmagic`: `#### LoaderInfo: systemd-stub 257.13-1 ####`.
#[must_use]
pub fn version(image: &Pe) -> Option<String> {
    let magic = image.contents(image.section(".sdmagic")?);
    let text = String::from_utf8_lossy(&magic).into_owned();
    let found = text.split("systemd-stub ").nth(1)?.split_whitespace().next()?.to_owned();
    Some(found)
}

/// The release in a bzImage's version string (Linux, Documentation/arch/x86/boot.rst: `header`, `kernel_version`).
fn release(kernel: &[u8]) -> Result<String, Flaw> {
    if pe::slice(kernel, 0x202, 4)? != b"HdrS" {
        return Err("it is no bzImage");
    }
    Pe::parse(kernel.to_vec()).map_err(|_| "it has no EFI stub")?;
    let at = usize::from(pe::u16_at(kernel, 0x20e)?) + 0x200;
    let text = kernel.get(at..).ok_or("its version lies outside of it")?;
    let text = text.split(|&byte| byte == 0 || byte == b' ').next().unwrap_or_default();
    if text.is_empty() || text.len() > 64 || !text.iter().all(u8::is_ascii_graphic) {
        return Err("it does not say its version");
    }
    Ok(String::from_utf8_lossy(text).into_owned())
}

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    fs::read(path).map_err(ImageError::io(format!("reading {}", path.display())))
}
