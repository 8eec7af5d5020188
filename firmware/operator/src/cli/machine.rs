//! `postern network`, `power`, `set-time` and `factory-reset`.
//!
//! Job: the commands for the machine below the appliance. Place: a part of the command line. Invariants: what destroys
//! everything has to be said twice. A crash leaves nothing behind.

use super::{form::time, print::Facts};
use crate::{
    Fault, Refusal, Request,
    machine::{MachineAct, NetworkReport},
};
use clap::Subcommand;
use jiff::Timestamp;
use std::net::IpAddr;

/// What an operator may ask of the machine.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum MachineCommand {
    /// The box's own addresses
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Restart or switch off
    #[command(subcommand)]
    Power(PowerCommand),
    /// Set the clock, for example 2026-02-03T04:05:06Z; time servers, where they answer, correct it again
    SetTime {
        /// The time that it is
        at: Timestamp,
    },
    /// Make the box as new: all mail, keys and settings are destroyed, then it restarts
    FactoryReset {
        /// Said once more
        #[arg(long)]
        yes_erase_everything: bool,
    },
}

/// `postern network`
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum NetworkCommand {
    /// What is configured, and what the box has
    Show,
}

/// `postern power`
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum PowerCommand {
    /// Finish what is under way and restart
    Reboot,
    /// Finish what is under way and switch off
    Off,
}

pub(super) fn request(command: MachineCommand) -> Result<Request, Refusal> {
    Ok(match command {
        MachineCommand::Network(NetworkCommand::Show) => Request::NetworkShow,
        MachineCommand::Power(PowerCommand::Reboot) => Request::Machine(MachineAct::Reboot),
        MachineCommand::Power(PowerCommand::Off) => Request::Machine(MachineAct::PowerOff),
        MachineCommand::SetTime { at } => Request::Machine(MachineAct::SetTime { at }),
        MachineCommand::FactoryReset { yes_erase_everything: true } => Request::Machine(MachineAct::FactoryReset),
        MachineCommand::FactoryReset { yes_erase_everything: false } => {
            return Err(Refusal::new(
                Fault::Refused,
                "a factory reset destroys all mail, keys and settings of this box; nothing was done",
                "add --yes-erase-everything if that is meant",
            ));
        }
    })
}

/// Addresses in a line.
pub(super) fn addresses(addresses: &[IpAddr]) -> String {
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    if shown.is_empty() { "none; check the cable".to_owned() } else { shown.join(" ") }
}

/// The answer to `network show`.
pub(super) fn network(report: &NetworkReport) -> String {
    let mut facts = Facts::new(0);
    match &report.configured {
        None => facts.add("configured", "nothing; the network is left as it is"),
        Some(network) => {
            facts.add("configured", network.address.to_string());
            let words = |words: Vec<String>| if words.is_empty() { "none".to_owned() } else { words.join(" ") };
            facts.add("gateway", network.gateway.map_or("none".to_owned(), |gateway| gateway.to_string()));
            facts.add("resolvers", words(network.dns.iter().map(ToString::to_string).collect()));
            facts.add("time servers", words(network.ntp.iter().map(ToString::to_string).collect()));
        }
    }
    facts.add("addresses", addresses(&report.addresses));
    facts.lay_out()
}

/// What has been done, or has begun.
pub(super) fn done(act: &MachineAct) -> String {
    match act {
        MachineAct::Reboot => "the box restarts\n".to_owned(),
        MachineAct::PowerOff => "the box switches off\n".to_owned(),
        MachineAct::SetTime { at } => format!("the clock was set to {}\n", time(*at)),
        MachineAct::FactoryReset => "every key is destroyed; the box restarts as new\n".to_owned(),
    }
}
