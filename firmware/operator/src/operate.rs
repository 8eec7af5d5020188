//! Answering operators.
//!
//! Job: carry out each request, record what acts before it acts, and refuse what a locked appliance can't do. Place:
//! between the server and the appliance. Invariants: nothing acts unrecorded: where the ledger can't take the record,
//! the act does not happen, but for power, reset and sign-in, which a box with a broken disk must know; what fails after
//! its record is recorded as not done. A crash between record and act leaves a record of something that was asked for and
//! not done, never the other way round.

use crate::{
    Appliance, Closed, Fault, Opened, Refusal, Request, Response,
    access::Gate,
    protocol::MOST_ROWS,
    record::{Pending, record},
    test_mail,
    view::{AppliedReport, AuditReport, MessageLife, QueueFigures, QueueReport, SettingsReport, StatusReport},
};
use ledger::LedgerError;
use mail::MessageId;
use serde_json::{Value, json};
use settings::Settings;
use spool::{Filter, IndexError, OperateError, Spool};
use std::sync::{Arc, Mutex};

/// Bytes of the reason for a hold: a sentence.
const LONGEST_REASON: usize = 500;

/// Records about one message that its life shows.
const MOST_RECORDS: usize = 1000;

/// What operators may see and do.
pub struct Operator<A> {
    pub(crate) appliance: Arc<A>,
    /// One settings change at a time: each is compared with the one before.
    applying: tokio::sync::Mutex<()>,
    pub(crate) pending: Mutex<Pending>,
    /// One password at a time: each check takes 19 MiB.
    pub(crate) gate: tokio::sync::Mutex<Gate>,
}

impl<A: Appliance> Operator<A> {
    /// An operator's view of `appliance`.
    #[must_use]
    pub fn new(appliance: Arc<A>) -> Self {
        let (applying, gate) = (tokio::sync::Mutex::default(), tokio::sync::Mutex::default());
        Self { appliance, applying, pending: Mutex::default(), gate }
    }

    /// Carries out what `actor` asks for, who may.
    ///
    /// # Errors
    /// Why it is not done, in two halves.
    pub(crate) async fn handle(&self, actor: &str, request: Request) -> Result<Response, Refusal> {
        match request {
            Request::Status => Ok(self.status().await),
            Request::KeysStatus => match self.appliance.ledger() {
                Err(Closed::Starting) => Err(Closed::Starting.into()),
                Err(Closed::Locked(_) | Closed::NotSetUp) | Ok(_) => Ok(Response::Keys(self.appliance.keys())),
            },
            Request::KeysUnlock { words } => self.unlock(actor, words).await,
            Request::SettingsShow => self.show_settings().await,
            Request::SettingsApply { text } => self.apply(actor, text).await,
            Request::AuditVerify => self.verify().await,
            Request::MessageShow { id } => self.life(id).await,
            Request::QueueList { state, destination, limit } => {
                self.list(Filter { state, destination, message: None }, limit.clamp(1, MOST_ROWS)).await
            }
            Request::QueueShow { id } => {
                let Response::Queue(report) =
                    self.list(Filter { message: Some(id), ..Filter::default() }, MOST_ROWS).await?
                else {
                    return Err(unknown(id));
                };
                if report.rows.is_empty() { Err(unknown(id)) } else { Ok(Response::Queue(report)) }
            }
            Request::QueueRetry { id } => {
                let spool = self.appliance.opened()?.spool;
                self.act_on(actor, "queue.retry", id, json!({}), self.try_again(spool, id)).await
            }
            Request::QueueRelease { id } => {
                let spool = self.appliance.opened()?.spool;
                self.act_on(actor, "queue.release", id, json!({}), async move { spool.release(id).await }).await
            }
            Request::QueueDelete { id } => {
                let spool = self.appliance.opened()?.spool;
                self.act_on(actor, "queue.delete", id, json!({}), async move { spool.delete(id).await }).await
            }
            Request::QueueHold { id, why } => {
                let spool = self.appliance.opened()?.spool;
                let why = reason(why)?;
                let detail = json!({ "why": why });
                self.act_on(actor, "queue.hold", id, detail, async move { spool.hold(id, &why).await }).await
            }
            // Looking at the recovery key is as much as having it.
            Request::RecoveryShow => {
                let show = async { self.appliance.show_recovery().await.map(|words| Response::Recovery { words }) };
                self.act(actor, "keys.recovery.show", "", json!({}), show).await
            }
            Request::RecoveryConfirm { words } => {
                let confirm =
                    async { self.appliance.confirm_recovery(words).await.map(|()| Response::RecoveryConfirmed) };
                self.act(actor, "keys.recovery.confirm", "", json!({}), confirm).await
            }
            Request::RecoveryRenew => {
                let renew = async { self.appliance.renew_recovery().await.map(|()| Response::RecoveryRenewed) };
                self.act(actor, "keys.recovery.renew", "", json!({}), renew).await
            }
            Request::Enrol { code } => {
                let enrol = async { self.appliance.enrol(code).await.map(Response::Enrolled) };
                self.act(actor, "enrol", "", json!({}), enrol).await
            }
            Request::TestMail { recipient } => {
                let detail = json!({ "recipient": recipient.masked() });
                let send = async { test_mail::send(&*self.appliance, recipient).await.map(Response::Tested) };
                self.act(actor, "test_mail", "", detail, send).await
            }
            Request::Health => Ok(Response::Health(self.appliance.health().await)),
            Request::UpdateStatus => self.appliance.update_status().await.map(Response::Update),
            Request::UpdateInstall { source, sha256, reboot } => {
                let detail = json!({ "source": source, "sha256": sha256, "reboot": reboot });
                let install =
                    async { self.appliance.install_update(source, sha256, reboot).await.map(Response::Update) };
                self.act_if_recorded(actor, "update.install", detail, install).await
            }
            Request::UpdateAcknowledge => {
                let taken = async { self.appliance.acknowledge_update().await.map(|()| Response::UpdateAcknowledged) };
                self.act_if_recorded(actor, "update.acknowledge", json!({}), taken).await
            }
            Request::NetworkShow => Ok(Response::Network(self.appliance.network())),
            Request::Machine(act) => self.act_on_machine(actor, act).await,
            // A sign-in belongs to a connection, not to whoever acts.
            Request::SignIn { .. } | Request::SignOut => Err(Refusal::new(
                Fault::BadRequest,
                "there is no connection to sign in on",
                "sign in on the operators' socket",
            )),
        }
    }

