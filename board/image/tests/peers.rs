//! Held against programs that do the same: systemd-measure for the prediction, a TPM for policies and signatures, sbverify
//! for Secure Boot.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use base64::{Engine, engine::general_purpose::STANDARD};
use common::{answer, keys, keys_folder, program, run, stub};
use image::{authenticode, measure, pe::Pe, policy, uki};
use lab::tpm::{Boot, SoftTpm};
use serde_json::Value;
use std::{fs, path::Path, process::Command};

/// Debian 12's systemd-boot-efi: a real stub, if of a version whose measurements are not ours.
const REAL_STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
const MEASURE: &str = "/usr/lib/systemd/systemd-measure";

/// A kernel image with all that we put into one, on a stub of the test's own.
fn image() -> Pe {
    let microcode = [&b"070701"[..], &[0x5a; 4097]].concat();
    let sections: [(&str, &[u8]); 5] = [
        (".osrel", b"ID=postern\n"),
        (".cmdline", b"panic=10 postern.slot=a"),
        (".uname", b"6.12.0"),
        (".ucode", &microcode),
        (".linux", &[0x90; 12_345]),
    ];
    Pe::parse(stub("257.1")).unwrap().append(&sections).unwrap()
}

/// The peer is of systemd 252: it knows these sections, which is why the stub of this test has no others.
#[test]
fn the_prediction_is_that_of_systemd_measure() {
    let folder = tempfile::tempdir().unwrap();
    let sections: [(&str, &[u8]); 5] = [
        (".pcrpkey", b"a public key"),
        (".osrel", b"ID=postern\n"),
        (".cmdline", b"panic=10 postern.slot=a"),
        (".initrd", &[0x11; 5000]),
        (".linux", &[0x90; 70_001]),
    ];
    let image = Pe::parse(program(&[(".text", &[0xcc; 100])])).unwrap().append(&sections).unwrap();
    let mut calculate = Command::new(MEASURE);
    calculate.args(["calculate", "--bank=sha256"]);
    for (name, contents) in sections {
        let file = folder.path().join(&name[1..]);
        fs::write(&file, contents).unwrap();
        calculate.arg(format!("--{}={}", &name[1..], file.display()));
    }
    for phase in measure::PHASES {
        calculate.arg(format!("--phase={}", if phase.is_empty() { ":" } else { phase }));
    }
    let theirs = run(&mut calculate);
    let stub_value = measure::sections(&image);
    let ours = measure::PHASES.map(|phase| format!("11:sha256={}", image::hex(&measure::phase(stub_value, phase))));
    assert_eq!(theirs.lines().collect::<Vec<_>>(), ours);
}

/// Sections that the peer above does not know yet; the values are those of systemd-measure 257.13 for the same contents.
#[test]
fn the_prediction_is_that_of_a_newer_systemd_measure_too() {
    let stub_value = measure::sections(&image());
    assert_eq!(image::hex(&stub_value), "cc07e6e36d21befb11fb9cb83f789a1862b6b9811679afed046f4a3e7d5b1e5c");
    let ready = measure::phase(stub_value, "sysinit:ready");
    assert_eq!(image::hex(&ready), "13d09345350c4ba1228b47c83114b783a49c4245c35652442055cfe685c3e558");
}

#[test]
fn the_order_of_sections_in_the_file_does_not_matter() {
    let forwards: [(&str, &[u8]); 3] = [(".linux", b"linux"), (".ucode", b"ucode"), (".uname", b"uname")];
    let mut backwards = forwards;
    backwards.reverse();
    let stub = Pe::parse(stub("257.1")).unwrap();
    let value = |sections: &[(&str, &[u8])]| measure::sections(&stub.append(sections).unwrap());
    assert_eq!(value(&forwards), value(&backwards));
    assert_ne!(value(&forwards), value(&forwards[..2]));
    // .pcrsig signs the outcome and so is no part of it.
    let with_signature = [&forwards[..], &[(".pcrsig", b"{}")]].concat();
    assert_eq!(value(&forwards), value(&with_signature));
    // A section without bytes is none.
    let with_nothing = [&forwards[..], &[(".initrd", b"")]].concat();
    assert_eq!(value(&forwards), value(&with_nothing));
}

#[test]
fn a_tpm_accepts_the_signatures_after_what_is_predicted_and_in_no_other_state() {
    let folder = tempfile::tempdir().unwrap();
    let mut tpm = SoftTpm::start(folder.path()).unwrap();
    tpm.boot = Boot { secure_boot: Vec::new(), kernel: Vec::new() };
    tpm.restart().unwrap();
    let (keys, image) = (keys(), image());
    let stub_value = measure::sections(&image);
    let data: Value = serde_json::from_slice(&policy::for_data(&keys, stub_value).unwrap()).unwrap();
    let daemon: Value = serde_json::from_slice(&policy::for_daemon(&keys, stub_value, 2..=3).unwrap()).unwrap();

    // The boot: what the stub measures, by the bytes.
    for name in [".linux", ".osrel", ".cmdline", ".ucode", ".uname", ".sbat"] {
        tpm.extend(11, &[name.as_bytes(), b"\0"].concat()).unwrap();
        tpm.extend(11, &image.contents(image.section(name).unwrap())).unwrap();
    }
    assert_eq!(tpm.pcr(11).unwrap(), stub_value);
    authorize(&tpm, folder.path(), &data["sha256"][0], None).unwrap();
    let systemd = &data["sha256"][0];
    assert!(systemd.get("generation").is_none() && systemd["pcrs"] == serde_json::json!([11]));

    tpm.extend(11, b"sysinit").unwrap();
    assert!(authorize(&tpm, folder.path(), &data["sha256"][0], None).is_err(), "the data partition's phase is over");
    assert!(authorize(&tpm, folder.path(), &daemon["sha256"][0], Some(2)).is_err(), "the daemon's is not there yet");
    tpm.extend(11, b"ready").unwrap();
    for (index, generation) in [2, 3].into_iter().enumerate() {
        let entry = &daemon["sha256"][index];
        assert_eq!(entry["generation"], generation);
        authorize(&tpm, folder.path(), entry, Some(generation)).unwrap();
        assert!(authorize(&tpm, folder.path(), entry, Some(generation + 1)).is_err(), "another generation");
        assert!(authorize(&tpm, folder.path(), entry, None).is_err(), "systemd's policy");
    }
    assert_eq!(daemon["sha256"].as_array().unwrap().len(), 2);
}

