//! The next hop of a health check.
//!
//! Job: take one message over SMTP and give its octets back. Place: at the end of the relay client's way, on a port of
//! its own on this machine. Invariants: one connection, one message, bounded; nothing of it is kept. A crash leaves
//! nothing behind.

use std::io;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

/// Octets of a whole session; a probe has a few hundred.
const LONGEST: u64 = 64 * 1024;

/// Takes one message from the first client.
///
/// # Errors
/// The client went away before its message had ended.
pub async fn receive(listener: TcpListener) -> io::Result<String> {
    let (stream, _) = listener.accept().await?;
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader.take(LONGEST));
    writer.write_all(b"220 probe.postern.invalid\r\n").await?;
    let (mut message, mut in_content) = (String::new(), false);
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if in_content {
            if line == ".\r\n" {
                writer.write_all(b"250 2.0.0 taken\r\n").await?;
                return Ok(message);
            }
            message.push_str(&line);
            continue;
        }
        let verb = line.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
        in_content = verb == "DATA";
        writer.write_all(if in_content { b"354 go on\r\n" } else { b"250 2.0.0 good\r\n" }).await?;
    }
}
