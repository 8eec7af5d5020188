//! What happens to the TPM, and what the daemon makes of it: up, 451, says why, unlocked as described (item 6).

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use lab::{
    layout::Layout,
    mails::{Part, message, message_id},
    process::free_port_base,
    smtp::Client,
    system::{Options, System},
    tpm::{PolicyKey, Proxy},
};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn start(options: Options) -> (tempfile::TempDir, System) {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(&folder.path().join("lab"), free_port_base().unwrap()).unwrap();
    let system = System::start(layout, options).unwrap();
    (folder, system)
}

fn try_to_send(system: &System, text: &str) -> Result<String, String> {
    let mail = message("anna@clinic.example", &["bob@partner.example"], "x", &message_id(), &[Part::text(text)]);
    let mut client = Client::connect(system.layout.smtp()).map_err(|error| error.to_string())?;
    client.send("anna@clinic.example", &["bob@partner.example"], &mail).map_err(|error| error.to_string())
}

/// The daemon is up, refuses for now, offers no STARTTLS, and names the fault in two halves.
fn assert_locked(system: &System, because: &str) {
    let reply = try_to_send(system, "hello").unwrap_err();
    assert!(reply.starts_with("451 4.3.0"), "{reply}");
    let mut client = Client::connect(system.layout.smtp()).unwrap();
    let capabilities = client.command("EHLO again.example", "250").unwrap();
    assert!(!capabilities.contains("STARTTLS"), "{capabilities}");
    let keys = system.postern_json(&["keys", "status"], "").unwrap();
    let locked = &keys["locked"];
    let what = locked["what"].as_str().unwrap_or_else(|| panic!("not locked: {keys}"));
    assert!(what.contains(because), "{what}");
    assert!(!locked["remedy"].as_str().unwrap().is_empty());
    let refused = system.postern(&["queue", "list"], "").unwrap();
    assert_eq!(refused.status.code(), Some(1), "a locked appliance shows no queue");
}

fn unlock(system: &System) -> serde_json::Value {
    system.postern_json(&["keys", "unlock"], &system.recovery_key().unwrap()).unwrap()
}

