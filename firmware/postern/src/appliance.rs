//! The daemon as its operators see it.
//!
//! Job: implement [`operator::Appliance`] on what runs. Place: beside the message's way. Invariants: what needs keys or
//! settings is refused where there are none; what can fail comes before what takes effect. A crash leaves what each part
//! says of itself.

use crate::{
    build::{self, Open},
    daemon::{Daemon, State},
    health,
    helper::Request,
    identity,
    listeners::Service,
    machine,
    plain::Plain,
    run, test_message, updates,
};
use jiff::Timestamp;
use ledger::Ledger;
use mail::{Address, Destination, MessageId};
use operator::{
    Adopted, Alarm, Appliance, Closed, CloudState, Enrolment, Facts, Failing, Fault, KeyFacts, Locked, Opened, Refusal,
    Secret, Unlocked,
    health::HealthReport,
    machine::{MachineAct, NetworkReport},
    update::UpdateReport,
};
use settings::Settings;
use std::sync::{Arc, atomic::Ordering};
use vault::{IdentityState, Keys, Lasting, UnlockError, Vault};
use zeroize::Zeroizing;

impl Daemon {
    fn alarms(&self, open: Option<&Open>) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        let mut raise = |what: String, remedy: &str| {
            alarms.push(Alarm { what, remedy: remedy.to_owned(), since: self.started });
        };
        if let Some(open) = open {
            spool_alarms(open, &mut raise);
        }
        for (what, remedy) in self.told.alarms() {
            raise(what, remedy);
        }
        let status = self.vault.status();
        if status.recovery.is_some_and(|recovery| !recovery.confirmed) {
            raise(
                "nobody has confirmed the recovery key".to_owned(),
                "answer the console's questions about it, or use `postern keys recovery show` and `postern keys recovery confirm`",
            );
        }
        // Of a locked vault the fault is told as the reason.
        if let Some(fault) = status.fault.filter(|_| status.state != vault::State::Locked) {
            raise(failed(fault.message).what, "the next start needs the recovery key until this is mended");
        }
        if !status.memory_locked {
            raise("keys could not be locked in memory".to_owned(), "raise the limit of locked memory (LimitMEMLOCK)");
        }
        alarms.extend(updates::alarms(self.started));
        alarms.extend(self.health.alarm());
        alarms
    }
}

impl Daemon {
    fn vault(&self) -> Result<Vault, Refusal> {
        self.vault.vault().ok_or_else(|| {
            Refusal::new(Fault::Locked, "the data partition is closed, and the keys with it", "unlock it first")
        })
    }

    async fn unlock_vault(&self, words: &Secret) -> Result<Keys, Refusal> {
        let (vault, words) = (self.vault()?, words.clone());
        // Keys that are there already need no recovery key: something else keeps the appliance from being opened.
        if vault.fault().is_none()
            && let State::Locked(Locked { what, remedy, .. }) = &self.now().state
        {
            return Err(Refusal::new(
                Fault::Refused,
                format!("the recovery key is not what is missing: {what}"),
                remedy,
            ));
        }
        let keys = tokio::task::spawn_blocking(move || vault.unlock(words.expose())).await;
        keys.map_err(failed)?.map_err(from_unlock)
    }

    /// Opens the data partition, then the vault on it, as far as it does not open by itself.
    async fn open_data(&self, words: &Secret) -> Result<Keys, Refusal> {
        let _one_at_a_time = self.changing.lock().await;
        if self.vault.vault().is_none() {
            let request = Request::UnlockData { passphrase: machine::passphrase(words)? };
            self.helper()?.call(request).await?;
            let (vault, opened) = run::open_vault(&self.arguments).await.map_err(failed)?;
            self.vault.put(vault);
            self.now().data_locked = None;
            match opened {
                vault::Opened::Fresh(keys) | vault::Opened::Unlocked(keys) => return Ok(keys),
                vault::Opened::Locked(fault) => {
                    self.now().state = State::Locked(Locked::of(&fault, Timestamp::now()));
                }
            }
        }
        self.unlock_vault(words).await
    }

