//! What the tests of the image tool share: small PE files, a small root, keys for development.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test file uses a part of it")]

use image::{
    assemble::{Identity, Order},
    keys::Keys,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// File alignment of [`program`].
pub const ALIGNMENT: usize = 0x200;
/// Where the first section of [`program`] begins in the file.
const HEADERS: usize = 0x400;

/// The repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Development keys, made once for all tests.
pub fn keys() -> Keys {
    Keys::open(&keys_folder()).unwrap()
}

/// Their folder.
pub fn keys_folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("keys");
    run(Command::new(repository().join("keys/make.sh")).arg(&folder));
    folder
}

/// Runs a program that must succeed; what it printed.
pub fn run(command: &mut Command) -> String {
    let output = answer(command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a program, however it ends.
pub fn answer(command: &mut Command) -> Output {
    command.env("LC_ALL", "C").output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// A minimal x86-64 EFI application with these sections.
pub fn program(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let header = 0x40;
    let optional = header + 24;
    let mut bytes = vec![0; HEADERS];
    put(&mut bytes, 0, b"MZ");
    put(&mut bytes, 0x3c, &(header as u32).to_le_bytes());
    put(&mut bytes, header, b"PE\0\0");
    put(&mut bytes, header + 4, &0x8664_u16.to_le_bytes());
    put(&mut bytes, header + 6, &(sections.len() as u16).to_le_bytes());
    put(&mut bytes, header + 20, &240_u16.to_le_bytes());
    put(&mut bytes, header + 22, &0x0022_u16.to_le_bytes());
    put(&mut bytes, optional, &0x020b_u16.to_le_bytes());
    put(&mut bytes, optional + 16, &0x1000_u32.to_le_bytes());
    put(&mut bytes, optional + 32, &0x1000_u32.to_le_bytes());
    put(&mut bytes, optional + 36, &(ALIGNMENT as u32).to_le_bytes());
    put(&mut bytes, optional + 60, &(HEADERS as u32).to_le_bytes());
    put(&mut bytes, optional + 68, &10_u16.to_le_bytes());
    put(&mut bytes, optional + 70, &0x0100_u16.to_le_bytes());
    put(&mut bytes, optional + 108, &16_u32.to_le_bytes());
    let mut address = 0x1000_u32;
    for (index, (name, contents)) in sections.iter().enumerate() {
        let at = optional + 240 + index * 40;
        let stored = contents.len().next_multiple_of(ALIGNMENT);
        let offset = bytes.len() as u32;
        put(&mut bytes, at, name.as_bytes());
        put(&mut bytes, at + 8, &(contents.len() as u32).to_le_bytes());
        put(&mut bytes, at + 12, &address.to_le_bytes());
        put(&mut bytes, at + 16, &(stored as u32).to_le_bytes());
        put(&mut bytes, at + 20, &offset.to_le_bytes());
        put(&mut bytes, at + 36, &0x6000_0020_u32.to_le_bytes());
        bytes.extend_from_slice(contents);
        bytes.resize(offset as usize + stored, 0);
        address += (contents.len() as u32).next_multiple_of(0x1000);
    }
    put(&mut bytes, optional + 56, &address.to_le_bytes());
    bytes
}

/// A stub that says that it is of this version.
pub fn stub(version: &str) -> Vec<u8> {
    let magic = format!("#### LoaderInfo: systemd-stub {version} ####\0");
    program(&[(".text", &[0xcc; 700]), (".sbat", b"sbat,1,SBAT Version,sbat,1,x\n"), (".sdmagic", magic.as_bytes())])
}

/// A kernel that says that it is of this release; nobody could start it.
pub fn kernel(release: &str) -> Vec<u8> {
    let mut bytes = program(&[(".text", &[0x90; 5000])]);
    put(&mut bytes, 0x202, b"HdrS");
    put(&mut bytes, 0x20e, &0x100_u16.to_le_bytes());
    put(&mut bytes, 0x300, format!("{release} (postern) #1\0").as_bytes());
    bytes
}

/// What the images of the tests say of themselves.
pub fn identity() -> Identity {
    Identity {
        version: "0.1.0".to_owned(),
        generation: 3,
        floor: "0.0.9".to_owned(),
        development: true,
        board: "qemu-x86".to_owned(),
    }
}

/// Everything that an image needs, in `folder`, with a small root.
pub fn order(folder: &Path, out: &str) -> Order {
    let keys = keys_folder();
    let share = folder.join("root/usr/share/postern");
    fs::create_dir_all(&share).unwrap();
    fs::copy(keys.join("policy.pub"), share.join("policy-public.pem")).unwrap();
    fs::copy(keys.join("rauc-ca.crt"), share.join("rauc-ca.pem")).unwrap();
    fs::write(share.join("image.json"), serde_json::to_vec(&identity()).unwrap()).unwrap();
    fs::write(folder.join("root/planted"), [b"find me ".repeat(40_000), vec![7]].concat()).unwrap();
    fs::write(folder.join("stub"), stub("257.13-1")).unwrap();
    fs::write(folder.join("kernel"), kernel("6.12.0-postern")).unwrap();
    Order {
        rootfs: folder.join("root"),
        kernel: folder.join("kernel"),
        stub: folder.join("stub"),
        microcode: Vec::new(),
        keys: Keys::open(&keys).unwrap(),
        identity: identity(),
        generation_floor: 2,
        extra_cmdline: String::new(),
        out: folder.join(out),
    }
}

pub fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}
