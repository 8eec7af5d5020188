//! The programs that do what exists already: squashfs, FAT, verity, GPT, RAUC, OpenSSL.
//!
//! Job: start them with one fixed environment, so that time, language and time zone of whoever builds do not show in the
//! image. Invariants: nothing goes through a shell; a program that fails ends the build. A crash leaves what the program
//! had written: everything is made in a temporary folder and moved into place when it is whole.

use crate::ImageError;
use std::{
    ffi::OsStr,
    io::Write,
    process::{Command, Stdio},
};

/// 1980-01-01, the first moment that FAT can say: what files are dated when SOURCE_DATE_EPOCH is not set.
pub const EARLIEST: u64 = 315_532_800;

/// The second to which everything in the image is dated: SOURCE_DATE_EPOCH, never before [`EARLIEST`].
///
/// # Errors
/// SOURCE_DATE_EPOCH is set and is no number.
pub fn source_date() -> Result<u64, ImageError> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Err(_) => Ok(EARLIEST),
        Ok(text) => text.trim().parse().map(|date: u64| date.max(EARLIEST)).map_err(|_| ImageError::Unusable {
            what: format!("SOURCE_DATE_EPOCH is {text:?}"),
            advice: "set it to seconds since 1970, or unset it",
        }),
    }
}

/// A program with the environment of the build; `package` is where Debian has it.
pub(crate) struct Tool {
    command: Command,
    package: &'static str,
}

impl Tool {
    pub(crate) fn new(name: &str, package: &'static str) -> Self {
        let mut command = Command::new(name);
        command.env("LC_ALL", "C").env("TZ", "UTC").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Administrators' programs are not in everybody's path.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        Self { command, package }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Dates what the program writes.
    pub(crate) fn dated(mut self, date: u64) -> Self {
        self.command.env("SOURCE_DATE_EPOCH", date.to_string());
        self
    }

    /// Takes SOURCE_DATE_EPOCH away from a program that is told the date by an option.
    pub(crate) fn undated(mut self) -> Self {
        self.command.env_remove("SOURCE_DATE_EPOCH");
        self
    }

    /// Runs to the end and gives what was printed.
    pub(crate) fn run(self) -> Result<Vec<u8>, ImageError> {
        self.run_with(&[])
    }

    /// The same with `input` on standard input.
    pub(crate) fn run_with(mut self, input: &[u8]) -> Result<Vec<u8>, ImageError> {
        let name = self.command.get_program().to_string_lossy().into_owned();
        if !input.is_empty() {
            self.command.stdin(Stdio::piped());
        }
        let mut child = self.command.spawn().map_err(|source| ImageError::ToolMissing {
            tool: name.clone(),
            package: self.package,
            source,
        })?;
        if let Some(mut pipe) = child.stdin.take() {
            // A program that ends without reading has a reason, and says it itself.
            let _ = pipe.write_all(input);
        }
        let output = child.wait_with_output().map_err(ImageError::io(format!("waiting for {name}")))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let words: Vec<_> = self.command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let said = if output.stderr.is_empty() { output.stdout } else { output.stderr };
        let stderr = String::from_utf8_lossy(&said).trim().replace('\n', " | ");
        Err(ImageError::Tool { command: format!("{name} {}", words.join(" ")), stderr })
    }
}
