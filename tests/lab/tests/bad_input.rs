//! Bad input and a bad machine: each is told in two halves, and no mail is lost over it (item 8).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use lab::{
    accounting::children,
    mails::{Part, noise, windows_program},
    process::sibling,
    scene::{CONFIDENTIAL, RECIPIENT, Scene, in_own_mounts, settings_with, wait_for},
    sink::Fault,
    smtp::Client,
    system::{Options, succeeded},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};
use serde_json::Value;
use std::{
    fs::{self, Permissions},
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    process::{Command, Output},
    time::Duration,
};

const FIVE_ERRORS: &str = r#"
[host]
name = "not a name"

[intake]
listen = ["127.0.0.1:99999"]
networks = ["300.0.0.0/8"]

[relay]
smarthost = "mx.example.net:25"
tls = "perhaps"

[[policy.rule]]
name = "personal numbers"
action = "secure"
when.detect = [{ detector = "us_snn" }]
"#;

const THEIR_PATHS: [&str; 5] =
    ["host.name", "intake.listen[0]", "intake.networks[0]", "relay.tls", "policy.rule[0].when.detect[0].detector"];

fn no_cloud() -> Options {
    Options { no_cloud: true, ..Options::default() }
}

fn command_line(arguments: &[&str]) -> Output {
    Command::new(sibling("postern").unwrap()).args(arguments).output().unwrap()
}

fn paths(problems: &Value) -> Vec<&str> {
    problems.as_array().unwrap().iter().map(|problem| problem["path"].as_str().unwrap()).collect()
}

/// What the operators are told of: `what` and `remedy` of the alarm that `says` so.
fn alarm(scene: &Scene, says: &str) -> Option<Value> {
    let status = scene.system.postern_json(&["status"], "").unwrap();
    let alarms = status["facts"]["alarms"].as_array().unwrap().clone();
    alarms
        .into_iter()
        .find(|alarm| alarm["what"].as_str().unwrap().contains(says) && !alarm["remedy"].as_str().unwrap().is_empty())
}

/// A port that somebody else has, and the line of settings that asks for it.
fn taken() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn settings_with_five_errors_and_a_port_in_use_change_nothing() {
    let mut scene = Scene::start(|_| Ok(no_cloud())).unwrap();
    let file = scene.folder().join("five.toml");
    fs::write(&file, FIVE_ERRORS).unwrap();
    let file = file.to_str().unwrap().to_owned();

    let checked = command_line(&["check", &file]);
    let text = String::from_utf8(checked.stdout).unwrap();
    assert_eq!(checked.status.code(), Some(1), "{text}");
    assert!(THEIR_PATHS.iter().all(|path| text.contains(&format!(": {path}: "))), "{text}");
    assert_eq!((text.matches("\n  → ").count(), text.ends_with("5 errors\n")), (5, true), "{text}");
    let checked = command_line(&["check", "--json", &file]);
    let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!((&report["good"], paths(&report["problems"])), (&Value::Bool(false), THEIR_PATHS.to_vec()));

    let before = scene.system.postern_json(&["settings", "show"], "").unwrap();
    let applied = scene.system.postern(&["settings", "apply", &file, "--json"], "").unwrap();
    let report: Value = serde_json::from_slice(&applied.stdout).unwrap();
    assert_eq!((applied.status.code(), paths(&report["error"]["problems"])), (Some(1), THEIR_PATHS.to_vec()));
    assert_eq!(scene.system.postern_json(&["settings", "show"], "").unwrap(), before, "the revision in force");

    for wrong in
        [&["queue", "list", "--limit", "0"][..], &["queue", "show", "x"], &["nonsense"], &["settings", "apply"]]
    {
        let refused = command_line(wrong);
        assert_eq!(refused.status.code(), Some(2), "{wrong:?}: {refused:?}");
        assert!(refused.stdout.is_empty() && !refused.stderr.is_empty(), "{wrong:?}: {refused:?}");
    }

    // Settings that name a port which somebody else has are refused as a whole; the old listener goes on.
    let (other, address) = taken();
    let own = scene.system.layout.smtp().to_string();
    let moved = settings_with(&scene.system.layout, false, &[(&own, &address.to_string())]).unwrap();
    let refused = scene.system.postern(&["settings", "apply", "-"], &moved).unwrap();
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(
        told.contains(&format!("{address} can't be listened on")) && told.contains("\n  → stop what else"),
        "{told}"
    );
    assert_eq!(scene.system.postern_json(&["settings", "show"], "").unwrap(), before, "the revision in force");
    let sent = scene.say("the old listener goes on").unwrap();
    scene.wait_until_done(&sent).unwrap();
    drop(other);
    succeeded("settings apply", &scene.system.postern(&["settings", "apply", "-"], &moved).unwrap()).unwrap();
    Client::connect(address).unwrap();
    assert!(Client::connect(scene.system.layout.smtp()).is_err(), "the old listener is closed");

    // A daemon that can't listen says so to its operators, and goes on as soon as it can; nothing is damaged.
    scene.system.stop_appliance().unwrap();
    let other = TcpListener::bind(address).unwrap();
    scene.system.spawn_appliance().unwrap();
    let mut locked = Value::Null;
    wait_for("the daemon does not say why it is closed", || {
        locked = scene.system.postern_json(&["status"], "").map_or(Value::Null, |status| status["locked"].clone());
        Ok(locked.is_object())
    })
    .unwrap();
    let what = locked["what"].as_str().unwrap();
    assert!(what.contains(&format!("{address} can't be listened on: ")), "{what}");
    assert!(locked["remedy"].as_str().unwrap().starts_with("stop what else"), "{locked}");
    drop(other);
    wait_for("the daemon does not go on", || Ok(Client::connect(address).is_ok())).unwrap();
    scene.system.stop().unwrap();
}

