//! The machine below the appliance: its addresses, clock and power.
//!
//! Job: the words for what an operator asks of the box itself, and the recording of it. Place: beside the other requests;
//! the daemon hands them to root's helper. Invariants: none of them carries more than an enumerated word or a time; with
//! keys nothing is done unrecorded. A crash leaves a record of something that was asked for and perhaps not done.

use crate::{Appliance, Operator, Refusal, Response};
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
    /// Power and reset are had without keys too, by whoever could pull the plug. Then the log is the only record.
    pub(crate) async fn act_on_machine(&self, actor: &str, act: MachineAct) -> Result<Response, Refusal> {
        let (name, detail) = match &act {
            MachineAct::SetTime { at } => (act.name(), json!({ "at": at })),
            _ => (act.name(), json!({})),
        };
        log::warn!("{actor} asks for {name}");
        let done = Response::Machine(act.clone());
        let work = async { self.appliance.act_on_machine(act).await.map(|()| done) };
        match self.appliance.ledger() {
            Ok(_) => self.act(actor, name, "", detail, work).await,
            Err(_) => work.await,
        }
    }
}
