//! The board's firmware variables in the hands of somebody in its setup.
//!
//! Job: turn Secure Boot off, put text behind a boot entry, while the machine is off. Place: between two starts. Invariants:
//! only the machine's own copy of the variables is written. The program is the one that `keys/enrol-ovmf.sh` installs. A crash
//! leaves variables of the test's own.

use crate::machine::{Machine, text, tool};
use serde_json::{Value, json};
use std::{fs, io, path::PathBuf};

/// Where its version is pinned.
const ENROL: &str = include_str!("../../../keys/enrol-ovmf.sh");
/// Attributes, length of the device path (UEFI 2.10 §3.1.3): what stands before an entry's name.
const BEFORE_NAME: usize = 6;

impl Machine {
    /// Turns Secure Boot off; the keys stay.
    ///
    /// # Errors
    /// There are no such variables.
    pub fn secure_boot_off(&self) -> io::Result<()> {
        let variables = self.file("vars.fd");
        tool(&program()?, &["--loglevel", "warning", "--inplace", text(&variables), "--set-false", "SecureBootEnable"])
    }

    /// Has the firmware hand `words` to what the entry `label` starts.
    ///
    /// # Errors
    /// There is no such entry.
    pub fn append_to_boot_entry(&self, label: &str, words: &str) -> io::Result<()> {
        let (variables, dump) = (self.file("vars.fd"), self.file("vars.json"));
        tool(&program()?, &["--loglevel", "warning", "--input", text(&variables), "--output-json", text(&dump)])?;
        let all: Value = serde_json::from_slice(&fs::read(&dump)?)?;
        let entries = all["variables"].as_array().into_iter().flatten();
        let mut entry = entries
            .filter(|variable| variable["name"].as_str().is_some_and(|name| name.starts_with("Boot0")))
            .find(|variable| bytes(&variable["data"]).is_some_and(|option| self::label(&option) == label))
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("the firmware has no entry {label}")))?
            .clone();
        let data = entry["data"].as_str().unwrap_or_default();
        let words: String =
            words.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).map(|octet| format!("{octet:02x}")).collect();
        entry["data"] = json!(format!("{data}{words}"));
        fs::write(&dump, json!({ "version": 2, "variables": [entry] }).to_string())?;
        tool(&program()?, &["--loglevel", "warning", "--inplace", text(&variables), "--set-json", text(&dump)])
    }
}

/// virt-fw-vars, in the cache.
fn program() -> io::Result<String> {
    let version = ENROL.lines().find_map(|line| line.strip_prefix("version="));
    let version = version.ok_or_else(|| io::Error::other("keys/enrol-ovmf.sh sets no version any more"))?;
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    let cache = cache.ok_or_else(|| io::Error::other("there is no home folder; set XDG_CACHE_HOME"))?;
    let program = cache.join(format!("postern/virt-firmware-{version}/bin/virt-fw-vars"));
    Ok(text(&program).to_owned())
}

/// The name of a load option.
fn label(option: &[u8]) -> String {
    let units = option.get(BEFORE_NAME..).unwrap_or_default().as_chunks::<2>().0;
    let units = units.iter().map(|unit| u16::from_le_bytes(*unit)).take_while(|unit| *unit != 0);
    char::decode_utf16(units).map(|c| c.unwrap_or('?')).collect()
}

fn bytes(hexadecimal: &Value) -> Option<Vec<u8>> {
    let pairs = hexadecimal.as_str()?.as_bytes().as_chunks::<2>().0;
    pairs.iter().map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}