/// TPM2_PolicyPCR, TPM2_VerifySignature, TPM2_PolicyAuthorize, as vault and systemd do it.
fn authorize(tpm: &SoftTpm, folder: &Path, entry: &Value, generation: Option<u32>) -> Result<(), lab::tpm::TpmError> {
    let file = |name: &str| folder.join(name).display().to_string();
    let key = keys_folder().join("policy.pub").display().to_string();
    let reference = generation.map(|generation| generation.to_be_bytes().to_vec()).unwrap_or_default();
    let approved: Vec<u8> = entry["pol"].as_str().unwrap().as_bytes().chunks(2).map(octet).collect();
    fs::write(file("signed"), [&approved[..], &reference].concat()).unwrap();
    fs::write(file("approved"), &approved).unwrap();
    fs::write(file("reference"), &reference).unwrap();
    fs::write(file("signature"), STANDARD.decode(entry["sig"].as_str().unwrap()).unwrap()).unwrap();
    let session = file("session");
    tpm.tool("tpm2_startauthsession", &["--policy-session", "-S", &session])?;
    let outcome = (|| {
        tpm.tool("tpm2_policypcr", &["-S", &session, "-l", "sha256:11", "-L", &file("policy")])?;
        tpm.tool("tpm2_loadexternal", &["-C", "o", "-G", "rsa", "-u", &key, "-c", &file("key"), "-n", &file("name")])?;
        let signature = file("signature");
        let ticket = file("ticket");
        let verify = ["-c", &file("key"), "-g", "sha256", "-f", "rsassa", "-m", &file("signed"), "-s", &signature];
        tpm.tool("tpm2_verifysignature", &[&verify[..], &["-t", &ticket]].concat())?;
        let mut words = vec!["-S", &session, "-n"];
        let (name, approved, reference) = (file("name"), file("approved"), file("reference"));
        words.extend([&name, "-i", &approved, "-t", &ticket].map(|word: &str| word));
        if generation.is_some() {
            words.extend(["-q", &reference]);
        }
        tpm.tool("tpm2_policyauthorize", &words).map(drop)
    })();
    tpm.tool("tpm2_flushcontext", &[&session])?;
    // Without a resource manager the tools leave their objects loaded.
    tpm.tool("tpm2_flushcontext", &["-t"])?;
    outcome
}

fn octet(digits: &[u8]) -> u8 {
    u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
}

#[test]
fn sbverify_accepts_the_signature_and_no_altered_image() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("uki.efi");
    let certificate = keys_folder().join("db.crt");
    let accepts = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        answer(Command::new("sbverify").arg("--cert").arg(&certificate).arg(&path)).status.success()
    };
    let real = uki::read_pe(Path::new(REAL_STUB)).unwrap();
    for image in [image(), real] {
        let signed = authenticode::sign(&keys(), &image).unwrap();
        assert_eq!(signed, authenticode::sign(&keys(), &image).unwrap(), "two signatures of one image differ");
        assert!(accepts(&signed));
        let section = &image.sections()[0];
        let mut altered = signed.clone();
        altered[section.offset as usize + 3] ^= 1;
        assert!(!accepts(&altered), "a flipped bit is not noticed");
        assert!(!accepts(image.bytes()), "an unsigned image is accepted");
        assert!(authenticode::sign(&keys(), &Pe::parse(signed).unwrap()).is_err(), "signed twice");
    }
}

#[test]
fn a_stub_of_unknown_measurements_is_refused_by_its_version() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    fs::write(&kernel, common::kernel("6.12.0")).unwrap();
    let refused = uki::Parts::read(Path::new(REAL_STUB), &kernel, &[]).unwrap_err().to_string();
    assert!(refused.contains("is systemd-stub 252"), "{refused}");
    let own = folder.path().join("stub");
    for (version, known) in [("256.9", false), ("257", true), ("258.7-1", true), ("259", false), ("v257", false)] {
        fs::write(&own, stub(version)).unwrap();
        assert_eq!(uki::Parts::read(&own, &kernel, &[]).is_ok(), known, "{version}");
    }
    fs::write(&own, program(&[(".text", b"x")])).unwrap();
    assert!(uki::Parts::read(&own, &kernel, &[]).is_err(), "a program that does not say its version");
}
