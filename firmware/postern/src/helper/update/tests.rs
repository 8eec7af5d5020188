//! Updates below a root of their own, with the real RAUC for what needs no appliance: bundles and their signatures.

use super::*;
use crate::helper::paths::STARTS;
use serde_json::json;
use std::{os::unix::fs::PermissionsExt, process::Command};
use tempfile::TempDir;

/// What stands for RAUC: bundles are looked at by the real one with this root's keyring; what writes slots needs an
/// appliance: it does to the firmware what RAUC's source says, and leaves a line in `done`.
const RAUC: &str = r#"#!/bin/sh
root=$(dirname "$0")/../..
case "$1" in
info) exec /usr/bin/rauc --keyring="$root/ca.crt" "$@" ;;
status) [ ! -e "$root/busy" ]; exit ;;
install)
    if [ "$(cat "$root/run/postern-root/slot")" = a ]; then own=0001 other=0002; else own=0002 other=0001; fi
    echo "$own" >"$root/order"
    if [ -e "$root/refuse" ]; then echo "installing failed; the disk is broken" >&2; exit 1; fi
    if [ -e "$root/slow" ]; then touch "$root/busy"; exit 1; fi
    echo "  0% Installing"; echo "100% Installing done."
    echo "$other" >"$root/next" ;;
esac
echo "$@" >>"$root/done"
"#;

/// A firmware with both entries.
const EFIBOOTMGR: &str = r#"#!/bin/sh
root=$(dirname "$0")/../..
if [ -e "$root/no-entries" ]; then echo "EFI variables are not supported on this system." >&2; exit 2; fi
[ "$1" != --quiet ] || shift
case "$1" in
--bootnext) echo "$2" >"$root/next" ;;
--delete-bootnext) rm "$root/next" ;;
--bootorder) echo "$2" >"$root/order" ;;
*)
    [ ! -e "$root/next" ] || echo "BootNext: $(cat "$root/next")"
    echo "BootOrder: $(cat "$root/order")"
    printf 'Boot0000* UiApp\nBoot0001* postern-a\nBoot0002* postern-b\n' ;;
esac
"#;

/// What bundles for this box are called.
const OURS: &str = "postern-qemu-x86";

struct Root {
    folder: TempDir,
    place: Place,
}

