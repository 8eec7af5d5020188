//! Where log lines go.
//!
//! Job: under journald hand records over with their fields, elsewhere write readable lines to standard error. Place:
//! beside the message's way; every stage logs through the `log` facade. Invariants: never content, never a full address
//! at info level (stages mask before they log); a line that can't be written is lost, mail is not. As with every client
//! of journald, whoever logs waits while journald's queue is full. A crash leaves the lines written so far.

use log::{
    LevelFilter, Log, Metadata, Record,
    kv::{Key, Value, VisitSource},
};
use std::{
    fmt::Write as _,
    io::{self, Write as _},
};
use systemd_journal_logger::{JournalLog, connected_to_journal};

/// Starts logging at `level`.
///
/// # Errors
/// journald's socket can't be opened, or logging was started before.
pub fn start(level: LevelFilter) -> io::Result<()> {
    let sink: Box<dyn Log> = if connected_to_journal() {
        Box::new(JournalLog::new()?.with_syslog_identifier("postern".into()))
    } else {
        Box::new(Lines)
    };
    log::set_boxed_logger(Box::new(Wanted(sink))).map_err(io::Error::other)?;
    log::set_max_level(level);
    Ok(())
}

/// Leaves out what the TPM binding tells of every command; the vault says what matters of it.
struct Wanted(Box<dyn Log>);

impl Log for Wanted {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level() && !metadata.target().starts_with("tss_esapi")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// `TIME LEVEL module: text key=value …` on standard error.
struct Lines;

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // One write a line, so that lines of several threads do not mix.
        let _ = io::stderr().lock().write_all(line(jiff::Timestamp::now(), record).as_bytes());
    }

    fn flush(&self) {}
}

fn line(now: jiff::Timestamp, record: &Record<'_>) -> String {
    let mut line = format!("{now:.3} {:<5} {}: ", record.level(), record.target());
    push_clean(&mut line, &record.args().to_string());
    let _ = record.key_values().visit(&mut Pairs(&mut line));
    line.push('\n');
    line
}

/// A line stays a line, whatever a peer put into a value.
fn push_clean(line: &mut String, text: &str) {
    line.extend(text.chars().map(|c| if c.is_control() { ' ' } else { c }));
}

struct Pairs<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for Pairs<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        let text = value.to_string();
        let _ = write!(self.0, " {key}=");
        if text.is_empty() || text.contains([' ', '"', '=']) {
            self.0.push('"');
            push_clean(self.0, &text.replace('"', "'"));
            self.0.push('"');
        } else {
            push_clean(self.0, &text);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_with_spaces_are_quoted_and_line_ends_are_gone() {
        let pairs = [("event", "relayed"), ("reply", "250 ok\r\nforged event=x"), ("none", "")];
        let text = line(
            jiff::Timestamp::UNIX_EPOCH,
            &Record::builder()
                .args(format_args!("re\nlayed"))
                .target("pipeline")
                .level(log::Level::Info)
                .key_values(&pairs)
                .build(),
        );
        assert_eq!(
            text,
            "1970-01-01T00:00:00.000Z INFO  pipeline: re layed event=relayed reply=\"250 ok  forged event=x\" none=\"\"\n"
        );
    }
}
