//! How fast the spool seals, commits and settles, and how fast the disk syncs.
//!
//! `cargo bench -p spool`; `SPOOL_BENCH_DIR` names a folder on the disk to be measured.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a measurement that fails should stop")]

#[path = "../tests/spool/lab.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod lab;

use jiff::Timestamp;
use lab::{acceptance, delivered, keys, octets, real, to};
use mail::{Destination, MessageId};
use spool::{Config, Spool, Suite};
use std::{
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

const CLIENTS: usize = 20;

fn main() {
    // Tests run benches with this flag only to see that they work.
    let quick = !std::env::args().any(|argument| argument == "--bench");
    let folder = match std::env::var_os("SPOOL_BENCH_DIR") {
        Some(folder) => tempfile::tempdir_in(folder).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        println!("seal {suite:?}, 64 KiB chunks: {:.0} MB/s", seal(suite, if quick { 4 } else { 512 }));
    }
    println!("fdatasync of 4 KiB in a preallocated file: {:.0} us", sync_latency(folder.path(), quick));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(commits(folder.path(), if quick { 5 } else { 1000 }));
}

/// MB a second on one core.
fn seal(suite: Suite, mebibytes: u32) -> f64 {
    let chunks = mebibytes * 16;
    f64::from(chunks) * 65_536.0 / 1e6 / spool::sealing_time(suite, chunks).unwrap().as_secs_f64()
}

fn sync_latency(folder: &Path, quick: bool) -> f64 {
    use std::os::unix::fs::FileExt;
    let mut file = std::fs::File::create(folder.join("sync")).unwrap();
    file.write_all(&vec![0; 1 << 20]).unwrap();
    file.sync_all().unwrap();
    let times = if quick { 3 } else { 300 };
    let started = Instant::now();
    for n in 0..times {
        file.write_all_at(&[1; 4096], (n % 256) * 4096).unwrap();
        file.sync_data().unwrap();
    }
    started.elapsed().as_secs_f64() * 1e6 / times as f64
}

async fn commits(folder: &Path, each: usize) {
    let (spool, _) = Spool::open(Config::new(folder.join("queue.db")), keys(), real(folder)).unwrap();
    let body = vec![b'x'; 10 * 1024];
    let (cpu, started, syncs) = (cpu_time(), Instant::now(), spool.stats().syncs);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (spool, body) = (spool.clone(), body.clone());
        clients.spawn(async move {
            for _ in 0..each {
                let id = MessageId::generate();
                let mut staging = spool.stage(id).unwrap();
                staging.write(&body).unwrap();
                let staged = staging.finish().unwrap();
                spool.commit(staged, acceptance(id, vec![to(Destination::Smarthost, &[0])])).await.unwrap();
            }
        });
    }
    clients.join_all().await;
    report("commit", each, started.elapsed(), cpu_time() - cpu, spool.stats().syncs - syncs);
    let (cpu, started, syncs) = (cpu_time(), Instant::now(), spool.stats().syncs);
    let mut deliveries = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let spool = spool.clone();
        deliveries.spawn(async move {
            while spool.stats().messages > 0 {
                let Some(claim) = spool.claim(Timestamp::now()) else {
                    let _ = tokio::time::timeout(Duration::from_millis(20), spool.due()).await;
                    continue;
                };
                octets(&claim).unwrap();
                let settlement = delivered(&claim);
                spool.settle(claim, settlement).await.unwrap();
            }
        });
    }
    deliveries.join_all().await;
    report("claim, read, settle", each, started.elapsed(), cpu_time() - cpu, spool.stats().syncs - syncs);
    spool.close().await;
}

fn report(what: &str, each: usize, wall: Duration, cpu: Duration, syncs: u64) {
    let count = (each * CLIENTS) as f64;
    println!(
        "{what}, 10 KiB, {CLIENTS} at once: {:.0} a second, {:.0} us of CPU each, {:.1} a sync",
        count / wall.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / count,
        count / syncs.max(1) as f64
    );
}

fn cpu_time() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let time = |value: nix::sys::time::TimeVal| Duration::new(value.tv_sec() as u64, value.tv_usec() as u32 * 1000);
    time(usage.user_time()) + time(usage.system_time())
}
