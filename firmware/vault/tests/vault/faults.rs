//! Each fault of TPM, firmware, boot and key store against a real TPM: what is said, what unlocks, what lasts.

use crate::appliance::{Appliance, Secrets};
use lab::tpm::{PolicyKey, Proxy};
use std::{
    fs,
    time::{Duration, Instant},
};
use vault::{Fault, IdentityState, Lasting, Opened, State, UnlockError, Vault, WordsError};

/// TPM2_Unseal, TPM_RC_LOCKOUT.
const UNSEAL: u32 = 0x15e;
const RC_LOCKOUT: u32 = 0x921;

/// Unlocks a locked vault, which must give the same keys and last as long as `lasting` says.
fn unlocks(vault: &Vault, words: &str, secrets: &Secrets, lasting: &Lasting) -> vault::Keys {
    assert_eq!(vault.status().state, State::Locked);
    let keys = vault.unlock(words).unwrap();
    assert_eq!((&Secrets::of(&keys), &keys.lasting), (secrets, lasting));
    assert!(vault.fault().is_none());
    assert_eq!(vault.unlock(words).unwrap_err(), UnlockError::NotLocked);
    keys
}

#[test]
fn a_restart_gives_the_same_keys_and_distinct_ones() {
    let mut appliance = Appliance::new();
    let (secrets, _) = appliance.first_start();
    let mut distinct = secrets.all().to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), secrets.all().len());
    appliance.tpm.restart().unwrap();
    let (vault, keys) = appliance.unlocked();
    assert_eq!(Secrets::of(&keys), secrets);
    let status = vault.status();
    assert_eq!((status.state, status.epochs, status.generation), (State::Unlocked, Some(1), Some(1)));
    assert!(status.memory_locked);
    // For an appliance that could not use them: the same once more.
    let Opened::Unlocked(again) = vault.retry() else { panic!("the vault is open") };
    assert_eq!(Secrets::of(&again), secrets);
}

#[test]
fn the_recovery_key_is_shown_once_asked_back_and_can_be_renewed() {
    let appliance = Appliance::new();
    let (vault, opened) = appliance.open();
    assert!(matches!(opened, Opened::Fresh(_)));
    let recovery = |vault: &Vault| vault.status().recovery.map(|r| (r.shown, r.confirmed));
    assert_eq!(recovery(&vault), Some((false, false)));
    let (vault, _keys) = appliance.unlocked(); // a restart before anybody looked costs nothing
    let first = vault.show_recovery_key().unwrap().unwrap().phrase();
    assert!(vault.show_recovery_key().unwrap().is_none());
    assert_eq!(recovery(&vault), Some((true, false)));
    assert!(matches!(vault.confirm_recovery_key("abandon"), Err(UnlockError::Words(WordsError::Count { found: 1 }))));
    vault.confirm_recovery_key(&first).unwrap();
    assert_eq!(recovery(&vault), Some((true, true)));

    vault.renew_recovery_key().unwrap();
    assert_eq!(recovery(&vault), Some((false, false)));
    let second = vault.show_recovery_key().unwrap().unwrap().phrase();
    assert_eq!(vault.confirm_recovery_key(&first), Err(UnlockError::OtherKey));
    vault.confirm_recovery_key(&second).unwrap();
}

#[test]
fn without_a_tpm_the_recovery_key_unlocks_for_this_boot_and_a_retry_when_it_is_back() {
    let mut appliance = Appliance::new();
    let (secrets, words) = appliance.first_start();
    appliance.tpm.stop().unwrap();
    let (vault, fault) = appliance.locked();
    assert!(matches!(fault, Fault::Absent { .. }), "{fault}");
    let keys = unlocks(&vault, &words, &secrets, &Lasting::ThisBoot(fault.clone()));
    assert_eq!(keys.identity.state(), IdentityState::Unavailable(fault));

    let (vault, _) = appliance.locked();
    appliance.tpm.restart().unwrap();
    let Opened::Unlocked(keys) = vault.retry() else { panic!("the TPM is back") };
    assert_eq!(Secrets::of(&keys), secrets);
}

