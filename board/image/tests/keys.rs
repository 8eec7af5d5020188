//! The scripts in `keys/`: making keys again changes nothing, a release with a development key is refused however it got
//! there, and a key on a token signs the same image.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{answer, keys_folder, order, repository, run};
use image::{assemble::assemble, sha256};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

const NAMES: [&str; 7] = ["PK", "KEK", "db", "policy", "rauc-ca", "rauc", "cloud-ca"];

/// `keys/check.sh`: whether it is content, and what it says.
fn check(folder: &Path, release: bool) -> (bool, String) {
    let mut command = Command::new(repository().join("keys/check.sh"));
    let output = answer(command.arg(folder).args(release.then_some("--release")));
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn contents(folder: &Path) -> BTreeMap<PathBuf, [u8; 32]> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.clone(), sha256(&[&fs::read(&path).unwrap()]))).collect()
}

/// Keys as a release has them, but in files: those of development, with other subjects.
fn release(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for name in NAMES {
        let key = folder.join(format!("{name}.key"));
        run(Command::new("openssl").args(["genpkey", "-algorithm", "RSA", "-out"]).arg(&key));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let mut certificate = Command::new("openssl");
        certificate
            .args(["req", "-x509", "-new", "-sha256", "-days", "30", "-subj"])
            .arg(format!("/O=Example/CN={name}"));
        if name == "rauc" {
            let authority = |kind: &str| folder.join(format!("rauc-ca.{kind}"));
            certificate.arg("-CA").arg(authority("crt")).arg("-CAkey").arg(authority("key"));
            certificate.args(["-addext", "extendedKeyUsage=critical,codeSigning"]);
            certificate.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        }
        run(certificate.arg("-key").arg(&key).arg("-out").arg(folder.join(format!("{name}.crt"))));
    }
    let public = folder.join("policy.pub");
    run(Command::new("openssl")
        .args(["pkey", "-pubout", "-in"])
        .arg(folder.join("policy.key"))
        .arg("-out")
        .arg(public));
}

#[test]
fn making_development_keys_again_changes_nothing() {
    let folder = keys_folder();
    let before = contents(&folder);
    keys_folder();
    assert_eq!(before, contents(&folder));
    for name in NAMES {
        let mode = fs::metadata(folder.join(format!("{name}.key"))).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    for name in ["PK", "KEK", "db"] {
        for kind in ["der", "esl", "auth"] {
            assert!(fs::metadata(folder.join(format!("{name}.{kind}"))).unwrap().len() > 700, "{name}.{kind}");
        }
    }
    let (content, said) = check(&folder, false);
    assert!(content, "{said}");
}

#[test]
fn release_keys_are_never_mixed_with_made_up_ones() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("db.uri"), "pkcs11:token=postern\n").unwrap();
    let output = answer(Command::new(repository().join("keys/make.sh")).arg(&own));
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("has keys and no marker"));
    assert!(!own.join("DEVELOPMENT").exists() && !own.join("PK.key").exists());
}

#[test]
fn a_release_refuses_development_keys_marked_or_copied() {
    let folder = tempfile::tempdir().unwrap();
    let copied = folder.path().join("copied");
    copy(&keys_folder(), &copied);
    let (content, said) = check(&copied, true);
    assert!(!content && said.contains("is marked DEVELOPMENT"), "{said}");
    fs::remove_file(copied.join("DEVELOPMENT")).unwrap();
    let (content, said) = check(&copied, true);
    assert!(!content);
    for name in NAMES {
        assert!(said.contains(&format!("keys: {name} is a development key")), "{name}: {said}");
    }

    let own = folder.path().join("own");
    release(&own);
    assert_eq!(check(&own, true), (true, String::new()));
    assert!(!image::keys::Keys::open(&own).unwrap().development());
    for name in NAMES {
        let mixed = folder.path().join(format!("mixed-{name}"));
        copy(&own, &mixed);
        for kind in ["key", "crt"] {
            fs::copy(copied.join(format!("{name}.{kind}")), mixed.join(format!("{name}.{kind}"))).unwrap();
        }
        let (content, said) = check(&mixed, true);
        assert!(!content && said.contains(&format!("keys: {name} is a development key")), "{name}: {said}");
        assert!(image::keys::Keys::open(&mixed).is_err(), "{name}: the image tool takes it");
    }
}

