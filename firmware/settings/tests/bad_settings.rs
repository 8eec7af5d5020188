//! A folder of bad settings, each with all the errors that it must give beside it.
//!
//! After a deliberate change of a message: `POSTERN_WRITE_EXPECTED=1`, then read the difference before it is kept.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

use std::{
    env, fs,
    path::{Path, PathBuf},
};

fn vectors() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/settings");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    files
}

fn errors_of(path: &Path) -> String {
    match settings::parse(&fs::read_to_string(path).unwrap()) {
        Ok(_) => "no error\n".to_owned(),
        Err(problems) => problems.iter().map(|problem| format!("{problem}\n")).collect(),
    }
}

#[test]
fn each_bad_file_gives_all_its_errors_with_path_line_and_remedy() {
    let files = vectors();
    assert!(files.len() >= 15, "only {} vectors found", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let (errors, beside) = (errors_of(&file), file.with_extension("expected"));
        if env::var_os("POSTERN_WRITE_EXPECTED").is_some() {
            fs::write(&beside, &errors).unwrap();
        }
        if errors == "no error\n" || fs::read_to_string(&beside).unwrap_or_default() != errors {
            wrong.push(format!("{}:\n{errors}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "not as expected:\n{}", wrong.join("\n"));
}

#[test]
fn every_error_has_two_halves_and_a_place() {
    for file in vectors() {
        for problem in settings::parse(&fs::read_to_string(&file).unwrap()).unwrap_err() {
            assert!(problem.line.is_some(), "{problem:?}");
            assert!(problem.what.len() > 10 && problem.remedy.len() > 5, "{problem:?}");
            assert!(!problem.to_string().contains("secret@"), "a password from a URL is shown: {problem}");
        }
    }
}
