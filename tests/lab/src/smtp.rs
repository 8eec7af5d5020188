//! A plain SMTP client that remembers what it was told.
//!
//! Job: hand in many messages over kept connections and say exactly which got their 250. Place: at the start of the
//! message's way in tests. Invariants: a message counts as acknowledged only when its 250 was read whole. A crash leaves
//! nothing behind.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// A connection after EHLO.
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Connects and greets.
    ///
    /// # Errors
    /// No connection, or another reply than 220 and 250.
    pub fn connect(server: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&server, Duration::from_secs(10))?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        stream.set_nodelay(true)?;
        let mut client = Self { reader: BufReader::new(stream) };
        client.expect("220")?;
        client.command("EHLO mail.clinic.example", "250")?;
        Ok(client)
    }

    /// Hands in one message with CR LF line ends; the final reply when it is a 250.
    ///
    /// # Errors
    /// The connection broke, or the server said something else at any step; the text is its reply.
    pub fn send(&mut self, from: &str, to: &[&str], message: &[u8]) -> io::Result<String> {
        self.command(&format!("MAIL FROM:<{from}> BODY=8BITMIME"), "250")?;
        for recipient in to {
            self.command(&format!("RCPT TO:<{recipient}>"), "250")?;
        }
        self.command("DATA", "354")?;
        let mut stuffed = Vec::with_capacity(message.len() + 8);
        for line in message.split_inclusive(|b| *b == b'\n') {
            if line.starts_with(b".") {
                stuffed.push(b'.');
            }
            stuffed.extend_from_slice(line);
        }
        stuffed.extend_from_slice(b".\r\n");
        self.reader.get_mut().write_all(&stuffed)?;
        self.expect("250")
    }

    /// Sends RSET, after a refusal.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn reset(&mut self) -> io::Result<()> {
        self.command("RSET", "250").map(drop)
    }

    /// One command and its reply.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn command(&mut self, line: &str, code: &str) -> io::Result<String> {
        self.reader.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
        self.expect(code)
    }

    fn expect(&mut self, code: &str) -> io::Result<String> {
        let mut reply = String::new();
        loop {
            let start = reply.len();
            if self.reader.read_line(&mut reply)? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
            }
            if reply.as_bytes().get(start + 3) != Some(&b'-') {
                break;
            }
        }
        let reply = reply.trim_end().to_owned();
        if reply.starts_with(code) { Ok(reply) } else { Err(io::Error::other(reply)) }
    }
}
