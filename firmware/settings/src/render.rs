//! Settings as text.
//!
//! Job: write settings in one canonical form, every key that has a value, so that two equal settings give equal texts
//! and `parse` gives the same settings back. Place: `settings show`, and under the comparison of revisions. Invariants:
//! `parse(s.to_toml()) == s`. A crash leaves nothing behind.

use crate::{
    AddressPattern, Conditions, HostPort, InternalRoute, Network, Operator, Pattern, RelayTls, Role, Roots, Rule,
    Settings, Undecidable, operators::UNCHANGED, sections::MIB,
};
use mail::Action;
use std::{
    fmt::{self, Display, Write},
    net::{IpAddr, Ipv6Addr},
    path::Path,
};

impl Settings {
    /// The settings in canonical TOML: sections in a fixed order, defaults written out, no comments.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        // Writing to a String can't fail.
        let _ = write_settings(&mut out, self);
        out
    }
}

fn write_settings(out: &mut String, settings: &Settings) -> fmt::Result {
    let intake = &settings.intake;
    writeln!(out, "[host]\nname = {}", quote(settings.host.name.as_str()))?;

    if let Some(network) = &settings.network {
        writeln!(out, "\n[network]\naddress = {}", quote(&network.address.to_string()))?;
        if let Some(gateway) = &network.gateway {
            writeln!(out, "gateway = {}", quote(&gateway.to_string()))?;
        }
        if !network.dns.is_empty() {
            writeln!(out, "dns = {}", list(&network.dns))?;
        }
        if !network.ntp.is_empty() {
            writeln!(out, "ntp = {}", list(&network.ntp))?;
        }
    }

    for Operator { name, role, password } in &settings.operators {
        let role = Role::WORDS.iter().find(|(_, known)| known == role).map_or("", |(word, _)| *word);
        writeln!(out, "\n[[operators]]\nname = {}\nrole = {}", quote(name), quote(role))?;
        writeln!(out, "password = {}", quote(password.as_deref().unwrap_or(UNCHANGED)))?;
    }

    writeln!(out, "\n[intake]")?;
    writeln!(out, "listen = {}", list(&intake.listen))?;
    writeln!(out, "networks = {}", list(&intake.networks))?;
    writeln!(out, "max_message_mib = {}", intake.max_message_bytes / MIB)?;
    writeln!(out, "max_recipients = {}", intake.max_recipients)?;
    writeln!(out, "max_sessions = {}", intake.max_sessions)?;
    writeln!(out, "max_sessions_per_client = {}", intake.max_sessions_per_client)?;
    if let Some(tls) = &intake.tls {
        writeln!(out, "tls = {{ certificate = {}, key = {} }}", path(&tls.certificate), path(&tls.key))?;
    }

    let relay = &settings.relay;
    writeln!(out, "\n[relay]\nsmarthost = {}", quote(&relay.smarthost.to_string()))?;
    writeln!(out, "tls = \"{}\"\nmax_connections = {}", tls_word(relay.tls), relay.max_connections)?;
    if let Some(ca) = &relay.ca {
        writeln!(out, "ca = {}", roots(ca))?;
    }

    for InternalRoute { domain, server, tls } in &settings.internal {
        writeln!(out, "\n[[internal]]\ndomain = {}", quote(domain.as_str()))?;
        writeln!(out, "server = {}\ntls = \"{}\"", quote(&server.to_string()), tls_word(*tls))?;
    }

    if let Some(cloud) = &settings.cloud {
        writeln!(out, "\n[cloud]\nurl = {}", quote(&cloud.url))?;
        if let Some(ca) = &cloud.ca {
            writeln!(out, "ca = {}", roots(ca))?;
        }
        writeln!(out, "max_connections = {}", cloud.max_connections)?;
    }

    let retry = &settings.retry;
    writeln!(out, "\n[retry]\nfirst_seconds = {}", retry.first.as_secs())?;
    writeln!(out, "longest_seconds = {}", retry.longest.as_secs())?;
    writeln!(out, "give_up_hours = {}", retry.give_up.as_secs() / 3_600)?;

    let spool = &settings.spool;
    writeln!(out, "\n[spool]\nmemory_mib = {}", spool.memory_bytes / MIB)?;
    writeln!(out, "reserve_mib = {}\nsegment_mib = {}", spool.reserve_bytes / MIB, spool.segment_bytes / MIB)?;

    let undecidable = match settings.policy.undecidable {
        Undecidable::Secure => "secure",
        Undecidable::Hold => "hold",
        Undecidable::Reject => "reject",
    };
    writeln!(out, "\n[policy]\nundecidable = \"{undecidable}\"")?;
    settings.policy.patterns.iter().try_for_each(|pattern| write_pattern(out, pattern))?;
    settings.policy.rules.iter().try_for_each(|rule| write_rule(out, rule))
}

