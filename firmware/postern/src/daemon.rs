//! The daemon's states, and the ways between them.
//!
//! Job: hold what runs, and move between locked, not set up and open. Place: beside the message's way; [`crate::appliance`]
//! shows it to operators. Invariants: one transition at a time; a transition that fails leaves the state of before, or a
//! locked one that says why and is tried again; the locked state has no spool, no ledger and no STARTTLS; before the first settings there is
//! a ledger and no spool. A crash leaves what each part says of itself.

use crate::{
    acceptors,
    build::{self, Begun, BuildError, Open},
    health::Last,
    helper::Client,
    image::Image,
    listeners::{Listeners, Service},
    plain::{Plain, StoreError},
    run::{self, Arguments},
    safe::Safe,
    told::Told,
};
use jiff::Timestamp;
use ledger::Ledger;
use operator::{Closed, Locked};
use policy::Workers;
use settings::Settings;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use vault::{Keys, Opened};

/// How often a locked appliance tries again: some faults pass (a slow or busy TPM, a lockout, a disk that was full, an
/// address that is not there yet).
const ASK_AGAIN: Duration = Duration::from_secs(20);

/// The daemon.
pub struct Daemon {
    /// How it was started.
    pub arguments: Arguments,
    /// What the image says of itself.
    pub image: Image,
    /// The keys' owner.
    pub vault: Safe,
    /// What root says of the machine.
    pub told: Told,
    /// Root's helper, where there is one.
    pub helper: Option<Client>,
    workers: Arc<dyn Workers>,
    /// When it was started.
    pub started: Timestamp,
    now: Mutex<Now>,
    /// What the last health check found.
    pub health: Last,
    /// Held through every transition.
    pub changing: tokio::sync::Mutex<Listeners>,
}

/// What is at present.
pub struct Now {
    /// What there is to work with.
    pub state: State,
    /// What answers on the SMTP sockets.
    pub service: Option<Service>,
    /// Where.
    pub listening: Vec<SocketAddr>,
    /// What a locked appliance knows of itself.
    pub plain: Option<Plain>,
    /// Why the data partition is closed, while it is.
    pub data_locked: Option<Locked>,
}

/// What there is to work with.
pub enum State {
    /// Nothing yet, or between two states.
    Starting,
    /// No keys, and why.
    Locked(Locked),
    /// Keys, and no settings yet.
    NotSetUp(Begun),
    /// Everything.
    Open(Arc<Open>),
}

impl Daemon {
    /// The daemon before it has looked at anything; [`Daemon::begin`] does.
    #[must_use]
    pub fn new(arguments: Arguments, workers: Arc<dyn Workers>) -> Self {
        let now = Now { state: State::Starting, service: None, listening: Vec::new(), plain: None, data_locked: None };
        Self {
            helper: arguments.helper.as_deref().map(Client::new),
            told: Told::new(arguments.machine.as_deref()),
            image: Image::of(arguments.image.as_deref()),
            arguments,
            vault: Safe::default(),
            workers,
            started: Timestamp::now(),
            health: Last::default(),
            now: Mutex::new(now),
            changing: tokio::sync::Mutex::new(Listeners::from_environment()),
        }
    }

    /// What is at present; held for a moment only.
    pub fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that there is once settings are in force.
    ///
    /// # Errors
    /// Why there is not.
    pub fn open(&self) -> Result<Arc<Open>, Closed> {
        match &self.now().state {
            State::Open(open) => Ok(open.clone()),
            State::NotSetUp(_) => Err(Closed::NotSetUp),
            State::Locked(locked) => Err(Closed::Locked(locked.clone())),
            State::Starting => Err(Closed::Starting),
        }
    }

    /// The ledger, which is there once keys are.
    ///
    /// # Errors
    /// Why there are none.
    pub fn ledger(&self) -> Result<Ledger, Closed> {
        match &self.now().state {
            State::Open(open) => Ok(open.ledger.clone()),
            State::NotSetUp(begun) => Ok(begun.ledger.clone()),
            State::Locked(locked) => Err(Closed::Locked(locked.clone())),
            State::Starting => Err(Closed::Starting),
        }
    }

    /// From the start to what there is: open, not set up, or locked with the reason.
    pub async fn begin(&self) {
        if let Some(reason) = run::why_data_is_locked(&self.arguments) {
            return self.begin_without_data(&reason).await;
        }
        match run::open_vault(&self.arguments).await {
            Ok((vault, opened)) => {
                self.vault.put(vault);
                self.go_on(opened).await;
            }
            Err(error) => self.begin_broken(&error).await,
        }
    }

