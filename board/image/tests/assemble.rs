//! Whole images of a small root: every part is where a box looks for it, the same input gives the same bytes, and what
//! does not fit together is refused.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{answer, keys_folder, order, run};
use image::{assemble::assemble, layout, layout::Slot, measure, policy, uki};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
    process::Command,
};

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn two_images_of_the_same_input_differ_in_the_bundle_s_signature_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (order(folder.path(), "first"), order(folder.path(), "second"));
    assemble(&first).unwrap();
    // Another time of day and other dates of the files must not show.
    run(Command::new("touch").args(["-d", "2001-02-03 04:05"]).arg(folder.path().join("root/planted")));
    assemble(&second).unwrap();
    for file in ["root.img", "uki-a.efi", "uki-b.efi", "boot-a.vfat", "boot-b.vfat", "disk.img"] {
        let read = |out: &Path| fs::read(out.join(file)).unwrap();
        assert!(read(&first.out) == read(&second.out), "{file} differs");
    }
    let (mut one, mut other) = (json(&first.out.join("image.json")), json(&second.out.join("image.json")));
    for image in [&mut one, &mut other] {
        image["files"].as_object_mut().unwrap().remove("update.raucb").unwrap();
    }
    assert_eq!(one, other);
    let left: Vec<_> = fs::read_dir(&first.out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 8, "{left:?}");
}

#[test]
fn an_image_holds_what_a_box_looks_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut order = order(folder.path(), "out");
    order.extra_cmdline = "systemd.log_level=debug".to_owned();
    assemble(&order).unwrap();
    let out = &order.out;
    let image = json(&out.join("image.json"));
    the_root_is_protected(out, &image);
    the_disk_is_laid_out(out);
    for slot in Slot::BOTH {
        the_boot_partition_is_whole(out, slot, &image);
    }
    the_bundle_is_for_our_boxes(out);
    assert_eq!(image["version"], "0.1.0");
    assert_eq!(image["development"], true);
    assert_eq!(image["kernel"], "6.12.0-postern");
}

fn the_root_is_protected(out: &Path, image: &Value) {
    let (root, verity) = (out.join("root.img"), &image["verity"]);
    let hash = verity["root_hash"].as_str().unwrap();
    let offset = verity["data_blocks"].as_u64().unwrap() * 4096;
    assert_eq!(verity["hash_start"].as_u64().unwrap() * 4096, offset + 4096);
    let verify = |root: &Path| {
        let offset = format!("--hash-offset={offset}");
        answer(Command::new("/usr/sbin/veritysetup").arg("verify").args([root, root]).args([hash, &offset])).status
    };
    assert!(verify(&root).success());
    let altered = out.join("altered.img");
    fs::copy(&root, &altered).unwrap();
    let file = fs::File::options().read(true).write(true).open(&altered).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset / 2).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset / 2).unwrap();
    assert!(!verify(&altered).success(), "an altered byte is not noticed");
    fs::remove_file(altered).unwrap();
    let sectors = offset / 512;
    for slot in ["a", "b"] {
        let cmdline = image["slots"][slot]["cmdline"].as_str().unwrap();
        assert!(cmdline.contains(&format!("root,,,ro,0 {sectors} verity 1 PARTUUID=504f5354")), "{cmdline}");
        assert!(cmdline.contains(&format!("{hash} {} 1 panic_on_corruption\"", verity["salt"].as_str().unwrap())));
        assert!(cmdline.contains(&format!(" rauc.slot=postern-{slot} postern.slot={slot} ")));
        assert!(cmdline.ends_with(" systemd.log_level=debug"));
    }
}

