//! The questions that set an appliance up.
//!
//! Job: lead through the pages forth and back, check each before the next, apply all at once, and end with a test
//! message. Place: a screen of the console; also asked again later, with what is in force. Invariants: nothing typed is
//! lost by an error, a way back, or a daemon that was restarted meanwhile; nothing is in force before the summary is
//! agreed to, but the recovery key, which must be there first. A crash loses what was typed.

use super::{
    draft::{Draft, FIXED, Name},
    event::{Effect, Key},
    field::{Field, Halves, next},
    recovery::Recovery,
};
use crate::{Refusal, Request, Response, Secret, machine::MachineAct, password, view::TestReport};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use zeroize::Zeroizing;

/// The pages in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    Network,
    Time,
    Mail,
    Cloud,
    Administrator,
    Recovery,
    Enrolment,
    Summary,
    Apply,
    Test,
}

/// One thing that is done when the summary is agreed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub what: &'static str,
    pub state: StepState,
    pub request: Request,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepState {
    Waiting,
    Running,
    Done(String),
    Failed(Halves),
}

/// [`Step::what`] of what is looked for by it.
const CLOCK: &str = "Clock";
const SETTINGS: &str = "Settings";
pub const ENROLMENT: &str = "Enrolment";

/// Where the questions stand.
#[derive(Clone, Debug)]
pub struct Wizard {
    pub page: Page,
    /// The field that is typed into.
    pub at: usize,
    pub draft: Draft,
    /// Whether there were no settings before.
    pub first: bool,
    /// The revision that the answers began from; another in force means that somebody else has changed the settings.
    pub revision: u64,
    pub recovery: Recovery,
    /// Whether the recovery key was confirmed before, and is not asked about.
    recovery_settled: bool,
    /// Whether the appliance is enrolled already.
    enrolled: bool,
    /// What is wrong with the page as a whole.
    pub error: Option<Halves>,
    pub steps: Vec<Step>,
    pub recipient: Field,
    /// The test under way (`None` inside), or its result.
    pub tested: Option<Option<TestReport>>,
    /// Whether the password's hash is being made.
    hashing: bool,
}

/// Whether the wizard stays on the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Stay,
    /// To the status board; what is typed is kept.
    Aside,
    /// All is done.
    Finished,
}

impl Wizard {
    /// The first questions, or with `toml` the same again with what is in force.
    pub fn new(toml: Option<&str>, recovery_confirmed: bool, enrolled: bool, operator: Option<String>) -> Self {
        Self {
            page: Page::Network,
            at: 0,
            draft: Draft::new(toml),
            first: toml.is_none(),
            revision: 0,
            recovery: Recovery::Before(operator),
            recovery_settled: recovery_confirmed,
            enrolled,
            error: None,
            steps: Vec::new(),
            recipient: Field::text("Recipient", "you@example.org"),
            tested: None,
            hashing: false,
        }
    }

    /// The pages of this run.
    pub fn pages(&self) -> Vec<Page> {
        use Page::{Administrator, Apply, Cloud, Enrolment, Mail, Network, Recovery, Summary, Test, Time};
        let all = [Network, Time, Mail, Cloud, Administrator, Recovery, Enrolment, Summary, Apply, Test];
        let without_cloud = self.draft.value(Name::Cloud).is_empty() || self.enrolled;
        let left_out = |page: &Page| *page == Recovery && self.recovery_settled || *page == Enrolment && without_cloud;
        all.into_iter().filter(|page| !left_out(page)).collect()
    }

    /// The fields of the present page.
    pub fn names(&self) -> Vec<Name> {
        match self.page {
            Page::Network if self.draft.value(Name::Method) == FIXED => {
                vec![Name::Host, Name::Method, Name::Address, Name::Gateway, Name::Dns]
            }
            Page::Network => vec![Name::Host, Name::Method, Name::Dns],
            Page::Time if self.draft.value(Name::Ntp).is_empty() => vec![Name::Ntp, Name::Clock],
            Page::Time => vec![Name::Ntp],
            Page::Mail => vec![Name::NextHop, Name::Domains, Name::Internal, Name::Networks],
            Page::Cloud => vec![Name::Cloud, Name::CloudCa],
            Page::Administrator => vec![Name::Operator, Name::Password, Name::Again],
            Page::Enrolment => vec![Name::Code],
            Page::Recovery | Page::Summary | Page::Apply | Page::Test => Vec::new(),
        }
    }

