//! Two builds of the surrogate from the same commit: root, kernel images and boot partitions are the same to the last bit.
//!
//! The appliance's own binary is built once, by `make boot-image`; what is built twice is everything that is made around it.
//! Keys sign without chance (RSA, PKCS #1 v1.5), so that signatures are compared as well. The bundle's says when it was made
//! and is left out. Takes about a minute, with the packages in the cache.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking and says how long it took")]

use ::image::{
    assemble::{Identity, Order, assemble},
    keys::Keys,
};
use boot::image::Image;
use std::{fs, path::Path, process::Command};

const COMPARED: [&str; 6] = ["root.img", "uki-a.efi", "uki-b.efi", "boot-a.vfat", "boot-b.vfat", "disk.img"];

#[test]
fn two_builds_are_bit_identical() {
    let image = Image::open(&Image::surrogate_folder()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    // Another folder, another umask, another time zone and language: none of them may leave a trace.
    let first = build(&image, &folder.path().join("first"), "0022", "UTC", "C");
    let second = build(&image, &folder.path().join("further/second"), "0077", "Asia/Kathmandu", "C.UTF-8");
    assert_eq!(first.len(), COMPARED.len());
    assert_eq!(first, second);
    println!("the same in both builds: {}", COMPARED.join(", "));
}

/// Name and SHA-256 of everything that is compared.
fn build(image: &Image, out: &Path, umask: &str, zone: &str, language: &str) -> Vec<(String, String)> {
    let beside = image.file("..").canonicalize().unwrap();
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let keys = project.join("keys/development");
    let identity: Identity = serde_json::from_value(image.facts().unwrap()).unwrap();
    fs::create_dir_all(out).unwrap();
    let surrogate = Command::new("bash")
        .args(["-c", "umask \"$1\"; shift; exec \"$@\"", "bash", umask])
        .arg(project.join("tests/boot/surrogate.sh"))
        .arg(out.join("tree"))
        .arg("--postern")
        .arg(beside.join("postern"))
        .arg("--agent")
        .arg(beside.join("postern-development-agent"))
        .arg("--keys")
        .arg(&keys)
        .args(["--version", &identity.version, "--generation", &identity.generation.to_string()])
        .args(["--floor", &identity.floor, "--board", &identity.board, "--development"])
        .env("TZ", zone)
        .env("LC_ALL", language)
        .output()
        .unwrap();
    assert!(surrogate.status.success(), "{}", String::from_utf8_lossy(&surrogate.stderr));
    assemble(&Order {
        rootfs: out.join("tree/root"),
        kernel: beside.join("kernel/bzImage"),
        stub: out.join("tree/linuxx64.efi.stub"),
        microcode: Vec::new(),
        keys: Keys::open(&keys).unwrap(),
        generation_floor: identity.generation,
        identity,
        extra_cmdline: String::new(),
        out: out.join("image"),
    })
    .unwrap();
    let built = Image::open(&out.join("image")).unwrap().facts().unwrap();
    let digest =
        |name: &str| built["files"][name]["sha256"].as_str().map(|digest| (name.to_owned(), digest.to_owned()));
    COMPARED.iter().filter_map(|name| digest(name)).collect()
}
