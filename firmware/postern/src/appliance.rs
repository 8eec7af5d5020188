//! The daemon as its operators see it.
//!
//! Job: implement [`operator::Appliance`] on what runs, and move between locked and open. Place: beside the message's
//! way. Invariants: one transition at a time; a transition that fails leaves the state of before; the locked state has
//! no spool, no ledger and no STARTTLS. A crash leaves what each part says of itself.

use crate::{
    acceptors,
    build::{self, BuildError, Open},
    identity,
    listeners::{Listeners, Service},
    plain::Plain,
    run::Arguments,
};
use jiff::Timestamp;
use mail::Destination;
use operator::{
    Adopted, Alarm, Appliance, CloudState, Enrolment, Facts, Failing, Fault, KeyFacts, Locked, Opened, Refusal, Secret,
    Unlocked,
};
use policy::Workers;
use settings::Settings;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};
use vault::{IdentityState, Keys, Lasting, UnlockError, Vault};
use zeroize::Zeroizing;

/// How often a locked vault asks the TPM again: some faults pass (a slow or busy TPM, a lockout).
const ASK_AGAIN: Duration = Duration::from_secs(20);

/// The daemon.
pub struct Daemon {
    arguments: Arguments,
    vault: Vault,
    workers: Arc<dyn Workers>,
    started: Timestamp,
    now: Mutex<Now>,
    /// Held through every transition.
    changing: tokio::sync::Mutex<Listeners>,
}

struct Now {
    open: Option<Arc<Open>>,
    locked: Option<Locked>,
    service: Option<Service>,
    listening: Vec<SocketAddr>,
    plain: Option<Plain>,
}