    /// Binds the data partition to this TPM anew; what is told where that fails.
    async fn seal_data(&self, words: &Secret) -> String {
        let sealed = async {
            let request = Request::SealData { passphrase: machine::passphrase(words)? };
            self.helper()?.call(request).await.map_err(Refusal::from)
        };
        match sealed.await {
            Ok(_) => String::new(),
            Err(refusal) => format!(
                "the data partition needs the recovery key at the next start too: {}; {}",
                refusal.what, refusal.remedy
            ),
        }
    }
}

/// What the spool has to say.
fn spool_alarms(open: &Open, raise: &mut impl FnMut(String, &str)) {
    if let Err(error) = open.pipeline.spool.available() {
        let Refusal { what, remedy, .. } = failed(error);
        raise(format!("no mail is taken at present: {what}"), &remedy);
    }
    let stats = open.pipeline.spool.stats();
    if stats.failed > 0 {
        raise(
            format!("{} deliveries were refused for good and are held", stats.failed),
            "look at the queue in the console's menu or with `postern queue list`, then retry or delete them",
        );
    }
    if stats.set_aside > 0 {
        raise(
            format!("{} stored records are damaged and were set aside", stats.set_aside),
            "look at `postern queue list`; check the data disk",
        );
    }
    if stats.unrecorded > 0 || stats.disk_errors > 0 {
        raise(format!("the data disk failed {} times", stats.disk_errors), "check the data disk and its free space");
    }
    if let Some(error) = stats.index_error {
        raise(
            format!("the queue index can't be written: {error}"),
            "check the data disk; the index is rebuilt at the next start",
        );
    }
}

fn failed(what: impl std::fmt::Display) -> Refusal {
    Refusal::of(Fault::Failed, &what)
}

fn from_unlock(error: UnlockError) -> Refusal {
    let fault = if matches!(error, UnlockError::Fault(_)) { Fault::Failed } else { Fault::Refused };
    Refusal::of(fault, &error)
}

impl Appliance for Daemon {
    fn facts(&self) -> Facts {
        let open = self.open();
        let (host, listeners, sessions, data_locked) = {
            let now = self.now();
            let host = now.plain.as_ref().map_or_else(String::new, |plain| plain.host.to_string());
            let sessions = now.service.as_ref().map_or(0, Service::sessions);
            (host, now.listening.clone(), sessions, now.data_locked.clone())
        };
        let host_is_unknown = host.is_empty();
        let mut facts = Facts {
            host,
            version: self.image.version.clone(),
            development: self.image.development,
            secure_boot: self.told.secure_boot(),
            // A locked appliance has settings that it can't read, unless it never had any: then it has no plain area.
            set_up: match &open {
                Ok(_) => true,
                Err(Closed::NotSetUp) => false,
                Err(Closed::Starting | Closed::Locked(_)) => !host_is_unknown,
            },
            administrator: false,
            addresses: machine::addresses(),
            data_locked,
            started: self.started,
            listeners,
            sessions: sessions as u64,
            accepted: 0,
            refused: 0,
            delivered: 0,
            cloud: CloudState::NotConfigured,
            failing: Vec::new(),
            alarms: Vec::new(),
        };
        if open.is_err() {
            facts.alarms = self.alarms(None);
        }
        if let Ok(open) = open {
            let (parts, counters) = (open.pipeline.live.parts(), &open.pipeline.counters);
            facts.host = parts.settings.host.name.to_string();
            facts.administrator = !parts.settings.operators.is_empty();
            facts.accepted = counters.accepted.load(Ordering::Relaxed);
            facts.refused = counters.refused.load(Ordering::Relaxed);
            facts.delivered = counters.delivered.load(Ordering::Relaxed);
            facts.cloud = cloud_state(&open, parts.settings.cloud.is_some());
            facts.failing = parts
                .relay
                .suspensions()
                .into_iter()
                .chain(parts.cloud.suspension())
                .map(|s| Failing { destination: s.destination.to_string(), since: s.since, error: s.why.to_string() })
                .collect();
            facts.alarms = self.alarms(Some(&open));
        }
        facts
    }

