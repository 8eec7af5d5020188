//! What a process and its children used: CPU seconds and proportional memory, from /proc.
//!
//! Job: measure from outside, the same way for every peer. Place: beside the benchmark. Invariants: reads only. A crash
//! leaves nothing behind.

use std::{fs, io, time::Duration};

/// CPU time (user and system) of `pid`, of its children that have ended and of all that still live below it.
///
/// # Errors
/// The process is gone.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let mut ticks = own_ticks(pid)?;
    for child in children(pid) {
        // A child that ends meanwhile is counted by its parent next time.
        ticks += cpu_time(child).map(|t| t.as_millis() as u64 * ticks_per_second() / 1000).unwrap_or(0);
    }
    Ok(Duration::from_millis(ticks * 1000 / ticks_per_second()))
}

/// Proportional set size in bytes of `pid` and all below it (proc_pid_smaps_rollup(5)).
///
/// # Errors
/// The process is gone, or its memory may not be looked at.
pub fn proportional_memory(pid: u32) -> io::Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let own = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
        .ok_or_else(|| io::Error::other("smaps_rollup has no Pss line"))?;
    let below: u64 = children(pid).into_iter().filter_map(|child| proportional_memory(child).ok()).sum();
    Ok(own * 1024 + below)
}

/// The live children of all of a process's threads.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().filter_map(|child| child.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

/// utime + stime + cutime + cstime of proc_pid_stat(5), in clock ticks.
fn own_ticks(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command name may hold spaces and parentheses; the fields begin behind its last one.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    Ok(fields.split_whitespace().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum())
}

fn ticks_per_second() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .and_then(|t| u64::try_from(t).ok())
        .unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{process::Command, time::Instant};

    #[test]
    fn a_busy_child_is_counted_alive_and_ended() {
        let own = std::process::id();
        let before = cpu_time(own).unwrap();
        let mut child = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let start = Instant::now();
        while cpu_time(child.id()).unwrap() < Duration::from_millis(200) {
            assert!(start.elapsed() < Duration::from_secs(30), "the child gets no CPU time");
            std::thread::sleep(Duration::from_millis(20));
        }
        let alive = cpu_time(own).unwrap() - before;
        child.kill().unwrap();
        child.wait().unwrap();
        let ended = cpu_time(own).unwrap() - before;
        assert!(alive >= Duration::from_millis(200) && ended >= Duration::from_millis(200), "{alive:?} {ended:?}");
        assert!(proportional_memory(own).unwrap() > 100_000);
    }
}
