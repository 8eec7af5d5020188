//! Plays the dialogs of `tests/dialogs/server` against the server state machine: whole, octet by octet, and split in two
//! at every place.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a broken dialog ends the test"
)]

#[path = "../../../tests/dialogs/dialog.rs"]
mod dialog;

use bytes::Bytes;
use dialog::{Accepted, Cut, Dialog, Player, all, longest_run, play};
use mail::{Envelope, MessageId, Reply};
use session::{Action, Config, Input, Peer, Server};
use std::{collections::VecDeque, sync::Arc};

/// The proof of a store that is a list.
struct Stored;

/// An executor without sockets.
struct Rig {
    server: Option<Server<Stored>>,
    said: Vec<u8>,
    closed: bool,
    wants_tls: bool,
    content: Vec<u8>,
    accepted: VecDeque<Accepted>,
}

impl Rig {
    fn new(dialog: &Dialog) -> Self {
        let config = Config {
            host: "mx.example".parse().unwrap(),
            max_message: dialog.size,
            max_recipients: 100,
            starttls: dialog.tls,
        };
        let peer = Peer { ip: "192.0.2.1".parse().unwrap(), listed: !dialog.stranger };
        let (server, actions) = Server::open(Arc::new(config), peer);
        let mut rig = Self {
            server: None,
            said: Vec::new(),
            closed: false,
            wants_tls: false,
            content: Vec::new(),
            accepted: VecDeque::new(),
        };
        rig.execute(server, actions);
        rig
    }

    fn input(&mut self, input: Input<Stored>) {
        if let Some(server) = self.server.take().filter(|_| !self.closed) {
            let (server, actions) = server.step(input);
            self.execute(server, actions);
        }
    }

    fn execute(&mut self, server: Server<Stored>, actions: Vec<Action>) {
        self.server = Some(server);
        for action in actions {
            match action {
                Action::Send(octets) => self.said.extend(octets),
                Action::Admit => self.input(Input::Admitted(Ok(()))),
                Action::Begin => {
                    self.content.clear();
                    self.input(Input::Begun(Ok(MessageId::from_bytes([1; 16]))));
                }
                Action::Append(octets) => self.content.extend_from_slice(&octets),
                Action::Abandon => self.content.clear(),
                Action::Commit(envelope) => {
                    let id = envelope.id;
                    self.accepted.push_back(accepted(&envelope, std::mem::take(&mut self.content)));
                    self.input(Input::Committed(Ok((Stored, id))));
                }
                Action::Refused { .. } => {}
                Action::StartTls => self.wants_tls = true,
                Action::Close => self.closed = true,
            }
        }
    }
}

fn accepted(envelope: &Envelope, content: Vec<u8>) -> Accepted {
    let to: Vec<String> = envelope.recipients.iter().map(|to| format!("<{to}>")).collect();
    Accepted { paths: format!("<{}> {}", envelope.sender, to.join(" ")), content }
}

impl Player for Rig {
    fn send(&mut self, octets: &[u8]) {
        let at = jiff::Timestamp::from_second(1_700_000_000).unwrap();
        self.input(Input::Octets { octets: Bytes::copy_from_slice(octets), at });
    }

    fn line(&mut self) -> Option<String> {
        let end = self.said.windows(2).position(|pair| pair == b"\r\n")?;
        let line: Vec<u8> = self.said.drain(..end + 2).collect();
        Some(String::from_utf8(line[..end].to_vec()).unwrap())
    }

    fn handshake(&mut self) {
        assert!(std::mem::take(&mut self.wants_tls), "the server does not wait for a handshake");
        self.input(Input::Secured("TLSv1.3 TLS_AES_256_GCM_SHA384".into()));
    }

    fn accepted(&mut self) -> Option<Accepted> {
        self.accepted.pop_front()
    }
}

