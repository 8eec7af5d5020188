//! Log lines on standard output: time, level, text. Events among them start with `event=`.

use log::{LevelFilter, Log, Metadata, Record};
use std::io::Write;

struct Lines;

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries may log what passes through them; only our own lines are known to carry no content.
        metadata.target().starts_with("postern_cloud") && metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
            let text = record.args().to_string().replace(['\n', '\r'], " ");
            // Nobody reads the log any more: the service goes on.
            let _ = writeln!(std::io::stdout().lock(), "{now} {:5} {text}", record.level());
        }
    }

    fn flush(&self) {}
}

/// Starts logging at info level, or at `POSTERN_CLOUD_LOG` (`error` to `trace`).
pub fn start() {
    let level = std::env::var("POSTERN_CLOUD_LOG").ok().and_then(|l| l.parse().ok()).unwrap_or(LevelFilter::Info);
    if log::set_logger(&Lines).is_ok() {
        log::set_max_level(level);
    }
}

/// Makes a panic leave its place in the log and nothing else: its text may quote what was being worked on.
pub fn only_places_of_panics() {
    std::panic::set_hook(Box::new(|panic| log::error!("{}", place(panic))));
}

fn place(panic: &std::panic::PanicHookInfo<'_>) -> String {
    match panic.location() {
        Some(location) => format!("event=panic at={}:{}", location.file(), location.line()),
        None => "event=panic".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    #[allow(clippy::panic)]
    fn a_panic_leaves_its_place_and_not_its_text() {
        let (sender, lines) = mpsc::channel();
        std::panic::set_hook(Box::new(move |panic| drop(sender.send(place(panic)))));
        let ended = std::thread::spawn(|| panic!("cut in the middle of {:?}", "Befund")).join();
        let _ = std::panic::take_hook();
        assert!(ended.is_err());
        let line = lines.recv().unwrap_or_default();
        assert!(line.starts_with("event=panic at=") && line.contains("log_lines.rs:"), "{line}");
        assert!(!line.contains("Befund"), "{line}");
    }
}
