//! The health check as an SMTP client.
//!
//! Job: hand a message in over a real session with our own listener. Place: in front of intake. Invariants: the port is
//! known to the daemon before it connects, which is how intake knows the session for its own; every wait and every line
//! is bounded. A crash leaves a session that intake ends.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// For a connection on this machine and each command.
const COMMAND: Duration = Duration::from_secs(20);
/// For the answer to the final dot: judging has 60 s, and the disk may be slow.
const ANSWER: Duration = Duration::from_secs(90);
/// Bytes of one reply.
const LONGEST: u64 = 8192;

/// A reply of the listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The three digits.
    pub code: u16,
    /// What stands behind them, of all lines.
    pub text: String,
}

impl Answer {
    /// Whether the appliance is well and only has no room at present: a full disk, a full queue, too many sessions.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.code == 452 || self.code == 421 || (self.code == 451 && self.text.contains("4.3.2 "))
    }
}

/// Where a session ended.
#[derive(Debug)]
pub enum Fault {
    /// There is no connection, or it broke.
    Lost(io::Error),
    /// Another answer to this command than the one that goes on.
    Refused {
        /// The command.
        verb: &'static str,
        /// The answer.
        answer: Answer,
    },
}

/// A session.
pub struct Session(BufReader<TcpStream>);

impl Session {
    /// Connects to `listener` and hears the greeting; `known` is told where from.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn open(listener: SocketAddr, known: impl FnOnce(SocketAddr)) -> Result<Self, Fault> {
        let target = SocketAddr::new(reachable(listener.ip()), listener.port());
        let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(Fault::Lost)?;
        // From the same address: it is ours, so that no other machine can be it.
        socket.bind(SocketAddr::new(target.ip(), 0)).map_err(Fault::Lost)?;
        known(socket.local_addr().map_err(Fault::Lost)?);
        let connected = timeout(COMMAND, socket.connect(target)).await.map_err(|_| late())?;
        let mut session = Self(BufReader::new(connected.map_err(Fault::Lost)?));
        session.expect("the greeting", 220, COMMAND).await?;
        Ok(session)
    }

    /// Sends a command line, whose answer must be `code`.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn command(&mut self, verb: &'static str, line: &str, code: u16) -> Result<(), Fault> {
        self.write(format!("{line}\r\n").as_bytes()).await?;
        self.expect(verb, code, COMMAND).await.map(drop)
    }

    /// Sends a message of canonical lines, none of which begins with a dot, and its final dot.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn content(&mut self, text: &str) -> Result<Answer, Fault> {
        self.write(format!("{text}.\r\n").as_bytes()).await?;
        self.expect("the message", 250, ANSWER).await
    }

    /// Says goodbye; nothing depends on the answer.
    pub async fn quit(mut self) {
        let _ = self.command("QUIT", "QUIT", 221).await;
    }

    async fn write(&mut self, octets: &[u8]) -> Result<(), Fault> {
        timeout(COMMAND, self.0.write_all(octets)).await.map_err(|_| late())?.map_err(Fault::Lost)
    }

    async fn expect(&mut self, verb: &'static str, code: u16, patience: Duration) -> Result<Answer, Fault> {
        let answer = timeout(patience, self.answer()).await.map_err(|_| late())?.map_err(Fault::Lost)?;
        if answer.code == code { Ok(answer) } else { Err(Fault::Refused { verb, answer }) }
    }

    async fn answer(&mut self) -> io::Result<Answer> {
        let mut reader = (&mut self.0).take(LONGEST);
        let mut answer = Answer { code: 0, text: String::new() };
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let garbage = || io::Error::new(io::ErrorKind::InvalidData, "this is no SMTP");
            let (code, rest) = line.trim_end().split_at_checked(3).ok_or_else(garbage)?;
            answer.code = code.parse().map_err(|_| garbage())?;
            let (more, text) = rest.split_at_checked(1).unwrap_or((" ", ""));
            if !answer.text.is_empty() {
                answer.text.push(' ');
            }
            answer.text.push_str(text);
            if more != "-" {
                return Ok(answer);
            }
        }
    }
}

/// The address at which a listener is reached from this machine.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

fn late() -> Fault {
    Fault::Lost(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))
}