fn write_pattern(out: &mut String, pattern: &Pattern) -> fmt::Result {
    writeln!(out, "\n[[policy.pattern]]\nname = {}\nregex = {}", quote(&pattern.name), quote(&pattern.regex))?;
    if !pattern.context.is_empty() {
        writeln!(out, "context = {}", list(&pattern.context))?;
    }
    writeln!(out, "score = {:?}", pattern.score)
}

fn write_rule(out: &mut String, rule: &Rule) -> fmt::Result {
    writeln!(out, "\n[[policy.rule]]\nname = {}", quote(&rule.name))?;
    writeln!(out, "when = {}", conditions(&rule.when))?;
    if let Some(action) = rule.action {
        let word = match action {
            Action::Relay => "relay",
            Action::Secure => "secure",
            Action::Hold => "hold",
            Action::Reject => "reject",
        };
        writeln!(out, "action = \"{word}\"")?;
    }
    if let Some(text) = &rule.text {
        writeln!(out, "text = {}", quote(text))?;
    }
    if let Some(tag) = &rule.tag {
        writeln!(out, "tag = {{ header = {}, value = {} }}", quote(&tag.header), quote(&tag.value))?;
    }
    Ok(())
}

fn conditions(when: &Conditions) -> String {
    let mut fields = Vec::new();
    let mut texts = |key: &str, texts: String| {
        if texts != "[]" {
            fields.push(format!("{key} = {texts}"));
        }
    };
    texts("sender", list(&when.sender));
    texts("recipient", list(&when.recipient));
    if let Some(external) = when.external {
        texts("external", external.to_string());
    }
    let headers = when.header.iter().map(|header| match &header.contains {
        Some(contains) => format!("{{ name = {}, contains = {} }}", quote(&header.name), quote(contains)),
        None => format!("{{ name = {} }}", quote(&header.name)),
    });
    texts("header", bracketed(headers));
    texts("subject_tag", list(&when.subject_tag));
    texts("sensitivity", list(&when.sensitivity));
    if let Some(bytes) = when.larger_than_bytes {
        // Exact: a power of two divides without rounding.
        #[expect(clippy::cast_precision_loss, reason = "at most 2^30")]
        let mib = bytes as f64 / MIB as f64;
        texts("larger_than_mib", mib.to_string());
    }
    texts("attachment_name", list(&when.attachment_name));
    texts("attachment_type", list(&when.attachment_type));
    let detects = when.detect.iter().map(|detect| {
        format!(
            "{{ detector = {}, at_least = {}, score = {:?} }}",
            quote(&detect.detector),
            detect.at_least,
            detect.score
        )
    });
    texts("detect", bracketed(detects));
    texts("finding", list(&when.finding));
    if fields.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", fields.join(", ")) }
}

fn tls_word(tls: RelayTls) -> &'static str {
    match tls {
        RelayTls::None => "none",
        RelayTls::Opportunistic => "opportunistic",
        RelayTls::Verified => "verified",
    }
}

fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn roots(roots: &Roots) -> String {
    match roots {
        Roots::File(file) => path(file),
        Roots::Text(text) => quote(text),
    }
}

fn path(path: &Path) -> String {
    quote(&path.to_string_lossy())
}

fn bracketed(entries: impl Iterator<Item = String>) -> String {
    format!("[{}]", entries.collect::<Vec<_>>().join(", "))
}

fn list<T: Display>(values: &[T]) -> String {
    bracketed(values.iter().map(|value| quote(&value.to_string())))
}

impl Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.parse::<Ipv6Addr>().is_ok() {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = match self.address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        if self.prefix == width { self.address.fmt(f) } else { write!(f, "{}/{}", self.address, self.prefix) }
    }
}

impl Display for AddressPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(address) => address.fmt(f),
            Self::Within(domain) => write!(f, "@{domain}"),
        }
    }
}
