//! The box's own address: `[network]`.
//!
//! Job: types that hold nothing but addresses and names, and the check that they fit together. Place: read by `parse`,
//! carried to whoever sets the network up, who checks again. Invariants: each text form is parsed into its type, so no
//! line end and no other directive can hide in a value; an address is one that a host can have. A crash leaves nothing
//! behind.

use crate::{
    check::{self, quoted},
    problem::{Halves, Place, Problems, halves},
    read::Section,
};
use mail::Domain;
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr, str::FromStr};

/// resolv.conf and its readers use three; more only slow a failing lookup down.
pub const MOST_DNS: usize = 3;

/// Four are enough to outvote a wrong clock (RFC 8633 §3.2).
pub const MOST_NTP: usize = 4;

/// `[network]`: the box's own address and what it asks for names and time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Addressing {
    /// `address = "192.0.2.10/24"` or `"dhcp"`. Required.
    pub address: OwnAddress,
    /// `gateway`; none with DHCP, which brings its own.
    pub gateway: Option<IpAddr>,
    /// `dns`: resolvers, at most [`MOST_DNS`]; with DHCP beside those that it brings.
    pub dns: Vec<IpAddr>,
    /// `ntp`: time servers, at most [`MOST_NTP`]; with DHCP beside those that it brings.
    pub ntp: Vec<TimeServer>,
}

/// How the box comes to its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum OwnAddress {
    /// By DHCP or router advertisement.
    Dhcp,
    /// Fixed.
    Static {
        /// The address.
        address: IpAddr,
        /// Length of its network's prefix in bits.
        prefix: u8,
    },
}

/// A time server by address or name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TimeServer {
    /// By address.
    Address(IpAddr),
    /// By name, ASCII.
    Name(Domain),
}

/// A text is not what `[network]` takes: what happened, and what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {remedy}")]
pub struct AddressingError {
    /// What is wrong.
    pub what: String,
    /// What to write.
    pub remedy: String,
}

impl From<Halves> for AddressingError {
    fn from((what, remedy): Halves) -> Self {
        Self { what, remedy }
    }
}

impl FromStr for OwnAddress {
    type Err = AddressingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        own_address(text).map_err(Into::into)
    }
}

impl FromStr for TimeServer {
    type Err = AddressingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        time_server(text).map_err(Into::into)
    }
}

impl TryFrom<String> for OwnAddress {
    type Error = AddressingError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<String> for TimeServer {
    type Error = AddressingError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<OwnAddress> for String {
    fn from(address: OwnAddress) -> Self {
        address.to_string()
    }
}

impl From<TimeServer> for String {
    fn from(server: TimeServer) -> Self {
        server.to_string()
    }
}

impl fmt::Display for OwnAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dhcp => f.write_str("dhcp"),
            Self::Static { address, prefix } => write!(f, "{address}/{prefix}"),
        }
    }
}

impl fmt::Display for TimeServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Addressing {
    /// Whether the values fit together; each by itself is checked by its type.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<(), AddressingError> {
        // Values from a document were checked there; those from a socket or a disk are checked here.
        let address: OwnAddress = self.address.to_string().parse()?;
        if let Some(gateway) = self.gateway {
            fits(address, gateway)?;
        }
        if self.dns.len() > MOST_DNS || self.ntp.len() > MOST_NTP {
            return Err(too_many(MOST_DNS, MOST_NTP).into());
        }
        self.dns.iter().try_for_each(|server| host_address(*server))?;
        self.ntp.iter().try_for_each(|server| server.to_string().parse::<TimeServer>().map(drop))
    }
}

const ADDRESS_REMEDY: &str = "write for example \"192.0.2.10/24\", \"2001:db8::10/64\" or \"dhcp\"";

fn own_address(text: &str) -> Result<OwnAddress, Halves> {
    if text == "dhcp" {
        return Ok(OwnAddress::Dhcp);
    }
    let wrong = || halves(format!("{} is not an address with its prefix", quoted(text)), ADDRESS_REMEDY);
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
    let width: u8 = if address.is_ipv4() { 32 } else { 128 };
    if prefix == 0 || prefix > width {
        return Err(halves(format!("a prefix of {prefix} bits is no network's"), format!("write /1 to /{width}")));
    }
    host_address(address)?;
    if let IpAddr::V4(v4) = address
        && prefix < 31
    {
        let host_part = v4.to_bits() & (u32::MAX >> prefix);
        // RFC 1122 §3.2.1.3; of /31 both are hosts (RFC 3021).
        if host_part == 0 || host_part == u32::MAX >> prefix {
            return Err(halves(
                format!("{text} is the network's own or its broadcast address"),
                "write an address of the network that is the box's alone",
            ));
        }
    }
    Ok(OwnAddress::Static { address, prefix })
}

/// An address that a machine can have and be reached at.
fn host_address(address: IpAddr) -> Result<(), Halves> {
    let never = address.is_unspecified()
        || address.is_multicast()
        || address.is_loopback()
        || match address {
            IpAddr::V4(v4) => v4.is_broadcast(),
            IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some(),
        };
    if never {
        Err(halves(format!("{address} can't be a machine's address in a network"), "write a unicast address"))
    } else {
        Ok(())
    }
}

fn server_address(text: &str) -> Result<IpAddr, Halves> {
    let address: IpAddr = text.parse().map_err(|_| {
        halves(
            format!("{} is not an address", quoted(text)),
            "write for example \"192.0.2.1\"; names are not allowed here",
        )
    })?;
    host_address(address)?;
    Ok(address)
}

