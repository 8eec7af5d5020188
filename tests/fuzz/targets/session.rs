//! Arbitrary octets against the server state machine: it must not panic, must commit only what it began and did not
//! abandon, and what it commits must be canonical.
//!
//! The first two octets of the input choose the client, the refusals of the stages, and how the rest is cut.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use mail::{MessageId, Reply};
use session::{Action, Config, Input, Peer, Server};
use std::sync::Arc;

struct Stored;

fuzz_target!(|input: &[u8]| {
    let [choice, cut, octets @ ..] = input else { return };
    let config = Config {
        host: "mx.example".parse().expect("a host name"),
        max_message: 4096,
        max_recipients: 100,
        starttls: choice & 1 == 0,
    };
    let peer = Peer { ip: "192.0.2.1".parse().expect("an address"), listed: choice & 2 == 0 };
    let no = || Reply::plain(451, "no");
    let (mut server, mut actions) = Server::<Stored>::open(Arc::new(config), peer);
    let mut pieces = octets.chunks(usize::from(*cut).max(1));
    let mut message: Option<Vec<u8>> = None;
    loop {
        let mut answer = None;
        for action in actions {
            match action {
                Action::Admit if choice & 4 != 0 => answer = Some(Input::Admitted(Err(no()))),
                Action::Admit => answer = Some(Input::Admitted(Ok(()))),
                Action::Begin => {
                    message = Some(Vec::new());
                    answer = Some(Input::Begun(Ok(MessageId::from_bytes([0; 16]))));
                }
                Action::Append(piece) => message.as_mut().expect("begun").extend_from_slice(&piece),
                Action::Abandon => assert!(message.take().is_some()),
                Action::Commit(envelope) => {
                    let message = message.take().expect("begun and not abandoned");
                    assert!(message.is_empty() || message.ends_with(b"\r\n"));
                    let pairs = message.windows(2).filter(|pair| pair == b"\r\n").count();
                    let singles = message.iter().filter(|octet| matches!(octet, b'\r' | b'\n')).count();
                    assert_eq!(pairs * 2, singles, "a bare CR or LF");
                    assert!(!envelope.recipients.is_empty());
                    session::received_header(&envelope, &"mx.example".parse().expect("a host name"));
                    answer = Some(Input::Committed(Ok((Stored, envelope.id))));
                }
                Action::StartTls => answer = Some(Input::Secured("TLSv1.3".into())),
                Action::Send(octets) => assert!(octets.ends_with(b"\r\n")),
                Action::Refused { .. } | Action::Close => {}
            }
        }
        let input = match (answer, pieces.next()) {
            (Some(answer), None) => answer,
            (Some(answer), Some(piece)) => {
                // The next packet may be there before the stages have answered.
                (server, actions) = server.step(Input::Octets {
                    octets: Bytes::copy_from_slice(piece),
                    at: jiff::Timestamp::UNIX_EPOCH,
                });
                assert!(actions.is_empty(), "acted before the answer: {actions:?}");
                answer
            }
            (None, Some(piece)) => {
                Input::Octets { octets: Bytes::copy_from_slice(piece), at: jiff::Timestamp::UNIX_EPOCH }
            }
            (None, None) => break,
        };
        (server, actions) = server.step(input);
    }
});