fn assert_flows(system: &mut System) {
    let before = system.next_hop.as_ref().unwrap().count();
    try_to_send(system, "ordinary").unwrap();
    let start = Instant::now();
    while system.next_hop.as_ref().unwrap().count() == before {
        assert!(start.elapsed() < PATIENCE, "ordinary mail does not flow");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_altered_boot_and_a_forged_signature_unlock_for_this_boot_only() {
    let (_folder, mut system) = start(Options { no_cloud: true, ..Options::default() });
    assert_flows(&mut system);
    let old = system.recovery_key().unwrap();
    assert_eq!(system.postern_json(&["keys", "recovery", "renew"], "").unwrap()["renewed"], true);
    assert_eq!(system.postern_json(&["keys", "status"], "").unwrap()["recovery_confirmed"], false);
    std::fs::remove_file(system.layout.path("recovery-key.txt")).unwrap();
    system.keep_recovery_key().unwrap();

    system.stop_appliance().unwrap();
    system.tpm.extend(12, b"init=/bin/sh").unwrap();
    system.start_appliance().unwrap();
    assert_locked(&system, "PCR 12");
    let wrong = system.postern(&["keys", "unlock"], "abandon abandon abandon").unwrap();
    assert_eq!(wrong.status.code(), Some(1), "wrong words do not unlock");
    let replaced = system.postern(&["keys", "unlock"], &old).unwrap();
    assert_eq!(replaced.status.code(), Some(1), "the words of before the renewal do not unlock");
    assert_locked(&system, "PCR 12");
    let unlocked = unlock(&system);
    assert_eq!(unlocked["resealed"], false, "{unlocked}");
    assert_flows(&mut system);
    system.stop_appliance().unwrap();
    system.start_appliance().unwrap();
    assert_locked(&system, "PCR 12");

    // The next boot is a clean one, but the signature is somebody else's.
    system.stop_appliance().unwrap();
    system.tpm.restart().unwrap();
    let forged = PolicyKey::generate().unwrap();
    forged.write_signatures(&system.tpm.policy_signatures(), &system.tpm.boot, &[1]).unwrap();
    system.start_appliance().unwrap();
    assert_locked(&system, "signature");
    assert_eq!(unlock(&system)["resealed"], false);
    assert_flows(&mut system);

    // With the vendor's signature back, nobody needs to do anything.
    system.stop_appliance().unwrap();
    system.tpm.sign_boot(&[1]).unwrap();
    system.start_appliance().unwrap();
    assert_flows(&mut system);
    system.stop().unwrap();
}

#[test]
fn with_a_new_tpm_ordinary_mail_flows_and_secured_mail_waits_for_the_enrolment() {
    let (_folder, mut system) = start(Options::default());
    system.stop_appliance().unwrap();
    system.tpm.replace().unwrap();
    system.start_appliance().unwrap();
    assert_locked(&system, "TPM");
    let unlocked = unlock(&system);
    assert_eq!(unlocked["resealed"], true, "{unlocked}");
    assert_eq!(unlocked["enrol_again"], true, "{unlocked}");
    assert_flows(&mut system);
    try_to_send(&system, "SSN 536-22-8145").unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(system.cloud_messages().unwrap(), [], "nothing is secured without an enrolment");
    // Sealed anew: the next start needs no recovery key, and the waiting mail is still there.
    system.stop_appliance().unwrap();
    system.start_appliance().unwrap();
    assert_flows(&mut system);
    system.enrol().unwrap();
    system.wait_until_delivered(PATIENCE).unwrap();
    assert_eq!(system.cloud_messages().unwrap().len(), 1, "the waiting mail is secured after the enrolment");
    system.stop().unwrap();
}

#[test]
fn a_tpm_that_takes_thirty_seconds_locks_and_opens_by_itself_when_it_answers() {
    let (_folder, mut system) = start(Options { no_cloud: true, ..Options::default() });
    system.stop_appliance().unwrap();
    let proxy = Proxy::before(system.tpm.port()).unwrap();
    proxy.delay(Duration::from_secs(30));
    system.options.tcti = Some(proxy.tcti());
    system.start_appliance().unwrap();
    assert_locked(&system, "answered");
    proxy.delay(Duration::ZERO);
    let start = Instant::now();
    while try_to_send(&system, "hello").is_err() {
        assert!(start.elapsed() < Duration::from_secs(150), "the vault is not asked again");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_flows(&mut system);
    system.stop().unwrap();
}

#[test]
fn a_locked_box_whose_port_is_taken_can_still_be_unlocked() {
    let (_folder, mut system) = start(Options { no_cloud: true, ..Options::default() });
    system.stop_appliance().unwrap();
    system.tpm.extend(12, b"init=/bin/sh").unwrap();
    let taken = std::net::TcpListener::bind(system.layout.smtp()).unwrap();
    system.spawn_appliance().unwrap();
    let start = Instant::now();
    while !system.postern_json(&["keys", "status"], "").is_ok_and(|keys| keys["locked"].is_object()) {
        assert!(start.elapsed() < PATIENCE, "operators are not answered");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(taken);
    unlock(&system);
    assert_flows(&mut system);
    system.stop().unwrap();
}

#[test]
fn a_box_whose_queue_can_not_be_opened_says_so_answers_451_and_goes_on_once_that_is_mended() {
    let (_folder, mut system) = start(Options { no_cloud: true, ..Options::default() });
    system.stop_appliance().unwrap();
    let (spool, aside) = (system.layout.path("appliance/spool"), system.layout.path("appliance/aside"));
    std::fs::rename(&spool, &aside).unwrap();
    std::fs::write(&spool, "no folder").unwrap();
    system.start_appliance().unwrap();
    assert_locked(&system, "appliance/spool");
    let unlock = system.postern(&["keys", "unlock"], &system.recovery_key().unwrap()).unwrap();
    let told = String::from_utf8(unlock.stderr).unwrap();
    assert!(told.contains("the recovery key is not what is missing"), "{told}");
    std::fs::remove_file(&spool).unwrap();
    std::fs::rename(&aside, &spool).unwrap();
    let start = Instant::now();
    while try_to_send(&system, "hello").is_err() {
        assert!(start.elapsed() < PATIENCE, "the appliance does not go on by itself");
        std::thread::sleep(Duration::from_millis(200));
    }
    system.stop().unwrap();
}