#[test]
fn a_changed_secure_boot_needs_the_recovery_key_once() {
    let mut appliance = Appliance::new();
    let (secrets, words) = appliance.first_start();
    appliance.tpm.boot.secure_boot.push("db=another vendor".to_owned());
    appliance.tpm.restart().unwrap();
    let (vault, fault) = appliance.locked();
    assert_eq!(fault, Fault::SecureBootChanged);
    let keys = unlocks(&vault, &words, &secrets, &Lasting::Sealed);
    assert_eq!(keys.identity.state(), IdentityState::NeedsEnrolment);
    appliance.tpm.restart().unwrap();
    assert_eq!(Secrets::of(&appliance.unlocked().1), secrets);

    appliance.tpm.boot.secure_boot.pop(); // the state of before is now the changed one
    appliance.tpm.restart().unwrap();
    assert_eq!(appliance.locked().1, Fault::SecureBootChanged);
}

#[test]
fn an_altered_boot_unlocks_for_this_boot_only() {
    let mut appliance = Appliance::new();
    let (secrets, words) = appliance.first_start();
    appliance.tpm.extend(12, b"init=/bin/sh").unwrap();
    let (vault, fault) = appliance.locked();
    assert_eq!(fault, Fault::BootAltered);
    let keys = unlocks(&vault, &words, &secrets, &Lasting::ThisBoot(fault.clone()));
    assert_eq!(keys.identity.state(), IdentityState::Unavailable(fault.clone()));
    let status = vault.status();
    assert_eq!((status.state, status.fault.unwrap().code), (State::UnlockedThisBoot, "boot-altered"));
    assert_eq!(appliance.locked().1, fault);
    appliance.tpm.restart().unwrap();
    assert_eq!(Secrets::of(&appliance.unlocked().1), secrets);
}

#[test]
fn firmware_without_a_signature_unlocks_for_this_boot_only() {
    let mut appliance = Appliance::new();
    let (secrets, words) = appliance.first_start();
    appliance.tpm.boot.kernel[0] = ".linux=somebody else's".to_owned();
    appliance.tpm.restart().unwrap();
    let (vault, fault) = appliance.locked();
    assert_eq!(fault, Fault::SignatureMissing);
    unlocks(&vault, &words, &secrets, &Lasting::ThisBoot(fault.clone()));
    assert_eq!(appliance.locked().1, fault);
}

#[test]
fn a_signed_update_needs_no_recovery_key() {
    let mut appliance = Appliance::new();
    let (secrets, _) = appliance.first_start();
    appliance.tpm.boot.kernel[0] = ".linux=postern lab 2".to_owned();
    appliance.tpm.sign_boot(&[1]).unwrap();
    appliance.tpm.restart().unwrap();
    assert_eq!(Secrets::of(&appliance.unlocked().1), secrets);
}

#[test]
fn a_forged_signature_unlocks_for_this_boot_only() {
    let mut appliance = Appliance::new();
    let (secrets, words) = appliance.first_start();
    appliance.tpm.boot.kernel[0] = ".linux=an attacker's".to_owned();
    let signatures = appliance.tpm.policy_signatures();
    PolicyKey::generate().unwrap().write_signatures(&signatures, &appliance.tpm.boot, &[1]).unwrap();
    appliance.tpm.restart().unwrap();
    let (vault, fault) = appliance.locked();
    assert_eq!(fault, Fault::SignatureForged);
    unlocks(&vault, &words, &secrets, &Lasting::ThisBoot(fault.clone()));
    assert_eq!(appliance.locked().1, fault);
}

#[test]
fn an_attackers_policy_key_with_his_signatures_gets_nothing_for_good() {
    let mut appliance = Appliance::new();
    let (secrets, words) = appliance.first_start();
    appliance.tpm.boot.kernel[0] = ".linux=an attacker's".to_owned();
    let attacker = PolicyKey::generate().unwrap();
    attacker.write_signatures(&appliance.tpm.policy_signatures(), &appliance.tpm.boot, &[1]).unwrap();
    attacker.write_public(&appliance.tpm.policy_key()).unwrap();
    appliance.tpm.restart().unwrap();
    let (vault, fault) = appliance.locked();
    assert_eq!(fault, Fault::OtherPolicyKey);
    unlocks(&vault, &words, &secrets, &Lasting::ThisBoot(fault.clone()));
    assert_eq!(appliance.locked().1, fault);
}

