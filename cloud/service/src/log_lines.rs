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
