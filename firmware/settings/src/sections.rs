//! Every section but the policy.
//!
//! Job: read `[host]`, `[intake]`, `[relay]`, `[[internal]]`, `[cloud]`, `[retry]` and `[spool]` with their defaults
//! and bounds. Place: called once by `parse`. Invariants: every bound has its reason beside it. A crash leaves nothing
//! behind.

use crate::{
    Cloud, Host, HostPort, Intake, InternalRoute, Network, Relay, RelayTls, Retry, Spool, TlsFiles, check,
    problem::{Place, Problems, halves},
    read::Section,
};
use mail::Domain;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

pub(crate) const MIB: u64 = 1024 * 1024;
const TLS_WORDS: [(&str, RelayTls); 3] =
    [("none", RelayTls::None), ("opportunistic", RelayTls::Opportunistic), ("verified", RelayTls::Verified)];

pub(crate) fn host(root: &mut Section<'_>, problems: &mut Problems<'_>) -> Option<Host> {
    let item = root.required("host", problems, "[host] and name = \"postern.example.org\"")?;
    let mut section = item.section(problems);
    let name = section
        .required("name", problems, "name = \"postern.example.org\"")
        .and_then(|item| item.text(problems, check::host_name));
    section.finish(problems);
    name.map(|name| Host { name })
}

pub(crate) fn intake(root: &mut Section<'_>, problems: &mut Problems<'_>) -> Option<Intake> {
    let item = root.required("intake", problems, "[intake] and networks = [\"192.0.2.10\"]")?;
    let mut section = item.section(problems);
    let listen = match section.item("listen") {
        Some(item) => unique(item.texts(problems, check::listener), problems),
        None => vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, 25))],
    };
    let networks: Option<Vec<Network>> = section
        .required("networks", problems, "networks = [\"192.0.2.10\"], the addresses of your mail servers")
        .map(|item| item.texts(problems, check::network).into_iter().map(|(_, network)| network).collect());
    // The upper bound is what a judge can hold as one part in a worker's address space.
    let max_message = section.integer("max_message_mib", 1..=1024, 100, "MiB", problems);
    let max_recipients =
        section.integer("max_recipients", 100..=50_000, 1000, "RFC 5321 §4.5.3.1.8 demands at least 100", problems);
    // One session takes a socket and up to 64 KiB of buffers.
    let max_sessions = section.integer("max_sessions", 1..=10_000, 500, "", problems);
    let per_client = section.integer("max_sessions_per_client", 1..=10_000, 100, "", problems);
    let tls = section.item("tls").map(|item| item.section(problems)).and_then(|mut section| {
        let example = "certificate = \"/…/chain.pem\" and key = \"/…/key.pem\"";
        let certificate = section.required("certificate", problems, example).and_then(|item| item.file(problems));
        let key = section.required("key", problems, example).and_then(|item| item.file(problems));
        section.finish(problems);
        Some(TlsFiles { certificate: certificate?, key: key? })
    });
    section.finish(problems);
    Some(Intake {
        listen,
        networks: networks?,
        max_message_bytes: max_message * MIB,
        max_recipients: usize::try_from(max_recipients).ok()?,
        max_sessions: usize::try_from(max_sessions).ok()?,
        max_sessions_per_client: usize::try_from(per_client).ok()?,
        tls,
    })
}

/// Leaves out and reports what stands twice.
fn unique<T: PartialEq>(values: Vec<(Place, T)>, problems: &mut Problems<'_>) -> Vec<T> {
    let mut kept: Vec<(Place, T)> = Vec::new();
    for (place, value) in values {
        match kept.iter().find(|(_, other)| *other == value) {
            Some((first, _)) => {
                problems.add(&place, format!("the same stands in {}", first.path), "remove one of them")
            }
            None => kept.push((place, value)),
        }
    }
    kept.into_iter().map(|(_, value)| value).collect()
}

/// The parts of a settings text by which a next hop is recognised as ourselves.
pub(crate) struct Ourselves<'a> {
    pub host: Option<&'a Host>,
    pub intake: Option<&'a Intake>,
}

impl Ourselves<'_> {
    /// Refuses a server that would hand our mail back to us: each message would loop until its hop limit.
    fn refuse(&self, server: &HostPort, place: &Place, problems: &mut Problems<'_>) {
        let Some(intake) = self.intake else { return };
        let ip = server.host.parse::<IpAddr>().ok();
        let on_this_machine =
            server.host == "localhost" || ip.is_some_and(|ip| ip.is_loopback() || ip.is_unspecified());
        let ours = intake.listen.iter().any(|listen| {
            listen.port() == server.port
                && (ip == Some(listen.ip())
                    || on_this_machine && (listen.ip().is_unspecified() || listen.ip().is_loopback()))
        });
        let named = self.host.is_some_and(|host| host.name.as_str() == server.host)
            && intake.listen.iter().any(|listen| listen.port() == server.port);
        if ours || named {
            problems.add(
                place,
                format!("{}:{} is this appliance itself; mail would go in circles", server.host, server.port),
                "write the next mail server on the way, not this one",
            );
        }
    }
}

