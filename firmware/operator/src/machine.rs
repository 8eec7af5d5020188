//! The machine below the appliance: its addresses, clock and power.
//!
//! Job: the words for what an operator asks of the box itself, and the recording of it. Place: beside the other requests;
//! the daemon hands them to root's helper. Invariants: none of them carries more than an enumerated word or a time; the
//! clock is not set unrecorded; power and reset are had also where the ledger can't be written, and the answer says so. A
//! crash leaves a record of something that was asked for and perhaps not done.

use crate::{Appliance, Closed, Operator, Refusal, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use settings::Addressing;
use std::net::IpAddr;

/// What may be asked of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MachineAct {
    /// Start anew.
    Reboot,
    /// Switch off.
    PowerOff,
    /// Set the clock.
    SetTime {
        /// To this moment.
        at: Timestamp,
    },
    /// Make the box as new: all mail, keys and settings destroyed; then start anew.
    FactoryReset,
}

impl MachineAct {
    /// Its name in the audit chain.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Reboot => "power.reboot",
            Self::PowerOff => "power.off",
            Self::SetTime { .. } => "time.set",
            Self::FactoryReset => "factory_reset",
        }
    }
}

/// The box's own network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkReport {
    /// `[network]` of the settings in force; `None`: it is left as it is.
    pub configured: Option<Addressing>,
    /// The addresses that the box has at present.
    pub addresses: Vec<IpAddr>,
}

impl<A: Appliance> Operator<A> {
    /// Power and reset are had without keys and with a broken disk too, by whoever could pull the plug. Then the log is the
    /// only record.
    pub(crate) async fn act_on_machine(&self, actor: &str, act: MachineAct) -> Result<Response, Refusal> {
        let (name, detail) = match &act {
            MachineAct::SetTime { at } => (act.name(), json!({ "at": at })),
            _ => (act.name(), json!({})),
        };
        log::warn!("{actor} asks for {name}");
        if let MachineAct::SetTime { .. } = act {
            let done = Response::Machine { act: act.clone(), unrecorded: None };
            let work = async { self.appliance.act_on_machine(act).await.map(|()| done) };
            return match self.appliance.ledger() {
                Ok(_) => self.act(actor, name, "", detail, work).await,
                Err(Closed::Starting | Closed::Locked(_) | Closed::NotSetUp) => work.await,
            };
        }
        let unrecorded = self.try_to_record(actor, name, "", detail).await;
        match self.appliance.act_on_machine(act.clone()).await {
            Ok(()) => Ok(Response::Machine { act, unrecorded }),
            Err(refusal) => {
                let detail = json!({ "what": refusal.what });
                // Told in the log, where the ledger can't take it.
                let _ = self.try_to_record(actor, &format!("{name}.refused"), "", detail).await;
                Err(refusal)
            }
        }
    }
}
