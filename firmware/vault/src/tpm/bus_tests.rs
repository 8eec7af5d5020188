//! What somebody gets who listens to the bus between machine and TPM, or goes to the TPM past this crate.

use super::*;
use crate::{
    key::{Key, purpose},
    table::Table,
    tree::{self, Root, secret::IdentityAuth},
};
use lab::tpm::{Proxy, SoftTpm};

struct Bus {
    tpm: SoftTpm,
    proxy: Proxy,
    owner: Owner,
    _folder: tempfile::TempDir,
}

fn bus() -> Bus {
    let folder = tempfile::tempdir().unwrap();
    let tpm = SoftTpm::start(&folder.path().join("tpm")).unwrap();
    let proxy = Proxy::before(tpm.port()).unwrap();
    let owner = Owner::start(&proxy.tcti(), Duration::from_secs(20)).unwrap();
    Bus { tpm, proxy, owner, _folder: folder }
}

impl Bus {
    fn files(&self) -> PolicyFiles {
        PolicyFiles { key: self.tpm.policy_key(), signatures: self.tpm.policy_signatures() }
    }

    fn sealed(&self) -> (SealedRoot, Key<Root>) {
        let files = self.files();
        self.owner.run(move |tpm| seal(tpm, &files, 1, Sealing::New)).unwrap()
    }

    /// Whether any eight neighbouring octets of `secret` crossed the bus.
    fn heard(&self, secret: &[u8]) -> bool {
        let recorded = self.proxy.recorded();
        secret.windows(8).any(|part| recorded.windows(8).any(|octets| octets == part))
    }
}

#[test]
fn neither_root_nor_epoch_nor_authorisations_cross_the_bus_in_clear() {
    let bus = bus();
    let (sealed, root) = bus.sealed();
    let table = Table::first(1, sealed.policy_key.clone()).unwrap();
    let auth: Key<IdentityAuth> = tree::derive(&root).unwrap();
    let (files, again) = (bus.files(), sealed.clone());
    let released = bus.owner.run(move |tpm| unseal(tpm, &files, &again)).unwrap();
    assert_eq!(released.expose(), root.expose());
    let (files, given) = (bus.files(), auth.duplicate());
    let digest = [5; 32];
    bus.owner
        .run(move |tpm| {
            let blob = create_identity(tpm, &files, 1, &given)?;
            sign(tpm, &files, &blob, &given, &digest)
        })
        .unwrap();
    let lockout = table.lockout.duplicate();
    assert_eq!(bus.owner.run(move |tpm| own_lockout(tpm, &lockout)).unwrap(), Lockout::Set);

    // The recorder hears what is not encrypted: the sealed blob on its way in.
    let public = serde_json::to_value(&sealed).unwrap()["public"].as_str().unwrap().to_owned();
    assert!(bus.heard(&crate::store::octets::parse(&public).unwrap()));
    for (what, secret) in [
        ("root secret", root.expose()),
        ("identity authorisation", auth.expose()),
        ("lockout authorisation", table.lockout.expose()),
        ("epoch key", table.epochs.current().1.expose()),
        ("index key", tree::derive::<purpose::QueueIndex, _>(&root).unwrap().expose()),
    ] {
        assert!(!bus.heard(secret), "the {what} was on the bus");
    }
}

#[test]
fn what_the_tpm_gives_towards_the_root_secret_is_encrypted_too() {
    let bus = bus();
    bus.sealed();
    // The answer to TPM2_GetRandom (0x17b) under a session: header, parameter size, then 32 octets that must differ from
    // those that the TPM made. What it made is not known outside, so the session's attribute is looked at: 0x40 encrypt.
    let recorded = bus.proxy.recorded();
    let command = recorded.windows(4).position(|code| code == 0x17b_u32.to_be_bytes()).unwrap();
    let session = &recorded[command + 8..];
    let nonce = usize::from(u16::from_be_bytes([session[4], session[5]]));
    assert_eq!(session[6 + nonce] & 0x40, 0x40, "TPM2_GetRandom answered in clear");
}

#[test]
fn the_lockout_authorisation_is_set_once_and_works() {
    let bus = bus();
    let auth: Key<crate::tree::secret::LockoutAuth> = tree::random().unwrap();
    for expected in [Lockout::Set, Lockout::WasSet] {
        let given = auth.duplicate();
        assert_eq!(bus.owner.run(move |tpm| own_lockout(tpm, &given)).unwrap(), expected);
    }
    bus.tpm.lock_out().unwrap();
    let hex: String = auth.expose().iter().map(|octet| format!("{octet:02x}")).collect();
    bus.tpm.tool("tpm2_dictionarylockout", &["-c", "-p", &format!("hex:{hex}")]).unwrap();
    let state = bus.tpm.tool("tpm2_getcap", &["properties-variable"]).unwrap();
    assert!(
        state.contains("inLockout:                 0") && state.contains("ownerAuthSet:              0"),
        "{state}"
    );
}