    async fn status(&self) -> Response {
        let opened = self.appliance.opened();
        let locked = match &opened {
            Err(Closed::Locked(locked)) => Some(locked.clone()),
            Err(Closed::Starting | Closed::NotSetUp) | Ok(_) => None,
        };
        let starting = matches!(opened, Err(Closed::Starting));
        let queue = match opened {
            Ok(Opened { spool, .. }) => {
                let mut queue = QueueFigures::from(spool.stats());
                // The status is shown also where the index can't be read; its error stands in the figures.
                let oldest = spool.list(Filter::default(), 1).await.unwrap_or_default();
                queue.oldest = oldest.first().map(|row| row.accepted);
                Some(queue)
            }
            Err(_) => None,
        };
        Response::Status(Box::new(StatusReport {
            starting,
            locked,
            facts: self.appliance.facts(),
            settings_revision: self.appliance.settings().1,
            keys: self.appliance.keys(),
            queue,
        }))
    }

    async fn list(&self, filter: Filter, limit: usize) -> Result<Response, Refusal> {
        let spool = self.appliance.opened()?.spool;
        // One more than is shown tells whether there are more.
        let mut rows = spool.list(filter, limit + 1).await?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        Ok(Response::Queue(QueueReport { rows: rows.into_iter().map(Into::into).collect(), more }))
    }

    async fn life(&self, id: MessageId) -> Result<Response, Refusal> {
        let Opened { spool, ledger } = self.appliance.opened()?;
        let life = spool.life(id).await?;
        let audit = blocking(move || ledger.about(&id.to_string(), MOST_RECORDS)).await?;
        let life = match life {
            Some(life) => MessageLife::new(id, life, audit),
            None if audit.is_empty() => return Err(unknown(id)),
            None => MessageLife::forgotten(id, audit),
        };
        Ok(Response::Message(Box::new(life)))
    }

    /// Makes a message due, and lets its destinations be tried even where they are paused after failures.
    async fn try_again(&self, spool: Spool, id: MessageId) -> Result<(), OperateError> {
        let rows = spool.list(Filter { message: Some(id), ..Filter::default() }, MOST_ROWS).await?;
        for row in &rows {
            self.appliance.resume(&row.group.destination);
        }
        spool.retry(id).await
    }

    /// An act on one message.
    async fn act_on(
        &self,
        actor: &str,
        action: &str,
        id: MessageId,
        detail: Value,
        work: impl Future<Output = Result<(), OperateError>> + Send,
    ) -> Result<Response, Refusal> {
        let done = Response::Acted { id, action: action.to_owned() };
        let work = async { work.await.map(|()| done).map_err(Refusal::from) };
        self.act(actor, action, &id.to_string(), detail, work).await
    }

    async fn verify(&self) -> Result<Response, Refusal> {
        let Opened { spool, ledger } = self.appliance.opened()?;
        let ledger = blocking(move || ledger.verify()).await?;
        let index: Vec<_> = spool.verify_index().await?.into_iter().map(Into::into).collect();
        let set_aside = tokio::task::spawn_blocking(move || spool.set_aside()).await.map_err(stopped)?;
        let set_aside: Vec<_> = set_aside
            .map_err(|error| {
                Refusal::new(Fault::Failed, format!("what was set aside can't be read: {error}"), "check the data disk")
            })?
            .into_iter()
            // What a power cut tore before anyone was told of it is no loss.
            .filter(|found| found.acknowledged)
            .map(Into::into)
            .collect();
        let good = ledger.tampering.is_none() && index.is_empty() && set_aside.is_empty();
        Ok(Response::Audit(AuditReport { good, ledger, index, set_aside }))
    }