    async fn go_on(&self, opened: Opened) {
        match opened {
            Opened::Fresh(keys) | Opened::Unlocked(keys) => {
                if let Err(error) = self.begin_open(keys).await {
                    self.begin_broken(&error).await;
                }
            }
            Opened::Locked(fault) => self.begin_locked(&fault).await,
        }
    }

    /// Goes on with keys: opens everything and serves; without settings, waits for the first. Nothing happens where others
    /// were faster.
    ///
    /// # Errors
    /// A part can't be made or an address can't be listened on; the caller says so ([`Daemon::begin_broken`]).
    pub async fn begin_open(&self, keys: Keys) -> Result<(), BuildError> {
        let mut listeners = self.changing.lock().await;
        if matches!(self.now().state, State::NotSetUp(_) | State::Open(_)) {
            return Ok(());
        }
        let (data, first) = (self.arguments.data.clone(), self.arguments.settings.clone());
        let begun = tokio::task::spawn_blocking(move || build::begin(&data, first.as_deref(), keys)).await;
        match begun.map_err(|error| BuildError::Part(error.to_string()))?? {
            (begun, Some((settings, revision))) => self.open_with(&mut listeners, begun, settings, revision).await,
            (begun, None) => {
                self.await_settings(&mut listeners, begun).await;
                Ok(())
            }
        }
    }

    /// Opens everything with these settings, then serves.
    async fn open_with(
        &self,
        listeners: &mut Listeners,
        begun: Begun,
        settings: Settings,
        revision: u64,
    ) -> Result<(), BuildError> {
        // A locked start must know it. Mail flows also where it can't be kept, except in a data folder that takes nothing.
        if let Err(error) = self.keep_plain(&settings).await {
            match error {
                StoreError::File(_) => return Err(BuildError::Part(error.to_string())),
                StoreError::Helper(_) => log::error!(error:%; "the plain area or the box's address is not as set"),
            }
        }
        let (data, workers) = (self.arguments.data.clone(), self.workers.clone());
        let opened = tokio::task::spawn_blocking(move || begun.open(&data, settings, revision, workers)).await;
        let open = Arc::new(opened.map_err(|error| BuildError::Part(error.to_string()))??);
        let settings = open.pipeline.live.parts().settings.clone();
        let old = match self.serve(listeners, &open, &settings) {
            Ok(old) => old,
            Err(error) => {
                if let Ok(open) = Arc::try_unwrap(open) {
                    open.close().await;
                }
                return Err(error);
            }
        };
        self.now().state = State::Open(open);
        if let Some(old) = old {
            old.stop().await;
        }
        Ok(())
    }

    /// Has keys and no settings: operators are answered, mail is not taken on the sockets that were handed over.
    async fn await_settings(&self, listeners: &mut Listeners, begun: Begun) {
        log::warn!(event = "not_set_up"; "there are no settings yet; set the appliance up at its console");
        let listening = listeners.addresses();
        let service = if listening.is_empty() {
            None
        } else {
            let settings = Plain::unknown().settings();
            let service = listeners.serve(Arc::new(acceptors::Closed::NotSetUp), &settings, None);
            service.inspect_err(|error| log::error!(error:%; "no listener can be opened")).ok()
        };
        let old = {
            let mut now = self.now();
            (now.state, now.listening) = (State::NotSetUp(begun), listening);
            std::mem::replace(&mut now.service, service)
        };
        if let Some(old) = old {
            old.stop().await;
        }
    }

    /// Takes the first settings, which are recorded, into force. Nothing happens where others were faster.
    ///
    /// # Errors
    /// A part can't be made; the appliance is locked then, and the next start tries again.
    pub async fn set_up(&self, settings: Settings, revision: u64) -> Result<(), BuildError> {
        let mut listeners = self.changing.lock().await;
        let begun = {
            let mut now = self.now();
            match std::mem::replace(&mut now.state, State::Starting) {
                State::NotSetUp(begun) => begun,
                other => {
                    now.state = other;
                    return Ok(());
                }
            }
        };
        let opened = self.open_with(&mut listeners, begun, settings, revision).await;
        if let Err(error) = &opened {
            self.answer_broken(&mut listeners, error).await;
        }
        opened
    }

    /// The keys are there, and yet the appliance can't be opened: answers 451, says why, and tries again.
    pub async fn begin_broken(&self, error: &BuildError) {
        let mut listeners = self.changing.lock().await;
        self.answer_broken(&mut listeners, error).await;
    }

