//! What the wizard has been told, as settings.
//!
//! Job: the wizard's fields, what stands in them at first, the settings text that they make, and which field an error of
//! that text belongs to. Place: under the wizard; the daemon checks the text again. Invariants: what the wizard does not
//! ask about stays as it is in the settings that it began from. A crash loses what was typed and not applied.

use super::field::{Field, Halves};
use settings::Problem;
use toml::{Table, Value};

/// Every field of the wizard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    Host,
    Method,
    Address,
    Gateway,
    Dns,
    Ntp,
    Clock,
    NextHop,
    Domains,
    Internal,
    Networks,
    Cloud,
    CloudCa,
    Operator,
    Password,
    Again,
    Code,
}

/// Values of [`Name::Method`].
pub const DHCP: &str = "DHCP";
pub const FIXED: &str = "fixed address";
pub const UNTOUCHED: &str = "leave as it is";

const FIELDS: [Name; 17] = [
    Name::Host,
    Name::Method,
    Name::Address,
    Name::Gateway,
    Name::Dns,
    Name::Ntp,
    Name::Clock,
    Name::NextHop,
    Name::Domains,
    Name::Internal,
    Name::Networks,
    Name::Cloud,
    Name::CloudCa,
    Name::Operator,
    Name::Password,
    Name::Again,
    Name::Code,
];

/// What must not stay when nobody is there any more.
const SECRETS: [Name; 3] = [Name::Password, Name::Again, Name::Code];

/// Stand in for what a later page asks, so that a page can be checked by itself.
const LATER: [(Name, &str); 3] =
    [(Name::Host, "later.invalid"), (Name::NextHop, "later.invalid:25"), (Name::Networks, "192.0.2.1")];

/// All fields, and the settings that they began from.
#[derive(Clone, Debug)]
pub struct Draft {
    fields: Vec<(Name, Field)>,
    base: Table,
    /// The internal server as it was at first: domains that had it follow its change.
    server_before: String,
    /// The Argon2id hash of the password.
    pub hash: Option<String>,
}

impl Draft {
    /// A draft that begins from the settings in force, or from nothing.
    pub fn new(toml: Option<&str>) -> Self {
        let base: Table = toml.and_then(|toml| toml.parse().ok()).unwrap_or_default();
        let mut draft = Self { fields: Vec::new(), base, server_before: String::new(), hash: None };
        draft.fields = FIELDS.map(|name| (name, blank(name))).into();
        draft.fill(toml.is_none());
        draft
    }

