//! Where the helper finds things.
//!
//! Job: every path and program below one root, `/` on the box. Place: handed to all that root does. Invariants: under
//! another root nothing of this machine is touched or run, which is what lets tests run the helper's real process. A
//! crash leaves nothing behind.

use std::path::{Path, PathBuf};

/// The root below which the helper acts.
#[derive(Clone, Debug)]
pub struct Place {
    root: PathBuf,
}

impl Place {
    /// Below `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The absolute path `path`, below the root.
    #[must_use]
    pub fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}