fn chown(owner: &str, path: &std::path::Path) {
    succeeded("chown", &Command::new("chown").args(["-R", owner]).arg(path).output().unwrap()).unwrap();
}

#[test]
fn a_key_store_that_the_daemon_may_not_read_locks_it_until_that_is_mended() {
    assert!(Uid::effective().is_root(), "only root can start a daemon as somebody else; run the tests as root");
    let mut scene = Scene::start(|_| Ok(no_cloud())).unwrap();
    scene.system.stop_appliance().unwrap();
    // Somebody else's daemon: its own program, its own data, but for the keys.
    let program = scene.folder().join("postern");
    fs::copy(sibling("postern").unwrap(), &program).unwrap();
    fs::set_permissions(scene.folder(), Permissions::from_mode(0o755)).unwrap();
    chown("nobody", scene.system.layout.dir());
    let keys = scene.system.layout.path("appliance/keys");
    chown("root", &keys);
    fs::set_permissions(&keys, Permissions::from_mode(0o700)).unwrap();
    scene.system.options.appliance_program = Some(program);
    // A change of the user ends what the parent's end would do to its child, so that is asked for anew.
    let nobody = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "--pdeathsig", "KILL"];
    scene.system.options.appliance_through = nobody.map(str::to_owned).to_vec();
    scene.system.start_appliance().unwrap();

    let reply = scene.say("nobody can keep it").unwrap_err().to_string();
    assert!(reply.starts_with("451 4.3.0"), "{reply}");
    let facts = scene.system.postern_json(&["keys", "status"], "").unwrap();
    let (what, remedy) = (facts["locked"]["what"].as_str().unwrap(), facts["locked"]["remedy"].as_str().unwrap());
    assert!(what.contains("appliance/keys") && what.contains("Permission denied"), "{what}");
    assert!(remedy.contains("owner"), "{remedy}");
    let status = scene.system.postern(&["status"], "").unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.starts_with("! LOCKED since ") && status.contains("\n  → mend its permissions"), "{status}");

    chown("nobody", &keys);
    // By itself: nobody restarts anything or enters the recovery key.
    let mut sent = None;
    wait_for("the daemon does not open by itself", || {
        sent = scene.say("now it is kept").ok();
        Ok(sent.is_some())
    })
    .unwrap();
    scene.wait_until_done(&sent.unwrap()).unwrap();
    scene.system.stop().unwrap();
}