    fn fill(&mut self, first: bool) {
        let text = |path: &[&str]| -> String {
            let mut value = self.base.get(path.first().copied().unwrap_or_default());
            for key in path.iter().skip(1) {
                value = value.and_then(|value| value.get(key));
            }
            match value {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
                _ => String::new(),
            }
        };
        let internal: Vec<&Table> = self
            .base
            .get("internal")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_table)
            .collect();
        let of = |table: &Table, key: &str| table.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let operators = self.base.get("operators").and_then(Value::as_array);
        let operator = operators.and_then(|list| list.first()).and_then(Value::as_table);
        let address = text(&["network", "address"]);
        let method = match address.as_str() {
            "dhcp" => DHCP,
            "" if first => DHCP,
            "" => UNTOUCHED,
            _ => FIXED,
        };
        let server = internal.first().map(|table| of(table, "server")).unwrap_or_default();
        let values = [
            (Name::Host, text(&["host", "name"])),
            (Name::Method, method.to_owned()),
            (Name::Address, if method == FIXED { address } else { String::new() }),
            (Name::Gateway, text(&["network", "gateway"])),
            (Name::Dns, text(&["network", "dns"])),
            (Name::Ntp, if first { "pool.ntp.org".to_owned() } else { text(&["network", "ntp"]) }),
            (Name::NextHop, text(&["relay", "smarthost"])),
            (Name::Domains, internal.iter().map(|table| of(table, "domain")).collect::<Vec<_>>().join(", ")),
            (Name::Internal, server.clone()),
            (Name::Networks, text(&["intake", "networks"])),
            (Name::Cloud, text(&["cloud", "url"])),
            (Name::CloudCa, text(&["cloud", "ca"])),
            (Name::Operator, operator.map_or("admin".to_owned(), |table| of(table, "name"))),
        ];
        self.server_before = server;
        for (name, value) in values {
            self.field_mut(name).set(&value);
        }
    }

    pub fn field(&self, name: Name) -> &Field {
        // Every name has its field, in the order of the names.
        self.fields.iter().find(|(of, _)| *of == name).map_or_else(|| unreachable!("{name:?} has a field"), |(_, f)| f)
    }

    pub fn field_mut(&mut self, name: Name) -> &mut Field {
        let found = self.fields.iter_mut().find(|(of, _)| *of == name);
        found.map_or_else(|| unreachable!("{name:?} has a field"), |(_, field)| field)
    }

    pub fn value(&self, name: Name) -> &str {
        self.field(name).value()
    }

    /// Whether operators stood in the settings already: their passwords may stay.
    pub fn has_operators(&self) -> bool {
        self.base.get("operators").and_then(Value::as_array).is_some_and(|list| !list.is_empty())
    }

    /// Whether a password or code was typed.
    pub fn holds_secrets(&self) -> bool {
        self.hash.is_some() || SECRETS.iter().any(|name| !self.value(*name).is_empty())
    }

    /// Lets go of them.
    pub fn forget_secrets(&mut self) {
        self.hash = None;
        for name in SECRETS {
            self.field_mut(name).set("");
        }
    }

    /// The settings text.
    pub fn toml(&self) -> String {
        self.text(|name| self.value(name).to_owned())
    }

    /// What is wrong in the fields `here`; what later pages ask for is taken to be right.
    pub fn problems(&self, here: &[Name]) -> Vec<(Name, Halves)> {
        let text = self.text(|name| {
            let (value, later) = (self.value(name), LATER.iter().find(|(of, _)| *of == name));
            match later {
                Some((_, later)) if !here.contains(&name) && value.is_empty() => (*later).to_owned(),
                _ => value.to_owned(),
            }
        });
        let problems = settings::parse(&text).err().unwrap_or_default();
        let mut found: Vec<(Name, Halves)> = Vec::new();
        for problem in problems {
            if let Some(name) = self.place(&problem).filter(|name| here.contains(name))
                && !found.iter().any(|(known, _)| *known == name)
            {
                found.push((name, Halves::new(problem.what, problem.remedy)));
            }
        }
        found
    }

    /// The field that an error belongs to.
    pub fn place(&self, problem: &Problem) -> Option<Name> {
        let path: String = problem.path.chars().filter(|c| !c.is_ascii_digit() && !matches!(c, '[' | ']')).collect();
        Some(match path.as_str() {
            "host" | "host.name" => Name::Host,
            "network" | "network.address" => Name::Address,
            "network.gateway" => Name::Gateway,
            "network.dns" => Name::Dns,
            "network.ntp" => Name::Ntp,
            "relay" | "relay.smarthost" => Name::NextHop,
            "internal.domain" => Name::Domains,
            "internal" | "internal.server" => Name::Internal,
            "intake" | "intake.networks" => Name::Networks,
            "cloud" | "cloud.url" => Name::Cloud,
            "cloud.ca" => Name::CloudCa,
            "operators.name" => Name::Operator,
            "operators" | "operators.password" => Name::Password,
            _ => return None,
        })
    }

    fn text(&self, value: impl Fn(Name) -> String) -> String {
        let list = |name: Name| -> Value {
            let text = value(name);
            let parts = text.split([',', ' ']).filter(|part| !part.is_empty());
            Value::Array(parts.map(|part| Value::String(part.to_owned())).collect())
        };
        let mut root = self.base.clone();
        section(&mut root, "host").insert("name".into(), Value::String(value(Name::Host)));
        self.network(&mut root, &value, &list);
        section(&mut root, "relay").insert("smarthost".into(), Value::String(value(Name::NextHop)));
        section(&mut root, "intake").insert("networks".into(), list(Name::Networks));
        self.internal(&mut root, &value);
        if value(Name::Cloud).is_empty() {
            root.remove("cloud");
        } else {
            let cloud = section(&mut root, "cloud");
            cloud.insert("url".into(), Value::String(value(Name::Cloud)));
            put(cloud, "ca", value(Name::CloudCa));
        }
        self.operators(&mut root, &value);
        // A table of texts, numbers and lists has a text; an empty one would be refused.
        toml::to_string(&root).unwrap_or_default()
    }

    fn network(&self, root: &mut Table, value: &impl Fn(Name) -> String, list: &impl Fn(Name) -> Value) {
        let method = value(Name::Method);
        if method == UNTOUCHED {
            root.remove("network");
            return;
        }
        let network = section(root, "network");
        let fixed = method == FIXED;
        network.insert("address".into(), Value::String(if fixed { value(Name::Address) } else { "dhcp".into() }));
        put(network, "gateway", if fixed { value(Name::Gateway) } else { String::new() });
        for (key, name) in [("dns", Name::Dns), ("ntp", Name::Ntp)] {
            network.remove(key);
            if !value(name).is_empty() {
                network.insert(key.into(), list(name));
            }
        }
    }

    fn internal(&self, root: &mut Table, value: &impl Fn(Name) -> String) {
        let before = root.remove("internal").and_then(|value| value.as_array().cloned()).unwrap_or_default();
        let server = value(Name::Internal);
        let routes: Vec<Value> = value(Name::Domains)
            .split([',', ' '])
            .filter(|domain| !domain.is_empty())
            .map(|domain| {
                let known = before.iter().filter_map(Value::as_table);
                let known = known.into_iter().find(|t| t.get("domain").and_then(Value::as_str) == Some(domain));
                let mut route = known.cloned().unwrap_or_default();
                let own = route.get("server").and_then(Value::as_str).is_some_and(|own| own != self.server_before);
                route.insert("domain".into(), Value::String(domain.to_owned()));
                if !own {
                    route.insert("server".into(), Value::String(server.clone()));
                }
                Value::Table(route)
            })
            .collect();
        if !routes.is_empty() {
            root.insert("internal".into(), Value::Array(routes));
        }
    }

    fn operators(&self, root: &mut Table, value: &impl Fn(Name) -> String) {
        let name = value(Name::Operator);
        let mut operators = root.remove("operators").and_then(|value| value.as_array().cloned()).unwrap_or_default();
        let password = |table: &mut Table| {
            if let Some(hash) = &self.hash {
                table.insert("password".into(), Value::String(hash.clone()));
            }
        };
        let named = |value: &&mut Value| value.get("name").and_then(Value::as_str) == Some(name.as_str());
        if let Some(known) = operators.iter_mut().find(named).and_then(Value::as_table_mut) {
            password(known);
        } else if let (false, Some(_)) = (name.is_empty(), &self.hash) {
            let mut table = Table::new();
            table.insert("name".into(), Value::String(name));
            table.insert("role".into(), Value::String("administrator".into()));
            password(&mut table);
            operators.push(Value::Table(table));
        }
        if !operators.is_empty() {
            root.insert("operators".into(), Value::Array(operators));
        }
    }
}

