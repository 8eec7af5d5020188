//! Probes: messages of the health check's own on the way of all messages.
//!
//! Job: tell a probe from mail, give it parts of its own, and deliver it to nobody. Place: beside the pipeline, which asks
//! here once on the way in and once on the way out. Invariants: a probe is what the check under way has named by a random
//! sender, so nobody else can make one; its verdict comes from a fixed policy with the real detectors and workers, so no
//! rule of the organisation can hold or refuse it; its destination is [`Destination::probe`], which has no next hop; it
//! is settled whatever became of it, and counts as no mail. A crash leaves a probe in the queue, which the next start
//! settles unsent.

use crate::{live::Parts, pipeline::Pipeline};
use delivery::{ProbeError, Relay, SetupError};
use mail::{
    Action, Content, Destination, EnhancedCode, Envelope, Outcome, PROBE_DOMAIN, RecipientOutcome, Reply, Verdict,
};
use policy::{Policy, PolicyError};
use settings::{Conditions, Detect, HostPort, RelayTls, Rule};
use spool::{Claim, Planned, Settlement};
use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::mpsc;

/// The detector whose finding must be in the text, judged by the daemon itself.
pub const IN_TEXT: &str = "credit_card";
/// The one whose finding must be in the attachment, judged by a worker.
pub const IN_ATTACHMENT: &str = "iban";

/// Which of a check's two messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Nothing in it: to the relay client.
    Ordinary,
    /// Planted numbers in it: to the cloud client.
    Confidential,
}

impl Kind {
    /// The local part of its recipient.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ordinary => "ordinary",
            Self::Confidential => "confidential",
        }
    }
}

/// What became of a probe behind the queue.
#[derive(Debug)]
pub struct Ended {
    /// Which.
    pub kind: Kind,
    /// What its way out gave.
    pub sent: Result<(), Fault>,
    /// Whether the spool has let it go.
    pub settled: Result<(), String>,
}

/// Why a probe did not come through its way out.
#[derive(Debug)]
pub enum Fault {
    /// The spool does not give it back.
    Unreadable(String),
    /// The relay client's last word.
    Relay(String),
    /// The cloud client's.
    Cloud(ProbeError),
}

/// Why a check can't begin.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The fixed policy.
    #[error("the detectors can't be made ({}); report this", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Policy(Vec<PolicyError>),
    /// The relay client.
    #[error(transparent)]
    Relay(#[from] SetupError),
    /// No randomness.
    #[error("the system gives no randomness ({0}); restart the box")]
    Randomness(io::Error),
}

/// One check's probes.
pub struct Run {
    token: String,
    /// What its messages are judged and relayed with: all of the settings in force, but for policy and next hop.
    pub parts: Arc<Parts>,
    from: Mutex<Vec<SocketAddr>>,
    judged: Mutex<HashMap<Kind, (Verdict, bool)>>,
    ended: mpsc::UnboundedSender<Ended>,
}

/// The check under way, if there is one.
#[derive(Default)]
pub struct Probes(Mutex<Option<Arc<Run>>>);

/// Ends the check when dropped: what is still queued of it is settled unsent.
pub struct Under<'a>(&'a Probes);

impl Drop for Under<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