impl Daemon {
    /// The daemon around an opened or locked vault; not serving yet.
    #[must_use]
    pub fn new(arguments: Arguments, vault: Vault, workers: Arc<dyn Workers>) -> Self {
        let now = Now { open: None, locked: None, service: None, listening: Vec::new(), plain: None };
        Self {
            arguments,
            vault,
            workers,
            started: Timestamp::now(),
            now: Mutex::new(now),
            changing: tokio::sync::Mutex::new(Listeners::from_environment()),
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<Arc<Open>, Locked> {
        let now = self.now();
        now.open.clone().ok_or_else(|| now.locked.clone().unwrap_or_else(starting))
    }

    /// Goes on with keys: opens everything, then serves.
    ///
    /// # Errors
    /// A part can't be made or an address can't be listened on; nothing is served then.
    pub async fn begin_open(&self, keys: Keys) -> Result<(), BuildError> {
        let mut listeners = self.changing.lock().await;
        let (data, first, workers) =
            (self.arguments.data.clone(), self.arguments.settings.clone(), self.workers.clone());
        let opened = tokio::task::spawn_blocking(move || build::open(&data, first.as_deref(), keys, workers)).await;
        let open = Arc::new(opened.map_err(|error| BuildError::Part(error.to_string()))??);
        let settings = open.pipeline.live.parts().settings.clone();
        let old = match self.serve(&mut listeners, &open, &settings) {
            Ok(old) => old,
            Err(error) => {
                if let Ok(open) = Arc::try_unwrap(open) {
                    open.close().await;
                }
                return Err(error);
            }
        };
        {
            let mut now = self.now();
            (now.open, now.locked) = (Some(open), None);
        }
        if let Some(old) = old {
            old.stop().await;
        }
        Ok(())
    }

    /// Goes on without keys: greets and answers 451, as far as the plain area says where.
    pub async fn begin_locked(&self, fault: &vault::Fault) {
        let mut listeners = self.changing.lock().await;
        log::error!(event = "locked", code = fault.code(), fault:%; "the keys are locked; mail is answered 451");
        let locked = Locked::of(fault, Timestamp::now());
        let plain = match Plain::load(&self.arguments.data) {
            Ok(plain) => plain,
            Err(error) => {
                log::error!(error:%; "no listener can be opened");
                None
            }
        };
        let service = match &plain {
            None => None,
            // Whatever keeps SMTP from being answered must not keep operators from unlocking.
            Some(plain) => {
                let bound = listeners.bind(&plain.listen).map_err(|error| error.to_string());
                let served = bound.and_then(|()| {
                    let service = listeners.serve(Arc::new(acceptors::Locked), &plain.settings(), None);
                    service.map_err(|error| error.to_string())
                });
                served.inspect_err(|error| log::error!(error:%; "no listener can be opened")).ok()
            }
        };
        let listening = listeners.addresses();
        let old = {
            let mut now = self.now();
            (now.locked, now.plain, now.listening) = (Some(locked), plain, listening);
            std::mem::replace(&mut now.service, service)
        };
        if let Some(old) = old {
            old.stop().await;
        }
    }

    /// Binds, then puts a service of these settings in the place of the one before, which the caller stops.
    fn serve(
        &self,
        listeners: &mut Listeners,
        open: &Open,
        settings: &Settings,
    ) -> Result<Option<Service>, BuildError> {
        let part = |error: &dyn std::fmt::Display| BuildError::Part(error.to_string());
        let tls = match &settings.intake.tls {
            Some(files) => intake::tls_config(files),
            None => intake::certificate(&self.arguments.data, &settings.host.name),
        };
        let tls = tls.map_err(|error| part(&error))?;
        listeners.bind(&settings.intake.listen).map_err(|error| part(&error))?;
        let acceptor = Arc::new(acceptors::Open(open.pipeline.clone()));
        let service = listeners.serve(acceptor, settings, Some(tls)).map_err(|error| part(&error))?;
        let mut now = self.now();
        now.listening = listeners.addresses();
        Ok(now.service.replace(service))
    }

    /// Asks the TPM again while the vault is locked, for faults that pass; ends when it is open.
    pub async fn ask_again(self: Arc<Self>) {
        while self.now().locked.is_some() {
            tokio::time::sleep(ASK_AGAIN).await;
            let vault = self.vault.clone();
            let opened = tokio::task::spawn_blocking(move || vault.retry()).await;
            match opened {
                Ok(Some(vault::Opened::Fresh(keys) | vault::Opened::Unlocked(keys))) => {
                    log::info!("the TPM has released the keys");
                    if let Err(error) = self.begin_open(keys).await {
                        log::error!(error:%; "the keys are there, but the appliance can't be opened; restart it");
                        self.now().locked = Some(unopened(&error));
                    }
                    return;
                }
                Ok(Some(vault::Opened::Locked(fault))) => {
                    let mut now = self.now();
                    if let Some(locked) = &mut now.locked {
                        *locked = Locked::of(&fault, locked.since);
                    }
                }
                Ok(None) => return,
                Err(error) => log::error!(error:%; "asking the TPM ended badly"),
            }
        }
    }

    /// Stops in the reverse order of the start.
    pub async fn close(&self) {
        let _listeners = self.changing.lock().await;
        let (service, open) = {
            let mut now = self.now();
            (now.service.take(), now.open.take())
        };
        if let Some(service) = service {
            service.stop().await;
        }
        // Sessions and deliveries have ended; what an operator's request still holds keeps the spool open a moment.
        let Some(mut open) = open else { return };
        for _ in 0..100 {
            match Arc::try_unwrap(open) {
                Ok(open) => return open.close().await,
                Err(held) => open = held,
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        log::warn!("a request is still under way; the spool is closed by the end of the process");
    }

    fn alarms(&self, open: &Open) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        let mut raise = |what: String, remedy: &str| {
            alarms.push(Alarm { what, remedy: remedy.to_owned(), since: self.started });
        };
        if let Err(error) = open.pipeline.spool.available() {
            let Refusal { what, remedy, .. } = failed(error);
            raise(format!("no mail is taken at present: {what}"), &remedy);
        }
        let stats = open.pipeline.spool.stats();
        if stats.failed > 0 {
            raise(
                format!("{} deliveries were refused for good and are held", stats.failed),
                "look at `postern queue list`, then retry or delete them",
            );
        }
        if stats.set_aside > 0 {
            raise(
                format!("{} stored records are damaged and were set aside", stats.set_aside),
                "look at `postern queue list`; check the data disk",
            );
        }
        if stats.unrecorded > 0 || stats.disk_errors > 0 {
            raise(
                format!("the data disk failed {} times", stats.disk_errors),
                "check the data disk and its free space",
            );
        }
        if let Some(error) = stats.index_error {
            raise(
                format!("the queue index can't be written: {error}"),
                "check the data disk; the index is rebuilt at the next start",
            );
        }
        let status = self.vault.status();
        if status.recovery.is_some_and(|recovery| !recovery.confirmed) {
            raise(
                "nobody has confirmed the recovery key".to_owned(),
                "write it down with `postern keys recovery show`, then `postern keys recovery confirm`",
            );
        }
        if let Some(fault) = status.fault {
            raise(fault.message, "the next start needs the recovery key until this is mended");
        }
        if !status.memory_locked {
            raise("keys could not be locked in memory".to_owned(), "raise the limit of locked memory (LimitMEMLOCK)");
        }
        alarms
    }
}

fn starting() -> Locked {
    Locked { what: "the daemon is starting".into(), remedy: "try again in a moment".into(), since: Timestamp::now() }
}

fn unopened(error: &BuildError) -> Locked {
    Locked { what: error.to_string(), remedy: "mend it and restart the daemon".into(), since: Timestamp::now() }
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
        let (open, host, listeners, sessions) = {
            let now = self.now();
            let host = now.plain.as_ref().map_or_else(String::new, |plain| plain.host.to_string());
            let sessions = now.service.as_ref().map_or(0, Service::sessions);
            (now.open.clone(), host, now.listening.clone(), sessions)
        };
        let mut facts = Facts {
            host,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            development: self.arguments.development,
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
        if let Some(open) = open {
            let (parts, counters) = (open.pipeline.live.parts(), &open.pipeline.counters);
            facts.host = parts.settings.host.name.to_string();
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
            facts.alarms = self.alarms(&open);
        }
        facts
    }

    fn keys(&self) -> KeyFacts {
        let (open, locked) = {
            let now = self.now();
            (now.open.clone(), now.locked.clone())
        };
        let status = self.vault.status();
        KeyFacts {
            locked,
            sealed: status.state == vault::State::Unlocked,
            recovery_confirmed: status.recovery.is_some_and(|recovery| recovery.confirmed),
            identity: status.identity.map(|identity| identity.state.to_owned()),
            epoch: open.map(|open| open.epoch),
        }
    }

    fn opened(&self) -> Result<Opened, Locked> {
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
        let vault = self.vault.clone();
        let keys = tokio::task::spawn_blocking(move || vault.unlock(words.expose())).await;
        let keys = keys.map_err(failed)?.map_err(from_unlock)?;
        let (lasting, identity) = (keys.lasting.clone(), keys.identity.clone());
        if let Err(error) = self.begin_open(keys).await {
            self.now().locked = Some(unopened(&error));
            return Err(failed(error));
        }
        let advice = match &lasting {
            Lasting::Sealed => String::new(),
            Lasting::ThisBoot(fault) => fault.to_string(),
        };
        let enrol_again = identity.state() == IdentityState::NeedsEnrolment;
        Ok(Unlocked { resealed: lasting == Lasting::Sealed, enrol_again, advice })
    }

    async fn show_recovery(&self) -> Result<Secret, Refusal> {
        let vault = self.vault.clone();
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
        let vault = self.vault.clone();
        let confirmed = tokio::task::spawn_blocking(move || vault.confirm_recovery_key(words.expose())).await;
        confirmed.map_err(failed)?.map_err(from_unlock)
    }

    async fn renew_recovery(&self) -> Result<(), Refusal> {
        let vault = self.vault.clone();
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
        let open = self.open()?;
        if let Some(files) = &settings.intake.tls {
            intake::tls_config(files).map_err(failed)?;
        }
        // Asked before the revision is recorded: one that can't be listened with would keep the next start from opening.
        self.changing.lock().await.try_bind(&settings.intake.listen).map_err(failed)?;
        build::parts(Arc::new(settings.clone()), 0, &open.identity).map(drop).map_err(failed)
    }

    async fn adopt(&self, settings: Settings, revision: u64) -> Result<Adopted, Refusal> {
        let mut listeners = self.changing.lock().await;
        let open = self.open()?;
        let before = open.pipeline.live.parts();
        let parts = build::parts(Arc::new(settings), revision, &open.identity).map_err(failed)?;
        let after = parts.settings.clone();
        // All that can fail comes first, so that what runs is one revision or the other.
        Plain::store(&self.arguments.data, &after).map_err(|error| {
            failed(format!(
                "the plain area can't be written: {error}; check the data disk, then apply the settings again"
            ))
        })?;
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
