//! A message of the appliance's own.
//!
//! Job: write the test message and take it in as if a client had handed it in. Place: in front of the pipeline, beside
//! intake. Invariants: it goes the way of all messages: judged, kept, delivered. A crash leaves what the pipeline says of
//! itself.

use crate::pipeline::{self, Pipeline};
use jiff::{Timestamp, tz::TimeZone};
use mail::{Address, BodyType, Client, EnhancedCode, Envelope, MessageId, Reply};
use std::net::{IpAddr, Ipv4Addr};

/// Takes a test message to `recipient`; its id once it is durable.
///
/// # Errors
/// The reply that a client would have had instead of the 250.
pub async fn accept(pipeline: &Pipeline, recipient: Address) -> Result<MessageId, Reply> {
    let host = pipeline.live.parts().settings.host.name.to_string();
    let (id, now) = (MessageId::generate(), Timestamp::now());
    let sender = format!("postmaster@{host}").parse();
    let sender = sender.map_err(|_| Reply::new(451, EnhancedCode(4, 3, 5), "The host name makes no sender"))?;
    pipeline.spool.available().map_err(|error| error.reply())?;
    let mut staging = pipeline.spool.stage(id).map_err(|error| error.reply())?;
    staging.write(text(&host, &recipient, id, now).as_bytes()).map_err(|error| error.reply())?;
    let envelope = Envelope {
        id,
        sender,
        smtputf8: !recipient.to_string().is_ascii(),
        recipients: vec![recipient],
        body: BodyType::SevenBit,
        client: Client { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), helo: host, esmtp: true, tls: None },
        received: now,
    };
    pipeline::accept(pipeline, staging, envelope).await.map(|(_receipt, id)| id)
}

/// RFC 5322, with the mark of RFC 3834 that keeps vacation programs from answering.
fn text(host: &str, recipient: &Address, id: MessageId, now: Timestamp) -> String {
    let date = now.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S %z");
    format!(
        "From: Postern <postmaster@{host}>\r\n\
         To: <{recipient}>\r\n\
         Subject: Test message from {host}\r\n\
         Date: {date}\r\n\
         Message-ID: <{id}@{host}>\r\n\
         Auto-Submitted: auto-generated\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=us-ascii\r\n\
         \r\n\
         This message was sent from the console of {host}.\r\n\
         It shows that the appliance takes, keeps and delivers mail.\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_whole_and_says_that_no_person_sent_it() {
        let (recipient, at) = ("anna@example.org".parse().unwrap(), Timestamp::from_second(1_700_000_000).unwrap());
        let text = text("postern.example.org", &recipient, MessageId::from_bytes([0; 16]), at);
        assert!(text.contains("\r\nDate: Tue, 14 Nov 2023 22:13:20 +0000\r\n"), "{text}");
        assert!(text.contains("\r\nAuto-Submitted: auto-generated\r\n") && text.ends_with(".\r\n"), "{text}");
        assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
        assert!(text.lines().all(|line| line.len() < 998));
    }
}
