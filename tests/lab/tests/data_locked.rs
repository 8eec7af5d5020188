//! A daemon whose data partition is closed: it says why, touches nothing of the folder in its place, and is opened by the
//! recovery key through root's helper. The mount itself needs device-mapper and is tested in the booted image; here the
//! helper's real process finds it done.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use lab::{
    process::{Process, free_port_base, sibling},
    tpm::SoftTpm,
};
use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(60);
const REASON: &str = "the TPM does not open the data partition: it is another TPM; enter the recovery key";

struct Machine {
    folder: tempfile::TempDir,
    tpm: SoftTpm,
    port: u16,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tpm = SoftTpm::start(&folder.path().join("tpm")).unwrap();
        let machine = Self { folder, tpm, port: free_port_base().unwrap() };
        for path in
            ["root/run/postern", "root/run/postern-root", "root/usr/bin", "root/dev/postern", "root/data", "data"]
        {
            fs::create_dir_all(machine.path(path)).unwrap();
        }
        let settings = format!(
            "host.name = 'postern.example.org'\nintake.networks = ['127.0.0.1']\nintake.listen = ['127.0.0.1:{}']\n\
             relay.smarthost = 'mx.example.net:25'\n",
            machine.port
        );
        fs::write(machine.path("settings.toml"), settings).unwrap();
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn put(&self, path: &str, content: &[u8]) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), content).unwrap();
    }

    /// A program of the helper's machine that writes down how it was called.
    fn program(&self, name: &str) {
        let path = format!("root/usr/bin/{name}");
        self.put(&path, format!("#!/bin/sh\necho {name} \"$@\" >>{}\n", self.path("calls").display()).as_bytes());
        fs::set_permissions(self.path(&path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.path("calls")).unwrap_or_default()
    }

    fn daemon(&self, data: &Path, more: &[&str]) -> Process {
        let mut command = Command::new(sibling("postern").unwrap());
        command.args(["run", "--workers", "1", "--tcti", &self.tpm.tcti(), "--data"]).arg(data);
        command.arg("--socket").arg(self.path("socket")).arg("--settings").arg(self.path("settings.toml"));
        command.arg("--policy-key").arg(self.tpm.policy_key());
        command.arg("--policy-signatures").arg(self.tpm.policy_signatures());
        command.args(more).env("TSS2_LOG", "all+NONE");
        let process = Process::start("daemon", command, &self.path("log")).unwrap();
        let start = Instant::now();
        // Operators are answered from the first moment on, before it is known what there is.
        while !self.ask(&["keys", "status"], "").status.success() {
            assert!(start.elapsed() < PATIENCE, "{}", fs::read_to_string(self.path("log")).unwrap());
            std::thread::sleep(Duration::from_millis(50));
        }
        process
    }

    fn helper(&self) -> Process {
        let mut command = Command::new(sibling("postern").unwrap());
        command.args(["helper", "--root"]).arg(self.path("root")).args(["serve", "--user", "root"]);
        Process::start("helper", command, &self.path("helper.log")).unwrap()
    }

    fn ask(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(sibling("postern").unwrap());
        command.args(arguments).env("POSTERN_SOCKET", self.path("socket"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A command that reads nothing may be gone already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn json(&self, arguments: &[&str], input: &str) -> serde_json::Value {
        let output = self.ask(&[arguments, &["--json"]].concat(), input);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Starts once with the partition open; gives the recovery key's words.
    fn first_start(&self) -> String {
        let mut daemon = self.daemon(&self.path("data"), &[]);
        let words = self.json(&["keys", "recovery", "show"], "")["words"].as_str().unwrap().to_owned();
        self.json(&["keys", "recovery", "confirm"], &words);
        daemon.stop(PATIENCE).unwrap();
        words
    }
}

#[test]
fn a_closed_data_partition_is_told_and_opened_by_the_recovery_key() {
    let machine = Machine::new();
    let words = machine.first_start();
    // The helper's machine: a plain area, a TPM of a clean boot, and a data partition that is mounted when asked for.
    machine.put("root/dev/postern/plain", &vec![0; 1 << 20]);
    machine.put("root/dev/postern/data", b"");
    machine.put("root/data/.keyslot", b"random");
    let secure_boot = "root/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    machine.put(secure_boot, &[6, 0, 0, 0, 1]);
    machine.put("root/sys/class/tpm/tpm0/pcr-sha256/12", "0".repeat(64).as_bytes());
    machine.put("root/proc/self/mountinfo", b"40 22 253:1 / /data rw - ext4 /dev/mapper/data rw\n");
    machine.put("root/run/postern-root/data-locked", format!("{REASON}\n").as_bytes());
    ["systemctl", "systemd-cryptenroll"].iter().for_each(|program| machine.program(program));
    let _helper = machine.helper();
    let (helper, locked) =
        (machine.path("root/run/postern-root/helper.sock"), machine.path("root/run/postern-root/data-locked"));
    let more = ["--helper", helper.to_str().unwrap(), "--data-locked", locked.to_str().unwrap()];

    let _daemon = machine.daemon(&machine.path("data"), &more);
    let status = machine.json(&["status"], "");
    assert_eq!(status["facts"]["data_locked"]["what"], REASON.split_once("; ").unwrap().0, "{status}");
    assert_eq!(status["locked"]["remedy"], "enter the recovery key", "{status}");
    machine.json(&["network", "show"], "");
    let wrong = machine.ask(&["keys", "unlock"], "abandon abandon");
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
    assert_eq!(machine.calls(), "", "words that can't be a recovery key go no further");

    let unlocked = machine.json(&["keys", "unlock"], &words);
    assert_eq!((&unlocked["resealed"], &unlocked["advice"]), (&true.into(), &"".into()), "{unlocked}");
    let status = machine.json(&["status"], "");
    assert!(status["locked"].is_null() && status["facts"]["data_locked"].is_null(), "{status}");
    assert!(machine.calls().contains("systemd-cryptenroll --wipe-slot=tpm2"), "{}", machine.calls());
    // What a later locked start must know is on the plain area now.
    assert!(
        String::from_utf8_lossy(&fs::read(machine.path("root/dev/postern/plain")).unwrap())
            .contains("postern.example.org")
    );
    machine.json(&["power", "reboot"], "");
    assert!(machine.calls().ends_with("systemctl --no-block reboot\n"), "{}", machine.calls());
    let audit = machine.json(&["audit", "verify"], "");
    assert_eq!(audit["good"], true, "{audit}");
}

#[test]
fn while_it_is_closed_nothing_is_made_in_the_folder_in_its_place() {
    let machine = Machine::new();
    let locked = machine.path("data-locked");
    fs::write(&locked, format!("{REASON}\n")).unwrap();
    let mut daemon = machine.daemon(&machine.path("data"), &["--data-locked", locked.to_str().unwrap()]);
    let refused = machine.ask(&["keys", "unlock"], &format!("{}art", "abandon ".repeat(23)));
    assert_eq!(refused.status.code(), Some(1), "there is no helper to open it with: {refused:?}");
    daemon.stop(PATIENCE).unwrap();
    assert_eq!(fs::read_dir(machine.path("data")).unwrap().count(), 0, "a key store made here would be lost");
}

#[test]
fn a_factory_reset_clears_the_tpm_first() {
    let machine = Machine::new();
    machine.first_start();
    machine.put("root/dev/postern/plain", &vec![0; 1 << 20]);
    ["systemctl", "cryptsetup", "blkdiscard", "sfdisk"].iter().for_each(|program| machine.program(program));
    let _helper = machine.helper();
    let socket = machine.path("root/run/postern-root/helper.sock");
    let helper = ["--helper", socket.to_str().unwrap()];
    let mut daemon = machine.daemon(&machine.path("data"), &helper);
    let refused = machine.ask(&["factory-reset"], "");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_eq!(machine.calls(), "");
    machine.json(&["factory-reset", "--yes-erase-everything"], "");
    assert!(machine.calls().ends_with("systemctl --no-block reboot\n"), "{}", machine.calls());
    daemon.stop(PATIENCE).unwrap();
    // The data folder here is what a copy of the disk would be: this TPM does not open it any more.
    let _daemon = machine.daemon(&machine.path("data"), &helper);
    let keys = machine.json(&["keys", "status"], "");
    assert!(keys["locked"]["what"].as_str().unwrap().contains("TPM"), "{keys}");
}

#[test]
fn a_recovery_key_counts_as_confirmed_only_once_it_opens_the_data_partition_too() {
    let machine = Machine::new();
    machine.put("root/dev/postern/plain", &vec![0; 1 << 20]);
    machine.put("root/dev/postern/data", b"");
    machine.put("root/data/.keyslot", b"random");
    let enrol = |end: u8| {
        let path = "root/usr/bin/systemd-cryptenroll";
        machine.put(
            path,
            format!("#!/bin/sh\necho enrolled >>{}\nexit {end}\n", machine.path("calls").display()).as_bytes(),
        );
        fs::set_permissions(machine.path(path), fs::Permissions::from_mode(0o755)).unwrap();
    };
    let confirmed = || machine.json(&["keys", "status"], "")["recovery_confirmed"].clone();
    let _helper = machine.helper();
    let helper = machine.path("root/run/postern-root/helper.sock");
    let _daemon = machine.daemon(&machine.path("data"), &["--helper", helper.to_str().unwrap()]);
    let words = machine.json(&["keys", "recovery", "show"], "")["words"].as_str().unwrap().to_owned();
    enrol(1);
    let refused = machine.ask(&["keys", "recovery", "confirm"], &words);
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(1) && told.contains("not confirmed"), "{told}");
    assert_eq!(confirmed(), false, "a crash at this moment leaves the same");
    enrol(0);
    let wrong = machine.ask(&["keys", "recovery", "confirm"], &format!("{}art", "abandon ".repeat(23)));
    assert_eq!((wrong.status.code(), machine.calls().lines().count()), (Some(1), 1), "others' words go no further");
    machine.json(&["keys", "recovery", "confirm"], &words);
    assert_eq!((confirmed(), machine.calls().lines().count()), (true.into(), 2));
}

#[test]
fn a_released_image_makes_no_keys_without_secure_boot_and_says_what_to_do() {
    let machine = Machine::new();
    machine.put("machine/secure-boot", b"setup_mode");
    let more = ["--machine", &machine.path("machine").display().to_string()].map(str::to_owned);
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let mut daemon = machine.daemon(&machine.path("data"), &more);
    let status = machine.json(&["status"], "");
    assert_eq!(status["facts"]["secure_boot"], "setup_mode", "{status}");
    assert!(status["locked"]["what"].as_str().unwrap().starts_with("Secure Boot is off"), "{status}");
    assert!(status["locked"]["remedy"].as_str().unwrap().contains("enrol"), "{status}");
    assert!(!machine.path("data/keys/store").exists());
    let text = String::from_utf8(machine.ask(&["status"], "").stdout).unwrap();
    assert!(text.contains("setup mode"), "{text}");
    daemon.stop(PATIENCE).unwrap();
    // With development keys it is an alarm.
    machine.put("machine/may-seal", b"");
    let _daemon = machine.daemon(&machine.path("data"), &more);
    let status = machine.json(&["status"], "");
    let alarms = status["facts"]["alarms"].to_string();
    assert!(status["locked"].is_null() && alarms.contains("Secure Boot is off"), "{status}");
}
