//! What can go wrong while an image is made, in two halves: what happened; what to do.
//!
//! Place: returned by every module, printed by `main`. Nothing reacts to an error's text.

use std::{io, path::PathBuf};

/// Why no image was made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file or folder.
    #[error("{what}: {source}; check the path, its permissions and the room on the disk")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A program that the image needs is not installed.
    #[error("{tool} does not start: {source}; install the package {package}")]
    ToolMissing {
        /// The program.
        tool: String,
        /// Debian's package of it.
        package: &'static str,
        /// Why it did not start.
        source: io::Error,
    },
    /// A program refused.
    #[error("{command} failed: {stderr}; correct what it names, then run this again")]
    Tool {
        /// The command line.
        command: String,
        /// What it printed.
        stderr: String,
    },
    /// A program's answer was not understood.
    #[error("{tool} answered without {wanted}; this version of it is not known, use the one that the build brings")]
    Answer {
        /// The program.
        tool: &'static str,
        /// What was looked for.
        wanted: &'static str,
    },
    /// The stub or the UKI is not the PE file that it has to be.
    #[error(
        "{path} is unusable as a UEFI program: {detail}; use linuxx64.efi.stub of systemd-boot as it was installed"
    )]
    Pe {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// The stub is of a version whose measurements nobody has compared with the prediction.
    #[error(
        "{path} is systemd-stub {found}, and its measurements are not known; use {known}, or read its src/fundamental/uki.h and extend the range in board/image/src/uki.rs"
    )]
    StubVersion {
        /// The file.
        path: PathBuf,
        /// What it says of itself.
        found: String,
        /// The versions that are known.
        known: String,
    },
    /// The kernel is no bzImage with EFI stub.
    #[error(
        "{path} is no Linux kernel that a UEFI stub can start: {detail}; give the bzImage (vmlinuz) of board/kernel"
    )]
    Kernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// Keys are missing, do not fit together, or are development keys where they must not be.
    #[error("{what}; {advice}")]
    Keys {
        /// What is wrong.
        what: String,
        /// What to do.
        advice: &'static str,
    },
    /// An option or a file says one thing, the root file system another.
    #[error(
        "the root file system says {found} where the image is to be {wanted}; build the root file system again with the same version, generation and keys"
    )]
    RootDiffers {
        /// What is in the root.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// Something does not fit into its partition.
    #[error(
        "{what} has {bytes} bytes and its partition holds {limit}; make it smaller: boxes in the field cannot be partitioned anew"
    )]
    TooLarge {
        /// The part.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The partition's size, in bytes.
        limit: u64,
    },
    /// A value that cannot be used.
    #[error("{what}; {advice}")]
    Unusable {
        /// What is wrong.
        what: String,
        /// What to do.
        advice: &'static str,
    },
}

impl ImageError {
    /// For `map_err` on file calls.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Io { what: what.into(), source }
    }
}
