//! What the daemon asks of root's helper.
//!
//! Job: network, power, clock and data partition, in the daemon's words. Place: beside the message's way; behind
//! operators' requests, settings and unlocking. Invariants: without a helper (the lab) nothing of the machine is touched;
//! what a helper refuses is told as it says it. A crash leaves what the helper says of each act.

use crate::{
    daemon::Daemon,
    helper::{Client, ErrorKind, HelperError, Passphrase, Request},
    plain::{Store, StoreError},
};
use operator::{Fault, Refusal, Secret, machine::MachineAct};
use settings::Settings;
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

impl From<HelperError> for Refusal {
    fn from(error: HelperError) -> Self {
        let fault = match error.kind {
            ErrorKind::Refused => Fault::Refused,
            ErrorKind::NotAllowed | ErrorKind::BadRequest | ErrorKind::Failed | ErrorKind::Unreachable => Fault::Failed,
        };
        Self::new(fault, error.what, error.remedy)
    }
}

impl Daemon {
    /// Root's helper.
    ///
    /// # Errors
    /// This machine has none.
    pub fn helper(&self) -> Result<&Client, Refusal> {
        self.helper.as_ref().ok_or_else(|| {
            Refusal::new(
                Fault::Refused,
                "this machine is not the appliance's own",
                "use the machine's own tools for it",
            )
        })
    }

    /// Where the plain area is.
    #[must_use]
    pub fn store(&self) -> Store {
        match &self.helper {
            Some(helper) => Store::Partition(helper.clone()),
            None => Store::Folder(self.arguments.data.clone()),
        }
    }

    /// Keeps what a locked start must know of `settings`, and has the box take its address where they give one.
    ///
    /// # Errors
    /// The plain area or the network would not.
    pub async fn keep_plain(&self, settings: &Settings) -> Result<(), StoreError> {
        let store = self.store();
        store.keep(settings).await?;
        let (Some(network), Some(helper)) = (&settings.network, &self.helper) else { return Ok(()) };
        // What is in force already is not taken into force again: a port would lose its address for a moment.
        if store.load().await?.and_then(|plain| plain.network).as_ref() != Some(network) {
            helper.call(Request::ApplyNetwork { network: network.clone() }).await?;
        }
        Ok(())
    }

    /// An operator's act on the machine.
    ///
    /// # Errors
    /// There is no helper, or it could not.
    pub async fn ask_machine(&self, act: MachineAct) -> Result<(), Refusal> {
        let helper = self.helper()?;
        let request = match act {
            MachineAct::Reboot => Request::Reboot,
            MachineAct::PowerOff => Request::PowerOff,
            MachineAct::SetTime { at } => Request::SetTime { at },
            MachineAct::FactoryReset => Request::FactoryReset { tpm_cleared: self.clear_tpm().await },
        };
        Ok(helper.call(request).await.map(drop)?)
    }

    /// Clears the TPM, so that no old image of the disk opens with it again. First of all in a reset: what is broken off
    /// behind it leaves a box that can be reset again.
    async fn clear_tpm(&self) -> bool {
        let Some(vault) = self.vault.vault() else { return false };
        match tokio::task::spawn_blocking(move || vault.clear_tpm()).await {
            Ok(Ok(())) => true,
            Ok(Err(fault)) => {
                log::error!(fault:%; "the TPM is not cleared; clear it in the firmware's setup");
                false
            }
            Err(error) => {
                log::error!(error:%; "clearing the TPM ended badly");
                false
            }
        }
    }

    /// Lets the recovery key open the data partition; nothing where there is none.
    ///
    /// # Errors
    /// It does not open the partition; whoever asks marks it as confirmed only after this.
    pub async fn enrol_for_data(&self, words: &Secret) -> Result<(), Refusal> {
        let Some(helper) = &self.helper else { return Ok(()) };
        let request = Request::EnrolDataRecovery { passphrase: passphrase(words)? };
        helper.call(request).await.map(drop).map_err(|error| {
            let what =
                format!("the recovery key is not confirmed: it does not open the data partition yet: {}", error.what);
            Refusal { what, ..Refusal::from(error) }
        })
    }
}

/// What opens the data partition, of the recovery key's words.
///
/// # Errors
/// They are no recovery key's.
pub fn passphrase(words: &Secret) -> Result<Passphrase, Refusal> {
    let digits = vault::data_passphrase(words.expose()).map_err(|error| Refusal::of(Fault::Refused, &error))?;
    Passphrase::new(digits).ok_or_else(|| {
        Refusal::new(Fault::Failed, "no passphrase could be made from these words", "restart the box and try again")
    })
}

/// Addresses of the box, without loopback and without those that reach no further than a cable. From the kernel's tables
/// of this process's network, for which the daemon's sandbox needs no further socket.
#[must_use]
pub fn addresses() -> Vec<IpAddr> {
    let table = |name: &str| fs::read_to_string(format!("/proc/self/net/{name}")).unwrap_or_default();
    let mut addresses: Vec<IpAddr> = v4_addresses(&table("fib_trie")).into_iter().map(IpAddr::V4).collect();
    addresses.extend(v6_addresses(&table("if_inet6")).into_iter().map(IpAddr::V6));
    addresses
}

/// `|-- 192.0.2.10` with `/32 host LOCAL` on the line behind it; each stands in up to two tables.
fn v4_addresses(trie: &str) -> Vec<Ipv4Addr> {
    let leaf = |line: &str| line.trim_start().strip_prefix("|-- ")?.trim().parse::<Ipv4Addr>().ok();
    let mut found = Vec::new();
    for (line, next) in trie.lines().zip(trie.lines().skip(1)) {
        if let Some(address) = leaf(line)
            && next.trim() == "/32 host LOCAL"
            && !address.is_loopback()
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// Address, index, prefix length, scope, flags and name, the first in 32 hexadecimal digits; scope 00 is global.
fn v6_addresses(table: &str) -> Vec<Ipv6Addr> {
    let global = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let address = u128::from_str_radix(fields.next()?, 16).ok()?;
        (fields.nth(2)? == "00").then(|| Ipv6Addr::from_bits(address))
    };
    table.lines().filter_map(global).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_found_in_the_kernels_tables() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
                    \x20    |-- 192.0.2.0\n        /24 link UNICAST\n        |-- 192.0.2.10\n           /32 host LOCAL\n\
                    \x20    |-- 192.0.2.255\n        /32 link BROADCAST\nLocal:\n        |-- 127.0.0.1\n           /32 host LOCAL\n\
                    \x20       |-- 192.0.2.10\n           /32 host LOCAL\n";
        assert_eq!(v4_addresses(trie), ["192.0.2.10".parse::<Ipv4Addr>().unwrap()]);
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fe800000000000005054fffffe123456 02 40 20 80     eno1\n\
                     20010db8000000000000000000000010 02 40 00 80     eno1\n";
        assert_eq!(v6_addresses(table), ["2001:db8::10".parse::<Ipv6Addr>().unwrap()]);
        for nonsense in ["", "|-- x\n/32 host LOCAL", "zz 01", "|-- 192.0.2.1"] {
            assert!(v4_addresses(nonsense).is_empty() && v6_addresses(nonsense).is_empty(), "{nonsense}");
        }
    }
}