pub(crate) fn relay(root: &mut Section<'_>, ourselves: &Ourselves<'_>, problems: &mut Problems<'_>) -> Option<Relay> {
    let item = root.required("relay", problems, "[relay] and smarthost = \"mx.example.org:25\"")?;
    let mut section = item.section(problems);
    let smarthost = section.required("smarthost", problems, "smarthost = \"mx.example.org:25\"").and_then(|item| {
        let server = item.text(problems, check::host_port)?;
        ourselves.refuse(&server, &item.place, problems);
        Some(server)
    });
    let tls = section.item("tls").and_then(|item| item.choice(&TLS_WORDS, problems)).unwrap_or_default();
    let max_connections =
        section.integer("max_connections", 1..=200, 20, "next hops cut off whoever opens more", problems);
    let ca = section.roots("ca", problems);
    section.finish(problems);
    Some(Relay { smarthost: smarthost?, tls, max_connections: usize::try_from(max_connections).ok()?, ca })
}

pub(crate) fn internal(
    root: &mut Section<'_>,
    ourselves: &Ourselves<'_>,
    problems: &mut Problems<'_>,
) -> Vec<InternalRoute> {
    let mut routes = Vec::new();
    let mut seen: BTreeMap<Domain, String> = BTreeMap::new();
    let entries = root.item("internal").map(|item| item.entries(problems)).unwrap_or_default();
    for entry in entries {
        let mut section = entry.section(problems);
        let domain = section.required("domain", problems, "domain = \"example.org\"").and_then(|item| {
            let domain = item.text(problems, check::domain)?;
            if let Some(first) = seen.insert(domain.clone(), item.place.path.clone()) {
                problems.add(
                    &item.place,
                    format!("{domain} has a server already in {first}"),
                    "remove one of the two; a domain has one internal server",
                );
            }
            Some(domain)
        });
        let server = section.required("server", problems, "server = \"mail.example.org:25\"").and_then(|item| {
            let server = item.text(problems, check::host_port)?;
            ourselves.refuse(&server, &item.place, problems);
            Some(server)
        });
        let tls = section.item("tls").and_then(|item| item.choice(&TLS_WORDS, problems)).unwrap_or_default();
        section.finish(problems);
        if let (Some(domain), Some(server)) = (domain, server) {
            routes.push(InternalRoute { domain, server, tls });
        }
    }
    routes
}

pub(crate) fn cloud(root: &mut Section<'_>, problems: &mut Problems<'_>) -> Option<Cloud> {
    let mut section = root.item("cloud")?.section(problems);
    let url = section
        .required("url", problems, "url = \"https://cloud.example\"")
        .and_then(|item| item.text(problems, check::cloud_url));
    let ca = section.roots("ca", problems);
    let max_connections = section.integer("max_connections", 1..=64, 4, "each carries many uploads at once", problems);
    section.finish(problems);
    Some(Cloud { url: url?, ca, max_connections: usize::try_from(max_connections).ok()? })
}

pub(crate) fn retry(root: &mut Section<'_>, problems: &mut Problems<'_>) -> Retry {
    let mut section = root.section("retry", problems);
    let first = section.integer("first_seconds", 1..=3_600, 60, "seconds", problems);
    let longest_place = section.item("longest_seconds").map(|item| item.place);
    let longest = section.integer("longest_seconds", 1..=86_400, 3_600.max(first), "seconds", problems);
    // RFC 5321 §4.5.4.1 asks for four to five days; a month is more than any sender remembers.
    let give_up = section.integer("give_up_hours", 1..=720, 120, "hours", problems);
    if let Some(place) = longest_place.filter(|_| longest < first) {
        problems.add(
            &place,
            format!("the longest wait ({longest} s) is shorter than the first ({first} s)"),
            format!("write {first} or more"),
        );
    }
    section.finish(problems);
    Retry {
        first: Duration::from_secs(first),
        longest: Duration::from_secs(longest),
        give_up: Duration::from_secs(give_up * 3_600),
    }
}

pub(crate) fn spool(root: &mut Section<'_>, problems: &mut Problems<'_>) -> Spool {
    let mut section = root.section("spool", problems);
    let memory = section.integer("memory_mib", 8..=65_536, 64, "MiB", problems);
    // Settling must never fail for want of room: the outcomes of a full queue, and the index growing with them.
    let reserve =
        section.integer("reserve_mib", 16..=65_536, 64, "MiB; below 16 a full queue could not be settled", problems);
    let segment = section.integer("segment_mib", 1..=1_024, 64, "MiB", problems);
    section.finish(problems);
    Spool { memory_bytes: memory * MIB, reserve_bytes: reserve * MIB, segment_bytes: segment * MIB }
}

/// A problem with the text as a whole.
pub(crate) fn too_large(bytes: usize, limit: usize) -> (String, String) {
    halves(
        format!("the text has {bytes} bytes; settings have at most {limit}"),
        "check that this is the settings file; move long word lists to patterns",
    )
}
