//! From the bytes of a terminal to keys.
//!
//! Job: put escape sequences together, however slowly a serial line brings their bytes, and drop what is none. Place:
//! between the terminal and the state machine; it has no clock: [`Decoder::expire`] is called when nothing came for
//! [`ALONE`]. Invariants: no sequence of bytes is more than bounded state, and none is an error; a part of a sequence is
//! never typed into a field. A crash leaves nothing behind.

use super::event::Key;
use std::{str, time::Duration};
use zeroize::Zeroizing;

/// An escape after which nothing came for so long was the key. A byte takes 10 ms at 1,200 bit/s, and a network between
/// terminal and line holds bytes back for some ten.
pub const ALONE: Duration = Duration::from_millis(150);

/// Bytes of a sequence's numbers; the keys that are known have at most three.
const LONGEST: usize = 16;

/// Reads one terminal.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    /// Whether the last byte was CR: an LF behind it is no second Enter.
    returned: bool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Ground,
    Escape,
    /// ESC O
    Three,
    /// ESC \[, with the bytes behind it
    Sequence(Vec<u8>),
    /// ESC \[ \[: a function key of Linux' own terminal
    Function,
    /// A character, and how many bytes it has.
    Character(Zeroizing<Vec<u8>>, usize),
}

impl Decoder {
    /// Takes a byte; the keys that it completes.
    pub fn feed(&mut self, byte: u8) -> Vec<Key> {
        match std::mem::take(&mut self.state) {
            State::Ground => self.begin(byte).into_iter().collect(),
            State::Escape => self.behind_escape(byte),
            State::Three => self.part(byte).unwrap_or_else(|| three(byte).into_iter().collect()),
            State::Function => Vec::new(),
            State::Sequence(mut parameters) => self.part(byte).unwrap_or_else(|| match byte {
                b'[' if parameters.is_empty() => {
                    self.state = State::Function;
                    Vec::new()
                }
                0x40..=0x7e => sequence(&parameters, byte).into_iter().collect(),
                _ => {
                    if parameters.len() < LONGEST {
                        parameters.push(byte);
                    }
                    self.state = State::Sequence(parameters);
                    Vec::new()
                }
            }),
            State::Character(mut bytes, length) if byte & 0xc0 == 0x80 => {
                bytes.push(byte);
                if bytes.len() < length {
                    self.state = State::Character(bytes, length);
                    return Vec::new();
                }
                let text = str::from_utf8(&bytes).ok().and_then(|text| text.chars().next());
                text.filter(|c| !c.is_control()).map(Key::Char).into_iter().collect()
            }
            // Not the rest of a character: that one is lost, this byte is not.
            State::Character(..) => self.begin(byte).into_iter().collect(),
        }
    }

    /// Nothing came for a while: what is there is all there is.
    pub fn expire(&mut self) -> Option<Key> {
        matches!(std::mem::take(&mut self.state), State::Escape).then_some(Key::Esc)
    }

    /// Whether [`Decoder::expire`] has something to do.
    pub fn is_within(&self) -> bool {
        !matches!(self.state, State::Ground)
    }

    /// A control character within a sequence ends it; so does a byte that no sequence has. `None`: it belongs to it.
    fn part(&mut self, byte: u8) -> Option<Vec<Key>> {
        let foreign = !(0x20..=0x7e).contains(&byte);
        foreign.then(|| self.begin(byte).into_iter().collect())
    }

    fn behind_escape(&mut self, byte: u8) -> Vec<Key> {
        match byte {
            b'[' => self.state = State::Sequence(Vec::new()),
            b'O' => self.state = State::Three,
            // Alt with a character is no key of ours.
            0x20..=0x7e => {}
            _ => return [Some(Key::Esc), self.begin(byte)].into_iter().flatten().collect(),
        }
        Vec::new()
    }

    fn begin(&mut self, byte: u8) -> Option<Key> {
        let returned = std::mem::replace(&mut self.returned, byte == b'\r');
        let length = match byte {
            b'\r' => return Some(Key::Enter),
            b'\n' => return (!returned).then_some(Key::Enter),
            b'\t' => return Some(Key::Tab),
            0x03 => return Some(Key::Interrupt),
            0x08 | 0x7f => return Some(Key::Backspace),
            0x0c => return Some(Key::Redraw),
            0x0e => return Some(Key::New),
            0x15 => return Some(Key::ClearLine),
            0x20..=0x7e => return Some(Key::Char(char::from(byte))),
            0x1b => {
                self.state = State::Escape;
                return None;
            }
            // CSI and SS3 of terminals that send eight bits.
            0x9b => {
                self.state = State::Sequence(Vec::new());
                return None;
            }
            0x8f => {
                self.state = State::Three;
                return None;
            }
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => return None,
        };
        let mut bytes = Zeroizing::new(Vec::with_capacity(4));
        bytes.push(byte);
        self.state = State::Character(bytes, length);
        None
    }
}

