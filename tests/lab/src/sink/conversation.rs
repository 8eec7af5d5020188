//! The sink's side of SMTP.
//!
//! Job: say yes to everything, fast, or misbehave as set. Place: between the socket and the Maildir. Invariants: only
//! CR LF . CR LF ends a message; replies to pipelined commands leave in one write; a message is stored before its 250.
//! A crash leaves nothing behind.

use super::{Fault, Shared, store};
use memchr::memmem;
use std::{io, net::SocketAddr, sync::atomic::Ordering};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

/// Octets of one read.
const READ: usize = 64 * 1024;

/// Serves one connection to its end.
pub(super) async fn serve(shared: &Shared, mut socket: TcpStream, peer: SocketAddr) -> io::Result<()> {
    let mut conversation = Conversation {
        shared,
        peer,
        tls: false,
        ehlo: String::new(),
        transaction: None,
        input: Vec::new(),
        output: Vec::new(),
    };
    let greeting = match shared.fault() {
        Fault::Unavailable => "421 4.3.2 try again later",
        _ => "220 sink.example ESMTP",
    };
    conversation.reply(greeting).await;
    if !conversation.run(&mut socket).await? {
        return Ok(());
    }
    let Some(tls) = &shared.tls else { return Ok(()) };
    let mut stream = tls.accept(socket).await?;
    conversation.tls = true;
    conversation.input.clear();
    conversation.run(&mut stream).await?;
    stream.shutdown().await
}

#[derive(Default)]
struct Transaction {
    from: String,
    to: Vec<String>,
    asked: usize,
}

struct Conversation<'a> {
    shared: &'a Shared,
    peer: SocketAddr,
    tls: bool,
    ehlo: String,
    transaction: Option<Transaction>,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// What follows a command.
enum Then {
    Next,
    Data,
    Tls,
    Close,
}

