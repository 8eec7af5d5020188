//! The health check against the whole system: it passes where mail can flow, and names the step that does not work.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use lab::{
    layout::Layout,
    process::{Process, sibling},
    scene::{Scene, in_own_mounts, settings_with, wait_for},
    system::{Options, System},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use std::{collections::BTreeMap, fs, net::TcpListener, process::Command};

/// Rules that let nothing of the organisation's own through, and nobody of this machine hand in.
const NOTHING_PASSES: [(&str, &str); 2] = [
    ("networks = [\"127.0.0.0/8\"]", "networks = [\"192.0.2.0/24\"]\nmax_sessions = 1"),
    (
        "[[policy.rule]]\nname = \"outside\"",
        "[[policy.rule]]\nname = \"all\"\naction = \"reject\"\n[policy.rule.when]\nsender = [\"*\"]\n\n[[policy.rule]]\nname = \"outside\"",
    ),
];

/// Whether it is healthy, and what came of each step.
fn health(system: &System) -> (bool, BTreeMap<String, (String, String)>) {
    let output = system.postern(&["health", "--json"], "").unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let healthy = report["healthy"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(!healthy)), "{report}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let checks = report["checks"].as_array().unwrap();
    let steps = checks.iter().map(|check| (text(&check["name"]), (text(&check["state"]), text(&check["what"]))));
    (healthy, steps.collect())
}

#[track_caller]
fn assert_states(steps: &BTreeMap<String, (String, String)>, expected: &[(&str, &str)]) {
    let states: Vec<(&str, &str)> = expected
        .iter()
        .map(|(name, _)| (*name, steps.get(*name).map_or("absent", |(state, _)| state.as_str())))
        .collect();
    assert_eq!(states, expected, "{steps:#?}");
}

/// Nothing of a check is left, counted or gone out.
fn assert_no_trace(scene: &Scene) {
    let status = scene.system.postern_json(&["status"], "").unwrap();
    for counter in ["accepted", "delivered", "refused"] {
        assert_eq!(status["facts"][counter], 0, "{status}");
    }
    assert_eq!(status["queue"]["messages"], 0, "{status}");
    assert_eq!(status["queue"]["destinations"], serde_json::json!([]), "{status}");
    assert_eq!(scene.system.next_hop.as_ref().unwrap().count(), 0);
    assert_eq!(scene.system.internal.count(), 0);
    assert!(scene.log().unwrap().lines().all(|line| !line.contains("\"accepted\"") && !line.contains("accepted from")));
}

const ALL: [&str; 7] = ["keys", "intake", "judge", "workers", "spool", "relay", "cloud"];

#[test]
fn a_healthy_appliance_passes_whatever_its_rules_are_and_no_mail_comes_of_it() {
    let changed = |layout: &Layout| settings_with(layout, true, &NOTHING_PASSES);
    let mut scene =
        Scene::start(|layout| Ok(Options { settings: Some(changed(layout)?), ..Options::default() })).unwrap();
    for _ in 0..2 {
        let (healthy, steps) = health(&scene.system);
        assert!(healthy, "{steps:#?}");
        assert_states(&steps, &ALL.map(|name| (name, "passed")));
    }
    assert_no_trace(&scene);
    assert_eq!(scene.system.cloud_messages().unwrap(), []);
    // Nobody else can pose as the check.
    let mut stranger = lab::smtp::Client::connect(scene.system.layout.smtp()).unwrap();
    stranger.command("EHLO probe.postern.invalid", "250").unwrap();
    stranger.command("MAIL FROM:<0123456789abcdef@probe.postern.invalid>", "250").unwrap();
    stranger.command("RCPT TO:<ordinary@probe.postern.invalid>", "550").unwrap();

    // A service that is away is not this firmware's fault, and an alarm of nothing.
    scene.system.stop_cloud().unwrap();
    let (healthy, steps) = health(&scene.system);
    assert!(healthy, "{steps:#?}");
    assert_states(&steps, &[("relay", "passed"), ("cloud", "outside")]);

    // One whose certificate nobody vouches for is.
    let pretender = pretend(&scene);
    let (healthy, steps) = health(&scene.system);
    assert!(!healthy, "{steps:#?}");
    assert_states(&steps, &[("relay", "passed"), ("cloud", "failed")]);
    let status = scene.system.postern(&["status"], "").unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("the health check failed: cloud: "), "{status}");
    drop(pretender);
    scene.system.start_cloud().unwrap();
    assert!(health(&scene.system).0);
    assert!(!String::from_utf8(scene.system.postern(&["status"], "").unwrap().stdout).unwrap().contains("health"));
}

