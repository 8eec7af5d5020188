//! What PCR 11 will hold after a boot of a UKI.
//!
//! Job: extend, in thought, what systemd-stub extends (src/boot/stub.c `measure_sections`, src/fundamental/uki.h of 257
//! and 258) and then the words of systemd-pcrextend. Place: between `uki` and `policy`. Invariants: predicted from the file
//! that is signed, never read from a TPM. Nothing here touches a disk.

use crate::{pe::Pe, sha256};

/// The sections that the stub measures, in its canonical order, which is not that of the file. `.pcrsig` stands between
/// `.sbat` and `.pcrpkey` and is the one that is not measured: it signs the outcome. `.dtbauto` is measured if it fits the
/// machine, which cannot be foretold, and `.efifw` from 258 on; our images have neither.
const MEASURED: [&str; 13] = [
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey", ".profile",
    ".hwids", ".efifw",
];

/// The value of a PCR in the SHA-256 bank.
pub type Pcr = [u8; 32];

/// The phases of which something is said or signed; nothing runs between the stub and systemd, since there is no initrd.
/// `""`: as the stub leaves it, when the data partition is opened. `sysinit:ready`: when the daemon runs.
pub const PHASES: [&str; 3] = ["", "sysinit", "sysinit:ready"];

/// PCR 11 as the stub leaves it: for each section its name with the trailing NUL, then its contents in memory.
#[must_use]
pub fn sections(uki: &Pe) -> Pcr {
    let mut value = [0; 32];
    for name in MEASURED {
        // To the stub, a section without bytes is none.
        if let Some(section) = uki.section(name).filter(|section| section.size > 0) {
            value = extend(value, &[name.as_bytes(), b"\0"].concat());
            value = extend(value, &uki.contents(section));
        }
    }
    value
}

/// PCR 11 after the words of `phase` (joined by colons) have been extended upon `value`, without a NUL.
#[must_use]
pub fn phase(value: Pcr, phase: &str) -> Pcr {
    phase.split(':').filter(|word| !word.is_empty()).fold(value, |value, word| extend(value, word.as_bytes()))
}

fn extend(value: Pcr, event: &[u8]) -> Pcr {
    sha256(&[&value, &sha256(&[event])])
}