fn time_server(text: &str) -> Result<TimeServer, Halves> {
    match text.parse::<IpAddr>() {
        Ok(address) => host_address(address).map(|()| TimeServer::Address(address)),
        Err(_) if text.split('.').next_back().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) => {
            Err(halves(format!("{} is not an address", quoted(text)), "write an address or a host name"))
        }
        Err(_) => check::host_name(text).map(TimeServer::Name),
    }
}

/// Whether `gateway` can be reached from `address` without another gateway.
fn fits(address: OwnAddress, gateway: IpAddr) -> Result<(), Halves> {
    host_address(gateway)?;
    let OwnAddress::Static { address, prefix } = address else {
        return Err(halves("DHCP brings the gateway", "remove gateway, or write a fixed address"));
    };
    if gateway == address {
        return Err(halves(format!("{gateway} is the box itself"), "write the address of the next router"));
    }
    let link_local = matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let network = crate::Network { address, prefix };
    if gateway.is_ipv4() != address.is_ipv4() || !(link_local || network.contains(gateway)) {
        return Err(halves(
            format!("{gateway} is not in the network of {address}/{prefix}"),
            "write a router of the same network, or correct the address or its prefix",
        ));
    }
    Ok(())
}

fn too_many(dns: usize, ntp: usize) -> Halves {
    halves("there are more servers than are ever asked", format!("write at most {dns} in dns and {ntp} in ntp"))
}

pub(crate) fn network(root: &mut Section<'_>, problems: &mut Problems<'_>) -> Option<Addressing> {
    let mut section = root.item("network")?.section(problems);
    let address = section
        .required("address", problems, "address = \"192.0.2.10/24\" or \"dhcp\"")
        .and_then(|item| item.text(problems, own_address));
    let gateway = section.item("gateway").and_then(|item| {
        let gateway = item.text(problems, server_address)?;
        // Without an address there is nothing that it could fail to fit.
        let fits = address.map_or(Ok(()), |address| fits(address, gateway));
        problems.keep(&item.place, fits.map(|()| gateway))
    });
    let dns_item = section.item("dns");
    let dns = bounded(dns_item.as_ref().map(|item| item.place.clone()), MOST_DNS, problems, |problems| {
        dns_item.map(|item| item.texts(problems, server_address)).unwrap_or_default()
    });
    let ntp_item = section.item("ntp");
    let ntp = bounded(ntp_item.as_ref().map(|item| item.place.clone()), MOST_NTP, problems, |problems| {
        ntp_item.map(|item| item.texts(problems, time_server)).unwrap_or_default()
    });
    section.finish(problems);
    Some(Addressing { address: address?, gateway, dns, ntp })
}

fn bounded<'t, T>(
    place: Option<Place>,
    most: usize,
    problems: &mut Problems<'t>,
    read: impl FnOnce(&mut Problems<'t>) -> Vec<(Place, T)>,
) -> Vec<T> {
    let values = read(problems);
    if let Some(place) = place.filter(|_| values.len() > most) {
        problems.add(&place, format!("{} servers are more than are ever asked", values.len()), format!("keep {most}"));
    }
    values.into_iter().map(|(_, value)| value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_form_survives_its_text() {
        for text in ["dhcp", "192.0.2.10/24", "2001:db8::10/64", "192.0.2.0/31"] {
            assert_eq!(text.parse::<OwnAddress>().unwrap().to_string(), text);
        }
        for text in ["192.0.2.1", "2001:db8::1", "time.example.org"] {
            assert_eq!(text.parse::<TimeServer>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn nothing_but_addresses_and_names_gets_through() {
        for text in [
            "",
            "DHCP",
            "192.0.2.10",
            "192.0.2.10/",
            "192.0.2.10/+24",
            "192.0.2.10/33",
            "192.0.2.10/0",
            "192.0.2.0/24",
            "192.0.2.255/24",
            "192.0.2.10/24\nGateway=192.0.2.1",
            "0.0.0.0/24",
            "127.0.0.1/8",
            "224.0.0.1/24",
            "::ffff:192.0.2.1/120",
        ] {
            assert!(text.parse::<OwnAddress>().is_err(), "{text:?}");
        }
        for text in
            ["", "localhost", "[192.0.2.1]", "time.example.org\nDNS=192.0.2.66", "192.0.2.300", "zeit.example.ö"]
        {
            assert!(text.parse::<TimeServer>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn values_that_do_not_fit_together_are_refused_from_any_source() {
        let of = |text: &str| serde_json::from_str::<Addressing>(text).unwrap();
        let good =
            of(r#"{"address":"192.0.2.10/24","gateway":"192.0.2.1","dns":["192.0.2.53"],"ntp":["time.example.org"]}"#);
        assert_eq!(good.check(), Ok(()));
        let link_local = of(r#"{"address":"2001:db8::10/64","gateway":"fe80::1","dns":[],"ntp":[]}"#);
        assert_eq!(link_local.check(), Ok(()));
        for text in [
            r#"{"address":"192.0.2.10/24","gateway":"198.51.100.1","dns":[],"ntp":[]}"#,
            r#"{"address":"192.0.2.10/24","gateway":"192.0.2.10","dns":[],"ntp":[]}"#,
            r#"{"address":"dhcp","gateway":"192.0.2.1","dns":[],"ntp":[]}"#,
            r#"{"address":"dhcp","gateway":null,"dns":["0.0.0.0"],"ntp":[]}"#,
            r#"{"address":"dhcp","gateway":null,"dns":["192.0.2.1","192.0.2.2","192.0.2.3","192.0.2.4"],"ntp":[]}"#,
        ] {
            assert!(of(text).check().is_err(), "{text}");
        }
        assert!(
            serde_json::from_str::<Addressing>(r#"{"address":"dhcp","gateway":null,"dns":[],"ntp":[],"x":1}"#).is_err()
        );
    }
}