#[test]
fn a_raised_generation_reseals_and_older_firmware_is_out() {
    let appliance = Appliance::new();
    let (secrets, words) = appliance.first_start();
    appliance.tpm.sign_boot(&[1, 2]).unwrap();
    let mut raised = appliance.config();
    raised.generation_floor = 2;
    let (vault, Opened::Unlocked(keys)) = Vault::open(raised).unwrap() else { panic!("unlocked") };
    assert_eq!((Secrets::of(&keys), vault.status().generation), (secrets.clone(), Some(2)));

    appliance.tpm.sign_boot(&[1]).unwrap(); // the older firmware, by whose floor 1 would do
    let (vault, fault) = appliance.locked();
    assert_eq!(fault, Fault::OtherGeneration { needed: 2, signed: vec![1] });
    unlocks(&vault, &words, &secrets, &Lasting::ThisBoot(fault.clone()));
    assert_eq!(appliance.locked().1, fault);
}

#[test]
fn a_cleared_tpm_is_told_from_another_one_and_both_need_the_recovery_key_and_a_new_enrolment() {
    let mut appliance = Appliance::new();
    let (secrets, words) = appliance.first_start();
    for expected in [Fault::Cleared, Fault::Replaced] {
        match expected {
            Fault::Cleared => appliance.tpm.clear().unwrap(),
            _ => appliance.tpm.replace().unwrap(),
        }
        let (vault, fault) = appliance.locked();
        assert_eq!(fault, expected);
        let keys = unlocks(&vault, &words, &secrets, &Lasting::Sealed);
        assert_eq!(keys.identity.state(), IdentityState::NeedsEnrolment);
        assert_eq!(Secrets::of(&appliance.unlocked().1), secrets);
    }
}

#[test]
fn a_tpm_cleared_for_a_reset_opens_no_copy_of_the_disk_and_takes_new_keys() {
    let appliance = Appliance::new();
    appliance.first_start();
    // The disk as somebody may have copied it.
    let copy = appliance.folder.path().join("copy");
    std::fs::create_dir_all(copy.join("store")).unwrap();
    for entry in std::fs::read_dir(appliance.store("")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.join("store").join(path.file_name().unwrap())).unwrap();
    }
    let (vault, _keys) = appliance.unlocked();
    vault.clear_tpm().unwrap();
    drop(vault);
    let (locked, fault) = appliance.locked();
    assert!(matches!(fault, Fault::Cleared), "{fault}");
    // The authorisation was cleared with it, so a reset that was broken off can be begun again.
    locked.clear_tpm().unwrap();
    let (_vault, opened) = Vault::open(vault::VaultConfig { dir: copy, ..appliance.config() }).unwrap();
    assert!(matches!(opened, Opened::Locked(_)), "{opened:?}");
    let new = appliance.folder.path().join("new");
    let (_vault, opened) = Vault::open(vault::VaultConfig { dir: new, ..appliance.config() }).unwrap();
    assert!(matches!(opened, Opened::Fresh(_)), "{opened:?}");
}

#[test]
fn a_dictionary_lockout_does_not_keep_the_keys_back() {
    let appliance = Appliance::new();
    let (secrets, _) = appliance.first_start();
    appliance.tpm.lock_out().unwrap();
    assert_eq!(Secrets::of(&appliance.unlocked().1), secrets);
}

#[test]
fn a_tpm_that_answers_lockout_is_named_and_a_retry_unlocks_when_it_is_over() {
    let appliance = Appliance::new();
    let (secrets, _) = appliance.first_start();
    let proxy = Proxy::before(appliance.tpm.port()).unwrap();
    proxy.answer(UNSEAL, RC_LOCKOUT);
    let mut config = appliance.config();
    config.tcti = proxy.tcti();
    let (vault, Opened::Locked(fault)) = Vault::open(config).unwrap() else { panic!("locked") };
    assert_eq!(fault, Fault::LockedOut);
    proxy.answer_nothing();
    let Opened::Unlocked(keys) = vault.retry() else { panic!("the lockout is over") };
    assert_eq!(Secrets::of(&keys), secrets);
}

