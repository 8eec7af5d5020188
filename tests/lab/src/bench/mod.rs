//! Speed and memory beside Postfix in the same run.
//!
//! Job: drive Postern and Postfix with the same generator (`smtp-source`) into the same sink, and write what each used as
//! ratios. Place: around the system. Invariants: CPU is what the daemon and all its processes used, taken from /proc;
//! both peers keep their default durability; nothing is judged here, figures are printed. A crash leaves a temporary
//! folder.

mod crates;

use crate::{
    accounting::{cpu_time, proportional_memory},
    layout::Layout,
    postfix::Postfix,
    process::free_port,
    sink::{Sink, SinkConfig},
    system::{Options, System, lab_settings},
};
use std::{
    collections::BTreeMap,
    fs, io,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Messages a run; enough for seconds of work.
const MESSAGES: usize = 6000;
/// Parallel clients of the generator.
const CLIENTS: usize = 20;
/// Octets of a message.
const SIZE: usize = 10 << 10;
/// Longest time for one run to be delivered.
const PATIENCE: Duration = Duration::from_secs(300);
/// Sessions of the memory measurement.
const SESSIONS: usize = 500;

/// Named figures, as they go to `bench.json`.
pub type Figures = BTreeMap<String, f64>;

/// One measured run.
#[derive(Clone, Copy, Debug)]
struct Run {
    cpu: Duration,
    wall: Duration,
}

impl Run {
    fn cpu_per_message(self) -> f64 {
        self.cpu.as_secs_f64() / MESSAGES as f64
    }

    fn rate(self) -> f64 {
        MESSAGES as f64 / self.wall.as_secs_f64()
    }
}

/// Runs everything, the benchmarks of single crates only if asked to, and returns the figures.
///
/// # Errors
/// A part does not start, or mail does not arrive.
pub fn run(dir: &Path, port_base: u16, crates: bool) -> io::Result<Figures> {
    let mut figures = Figures::new();
    let body = dir.join("message.txt");
    // smtp-source ends the lines of its file with CR LF itself.
    let lines: Vec<u8> = english_message(SIZE).into_iter().filter(|b| *b != b'\r').collect();
    fs::write(&body, lines)?;
    figures.insert("disk.fdatasync_ms".into(), fdatasync_latency(dir)?);

    if crates {
        crates::add(&mut figures)?;
    }

    let ceiling_sink = Sink::start(SinkConfig::counting(free_port()?))?;
    let ceiling = measure(&ceiling_sink, None, ceiling_sink.addr(), &body, true)?;
    figures.insert("ceiling.rate".into(), ceiling.rate());

    for (suffix, reuse) in [("", true), ("_new_connections", false)] {
        let postern = postern_run(dir, port_base, &body, reuse, &mut figures)?;
        let postfix = postfix_run(dir, &body, reuse)?;
        let key = |name: &str| format!("relay_10k{suffix}.{name}");
        figures.insert(key("cpu_ratio"), postfix.cpu_per_message() / postern.cpu_per_message());
        figures.insert(key("wall_ratio"), postern.rate() / postfix.rate());
        figures.insert(key("ceiling_ratio"), postern.rate() / ceiling.rate());
        figures.insert(key("postern_cpu_us"), postern.cpu_per_message() * 1e6);
        figures.insert(key("postfix_cpu_us"), postfix.cpu_per_message() * 1e6);
        figures.insert(key("postern_rate"), postern.rate());
        figures.insert(key("postfix_rate"), postfix.rate());
    }
    Ok(figures)
}

fn postern_run(dir: &Path, port_base: u16, body: &Path, reuse: bool, figures: &mut Figures) -> io::Result<Run> {
    let lab = dir.join(if reuse { "postern" } else { "postern-new" });
    let layout = Layout::new(&lab, port_base)?;
    let sink = Sink::start(SinkConfig::counting(layout.sink()))?;
    // All sessions come from one address here.
    let networks = "networks = [\"127.0.0.0/8\"]\n";
    let limits = format!("{networks}max_sessions = {0}\nmax_sessions_per_client = {0}\n", SESSIONS + 100);
    let settings = Some(lab_settings(&layout, false).replace(networks, &limits));
    let options = Options { foreign_next_hop: true, no_cloud: true, settings, ..Options::default() };
    let mut system = System::start(layout, options)?;
    let pid = system.appliance().map(|process| process.id()).ok_or_else(|| io::Error::other("no appliance"))?;
    if reuse {
        std::thread::sleep(Duration::from_secs(2));
        figures.insert("memory.idle_mib".into(), mib(proportional_memory(pid)?));
    }
    let run = measure(&sink, Some(pid), system.layout.smtp(), body, reuse)?;
    if reuse {
        let peak = memory_with_sessions(pid, system.layout.smtp())?;
        figures.insert(format!("memory.sessions{SESSIONS}_mib"), mib(peak));
    }
    system.stop()?;
    Ok(run)
}

fn postfix_run(dir: &Path, body: &Path, reuse: bool) -> io::Result<Run> {
    let sink = Sink::start(SinkConfig::counting(free_port()?))?;
    let relayhost = format!("[127.0.0.1]:{}", sink.addr().port());
    let folder = dir.join(if reuse { "postfix" } else { "postfix-new" });
    let mut postfix = Postfix::start(&folder, free_port()?, &[("relayhost", &relayhost)])?;
    let run = measure(&sink, Some(postfix.id()), postfix.address(), body, reuse)?;
    postfix.stop()?;
    Ok(run)
}

/// Sends all messages and waits until the sink has them; what `pid` and its children used meanwhile.
fn measure(sink: &Sink, pid: Option<u32>, server: SocketAddr, body: &Path, reuse: bool) -> io::Result<Run> {
    let used = |pid: Option<u32>| pid.map_or(Ok(Duration::ZERO), cpu_time);
    let before = (sink.count(), used(pid)?, Instant::now());
    let mut source = Command::new("smtp-source");
    source.args(["-s", &CLIENTS.to_string(), "-m", &MESSAGES.to_string(), "-f", "anna@clinic.example"]);
    source.args(["-t", "bob@partner.example", "-F"]).arg(body);
    if reuse {
        source.arg("-d");
    }
    let status = source.arg(server.to_string()).status()?;
    if !status.success() {
        return Err(io::Error::other(format!("smtp-source failed with {status}")));
    }
    let target = before.0 + MESSAGES as u64;
    while sink.count() < target {
        if before.2.elapsed() > PATIENCE {
            return Err(io::Error::other(format!("{} of {MESSAGES} messages arrived", sink.count() - before.0)));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let wall = before.2.elapsed();
    // What is done after the last message arrived (settling, index) belongs to the price too.
    std::thread::sleep(Duration::from_secs(2));
    Ok(Run { cpu: used(pid)? - before.1, wall })
}

/// The largest proportional memory while [`SESSIONS`] sessions each send 1 MiB at once.
fn memory_with_sessions(pid: u32, server: SocketAddr) -> io::Result<u64> {
    let waiting = Arc::new(AtomicUsize::new(0));
    let go = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..SESSIONS)
        .map(|_| {
            let (waiting, go) = (waiting.clone(), go.clone());
            std::thread::Builder::new().stack_size(256 << 10).spawn(move || {
                let sent = send_a_mebibyte(server, &waiting, &go);
                // One that fails must not keep the others waiting.
                waiting.fetch_add(usize::from(sent.is_err()), Ordering::Relaxed);
                sent
            })
        })
        .collect::<io::Result<_>>()?;
    let start = Instant::now();
    let mut peak = 0;
    while clients.iter().any(|client| !client.is_finished()) && start.elapsed() < PATIENCE {
        if waiting.load(Ordering::Relaxed) >= SESSIONS {
            go.store(true, Ordering::Relaxed);
        }
        peak = peak.max(proportional_memory(pid)?);
        std::thread::sleep(Duration::from_millis(50));
    }
    for client in clients {
        client.join().map_err(|_| io::Error::other("a client of the memory measurement panicked"))??;
    }
    Ok(peak)
}

/// Stops in the middle of DATA until all sessions are there, so that all bodies are open at once.
fn send_a_mebibyte(server: SocketAddr, waiting: &AtomicUsize, go: &AtomicBool) -> io::Result<()> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut say = |text: &[u8], code: &[u8]| -> io::Result<()> {
        stream.write_all(text)?;
        let mut reply = [0; 1024];
        let n = stream.read(&mut reply)?;
        if reply[..n].starts_with(code) {
            return Ok(());
        }
        Err(io::Error::other(format!("unexpected reply: {}", String::from_utf8_lossy(&reply[..n]).trim())))
    };
    say(b"", b"220")?;
    say(b"HELO client.example\r\n", b"250")?;
    say(b"MAIL FROM:<anna@clinic.example>\r\n", b"250")?;
    say(b"RCPT TO:<bob@partner.example>\r\n", b"250")?;
    say(b"DATA\r\n", b"354")?;
    let half = english_message(512 << 10);
    stream.write_all(&half)?;
    waiting.fetch_add(1, Ordering::Relaxed);
    while !go.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
    }
    // A second header would only be more text; none of its lines begins with a dot.
    stream.write_all(&half)?;
    let mut say = |text: &[u8]| -> io::Result<String> {
        stream.write_all(text)?;
        let mut reply = [0; 1024];
        let n = stream.read(&mut reply)?;
        Ok(String::from_utf8_lossy(&reply[..n]).into_owned())
    };
    let reply = say(b"\r\n.\r\n")?;
    if reply.starts_with("250") { Ok(()) } else { Err(io::Error::other(format!("1 MiB was answered {reply}"))) }
}