impl Root {
    /// A box of version 1.0.0 and floor 0.9.0 that runs slot `a`; both are good.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Self { place: Place::new(folder.path()), folder };
        for made in
            ["usr/bin", "usr/share/postern", "run/postern-root", "data/update", "data/postern/update", "dev/postern"]
        {
            fs::create_dir_all(root.folder.path().join(made)).unwrap();
        }
        for (program, text) in [
            ("rauc", RAUC),
            ("efibootmgr", EFIBOOTMGR),
            ("systemctl", "#!/bin/sh\necho systemctl \"$@\" >>\"$(dirname \"$0\")/../../done\"\n"),
        ] {
            let path = root.folder.path().join("usr/bin").join(program);
            fs::write(&path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        root.write("/dev/postern/plain", &"\0".repeat(1 << 20));
        root.write("/order", "0001,0002,0000\n");
        root.starts("first", "a");
        openssl(root.folder.path(), "ca");
        root
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.place.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A start of `slot`, until the daemon comes: slot a holds version 1.0.0, slot b version 1.1.0.
    fn starts(&self, id: &str, slot: &str) {
        self.write(BOOT_ID, &format!("{id}\n"));
        self.write(SLOT, slot);
        let version = if slot == "a" { "1.0.0" } else { "1.1.0" };
        let image =
            json!({ "version": version, "generation": 1, "floor": "0.9.0", "development": true, "board": "qemu-x86" });
        self.write(IMAGE, &image.to_string());
        for gone in [GOOD, STARTS, "/next"] {
            let _ = fs::remove_file(self.place.at(gone));
        }
        let _ = starts::at_start(Slot::named(slot).unwrap(), Some(version), &self.place);
        at_boot(&self.place);
    }

    /// BootOrder, and BootNext where there is one.
    fn firmware(&self) -> (String, Option<String>) {
        let read = |path| fs::read_to_string(self.place.at(path)).ok().map(|text| text.trim().to_owned());
        (read("/order").unwrap(), read("/next"))
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
    let bundle = root.bundle(OURS, "1.1.0", "ca");
    install(&bundle, true, &root.place).unwrap();
    let installed = root.update();
    assert_eq!((installed.state, installed.to.slot.as_str()), (UpdateState::Installed, "b"));
    assert_eq!((installed.from.version.as_str(), installed.to.version.as_str()), ("1.0.0", "1.1.0"));
    assert!(
        root.done().contains("install ") && root.done().ends_with("systemctl --no-block reboot\n"),
        "{}",
        root.done()
    );
    assert_eq!(root.firmware(), ("0001".into(), Some("0002".into())));
    root.starts("second", "b");
    assert_eq!((root.update().state, root.is_noted_good()), (UpdateState::Trial, false));
    assert_eq!(root.firmware(), ("0001".into(), None), "any death falls back");
    let error = install(&bundle, true, &root.place).unwrap_err();
    assert!(error.what.contains("still on trial"), "{error}");
    mark_good(&root.place).unwrap();
    assert_eq!((root.update().state, root.is_noted_good()), (UpdateState::Done, true));
    assert_eq!(root.firmware(), ("0001,0002".into(), Some("0002".into())), "the old one is the new one's dead man");
    root.starts("third", "b");
    assert_eq!((root.update().state, root.is_noted_good()), (UpdateState::Done, true));
    let slots = status(&root.place).unwrap().slots;
    let told: Vec<_> = slots.iter().map(|slot| (slot.version.as_deref(), slot.running, slot.good, slot.next)).collect();
    assert_eq!(told, [(Some("1.0.0"), false, true, false), (Some("1.1.0"), true, true, true)]);
}

#[test]
fn an_image_that_gives_up_is_told_after_the_fallback_until_acknowledged() {
    let root = Root::new();
    install(&root.bundle(OURS, "1.1.0", "ca"), false, &root.place).unwrap();
    assert!(!root.done().contains("reboot"));
    root.starts("second", "b");
    // The old slot is in the boot order, the new one is not.
    give_up("workers: judging processes do not work", &root.place).unwrap();
    assert!(root.done().ends_with("systemctl --no-block reboot\n"));
    root.starts("third", "a");
    let update = root.update();
    assert_eq!((update.state, root.is_noted_good()), (UpdateState::FellBack, true));
    let reason = update.alarm().unwrap();
    assert_eq!(reason.what, "version 1.1.0 gave up: workers: judging processes do not work");
    // The words are used up, and the state stays.
    root.starts("fourth", "a");
    assert_eq!(root.update(), update);
    acknowledge(&root.place).unwrap();
    assert!(root.update().alarm().is_none());
    assert_eq!(acknowledge(&root.place).unwrap_err().kind, ErrorKind::Refused);
}

#[test]
fn an_image_whose_data_partition_does_not_open_falls_back_with_its_reason() {
    let root = Root::new();
    install(&root.bundle(OURS, "1.1.0", "ca"), true, &root.place).unwrap();
    // No record can be read: that this is a trial, the boot order alone says.
    fs::rename(root.place.at("/data"), root.place.at("/hidden")).unwrap();
    root.starts("second", "b");
    assert!(!root.is_noted_good());
    give_up("data: the TPM does not open the data partition", &root.place).unwrap();
    let _ = fs::remove_dir_all(root.place.at("/data"));
    fs::rename(root.place.at("/hidden"), root.place.at("/data")).unwrap();
    root.starts("third", "a");
    let update = root.update();
    assert_eq!(update.state, UpdateState::FellBack);
    assert!(update.reason.unwrap().what.contains("does not open the data partition"));
}

#[test]
fn a_panic_and_a_power_cut_during_the_installation_are_told() {
    let root = Root::new();
    install(&root.bundle(OURS, "1.1.0", "ca"), true, &root.place).unwrap();
    root.write(
        "/sys/fs/pstore/dmesg-efi_pstore-1",
        "<0>[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\n",
    );
    root.starts("second", "a");
    let told = root.update().reason.unwrap().what;
    assert_eq!(told, "the kernel of version 1.1.0 stopped: VFS: Unable to mount root fs");
    record::store(&Update { state: UpdateState::Installing, boot: "second".into(), ..root.update() }, &root.place)
        .unwrap();
    root.starts("third", "a");
    assert_eq!(root.update().state, UpdateState::Failed);
    assert!(root.update().alarm().unwrap().what.contains("cut short"));
}

#[test]
fn what_may_not_be_installed_is_refused_and_nothing_is_recorded() {
    let root = Root::new();
    openssl(root.folder.path(), "stranger");
    for (compatible, version, signer, expected) in [
        (OURS, "0.8.9", "ca", "version 0.8.9 is older than 0.9.0, the oldest that this box may run"),
        (OURS, "new", "ca", "can't be compared"),
        ("postern-rack-x86", "1.1.0", "ca", "is for \"postern-rack-x86\", this box is a \"postern-qemu-x86\""),
        (OURS, "1.1.0", "stranger", "the bundle is not accepted"),
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
    let bundle = root.place.at(&root.bundle(OURS, "1.1.0", "ca"));
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
    let bundle = root.bundle(OURS, "1.1.0", "ca");
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
    assert!(give_up("x", &root.place).unwrap_err().what.contains("not on trial"));
    install(&root.bundle(OURS, "1.1.0", "ca"), false, &root.place).unwrap();
    let done = root.done();
    // On trial, and the firmware has lost its memory for good.
    root.write("/no-entries", "");
    root.starts("second", "b");
    assert!(!root.is_noted_good());
    assert!(give_up("x", &root.place).unwrap_err().what.contains("no other can be started"));
    assert_eq!(root.done(), done);
}

#[test]
fn firmware_that_takes_no_entries_is_an_alarm_and_no_trial() {
    let root = Root::new();
    root.write("/no-entries", "");
    root.starts("second", "a");
    assert!(root.is_noted_good());
    let report = status(&root.place).unwrap();
    assert!(report.starts.firmware.is_some_and(|firmware| firmware.what.contains("efibootmgr")), "it is told");
    assert!(report.slots[0].good && report.slots[0].running);
    mark_good(&root.place).unwrap();
    // What could not be tried is not installed.
    let error = install(&root.bundle(OURS, "1.1.0", "ca"), true, &root.place).unwrap_err();
    assert!(error.what.contains("could not be tried"), "{error}");
    assert_eq!((root.done(), record::load(&root.place)), (String::new(), None));
}

#[test]
fn a_good_slot_that_panics_is_told_with_its_panic_until_acknowledged() {
    let root = Root::new();
    mark_good(&root.place).unwrap();
    assert_eq!(root.firmware(), ("0002,0001,0000".into(), Some("0001".into())));
    root.write("/proc/uptime", "9.00 9.00\n");
    root.write("/sys/fs/pstore/dmesg-efi_pstore-1", "<0>[    1.0] Kernel panic - not syncing: corrupted\n");
    root.starts("second", "b");
    assert_eq!(root.firmware(), ("0002,0001,0000".into(), Some("0001".into())), "a restart tries it again");
    assert!(root.is_noted_good(), "mail flows on the other one");
    let fallback = status(&root.place).unwrap().starts.fallback.unwrap();
    assert_eq!(fallback.alarm().unwrap().what, "slot a (version 1.0.0) stopped: corrupted");
    // A health check of the other slot changes nothing about which is preferred.
    mark_good(&root.place).unwrap();
    assert_eq!(root.firmware().1.as_deref(), Some("0001"));
    acknowledge(&root.place).unwrap();
    assert!(status(&root.place).unwrap().starts.fallback.unwrap().alarm().is_none());
    assert_eq!(acknowledge(&root.place).unwrap_err().kind, ErrorKind::Refused);
}

#[test]
fn after_a_panic_the_root_is_read_whole_before_the_slot_is_asked_for_again() {
    let root = Root::new();
    mark_good(&root.place).unwrap();
    let panic = "<0>[    1.0] Kernel panic - not syncing: dm-verity device corrupted\n";
    let reads = |id: &str| {
        root.starts(id, "a");
        (root.firmware().1, status(&root.place).unwrap().starts.firmware.map(|firmware| firmware.what))
    };
    // Nothing has happened: nobody looks.
    assert_eq!(reads("second"), (Some("0001".into()), None));
    root.write("/sys/fs/pstore/dmesg-efi_pstore-1", panic);
    let (next, told) = reads("third");
    assert!(next.is_none() && told.unwrap().contains("the root of this slot can't be read"), "the other one is next");
    mark_good(&root.place).unwrap();
    root.write("/dev/dm-0", &"root".repeat(1 << 19));
    root.write("/sys/fs/pstore/dmesg-efi_pstore-1", panic);
    assert_eq!(reads("fourth"), (Some("0001".into()), None), "it was something else");
    // The other slot is the last: it is not put to the test.
    fs::remove_file(root.place.at("/dev/dm-0")).unwrap();
    root.starts("fifth", "b");
    root.write("/sys/fs/pstore/dmesg-efi_pstore-1", panic);
    root.starts("sixth", "b");
    assert!(status(&root.place).unwrap().starts.firmware.is_none());
}

#[test]
fn an_installation_over_the_slot_that_fell_keeps_the_one_that_runs() {
    let root = Root::new();
    mark_good(&root.place).unwrap();
    root.starts("second", "b");
    install(&root.bundle(OURS, "1.2.0", "ca"), false, &root.place).unwrap();
    assert_eq!(root.firmware(), ("0002".into(), Some("0001".into())));
    root.starts("third", "b");
    assert_eq!(root.update().state, UpdateState::FellBack);
    assert_eq!(root.firmware(), ("0002".into(), None));
}

#[test]
fn nothing_is_installed_while_rauc_is_still_at_work() {
    let root = Root::new();
    let bundle = root.bundle(OURS, "1.1.0", "ca");
    // The helper lost its patience, or its life; RAUC's service goes on.
    root.write("/slow", "");
    let error = install(&bundle, true, &root.place).unwrap_err();
    assert!(error.what.contains("goes on") && !root.done().contains("reboot"), "{error}");
    assert_eq!(root.update().state, UpdateState::Installing);
    let error = install(&bundle, true, &root.place).unwrap_err();
    assert!(error.what.contains("under way"), "{error}");
    assert_eq!(status(&root.place).unwrap().progress.as_deref(), Some("still under way"));
    // It ends well, and nobody waited for it.
    fs::remove_file(root.place.at("/busy")).unwrap();
    root.write("/next", "0002\n");
    let report = status(&root.place).unwrap();
    assert_eq!((report.update.unwrap().state, report.progress), (UpdateState::Installed, None));
    root.starts("second", "b");
    assert_eq!((root.update().state, root.is_noted_good()), (UpdateState::Trial, false));
}

#[test]
fn an_installation_that_ended_early_with_nobody_waiting_is_failed() {
    let root = Root::new();
    let bundle = root.bundle(OURS, "1.1.0", "ca");
    root.write("/slow", "");
    install(&bundle, true, &root.place).unwrap_err();
    fs::remove_file(root.place.at("/busy")).unwrap();
    fs::remove_file(root.place.at("/slow")).unwrap();
    let update = status(&root.place).unwrap().update.unwrap();
    assert!(update.state == UpdateState::Failed && update.alarm().is_some(), "{update:?}");
    assert_eq!(root.firmware().0, "0001");
    install(&bundle, false, &root.place).unwrap();
    assert_eq!(root.update().state, UpdateState::Installed);
}

#[test]
fn a_factory_reset_leaves_a_box_that_prefers_what_runs() {
    let root = Root::new();
    install(&root.bundle(OURS, "1.1.0", "ca"), false, &root.place).unwrap();
    root.starts("second", "b");
    mark_good(&root.place).unwrap();
    crate::plain::area::erase(&root.place).unwrap();
    fs::remove_dir_all(root.place.at("/data/update")).unwrap();
    root.starts("third", "b");
    assert!(root.is_noted_good());
    assert_eq!(root.firmware().1.as_deref(), Some("0002"));
}

#[test]
fn one_installation_at_a_time() {
    let root = Root::new();
    let bundle = root.bundle(OURS, "1.1.0", "ca");
    let _held = one_at_a_time(&root.place).unwrap();
    assert!(install(&bundle, true, &root.place).unwrap_err().what.contains("under way"));
}
