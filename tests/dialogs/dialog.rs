//! Dialogs with the server, as a postmaster would write them down.
//!
//! Job: read the files of `tests/dialogs/server` and play them against anything that takes octets and gives lines. Place:
//! shared by the tests of session (no socket) and intake (real sockets). Invariants: every reply is written in the file,
//! and so is every accepted message; what a file does not name fails it. A crash leaves nothing behind.
//!
//! First line: `server` and its settings (`stranger`: the client is in no listed network; `tls`: STARTTLS is offered;
//! `size=N`: octets of a message; `whole`: the client's octets come in one packet only). Then
//! `C:` a line of the client · `R:` octets of the client, with \r \n \0 \\ and \xHH · `*N` before either: N times, `#`
//! counting · `S:` the last line of a reply, or a line that ends with `-`; `*` stands for anything · `! tls` the handshake
//! · `= accepted <from> <to>…` and `= content …` the message that was accepted · `= close` the server closes.
//! At the end QUIT is sent and must get its 221: nobody may have lost count.

use std::{fs, path::Path};

/// How the client's octets between two replies are cut into packets.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// Not at all.
    Whole,
    /// After each octet.
    Octets,
    /// In two, at this place.
    At(usize),
}

/// One file.
pub struct Dialog {
    pub name: String,
    pub stranger: bool,
    pub tls: bool,
    pub size: u64,
    pub whole: bool,
    steps: Vec<(usize, Step)>,
}

enum Step {
    Send(Vec<u8>),
    Expect(String),
    Handshake,
    Accepted(String),
    Content(Vec<u8>),
    Close,
}

/// A message as the stages behind the session saw it.
#[derive(Debug)]
pub struct Accepted {
    /// `<from> <to>…`
    pub paths: String,
    pub content: Vec<u8>,
}

/// What a dialog is played against.
pub trait Player {
    fn send(&mut self, octets: &[u8]);
    /// The next line without its CR LF; `None` when the server has closed.
    fn line(&mut self) -> Option<String>;
    fn handshake(&mut self);
    /// The oldest message that was accepted and not yet asked for.
    fn accepted(&mut self) -> Option<Accepted>;
}

/// All files, by name.
pub fn all() -> Vec<Dialog> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/dialogs/server");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| read(file)).collect()
}

fn read(file: &Path) -> Dialog {
    let name = file.file_stem().unwrap().to_string_lossy().into_owned();
    let text = fs::read_to_string(file).unwrap();
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let (_, head) = lines.next().unwrap_or_else(|| panic!("{name}: empty"));
    let mut words = head.split(' ');
    assert_eq!(words.next(), Some("server"), "{name}: the first line must begin with server");
    let mut dialog = Dialog { name, stranger: false, tls: false, size: 1_000_000, whole: false, steps: Vec::new() };
    for word in words {
        match word.split_once('=') {
            Some(("size", size)) => dialog.size = size.parse().unwrap(),
            None if word == "stranger" => dialog.stranger = true,
            None if word == "tls" => dialog.tls = true,
            None if word == "whole" => dialog.whole = true,
            _ => panic!("{}: unknown setting {word}", dialog.name),
        }
    }
    for (number, line) in lines {
        let (times, line) = match line.strip_prefix('*').and_then(|rest| rest.split_once(' ')) {
            Some((times, line)) => (times.parse().unwrap(), line),
            None => (1usize, line),
        };
        for time in 0..times {
            let line = if times > 1 { line.replace('#', &time.to_string()) } else { line.to_owned() };
            let step = step(&line).unwrap_or_else(|| panic!("{}:{}: not a step", dialog.name, number + 1));
            match (step, dialog.steps.last_mut()) {
                // What the client says without waiting is one run of octets.
                (Step::Send(more), Some((_, Step::Send(octets)))) => octets.extend(more),
                (step, _) => dialog.steps.push((number + 1, step)),
            }
        }
    }
    dialog
}

