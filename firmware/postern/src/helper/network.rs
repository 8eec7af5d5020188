//! The box's own address.
//!
//! Job: render an addressing for systemd-networkd and make it hold, now and at every start. Place: `prepare` early in the
//! boot, and asked for by the daemon when settings are taken into force. Invariants: a file is written whole or not at
//! all; what is rendered comes from addresses and names only, checked again. A crash leaves the rendered file of before or
//! of after, and the plain area decides at the next start.
//!
//! One file serves every Ethernet port: networkd configures a port only while it has a carrier, so the box has its
//! address on the port that the cable is in.

use super::{HelperError, files::replace, place::Place, program::Program, protocol::ErrorKind};
use crate::plain::area;
use settings::{Addressing, OwnAddress};
use std::fmt::Write as _;

/// Read by networkd before the files of /usr.
const FILE: &str = "/run/systemd/network/10-postern.network";

/// Keeps `network` for every start, then takes it into force.
pub fn apply(network: Addressing, place: &Place) -> Result<(), HelperError> {
    network.check().map_err(|error| HelperError::new(ErrorKind::Refused, error.what, error.remedy))?;
    area::change(place, |plain| plain.network = Some(network.clone()))?;
    write(Some(&network), place)?;
    Program::new("networkctl", &["reload"]).succeed(place).map(drop)
}

/// Writes networkd's file for `network`; DHCP where none is known, so that a new box can be reached to be set up.
pub fn write(network: Option<&Addressing>, place: &Place) -> Result<(), HelperError> {
    let path = place.at(FILE);
    replace(&path, render(network).as_bytes()).map_err(|error| {
        HelperError::failed(
            format!("{} can't be written: {error}", path.display()),
            "restart the box; install the image again if it comes back",
        )
    })
}

/// systemd.network(5).
fn render(network: Option<&Addressing>) -> String {
    let mut out = String::from(
        "# Rendered by `postern helper`; `postern network show` says where from.\n\
         [Match]\n\
         # Ports only: nothing that is made of other links.\n\
         Type=ether\n\
         Kind=!*\n\
         \n\
         [Network]\n",
    );
    // Writing to a String can't fail.
    let _ = body(&mut out, network);
    out
}

fn body(out: &mut String, network: Option<&Addressing>) -> std::fmt::Result {
    match network.map(|network| network.address) {
        None | Some(OwnAddress::Dhcp) => writeln!(out, "DHCP=yes\nIPv6AcceptRA=yes")?,
        Some(OwnAddress::Static { address, prefix }) => {
            writeln!(out, "DHCP=no\nIPv6AcceptRA=no\nAddress={address}/{prefix}")?;
        }
    }
    // No name or service is announced to the neighbours.
    writeln!(out, "LLMNR=no\nMulticastDNS=no\nLLDP=no\nEmitLLDP=no")?;
    let Some(network) = network else { return Ok(()) };
    if let Some(gateway) = network.gateway {
        writeln!(out, "Gateway={gateway}")?;
    }
    network.dns.iter().try_for_each(|server| writeln!(out, "DNS={server}"))?;
    network.ntp.iter().try_for_each(|server| writeln!(out, "NTP={server}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn of(text: &str) -> Addressing {
        serde_json::from_str(text).unwrap()
    }

    fn lines(network: Option<&Addressing>) -> Vec<String> {
        let rendered = render(network);
        let section = rendered.split_once("[Network]\n").unwrap().1;
        section.lines().map(ToOwned::to_owned).filter(|line| !line.starts_with(['L', 'M', 'E'])).collect()
    }

    #[test]
    fn a_fixed_address_is_rendered_with_its_servers_and_nothing_automatic() {
        let network = of(
            r#"{"address":"192.0.2.10/24","gateway":"192.0.2.1","dns":["192.0.2.53","2001:db8::53"],"ntp":["time.example.org","192.0.2.123"]}"#,
        );
        assert_eq!(
            lines(Some(&network)),
            [
                "DHCP=no",
                "IPv6AcceptRA=no",
                "Address=192.0.2.10/24",
                "Gateway=192.0.2.1",
                "DNS=192.0.2.53",
                "DNS=2001:db8::53",
                "NTP=time.example.org",
                "NTP=192.0.2.123",
            ]
        );
    }

    #[test]
    fn a_new_box_asks_for_an_address() {
        assert_eq!(lines(None), ["DHCP=yes", "IPv6AcceptRA=yes"]);
        let network = of(r#"{"address":"dhcp","gateway":null,"dns":["192.0.2.53"],"ntp":[]}"#);
        assert_eq!(lines(Some(&network)), ["DHCP=yes", "IPv6AcceptRA=yes", "DNS=192.0.2.53"]);
    }

    #[test]
    fn values_that_do_not_fit_are_refused_before_anything_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let network = of(r#"{"address":"192.0.2.10/24","gateway":"198.51.100.1","dns":[],"ntp":[]}"#);
        assert_eq!(apply(network, &Place::new(root.path())).unwrap_err().kind, ErrorKind::Refused);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
