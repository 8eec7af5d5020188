//! The house's levels hold: a crate uses only crates of lower levels, and heavy libraries stay behind their fences.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};
use std::collections::BTreeMap;

/// Level of each crate of the appliance and the cloud (ARCHITECTURE.md, "The house").
const LEVELS: [(&str, u8); 13] = [
    ("mail", 0),
    ("wire", 0),
    ("ledger", 1),
    ("settings", 1),
    ("vault", 1),
    ("policy", 2),
    ("session", 2),
    ("spool", 2),
    ("delivery", 3),
    ("intake", 3),
    ("operator", 4),
    ("postern", 5),
    ("postern-cloud", 5),
];

/// Crates around the system, which no part of it uses: tests and the tools that build the image.
const OUTSIDE: [&str; 4] = ["lab", "boot", "boot-agent", "image"];

/// Libraries that only these crates may name.
const FENCES: [(&str, &[&str]); 5] = [
    ("tss-esapi", &["vault"]),
    ("rusqlite", &["ledger", "spool"]),
    ("smtp-proto", &["session"]),
    ("ratatui", &["operator"]),
    ("crossterm", &["operator"]),
];

fn metadata() -> Metadata {
    MetadataCommand::new().no_deps().exec().expect("cargo metadata works in the workspace")
}

/// Crate → the libraries that it names outside of its tests.
fn dependencies(metadata: &Metadata) -> BTreeMap<&str, Vec<&str>> {
    metadata
        .packages
        .iter()
        .map(|package| {
            let names = package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development);
            (package.name.as_str(), names.map(|d| d.name.as_str()).collect())
        })
        .collect()
}

#[test]
fn every_member_has_a_level() {
    let metadata = metadata();
    let unknown: Vec<_> = metadata
        .packages
        .iter()
        .map(|p| p.name.as_str())
        .filter(|name| !OUTSIDE.contains(name) && !LEVELS.iter().any(|(known, _)| known == name))
        .collect();
    assert!(unknown.is_empty(), "give these crates a level: {unknown:?}");
    assert_eq!(
        metadata.packages.len(),
        LEVELS.len() + OUTSIDE.len(),
        "a crate in LEVELS is no longer in the workspace"
    );
}

#[test]
fn a_crate_uses_only_crates_of_lower_levels() {
    let levels: BTreeMap<_, _> = LEVELS.into_iter().collect();
    for (name, uses) in dependencies(&metadata()) {
        let Some(level) = levels.get(name) else { continue };
        for used in uses {
            // Settings speak of addresses and actions, so they stand above mail; nobody stands beside a crate he uses.
            if let Some(lower) = levels.get(used) {
                assert!(lower < level, "{name} (level {level}) uses {used} (level {lower})");
            }
        }
    }
}

#[test]
fn cloud_and_firmware_share_the_wire_alone() {
    let metadata = metadata();
    let dependencies = dependencies(&metadata);
    let shared: Vec<_> =
        dependencies["postern-cloud"].iter().filter(|name| LEVELS.iter().any(|(l, _)| l == *name)).collect();
    assert_eq!(shared, [&"wire"]);
}

#[test]
fn heavy_libraries_stay_behind_their_fences() {
    for (name, uses) in dependencies(&metadata()) {
        for (library, allowed) in FENCES {
            assert!(!uses.contains(&library) || allowed.contains(&name), "{name} uses {library}; only {allowed:?} may");
        }
    }
}