fn the_disk_is_laid_out(out: &Path) {
    let disk = out.join("disk.img");
    let table: Value = serde_json::from_str(&run(Command::new("/usr/sbin/sfdisk").arg("--json").arg(&disk))).unwrap();
    let table = &table["partitiontable"];
    assert_eq!(table["id"].as_str().unwrap().to_lowercase(), layout::value("DISK_GUID").unwrap());
    let partitions = table["partitions"].as_array().unwrap();
    let names: Vec<_> = partitions.iter().map(|partition| partition["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["boot-a", "boot-b", "root-a", "root-b", "plain"]);
    let keys = ["BOOT_A_PARTUUID", "BOOT_B_PARTUUID", "ROOT_A_PARTUUID", "ROOT_B_PARTUUID", "PLAIN_PARTUUID"];
    let sizes = ["BOOT_MIB", "BOOT_MIB", "ROOT_MIB", "ROOT_MIB", "PLAIN_MIB"];
    let files = [Some("boot-a.vfat"), Some("boot-b.vfat"), Some("root.img"), Some("root.img"), None];
    let device = fs::File::open(&disk).unwrap();
    for (((partition, key), size), file) in partitions.iter().zip(keys).zip(sizes).zip(files) {
        assert_eq!(partition["uuid"].as_str().unwrap().to_lowercase(), layout::value(key).unwrap());
        assert_eq!(partition["size"].as_u64().unwrap() * 512, layout::bytes(size).unwrap());
        let boot = if key.starts_with("BOOT") { "TYPE_BOOT" } else { "TYPE_LINUX" };
        assert_eq!(partition["type"].as_str().unwrap().to_lowercase(), layout::value(boot).unwrap());
        let contents = file.map_or(vec![0; 1 << 20], |file| fs::read(out.join(file)).unwrap());
        let mut found = vec![0; contents.len()];
        device.read_exact_at(&mut found, partition["start"].as_u64().unwrap() * 512).unwrap();
        assert!(found == contents, "{key} holds something else");
    }
}

fn the_boot_partition_is_whole(out: &Path, slot: Slot, image: &Value) {
    let partition = out.join(format!("boot-{}.vfat", slot.letter()));
    let read = |path: &str| {
        let copy = out.join("copy");
        run(Command::new("mcopy").arg("-n").arg("-o").arg("-i").arg(&partition).arg(path).arg(&copy));
        let bytes = fs::read(&copy).unwrap();
        fs::remove_file(copy).unwrap();
        bytes
    };
    run(Command::new("/usr/sbin/fsck.vfat").arg("-n").arg(&partition));
    let listed = run(Command::new("mdir").args(["-/", "-b", "-i"]).arg(&partition));
    let files: Vec<_> = listed.lines().filter(|line| !line.ends_with('/')).collect();
    assert_eq!(files.len(), 9, "{listed}");
    for name in ["PK.auth", "KEK.auth", "db.auth", "db.der"] {
        assert!(read(&format!("::/keys/{name}")) == fs::read(keys_folder().join(name)).unwrap(), "{name}");
    }
    let signed = read("::/EFI/BOOT/BOOTX64.EFI");
    assert!(signed == fs::read(out.join(format!("uki-{}.efi", slot.letter()))).unwrap());
    let path = out.join(format!("uki-{}.efi", slot.letter()));
    run(Command::new("sbverify").arg("--cert").arg(keys_folder().join("db.crt")).arg(&path));

    let uki = uki::read_pe(&path).unwrap();
    let said = &image["slots"][slot.letter()];
    assert_eq!(uki.contents(uki.section(".cmdline").unwrap()), said["cmdline"].as_str().unwrap().as_bytes());
    let stub = measure::sections(&uki);
    for phase in measure::PHASES {
        assert_eq!(said["pcr11"][phase], image::hex(&measure::phase(stub, phase)), "{phase:?}");
    }
    let policies = |path: &str| -> Vec<(Option<u64>, String)> {
        let file: Value = serde_json::from_slice(&read(path)).unwrap();
        let entries = file["sha256"].as_array().unwrap().iter();
        entries.map(|entry| (entry["generation"].as_u64(), entry["pol"].as_str().unwrap().to_owned())).collect()
    };
    let digest = |phase| image::hex(&policy::digest(&measure::phase(stub, phase)));
    assert_eq!(policies("::/postern/pcr-signature.json"), [(None, digest(""))]);
    let daemon = digest("sysinit:ready");
    assert_eq!(policies("::/postern/policy-signatures.json"), [(Some(2), daemon.clone()), (Some(3), daemon)]);
}

fn the_bundle_is_for_our_boxes(out: &Path) {
    let bundle = out.join("update.raucb");
    let system = out.join("system.conf");
    let info = |authority: &Path, purpose: &str| {
        let text = format!(
            "[system]\ncompatible=postern-qemu-x86\nbootloader=noop\n[keyring]\npath={}\ncheck-purpose={purpose}\n",
            authority.display()
        );
        fs::write(&system, text).unwrap();
        answer(Command::new("rauc").arg("--conf").arg(&system).args(["info", "--output-format=json"]).arg(&bundle))
    };
    let authority = keys_folder().join("rauc-ca.crt");
    let said = info(&authority, "codesign");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(said["compatible"], "postern-qemu-x86");
    assert_eq!(said["version"], "0.1.0");
    let listed = run(Command::new("rauc").arg("--conf").arg(&system).arg("info").arg(&bundle));
    assert!(listed.lines().any(|line| line.starts_with("Bundle Format:") && line.ends_with("verity")), "{listed}");
    let images = said["images"].to_string();
    for (class, variant) in [("rootfs", None), ("boot", Some("a")), ("boot", Some("b"))] {
        let named = said["images"].as_array().unwrap().iter().filter_map(|image| image.get(class));
        let found = named.filter(|image| image["variant"].as_str() == variant).count();
        assert_eq!(found, 1, "{class} {variant:?}: {images}");
    }
    assert!(!info(&authority, "smimesign").status.success(), "the certificate serves another purpose too");
    assert!(!info(&keys_folder().join("cloud-ca.crt"), "codesign").status.success(), "another authority is believed");
    fs::remove_file(system).unwrap();
}

#[test]
fn what_does_not_fit_together_is_refused_and_leaves_no_image() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root/usr/share/postern");
    let refused = |change: &dyn Fn(&mut image::assemble::Order), reason: &str| {
        let mut order = order(folder.path(), "out");
        change(&mut order);
        let said = assemble(&order).unwrap_err().to_string();
        assert!(said.contains(reason) && said.contains("; "), "{reason}: {said}");
        let left = fs::read_dir(&order.out).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{reason}: files are left");
    };
    refused(&|order| order.identity.version = "0.2.0".to_owned(), "the root file system says");
    refused(&|order| order.identity.generation = 4, "the root file system says");
    refused(
        &|_| fs::write(root.join("policy-public.pem"), "another").unwrap(),
        "another /usr/share/postern/policy-public",
    );
    refused(&|_| fs::write(root.join("rauc-ca.pem"), "another").unwrap(), "another /usr/share/postern/rauc-ca");
    refused(&|_| fs::remove_file(root.join("image.json")).unwrap(), "nothing usable in /usr/share/postern/image.json");
    refused(&|order| order.generation_floor = 4, "generation 3 with floor 4");
    refused(&|order| order.generation_floor = 0, "generation 3 with floor 0");
    refused(&|order| order.extra_cmdline = "x".repeat(2048), "the command line has");
    refused(&|order| order.extra_cmdline = "a\nb".to_owned(), "the command line has");
    refused(&|order| fs::write(&order.kernel, common::stub("257")).unwrap(), "it is no bzImage");
    refused(&|order| order.rootfs = order.kernel.clone(), "is no squashfs");
    refused(&|order| order.microcode = vec![order.kernel.clone()], "is no uncompressed cpio archive");
    let large = |order: &mut image::assemble::Order| {
        let mut kernel = fs::read(&order.kernel).unwrap();
        kernel.resize(layout::bytes("BOOT_MIB").unwrap() as usize, 0x90);
        fs::write(&order.kernel, kernel).unwrap();
    };
    refused(&large, "the boot partition has");
}

#[test]
fn keys_that_are_not_what_their_folder_says_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path();
    for entry in fs::read_dir(keys_folder()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), keys.join(entry.file_name())).unwrap();
    }
    let refused = || image::keys::Keys::open(keys).unwrap_err().to_string();
    assert!(image::keys::Keys::open(keys).unwrap().development());
    fs::rename(keys.join("policy.key"), keys.join("elsewhere")).unwrap();
    assert!(refused().contains("has neither policy.key nor policy.uri"));
    fs::write(keys.join("policy.uri"), "pkcs11:token=postern;object=policy\n").unwrap();
    assert!(image::keys::Keys::open(keys).is_ok(), "a key on a token has no file");
    fs::copy(keys.join("rauc.key"), keys.join("policy.key")).unwrap();
    let mixed = image::keys::Keys::open(keys).unwrap();
    let said = policy::for_data(&mixed, [0; 32]).unwrap_err().to_string();
    assert!(said.contains("is not that of its public part"), "{said}");
    fs::rename(keys.join("elsewhere"), keys.join("policy.key")).unwrap();
    fs::remove_file(keys.join("DEVELOPMENT")).unwrap();
    assert!(refused().contains("holds a development key"));
    fs::write(keys.join("DEVELOPMENT"), "").unwrap();
    fs::copy(keys.join("db.crt"), keys.join("policy.crt")).unwrap();
    assert!(refused().contains("the public part of policy"));
    assert_eq!(fs::metadata(keys_folder().join("db.key")).unwrap().permissions().mode() & 0o077, 0);
}