impl Conversation<'_> {
    /// Whether the client asked for TLS; else the conversation is over.
    async fn run<S: AsyncRead + AsyncWrite + Unpin>(&mut self, stream: &mut S) -> io::Result<bool> {
        loop {
            let Some(line) = self.line(stream).await? else { return Ok(false) };
            match self.command(&line).await {
                Then::Next => {}
                Then::Data => {
                    let Some(message) = self.message(stream).await? else { return Ok(false) };
                    if !self.finish(stream, message).await? {
                        return Ok(false);
                    }
                }
                Then::Tls => {
                    self.flush(stream).await?;
                    return Ok(true);
                }
                Then::Close => {
                    self.flush(stream).await?;
                    return Ok(false);
                }
            }
        }
    }

    async fn flush<S: AsyncWrite + Unpin>(&mut self, stream: &mut S) -> io::Result<()> {
        if !self.output.is_empty() {
            stream.write_all(&self.output).await?;
            stream.flush().await?;
            self.output.clear();
        }
        Ok(())
    }

    async fn reply(&mut self, text: &str) {
        match self.shared.fault() {
            Fault::Nonsense => self.output.extend_from_slice(b"<html>\r\n\xff\r\n"),
            fault => {
                if let Fault::Slow(delay) = fault {
                    tokio::time::sleep(delay).await;
                }
                self.output.extend_from_slice(text.as_bytes());
                self.output.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Reads more; false at the end. Replies leave first.
    async fn more<S: AsyncRead + AsyncWrite + Unpin>(&mut self, stream: &mut S) -> io::Result<bool> {
        self.flush(stream).await?;
        self.input.reserve(READ);
        Ok(stream.read_buf(&mut self.input).await? > 0)
    }

    async fn line<S: AsyncRead + AsyncWrite + Unpin>(&mut self, stream: &mut S) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = memmem::find(&self.input, b"\r\n") {
                let line = String::from_utf8_lossy(&self.input[..end]).into_owned();
                self.input.drain(..end + 2);
                return Ok(Some(line));
            }
            if self.input.len() > READ || !self.more(stream).await? {
                return Ok(None);
            }
        }
    }

    /// A message without its dot-stuffing.
    async fn message<S: AsyncRead + AsyncWrite + Unpin>(&mut self, stream: &mut S) -> io::Result<Option<Vec<u8>>> {
        let mut searched = 0;
        let end = loop {
            if self.input.starts_with(b".\r\n") {
                break 0;
            }
            if let Some(found) = memmem::find(&self.input[searched..], b"\r\n.\r\n") {
                break searched + found + 2;
            }
            searched = self.input.len().saturating_sub(4);
            if !self.more(stream).await? {
                return Ok(None);
            }
        };
        let rest = self.input.split_off(end + 3);
        let mut message = std::mem::replace(&mut self.input, rest);
        message.truncate(end);
        if message.starts_with(b".") || memmem::find(&message, b"\r\n.").is_some() {
            message = unstuffed(&message);
        }
        Ok(Some(message))
    }

    async fn command(&mut self, line: &str) -> Then {
        let fault = self.shared.fault();
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" | "HELO" => {
                self.transaction = None;
                self.ehlo = line.get(5..).unwrap_or_default().trim().to_owned();
                let mut lines = vec!["sink.example"];
                if verb == "EHLO" {
                    lines.extend(self.shared.extensions.iter().map(String::as_str));
                    lines.extend((self.shared.tls.is_some() && !self.tls).then_some("STARTTLS"));
                }
                let text = format!("250-{}", lines.join("\r\n250-"));
                // The last line has a space instead of the hyphen.
                let at = text.rfind("250-").unwrap_or_default() + 3;
                let text = format!("{} {}", &text[..at], &text[at + 1..]);
                self.reply(&text).await;
            }
            "MAIL" => {
                self.transaction = Some(Transaction { from: path(line), ..Transaction::default() });
                self.reply("250 2.1.0 ok").await;
            }
            "RCPT" => {
                let Some(transaction) = &mut self.transaction else {
                    self.reply("503 5.5.1 MAIL first").await;
                    return Then::Next;
                };
                transaction.asked += 1;
                let answer = match fault {
                    Fault::DeferRecipients => "450 4.2.1 mailbox busy",
                    Fault::RefuseRecipients => "550 5.1.1 no such mailbox",
                    Fault::DeferEverySecondRecipient if transaction.asked % 2 == 0 => "450 4.2.1 mailbox busy",
                    _ => {
                        transaction.to.push(path(line));
                        "250 2.1.5 ok"
                    }
                };
                self.reply(answer).await;
            }
            "DATA" => match &self.transaction {
                Some(transaction) if !transaction.to.is_empty() => {
                    self.reply("354 go ahead").await;
                    return Then::Data;
                }
                _ => self.reply("554 5.5.1 no valid recipients").await,
            },
            "RSET" => {
                self.transaction = None;
                self.reply("250 2.0.0 ok").await;
            }
            "NOOP" => self.reply("250 2.0.0 ok").await,
            "STARTTLS" if self.shared.tls.is_some() && !self.tls => {
                self.transaction = None;
                self.reply("220 2.0.0 go ahead").await;
                return Then::Tls;
            }
            "QUIT" => {
                self.reply("221 2.0.0 bye").await;
                return Then::Close;
            }
            _ => self.reply("502 5.5.1 not here").await,
        }
        Then::Next
    }

    /// Stores, answers and records; false when the connection is dropped.
    async fn finish<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, message: Vec<u8>) -> io::Result<bool> {
        let transaction = self.transaction.take().unwrap_or_default();
        let fault = self.shared.fault();
        let kept = !matches!(
            fault,
            Fault::DeferMessage | Fault::RefuseMessage | Fault::Nonsense | Fault::DropAfterDot { stored: false }
        );
        let reply = match fault {
            Fault::DeferMessage => Some("451 4.3.0 not now".to_owned()),
            Fault::RefuseMessage => Some("554 5.6.0 not this".to_owned()),
            Fault::DropAfterDot { .. } => None,
            _ => Some(format!("250 2.0.0 taken {}", self.shared.count.load(Ordering::Relaxed) + 1)),
        };
        let time = jiff::Timestamp::now();
        let mut file = None;
        if kept {
            file = self.shared.store.as_ref().map(|store| store.keep(&message)).transpose()?;
        }
        let mut sent = None;
        if let Some(reply) = reply {
            self.reply(&reply).await;
            // The transcript says what really left, so this reply does not wait for others.
            sent = self.flush(stream).await.is_ok().then_some(reply);
        }
        if let Some(store) = &self.shared.store {
            store.record(&store::Entry {
                time,
                peer: self.peer.to_string(),
                ehlo: self.ehlo.clone(),
                tls: self.tls,
                from: transaction.from,
                to: transaction.to,
                octets: message.len() as u64,
                sha256: store::sha256(&message),
                message_id: store::message_id(&message),
                file,
                reply: sent.clone(),
            })?;
        }
        if kept {
            // Counted last: whoever sees the count finds the file and the line.
            self.shared.count.fetch_add(1, Ordering::Release);
        }
        Ok(sent.is_some())
    }
}

/// What stands in the brackets.
fn path(line: &str) -> String {
    let inner = line.split_once('<').and_then(|(_, rest)| rest.rsplit_once('>'));
    inner.map(|(path, _)| path.to_owned()).unwrap_or_default()
}

/// RFC 5321 §4.5.2: the first dot of a line goes.
fn unstuffed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len());
    let mut rest = message.strip_prefix(b".").unwrap_or(message);
    while let Some(at) = memmem::find(rest, b"\r\n.") {
        out.extend_from_slice(&rest[..at + 2]);
        rest = &rest[at + 3..];
    }
    out.extend_from_slice(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_unstuffed_once_a_line() {
        assert_eq!(unstuffed(b"..a\r\n...b\r\n.\r\nc.\r\n"), b".a\r\n..b\r\n\r\nc.\r\n");
    }
}
