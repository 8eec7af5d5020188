//! The development agent: runs command lines inside a virtual machine for the boot tests.
//!
//! Job: read requests from the virtio port that is given as the only argument, run each program as root, write what came
//! of it. Place: in development images alone, beside the appliance's own parts; a release image has neither this program
//! nor its unit. Invariants: one JSON line each way, answered in order; a program that outlives its time is killed; at
//! most [`MOST_OUTPUT`] bytes of each stream are kept. A crash is made good by systemd, which starts it again.

use serde::{Deserialize, Serialize};
use std::{
    fs::OpenOptions,
    io::{self, BufRead, BufReader, Read, Write},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Most of standard output and of standard error that is sent back, each, in bytes.
const MOST_OUTPUT: u64 = 4 * 1024 * 1024;

/// What to run.
#[derive(Deserialize)]
struct Request {
    id: u64,
    argv: Vec<String>,
    #[serde(default)]
    input: String,
    /// Seconds after which it is killed.
    seconds: u64,
}

/// What came of it.
#[derive(Serialize)]
struct Answer {
    id: u64,
    /// Exit status; -1 when it was killed or never started.
    status: i32,
    stdout: String,
    stderr: String,
}

fn main() -> ExitCode {
    let Some(port) = std::env::args().nth(1) else {
        eprintln!("postern-development-agent: name the virtio port to listen on");
        return ExitCode::from(2);
    };
    match serve(&port) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postern-development-agent: {port}: {error}; it is started again");
            ExitCode::FAILURE
        }
    }
}

fn serve(port: &str) -> io::Result<()> {
    // Opened once for both ways: the kernel gives a virtio port to one opener alone.
    let port = OpenOptions::new().read(true).write(true).open(port)?;
    let (mut reader, mut writer) = (BufReader::new(&port), &port);
    let mut line = String::new();
    loop {
        line.clear();
        // The port reads as empty while nobody holds the other end.
        if reader.read_line(&mut line)? == 0 {
            thread::sleep(Duration::from_millis(100));
            continue;
        }
        let Ok(request) = serde_json::from_str::<Request>(&line) else { continue };
        let mut answer = serde_json::to_vec(&run(&request))?;
        answer.push(b'\n');
        writer.write_all(&answer)?;
    }
}

fn run(request: &Request) -> Answer {
    match attempt(request) {
        Ok(answer) => answer,
        Err(error) => Answer { id: request.id, status: -1, stdout: String::new(), stderr: error.to_string() },
    }
}

fn attempt(request: &Request) -> io::Result<Answer> {
    let (program, arguments) =
        request.argv.split_first().ok_or_else(|| io::Error::other("the request names no program"))?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let input = child.stdin.take().map(|mut stdin| {
        let text = request.input.clone();
        thread::spawn(move || stdin.write_all(text.as_bytes()))
    });
    let stdout = child.stdout.take().map(|stream| thread::spawn(move || collect(stream)));
    let stderr = child.stderr.take().map(|stream| thread::spawn(move || collect(stream)));
    let status = wait(&mut child, Duration::from_secs(request.seconds))?;
    let text = |reader: Option<thread::JoinHandle<String>>| reader.and_then(|r| r.join().ok()).unwrap_or_default();
    drop(input);
    Ok(Answer { id: request.id, status, stdout: text(stdout), stderr: text(stderr) })
}

fn wait(child: &mut Child, patience: Duration) -> io::Result<i32> {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code().unwrap_or(-1));
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.kill()?;
    child.wait()?;
    Ok(-1)
}

fn collect(stream: impl Read) -> String {
    let mut bytes = Vec::new();
    let mut kept = stream.take(MOST_OUTPUT);
    // What was read before an error is still worth sending.
    let _ = kept.read_to_end(&mut bytes);
    // The program must not be stopped by a full pipe.
    let _ = io::copy(&mut kept.into_inner(), &mut io::sink());
    String::from_utf8_lossy(&bytes).into_owned()
}