/// A message of English business prose with ordinary numbers, `length` octets, CR LF.
#[must_use]
pub fn english_message(length: usize) -> Vec<u8> {
    const SENTENCES: [&str; 8] = [
        "Thank you for the pleasant meeting on 12 March; the minutes are below and will go to everyone who took part.",
        "We expect the delivery of order 4711-22 in week 14, so please keep the warehouse in Bristol informed.",
        "The call begins at 09:30 (dial +44 20 7946 0958) and should not take longer than forty minutes.",
        "Our colleagues have gone through the draft and found three places where the wording could be clearer.",
        "If the figures in table 3 look odd to you, compare them with those of last year before you reply.",
        "The new page is at https://www.example.org/projects/2026/overview?id=83321 and open to all partners.",
        "Invoices above 2,500.00 EUR need a second signature, as agreed with the finance department in autumn.",
        "I shall be travelling from Tuesday on, and Maria looks after my mail until I am back on the 21st.",
    ];
    let mut out =
        b"From: Anna <anna@clinic.example>\r\nTo: bob@partner.example\r\nSubject: minutes\r\nMIME-Version: 1.0\r\n\
        Content-Type: text/plain; charset=us-ascii\r\n\r\n"
            .to_vec();
    for sentence in SENTENCES.iter().cycle() {
        if out.len() + sentence.len() + 2 > length {
            break;
        }
        out.extend_from_slice(sentence.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Median milliseconds of a 16 KiB overwrite with fdatasync in `dir`.
fn fdatasync_latency(dir: &Path) -> io::Result<f64> {
    let path = dir.join("fdatasync");
    let mut file = fs::File::create(&path)?;
    file.set_len(16 << 10)?;
    file.sync_all()?;
    let mut times = Vec::new();
    for _ in 0..50 {
        io::Seek::rewind(&mut file)?;
        file.write_all(&[0x5a; 16 << 10])?;
        let start = Instant::now();
        file.sync_data()?;
        times.push(start.elapsed());
    }
    fs::remove_file(path)?;
    times.sort();
    Ok(times[times.len() / 2].as_secs_f64() * 1e3)
}

/// Where the figures go: `target/bench.json` of the workspace.
#[must_use]
pub fn figures_file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/bench.json")
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
