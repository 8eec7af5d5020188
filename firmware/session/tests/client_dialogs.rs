//! Runs the dialogs of `tests/dialogs/client` against the client state machine, with the server's octets whole, octet by
//! octet, and split in two at every place.
//!
//! `S:` what the next hop sends · `C:` what we must send · `!` what happens or must be asked for · `=` what must come out.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken dialog file or client ends the test")]

use mail::{Address, Outcome, Reply, ReversePath};
use session::client::{Action, Client, Input, Tls, Transaction};
use std::{fs, path::Path};

/// How the octets between two of our turns are cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Whole,
    Octets,
    At(usize),
}

/// A transcript in the notation of the files, built from what the client does.
fn run(text: &str, cut: Cut) -> Vec<String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let tls = match lines[0] {
        "client tls=none" => Tls::None,
        "client tls=opportunistic" => Tls::Opportunistic,
        "client tls=required" => Tls::Required,
        other => panic!("the first line must say client tls=…, not {other}"),
    };
    let mut client = Client::new("postern.example", tls);
    let mut said = Vec::new();
    let mut at = 1;
    while let Some(line) = lines.get(at) {
        at += 1;
        if line.starts_with("S: ") {
            let mut octets = Vec::new();
            at -= 1;
            while let Some(sent) = lines.get(at).and_then(|line| line.strip_prefix("S: ")) {
                octets.extend_from_slice(sent.as_bytes());
                octets.extend_from_slice(b"\r\n");
                said.push(format!("S: {sent}"));
                at += 1;
            }
            let split = match cut {
                Cut::At(place) => place.min(octets.len()),
                _ => octets.len(),
            };
            let pieces: Vec<&[u8]> = match cut {
                Cut::Octets => octets.chunks(1).collect(),
                _ => [&octets[..split], &octets[split..]].into_iter().filter(|piece| !piece.is_empty()).collect(),
            };
            for piece in pieces {
                client = feed(client, Input::Received(piece), &mut said);
            }
        } else if let Some(what) = line.strip_prefix("! ") {
            let mut words = what.split(' ');
            match words.next().unwrap() {
                "begin" => {
                    said.push((*line).to_owned());
                    client = begin(client, words.collect(), &mut said);
                }
                "lost" => {
                    said.push((*line).to_owned());
                    client = feed(client, Input::Lost, &mut said);
                }
                "timeout" => {
                    said.push((*line).to_owned());
                    client = feed(client, Input::TimedOut, &mut said);
                }
                "content" => client = feed(client, Input::ContentSent, &mut said),
                "starttls" => client = feed(client, Input::Secured, &mut said),
                // What the client asks for; `sending` leaves the content unfinished.
                "ready" | "sending" => {}
                other => panic!("{other}"),
            }
        }
    }
    said
}

fn begin(client: Client, words: Vec<&str>, said: &mut Vec<String>) -> Client {
    let paths: Vec<&str> = words.iter().filter_map(|w| w.strip_prefix('<')?.strip_suffix('>')).collect();
    let sender: ReversePath = paths[0].parse().unwrap();
    let recipients: Vec<Address> = paths[1..].iter().map(|path| path.parse().unwrap()).collect();
    let transaction = Transaction {
        sender: &sender,
        recipients: &recipients.iter().collect::<Vec<_>>(),
        size: words.iter().find_map(|w| w.strip_prefix("size=")).map_or(0, |size| size.parse().unwrap()),
        eight_bit: words.contains(&"8bit"),
        utf8_header: words.contains(&"utf8header"),
        smtputf8: false,
    };
    feed(client, Input::Begin(transaction), said)
}

fn feed(client: Client, input: Input<'_>, said: &mut Vec<String>) -> Client {
    let (client, actions) = client.step(input);
    for action in actions {
        match action {
            Action::Write(octets) => {
                let text = String::from_utf8(octets).unwrap();
                said.extend(text.strip_suffix("\r\n").unwrap().split("\r\n").map(|line| format!("C: {line}")));
            }
            Action::StartTls => said.push("! starttls".to_owned()),
            Action::Ready => said.push("! ready".to_owned()),
            Action::SendContent => said.push("! content".to_owned()),
            Action::Completed(completed) => said.extend(completed.outcomes.into_iter().map(|outcome| {
                let (what, reply) = match outcome {
                    Outcome::Delivered(reply) => ("delivered", reply),
                    Outcome::Deferred(reply) => ("deferred", reply),
                    Outcome::Failed(reply) => ("failed", reply),
                };
                let untouched = if completed.untouched { " untouched" } else { "" };
                format!("= {what} {}{untouched}", shown(&reply))
            })),
            Action::Unusable(reply) => said.push(format!("= unusable {}", shown(&reply))),
            Action::Close => said.push("= close".to_owned()),
        }
    }
    client
}

/// Replies of ours are long sentences: the files show only their codes.
fn shown(reply: &Reply) -> String {
    let ours = ["the next hop", "octets are more"].iter().any(|part| reply.lines[0].contains(part));
    match reply.enhanced {
        Some(enhanced) if ours => format!("{} {enhanced}", reply.code),
        _ => reply.to_string(),
    }
}

/// The file without comments; `sending` and `content` are the same request.
fn expected(text: &str) -> Vec<String> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#') && !line.starts_with("client ") && *line != "whole")
        .map(|line| if line == "! sending" { "! content".to_owned() } else { line.to_owned() })
        .collect()
}

#[test]
fn every_dialog_goes_as_written_however_the_octets_are_cut() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/dialogs/client");
    let mut count = 0;
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let mut cuts = vec![Cut::Whole];
        // Where the flaw is that two things come in one packet, other cuts are another dialog.
        if !text.lines().any(|line| line == "whole") {
            cuts.push(Cut::Octets);
            cuts.extend((1..160).map(Cut::At));
        }
        for cut in cuts {
            // Our own turns fall between the octets of one block: compared is each side's own order.
            let (said, expected) = (run(&text, cut), expected(&text));
            for side in [|line: &&String| line.starts_with("S:"), |line: &&String| !line.starts_with("S:")] {
                let (said, expected): (Vec<_>, Vec<_>) =
                    (said.iter().filter(side).collect(), expected.iter().filter(side).collect());
                assert_eq!(said, expected, "{} {cut:?}", path.display());
            }
        }
        count += 1;
    }
    assert!(count >= 25, "only {count} dialogs were found");
}