#[test]
fn a_full_disk_takes_no_mail_and_loses_none() {
    let mut scene = Scene::start(|layout| {
        let room = "[spool]\nmemory_mib = 8\nreserve_mib = 16\nsegment_mib = 2\n\n[retry]";
        let settings = settings_with(layout, false, &[("[retry]", room)])?;
        let script = "mount -t tmpfs -o size=64m tmpfs \"$1\"";
        Ok(Options {
            settings: Some(settings),
            appliance_through: in_own_mounts(script, &layout.path("appliance")),
            ..no_cloud()
        })
    })
    .unwrap();
    scene.system.next_hop.as_ref().unwrap().set_fault(Fault::Unavailable);

    let large = "nothing to hide in this line of mail\r\n".repeat(22_000);
    let mut acknowledged = Vec::new();
    let reply = loop {
        assert!(acknowledged.len() < 200, "64 MiB hold no 160 MiB of mail");
        match scene.say(&large) {
            Ok(sent) => acknowledged.push(sent),
            Err(refused) => break refused.to_string(),
        }
    };
    assert!(reply.starts_with("452 4.3.1"), "{reply}");
    assert!(acknowledged.len() > 10, "{} mails fill the disk", acknowledged.len());
    // Small ones fill what the last large one left.
    wait_for("small mail is still taken", || match scene.say(&"small\r\n".repeat(5_000)) {
        Ok(sent) => {
            acknowledged.push(sent);
            Ok(false)
        }
        Err(refused) if refused.to_string().starts_with("452 4.3.1") => Ok(true),
        Err(other) => Err(other),
    })
    .unwrap();
    let told = alarm(&scene, "disk is full").unwrap_or_else(|| panic!("no alarm"));
    assert!(told["remedy"].as_str().unwrap().contains("free room"), "{told}");

    scene.system.next_hop.as_ref().unwrap().set_fault(Fault::None);
    for sent in &acknowledged {
        scene.retry(sent).unwrap();
    }
    scene.system.wait_until_delivered(Duration::from_secs(120)).unwrap();
    let mut arrived = scene.arrived().unwrap();
    let mut expected: Vec<String> = acknowledged.iter().map(|sent| sent.message_id.clone()).collect();
    arrived.sort();
    expected.sort();
    assert_eq!(arrived, expected, "each acknowledged mail once, and nothing else");

    let mut sent = None;
    wait_for("mail is not taken again", || {
        sent = scene.say(&large).ok();
        Ok(sent.is_some())
    })
    .unwrap();
    scene.wait_until_done(&sent.unwrap()).unwrap();
    wait_for("the alarm does not end", || Ok(alarm(&scene, "disk is full").is_none())).unwrap();
    println!("{} mails filled the disk, all were delivered", acknowledged.len());
    scene.system.stop().unwrap();
}

/// Anonymous memory of a process in bytes (proc_pid_status(5)); none where it is gone.
fn own_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10)
}

#[test]
fn a_message_that_kills_three_workers_is_held_and_the_others_flow() {
    // Far more than a worker has without a job.
    const AT_WORK: u64 = 12 << 20;
    let mut scene = Scene::start(|_| Ok(no_cloud())).unwrap();
    let daemon = scene.system.appliance().unwrap().id();
    let at_work = || children(daemon).into_iter().filter(|child| own_memory(*child).is_some_and(|own| own > AT_WORK));
    assert_eq!(at_work().count(), 0, "a worker is large without a job");

    let deadly = Part::attachment("scan.bin", "application/octet-stream", noise(1, 40 << 20));
    let (sent, kills) = std::thread::scope(|threads| {
        let sending = threads.spawn(|| scene.send(&[RECIPIENT], &[deadly]).unwrap());
        let mut killed = std::collections::BTreeSet::new();
        while !sending.is_finished() {
            for worker in at_work() {
                if killed.insert(worker) {
                    // It may have ended by itself meanwhile; then the count below tells.
                    let _ = kill(Pid::from_raw(worker.cast_signed()), Signal::SIGKILL);
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        (sending.join().unwrap(), killed.len())
    });
    assert_eq!(kills, 3);

    let rows = scene.rows(&sent).unwrap();
    assert!(rows.len() == 1 && rows[0]["state"] == "held", "{rows:?}");
    let shown = scene.system.postern(&["queue", "show", &sent.id], "").unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("held") && shown.contains("three workers died of this content"), "{shown}");
    let life = scene.system.postern_json(&["message", "show", &sent.id], "").unwrap();
    assert!(life["accepted"]["undecidable"].as_str().unwrap().contains("three workers died"), "{life}");

    // Others flow, those that need a worker too, and are judged as ever.
    let ordinary = Part::attachment("data.bin", "application/octet-stream", noise(2, 2 << 20));
    let other = scene.send(&[RECIPIENT], &[Part::text("hello"), ordinary]).unwrap();
    scene.wait_until_done(&other).unwrap();
    let program = Part::attachment("setup.exe", "application/octet-stream", windows_program());
    let held = scene.send(&[RECIPIENT], &[Part::text("hello"), program]).unwrap();
    assert_eq!(scene.rows(&held).unwrap()[0]["held"]["by"], "policy");
    let secured = scene.say(CONFIDENTIAL).unwrap();
    assert_eq!(scene.rows(&secured).unwrap()[0]["destination"], "cloud");
    assert_eq!(scene.arrived().unwrap(), [other.message_id]);
    scene.system.stop().unwrap();
}