#[test]
fn a_tpm_that_takes_thirty_seconds_is_a_fault_within_the_deadline_and_no_hang() {
    let appliance = Appliance::new();
    let (secrets, words) = appliance.first_start();
    let proxy = Proxy::before(appliance.tpm.port()).unwrap();
    proxy.delay(Duration::from_secs(30));
    let mut config = appliance.config();
    config.tcti = proxy.tcti();
    config.deadline = Duration::from_millis(500);
    let begun = Instant::now();
    let (vault, Opened::Locked(fault)) = Vault::open(config.clone()).unwrap() else { panic!("locked") };
    assert_eq!(fault, Fault::Slow { deadline: config.deadline });
    let keys = unlocks(&vault, &words, &secrets, &Lasting::ThisBoot(fault.clone()));
    assert_eq!(keys.identity.state(), IdentityState::Unavailable(fault));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn a_tpm_that_is_slow_for_a_while_is_used_again_by_a_retry() {
    let appliance = Appliance::new();
    let (secrets, _) = appliance.first_start();
    let proxy = Proxy::before(appliance.tpm.port()).unwrap();
    proxy.delay(Duration::from_secs(2));
    let mut config = appliance.config();
    config.tcti = proxy.tcti();
    config.deadline = Duration::from_secs(3);
    let (vault, opened) = Vault::open(config).unwrap();
    assert!(matches!(opened, Opened::Locked(Fault::Slow { .. })), "{opened:?}");
    proxy.delay(Duration::ZERO);
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match vault.retry() {
            Opened::Unlocked(keys) => break assert_eq!(Secrets::of(&keys), secrets),
            other => assert!(Instant::now() < until, "still locked: {other:?}"),
        }
    }
}

#[test]
fn wrong_words_unlock_nothing_and_can_be_entered_again() {
    let mut appliance = Appliance::new();
    let (secrets, words) = appliance.first_start();
    appliance.tpm.stop().unwrap();
    let (vault, fault) = appliance.locked();
    let mut swapped: Vec<&str> = words.split(' ').collect();
    swapped[3] = "postern";
    let unlock = |words: &str| vault.unlock(words).unwrap_err();
    assert_eq!(unlock(&swapped.join(" ")), UnlockError::Words(WordsError::Unknown { position: 4 }));
    assert_eq!(unlock("abandon ability"), UnlockError::Words(WordsError::Count { found: 2 }));
    assert_eq!(unlock(&format!("{}art", "abandon ".repeat(23))), UnlockError::OtherKey);
    unlocks(&vault, &words, &secrets, &Lasting::ThisBoot(fault));
}

#[test]
fn a_damaged_or_lost_sealed_root_is_named_and_the_recovery_key_seals_anew() {
    let appliance = Appliance::new();
    let (secrets, words) = appliance.first_start();
    let root = appliance.store("root.json");
    let mut bytes = fs::read(&root).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&root, bytes).unwrap();
    let (vault, fault) = appliance.locked();
    assert!(matches!(fault, Fault::StoreCorrupt { .. }), "{fault}");
    unlocks(&vault, &words, &secrets, &Lasting::Sealed);
    assert_eq!(Secrets::of(&appliance.unlocked().1), secrets);

    fs::remove_file(&root).unwrap();
    let (vault, fault) = appliance.locked();
    assert!(matches!(fault, Fault::StoreCorrupt { .. }), "{fault}");
    unlocks(&vault, &words, &secrets, &Lasting::Sealed);
}

#[test]
fn a_store_that_cannot_be_read_is_a_fault_that_passes_with_its_cause() {
    let appliance = Appliance::new();
    let (secrets, _) = appliance.first_start();
    // A folder in the file's place fails for root too, which permissions do not.
    let (root, aside) = (appliance.store("root.json"), appliance.store("aside"));
    fs::rename(&root, &aside).unwrap();
    fs::create_dir(&root).unwrap();
    let (vault, fault) = appliance.locked();
    assert!(matches!(fault, Fault::StoreUnreadable { .. }), "{fault}");
    fs::remove_dir(&root).unwrap();
    fs::rename(&aside, &root).unwrap();
    let Opened::Unlocked(keys) = vault.retry() else { panic!("the store is back") };
    assert_eq!(Secrets::of(&keys), secrets);
}

#[test]
fn a_missing_store_is_never_replaced_where_a_queue_exists() {
    let appliance = Appliance::new();
    let mut config = appliance.config();
    config.create = false;
    let (vault, opened) = Vault::open(config).unwrap();
    assert!(matches!(opened, Opened::Locked(Fault::StoreMissing { .. })));
    assert!(matches!(vault.unlock("words"), Err(UnlockError::Fault(Fault::StoreMissing { .. }))));
    assert!(!appliance.folder.path().join("vault").exists());
}

