//! Updates below a root of their own, with the real RAUC for what needs no appliance: bundles and their signatures.

use super::*;
use std::{os::unix::fs::PermissionsExt, process::Command};
use tempfile::TempDir;

/// What stands for RAUC: bundles are looked at by the real one with this root's keyring; what writes slots or firmware
/// variables needs an appliance and leaves a line in `done` instead.
const RAUC: &str = r#"#!/bin/sh
root=$(dirname "$0")/../..
case "$1" in
info) exec /usr/bin/rauc --keyring="$root/ca.crt" "$@" ;;
install)
    if [ -e "$root/refuse" ]; then echo "installing failed; the disk is broken" >&2; exit 1; fi
    echo "  0% Installing"; echo "100% Installing done." ;;
esac
echo "$@" >>"$root/done"
"#;

struct Root {
    folder: TempDir,
    place: Place,
}

impl Root {
    /// A box of version 1.0.0 and floor 0.9.0 that runs slot `a`, which is good.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Self { place: Place::new(folder.path()), folder };
        for made in
            ["usr/bin", "usr/share/postern", "run/postern-root", "data/update", "data/postern/update", "dev/postern"]
        {
            fs::create_dir_all(root.folder.path().join(made)).unwrap();
        }
        for (program, text) in
            [("rauc", RAUC), ("systemctl", "#!/bin/sh\necho systemctl \"$@\" >>\"$(dirname \"$0\")/../../done\"\n")]
        {
            let path = root.folder.path().join("usr/bin").join(program);
            fs::write(&path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        root.write(
            IMAGE,
            r#"{"version":"1.0.0","generation":1,"floor":"0.9.0","development":true,"board":"qemu-x86"}"#,
        );
        root.write("/dev/postern/plain", &"\0".repeat(1 << 20));
        root.boots("first", "a", true);
        openssl(root.folder.path(), "ca");
        root
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.place.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// What the kernel and the firmware say after a start of `slot`; `good`: the boot order lists it.
    fn boots(&self, id: &str, slot: &str, good: bool) {
        self.write(BOOT_ID, &format!("{id}\n"));
        self.write(SLOT, slot);
        let _ = fs::remove_file(self.place.at(GOOD));
        let variable = |name: &str, value: &[u8]| {
            let path = self.place.at(&format!("/sys/firmware/efi/efivars/{name}-8be4df61-93ca-11d2-aa0d-00e098032b8c"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, [&[7, 0, 0, 0], value].concat()).unwrap();
        };
        for (number, slot) in [("Boot0001", "a"), ("Boot0002", "b")] {
            let name: Vec<u8> = format!("postern-{slot}\0").encode_utf16().flat_map(u16::to_le_bytes).collect();
            variable(number, &[&[1, 0, 0, 0, 4, 0][..], &name].concat());
        }
        let (own, other) = if slot == "a" { (1, 2) } else { (2, 1) };
        variable("BootOrder", &[if good { own } else { other }, 0]);
    }

    fn starts(&self, id: &str, slot: &str, good: bool) {
        self.boots(id, slot, good);
        at_boot(&self.place);
    }

    /// A bundle in `/data/update`, signed by `signer`.
    fn bundle(&self, name: &str, version: &str, signer: &str) -> String {
        let input = self.folder.path().join("bundle");
        fs::create_dir_all(&input).unwrap();
        // What RAUC packs must not shrink to nothing.
        let mut image = vec![0; 300_000];
        aws_lc_rs::rand::fill(&mut image).unwrap();
        fs::write(input.join("root.img"), image).unwrap();
        let manifest = format!(
            "[update]\ncompatible={name}\nversion={version}\n[bundle]\nformat=verity\n[image.rootfs]\nfilename=root.img\n"
        );
        fs::write(input.join("manifest.raucm"), manifest).unwrap();
        let path = self.place.at("/data/update/new.raucb");
        let _ = fs::remove_file(&path);
        let (cert, key) =
            (self.folder.path().join(format!("{signer}.crt")), self.folder.path().join(format!("{signer}.key")));
        let made = Command::new("rauc")
            .arg("bundle")
            .args([format!("--cert={}", cert.display()), format!("--key={}", key.display())])
            .args([&input, &path])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        "/data/update/new.raucb".to_owned()
    }

    fn update(&self) -> Update {
        record::load(&self.place).unwrap()
    }

    fn done(&self) -> String {
        fs::read_to_string(self.folder.path().join("done")).unwrap_or_default()
    }

    fn is_noted_good(&self) -> bool {
        self.place.at(GOOD).exists()
    }
}

fn openssl(folder: &Path, name: &str) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test", "-keyout"])
        .arg(folder.join(format!("{name}.key")))
        .arg("-out")
        .arg(folder.join(format!("{name}.crt")))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

#[test]
fn a_bundle_is_installed_tried_and_kept() {
    let root = Root::new();
    let bundle = root.bundle(COMPATIBLE, "1.1.0", "ca");
    install(&bundle, true, &root.place).unwrap();
    let installed = root.update();
    assert_eq!((installed.state, installed.to.slot.as_str()), (UpdateState::Installed, "b"));
    assert_eq!((installed.from.version.as_str(), installed.to.version.as_str()), ("1.0.0", "1.1.0"));
    assert!(
        root.done().contains("install ") && root.done().ends_with("systemctl --no-block reboot\n"),
        "{}",
        root.done()
    );
    root.starts("second", "b", false);
    assert_eq!((root.update().state, root.is_noted_good()), (UpdateState::Trial, false));
    let error = install(&bundle, true, &root.place).unwrap_err();
    assert!(error.what.contains("still on trial"), "{error}");
    mark_good(&root.place).unwrap();
    assert!(root.done().ends_with("status mark-good booted\n"));
    assert_eq!((root.update().state, root.is_noted_good()), (UpdateState::Done, true));
    root.starts("third", "b", true);
    assert_eq!((root.update().state, root.is_noted_good()), (UpdateState::Done, true));
}

#[test]
fn an_image_that_gives_up_is_told_after_the_fallback_until_acknowledged() {
    let root = Root::new();
    install(&root.bundle(COMPATIBLE, "1.1.0", "ca"), false, &root.place).unwrap();
    assert!(!root.done().contains("reboot"));
    root.starts("second", "b", false);
    // The old slot is in the boot order, the new one is not.
    give_up("workers: judging processes do not work", &root.place).unwrap();
    assert!(root.done().ends_with("systemctl --no-block reboot\n"));
    root.starts("third", "a", true);
    let update = root.update();
    assert_eq!((update.state, root.is_noted_good()), (UpdateState::FellBack, true));
    let reason = update.alarm().unwrap();
    assert_eq!(reason.what, "version 1.1.0 gave up: workers: judging processes do not work");
    // The words are used up, and the state stays.
    root.starts("fourth", "a", true);
    assert_eq!(root.update(), update);
    acknowledge(&root.place).unwrap();
    assert!(root.update().alarm().is_none());
    assert_eq!(acknowledge(&root.place).unwrap_err().kind, ErrorKind::Refused);
}

#[test]
fn an_image_whose_data_partition_does_not_open_falls_back_with_its_reason() {
    let root = Root::new();
    install(&root.bundle(COMPATIBLE, "1.1.0", "ca"), true, &root.place).unwrap();
    // No record can be read: that this is a trial, the boot order alone says.
    fs::rename(root.place.at("/data"), root.place.at("/hidden")).unwrap();
    root.starts("second", "b", false);
    assert!(!root.is_noted_good());
    give_up("data: the TPM does not open the data partition", &root.place).unwrap();
    let _ = fs::remove_dir_all(root.place.at("/data"));
    fs::rename(root.place.at("/hidden"), root.place.at("/data")).unwrap();
    root.starts("third", "a", true);
    let update = root.update();
    assert_eq!(update.state, UpdateState::FellBack);
    assert!(update.reason.unwrap().what.contains("does not open the data partition"));
}

#[test]
fn a_panic_and_a_power_cut_during_the_installation_are_told() {
    let root = Root::new();
    install(&root.bundle(COMPATIBLE, "1.1.0", "ca"), true, &root.place).unwrap();
    root.write(
        "/sys/fs/pstore/dmesg-efi_pstore-1",
        "<0>[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\n",
    );
    root.starts("second", "a", true);
    let told = root.update().reason.unwrap().what;
    assert_eq!(told, "the kernel of version 1.1.0 stopped: VFS: Unable to mount root fs");
    record::store(&Update { state: UpdateState::Installing, boot: "second".into(), ..root.update() }, &root.place)
        .unwrap();
    root.starts("third", "a", true);
    assert_eq!(root.update().state, UpdateState::Failed);
    assert!(root.update().alarm().unwrap().what.contains("cut short"));
}

#[test]
fn what_may_not_be_installed_is_refused_and_nothing_is_recorded() {
    let root = Root::new();
    openssl(root.folder.path(), "stranger");
    for (compatible, version, signer, expected) in [
        (COMPATIBLE, "0.8.9", "ca", "version 0.8.9 is older than 0.9.0, the oldest that this box may run"),
        (COMPATIBLE, "new", "ca", "can't be compared"),
        ("toaster", "1.1.0", "ca", "the bundle is for \"toaster\""),
        (COMPATIBLE, "1.1.0", "stranger", "the bundle is not accepted"),
    ] {
        let error = install(&root.bundle(compatible, version, signer), true, &root.place).unwrap_err();
        assert!(error.what.contains(expected), "{error}");
        assert!(!error.remedy.is_empty() && record::load(&root.place).is_none(), "{error}");
    }
    fs::write(root.place.at("/data/update/damaged.raucb"), "hsqs").unwrap();
    assert!(install("/data/update/damaged.raucb", true, &root.place).is_err());
    assert_eq!(root.done(), "");
}

#[test]
fn bundles_are_taken_from_their_folders_only_and_never_through_a_link() {
    let root = Root::new();
    let bundle = root.place.at(&root.bundle(COMPATIBLE, "1.1.0", "ca"));
    std::os::unix::fs::symlink(&bundle, root.place.at("/data/postern/update/link.raucb")).unwrap();
    for bad in [
        "/etc/passwd",
        "--help",
        "",
        "new.raucb",
        "/data/update/../update/new.raucb",
        "/data/update/deeper/new.raucb",
        "/data/postern/update/link.raucb",
        "/data/update/none.raucb",
        "/data/update",
    ] {
        assert_eq!(install(bad, true, &root.place).unwrap_err().kind, ErrorKind::Refused, "{bad}");
    }
    assert_eq!(root.done(), "");
}

#[test]
fn a_failed_installation_leaves_its_reason_and_the_next_one_replaces_it() {
    let root = Root::new();
    let bundle = root.bundle(COMPATIBLE, "1.1.0", "ca");
    fs::write(root.folder.path().join("refuse"), "").unwrap();
    install(&bundle, true, &root.place).unwrap_err();
    let told = root.update();
    assert_eq!(told.state, UpdateState::Failed);
    assert!(told.alarm().unwrap().what.contains("the disk is broken") && !root.done().contains("reboot"));
    fs::remove_file(root.folder.path().join("refuse")).unwrap();
    install(&bundle, true, &root.place).unwrap();
    assert!(root.update().alarm().is_none());
}

#[test]
fn a_slot_that_is_good_or_has_no_other_to_fall_back_to_is_not_given_up() {
    let root = Root::new();
    root.starts("second", "a", true);
    assert!(give_up("x", &root.place).unwrap_err().what.contains("not on trial"));
    root.boots("third", "b", false);
    let order = root.place.at("/sys/firmware/efi/efivars/BootOrder-8be4df61-93ca-11d2-aa0d-00e098032b8c");
    fs::write(order, [7, 0, 0, 0, 9, 0]).unwrap();
    assert!(give_up("x", &root.place).unwrap_err().what.contains("no other is marked good"));
    assert_eq!(root.done(), "");
}

#[test]
fn one_installation_at_a_time() {
    let root = Root::new();
    let bundle = root.bundle(COMPATIBLE, "1.1.0", "ca");
    let _held = one_at_a_time(&root.place).unwrap();
    assert!(install(&bundle, true, &root.place).unwrap_err().what.contains("under way"));
}
