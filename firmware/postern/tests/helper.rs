//! The helper's real process, below a root of its own: who may ask, what is refused, what is rendered and kept.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);
const AREA: usize = 1 << 20;

/// A root with what the helper reads of a machine, and programs that write down how they were called.
struct Machine {
    root: TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { root: tempfile::tempdir().unwrap() };
        // Others must get as far as the socket to be refused there.
        fs::set_permissions(machine.root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for folder in ["run/postern-root", "dev/postern", "proc/self", "usr/bin", "data"] {
            fs::create_dir_all(machine.path(folder)).unwrap();
        }
        machine.put("dev/postern/plain", &vec![0; AREA]);
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn put(&self, path: &str, content: &[u8]) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), content).unwrap();
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// A program of this machine, for files below the root.
    fn real(&self, path: &str) {
        fs::create_dir_all(self.path("usr/sbin")).unwrap();
        std::os::unix::fs::symlink(path, self.path(path.trim_start_matches('/'))).unwrap();
    }

    /// Whether `passphrase` opens the data partition.
    fn opens(&self, passphrase: &str) -> bool {
        let mut child = Command::new("cryptsetup")
            .args(["open", "--test-passphrase", "--key-file", "-"])
            .arg(self.path("dev/postern/data"))
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(passphrase.as_bytes()).unwrap();
        child.wait().unwrap().success()
    }

    /// A data partition that `passphrase` opens, and the random one beside its content.
    fn data_partition(&self, passphrase: &str) {
        let partition = self.path("dev/postern/data");
        fs::File::create(&partition).unwrap().set_len(48 << 20).unwrap();
        self.put("first-key", passphrase.as_bytes());
        let formatted = Command::new("cryptsetup")
            .args(["luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2"])
            .args(["--pbkdf-force-iterations", "1000", "--key-file"])
            .arg(self.path("first-key"))
            .arg(&partition)
            .status()
            .unwrap();
        assert!(formatted.success());
        self.real("/usr/sbin/cryptsetup");
        self.real("/usr/bin/systemd-cryptenroll");
    }

    /// A program that adds its name and arguments to `calls`, then does `more`.
    fn program(&self, name: &str, more: &str) {
        let path = format!("usr/bin/{name}");
        let calls = self.path("calls");
        self.put(&path, format!("#!/bin/sh\necho {name} \"$@\" >>{}\n{more}\n", calls.display()).as_bytes());
        fs::set_permissions(self.path(&path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A firmware whose variables are files, and which forgets no entry.
    fn firmware(&self) {
        self.put("entries", b"Boot0000* UiApp\n");
        self.put("order", b"0000\n");
        let root = self.root.path().display();
        let script = format!(
            "cd {root}\ncase \"$*\" in\n\
             '') [ ! -e next ] || echo \"BootNext: $(cat next)\"; echo \"BootOrder: $(cat order)\"; cat entries ;;\n\
             *--create-only*postern-a*) echo 'Boot0001* postern-a' >>entries ;;\n\
             *--create-only*postern-b*) echo 'Boot0002* postern-b' >>entries ;;\n\
             *--delete-bootnext) rm next ;;\n*--bootnext*) echo \"$3\" >next ;;\n*--bootorder*) echo \"$3\" >order ;;\nesac"
        );
        self.program("efibootmgr", &script);
    }

    /// A start with this command line, for which the firmware has used its request up.
    fn restarts(&self, command_line: &str) {
        for gone in ["next", "run/postern-root/starts.json"] {
            let _ = fs::remove_file(self.path(gone));
        }
        self.put("proc/cmdline", format!("{command_line}\n").as_bytes());
        self.run("prepare");
    }

    /// Secure Boot's variable, as efivarfs gives it: four octets of attributes and the value.
    fn secure_boot(&self, on: bool) {
        let path = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
        self.put(path, &[6, 0, 0, 0, u8::from(on)]);
    }

    fn calls(&self) -> Vec<String> {
        fs::read_to_string(self.path("calls")).unwrap_or_default().lines().map(ToOwned::to_owned).collect()
    }

    fn helper(&self, task: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
        command.args(["helper", "--root"]).arg(self.root.path()).args(task);
        command
    }

    fn run(&self, task: &str) {
        let output = self.helper(&[task]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Serves the daemon of `user` until dropped.
    fn serve(&self, user: &str) -> Serving {
        let log = fs::File::create(self.path("log")).unwrap();
        let child = self.helper(&["serve", "--user", user]).stderr(log).stdout(Stdio::null()).spawn().unwrap();
        let serving = Serving { child, socket: self.path("run/postern-root/helper.sock") };
        let start = Instant::now();
        while UnixStream::connect(&serving.socket).is_err() {
            assert!(start.elapsed() < PATIENCE, "the helper does not come up: {}", self.text("log"));
            std::thread::sleep(Duration::from_millis(10));
        }
        fs::set_permissions(&serving.socket, fs::Permissions::from_mode(0o666)).unwrap();
        serving
    }
}

struct Serving {
    child: Child,
    socket: PathBuf,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Serving {
    fn line(&self, line: &[u8]) -> Value {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // Whoever is refused may find the other end closed.
        let _ = stream.write_all(line);
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
    }

    fn ask(&self, request: &Value) -> Value {
        self.line(format!("{}\n", json!({ "version": 1, "request": request })).as_bytes())["result"].clone()
    }

    #[track_caller]
    fn done(&self, request: &Value) {
        assert_eq!(self.ask(request), json!({ "Ok": "done" }), "{request}");
    }

    #[track_caller]
    fn refused(&self, request: &Value, kind: &str) {
        let answer = self.ask(request);
        assert_eq!(answer["Err"]["kind"], kind, "{request}: {answer}");
        assert!(answer["Err"]["what"].as_str().unwrap().len() > 10, "{answer}");
        assert!(answer["Err"]["remedy"].as_str().unwrap().len() > 5, "{answer}");
    }
}

fn network(address: &str) -> Value {
    json!({ "apply_network": { "network":
        { "address": address, "gateway": null, "dns": ["192.0.2.53"], "ntp": ["time.example.org"] } } })
}

fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

#[test]
fn only_the_daemon_and_root_are_heard() {
    if !is_root() {
        eprintln!("another user can't be taken on by an ordinary one: this is tested as root only");
        return;
    }
    let machine = Machine::new();
    let serving = machine.serve("nobody");
    // As the daemon's user, and as some other one.
    for (user, allowed) in [("nobody", true), ("daemon", false), ("root", true)] {
        let script = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
                      try: s.sendall(b'{\"version\":1,\"request\":\"read_plain\"}\\n')\nexcept BrokenPipeError: pass\nprint(s.makefile().readline())";
        let output = Command::new("setpriv")
            .args([&format!("--reuid={user}"), "--clear-groups", "/usr/bin/python3", "-c", script])
            .arg(&serving.socket)
            .output()
            .unwrap();
        let answer: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let expected = if allowed { json!({ "Ok": { "plain": null } }) } else { Value::Null };
        match allowed {
            true => assert_eq!(answer["result"], expected, "{user}"),
            false => assert_eq!(answer["result"]["Err"]["kind"], "not_allowed", "{user}"),
        }
    }
    assert!(machine.text("log").contains("helper_refused"), "{}", machine.text("log"));
}

#[test]
fn what_is_no_request_of_this_version_is_refused_and_never_repeated() {
    let machine = Machine::new();
    let serving = machine.serve("root");
    for line in [
        &b"planted\n"[..],
        b"\n",
        b"{\"version\":2,\"request\":\"reboot\"}\n",
        b"{\"version\":1,\"request\":\"planted\"}\n",
        b"{\"version\":1,\"request\":{\"unlock_data\":{\"passphrase\":\"planted\"}}}\n",
        b"{\"version\":1,\"request\":{\"apply_network\":{\"network\":{\"address\":\"192.0.2.10/24\\nDNS=planted\"}}}}\n",
        &[vec![b' '; 20_000], b"\n".to_vec()].concat(),
    ] {
        let answer = serving.line(line);
        assert_eq!(answer["result"]["Err"]["kind"], "bad_request", "{answer}");
        assert!(!answer.to_string().contains("planted"), "{answer}");
    }
    assert!(!machine.text("log").contains("planted"), "{}", machine.text("log"));
    assert_eq!(machine.calls(), [""; 0], "nothing was run");
}

#[test]
fn an_address_is_rendered_now_and_at_the_next_start() {
    let machine = Machine::new();
    machine.program("networkctl", "");
    let file = "run/systemd/network/10-postern.network";
    {
        let serving = machine.serve("root");
        serving.refused(&network("192.0.2.0/24"), "bad_request");
        serving.done(&json!({ "store_plain": { "host": "postern.example.org", "listen": ["0.0.0.0:25"] } }));
        serving.done(&network("192.0.2.10/24"));
        let plain = serving.ask(&json!("read_plain"));
        assert_eq!(plain["Ok"]["plain"]["host"], "postern.example.org", "{plain}");
        assert_eq!(plain["Ok"]["plain"]["network"]["address"], "192.0.2.10/24", "{plain}");
    }
    assert_eq!(machine.calls(), ["networkctl reload"]);
    let rendered = machine.text(file);
    assert!(
        rendered.contains("\nAddress=192.0.2.10/24\n") && rendered.contains("\nNTP=time.example.org\n"),
        "{rendered}"
    );
    assert_eq!(fs::metadata(machine.path(file)).unwrap().permissions().mode() & 0o777, 0o644, "networkd is not root");
    fs::remove_file(machine.path(file)).unwrap();
    machine.run("prepare");
    assert_eq!(machine.text(file), rendered, "as before the restart");
}

#[test]
fn prepare_hands_on_slot_and_signatures_and_makes_the_boot_entries() {
    let machine = Machine::new();
    machine.put("proc/cmdline", b"root=/dev/dm-0 rauc.slot=postern-b postern.slot=b console=ttyS0\n");
    machine.put("run/postern-root/boot/postern/pcr-signature.json", b"{\"sha256\":[]}");
    machine.put("run/postern-root/boot/postern/policy-signatures.json", b"{\"ours\":[]}");
    for (slot, number) in [("a", "1"), ("b", "2")] {
        machine.put(&format!("sys/devices/virtual/block/vda/vda{number}/partition"), number.as_bytes());
        fs::create_dir_all(machine.path("sys/class/block")).unwrap();
        let (device, link) = (format!("sys/devices/virtual/block/vda/vda{number}"), format!("vda{number}"));
        std::os::unix::fs::symlink(machine.path(&device), machine.path("sys/class/block").join(&link)).unwrap();
        machine.put(&format!("dev/{link}"), b"");
        let partition = machine.path(&format!("dev/postern/boot-{slot}"));
        std::os::unix::fs::symlink(machine.path(&format!("dev/{link}")), partition).unwrap();
    }
    machine.firmware();
    machine.run("prepare");
    assert_eq!(
        (machine.text("run/postern-root/slot"), machine.text("run/postern-root/update-variant")),
        ("b\n".into(), "a\n".into())
    );
    assert_eq!(machine.text("run/systemd/tpm2-pcr-signature.json"), "{\"sha256\":[]}");
    assert_eq!(machine.text("run/postern-root/policy-signatures.json"), "{\"ours\":[]}");
    let calls = machine.calls();
    assert!(
        calls.contains(
            &r"efibootmgr --quiet --create-only --disk /dev/vda --part 1 --label postern-a --loader \EFI\BOOT\BOOTX64.EFI"
                .to_owned()
        ),
        "{calls:#?}"
    );
    // The running slot is the next, and whoever dies before it can say so yields to the other one.
    let last = &calls[calls.len() - 2..];
    assert_eq!(last, ["efibootmgr --quiet --bootnext 0002", "efibootmgr --quiet --bootorder 0001,0002,0000"]);
    fs::remove_file(machine.path("calls")).unwrap();
    machine.run("prepare");
    assert_eq!(machine.calls(), [""; 0], "a start is counted once");
    machine.restarts("postern.slot=b");
    assert_eq!(
        machine.calls(),
        ["efibootmgr", "efibootmgr --quiet --bootnext 0002"],
        "the firmware is written no more than it must"
    );
    // Slot b dies before it can say so: the firmware starts a, which says so. It was the third start without health.
    fs::remove_file(machine.path("calls")).unwrap();
    machine.restarts("postern.slot=a");
    assert_eq!(machine.calls(), ["efibootmgr"]);
    let starts: Value = serde_json::from_str(&machine.text("run/postern-root/starts.json")).unwrap();
    assert!(starts["fallback"]["reason"]["what"].as_str().unwrap().starts_with("slot b did not start"), "{starts}");
    assert_eq!(starts["firmware"], Value::Null);
    assert!(machine.text("run/systemd/network/10-postern.network").contains("DHCP=yes"), "a new box can be reached");
}

#[test]
fn firmware_that_does_not_use_a_request_up_is_an_alarm_and_asked_for_none() {
    let machine = Machine::new();
    machine.firmware();
    machine.put("entries", b"Boot0001* postern-a\nBoot0002* postern-b\nBoot0000* UiApp\n");
    machine.put("order", b"0000,0001,0002\n");
    machine.put("next", b"0001\n");
    machine.put("proc/cmdline", b"postern.slot=a\n");
    machine.run("prepare");
    assert!(!machine.path("next").exists());
    assert_eq!(machine.text("order"), "0001,0002,0000\n", "the one that is to run is first");
    let starts: Value = serde_json::from_str(&machine.text("run/postern-root/starts.json")).unwrap();
    assert!(starts["firmware"]["what"].as_str().unwrap().contains("BootNext"), "{starts}");
}

#[test]
fn with_two_disks_nothing_is_opened_counted_or_written() {
    let machine = Machine::new();
    machine.firmware();
    machine.put("proc/cmdline", b"postern.slot=a\n");
    machine.put("run/postern-root/boot/postern/pcr-signature.json", b"{}");
    let mut table = vec![0; 1024];
    table[512..520].copy_from_slice(b"EFI PART");
    table[568..584].copy_from_slice(b"\x54\x53\x4f\x50\x52\x45\0\x4e\x80\0\0\0\0\0\0\0");
    for disk in ["sda", "sdb"] {
        fs::create_dir_all(machine.path(&format!("sys/block/{disk}"))).unwrap();
        machine.put(&format!("dev/{disk}"), &table);
    }
    machine.run("prepare");
    let reason = machine.text("run/postern-root/two-disks");
    assert!(reason.contains("/dev/sda and /dev/sdb") && reason.contains("; take the one out"), "{reason}");
    assert!(!machine.path("run/systemd/tpm2-pcr-signature.json").exists(), "the data partition stays closed");
    assert_eq!(machine.calls(), [""; 0]);
    assert!(machine.text("run/systemd/network/10-postern.network").contains("DHCP=yes"));
}

#[test]
fn prepare_does_what_it_can_where_much_is_missing() {
    let machine = Machine::new();
    fs::remove_file(machine.path("dev/postern/plain")).unwrap();
    machine.put("proc/cmdline", b"root=/dev/dm-0 postern.slot=../../etc\n");
    machine.run("prepare");
    assert!(!machine.path("run/postern-root/slot").exists());
    assert!(machine.text("run/systemd/network/10-postern.network").contains("DHCP=yes"));
}

#[test]
fn signatures_of_any_length_are_not_taken() {
    let machine = Machine::new();
    machine.put("proc/cmdline", b"postern.slot=a\n");
    machine.put("run/postern-root/boot/postern/pcr-signature.json", &vec![b' '; 300 * 1024]);
    machine.put("run/postern-root/boot/postern/policy-signatures.json", b"{}");
    machine.run("prepare");
    assert!(!machine.path("run/systemd/tpm2-pcr-signature.json").exists());
    assert_eq!(machine.text("run/postern-root/policy-signatures.json"), "{}", "the other one is");
}

#[test]
fn power_and_time_go_through_systemd() {
    let machine = Machine::new();
    machine.program("systemctl", "");
    machine.program("timedatectl", "");
    let serving = machine.serve("root");
    serving.done(&json!("reboot"));
    serving.done(&json!("power_off"));
    serving.done(&json!({ "set_time": { "at": "2026-02-03T04:05:06Z" } }));
    serving.refused(&json!({ "set_time": { "at": "1970-01-01T00:00:00Z" } }), "refused");
    assert_eq!(
        machine.calls(),
        [
            "systemctl --no-block reboot",
            "systemctl --no-block poweroff",
            "systemctl stop systemd-timesyncd.service",
            "timedatectl --no-ask-password set-time 2026-02-03 04:05:06 UTC",
            "systemctl --no-block start systemd-timesyncd.service",
        ]
    );
    machine.program("systemctl", "exit 3");
    serving.refused(&json!("reboot"), "failed");
}

#[test]
fn a_machine_without_a_program_says_so_and_runs_none_of_this_one() {
    let machine = Machine::new();
    let serving = machine.serve("root");
    serving.refused(&json!("reboot"), "failed");
}

fn passphrase(digit: &str) -> String {
    digit.repeat(64)
}

#[test]
fn a_recovery_passphrase_replaces_the_one_before() {
    let machine = Machine::new();
    machine.data_partition("random");
    machine.put("data/.keyslot", b"random\n");
    let serving = machine.serve("root");
    serving.done(&json!({ "enrol_data_recovery": { "passphrase": passphrase("a") } }));
    assert!(machine.opens(&passphrase("a")) && !machine.opens("random"));
    fs::remove_file(machine.path("data/.keyslot")).unwrap();
    serving.refused(&json!({ "enrol_data_recovery": { "passphrase": passphrase("c") } }), "failed");
    assert!(machine.opens(&passphrase("a")), "what failed changed nothing");
    assert!(!machine.text("log").contains("aaaa"), "{}", machine.text("log"));
}

#[test]
fn nothing_is_sealed_to_a_boot_with_an_altered_command_line() {
    let machine = Machine::new();
    machine.program("systemd-cryptenroll", "");
    machine.secure_boot(true);
    machine.put("run/postern-root/data-by-key", b"");
    let serving = machine.serve("root");
    let request = json!({ "seal_data": { "passphrase": passphrase("a") } });
    serving.refused(&request, "refused");
    machine.put("sys/class/tpm/tpm0/pcr-sha256/12", format!("{}1\n", "0".repeat(63)).as_bytes());
    serving.refused(&request, "refused");
    assert_eq!(machine.calls(), [""; 0]);
    machine.put("sys/class/tpm/tpm0/pcr-sha256/12", format!("{}\n", "0".repeat(64)).as_bytes());
    machine.put("run/systemd/tpm2-pcr-signature.json", b"{}");
    serving.done(&request);
    // The slot of another TPM with the same policy would keep the tool from adding this one's: it goes first.
    let calls = machine.calls();
    let [wiped, sealed] = calls.as_slice() else { panic!("{calls:?}") };
    assert!(wiped.contains("--wipe-slot=tpm2") && !wiped.contains("--tpm2-device"), "{wiped}");
    assert!(sealed.contains("--tpm2-device=auto") && sealed.contains("--tpm2-pcrs=7+12"), "{sealed}");
    assert!(!calls.concat().contains("aaaa"), "{calls:?}");
    assert_eq!(machine.text("run/systemd/tpm2-pcr-signature.json"), "{}", "it is back");
    assert!(!machine.path("run/postern-root/data-by-key").exists(), "the next start asks no more");
}

#[test]
fn a_released_image_binds_nothing_to_a_start_without_secure_boot() {
    let machine = Machine::new();
    machine.program("systemd-cryptenroll", "");
    machine.put("sys/class/tpm/tpm0/pcr-sha256/12", "0".repeat(64).as_bytes());
    let request = json!({ "seal_data": { "passphrase": passphrase("a") } });
    machine.secure_boot(false);
    let serving = machine.serve("root");
    for image in ["{\"development\":false}", ""] {
        machine.put("usr/share/postern/image.json", image.as_bytes());
        serving.refused(&request, "refused");
    }
    assert_eq!(machine.calls(), [""; 0]);
    machine.put("usr/share/postern/image.json", b"{\"development\":true}");
    serving.done(&request);
}

#[test]
fn an_unlocking_that_broke_off_is_ended_by_the_next() {
    if !is_root() {
        eprintln!("folders are given to others by root only: this is tested as root only");
        return;
    }
    let machine = Machine::new();
    for name in ["cryptsetup", "e2fsck", "systemctl", "journalctl"] {
        machine.program(name, "");
    }
    machine.put("data/.keyslot", b"random\n");
    machine.put("run/postern-root/data-locked", b"why; what to do\n");
    machine.put("proc/self/mountinfo", b"22 1 254:0 / / ro - squashfs /dev/dm-0 ro\n");
    let serving = machine.serve("root");
    let request = json!({ "unlock_data": { "passphrase": passphrase("a") } });
    // Opened, and then the mount fails: the file system was checked, and the box still counts as locked.
    serving.refused(&request, "failed");
    machine.put("dev/mapper/data", b"");
    serving.refused(&request, "failed");
    let calls = machine.calls();
    assert!(calls.iter().filter(|call| call.starts_with("cryptsetup open ")).count() == 1, "{calls:#?}");
    assert!(calls.last().unwrap().starts_with("e2fsck -p "), "{calls:#?}");
    assert!(machine.path("run/postern-root/data-locked").exists());
    // The try before got as far as the mount.
    machine.put("proc/self/mountinfo", b"40 22 253:1 / /data rw - ext4 /dev/mapper/data rw\n");
    serving.done(&request);
    assert!(!machine.path("run/postern-root/data-locked").exists());
    assert!(machine.path("run/postern-root/data-by-key").exists(), "not bound to this machine yet");
    assert!(machine.path("data/postern").is_dir() && machine.path("data/journal").is_dir());
    let calls = machine.calls();
    assert!(
        calls.ends_with(&["systemctl start var-log-journal.mount".into(), "journalctl --flush".into()]),
        "{calls:#?}"
    );
}

#[test]
fn after_a_factory_reset_no_passphrase_opens_and_no_address_remains() {
    let machine = Machine::new();
    machine.data_partition(&passphrase("a"));
    for (name, more) in [("networkctl", ""), ("systemctl", ""), ("sfdisk", ""), ("blkdiscard", "exit 1")] {
        machine.program(name, more);
    }
    let number = "sys/devices/virtual/block/data";
    machine.put(&format!("{number}/partition"), b"6\n");
    fs::create_dir_all(machine.path("sys/class/block")).unwrap();
    std::os::unix::fs::symlink(machine.path(number), machine.path("sys/class/block/data")).unwrap();
    machine.put("sys/class/tpm/tpm0/ppi/tcg_operations", b"0 4: User not required\n5 3: User required\n");
    machine.put("sys/class/tpm/tpm0/ppi/request", b"");
    let copy = fs::read(machine.path("dev/postern/data")).unwrap();
    let serving = machine.serve("root");
    serving.done(&network("192.0.2.10/24"));
    assert!(machine.opens(&passphrase("a")));
    serving.done(&json!({ "factory_reset": { "tpm_cleared": false } }));
    assert!(!machine.opens(&passphrase("a")));
    let disk = fs::read(machine.path("dev/postern/data")).unwrap();
    assert_eq!(disk.len(), copy.len());
    assert!(disk[..32 << 20].iter().all(|octet| *octet == 0), "header and key slots");
    assert!(fs::read(machine.path("dev/postern/plain")).unwrap().iter().all(|octet| *octet == 0));
    assert_eq!(
        machine.text("sys/class/tpm/tpm0/ppi/request"),
        "",
        "a question at the screen would keep the box from starting"
    );
    let calls = machine.calls();
    assert!(calls.iter().any(|call| call.starts_with("sfdisk") && call.ends_with(" 6")), "{calls:#?}");
    assert_eq!(calls.last().unwrap(), "systemctl --no-block reboot");
}

#[test]
fn a_data_partition_that_is_not_open_is_said_with_its_reason() {
    if !is_root() {
        eprintln!("a tmpfs is mounted by root only: this is tested as root only");
        return;
    }
    for (present, secure_boot, reason) in [
        (&[][..], true, "no TPM"),
        (&["dev/tpmrm0"][..], true, "no data partition"),
        (&["dev/tpmrm0"][..], false, "Secure Boot is off"),
        (&["dev/tpmrm0", "dev/postern/data"], false, "no key slots"),
    ] {
        let machine = Machine::new();
        machine.secure_boot(secure_boot);
        machine.put("proc/self/mountinfo", b"22 1 254:0 / / ro - squashfs /dev/dm-0 ro\n");
        present.iter().for_each(|file| machine.put(file, b""));
        // Mounts end with the namespace.
        let status = Command::new("unshare")
            .args(["--mount", env!("CARGO_BIN_EXE_postern"), "helper", "--root"])
            .arg(machine.root.path())
            .arg("data")
            .status()
            .unwrap();
        assert!(status.success());
        let locked = machine.text("run/postern-root/data-locked");
        let (what, remedy) = locked.trim().split_once("; ").unwrap_or_else(|| panic!("{locked}"));
        assert!(what.contains(reason) && remedy.len() > 10, "{locked}");
        assert_eq!(fs::read_dir(machine.path("data")).unwrap().count(), 0, "nothing is written below the mount point");
    }
}