#[test]
fn every_fault_of_a_folder_of_keys_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own");
    release(&own);
    type Change<'a> = &'a dyn Fn(&Path);
    let faults: [(&str, Change<'_>); 7] = [
        ("the private key db is missing", &|keys| fs::remove_file(keys.join("db.key")).unwrap()),
        ("the certificate PK.crt is missing", &|keys| fs::remove_file(keys.join("PK.crt")).unwrap()),
        ("policy.pub is not the key of policy.crt", &|keys| fs::write(keys.join("policy.pub"), "x").unwrap()),
        ("KEK.key is open to others", &|keys| {
            fs::set_permissions(keys.join("KEK.key"), fs::Permissions::from_mode(0o640)).unwrap();
        }),
        ("cloud-ca.key is not the key of cloud-ca.crt", &|keys| {
            fs::copy(keys.join("rauc.key"), keys.join("cloud-ca.key")).unwrap();
        }),
        ("one key stands in for two purposes", &|keys| {
            fs::copy(keys.join("db.crt"), keys.join("KEK.crt")).unwrap();
        }),
        ("rauc.crt is not signed by rauc-ca.crt", &|keys| {
            fs::copy(keys.join("cloud-ca.crt"), keys.join("rauc-ca.crt")).unwrap();
        }),
    ];
    let all = folder.path().join("all");
    copy(&own, &all);
    for (number, (reason, change)) in faults.into_iter().enumerate() {
        let keys = folder.path().join(number.to_string());
        copy(&own, &keys);
        change(&keys);
        let (content, said) = check(&keys, true);
        assert!(!content && said.contains(reason) && said.contains("; "), "{reason}: {said}");
        change(&all);
    }
    let (_, said) = check(&all, true);
    assert!(said.lines().count() >= 6, "not all faults at once: {said}");
}

#[test]
fn keys_on_a_token_make_the_same_image_as_keys_in_files() {
    let folder = tempfile::tempdir().unwrap();
    let by_files = order(folder.path(), "files");
    assemble(&by_files).unwrap();

    let (tokens, settings) = (folder.path().join("tokens"), folder.path().join("softhsm.conf"));
    fs::create_dir(&tokens).unwrap();
    fs::write(&settings, format!("directories.tokendir = {}\n", tokens.display())).unwrap();
    let token = |words: &[&str]| run(Command::new("softhsm2-util").env("SOFTHSM2_CONF", &settings).args(words));
    token(&["--init-token", "--free", "--label", "postern", "--so-pin", "0000", "--pin", "1234"]);
    let keys = folder.path().join("keys");
    copy(&keys_folder(), &keys);
    for (id, name) in ["db", "policy", "rauc"].into_iter().enumerate() {
        let key = keys.join(format!("{name}.key"));
        let (key_text, id) = (key.display().to_string(), format!("0{id}"));
        token(&["--import", &key_text, "--token", "postern", "--label", name, "--id", &id, "--pin", "1234"]);
        fs::remove_file(key).unwrap();
        let uri = format!("pkcs11:token=postern;object={name};type=private?pin-value=1234\n");
        fs::write(keys.join(format!("{name}.uri")), uri).unwrap();
    }
    let out = folder.path().join("token");
    let mut tool = Command::new(env!("CARGO_BIN_EXE_postern-image"));
    tool.env("SOFTHSM2_CONF", &settings).args(["assemble", "--version", "0.1.0", "--generation", "3"]);
    tool.args(["--floor", "0.0.9", "--generation-floor", "2", "--board", "qemu-x86"]);
    tool.arg("--rootfs").arg(&by_files.rootfs).arg("--kernel").arg(&by_files.kernel).arg("--stub").arg(&by_files.stub);
    run(tool.arg("--keys").arg(&keys).arg("--out").arg(&out));
    for file in ["uki-a.efi", "uki-b.efi", "boot-a.vfat", "disk.img"] {
        assert!(fs::read(out.join(file)).unwrap() == fs::read(by_files.out.join(file)).unwrap(), "{file}");
    }
}