#[test]
fn every_dialog_goes_as_written_however_the_octets_are_cut() {
    let mut failures = Vec::new();
    let mut played = 0;
    for dialog in all() {
        let places = if dialog.whole { 0 } else { longest_run(&dialog) };
        // Long runs are the ones that test limits; some places of theirs must do.
        let step = if places > 4000 { places / 200 } else { 1 };
        let mut cuts = vec![Cut::Whole];
        if !dialog.whole {
            cuts.push(Cut::Octets);
            cuts.extend((1..places).step_by(step).map(Cut::At));
        }
        for cut in cuts {
            played += 1;
            if let Err(failure) = play(&dialog, cut, &mut Rig::new(&dialog)) {
                failures.push(failure);
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(played > 1000, "{played}");
}

fn opened() -> Server<Stored> {
    let config = Config { host: "mx.example".parse().unwrap(), max_message: 1000, max_recipients: 100, starttls: true };
    Server::open(Arc::new(config), Peer { ip: "192.0.2.1".parse().unwrap(), listed: true }).0
}

fn said(actions: &[Action]) -> String {
    let octets = actions.iter().filter_map(|action| match action {
        Action::Send(octets) => Some(octets.as_slice()),
        _ => None,
    });
    String::from_utf8(octets.collect::<Vec<_>>().concat()).unwrap()
}

fn feed(server: Server<Stored>, text: &str) -> (Server<Stored>, Vec<Action>) {
    server.step(Input::Octets { octets: Bytes::from(text.to_owned()), at: jiff::Timestamp::UNIX_EPOCH })
}

/// A session whose message is complete and waits for its commit, with `behind` pipelined after the final dot.
fn committing(behind: &str) -> Server<Stored> {
    let (server, _) = feed(opened(), "EHLO a\r\nMAIL FROM:<>\r\n");
    let (server, _) = server.step(Input::Admitted(Ok(())));
    let (server, _) = feed(server, "RCPT TO:<a@b>\r\nDATA\r\n");
    let (server, _) = server.step(Input::Begun(Ok(MessageId::from_bytes([1; 16]))));
    let (server, actions) = feed(server, &format!("A: b\r\n\r\n.\r\n{behind}"));
    assert!(matches!(actions.last(), Some(Action::Commit(_))), "{actions:?}");
    server
}

#[test]
fn commands_behind_the_final_dot_wait_for_the_commit() {
    let (server, actions) = feed(committing("NOOP\r\n"), "VRFY x\r\n");
    assert_eq!(said(&actions), "", "nothing may be answered before the commit");
    let (_, actions) = server.step(Input::Committed(Ok((Stored, MessageId::from_bytes([1; 16])))));
    let said = said(&actions);
    let codes: Vec<&str> = said.lines().map(|line| &line[..3]).collect();
    assert_eq!(codes, ["250", "250", "252"]);
}

#[test]
fn an_error_that_looks_like_an_acceptance_is_not_passed_on() {
    let forged = Reply::plain(250, "queued");
    let (_, actions) = committing("").step(Input::Committed(Err(forged)));
    assert!(said(&actions).starts_with("451 4.3.0 "), "{actions:?}");
}

#[test]
fn a_commit_that_nobody_asked_for_is_no_acceptance() {
    let (_, actions) = opened().step(Input::Committed(Ok((Stored, MessageId::from_bytes([1; 16])))));
    assert!(said(&actions).starts_with("451 ") && actions.contains(&Action::Close), "{actions:?}");
}

#[test]
fn octets_that_came_before_the_handshake_are_never_commands() {
    let (server, actions) = feed(opened(), "EHLO a\r\nSTARTTLS\r\n");
    assert_eq!(actions.last(), Some(&Action::StartTls));
    let (server, actions) = feed(server, "MAIL FROM:<evil@example>\r\n");
    assert_eq!(actions, []);
    let (_, actions) = server.step(Input::Secured("TLSv1.3".into()));
    assert!(said(&actions).starts_with("503 ") && actions.last() == Some(&Action::Close), "{actions:?}");
}

#[test]
fn a_drain_lets_the_message_finish_and_then_says_421() {
    let (server, actions) = committing("NOOP\r\n").step(Input::Drain);
    assert_eq!(actions, []);
    let (_, actions) = server.step(Input::Committed(Ok((Stored, MessageId::from_bytes([1; 16])))));
    assert!(said(&actions).starts_with("250 2.0.0 queued as ") && said(&actions).contains("\r\n421 4.3.2 "));
    let (_, actions) = opened().step(Input::Drain);
    assert!(said(&actions).starts_with("421 4.3.2 "));
}

#[test]
fn a_message_that_is_too_slow_is_abandoned() {
    let (server, _) = feed(opened(), "EHLO a\r\nMAIL FROM:<>\r\n");
    let (server, _) = server.step(Input::Admitted(Ok(())));
    let (server, _) = feed(server, "RCPT TO:<a@b>\r\nDATA\r\n");
    let (server, _) = server.step(Input::Begun(Ok(MessageId::from_bytes([1; 16]))));
    let (_, actions) = server.step(Input::Timeout);
    assert_eq!(actions.first(), Some(&Action::Abandon));
    assert!(said(&actions).starts_with("421 4.4.2 "));
}