impl Probes {
    /// Makes `run` the check under way.
    pub fn begin(&self, run: Arc<Run>) -> Under<'_> {
        *self.lock() = Some(run);
        Under(self)
    }

    /// The check that this message belongs to, if it is a probe.
    #[must_use]
    pub fn of(&self, envelope: &Envelope) -> Option<(Arc<Run>, Kind)> {
        let run = self.lock().clone()?;
        let sender = envelope.sender.address()?;
        let [recipient] = envelope.recipients.as_slice() else { return None };
        let ours =
            sender.local() == run.token && [sender, recipient].iter().all(|a| a.domain().as_str() == PROBE_DOMAIN);
        let kind = [Kind::Ordinary, Kind::Confidential].into_iter().find(|kind| kind.name() == recipient.local())?;
        ours.then_some((run, kind))
    }

    /// Whether the check under way connects from here.
    #[must_use]
    pub fn connects_from(&self, from: SocketAddr) -> bool {
        self.lock().as_ref().is_some_and(|run| run.lock_from().contains(&from))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Run>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Run {
    /// A check that relays to `sink`, and what will be told of its messages.
    ///
    /// # Errors
    /// See [`RunError`].
    pub fn new(live: &Parts, sink: SocketAddr) -> Result<(Arc<Self>, mpsc::UnboundedReceiver<Ended>), RunError> {
        let mut settings = settings::Settings::clone(&live.settings);
        settings.relay.smarthost = HostPort { host: sink.ip().to_string(), port: sink.port() };
        (settings.relay.tls, settings.relay.ca) = (RelayTls::None, None);
        settings.internal = Vec::new();
        settings.policy = policy();
        let parts = Parts {
            policy: Policy::compile(&settings.policy, &[]).map_err(RunError::Policy)?,
            routes: delivery::Routes::new(&settings),
            relay: Relay::new(&settings)?,
            cloud: live.cloud.clone(),
            retry: delivery::Retry::new(settings.retry.clone()),
            revision: live.revision,
            settings: Arc::new(settings),
        };
        let mut random = [0u8; 16];
        aws_lc_rs::rand::fill(&mut random).map_err(|error| RunError::Randomness(io::Error::other(error)))?;
        let token = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let (ended, told) = mpsc::unbounded_channel();
        let run = Self { token, parts: Arc::new(parts), from: Mutex::default(), judged: Mutex::default(), ended };
        Ok((Arc::new(run), told))
    }

    /// The sender that makes a message one of this check.
    #[must_use]
    pub fn sender(&self) -> String {
        format!("{}@{PROBE_DOMAIN}", self.token)
    }

    /// The check is about to connect from here.
    pub fn will_connect_from(&self, from: SocketAddr) {
        self.lock_from().push(from);
    }

    /// What judging gave, and whether the routes make of it what they must.
    #[must_use]
    pub fn judged(&self, kind: Kind) -> Option<(Verdict, bool)> {
        self.lock_judged().get(&kind).cloned()
    }

    /// Where a judged probe goes: to nobody, whatever the verdict says; what the verdict says is noted.
    pub fn plan(&self, kind: Kind, envelope: &Envelope, verdict: &Verdict) -> Vec<Planned> {
        let wanted = match kind {
            Kind::Ordinary => (Action::Relay, Destination::Smarthost),
            Kind::Confidential => (Action::Secure, Destination::Cloud),
        };
        let plan = self.parts.routes.plan(envelope, verdict);
        let routed = plan.len() == 1 && plan.iter().all(|g| g.held.is_none() && g.destination == wanted.1);
        self.lock_judged().insert(kind, (verdict.clone(), routed && verdict.strongest() == wanted.0));
        vec![Planned { destination: Destination::probe(), recipients: vec![0], held: None }]
    }

    fn lock_from(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        self.from.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_judged(&self) -> MutexGuard<'_, HashMap<Kind, (Verdict, bool)>> {
        self.judged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, kind: Kind, claim: &Claim) -> Result<(), Fault> {
        let unreadable = |error: io::Error| Fault::Unreadable(error.to_string());
        let envelope = &claim.acceptance().envelope;
        let content = claim.open().map_err(unreadable)?;
        match kind {
            Kind::Ordinary => {
                let outcomes =
                    self.parts.relay.deliver(&Destination::Smarthost, envelope, claim.recipients(), content).await;
                match outcomes.into_iter().next().map(|outcome| outcome.outcome) {
                    Some(Outcome::Delivered(_)) => Ok(()),
                    Some(Outcome::Deferred(reply) | Outcome::Failed(reply)) => Err(Fault::Relay(reply.to_string())),
                    None => Err(Fault::Relay("no outcome".to_owned())),
                }
            }
            Kind::Confidential => {
                let read = tokio::task::spawn_blocking(move || read_to_end(content)).await;
                read.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(unreadable)?;
                self.parts.cloud.probe(envelope.id).await.map_err(Fault::Cloud)
            }
        }
    }
}

/// The way out of a probe: claim → relay client | cloud client → settle.
pub async fn deliver(pipeline: &Pipeline, claim: Claim) {
    let (id, found) = (claim.message(), pipeline.probes.of(&claim.acceptance().envelope));
    let sent = match &found {
        Some((run, kind)) => run.send(*kind, &claim).await,
        None => Ok(()),
    };
    let gone = Outcome::Delivered(Reply::new(250, EnhancedCode(2, 0, 0), "a health probe, sent to nobody"));
    let outcomes = claim.recipients().iter().map(|&recipient| RecipientOutcome { recipient, outcome: gone.clone() });
    let settlement = Settlement { outcomes: outcomes.collect(), retry_at: None };
    let settled = pipeline.spool.settle(claim, settlement).await.map_err(|error| error.to_string());
    log::debug!(event = "probe", id:%, left_over = found.is_none(), sent:?, settled:?; "a health probe has ended");
    if let Some((run, kind)) = found {
        // A check that no longer waits has said so already.
        let _ = run.ended.send(Ended { kind, sent, settled });
    }
}

fn read_to_end(mut content: Box<dyn Content>) -> io::Result<()> {
    while content.next_chunk()?.is_some() {}
    Ok(())
}

/// What probes are judged by.
fn policy() -> settings::Policy {
    let rule = |detector: &str| Rule {
        name: format!("probe {detector}"),
        when: Conditions {
            detect: vec![Detect { detector: detector.to_owned(), at_least: 1, score: 0.5 }],
            ..Conditions::default()
        },
        action: Some(Action::Secure),
        text: None,
        tag: None,
    };
    settings::Policy { rules: vec![rule(IN_TEXT), rule(IN_ATTACHMENT)], ..settings::Policy::default() }
}
