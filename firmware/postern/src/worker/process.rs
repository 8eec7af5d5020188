//! The worker's side.
//!
//! Job: close the sandbox, then do one job after the other. Place: the hidden command `postern worker`, started by the
//! pool. Invariants: no octet of mail is read outside the sandbox; one thread; what goes to standard error carries no
//! content. A crash leaves nothing: the pool sees the socket close.

use super::{
    protocol::{self, Order, Ready, Reply, Setup},
    sandbox,
};
use policy::Runner;
use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    process::ExitCode,
    time::{Duration, Instant},
};

/// Memory of its own, in pages, above which a worker asks to be replaced: what a large job leaves behind in the heap is
/// not given back otherwise. The detectors' tables take a quarter of it.
const MAX_PAGES: u64 = (16 << 20) / 4096;

/// Serves jobs on standard input until it closes.
pub fn main() -> ExitCode {
    // A panic's text may quote mail; its place does not.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(io::stderr(), "postern worker: a defect at {place}");
    }));
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "postern worker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let Some(setup) = protocol::receive::<Setup>(&mut input)? else { return Ok(()) };
    // Opened while files can still be; getrusage would tell the daemon's size, which exec carries over.
    let memory = File::open("/proc/self/statm")?;
    let landlock = sandbox::close(setup.memory, &memory)?.to_owned();
    protocol::send(&mut output, &Ready { landlock })?;
    let mut runner = Runner::default();
    while let Some(order) = protocol::receive::<Order>(&mut input)? {
        let deadline = Instant::now() + Duration::from_millis(order.millis);
        let mut octets = Vec::new();
        input.by_ref().take(order.header.length).read_to_end(&mut octets)?;
        if octets.len() as u64 != order.header.length {
            return Ok(());
        }
        // Only patterns can be refused; whatever is wrong with the mail is in the report.
        let outcome = runner.run(&order.header, &octets, deadline).map_err(|error| error.to_string());
        drop(octets);
        protocol::send(&mut output, &Reply { outcome, grown: own_pages(&memory)? > MAX_PAGES })?;
    }
    Ok(())
}

/// Resident pages that are not shared with files (proc_pid_statm(5)).
fn own_pages(statm: &File) -> io::Result<u64> {
    let mut line = [0; 128];
    let length = statm.read_at(&mut line, 0)?;
    let line = String::from_utf8_lossy(line.get(..length).unwrap_or_default()).into_owned();
    let mut numbers = line.split_ascii_whitespace().skip(1).map_while(|number| number.parse::<u64>().ok());
    let (resident, shared) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Ok(resident.saturating_sub(shared))
}