    fn keys(&self) -> KeyFacts {
        let (epoch, locked) = match &self.now().state {
            State::Open(open) => (Some(open.epoch), None),
            State::Locked(locked) => (None, Some(locked.clone())),
            State::NotSetUp(_) | State::Starting => (None, None),
        };
        let status = self.vault.status();
        KeyFacts {
            locked,
            sealed: status.state == vault::State::Unlocked,
            recovery_confirmed: status.recovery.is_some_and(|recovery| recovery.confirmed),
            identity: status.identity.map(|identity| identity.state.to_owned()),
            epoch,
        }
    }

    fn ledger(&self) -> Result<Ledger, Closed> {
        Self::ledger(self)
    }

    fn opened(&self) -> Result<Opened, Closed> {
        let open = self.open()?;
        Ok(Opened { spool: open.pipeline.spool.clone(), ledger: open.ledger.clone() })
    }

    fn settings(&self) -> (Arc<Settings>, u64) {
        match self.open() {
            Ok(open) => {
                let parts = open.pipeline.live.parts();
                (parts.settings.clone(), parts.revision)
            }
            Err(_) => {
                let plain = self.now().plain.clone();
                (Arc::new(plain.unwrap_or_else(Plain::unknown).settings()), 0)
            }
        }
    }

    async fn unlock(&self, words: Secret) -> Result<Unlocked, Refusal> {
        let closed = self.now().data_locked.is_some();
        let keys = if closed { self.open_data(&words).await? } else { self.unlock_vault(&words).await? };
        let (lasting, identity) = (keys.lasting.clone(), keys.identity.clone());
        if let Err(error) = self.begin_open(keys).await {
            self.begin_broken(&error).await;
            return Err(failed(error));
        }
        let advice = match &lasting {
            // Only to a boot that the vault was sealed to is the partition sealed; also where an earlier try broke off.
            Lasting::Sealed if closed || self.told.data_by_key() => self.seal_data(&words).await,
            Lasting::Sealed => String::new(),
            Lasting::ThisBoot(fault) => fault.to_string(),
        };
        let enrol_again = identity.state() == IdentityState::NeedsEnrolment;
        Ok(Unlocked { resealed: lasting == Lasting::Sealed, enrol_again, advice })
    }

    async fn show_recovery(&self) -> Result<Secret, Refusal> {
        let vault = self.vault()?;
        let shown = tokio::task::spawn_blocking(move || vault.show_recovery_key()).await;
        match shown.map_err(failed)?.map_err(failed)? {
            Some(key) => Ok(Secret::new(Zeroizing::new(key.phrase().to_string()))),
            None => Err(Refusal::new(
                Fault::Refused,
                "the recovery key was shown already",
                "confirm it with `postern keys recovery confirm`; it is shown once only",
            )),
        }
    }

    async fn confirm_recovery(&self, words: Secret) -> Result<(), Refusal> {
        let (vault, asked) = (self.vault()?, words.clone());
        // Confirmed means that it opens both. The mark is the vault's, so the partition comes first: what breaks off
        // between them leaves the key unconfirmed, and the next confirmation does both again.
        let checked = {
            let (vault, asked) = (vault.clone(), asked.clone());
            tokio::task::spawn_blocking(move || vault.check_recovery_key(asked.expose())).await
        };
        checked.map_err(failed)?.map_err(from_unlock)?;
        self.enrol_for_data(&words).await?;
        let confirmed = tokio::task::spawn_blocking(move || vault.confirm_recovery_key(asked.expose())).await;
        confirmed.map_err(failed)?.map_err(from_unlock)
    }

    async fn renew_recovery(&self) -> Result<(), Refusal> {
        let vault = self.vault()?;
        tokio::task::spawn_blocking(move || vault.renew_recovery_key()).await.map_err(failed)?.map_err(failed)
    }

    fn resume(&self, destination: &Destination) {
        let Ok(open) = self.open() else { return };
        let parts = open.pipeline.live.parts();
        match destination {
            Destination::Cloud => parts.cloud.resume(),
            other => parts.relay.resume(other),
        }
    }

