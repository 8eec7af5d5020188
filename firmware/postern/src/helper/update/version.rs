//! The order of versions.
//!
//! Job: say which of two versions is older. Place: before an installation, against the floor of the image that runs.
//! Invariants: the order of semantic versioning (semver.org §11) as far as we name versions; what is no version is older
//! than nothing and refused. A crash leaves nothing behind.

use std::cmp::Ordering;

/// `1.2.3` or `1.2.3-word`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    numbers: [u64; 3],
    /// What stands behind `-`: a version before the release.
    before: Option<String>,
}

impl Version {
    /// Reads a version; `None` where it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.split_once('+').map_or(text, |(version, _build)| version);
        let (numbers, before) = match text.split_once('-') {
            Some((numbers, before)) if !before.is_empty() => (numbers, Some(before.to_owned())),
            Some(_) => return None,
            None => (text, None),
        };
        let mut parts = numbers.split('.').map(|part| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            if digits { part.parse().ok() } else { None }
        });
        let numbers = [parts.next()??, parts.next()??, parts.next()??];
        if parts.next().is_some() { None } else { Some(Self { numbers, before }) }
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (&self.before, &other.before) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(a), Some(b)) => words(a, b),
        })
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Identifier by identifier; numbers by their value and below words.
fn words(a: &str, b: &str) -> Ordering {
    let key = |word: &str| match word.parse::<u64>() {
        Ok(number) => (0, number, String::new()),
        Err(_) => (1, 0, word.to_owned()),
    };
    a.split('.').map(key).cmp(b.split('.').map(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_stand_in_the_order_of_semantic_versioning() {
        let order = ["0.0.9", "0.9.0", "0.10.0-rc.1", "0.10.0-rc.2", "0.10.0-rc.10", "0.10.0-rc.x", "0.10.0", "1.0.0"];
        let versions: Vec<_> = order.iter().map(|text| Version::parse(text).unwrap()).collect();
        assert!(versions.is_sorted() && versions.iter().collect::<Vec<_>>().windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(Version::parse("1.0.0+build.7"), Version::parse("1.0.0"));
    }

    #[test]
    fn what_is_no_version_is_told_apart() {
        for bad in ["", "1", "1.0", "1.0.0.0", "v1.0.0", "1.0.-1", "1.0.0-", "1.a.0", "1..0", "+1.0.0"] {
            assert_eq!(Version::parse(bad), None, "{bad}");
        }
    }
}