    async fn show_settings(&self) -> Result<Response, Refusal> {
        let ledger = self.appliance.ledger()?;
        let (settings, revision) = self.appliance.settings();
        if revision == 0 && !self.appliance.facts().set_up {
            return Err(Closed::NotSetUp.into());
        }
        let recorded = blocking(move || ledger.revision(revision)).await?.map(|revision| revision.info);
        Ok(Response::Settings(SettingsReport { revision, recorded, toml: settings.without_secrets().to_toml() }))
    }

    async fn admit(&self, in_force: &Settings, settings: &Settings) -> Result<(), Refusal> {
        passwords(settings)?;
        if !in_force.operators.is_empty() && settings.operators.is_empty() {
            return Err(Refusal::new(
                Fault::Refused,
                "these settings have no operator any more: whoever stands before the box could set it up anew",
                "leave at least one administrator in them",
            ));
        }
        self.appliance.admit(settings).await
    }

    async fn apply(&self, actor: &str, text: String) -> Result<Response, Refusal> {
        let ledger = self.appliance.ledger()?;
        let _one_at_a_time = self.applying.lock().await;
        self.record_pending().await?;
        let (in_force, revision) = self.appliance.settings();
        // What was shown without its passwords may be given back so.
        let text = settings::with_passwords_of(&in_force, text);
        let admitted = match settings::parse(&text) {
            Ok(settings) => self.admit(&in_force, &settings).await.map(|()| settings),
            Err(problems) => Err(Refusal::settings(problems)),
        };
        let settings = match admitted {
            Ok(settings) => settings,
            Err(refusal) => {
                let detail = json!({ "what": refusal.what });
                record(&ledger, actor, "settings.apply.refused", "", detail).await?;
                return Err(refusal);
            }
        };
        // The first settings differ from nothing.
        let changes = if self.appliance.facts().set_up { settings::diff(&in_force, &settings) } else { Vec::new() };
        let current = {
            let ledger = ledger.clone();
            blocking(move || ledger.revision(revision)).await?
        };
        if current.is_some_and(|current| current.toml == text) {
            return Ok(Response::Applied(AppliedReport { revision, recorded: false, changes, after_restart: vec![] }));
        }
        let info = {
            let (ledger, author, changes) = (ledger.clone(), actor.to_owned(), json!(changes));
            blocking(move || ledger.commit_revision(&author, &text, &changes)).await?
        };
        let adopted = match self.appliance.adopt(settings, info.n).await {
            Ok(adopted) => adopted,
            Err(refusal) => {
                let (subject, detail) = (format!("revision {}", info.n), json!({ "what": refusal.what }));
                record(&ledger, actor, "settings.adopt.refused", &subject, detail).await?;
                return Err(refusal);
            }
        };
        Ok(Response::Applied(AppliedReport {
            revision: info.n,
            recorded: true,
            changes,
            after_restart: adopted.after_restart,
        }))
    }
}

/// The recorded text must say it all: who is new has a password of his own.
fn passwords(settings: &Settings) -> Result<(), Refusal> {
    match settings.operators.iter().find(|operator| operator.password.is_none()) {
        None => Ok(()),
        Some(operator) => Err(Refusal::new(
            Fault::Refused,
            format!("operator {} is new and has no password", operator.name),
            "give the Argon2id hash of a password; \"unchanged\" stands for one that is in force",
        )),
    }
}

/// A reason for a hold, as one line.
fn reason(why: String) -> Result<String, Refusal> {
    if why.trim().is_empty() || why.len() > LONGEST_REASON || why.chars().any(char::is_control) {
        Err(Refusal::new(
            Fault::BadRequest,
            "the reason is empty, too long, or has control characters",
            format!("write one line of at most {LONGEST_REASON} bytes"),
        ))
    } else {
        Ok(why)
    }
}

fn unknown(id: MessageId) -> Refusal {
    Refusal::new(
        Fault::NotFound,
        format!("there is no message {id} in the queue"),
        "`postern queue list` shows what is there; `postern message show ID` also what is done",
    )
}

/// Runs what waits for the disk off the runtime's workers.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, Refusal> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(stopped)??)
}

pub(crate) fn stopped(error: tokio::task::JoinError) -> Refusal {
    Refusal::new(
        Fault::Failed,
        format!("the request was broken off: {error}"),
        "look at the daemon's log and try again",
    )
}

impl From<LedgerError> for Refusal {
    fn from(error: LedgerError) -> Self {
        Self::of(Fault::Failed, &error)
    }
}

impl From<IndexError> for Refusal {
    fn from(error: IndexError) -> Self {
        Self::of(Fault::Failed, &error)
    }
}

impl From<OperateError> for Refusal {
    fn from(error: OperateError) -> Self {
        let fault = match error {
            OperateError::Unknown(_) => Fault::NotFound,
            OperateError::Busy(_) | OperateError::Nothing(_) | OperateError::Confidential(_) => Fault::Refused,
            OperateError::Disk(_) | OperateError::Index(_) | OperateError::Closed => Fault::Failed,
        };
        Self::of(fault, &error)
    }
}