    async fn enrol(&self, code: Secret) -> Result<Enrolment, Refusal> {
        let open = self.open()?;
        let cloud = open.pipeline.live.parts().cloud.clone();
        let enrolment = cloud.enrol(code.expose()).await.map_err(failed)?;
        // Settings may have been taken into force meanwhile; the client that is in force now is the one to enrol.
        let _one_at_a_time = self.changing.lock().await;
        let cloud = open.pipeline.live.parts().cloud.clone();
        // The certificate is kept before it is used; both may touch disk and TPM.
        let identity = open.identity.clone();
        tokio::task::spawn_blocking(move || {
            identity::keep(&identity, &enrolment).map_err(failed)?;
            cloud.adopt(&enrolment).map_err(failed)
        })
        .await
        .map_err(failed)??;
        match cloud_state(&open, true) {
            CloudState::Enrolled(enrolment) => Ok(enrolment),
            _ => Err(failed("the service took the code, but the certificate can't be used; see the daemon's log")),
        }
    }

    async fn admit(&self, settings: &Settings) -> Result<(), Refusal> {
        updates::admit_settings(self)?;
        let identity = match &self.now().state {
            State::Open(open) => open.identity.clone(),
            State::NotSetUp(begun) => begun.identity.clone(),
            State::Locked(locked) => return Err(locked.clone().into()),
            State::Starting => return Err(Closed::Starting.into()),
        };
        if let Some(files) = &settings.intake.tls {
            intake::tls_config(files).map_err(failed)?;
        }
        // Asked before the revision is recorded: one that can't be listened with would keep the next start from opening.
        self.changing.lock().await.try_bind(&settings.intake.listen).map_err(failed)?;
        build::parts(Arc::new(settings.clone()), 0, &identity).map(drop).map_err(failed)
    }

    async fn adopt(&self, settings: Settings, revision: u64) -> Result<Adopted, Refusal> {
        if let Err(Closed::NotSetUp) = self.open() {
            return self.set_up(settings, revision).await.map(|()| Adopted::default()).map_err(failed);
        }
        let mut listeners = self.changing.lock().await;
        let open = self.open()?;
        let before = open.pipeline.live.parts();
        let parts = build::parts(Arc::new(settings), revision, &open.identity).map_err(failed)?;
        let after = parts.settings.clone();
        // All that can fail comes first, so that what runs is one revision or the other.
        self.keep_plain(&after).await.map_err(failed)?;
        let mut old = None;
        if before.settings.intake != after.intake || before.settings.host != after.host {
            old = self.serve(&mut listeners, &open, &after).map_err(failed)?;
        }
        open.pipeline.live.replace(parts);
        if let Some(old) = old {
            old.stop().await;
        }
        before.relay.close().await;
        let changed = before.settings.spool != after.spool;
        Ok(Adopted { after_restart: if changed { vec!["spool".to_owned()] } else { Vec::new() } })
    }

    fn network(&self) -> NetworkReport {
        let configured = match self.open() {
            Ok(open) => open.pipeline.live.parts().settings.network.clone(),
            Err(_) => self.now().plain.as_ref().and_then(|plain| plain.network.clone()),
        };
        NetworkReport { configured, addresses: machine::addresses() }
    }

    async fn health(&self) -> HealthReport {
        health::check(self).await
    }

    async fn update_status(&self) -> Result<UpdateReport, Refusal> {
        updates::status(self).await
    }

    async fn install_update(
        &self,
        source: String,
        sha256: Option<String>,
        reboot: bool,
    ) -> Result<UpdateReport, Refusal> {
        updates::install(self, source, sha256, reboot).await
    }

    async fn acknowledge_update(&self) -> Result<(), Refusal> {
        updates::acknowledge(self).await
    }

    async fn act_on_machine(&self, act: MachineAct) -> Result<(), Refusal> {
        self.ask_machine(act).await
    }

    async fn accept_test(&self, recipient: Address) -> Result<MessageId, Refusal> {
        let open = self.open()?;
        test_message::accept(&open.pipeline, recipient).await.map_err(|reply| {
            failed(format!("the appliance did not take its own message: {reply}; look at `postern status`"))
        })
    }
}

fn cloud_state(open: &Open, configured: bool) -> CloudState {
    match open.identity.enrolment() {
        _ if !configured => CloudState::NotConfigured,
        Some(enrolment) if open.identity.state() != IdentityState::NeedsEnrolment => CloudState::Enrolled(Enrolment {
            appliance: enrolment.appliance,
            tenant: enrolment.tenant,
            valid_until: None,
        }),
        _ => CloudState::NotEnrolled,
    }
}