/// A TLS server with a certificate of its own where the cloud service was.
fn pretend(scene: &Scene) -> Process {
    let folder = scene.folder().to_owned();
    let (cert, key) = (folder.join("pretender.crt"), folder.join("pretender.key"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-keyout"])
        .args([&key, &"-out".into(), &cert])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let mut command = Command::new("openssl");
    command.args(["s_server", "-quiet", "-tls1_3", "-accept", &scene.system.layout.cloud_api().to_string(), "-cert"]);
    command.args([&cert, &"-key".into(), &key]);
    let mut process = Process::start("pretender", command, &folder.join("pretender.log")).unwrap();
    let patience = std::time::Duration::from_secs(20);
    lab::process::wait_for_port(&mut process, scene.system.layout.cloud_api(), patience).unwrap();
    process
}

/// The processes that the appliance has started.
fn workers(system: &mut System) -> Vec<Pid> {
    let parent = system.appliance().unwrap().id().to_string();
    let parent_of = |entry: &fs::DirEntry| {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let (state, rest) = stat.rsplit_once(") ")?.1.split_once(' ')?;
        // One that has ended is looked at by nobody before it is needed.
        (state != "Z").then(|| rest.split(' ').next().unwrap_or_default().to_owned())
    };
    let children = fs::read_dir("/proc").unwrap().flatten().filter(|entry| parent_of(entry) == Some(parent.clone()));
    children.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw).collect()
}

#[test]
fn judging_processes_that_do_not_start_are_named() {
    let mut scene = Scene::start(|layout| {
        let folder = layout.path("programs");
        fs::create_dir_all(&folder)?;
        let program = sibling("postern")?;
        let script = format!("mount -t tmpfs tmpfs \"$1\"\ncp \"{}\" \"$1\"", program.display());
        let (appliance_through, program) = (in_own_mounts(&script, &folder), Some(folder.join("postern")));
        Ok(Options { appliance_through, appliance_program: program, no_cloud: true, ..Options::default() })
    })
    .unwrap();
    assert!(health(&scene.system).0);
    // Nothing is started from there any more; the daemon itself runs on.
    let folder = scene.system.layout.path("programs").display().to_string();
    in_mounts_of(&mut scene.system, "mount -o remount,noexec \"$1\"", &folder);
    wait_for("workers live on", || {
        let alive = workers(&mut scene.system);
        for worker in &alive {
            let _ = kill(*worker, Signal::SIGKILL);
        }
        Ok(alive.is_empty())
    })
    .unwrap();
    let (healthy, steps) = health(&scene.system);
    eprintln!(
        "DEBUG {}",
        scene.log().unwrap().lines().filter(|l| l.contains("judging")).collect::<Vec<_>>().join(" | ")
    );
    assert!(!healthy, "{steps:#?}");
    let expected =
        [("judge", "passed"), ("workers", "failed"), ("spool", "passed"), ("relay", "passed"), ("cloud", "skipped")];
    assert_states(&steps, &expected);
    assert_no_trace(&scene);
}

/// Runs a script, whose `$1` is `argument`, among the mounts of the appliance.
fn in_mounts_of(system: &mut System, script: &str, argument: &str) {
    // The appliance has taken the place of the shell that mounted.
    let pid = system.appliance().unwrap().id().to_string();
    let mut command = Command::new("nsenter");
    command.args(["--target", &pid, "--mount"]);
    if !nix::unistd::Uid::effective().is_root() {
        command.args(["--user", "--preserve-credentials"]);
    }
    let done = command.args(["sh", "-c", script, "sh", argument]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

#[test]
fn a_spool_that_takes_no_write_is_named() {
    let through = ["env", "--ignore-signal=XFSZ"].map(ToOwned::to_owned).to_vec();
    let mut scene =
        Scene::start(|_| Ok(Options { appliance_through: through, no_cloud: true, ..Options::default() })).unwrap();
    assert!(health(&scene.system).0);
    // As on a disk that turned read-only, every write fails from now on.
    let pid = scene.system.appliance().unwrap().id().to_string();
    let limited = Command::new("prlimit").args(["--pid", &pid, "--fsize=0"]).status().unwrap();
    assert!(limited.success());
    let (healthy, steps) = health(&scene.system);
    assert!(!healthy, "{steps:#?}");
    assert_states(&steps, &[("intake", "passed"), ("judge", "skipped"), ("spool", "failed"), ("relay", "skipped")]);
}

#[test]
fn a_full_disk_is_told_and_is_not_the_firmwares_fault() {
    let mut scene = Scene::start(|layout| {
        let data = layout.path("appliance");
        fs::create_dir_all(&data)?;
        let through = in_own_mounts("mount -t tmpfs -o size=512m,mode=0700 tmpfs \"$1\"", &data);
        Ok(Options { appliance_through: through, no_cloud: true, ..Options::default() })
    })
    .unwrap();
    assert!(health(&scene.system).0);
    let data = scene.system.layout.path("appliance").display().to_string();
    in_mounts_of(&mut scene.system, "cat /dev/zero >\"$1\"/full 2>/dev/null || true", &data);
    let (healthy, steps) = health(&scene.system);
    assert!(healthy, "{steps:#?}");
    assert_states(&steps, &[("keys", "passed"), ("intake", "outside"), ("spool", "skipped"), ("relay", "skipped")]);
}

#[test]
fn what_a_check_that_was_cut_leaves_behind_goes_to_nobody() {
    let mut scene = Scene::start(|_| Ok(Options::default())).unwrap();
    scene.system.stop_cloud().unwrap();
    // A service that takes connections and says nothing: the check waits for it.
    let silent = TcpListener::bind(scene.system.layout.cloud_api()).unwrap();
    let mut check = Command::new(sibling("postern").unwrap());
    let check = check.arg("health").env("POSTERN_SOCKET", scene.system.layout.socket()).spawn().unwrap();
    let _asked = silent.accept().unwrap();
    let listed = scene.system.postern_json(&["queue", "list"], "").unwrap();
    assert_eq!(listed["rows"].as_array().unwrap().len(), 1, "{listed}");
    scene.system.kill_appliance();
    drop(silent);
    let ended = check.wait_with_output().unwrap();
    assert!(!ended.status.success());
    scene.system.start_appliance().unwrap();
    wait_for("the probe stays", || {
        let listed = scene.system.postern_json(&["queue", "list"], "")?;
        Ok(listed["rows"].as_array().is_some_and(Vec::is_empty))
    })
    .unwrap();
    assert_no_trace(&scene);
}