    /// Name and password, as they were chosen here: after the first settings the same person goes on.
    pub fn sign_in(&self) -> Option<Request> {
        let password = self.draft.value(Name::Password);
        (!password.is_empty()).then(|| Request::SignIn {
            name: self.draft.value(Name::Operator).to_owned(),
            password: Secret::new(Zeroizing::new(password.to_owned())),
        })
    }

    /// Takes a key.
    pub fn key(&mut self, key: Key) -> (Vec<Effect>, Way) {
        // For less than a second: what is typed now would not be what the hash is of.
        if self.hashing {
            return (Vec::new(), Way::Stay);
        }
        match self.page {
            Page::Apply => self.key_while_applying(key),
            Page::Test => self.key_of_the_test(key),
            Page::Recovery if key == Key::Esc && self.recovery.back() => {
                self.error = None;
                (Vec::new(), Way::Stay)
            }
            Page::Recovery if key != Key::Esc => {
                if key == Key::Enter && matches!(self.recovery, Recovery::Done) {
                    self.step(1);
                    return (Vec::new(), Way::Stay);
                }
                (self.recovery.key(key, &mut self.error), Way::Stay)
            }
            _ => self.key_of_a_form(key),
        }
    }

    /// Whether the settings are in force: what is left is enrolment and test.
    pub fn in_force(&self) -> bool {
        self.steps.iter().any(|step| step.what == SETTINGS && matches!(step.state, StepState::Done(_)))
    }

    /// Whether what is drawn should not be read by who comes next.
    pub fn shows_secrets(&self) -> bool {
        match self.page {
            Page::Recovery => self.recovery.shows_secrets(),
            Page::Enrolment => true,
            _ => false,
        }
    }

    /// Whether it holds something that must not stay in memory while nobody is there.
    pub fn holds_secrets(&self) -> bool {
        self.recovery.holds_secrets() || self.draft.holds_secrets() || !self.steps.is_empty()
    }

    /// What is kept when whoever typed has left: the questions' answers, without secrets. Nothing where the settings are
    /// in force already.
    pub fn forgetting(mut self) -> Option<Self> {
        if self.in_force() {
            return None;
        }
        if self.draft.holds_secrets() {
            self.draft.forget_secrets();
            let pages = self.pages();
            let at = |of: Page| pages.iter().position(|page| *page == of);
            if at(self.page) > at(Page::Administrator) {
                self.page = Page::Administrator;
            }
        }
        if matches!(self.page, Page::Apply | Page::Test) {
            self.page = Page::Summary;
        }
        self.recovery.forget();
        self.steps.clear();
        (self.at, self.error, self.tested, self.hashing) = (0, None, None, false);
        Some(self)
    }

    fn key_of_a_form(&mut self, key: Key) -> (Vec<Effect>, Way) {
        let names = self.names();
        let last = self.at + 1 >= names.len();
        match key {
            Key::Esc if self.page == Page::Network => return (Vec::new(), Way::Aside),
            Key::Esc => self.step(-1),
            Key::PageUp if self.page != Page::Network => self.step(-1),
            Key::Enter if last => return (self.go_on(), Way::Stay),
            Key::PageDown => return (self.go_on(), Way::Stay),
            key => {
                let name = names.get(self.at).copied();
                if name.is_some_and(|name| self.draft.field_mut(name).take(key)) {
                    self.typed(name);
                } else if matches!(key, Key::Enter | Key::Tab | Key::Down | Key::Up | Key::BackTab) {
                    self.leave(name);
                    self.at = next(self.at, names.len(), key);
                }
            }
        }
        (Vec::new(), Way::Stay)
    }

    fn typed(&mut self, name: Option<Name>) {
        self.error = None;
        if matches!(name, Some(Name::Password)) {
            self.draft.hash = None;
        }
    }

    /// A mail server that is known by its address is the first that may hand in mail.
    fn leave(&mut self, name: Option<Name>) {
        if name == Some(Name::Internal) && self.draft.value(Name::Networks).is_empty() {
            let host = self.draft.value(Name::Internal).rsplit_once(':').map(|(host, _)| host.trim_matches(['[', ']']));
            if let Some(host) = host.filter(|host| host.parse::<std::net::IpAddr>().is_ok()).map(str::to_owned) {
                self.draft.field_mut(Name::Networks).set(&host);
            }
        }
    }