#[test]
fn a_persistent_storage_key_of_our_template_is_used() {
    let bus = bus();
    let context = bus.tpm.policy_key().with_file_name("srk.ctx").display().to_string();
    // 32 zeros in the unique field, as the TCG's guidance has it: another key than the one that an empty field makes.
    let unique = bus.tpm.policy_key().with_file_name("unique");
    let field = [&32_u16.to_le_bytes()[..], &[0; 32], &32_u16.to_le_bytes()[..], &[0; 32]].concat();
    std::fs::write(&unique, field).unwrap();
    let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt";
    let unique = unique.display().to_string();
    let create = ["-C", "o", "-G", "ecc256:aes128cfb", "-a", attributes, "-u", &unique, "-c", &context];
    bus.tpm.tool("tpm2_createprimary", &create).unwrap();
    bus.tpm.tool("tpm2_evictcontrol", &["-C", "o", "-c", &context, "0x81000001"]).unwrap();
    bus.tpm.tool("tpm2_flushcontext", &["-t"]).unwrap();
    let name = bus.owner.run(|tpm| Ok(tpm.storage_key(None)?.name)).unwrap();
    let shown = bus.tpm.tool("tpm2_readpublic", &["-c", "0x81000001"]).unwrap();
    let hex: String = name.iter().map(|octet| format!("{octet:02x}")).collect();
    assert!(shown.contains(&hex), "{shown}");
    let (sealed, root) = bus.sealed();
    let files = bus.files();
    assert_eq!(bus.owner.run(move |tpm| unseal(tpm, &files, &sealed)).unwrap().expose(), root.expose());
}

#[test]
fn a_persistent_key_of_another_template_is_passed_over() {
    let bus = bus();
    let context = bus.tpm.policy_key().with_file_name("other.ctx").display().to_string();
    bus.tpm.tool("tpm2_createprimary", &["-C", "o", "-G", "rsa", "-c", &context]).unwrap();
    bus.tpm.tool("tpm2_evictcontrol", &["-C", "o", "-c", &context, "0x81000001"]).unwrap();
    bus.tpm.tool("tpm2_flushcontext", &["-t"]).unwrap();
    let (sealed, root) = bus.sealed();
    let files = bus.files();
    assert_eq!(bus.owner.run(move |tpm| unseal(tpm, &files, &sealed)).unwrap().expose(), root.expose());
}

#[test]
fn the_tpm_itself_refuses_whoever_has_not_been_through_the_policy() {
    use tss_esapi::{
        constants::SessionType,
        interface_types::session_handles::{AuthSession, PolicySession},
        structures::{Private, Public},
        traits::UnMarshall,
    };
    let bus = bus();
    let (sealed, _) = bus.sealed();
    let blob = serde_json::to_value(&sealed).unwrap();
    let field = |name: &str| crate::store::octets::parse(blob[name].as_str().unwrap()).unwrap();
    let (public, private) = (field("public"), field("private"));
    let files = bus.files();
    bus.owner
        .run(move |tpm| {
            let storage = tpm.storage_key(None)?;
            let object = tpm.run("TPM2_Load", |tpm| {
                tpm.execute_with_session(Some(AuthSession::Password), |tpm| {
                    tpm.load(storage.handle, Private::try_from(private)?, Public::unmarshall(&public)?)
                })
            })?;
            tpm.keep(object.into());
            let try_with = |tpm: &mut Tpm, session| {
                tpm.run("TPM2_Unseal", |tpm| tpm.execute_with_session(Some(session), |tpm| tpm.unseal(object.into())))
            };
            assert!(try_with(tpm, AuthSession::Password).is_err(), "by an empty password");
            let session = tpm.salted_session(storage.handle, SessionType::Policy)?;
            assert!(try_with(tpm, session).is_err(), "by an empty policy");
            // PCR 11 as signed, but neither PCR 7 nor 12: the first half of the policy.
            let half = policy::SecureBoot::BoundElsewhere;
            policy::satisfy(tpm, session, &files, 1, None, &half)?;
            assert!(try_with(tpm, session).is_err(), "by half of the policy");
            let policy = PolicySession::try_from(session).unwrap();
            tpm.run("TPM2_PolicyRestart", |tpm| tpm.policy_restart(policy))?;
            let pcr7 = policy::Pcrs::read(tpm)?.seven;
            policy::satisfy(tpm, session, &files, 1, None, &policy::SecureBoot::Is(&pcr7))?;
            assert!(try_with(tpm, session).is_ok(), "by the whole policy");
            Ok(())
        })
        .unwrap();
}

#[test]
fn an_identity_key_is_useless_in_another_tpm_and_without_its_authorisation() {
    let (bus, other) = (bus(), bus());
    let auth: Key<IdentityAuth> = tree::random().unwrap();
    let (files, given) = (bus.files(), auth.duplicate());
    let blob = bus.owner.run(move |tpm| create_identity(tpm, &files, 1, &given)).unwrap();
    let sign_at = |owner: &Owner, blob: &IdentityBlob, auth: &Key<IdentityAuth>| {
        let (files, blob, auth) = (bus.files(), blob.clone(), auth.duplicate());
        owner.run(move |tpm| sign(tpm, &files, &blob, &auth, &[3; 32]))
    };
    assert!(sign_at(&bus.owner, &blob, &auth).is_ok());
    let wrong: Key<IdentityAuth> = tree::random().unwrap();
    assert!(matches!(sign_at(&bus.owner, &blob, &wrong), Err(Fault::Refused { command: "TPM2_Sign", .. })));
    assert_eq!(sign_at(&other.owner, &blob, &auth), Err(Fault::Replaced));

    // Whoever copies a blob can also write the other TPM's name into it.
    let name = other.owner.run(|tpm| Ok(tpm.storage_key(None)?.name)).unwrap();
    let mut document = serde_json::to_value(&blob).unwrap();
    document["storage_key"] = name.iter().map(|octet| format!("{octet:02x}")).collect::<String>().into();
    let patched: IdentityBlob = serde_json::from_value(document).unwrap();
    assert_eq!(sign_at(&other.owner, &patched, &auth), Err(Fault::Replaced));
}
