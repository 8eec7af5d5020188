//! Figures of single crates: judging and sealing, from their own benchmarks.
//!
//! Job: run `cargo bench` for policy and spool, and OpenSSL beside the sealing. Place: part of the benchmark. Invariants:
//! what a benchmark does not print is missing from the figures, never guessed. A crash leaves nothing behind.

use super::Figures;
use std::{io, process::Command};

/// Adds `judge.*` (MB/s a core) and `seal.*` (MB/s, and as a share of OpenSSL's AES-256-GCM at the same chunk size).
///
/// # Errors
/// cargo or openssl can't be run.
pub fn add(figures: &mut Figures) -> io::Result<()> {
    for line in cargo_bench("policy", "judge_text")?.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(Ok(value))) = (words.next(), words.next().map(str::parse)) {
            figures.insert(name.to_owned(), value);
        }
    }
    let seal = cargo_bench("spool", "spool")?;
    let sealed = seal.lines().find_map(|line| {
        let rate = line.strip_prefix("seal Aes256Gcm, 64 KiB chunks: ")?.strip_suffix(" MB/s")?;
        rate.trim().parse::<f64>().ok()
    });
    let openssl = openssl_rate()?;
    if let (Some(sealed), Some(openssl)) = (sealed, openssl) {
        figures.insert("seal.mb_s".into(), sealed);
        figures.insert("seal.openssl_mb_s".into(), openssl);
        figures.insert("seal.ratio".into(), sealed / openssl);
    }
    Ok(())
}

fn cargo_bench(package: &str, bench: &str) -> io::Result<String> {
    let output = Command::new("cargo").args(["bench", "-q", "-p", package, "--bench", bench]).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(io::Error::other(format!("cargo bench -p {package} failed: {}", String::from_utf8_lossy(&output.stderr))))
}

/// MB/s of `openssl speed` for AES-256-GCM in 64 KiB blocks.
fn openssl_rate() -> io::Result<Option<f64>> {
    let arguments = ["speed", "-evp", "aes-256-gcm", "-bytes", "65536", "-seconds", "3", "-mr"];
    let output = Command::new("openssl").args(arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // `+F:22:AES-256-GCM:5123456789.01`, bytes a second.
    let rate = text.lines().find_map(|line| line.strip_prefix("+F:")?.rsplit(':').next()?.trim().parse::<f64>().ok());
    Ok(rate.map(|bytes| bytes / 1e6))
}