    /// Checks the page, then shows the next.
    fn go_on(&mut self) -> Vec<Effect> {
        let names = self.names();
        self.leave(names.get(self.at).copied());
        let mut problems = self.draft.problems(&names);
        problems.extend(self.own_problems(&names));
        if let Some((name, _)) = problems.first() {
            self.at = names.iter().position(|of| of == name).unwrap_or(0);
            for (name, halves) in problems {
                self.draft.field_mut(name).error = Some(halves);
            }
            return Vec::new();
        }
        if self.page == Page::Administrator && self.draft.hash.is_none() && self.sign_in().is_some() {
            self.hashing = true;
            return vec![Effect::Hash(Secret::new(Zeroizing::new(self.draft.value(Name::Password).to_owned())))];
        }
        self.step(1);
        if self.page == Page::Apply { self.begin() } else { Vec::new() }
    }

    /// What the settings' own checks can't see.
    fn own_problems(&self, names: &[Name]) -> Vec<(Name, Halves)> {
        let mut found = Vec::new();
        let value = |name| self.draft.value(name);
        if names.contains(&Name::Clock) && !value(Name::Clock).is_empty() && clock(value(Name::Clock)).is_none() {
            found.push((Name::Clock, Halves::new("this is not a time", "write it as 2026-02-03 04:05, in UTC")));
        }
        if names.contains(&Name::Domains) && value(Name::Domains).is_empty() != value(Name::Internal).is_empty() {
            let missing = if value(Name::Domains).is_empty() { Name::Domains } else { Name::Internal };
            let halves = Halves::new("domains and their mail server belong together", "fill in both, or neither");
            found.push((missing, halves));
        }
        if names.contains(&Name::Password) {
            let (password, needed) = (value(Name::Password), !self.draft.has_operators());
            if (needed || !password.is_empty()) && password::strength(password) == 0 {
                let halves = Halves::new(
                    "this password would be guessed too soon",
                    format!(
                        "at least {} characters, not one after the other: some words in a row do",
                        password::SHORTEST
                    ),
                );
                found.push((Name::Password, halves));
            } else if password != value(Name::Again) {
                found.push((Name::Again, Halves::new("the two differ", "type the same password twice")));
            }
            if needed && value(Name::Operator).is_empty() {
                found.push((Name::Operator, Halves::new("there is no name", "write one, for example \"admin\"")));
            }
        }
        found
    }

    /// The next page, or the one before.
    fn step(&mut self, by: isize) {
        let pages = self.pages();
        let at = pages.iter().position(|page| *page == self.page).unwrap_or(0);
        if let Some(page) = at.checked_add_signed(by).and_then(|at| pages.get(at)) {
            (self.page, self.at, self.error) = (*page, 0, None);
        }
    }

    /// The password's hash is made, or could not be.
    pub fn hashed(&mut self, hash: Option<String>) {
        if !std::mem::take(&mut self.hashing) {
            return;
        }
        match hash {
            Some(hash) => {
                self.draft.hash = Some(hash);
                // The name is checked with the whole entry, which exists only now.
                let problems = self.draft.problems(&[Name::Operator, Name::Password]);
                if problems.is_empty() {
                    self.step(1);
                }
                for (name, halves) in problems {
                    self.draft.field_mut(name).error = Some(halves);
                }
            }
            None => self.error = Some(Halves::new("the system gives no random numbers", "restart the appliance")),
        }
    }

    fn begin(&mut self) -> Vec<Effect> {
        let step = |what, request| Step { what, state: StepState::Waiting, request };
        self.steps.clear();
        if let (true, Some(at)) = (self.draft.value(Name::Ntp).is_empty(), clock(self.draft.value(Name::Clock))) {
            self.steps.push(step(CLOCK, Request::Machine(MachineAct::SetTime { at })));
        }
        self.steps.push(step(SETTINGS, Request::SettingsApply { text: self.draft.toml() }));
        let code = self.draft.value(Name::Code);
        if !code.is_empty() && self.pages().contains(&Page::Enrolment) {
            let code = Secret::new(Zeroizing::new(code.to_owned()));
            self.steps.push(step(ENROLMENT, Request::Enrol { code }));
        }
        self.run()
    }

    /// Begins the first step that is not done; after the last the test is asked about.
    fn run(&mut self) -> Vec<Effect> {
        let undone = self.steps.iter_mut().find(|step| !matches!(step.state, StepState::Done(_)));
        let Some(step) = undone else {
            self.step(1);
            return Vec::new();
        };
        step.state = StepState::Running;
        vec![Effect::ask(step.request.clone())]
    }

