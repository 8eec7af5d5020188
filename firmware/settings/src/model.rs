//! What can be set, with units and defaults.

use crate::{Addressing, Operator};
use mail::{Action, Address, Domain};
use serde::Serialize;
use std::{net::IpAddr, net::SocketAddr, path::PathBuf, time::Duration};

/// The whole document.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// `[host]`
    pub host: Host,
    /// `[network]`; absent: the box's network is left as it is.
    pub network: Option<Addressing>,
    /// `[[operators]]`: who may sign in; none on a box that is operated by its own users only.
    pub operators: Vec<Operator>,
    /// `[intake]`
    pub intake: Intake,
    /// `[relay]`
    pub relay: Relay,
    /// `[[internal]]`: the organisation's own domains.
    pub internal: Vec<InternalRoute>,
    /// `[cloud]`; absent before enrolment is set up: confidential mail then waits.
    pub cloud: Option<Cloud>,
    /// `[retry]`
    pub retry: Retry,
    /// `[spool]`
    pub spool: Spool,
    /// `[policy]`
    pub policy: Policy,
}

/// `[host]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Host {
    /// `name`: fully qualified; in the greeting, EHLO and Received. Required.
    pub name: Domain,
}

/// `[intake]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Intake {
    /// `listen`: addresses of the SMTP listener. Default `["0.0.0.0:25"]`; sockets handed over by systemd win.
    pub listen: Vec<SocketAddr>,
    /// `networks`: who may hand in mail, for any domain. All others may write to `<postmaster>` only (RFC 5321 §4.5.1).
    pub networks: Vec<Network>,
    /// `max_message_mib`: SIZE, in MiB. Default 100.
    pub max_message_bytes: u64,
    /// `max_recipients` a message; never below 100 (RFC 5321 §4.5.3.1.8). Default 1000.
    pub max_recipients: usize,
    /// `max_sessions` at once. Default 500.
    pub max_sessions: usize,
    /// `max_sessions_per_client` at once from one address. Default 100.
    pub max_sessions_per_client: usize,
    /// `tls`: certificate and key for STARTTLS; absent: made and kept in the data folder.
    pub tls: Option<TlsFiles>,
}

/// An address block in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Network {
    /// First address of the block.
    pub address: IpAddr,
    /// Length of the prefix in bits.
    pub prefix: u8,
}

impl Network {
    /// Whether `ip` is in the block; an IPv4-mapped IPv6 address counts as its IPv4 address.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        fn same(a: u128, b: u128, width: u32, prefix: u8) -> bool {
            let shift = width - u32::from(prefix).min(width);
            shift == 128 || a >> shift == b >> shift
        }
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32, self.prefix),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128, self.prefix),
            _ => false,
        }
    }
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TlsFiles {
    /// `certificate`: chain, leaf first.
    pub certificate: PathBuf,
    /// `key`: PKCS #8.
    pub key: PathBuf,
}

/// Certificates that are believed, in PEM (RFC 7468): an appliance has no files of an operator's, so they may stand in
/// the settings themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Roots {
    /// The absolute path of a file.
    File(PathBuf),
    /// The certificates: a text that begins with `-----BEGIN CERTIFICATE-----`.
    Text(String),
}

/// A server by name or address, and its port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostPort {
    /// Host name or IP address (without brackets).
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// TLS towards a next hop (I10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RelayTls {
    /// Never.
    None,
    /// STARTTLS if offered, certificate unchecked (RFC 7435).
    #[default]
    Opportunistic,
    /// STARTTLS with a valid certificate for the host, or the mail waits.
    Verified,
}

/// `[relay]`: where ordinary mail goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Relay {
    /// `smarthost = "host:port"`. Required.
    pub smarthost: HostPort,
    /// `tls`. Default opportunistic.
    pub tls: RelayTls,
    /// `max_connections` to one destination. Default 20.
    pub max_connections: usize,
    /// `ca`: roots for `verified`; absent: the system's.
    pub ca: Option<Roots>,
}

/// `[[internal]]`: a domain of the organisation and its mail server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InternalRoute {
    /// `domain`; names below it are internal too.
    pub domain: Domain,
    /// `server = "host:port"`.
    pub server: HostPort,
    /// `tls`. Default opportunistic.
    pub tls: RelayTls,
}

/// `[cloud]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cloud {
    /// `url = "https://host:port"`, no path.
    pub url: String,
    /// `ca`: the service's CA; absent: the system's roots.
    pub ca: Option<Roots>,
    /// `max_connections`. Default 4.
    pub max_connections: usize,
}

/// `[retry]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Retry {
    /// `first_seconds`: wait after the first failure. Default 60 s; doubles each time.
    pub first: Duration,
    /// `longest_seconds`: upper bound of one wait. Default 3,600 s.
    pub longest: Duration,
    /// `give_up_hours`: age at which a deferral becomes a permanent failure. Default 120 h (RFC 5321 §4.5.4.1).
    pub give_up: Duration,
}

/// `[spool]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Spool {
    /// `memory_mib`: sealed bodies waiting in memory, all sessions together. Default 64 MiB.
    pub memory_bytes: u64,
    /// `reserve_mib`: room kept for settles and the index; below it 452 4.3.1. Default 64 MiB.
    pub reserve_bytes: u64,
    /// `segment_mib`: size of one segment file. Default 64 MiB.
    pub segment_bytes: u64,
}