fn step(line: &str) -> Option<Step> {
    let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
    match kind {
        "C:" => Some(Step::Send([rest.as_bytes(), b"\r\n"].concat())),
        "R:" => Some(Step::Send(octets(rest))),
        "S:" => Some(Step::Expect(rest.to_owned())),
        "!" if rest == "tls" => Some(Step::Handshake),
        "=" if rest == "close" => Some(Step::Close),
        "=" => match rest.split_once(' ').unwrap_or((rest, "")) {
            ("accepted", paths) => Some(Step::Accepted(paths.to_owned())),
            ("content", content) => Some(Step::Content(octets(content))),
            _ => None,
        },
        _ => None,
    }
}

fn octets(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&octet, after)) = rest.split_first() {
        rest = after;
        if octet != b'\\' {
            out.push(octet);
            continue;
        }
        let (&kind, after) = rest.split_first().expect("an escape ends the line");
        rest = after;
        out.push(match kind {
            b'r' => b'\r',
            b'n' => b'\n',
            b'0' => 0,
            b'\\' => b'\\',
            b'x' => {
                let (hex, after) = rest.split_at(2);
                rest = after;
                u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap()
            }
            other => panic!("unknown escape \\{}", other as char),
        });
    }
    out
}

/// The longest run of octets that the client sends without waiting.
pub fn longest_run(dialog: &Dialog) -> usize {
    let runs = dialog.steps.iter().filter_map(|(_, step)| match step {
        Step::Send(octets) => Some(octets.len()),
        _ => None,
    });
    runs.max().unwrap_or_default()
}

/// Plays the dialog and says what first went another way.
pub fn play(dialog: &Dialog, cut: Cut, player: &mut impl Player) -> Result<(), String> {
    let mut message = None;
    let mut closed = false;
    for (number, step) in &dialog.steps {
        let differs = |expected: &str, got: String| {
            Err(format!("{}:{number} {cut:?}: expected {expected:?}, got {got:?}", dialog.name))
        };
        match step {
            Step::Send(octets) => match cut {
                Cut::Whole => player.send(octets),
                Cut::Octets => octets.chunks(1).for_each(|octet| player.send(octet)),
                Cut::At(place) => {
                    let (first, second) = octets.split_at(place.min(octets.len()));
                    player.send(first);
                    player.send(second);
                }
            },
            Step::Expect(pattern) => {
                let line = reply(player, pattern.ends_with('-'));
                match line {
                    Some(line) if matches(pattern.trim_end_matches('-'), &line) => {}
                    other => return differs(pattern, other.unwrap_or_else(|| "(closed)".into())),
                }
            }
            Step::Handshake => player.handshake(),
            Step::Accepted(paths) => {
                message = player.accepted();
                match &message {
                    Some(accepted) if accepted.paths == *paths => {}
                    other => return differs(paths, format!("{other:?}")),
                }
            }
            Step::Content(content) => match &message {
                Some(accepted) if accepted.content == *content => {}
                other => return differs(&String::from_utf8_lossy(content), format!("{other:?}")),
            },
            Step::Close => {
                closed = true;
                if let Some(line) = player.line() {
                    return differs("(closed)", line);
                }
            }
        }
    }
    if !closed {
        player.send(b"QUIT\r\n");
        match player.line() {
            Some(line) if line.starts_with("221 ") => {}
            other => return Err(format!("{} {cut:?}: QUIT got {other:?}", dialog.name)),
        }
    }
    match player.accepted() {
        None => Ok(()),
        Some(message) => Err(format!("{} {cut:?}: accepted what the file does not name: {message:?}", dialog.name)),
    }
}

/// The last line of the next reply, or just its next line.
fn reply(player: &mut impl Player, one_line: bool) -> Option<String> {
    loop {
        let line = player.line()?;
        if one_line || line.as_bytes().get(3) != Some(&b'-') {
            return Some(line);
        }
    }
}

fn matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty()
}