    fn key_while_applying(&mut self, key: Key) -> (Vec<Effect>, Way) {
        let failed = self.steps.iter().find(|step| matches!(step.state, StepState::Failed(_)));
        let in_force = self.in_force();
        match (key, failed) {
            (Key::Enter, Some(_)) => (self.run(), Way::Stay),
            (Key::Esc, _) => {
                self.page = Page::Summary;
                (Vec::new(), Way::Stay)
            }
            (Key::Tab | Key::PageDown, Some(_)) if in_force => {
                self.step(1);
                (Vec::new(), Way::Stay)
            }
            _ => (Vec::new(), Way::Stay),
        }
    }

    fn key_of_the_test(&mut self, key: Key) -> (Vec<Effect>, Way) {
        if self.tested == Some(None) {
            return (Vec::new(), Way::Stay);
        }
        match key {
            Key::Esc => return (Vec::new(), Way::Finished),
            // A test that fails is a reason to look at the answers again.
            Key::PageUp => (self.page, self.at, self.error) = (Page::Mail, 0, None),
            Key::Enter => match self.recipient.value().parse() {
                Ok(recipient) => {
                    (self.tested, self.error) = (Some(None), None);
                    return (vec![Effect::ask(Request::TestMail { recipient })], Way::Stay);
                }
                Err(_) => {
                    let halves =
                        Halves::new("this is not a mail address", "write one, for example \"you@example.org\"");
                    self.recipient.error = Some(halves);
                }
            },
            key => {
                if self.recipient.take(key) {
                    self.error = None;
                }
            }
        }
        (Vec::new(), Way::Stay)
    }

    /// Takes the daemon's answer to one of the wizard's requests.
    pub fn answer(&mut self, result: Result<Response, Refusal>) -> Vec<Effect> {
        match (self.page, result) {
            (Page::Recovery, result) => {
                let effects = self.recovery.answer(result, &mut self.error);
                if matches!(self.recovery, Recovery::Done) {
                    self.step(1);
                }
                effects
            }
            (Page::Test, Ok(Response::Tested(report))) => {
                self.tested = Some(Some(report));
                Vec::new()
            }
            (Page::Test, Err(refusal)) => {
                (self.tested, self.error) = (None, Some(refusal.into()));
                Vec::new()
            }
            (Page::Apply, Ok(response)) => {
                let told = match response {
                    Response::Applied(report) => {
                        self.revision = report.revision;
                        format!("revision {} is in force", report.revision)
                    }
                    // What was now is not now when all is applied once more.
                    Response::Machine { .. } => {
                        self.draft.field_mut(Name::Clock).set("");
                        "set".to_owned()
                    }
                    Response::Enrolled(enrolment) => format!("{} of {}", enrolment.appliance, enrolment.tenant),
                    _ => "done".to_owned(),
                };
                self.finish_step(StepState::Done(told));
                self.run()
            }
            (Page::Apply, Err(refusal)) => {
                self.fail(refusal);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn finish_step(&mut self, state: StepState) {
        if let Some(step) = self.steps.iter_mut().find(|step| step.state == StepState::Running) {
            step.state = state;
        }
    }

    /// Shows each error beside its field, on the first page that has one.
    fn fail(&mut self, refusal: Refusal) {
        let mut first: Option<Name> = None;
        for problem in &refusal.problems {
            if let Some(name) = self.draft.place(problem) {
                self.draft.field_mut(name).error = Some(Halves::new(&problem.what, &problem.remedy));
                first.get_or_insert(name);
            }
        }
        self.finish_step(StepState::Failed(refusal.into()));
        let Some(name) = first else { return };
        for page in [Page::Network, Page::Time, Page::Mail, Page::Cloud, Page::Administrator] {
            self.page = page;
            if let Some(at) = self.names().iter().position(|of| *of == name) {
                self.at = at;
                return;
            }
        }
        self.page = Page::Apply;
    }
}

/// A time as people write it, in UTC.
pub fn clock(text: &str) -> Option<Timestamp> {
    let text = text.trim().trim_end_matches('Z');
    let time: DateTime = text.parse().or_else(|_| format!("{text}:00").parse()).ok()?;
    time.to_zoned(TimeZone::UTC).ok().map(|time| time.timestamp())
}
