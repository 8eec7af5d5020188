//! The sandbox that a worker closes around itself.
//!
//! Job: take everything from this process that reading mail does not need. Place: in a worker, before the first octet of
//! mail. Invariants: without seccomp and limits there is no worker; Landlock goes as far as the kernel has it. A crash
//! leaves nothing.

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus, Scope};
use nix::sys::{
    prctl,
    resource::{Resource, setrlimit},
    signal::Signal,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::{
    collections::BTreeMap,
    fs::File,
    os::fd::{AsRawFd, RawFd},
};

/// Why the sandbox could not be closed.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// prctl or setrlimit.
    #[error("a limit can't be set ({0}); run on Linux 5.13 or later, without a seccomp profile that forbids prctl")]
    Limit(#[from] nix::Error),
    /// Landlock refused what it offers.
    #[error("Landlock can't be applied ({0}); check the kernel's log")]
    Landlock(#[from] landlock::RulesetError),
    /// The filter does not compile or load.
    #[error("the system call filter can't be applied ({0}); the kernel needs CONFIG_SECCOMP_FILTER")]
    Filter(String),
}

/// Closes the sandbox around the calling thread, which must be the only one. `memory`: address space in bytes; `statm`: the
/// one file that stays readable. Returns how far Landlock went: `full`, `partial`, `none`.
pub fn close(memory: u64, statm: &File) -> Result<&'static str, SandboxError> {
    // The daemon is gone: nobody reads the report.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // No other process of this user looks into mail through /proc or ptrace; no core dump either.
    prctl::set_dumpable(false)?;
    // seccomp and Landlock ask for it; nothing executed could gain rights.
    prctl::set_no_new_privs()?;
    let landlock = landlock()?;
    for (resource, limit) in [
        // Mail that makes a reader ask for more ends the worker, not the machine.
        (Resource::RLIMIT_AS, memory),
        // Standard input, output, error and the open file are there; there will never be another.
        (Resource::RLIMIT_NOFILE, 3),
        // No file is written, so none needs a size.
        (Resource::RLIMIT_FSIZE, 0),
        // Mail in a core dump would be mail on a disk.
        (Resource::RLIMIT_CORE, 0),
        // No thread, no process.
        (Resource::RLIMIT_NPROC, 0),
        // No page is locked.
        (Resource::RLIMIT_MEMLOCK, 0),
    ] {
        setrlimit(resource, limit, limit)?;
    }
    let filter = filter(statm.as_raw_fd()).map_err(|error| SandboxError::Filter(error.to_string()))?;
    seccompiler::apply_filter(&filter).map_err(|error| SandboxError::Filter(error.to_string()))?;
    Ok(landlock)
}

/// All that Landlock knows, with no rule that allows anything: no file, no TCP, no signal or abstract socket to outside.
fn landlock() -> Result<&'static str, SandboxError> {
    let newest = ABI::V7;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(newest))?
        .handle_access(AccessNet::from_all(newest))?
        .scope(Scope::from_all(newest))?
        .create()?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => "full",
        RulesetStatus::PartiallyEnforced => "partial",
        RulesetStatus::NotEnforced => "none",
    })
}

/// The calls that are left. Any other ends the process (SIGSYS): it is not one of ours.
fn filter(statm: RawFd) -> Result<BpfProgram, Box<dyn std::error::Error>> {
    let argument = |index, operator, value: i64| {
        SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value.cast_unsigned())
    };
    let descriptor = |number: i32| SeccompRule::new(vec![argument(0, SeccompCmpOp::Eq, number.into())?]);
    let not_executable = |index| {
        let bits = i64::from(libc::PROT_EXEC);
        SeccompRule::new(vec![argument(index, SeccompCmpOp::MaskedEq(bits.cast_unsigned()), 0)?])
    };
    let descriptor_state = SeccompRule::new(vec![
        argument(0, SeccompCmpOp::Eq, statm.into())?,
        argument(1, SeccompCmpOp::Eq, libc::F_GETFD.into())?,
    ])?;
    let rules: BTreeMap<i64, Vec<SeccompRule>> = [
        // Jobs come in on standard input.
        (libc::SYS_read, vec![descriptor(0)?]),
        // Replies go out on standard output; the place of a panic, without its text, on standard error.
        (libc::SYS_write, vec![descriptor(1)?, descriptor(2)?]),
        // The allocator: memory that is never code.
        (libc::SYS_mmap, vec![not_executable(2)?]),
        (libc::SYS_mprotect, vec![not_executable(2)?]),
        (libc::SYS_munmap, vec![]),
        (libc::SYS_mremap, vec![]),
        (libc::SYS_madvise, vec![]),
        (libc::SYS_brk, vec![]),
        // Locks of the standard library, uncontended in one thread.
        (libc::SYS_futex, vec![]),
        // Deadlines, where the clock is not read without a call.
        (libc::SYS_clock_gettime, vec![]),
        // Seeds of hash tables. Since glibc 2.41 they come from the vDSO; signals are held off while its state is made.
        (libc::SYS_getrandom, vec![]),
        (libc::SYS_rt_sigprocmask, vec![]),
        // How far the worker has grown, from /proc/self/statm.
        (libc::SYS_pread64, vec![descriptor(statm)?]),
        // The same file at the end; a debug build asks first whether it is open.
        (libc::SYS_close, vec![descriptor(statm)?]),
        (libc::SYS_fcntl, vec![descriptor_state]),
        // Return from the handler that tells a stack overflow, and the stack given back at the end.
        (libc::SYS_rt_sigreturn, vec![]),
        (libc::SYS_sigaltstack, vec![]),
        // Reads and writes taken up again after a stop.
        (libc::SYS_restart_syscall, vec![]),
        // The end.
        (libc::SYS_exit, vec![]),
        (libc::SYS_exit_group, vec![]),
    ]
    .into_iter()
    .collect();
    let architecture = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, architecture)?;
    Ok(filter.try_into()?)
}