fn section<'t>(root: &'t mut Table, key: &str) -> &'t mut Table {
    if !root.get(key).is_some_and(Value::is_table) {
        root.insert(key.to_owned(), Value::Table(Table::new()));
    }
    root.get_mut(key).and_then(Value::as_table_mut).unwrap_or_else(|| unreachable!("it was made just now"))
}

/// Sets a text, or removes an empty one.
fn put(table: &mut Table, key: &str, value: String) {
    if value.is_empty() {
        table.remove(key);
    } else {
        table.insert(key.to_owned(), Value::String(value));
    }
}

fn blank(name: Name) -> Field {
    match name {
        Name::Host => Field::text("Host name", "postern.example.org"),
        Name::Method => Field::choice("Network", &[DHCP, FIXED, UNTOUCHED]),
        Name::Address => Field::text("Address", "192.0.2.10/24"),
        Name::Gateway => Field::text("Gateway", "192.0.2.1"),
        Name::Dns => Field::text("Name servers", "192.0.2.53, 192.0.2.54"),
        Name::Ntp => Field::text("Time servers", "ntp.example.org"),
        Name::Clock => Field::text("Clock (UTC)", "2026-02-03 04:05 (empty: leave it)"),
        Name::NextHop => Field::text("Next hop", "mx.example.net:25"),
        Name::Domains => Field::text("Own domains", "example.org, example.com"),
        Name::Internal => Field::text("Their mail server", "mail.example.org:25"),
        Name::Networks => Field::text("May hand in mail", "192.0.2.20, 198.51.100.0/28"),
        Name::Cloud => Field::text("Cloud service", "https://cloud.example.net (empty: none)"),
        Name::CloudCa => Field::text("Its CA", "(a file's path or PEM text; empty: the public ones)"),
        Name::Operator => Field::text("Name", "admin"),
        Name::Password => Field::secret("Password"),
        Name::Again => Field::secret("Once more"),
        Name::Code => Field::text("One-time code", "(empty: enrol later)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> Draft {
        let mut draft = Draft::new(None);
        for (name, value) in [
            (Name::Host, "postern.clinic.example"),
            (Name::Method, FIXED),
            (Name::Address, "192.0.2.10/24"),
            (Name::Gateway, "192.0.2.1"),
            (Name::Dns, "192.0.2.53 192.0.2.54"),
            (Name::NextHop, "mx.example.net:25"),
            (Name::Domains, "clinic.example, lab.clinic.example"),
            (Name::Internal, "192.0.2.20:25"),
            (Name::Networks, "192.0.2.20"),
            (Name::Cloud, "https://cloud.example.net"),
        ] {
            draft.field_mut(name).set(value);
        }
        draft.hash = Some(format!("$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l${}", "A".repeat(43)));
        draft
    }

    #[test]
    fn answers_become_settings_that_are_good() {
        let settings = settings::parse(&filled().toml()).unwrap_or_else(|problems| panic!("{problems:?}"));
        assert_eq!(settings.internal.len(), 2);
        assert_eq!(settings.operators[0].name, "admin");
        let network = settings.network.unwrap();
        assert_eq!((network.dns.len(), network.ntp.len(), network.gateway.is_some()), (2, 1, true));
    }

    #[test]
    fn what_is_not_asked_about_stays() {
        let rule = "\n[[policy.rule]]\nname = \"kept\"\nwhen = { external = true }\naction = \"hold\"\n";
        let before = settings::parse(&(filled().toml() + rule)).unwrap();
        let mut again = Draft::new(Some(&before.without_secrets().to_toml()));
        assert_eq!(again.value(Name::Address), "192.0.2.10/24");
        assert_eq!(again.value(Name::Domains), "clinic.example, lab.clinic.example");
        let same = settings::with_passwords_of(&before, again.toml());
        assert_eq!(settings::parse(&same).unwrap(), before, "{same}");
        again.field_mut(Name::Internal).set("192.0.2.30:25");
        again.field_mut(Name::Method).set(DHCP);
        let changed = settings::parse(&settings::with_passwords_of(&before, again.toml())).unwrap();
        assert_eq!((changed.policy.clone(), changed.operators.clone()), (before.policy, before.operators));
        assert!(changed.internal.iter().all(|route| route.server.host == "192.0.2.30"));
        assert!(changed.network.unwrap().gateway.is_none(), "DHCP brings its own");
    }

    #[test]
    fn a_page_is_told_its_own_errors_beside_their_fields() {
        let mut draft = Draft::new(None);
        draft.field_mut(Name::Host).set("postern");
        draft.field_mut(Name::Method).set(FIXED);
        draft.field_mut(Name::Address).set("192.0.2.300/24");
        let problems = draft.problems(&[Name::Host, Name::Method, Name::Address]);
        let names: Vec<Name> = problems.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, [Name::Host, Name::Address], "{problems:?}");
        assert!(problems.iter().all(|(_, halves)| !halves.remedy.is_empty()));
        assert_eq!(draft.problems(&[Name::NextHop]).len(), 1, "what is required must be there");
    }
}
