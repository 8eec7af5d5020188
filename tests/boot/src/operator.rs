//! Somebody who stands in front of the box, with nothing but its serial console.
//!
//! Job: read the screen and press keys, as the console's own pages ask for. Place: the only way into a box that is new or
//! locked. Invariants: every key is pressed because of something that stands on the screen. A crash leaves the screen where
//! it was.

use crate::{machine::Machine, serial::Keyboard};
use std::{io, time::Duration};

/// How long a screen may take to change under emulation.
const PATIENCE: Duration = Duration::from_secs(240);

/// Opens a locked box with the recovery key; what the console says of it.
///
/// # Errors
/// A screen that should come does not; the error shows the one that stands there.
pub fn unlock(machine: &Machine, words: &str) -> io::Result<String> {
    let serial = machine.serial();
    serial.wait_for_screen(&["Enter unlock"], PATIENCE)?;
    let mut keyboard = serial.keyboard()?;
    keyboard.press("\r")?;
    serial.wait_for_screen(&["Unlock with the recovery key"], PATIENCE)?;
    keyboard.press(words.trim())?;
    keyboard.press("\r")?;
    let told = ["Unlocked and sealed anew", "Unlocked until the next start"];
    let index = serial.wait_for_screen(&told, PATIENCE)?;
    Ok(told.get(index).copied().unwrap_or_default().to_owned())
}

/// What the first questions are answered with.
#[derive(Clone, Debug)]
pub struct Answers {
    /// The box's full name.
    pub host: String,
    /// Where other mail goes.
    pub next_hop: String,
    /// The house's domain.
    pub domain: String,
    /// And its mail server.
    pub internal: String,
    /// Password of the administrator.
    pub password: String,
    /// Who gets the test message.
    pub recipient: String,
}

/// Answers all of the first questions of a new box, up to the test message; the words of its recovery key.
///
/// # Errors
/// As [`unlock`].
pub fn answer(machine: &Machine, answers: &Answers) -> io::Result<String> {
    let serial = machine.serial();
    let shows = |pattern: &str| serial.wait_for_screen(&[pattern], PATIENCE).map(drop);
    shows("Enter set up")?;
    let mut keyboard = serial.keyboard()?;
    keyboard.press("\r")?;
    shows("Name and address")?;
    let mut fill = |fields: &[&str]| -> io::Result<()> {
        for field in fields {
            enter(&mut keyboard, field)?;
        }
        Ok(())
    };
    // Host, DHCP as it is chosen at first, name servers as the network says.
    fill(&[&answers.host, "", ""])?;
    shows("Servers that tell the time")?;
    fill(&[""])?;
    shows("Where mail for everybody else goes")?;
    // Who may hand in is filled in from the server's address.
    fill(&[&answers.next_hop, &answers.domain, &answers.internal, ""])?;
    shows("secure-messaging service")?;
    fill(&["", ""])?;
    shows("Who may operate this appliance")?;
    // "admin" stands there.
    fill(&["", &answers.password, &answers.password])?;
    shows("Have paper and a pen ready")?;
    fill(&[""])?;
    shows("Write these words down")?;
    let words = recovery_words(&serial.screen().lines())?;
    fill(&[""])?;
    shows("Type these words from your paper")?;
    for position in asked(&serial.screen().lines()) {
        let word = words.get(position.wrapping_sub(1)).ok_or_else(|| io::Error::other("a word that is not there"))?;
        fill(&[word])?;
    }
    shows("Nothing of this is in force yet")?;
    fill(&[""])?;
    shows("A message of the appliance's own")?;
    fill(&[&answers.recipient])?;
    Ok(words.join(" "))
}

fn enter(keyboard: &mut Keyboard, text: &str) -> io::Result<()> {
    keyboard.press(text)?;
    keyboard.press("\r")
}

/// The numbered words of the page that shows them, in their order.
fn recovery_words(lines: &[String]) -> io::Result<Vec<String>> {
    let mut words = Vec::new();
    for line in lines {
        let parts: Vec<_> = line.split_whitespace().collect();
        for (number, word) in parts.as_chunks::<2>().0.iter().map(|[number, word]| (number, word)) {
            if let Ok(number) = number.parse::<usize>() {
                words.push((number, (*word).to_owned()));
            }
        }
    }
    words.sort();
    let numbers: Vec<_> = words.iter().map(|(number, _)| *number).collect();
    if numbers != (1..=24).collect::<Vec<_>>() {
        return Err(io::Error::other(format!("the screen does not show 24 words:\n{}", lines.join("\n"))));
    }
    Ok(words.into_iter().map(|(_, word)| word).collect())
}

/// The numbers behind "Word" on the page that asks for some of them.
fn asked(lines: &[String]) -> Vec<usize> {
    let number = |line: &String| line.trim().strip_prefix("Word ")?.split_whitespace().next()?.parse().ok();
    lines.iter().filter_map(number).collect()
}
