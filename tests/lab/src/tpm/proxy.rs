//! The bus between machine and TPM, for tests: it can be slow, overheard, and give other answers.
//!
//! Job: stand before a swtpm and pass its commands on. Place: between [`super::SoftTpm`] and the vault. Invariants:
//! commands and answers pass whole and in order; what is recorded is exactly what passed. A crash leaves nothing.

use super::{TpmError, free_pair, tcti};
use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Longest command or answer of a TPM with room to spare; a bigger length field is nonsense.
const LONGEST_FRAME: usize = 1 << 16;
/// Tag, length, code: what every command and every answer begins with (TPM 2.0 Part 1, §18).
const HEADER: usize = 10;

/// A running proxy; dropping it closes its ports.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    backend: u16,
    ended: AtomicBool,
    bus: Mutex<Bus>,
}

#[derive(Debug, Default)]
struct Bus {
    delay: Duration,
    recorded: Vec<u8>,
    answers: Vec<(u32, u32)>,
}

impl Proxy {
    /// A proxy before the TPM that has its data port at `backend`.
    ///
    /// # Errors
    /// No free pair of ports.
    pub fn before(backend: u16) -> Result<Self, TpmError> {
        let failed = || TpmError::io("opening the ports of the TPM proxy");
        let port = free_pair().map_err(failed())?;
        let data = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(failed())?;
        let control = TcpListener::bind((Ipv4Addr::LOCALHOST, port + 1)).map_err(failed())?;
        let shared = Arc::new(Shared { backend, ..Shared::default() });
        accept(data, Arc::clone(&shared), |client, shared| {
            let server = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.backend))?;
            relay_frames(client, server, shared)
        });
        accept(control, Arc::clone(&shared), |client, shared| {
            relay_octets(client, TcpStream::connect((Ipv4Addr::LOCALHOST, shared.backend + 1))?)
        });
        Ok(Self { port, shared })
    }

    /// How a TPM client reaches the TPM through this proxy.
    #[must_use]
    pub fn tcti(&self) -> String {
        tcti(self.port)
    }

    /// From now on each answer waits this long.
    pub fn delay(&self, delay: Duration) {
        self.bus().delay = delay;
    }

    /// From now on the command `command_code` never reaches the TPM and is answered with `response_code`.
    pub fn answer(&self, command_code: u32, response_code: u32) {
        self.bus().answers.push((command_code, response_code));
    }

    /// From now on all commands reach the TPM again.
    pub fn answer_nothing(&self) {
        self.bus().answers.clear();
    }

    /// Every octet that passed, both ways, in order.
    #[must_use]
    pub fn recorded(&self) -> Vec<u8> {
        self.bus().recorded.clone()
    }

    fn bus(&self) -> std::sync::MutexGuard<'_, Bus> {
        self.shared.bus.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        for port in [self.port, self.port + 1] {
            // Wakes the thread that waits in accept; where nobody listens any more there is nobody to wake.
            let _awake = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        }
    }
}

/// Serves each connection of `listener` on a thread of its own until the proxy ends.
fn accept(listener: TcpListener, shared: Arc<Shared>, serve: fn(TcpStream, &Shared) -> io::Result<()>) {
    thread::spawn(move || {
        for client in listener.incoming() {
            if shared.ended.load(Ordering::SeqCst) {
                return;
            }
            let Ok(client) = client else { continue };
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                if let Err(error) = serve(client, &shared) {
                    log::debug!("a TPM connection ended: {error}");
                }
            });
        }
    });
}

/// Commands one way, answers the other, strictly in turn, as the TPM works.
fn relay_frames(mut client: TcpStream, mut server: TcpStream, shared: &Shared) -> io::Result<()> {
    while let Some(command) = read_frame(&mut client)? {
        let code = u32::from_be_bytes([command[6], command[7], command[8], command[9]]);
        let (answer_instead, delay) = {
            let mut bus = shared.bus.lock().unwrap_or_else(PoisonError::into_inner);
            bus.recorded.extend_from_slice(&command);
            (bus.answers.iter().find(|(command, _)| *command == code).map(|(_, response)| *response), bus.delay)
        };
        let answer = if let Some(response) = answer_instead {
            [&[0x80, 0x01, 0, 0, 0, HEADER as u8], &response.to_be_bytes()[..]].concat()
        } else {
            server.write_all(&command)?;
            read_frame(&mut server)?.ok_or(io::ErrorKind::UnexpectedEof)?
        };
        shared.bus.lock().unwrap_or_else(PoisonError::into_inner).recorded.extend_from_slice(&answer);
        wait(delay, shared);
        client.write_all(&answer)?;
    }
    Ok(())
}

/// One command or answer; none where the connection ends between two.
fn read_frame(from: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut frame = vec![0; HEADER];
    match from.read_exact(&mut frame) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_be_bytes([frame[2], frame[3], frame[4], frame[5]]) as usize;
    if !(HEADER..=LONGEST_FRAME).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    frame.resize(length, 0);
    from.read_exact(&mut frame[HEADER..])?;
    Ok(Some(frame))
}

/// The control channel is not looked at.
fn relay_octets(client: TcpStream, server: TcpStream) -> io::Result<()> {
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let up = thread::spawn(move || {
        let passed = io::copy(&mut from_client, &mut to_server);
        to_server.shutdown(Shutdown::Write).and(passed)
    });
    let (mut from_server, mut to_client) = (server, client);
    let down = io::copy(&mut from_server, &mut to_client);
    to_client.shutdown(Shutdown::Write).and(down)?;
    up.join().map_err(|_| io::ErrorKind::BrokenPipe)?.map(drop)
}

/// Waits, but no longer than the proxy lives or the delay stands.
fn wait(delay: Duration, shared: &Shared) {
    let until = Instant::now() + delay;
    while Instant::now() < until && !shared.ended.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(20).min(delay));
    }
}