/// `[policy]`
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Policy {
    /// `[[policy.pattern]]`
    pub patterns: Vec<Pattern>,
    /// `[[policy.rule]]` in order.
    pub rules: Vec<Rule>,
    /// `undecidable`: what happens to content that cannot be read in a format that has a reader. Default secure.
    pub undecidable: Undecidable,
}

/// Fail-closed choices only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Undecidable {
    /// To the cloud.
    #[default]
    Secure,
    /// Waits for an operator.
    Hold,
    /// 550.
    Reject,
}

/// A detector of the organisation's own.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pattern {
    /// `name`, as rules refer to it; lower-case letters, digits, `_`; no built-in detector's name.
    pub name: String,
    /// `regex`, syntax of the `regex` crate (linear time); compiled when the settings are checked.
    pub regex: String,
    /// `context`: words near a match that raise its score.
    pub context: Vec<String>,
    /// `score` without context, 0–1. Default 0.5.
    pub score: f32,
}

/// `[[policy.rule]]`: all conditions that are given must hold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rule {
    /// `name`, unique.
    pub name: String,
    /// `when`
    pub when: Conditions,
    /// `action`; may be absent where `tag` is given.
    pub action: Option<Action>,
    /// `text` of the 550 for `reject`.
    pub text: Option<String>,
    /// `tag = { header = "X-…", value = "…" }`
    pub tag: Option<TagAction>,
}

/// `tag`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TagAction {
    /// Field name.
    pub header: String,
    /// Field body.
    pub value: String,
}

/// `when`: within one list any entry may hold; between fields all must. Text is compared without case.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Conditions {
    /// `sender`: addresses, `@domain`, or `*` for anyone but `<>`.
    pub sender: Vec<AddressPattern>,
    /// `recipient`: binds only the recipients that match.
    pub recipient: Vec<AddressPattern>,
    /// `external`: true binds only recipients outside `[[internal]]` domains, false only those inside.
    pub external: Option<bool>,
    /// `header = { name = "X", contains = "y" }`; several must all hold.
    pub header: Vec<HeaderCondition>,
    /// `subject_tag`: the decoded subject contains one of these, for example `[secure]`.
    pub subject_tag: Vec<String>,
    /// `sensitivity`: the Sensitivity field (RFC 4021, `Personal`, `Private`, `Company-Confidential`) is one of these.
    pub sensitivity: Vec<String>,
    /// `larger_than_mib`.
    pub larger_than_bytes: Option<u64>,
    /// `attachment_name`: globs with `*` and `?`.
    pub attachment_name: Vec<String>,
    /// `attachment_type`: sniffed types, `pdf`, `zip`, `docx`, `xlsx`, `exe`, …, or `image/*`-like MIME globs.
    pub attachment_type: Vec<String>,
    /// `detect`: any of these thresholds.
    pub detect: Vec<Detect>,
    /// `finding`: conditions such as `encrypted`, `malformed`, `over_budget`, `unread:*`.
    pub finding: Vec<String>,
}

/// `{ detector = "us_ssn", at_least = 2, score = 0.5 }`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Detect {
    /// A built-in detector or a pattern's name.
    pub detector: String,
    /// Distinct matches needed. Default 1.
    pub at_least: usize,
    /// Matches count from this score. Default 0.5.
    pub score: f32,
}

/// A field that the header must have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeaderCondition {
    /// Field name, without case.
    pub name: String,
    /// Text that its decoded body contains, without case; absent: the field's presence suffices.
    pub contains: Option<String>,
}

/// Which addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum AddressPattern {
    /// Any address (`*`).
    Any,
    /// Exactly this mailbox; compared without case.
    Exact(Address),
    /// `@example.org`: this domain and those below it.
    Within(Domain),
}

impl AddressPattern {
    /// Whether `address` is meant.
    #[must_use]
    pub fn matches(&self, address: &Address) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => {
                exact.domain() == address.domain() && exact.local().to_lowercase() == address.local().to_lowercase()
            }
            Self::Within(domain) => address.domain().is_within(domain),
        }
    }
}

impl Settings {
    /// The internal route that `domain` belongs to: the longest matching name.
    #[must_use]
    pub fn internal_route(&self, domain: &Domain) -> Option<&InternalRoute> {
        self.internal.iter().filter(|r| domain.is_within(&r.domain)).max_by_key(|r| r.domain.as_str().len())
    }
}

/// Names of the built-in detectors.
pub const DETECTORS: [&str; 8] =
    ["us_ssn", "credit_card", "iban", "us_aba", "uk_nhs", "us_npi", "medical", "credentials"];

/// Names of the conditions that a part's text can't show; `unread:<type>` besides.
pub const CONDITIONS: [&str; 3] = ["encrypted", "malformed", "over_budget"];

/// Bytes that one compiled [`Pattern`] may take. Whoever compiles it again must grant as much.
pub const PATTERN_SIZE_LIMIT: usize = 1024 * 1024;

/// Nesting depth that one [`Pattern`] may have.
pub const PATTERN_NEST_LIMIT: u32 = 50;