#[test]
fn a_first_start_without_a_good_policy_seals_nothing() {
    let appliance = Appliance::new();
    fs::write(appliance.tpm.policy_signatures(), "{\"sha256\":[]}").unwrap();
    let (vault, fault) = appliance.locked();
    assert_eq!(fault, Fault::SignatureMissing);
    fs::remove_file(appliance.tpm.policy_key()).unwrap();
    assert!(matches!(appliance.locked().1, Fault::PolicyFile { .. }));
    assert!(!appliance.folder.path().join("vault/store").exists());
    appliance.tpm.signer().write_public(&appliance.tpm.policy_key()).unwrap();
    appliance.tpm.sign_boot(&[1]).unwrap();
    assert!(matches!(vault.retry(), Opened::Fresh(_)));
}

#[test]
fn a_crash_between_two_writes_leaves_a_store_that_opens() {
    let appliance = Appliance::new();
    let (secrets, _) = appliance.first_start();
    for file in ["root.json", "table.json", "recovery.json", "identity.json"] {
        let whole = fs::read(appliance.store(file)).unwrap();
        fs::write(appliance.store(&format!("{file}.new")), &whole[..whole.len() / 2]).unwrap();
    }
    fs::create_dir(appliance.folder.path().join("vault/store.new")).unwrap();
    assert_eq!(Secrets::of(&appliance.unlocked().1), secrets);
    let left = fs::read_dir(appliance.folder.path().join("vault/store")).unwrap();
    assert!(left.map(|entry| entry.unwrap().file_name()).all(|name| !name.to_string_lossy().ends_with(".new")));
}

#[test]
fn a_crash_between_sealing_anew_and_the_table_leaves_a_store_that_opens() {
    let appliance = Appliance::new();
    let (secrets, _) = appliance.first_start();
    let files = ["root.json", "table.json"];
    let before = files.map(|file| fs::read(appliance.store(file)).unwrap());
    appliance.tpm.sign_boot(&[1, 2]).unwrap();
    let mut raised = appliance.config();
    raised.generation_floor = 2;
    assert!(matches!(Vault::open(raised.clone()).unwrap().1, Opened::Unlocked(_)));
    let after = files.map(|file| fs::read(appliance.store(file)).unwrap());
    assert!(before[0] != after[0] && before[1] != after[1]);
    for (root, table) in [(&before, &after), (&after, &before)] {
        fs::write(appliance.store(files[0]), &root[0]).unwrap();
        fs::write(appliance.store(files[1]), &table[1]).unwrap();
        // The floor of the firmware that raised it, then that of an older one: the generation never falls.
        for config in [raised.clone(), appliance.config()] {
            let (vault, Opened::Unlocked(keys)) = Vault::open(config).unwrap() else { panic!("unlocked") };
            assert_eq!((&Secrets::of(&keys), vault.status().generation), (&secrets, Some(2)));
        }
    }
}

#[test]
fn a_process_that_died_in_a_job_does_not_fill_the_tpm() {
    let appliance = Appliance::new();
    let (secrets, _) = appliance.first_start();
    // What tpm2-tools leave loaded is what a killed daemon leaves: swtpm has room for three objects.
    let context = appliance.folder.path().join("left.ctx").display().to_string();
    for _ in 0..3 {
        appliance.tpm.tool("tpm2_createprimary", &["-C", "o", "-G", "ecc", "-c", &context]).unwrap();
    }
    assert!(appliance.tpm.tool("tpm2_createprimary", &["-C", "o", "-G", "ecc", "-c", &context]).is_err());
    assert_eq!(Secrets::of(&appliance.unlocked().1), secrets);
}

#[test]
fn a_missing_device_is_said_in_the_words_of_the_system() {
    let mut config = Appliance::new().config();
    config.tcti = "device:/dev/tpm-that-is-not-there".to_owned();
    let (_, Opened::Locked(fault)) = Vault::open(config).unwrap() else { panic!("locked") };
    assert!(matches!(&fault, Fault::Absent { detail, .. } if detail.contains("No such file")), "{fault}");
}

#[test]
fn a_name_that_is_no_tpm_is_refused() {
    let mut config = Appliance::new().config();
    config.tcti = "softkeys".to_owned();
    assert!(matches!(Vault::open(config), Err(vault::FatalError::Tcti { .. })));
}
