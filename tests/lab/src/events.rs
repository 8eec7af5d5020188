//! Events of the parts, read from their logs as they are written.
//!
//! Job: turn the lines `… event=NAME key=value …` of appliance and cloud into one line per event. Place: behind the
//! message's way, as a reader of logs. Invariants: a line without an event is passed over. A crash leaves nothing.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Seek, SeekFrom},
    path::Path,
};

/// Something that happened to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `accepted`, `judged`, `secured`, `relayed`, `notified`, `read`, …
    pub name: String,
    /// The other keys, as logged.
    pub fields: BTreeMap<String, String>,
}

impl Event {
    /// The event in a log line, if it has one. Values may be quoted.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut fields = BTreeMap::new();
        let mut rest = line;
        while let Some(equals) = rest.find('=') {
            let key = rest[..equals].rsplit(|c: char| !(c.is_alphanumeric() || c == '_')).next()?.to_owned();
            let after = &rest[equals + 1..];
            let (value, left) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
                None => after.split_once(' ').unwrap_or((after, "")),
            };
            fields.insert(key, value.to_owned());
            rest = left;
        }
        fields.remove("event").map(|name| Self { name, fields })
    }
}

/// Follows one log file from its present end.
pub struct Follower {
    reader: BufReader<File>,
    line: String,
}

impl Follower {
    /// Starts at the end of `log`, which is made if it isn't there.
    ///
    /// # Errors
    /// The file can't be opened.
    pub fn at_end(log: &Path) -> io::Result<Self> {
        let mut file = File::options().read(true).append(true).create(true).open(log)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { reader: BufReader::new(file), line: String::new() })
    }

    /// All events since the last call.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn poll(&mut self) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        // A line without its end is kept until the rest is written.
        while self.reader.read_line(&mut self.line)? > 0 && self.line.ends_with('\n') {
            events.extend(Event::parse(self.line.trim_end()));
            self.line.clear();
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn keys_and_quoted_values_are_read() {
        let event = Event::parse(
            "2026-01-01T00:00:00Z INFO pipeline: accepted event=accepted id=01AB size=12 reply=\"250 ok\"",
        );
        let event = event.unwrap();
        assert_eq!(event.name, "accepted");
        assert_eq!(event.fields["id"], "01AB");
        assert_eq!(event.fields["reply"], "250 ok");
        assert_eq!(Event::parse("INFO started listeners=1"), None);
    }

    #[test]
    fn a_line_is_taken_when_its_end_is_written() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut follower = Follower::at_end(log.path()).unwrap();
        write!(log.as_file(), "x event=acc").unwrap();
        assert_eq!(follower.poll().unwrap(), []);
        writeln!(log.as_file(), "epted id=1").unwrap();
        assert_eq!(follower.poll().unwrap().len(), 1);
    }
}
