//! What the image says of itself.
//!
//! Job: version, and whether it was signed with development keys, for every screen; the security generation, for the
//! vault. Place: read at the start from the verified root. Invariants: an image whose description can't be read counts as a development image: nothing on it
//! proves more. A crash leaves nothing behind.

use serde::Deserialize;
use std::{fs, path::Path};

/// `image.json`, as far as the daemon shows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Image {
    /// Version of the image; of the program where there is no image.
    pub version: String,
    /// Whether its keys are development keys.
    pub development: bool,
    /// Its security generation.
    #[serde(default = "lowest")]
    pub generation: u32,
}

/// The generation that everything began with.
fn lowest() -> u32 {
    1
}

impl Image {
    /// The description in `file`, or, without one, the program's own.
    #[must_use]
    pub fn of(file: Option<&Path>) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let program = |development| Self { version, development, generation: lowest() };
        let Some(path) = file else { return program(false) };
        let text = fs::read(path).map_err(|error| error.to_string());
        text.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string())).unwrap_or_else(|error| {
            log::error!(error, path:? = path; "the image's description can't be read; install the image anew");
            program(true)
        })
    }

    /// The generation that keys are sealed for, at least. An image on trial raises none: the image before, which may run
    /// again in a minute, could not open them any more.
    #[must_use]
    pub fn sealed_for(&self, on_trial: bool) -> u32 {
        if on_trial { lowest() } else { self.generation }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_readable_description_counts_as_a_development_image() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for text in ["", "{}", "{\"version\":7,\"development\":false}"] {
            fs::write(file.path(), text).unwrap();
            assert!(Image::of(Some(file.path())).development, "{text:?}");
        }
        assert!(Image::of(Some(Path::new("/nonexistent/image.json"))).development);
        assert!(!Image::of(None).development);
    }

    #[test]
    fn an_image_on_trial_raises_no_generation() {
        let image = Image { version: "2.1.0".into(), development: false, generation: 3 };
        assert_eq!((image.sealed_for(true), image.sealed_for(false)), (1, 3));
    }

    #[test]
    fn what_the_image_says_is_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text =
            "{\"version\":\"2.1.0\",\"generation\":3,\"floor\":\"2.0.0\",\"development\":false,\"board\":\"rack-x86\"}";
        fs::write(file.path(), text).unwrap();
        assert_eq!(Image::of(Some(file.path())), Image { version: "2.1.0".into(), development: false, generation: 3 });
    }
}