    async fn answer_broken(&self, listeners: &mut Listeners, error: &BuildError) {
        let since = match &self.now().state {
            State::Locked(locked) => locked.since,
            State::Starting | State::NotSetUp(_) | State::Open(_) => Timestamp::now(),
        };
        let locked = Locked::of(error, since);
        {
            let mut now = self.now();
            // Every 20 seconds the same would fill the journal.
            if !matches!(&now.state, State::Locked(before) if *before == locked) {
                log::error!(event = "locked", code = "broken", error:%; "the appliance can't be opened; mail is answered 451");
            }
            if matches!(now.state, State::Locked(_)) && now.service.is_some() {
                now.state = State::Locked(locked);
                return;
            }
        }
        self.answer_locked(listeners, locked).await;
    }

    /// Goes on without keys: greets and answers 451, as far as the plain area says where.
    pub async fn begin_locked(&self, fault: &vault::Fault) {
        log::error!(event = "locked", code = fault.code(), fault:%; "the keys are locked; mail is answered 451");
        let mut listeners = self.changing.lock().await;
        self.answer_locked(&mut listeners, Locked::of(fault, Timestamp::now())).await;
    }

    /// Goes on without the data partition, for this reason in two halves. The key store is on it, and the folder in its
    /// place is not touched.
    pub async fn begin_without_data(&self, reason: &str) {
        log::error!(event = "locked", code = "data-locked", reason:%; "the data partition is closed; mail is answered 451");
        let locked = Locked::of(&reason, Timestamp::now());
        self.now().data_locked = Some(locked.clone());
        let mut listeners = self.changing.lock().await;
        self.answer_locked(&mut listeners, locked).await;
    }

    async fn answer_locked(&self, listeners: &mut Listeners, locked: Locked) {
        let plain = match self.store().load().await {
            Ok(plain) => plain,
            Err(error) => {
                log::error!(error:%; "no listener can be opened");
                None
            }
        };
        // Whatever keeps SMTP from being answered must not keep operators from unlocking.
        let bound = match &plain {
            Some(plain) => listeners.bind(&plain.listen).map_err(|error| error.to_string()),
            None => Ok(()),
        };
        let listening = listeners.addresses();
        let served = bound.and_then(|()| {
            if listening.is_empty() {
                return Ok(None);
            }
            // Sockets that were handed over are answered, whatever is known of the host.
            let settings = plain.as_ref().map_or_else(|| Plain::unknown().settings(), Plain::settings);
            let service = listeners.serve(Arc::new(acceptors::Closed::Locked), &settings, None);
            service.map(Some).map_err(|error| error.to_string())
        });
        let service = served.inspect_err(|error| log::error!(error:%; "no listener can be opened")).ok().flatten();
        let old = {
            let mut now = self.now();
            (now.state, now.plain, now.listening) = (State::Locked(locked), plain, listening);
            std::mem::replace(&mut now.service, service)
        };
        if let Some(old) = old {
            old.stop().await;
        }
    }

    /// Binds, then puts a service of these settings in the place of the one before, which the caller stops.
    ///
    /// # Errors
    /// A certificate can't be read, or an address can't be listened on; what runs goes on.
    pub fn serve(
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

    /// Tries again, while the appliance is locked, what may pass: asks the TPM, or opens with the keys that are there.
    pub async fn ask_again(self: Arc<Self>) {
        loop {
            tokio::time::sleep(ASK_AGAIN).await;
            if !matches!(self.now().state, State::Locked(_)) {
                continue;
            }
            let Some(vault) = self.vault.vault() else {
                // A closed data partition waits for the recovery key; a vault that could not even be made is made.
                if self.now().data_locked.is_none() {
                    self.begin().await;
                }
                continue;
            };
            match tokio::task::spawn_blocking(move || vault.retry()).await {
                Ok(Opened::Locked(fault)) => {
                    let mut now = self.now();
                    if let State::Locked(locked) = &mut now.state {
                        *locked = Locked::of(&fault, locked.since);
                    }
                }
                Ok(opened) => self.go_on(opened).await,
                Err(error) => log::error!(error:%; "asking the TPM ended badly"),
            }
        }
    }

    /// Stops in the reverse order of the start.
    pub async fn close(&self) {
        let _listeners = self.changing.lock().await;
        let (service, state) = {
            let mut now = self.now();
            (now.service.take(), std::mem::replace(&mut now.state, State::Starting))
        };
        if let Some(service) = service {
            service.stop().await;
        }
        // Sessions and deliveries have ended; what an operator's request still holds keeps the spool open a moment.
        let State::Open(mut open) = state else { return };
        for _ in 0..100 {
            match Arc::try_unwrap(open) {
                Ok(open) => return open.close().await,
                Err(held) => open = held,
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        log::warn!("a request is still under way; the spool is closed by the end of the process");
    }
}