/// ESC O and a letter: the same keys, from a terminal in its application mode.
fn three(letter: u8) -> Option<Key> {
    Some(match letter {
        b'A' => Key::Up,
        b'B' => Key::Down,
        b'C' => Key::Right,
        b'D' => Key::Left,
        b'F' => Key::End,
        b'H' => Key::Home,
        b'M' => Key::Enter,
        _ => return None,
    })
}

/// ECMA-48 §5.4, with the numbers of DEC's editing keys.
fn sequence(parameters: &[u8], last: u8) -> Option<Key> {
    let number = parameters.split(|byte| *byte == b';').next().unwrap_or_default();
    Some(match (last, number) {
        (b'Z', _) => Key::BackTab,
        (b'~', b"1" | b"7") => Key::Home,
        (b'~', b"3") => Key::Delete,
        (b'~', b"4" | b"8") => Key::End,
        (b'~', b"5") => Key::PageUp,
        (b'~', b"6") => Key::PageDown,
        (b'A'..=b'D' | b'F' | b'H', _) => return three(last),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut decoder = Decoder::default();
        bytes.iter().flat_map(|byte| decoder.feed(*byte)).collect()
    }

    #[test]
    fn a_sequence_that_comes_byte_by_byte_is_one_key_and_a_lone_escape_another() {
        let mut decoder = Decoder::default();
        for (sequence, key) in [("\x1b[A", Key::Up), ("\x1bOB", Key::Down), ("\x1b[6~", Key::PageDown)] {
            let (last, before) = sequence.as_bytes().split_last().unwrap();
            for byte in before {
                assert!(decoder.feed(*byte).is_empty() && decoder.is_within());
            }
            assert_eq!(decoder.feed(*last), [key]);
            assert!(!decoder.is_within());
        }
        assert!(decoder.feed(0x1b).is_empty());
        assert_eq!((decoder.expire(), decoder.is_within()), (Some(Key::Esc), false));
        decoder.feed(0x1b);
        decoder.feed(b'[');
        assert_eq!(decoder.expire(), None, "half a sequence is no key");
        assert_eq!(decoder.feed(b'A'), [Key::Char('A')]);
    }

    #[test]
    fn keys_of_several_terminals_are_known() {
        let known = b"\x1b[1~\x1b[7~\x1b[H\x1b[4~\x1b[8~\x1b[F\x1b[3~\x1b[5~\x1b[Z\x9bC\x8fD\x1b[1;5A\x08\x7f\t\x0c\x15\x0e\x03";
        use Key::{
            BackTab, Backspace, ClearLine, Delete, End, Home, Interrupt, Left, New, PageUp, Redraw, Right, Tab, Up,
        };
        let expected = [
            Home, Home, Home, End, End, End, Delete, PageUp, BackTab, Right, Left, Up, Backspace, Backspace, Tab,
            Redraw, ClearLine, New, Interrupt,
        ];
        assert_eq!(keys(known), expected);
        assert!(keys(b"\x1b[[A\x1b[15~\x1bOP\x1b[24;80R\x1bx").is_empty(), "function keys, reports, Alt");
    }

    #[test]
    fn the_line_end_of_a_pasted_text_is_one_enter() {
        assert_eq!(
            keys(b"a\r\nb\nc\r"),
            "a\rb\rc\r".chars().map(|c| if c == '\r' { Key::Enter } else { Key::Char(c) }).collect::<Vec<_>>()
        );
        assert_eq!(keys("ü€𝄞".as_bytes()), "ü€𝄞".chars().map(Key::Char).collect::<Vec<_>>());
    }

    #[test]
    fn garbage_of_a_line_is_dropped_and_the_next_key_is_read() {
        let mut decoder = Decoder::default();
        // A generator's bytes, among them half characters, long sequences, and breaks.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..100_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            for key in decoder.feed((state >> 56) as u8) {
                assert!(!matches!(key, Key::Char(c) if c.is_control()), "{key:?}");
            }
        }
        decoder.expire();
        assert_eq!(decoder.feed(b'q'), [Key::Char('q')]);
        assert_eq!(
            keys(b"\xc3(\xff\0\xe2\x82x\x1b[\x0cz"),
            [Key::Char('('), Key::Char('x'), Key::Redraw, Key::Char('z')]
        );
        let long = [b"\x1b[".as_slice(), &[b'1'; 5_000], b"~a"].concat();
        assert_eq!(keys(&long), [Key::Char('a')]);
        assert_eq!(keys(b"\x1b\x1b\x1b[A\x1b\r"), [Key::Esc, Key::Esc, Key::Up, Key::Esc, Key::Enter]);
    }
}
